"""DEFT for backbones: an SE(3)-equivariant h beside a frozen prior.

In the units of the denoised mean, with c = sigma / sqrt(alpha^2 + sigma^2),

    x̂ += c N1 + (n2(t) + gate) g̃,    g̃ = rho^2 / (rho^2 + sigma_y^2) (y - A x̂),

rho^2 what the prior leaves open (`DEFT.calibrate`). N1 answers with a vector at each residue, the gate with a number.
Both see x̂ with the motif put in (each motif moved onto the centroid of its own residues in x̂), how far it was moved,
and the noise in x_t. What a network sees are distances and components in local frames, so that h turns as (x_t, y) do.
Frames are right-handed: a mirrored motif is another motif.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.domains.protein.geometry import centred, coordinates, full_precision, residues
from deft.domains.protein.motif import Motif
from deft.domains.protein.network import POSITIONS, Stage, View, places
from deft.errors import ContractError
from deft.learned.base import report_size, widest
from deft.learned.deft import Calibrated, Multiplier
from deft.likelihood.gaussian import gaussian
from deft.nn.embed import Sinusoid, zero
from deft.runtime.messages import old_messages

HEADS, PAIR_WIDTH = 4, 16
GIVEN = 4
"""Numbers given at each residue (`Seen.given`)."""
LOWEST = -5.0
"""log(sigma/alpha) below which the networks are given this."""


class MotifNet(nn.Module):
    """N1 and the gate: a stage that looks at a chain with the motif put in. Zero at first."""

    def __init__(self, width: int, blocks: int = 1):
        super().__init__()
        emb = width // 2
        self.embed = nn.Sequential(Sinusoid(32), nn.Linear(32, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.place = Sinusoid(POSITIONS, low=0.01, high=1.5)
        self.inlet, self.level = nn.Linear(2 * POSITIONS + GIVEN, width), nn.Linear(emb, width)
        self.stage = Stage(width, blocks, HEADS, PAIR_WIDTH, emb, offsets=2)
        self.gate = zero(nn.Linear(width, 1))

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [B, L, 3], the gate [B, L] and the tokens [B, L, width]."""
        own, place = self.inlet.weight.dtype, places(self.place, seen.real)
        e = self.embed(seen.time.to(own))
        z = self.inlet(torch.cat([place, seen.given().to(place)], -1).to(own)) + self.level(e)[:, None]
        z, vectors = self.stage(z, e, seen.view())
        return vectors, self.gate(z)[..., 0], z


class Seen:
    """A mean m [B, L, 3] and the motif, as networks are shown them: in the gauge of m, and equivariant.

    r = y - A m; g = rho^2 / (rho^2 + sigma_y^2) r, rho^2 what m leaves open.
    """

    def __init__(self, pred: Prediction, m: Tensor, obs: Observation, rho2: Tensor):
        like = gaussian(obs, "an h of backbones")
        operator = like.operator
        if not isinstance(operator, Motif):
            raise ContractError(f"an h of backbones is for motifs, got {like.kind}")
        self.m, self.real = m, residues(pred.x_t)
        self.sigma = (pred.sigma / pred.alpha).reshape(-1, 1, 1).expand(len(m), 1, 1)
        self.time = self.sigma[:, 0, 0].log().clamp_min(LOWEST)
        self.motif = operator.seen(m).expand(len(m), -1)
        sigma_y2 = like.deviation.to(m).reshape(-1, 1, 1) ** 2
        r = like.residual(obs.y, m)
        self.trust = rho2 / (rho2 + sigma_y2)
        self.g = self.trust * r
        self.off = r * (rho2 + sigma_y2).rsqrt()
        self.noise = (pred.x_t - pred.alpha * m) / pred.sigma
        self.put_in = m + r  # A is a projection: motif rows take y's shape about their own centroid

    def view(self) -> View:
        with full_precision(self.m):
            return View(self.put_in, self.real, 1.0, self.sigma, self.noise, self.off)

    def given(self) -> Tensor:
        """Numbers at each residue [B, L, 4]: whether it is the motif's, how far that is off, the motif's share of the
        chain, and how far y is to be trusted."""
        count = self.motif.sum(1, keepdim=True) / self.real.sum(1, keepdim=True).clamp_min(1)
        numbers = [self.motif, self.motif * self.off.norm(dim=-1), count, self.trust[..., 0]]
        return torch.stack([n.expand_as(self.motif) for n in numbers], -1)


class ChainDEFT(Calibrated):
    """The learned h-transform (after Denker et al. 2024) of a backbone prior for motifs (`deft.domains.protein.motif`);
    see the module's formula.

    Args:
        width: of the tokens; `ChainDEFT.sized(prior, 0.09)` finds it from a share of the prior's parameters.
        blocks: transformer blocks of its stage.
        n2_start: n2 at the start; 1 is the correction for a prior of independent residues, 0 makes the untrained h
            exactly 0.
        residual: whether there is a branch (n2 + gate) g̃ at all; network: whether there is N1. Both for ablations.
    """

    feature_channels = 1

    def __init__(
        self,
        width: int = 64,
        blocks: int = 1,
        n2_start: float = 1.0,
        residual: bool = True,
        network: bool = True,
        length: int = 128,
    ):
        super().__init__()
        self.width, self.blocks, self.n2_start, self.residual, self.network = width, blocks, n2_start, residual, network
        self.event_shape = (length, 3)
        self.n1, self.n2 = MotifNet(width, blocks), Multiplier(n2_start)

    @classmethod
    @old_messages("log")
    def sized(cls, prior: Denoiser, size: float, feature_channels: int = 1, **options: Any) -> ChainDEFT:
        """The widest with at most `size` times the prior's parameters."""

        def make(width: int) -> ChainDEFT:
            return cls(width, length=prior.event_shape[0], **options)

        return report_size(make(widest(prior, size, make, 2 * HEADS)), prior)

    @property
    def length(self) -> int:
        return self.event_shape[0]

    def config(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "blocks": self.blocks,
            "n2_start": self.n2_start,
            "residual": self.residual,
            "network": self.network,
            "length": self.event_shape[0],
        }

    @classmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> ChainDEFT:
        return cls(**config)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        a, s = pred.alpha, pred.sigma
        x_hat = coordinates(pred.mean)
        seen = Seen(pred, x_hat, obs, self.rho2(torch.log(s / a).float()).to(x_hat))
        value = torch.zeros_like(x_hat)
        n2 = self.n2(seen.time)[:, None]
        if self.network:
            n1, gate, _ = self.n1(seen)
            value = value + s * (a**2 + s**2).rsqrt() * n1
            n2 = n2 + gate
        if self.residual:
            value = value + n2[..., None] * seen.g
        return centred(value, seen.real) * (a / s**2)
