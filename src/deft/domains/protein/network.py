"""An SE(3)-equivariant network for C-alpha traces.

Residues are tokens. Each stage looks at a trace (first the noisy one, then the estimate so far) through local frames
and distances, which do not change when the trace is turned, lets transformer blocks work on the tokens with what it saw
as attention bias, and answers with vectors: sums of relative vectors, and one in each residue's own frame. So outputs
turn as inputs do, and the frames, which are right-handed, tell a fold from its mirror image. The ideas are those of
AlphaFold 2 (Jumper et al. 2021, invariant point attention and its frames) and of Genie (Lin & AlQuraishi 2023, frames
from noisy C-alphas); pairs have no representation of their own that is carried along, which is what makes this one
cheap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.domains.protein.chains import UNIT
from deft.domains.protein.geometry import (
    centred,
    coordinates,
    frames,
    full_precision,
    local,
    neighbours,
    residues,
    unit,
)
from deft.errors import unknown
from deft.nn.embed import Sinusoid, zero

BOND = 3.804 / UNIT
"""Mean distance of neighbouring C-alphas, in model space."""

SCATTER = 0.01
"""About the deviation of that distance in model space (0.05 angstrom), and a little more."""

REACH = 32
"""Separations along the chain of more than this many residues count as this many."""

WINDOW = (-3, -2, -1, 1, 2, 3)
"""The neighbours along the chain that a residue sees as vectors."""

RBF, LOCAL, PAIR = 16, 3 * len(WINDOW) + 4 + 3 + 3 + 1, 16 + 3 + 3 + 9 + 1
"""Radial basis functions; numbers seen at a residue, and between two."""

NEAR, FAR = -2.5, 2.2
"""log of the distances, in model space, of the first and last of these functions: 0.7 and 72 angstrom."""

NEAREST = 1e-4
"""Added to squared distances, in model space: 0.08 angstrom and less is one distance, without a direction."""

POSITIONS = 32
"""Numbers that tell a residue's place from one end of the chain."""

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 48, "stages": 1, "blocks": 2, "heads": 4, "pair": 16},
    "small": {"width": 128, "stages": 2, "blocks": 2, "heads": 4, "pair": 16},
    "medium": {"width": 192, "stages": 2, "blocks": 3, "heads": 6, "pair": 32},
    "large": {"width": 192, "stages": 3, "blocks": 3, "heads": 6, "pair": 32},
    "xl": {"width": 256, "stages": 3, "blocks": 3, "heads": 8, "pair": 32},
}
"""Name -> settings of `ChainNet`: 0.1, 1.2, 3.7, 5.6 and 9.8 million parameters."""


def chain_net(size: str) -> ChainNet:
    """A network of a named size."""
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    return ChainNet(**SIZES[size])


class View:
    """A trace as a stage sees it: numbers that do not change when it is turned or moved.

    x: [B, L, 3], centred, zero behind the end. real: [B, L]. stretch: [B, 1, 1], what x has to be multiplied by
    for its distances to be those of model space. sigma: [B, 1, 1], the noise in it. offset: [B, L, 3], another vector
    at each residue; more of them may follow.
    """

    def __init__(self, x: Tensor, real: Tensor, stretch: Tensor | float, sigma: Tensor, *offsets: Tensor):
        self.x, self.real = x, real
        self.frame = frames(x, real)
        steps = neighbours(x, WINDOW, real) - x[:, :, None]
        lengths = steps[:, :, WINDOW.index(-1) : WINDOW.index(1) + 1].norm(dim=-1) * stretch
        # bonds are known to 0.05 angstrom: how wrong one is is told in these units, as the noise allows
        wrong = [torch.tanh((lengths - BOND) / (sigma + s)) for s in (SCATTER, 10 * SCATTER)]
        seen = local(self.frame[:, :, None], torch.cat([steps, torch.stack([x, *offsets], 2)], 2)).flatten(2)
        self.residue = torch.cat([seen, *wrong, x.norm(dim=-1, keepdim=True)], -1)

    def pairs(self) -> Tensor:
        """Distance, directions in both frames and the angles of the frames, [B, PAIR, L, L], from i (row) to j.

        Numbers come first and pairs last: two to three times as fast as the other way round, on the CPU.
        """
        b, n = self.x.shape[:2]
        x = self.x.transpose(1, 2)
        square = (x[:, :, None] - x[..., None]).square().sum(1, keepdim=True)
        log = torch.log(square + NEAREST) / 2
        steep = RBF / (FAR - NEAR)
        centres = torch.linspace(NEAR, FAR, RBF, device=x.device, dtype=x.dtype)[:, None, None]
        basis = torch.exp(-((log - centres) * steep).square())
        axes = self.frame.permute(0, 3, 1, 2)  # the first of every residue, the second, the third
        across = (axes.reshape(b, 3 * n, 3) @ x).reshape(b, 3, n, n)
        own = (self.frame.transpose(-1, -2) @ self.x[..., None]).reshape(b, n, 3).transpose(1, 2)[..., None]
        there = (across - own) * torch.rsqrt(square + NEAREST)  # unit vector from i to j in the frame of i
        back = there.transpose(-1, -2)  # from j to i in the frame of j
        angles = (axes[:, :, None] @ axes[:, None].transpose(-1, -2)).reshape(b, 9, n, n)
        return torch.cat([basis, there, back, angles, log], 1)


