"""DEFT for backbones: an SE(3)-equivariant h beside a frozen prior.

In the units of the denoised mean, with c = sigma / sqrt(alpha^2 + sigma^2),

    x̂ += c N1 + (n2(t) + gate) g̃,    g̃ = rho^2 / (rho^2 + sigma_y^2) (y - A x̂),

rho^2 what the prior leaves open (`DEFT.calibrate`). N1 answers with a vector at each residue, the gate with a number. Both see x̂, the noise in x_t, and
"x̂ with the motif put in": each motif moved onto the centroid of its own residues in x̂. What a network sees are distances and components in local frames,
so that h turns as (x_t, y) do. Frames are right-handed: a mirrored motif is another motif.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deft.denoise import Denoiser, Prediction
from deft.errors import ContractError
from deft.htransform.learnable import report_size, widest
from deft.htransform.learned import Calibrated, Multiplier
from deft.likelihood import Gaussian
from deft.likelihood.base import Observation
from deft.nn.embed import Sinusoid, zero
from deft.protein.geometry import centred, coordinates, full_precision, residues
from deft.protein.motif import Motif
from deft.protein.network import POSITIONS, Stage, View

HEADS, PAIR_WIDTH = 4, 16
LOWEST = -5.0
"""log(sigma/alpha) below which the networks are told this."""


class MotifNet(nn.Module):
    """N1 and the gate: a stage that looks at x̂ with the motif put in, one that looks at x̂. Zero at first."""

    def __init__(self, width: int, blocks: int = 1):
        super().__init__()
        emb = width // 2
        self.embed = nn.Sequential(Sinusoid(32), nn.Linear(32, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.place = Sinusoid(POSITIONS, low=0.01, high=1.5)
        self.inlet, self.level = nn.Linear(2 * POSITIONS + 3, width), nn.Linear(emb, width)
        self.stages = nn.ModuleList(Stage(width, blocks, HEADS, PAIR_WIDTH, emb) for _ in range(2))
        self.gate = zero(nn.Linear(width, 1))

    def forward(self, traces: list[Tensor], offsets: list[Tensor], real: Tensor, sigma: Tensor, given: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """traces, offsets: what each stage looks at, [B, L, 3]; given: numbers at each residue [B, L, 3]. Returns ([B, L, 3], gate [B, L])."""
        own = self.inlet.weight.dtype
        at = torch.arange(real.shape[1], device=real.device)
        back = real.sum(1, keepdim=True) - 1 - at
        first, last = (self.place(v.flatten()).reshape(*v.shape, POSITIONS) for v in (at[None], back))
        e = self.embed(time.to(own))
        z = self.inlet(torch.cat([first.expand_as(last), last, given.to(last)], -1).to(own)) + self.level(e)[:, None]
        total = torch.zeros_like(traces[0])
        for stage, trace, offset in zip(self.stages, traces, offsets, strict=True):
            with full_precision(trace):
                view = View(trace, real, 1.0, sigma, offset)
            z, vectors = stage(z, e, view)
            total = total + vectors
        return total, self.gate(z)[..., 0]


class ChainDEFT(Calibrated):
    """The learned h-transform of a backbone prior for motifs (`deft.protein.motif`); see the module's formula.

    Args:
        width: of the tokens; `ChainDEFT.sized(prior, 0.09)` finds it from a share of the prior's parameters.
        blocks: transformer blocks of each stage.
        n2_start: n2 at the start; 1 is the correction for a prior of independent residues, 0 makes the untrained h exactly 0.
        residual: whether there is a branch (n2 + gate) g̃ at all; network: whether there is N1. Both for ablations.
    """

    lift_channels = 1

    def __init__(self, width: int = 64, blocks: int = 1, n2_start: float = 1.0, residual: bool = True, network: bool = True, length: int = 128):
        super().__init__()
        self.width, self.blocks, self.n2_start, self.residual, self.network = width, blocks, n2_start, residual, network
        self.event_shape = (length, 3)
        self.n1, self.n2 = MotifNet(width, blocks), Multiplier(n2_start)

    @classmethod
    def sized(cls, prior: Denoiser, size: float, lift_channels: int = 1, *, log: Callable[[str], None] | None = None, **options: Any) -> ChainDEFT:
        """The widest with at most `size` times the prior's parameters."""

        def make(width: int) -> ChainDEFT:
            return cls(width, length=prior.event_shape[0], **options)

        return report_size(make(widest(prior, size, make, 2 * HEADS)), prior, log)

    def config(self) -> dict[str, Any]:
        return {"width": self.width, "blocks": self.blocks, "n2_start": self.n2_start, "residual": self.residual, "network": self.network, "length": self.event_shape[0]}

    @classmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> ChainDEFT:
        return cls(**config)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        like = obs.likelihood
        if not isinstance(like, Gaussian) or not isinstance(like.operator, Motif):
            raise ContractError(f"ChainDEFT is for motifs of a backbone with Gaussian noise, got {type(like).__name__}")
        motif, a, s = like.operator, pred.alpha, pred.sigma
        x_hat, real = coordinates(pred.mean), residues(pred.x_t)
        level = torch.log(s / a)
        rho2 = self.rho2(level.float()).to(x_hat)
        r = like.residual(obs.y, x_hat)
        sigma_y2 = like.deviation.to(x_hat).reshape(-1, 1, 1) ** 2
        g = rho2 / (rho2 + sigma_y2) * r
        c = s * (a**2 + s**2).rsqrt()
        value = torch.zeros_like(x_hat)
        time = level.reshape(-1).expand(len(x_hat)).clamp_min(LOWEST)
        if self.network:
            seen = motif.seen(x_hat).expand(len(x_hat), -1)
            put_in = x_hat + r  # A is a projection: motif rows take y's shape about their own centroid
            noise, off = (pred.x_t - a * x_hat) / s, r * (rho2 + sigma_y2).rsqrt()
            count = seen.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)
            given = torch.stack([seen, seen * off.norm(dim=-1), count.expand_as(seen)], -1)
            n1, gate = self.n1([put_in, x_hat], [noise, off], real, (s / a).reshape(-1, 1, 1).expand(len(x_hat), 1, 1), given, time)
            value = value + c * n1
            n2 = self.n2(time)[:, None] + gate
        else:
            n2 = self.n2(time)[:, None].expand(real.shape)
        if self.residual:
            value = value + n2[..., None] * g
        return centred(value, real) * (a / s**2)
