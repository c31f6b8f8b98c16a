"""A small UNet (after Ho et al. 2020 and Dhariwal & Nichol 2021), kept cheap for CPUs: of images, and with `dims` 1 or
3 of series and volumes.

Samples are first folded by `patch` (pixel unshuffle), so that most of the work happens on few, wide pixels. Sides that
are no multiples of what is folded and halved are padded inside (`deft.nn.padding`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.nn.embed import Sinusoid, zero
from deft.nn.padding import cropped, mirrored

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
GROW: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
LAYOUT = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
"""Dims -> convolution, its transpose, and how maps lie in memory: convolutions like channels last on CPUs."""


def folded(x: Tensor, patch: int) -> Tensor:
    """[B, C, *sides] -> [B, C patch^dims, *sides / patch]: each block of patch^dims entries as channels (pixel
    unshuffle).

    >>> folded(torch.arange(6.0).reshape(1, 1, 6), 2)
    tensor([[[0., 2., 4.],
             [1., 3., 5.]]])
    """
    dims = x.ndim - 2
    if dims == 2:
        return F.pixel_unshuffle(x, patch)
    parts = x.reshape(*x.shape[:2], *(n for side in x.shape[2:] for n in (side // patch, patch)))
    parts = parts.permute(0, 1, *range(3, 2 * dims + 3, 2), *range(2, 2 * dims + 2, 2))
    return parts.reshape(x.shape[0], -1, *(side // patch for side in x.shape[2:]))


def unfolded(x: Tensor, patch: int) -> Tensor:
    """The way back of `folded`.

    >>> unfolded(folded(torch.arange(6.0).reshape(1, 1, 6), 3), 3)
    tensor([[[0., 1., 2., 3., 4., 5.]]])
    """
    dims = x.ndim - 2
    if dims == 2:
        return F.pixel_shuffle(x, patch)
    parts = x.reshape(x.shape[0], x.shape[1] // patch**dims, *([patch] * dims), *x.shape[2:])
    parts = parts.permute(0, 1, *(n for i in range(dims) for n in (2 + dims + i, 2 + i)))
    return parts.reshape(x.shape[0], -1, *(side * patch for side in x.shape[2:]))


def _norm(channels: int) -> nn.GroupNorm:
    """At most 8 groups of at least 8 channels: narrower ones cost more than the convolution they serve (CPU)."""
    groups = next(g for g in range(max(1, min(8, channels // 8)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class Block(nn.Module):
    """Two convolutions of 3 entries a side with a skip; the noise level scales and shifts the middle."""

    def __init__(self, channels: int, emb: int, dims: int = 2):
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), CONV[dims](channels, channels, 3, padding=1)
        self.film = nn.Linear(emb, 2 * channels)
        self.norm2, self.conv2 = _norm(channels), zero(CONV[dims](channels, channels, 3, padding=1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e).reshape(e.shape[0], -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        z = self.conv1(F.silu(self.norm1(x)))
        z = torch.addcmul(shift, self.norm2(z), 1 + scale)
        return x + self.conv2(F.silu(z))


class Attention(nn.Module):
    """Self-attention over all pixels, with heads of at most 32 channels."""

    def __init__(self, channels: int, dims: int = 2):
        super().__init__()
        self.heads = max(1, channels // 32)
        while channels % self.heads:
            self.heads -= 1
        self.norm = _norm(channels)
        self.qkv = CONV[dims](channels, 3 * channels, 1)
        self.out = zero(CONV[dims](channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, -1).transpose(3, 4).unbind(1)
        z = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(z.transpose(2, 3).reshape(b, c, *x.shape[2:]))


class Stage(nn.Module):
    """A change of resolution, the skip added, some blocks, perhaps attention."""

    def __init__(self, width: int, emb: int, blocks: int, attention: bool, first: nn.Module, dims: int = 2):
        super().__init__()
        self.first = first
        self.blocks = nn.ModuleList(Block(width, emb, dims) for _ in range(blocks))
        self.attention = Attention(width, dims) if attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor, skip: Tensor | None = None) -> Tensor:
        z = self.first(x)
        if skip is not None:  # added, not concatenated: half the work of the block that follows
            z = z + skip
        for block in self.blocks:
            z = block(z, e)
        return self.attention(z)


class UNet(nn.Module):
    """net(x [B, inputs, H, W], time [B]) -> [B, outputs, H, W]; with dims=1 of [B, inputs, L], with dims=3 of
    [B, inputs, D, H, W].

    Args:
        inputs, outputs: channels of the sample going in and coming out.
        widths: channels at each level; each level halves the sides.
        blocks: residual blocks a level, on the way down and up.
        attention: one flag a level (default: none); there is always one in the middle.
        patch: fold patch x patch pixels (patch^dims entries) into channels first.
        time_dim: width of the noise-level embedding.
        dims: sides of a sample: 1 (series), 2 (images) or 3 (volumes).

    Sides are any numbers from 1: to multiples of `multiple_of` the sample is mirrored, and the output is cropped.

    >>> UNet(3, 2, (8, 8), dims=1)(torch.zeros(4, 3, 13), torch.zeros(4)).shape
    torch.Size([4, 2, 13])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int] = (48, 96, 128),
        blocks: int = 1,
        attention: Sequence[bool] | None = None,
        patch: int = 2,
        time_dim: int = 128,
        dims: int = 2,
    ):
        super().__init__()
        widths = list(widths)
        flags = list(attention) if attention is not None else [False] * len(widths)
        self.config: dict[str, Any] = {
            "inputs": inputs,
            "outputs": outputs,
            "widths": widths,
            "blocks": blocks,
            "attention": flags,
            "patch": patch,
            "time_dim": time_dim,
            **({} if dims == 2 else {"dims": dims}),  # cards of images are what they were before there were others
        }
        self.dims, self.patch, self.multiple_of = dims, patch, patch * 2 ** (len(widths) - 1)
        self.embed = nn.Sequential(
            Sinusoid(64), nn.Linear(64, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU()
        )
        self.inlet = CONV[dims](inputs * patch**dims, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, w in enumerate(widths):
            grow = GROW[dims](widths[level + 1], w, 2, stride=2) if level + 1 < len(widths) else nn.Identity()
            pool = CONV[dims](widths[level - 1], w, 2, stride=2) if level else nn.Identity()
            self.down.append(Stage(w, time_dim, blocks, flags[level], pool, dims))
            self.up.append(Stage(w, time_dim, blocks, flags[level], grow, dims))
        self.middle = Stage(widths[-1], time_dim, 1, True, nn.Identity(), dims)
        c = widths[0]
        self.norm = _norm(c)
        self.outlet = zero(CONV[dims](c, outputs * patch**dims, 3, padding=1))
        if dims > 1:
            self.to(memory_format=LAYOUT[dims])  # type: ignore[call-overload]

    def encode(self, x: Tensor, e: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """The output of each stage on the way down, then of the middle, of the padded image. seen: added behind the
        inlet."""
        z = self.inlet(self.folded(x))
        if seen is not None:
            z = z + seen
        features = []
        for stage in self.down:
            z = stage(z, e)
            features.append(z)
        return [*features, self.middle(z, e)]

    def folded(self, x: Tensor) -> Tensor:
        """Samples as the inlet takes them: padded, and folded by `patch`."""
        return folded(mirrored(x, self.multiple_of), self.patch).contiguous(memory_format=LAYOUT[self.dims])

    def forward(
        self, x: Tensor, time: Tensor, seen: Tensor | None = None, side: Sequence[Tensor] | None = None
    ) -> Tensor:
        """seen, side: what another network adds behind the inlet, and to each of `encode`'s features."""
        e = self.embed(time)
        features = self.encode(x, e, seen)
        if side is not None:
            features = [f + more for f, more in zip(features, side, strict=True)]
        z = features.pop()
        for stage in reversed(self.up):
            z = stage(z, e, features.pop())
        return cropped(unfolded(self.outlet(F.silu(self.norm(z))), self.patch).contiguous(), x)


class WayDown(UNet):
    """The way down of a UNet by itself, as `encode` gives it: for a network beside another. A call, so that hooks see
    it."""

    def __init__(self, **config: Any):
        super().__init__(**config)
        del self.up, self.norm, self.outlet

    @classmethod
    def copied(cls, net: UNet) -> WayDown:
        """With copies of a UNet's weights, which are trained."""
        made = copy.deepcopy(net).requires_grad_(True)  # not made anew: a skeleton's weights may be on no device
        made.__class__ = cls
        del made.up, made.norm, made.outlet
        return cast(WayDown, made)

    def forward(  # type: ignore[override]
        self, x: Tensor, time: Tensor, seen: Tensor | None = None
    ) -> list[Tensor]:
        return self.encode(x, self.embed(time), seen)


class HalfUNet(nn.Module):
    """net(x [B, inputs, H, W], time [B]) -> [B, outputs]: a UNet's way down, averaged over what is left of the image.

    Args:
        inputs: channels of the image. outputs: numbers that come out, 0 at first. widths, blocks, patch, time_dim,
            dims: as in `UNet`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int] = (48, 96, 128),
        blocks: int = 1,
        patch: int = 2,
        time_dim: int = 64,
        dims: int = 2,
    ):
        super().__init__()
        self.body = UNet(inputs, 1, widths, blocks, patch=patch, time_dim=time_dim, dims=dims)
        del self.body.up, self.body.norm, self.body.outlet
        self.norm = _norm(widths[-1])
        self.outlet = zero(nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        z = self.body.encode(x, self.body.embed(time))[-1]
        return self.outlet(F.silu(self.norm(z)).flatten(2).mean(2))