class Block(nn.Module):
    """Pre-norm attention with a bias and a two-layer network, each scaled, shifted and gated by the noise level
    (Peebles & Xie 2023).

    Queries and keys are normalised (Henry et al. 2020), which keeps a fit in bfloat16 from running away.
    """

    def __init__(self, width: int, emb: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.film = zero(nn.Linear(emb, 6 * width))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, z: Tensor, e: Tensor, bias: Tensor) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.film(e)[:, None].chunk(6, dim=-1)
        u = torch.addcmul(shift1, self.norm1(z), 1 + scale1)
        b, n, d = u.shape
        q, k, v = self.qkv(u).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (F.rms_norm(w, w.shape[-1:]).to(v.dtype) for w in (q, k))
        u = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(v.dtype))
        z = z + (1 + gate1) * self.out(u.transpose(1, 2).reshape(b, n, d))
        return z + (1 + gate2) * self.mlp(torch.addcmul(shift2, self.norm2(z), 1 + scale2))


def _mixed(weight: Tensor, x: Tensor) -> Tensor:
    """weight [C', C] times x [B, C, N], without the transposed copy of x that `@` makes."""
    return torch.bmm(weight.expand(len(x), *weight.shape), x)


class Stage(nn.Module):
    """Look at a trace, think, answer with a vector at each residue (zero at first). offsets: of its views."""

    def __init__(self, width: int, blocks: int, heads: int, pair: int, emb: int, offsets: int = 1):
        super().__init__()
        self.heads = heads
        self.see, self.seen = nn.Linear(LOCAL + 3 * (offsets - 1), width), nn.Linear(width, width)
        self.geometry, self.along = nn.Linear(PAIR, pair, bias=False), nn.Embedding(2 * REACH + 1, pair)
        self.left, self.right, self.mix = (
            nn.Linear(width, pair),
            nn.Linear(width, pair, bias=False),
            nn.Linear(pair, pair, bias=False),
        )
        # the blocks', then the surroundings', then the answer's
        self.bias = nn.Linear(pair, (blocks + 2) * heads, bias=False)
        self.surroundings = nn.Linear(heads * pair, width)
        self.blocks = nn.ModuleList(Block(width, emb, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.query_key, self.outlet = nn.Linear(width, 2 * width, bias=False), zero(nn.Linear(width, 2 * heads + 3))

    def relations(self, z: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """(what is between residues [B, pair, L, L], attention biases [B, (blocks + 2) heads, L, L])."""
        with full_precision(z):
            seen = view.pairs().flatten(2)
        b, n = z.shape[:2]
        at = torch.arange(n, device=z.device)
        along = self.along((at - at[:, None]).clamp(-REACH, REACH) + REACH).permute(2, 0, 1)
        between = _mixed(self.geometry.weight, seen).reshape(b, -1, n, n)
        between = between + along.to(between.dtype) + self.left(z).transpose(1, 2)[..., None]
        between = F.silu(between + self.right(z).transpose(1, 2)[:, :, None])
        between = F.silu(_mixed(self.mix.weight, between.flatten(2)))
        bias = _mixed(self.bias.weight, between).reshape(b, -1, n, n)
        bias = bias.masked_fill(~view.real[:, None, None], -1e4)  # finite: a sample without residues is no NaN
        return between.reshape(b, -1, n, n), bias

    def forward(self, z: Tensor, e: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """z: tokens [B, L, width]. Returns them and the vectors [B, L, 3]."""
        b, n, d = z.shape
        with full_precision(z):
            local_view = self.see(view.residue.to(self.see.weight.dtype))
        z = z + self.seen(F.silu(local_view))
        between, bias = self.relations(z, view)
        *biases, around, last = bias.chunk(len(self.blocks) + 2, dim=1)
        weights = around.softmax(-1).to(between.dtype).transpose(1, 2)  # [B, L, heads, L]
        z = z + self.surroundings((weights @ between.permute(0, 2, 3, 1)).reshape(b, n, -1))
        for block, own in zip(self.blocks, biases, strict=True):
            z = block(z, e, own)
        u = self.norm(z)
        q, k = self.query_key(u).reshape(b, n, 2, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5 + last
        with full_precision(z):
            return z, self.answer(logits, self.outlet(u.to(self.outlet.weight.dtype)), view)

    def answer(self, logits: Tensor, numbers: Tensor, view: View) -> Tensor:
        """Attention-weighted sums of relative vectors, each head's times a number, one more by unit distance, and a
        local vector."""
        x = view.x
        weights = coordinates(logits).softmax(-1).to(x.dtype)
        gates, own = coordinates(numbers).to(x.dtype).split([2 * self.heads, 3], dim=-1)
        towards = (weights @ x[:, None]).transpose(1, 2) - x[:, :, None]  # [B, L, heads, 3]
        # near the data, what is left to do does not grow with distance
        vectors = torch.cat([towards, unit(towards)], 2)
        return (gates[..., None] * vectors).sum(2) + (view.frame @ own[..., None])[..., 0]


def places(place: Sinusoid, real: Tensor) -> Tensor:
    """Where a residue is, counted from the first and from the last: [B, L, 2 POSITIONS]."""
    at = torch.arange(real.shape[1], device=real.device)
    back = real.sum(1, keepdim=True) - 1 - at
    first, last = (place(v.flatten()).reshape(*v.shape, POSITIONS) for v in (at[None], back))
    return torch.cat([first.expand_as(last), last], -1)


class ChainNet(nn.Module):
    """net(x [B, L, 3], time [B]) -> [B, L, 3], for `NetworkDenoiser` with output "edm", time "log-sigma" and scaled
    input.

    Args:
        width: of a token. stages: looks at the trace. blocks: transformer blocks a stage. heads: of each block.
        pair: width of what is between two residues.

    x is the noisy trace divided by sqrt(1 + sigma^2), time log sigma. Any length will do. Outputs are centred, and zero
    where x is. The first stage sees x; later ones the mean that the answer so far stands for, (x + sigma F)/sqrt(1 +
    sigma^2), where at low noise bonds have their length: what distances mean is then the same at every noise level.
    """

    def __init__(self, width: int = 128, stages: int = 2, blocks: int = 2, heads: int = 4, pair: int = 16):
        super().__init__()
        self.config: dict[str, Any] = {"width": width, "stages": stages, "blocks": blocks, "heads": heads, "pair": pair}
        emb = width // 2
        self.embed = nn.Sequential(Sinusoid(64), nn.Linear(64, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.place = Sinusoid(POSITIONS, low=0.01, high=1.5)
        self.inlet, self.level = nn.Linear(2 * POSITIONS, width), nn.Linear(emb, width)
        self.stages = nn.ModuleList(Stage(width, blocks, heads, pair, emb) for _ in range(stages))

    def forward(self, x: Tensor, time: Tensor, more: Tensor | None = None) -> Tensor:
        """more: added to the tokens at the start, [B, L, width]."""
        own = self.inlet.weight.dtype
        with full_precision(x):
            real = residues(x)
            x = centred(coordinates(x), real)
            sigma = torch.exp(time.to(x.dtype))[:, None, None]
            shrink = (1 + sigma**2).rsqrt()
            e, place = self.embed(time.to(own)), places(self.place, real).to(own)
        z = (self.inlet(place) + self.level(e)[:, None]).to(own)  # the residual stream stays in float32 under autocast
        z = z if more is None else z + more
        total = torch.zeros_like(x)
        for i, stage in enumerate(self.stages):
            with full_precision(x):
                now = x if i == 0 else shrink * (x + sigma * total)
                if self.training and not x.requires_grad:
                    # as AlphaFold 2 does for rotations: half the work, and no gradient through degenerate frames
                    now = now.detach()
                view = View(now, real, 1 / shrink if i == 0 else 1.0, sigma, x - now)
            z, vectors = stage(z, e, view)
            total = total + vectors
        return centred(total, real)
