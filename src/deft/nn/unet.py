"""A small UNet for images (after Ho et al. 2020 and Dhariwal & Nichol 2021), kept cheap for CPUs.

Images are first folded by `patch` (pixel unshuffle), so that most of the work happens on few, wide pixels. Sides that
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


def _norm(channels: int) -> nn.GroupNorm:
    """At most 8 groups of at least 8 channels: narrower ones cost more than the convolution they serve (CPU)."""
    groups = next(g for g in range(max(1, min(8, channels // 8)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class Block(nn.Module):
    """Two 3x3 convolutions with a skip; the noise level scales and shifts the middle."""

    def __init__(self, channels: int, emb: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(emb, 2 * channels)
        self.norm2, self.conv2 = _norm(channels), zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e)[:, :, None, None].chunk(2, dim=1)
        z = self.conv1(F.silu(self.norm1(x)))
        z = torch.addcmul(shift, self.norm2(z), 1 + scale)
        return x + self.conv2(F.silu(z))


class Attention(nn.Module):
    """Self-attention over all pixels, with heads of at most 32 channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = max(1, channels // 32)
        while channels % self.heads:
            self.heads -= 1
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, -1).transpose(3, 4).unbind(1)
        z = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(z.transpose(2, 3).reshape(b, c, height, width))


class Stage(nn.Module):
    """A change of resolution, the skip added, some blocks, perhaps attention."""

    def __init__(self, width: int, emb: int, blocks: int, attention: bool, first: nn.Module):
        super().__init__()
        self.first = first
        self.blocks = nn.ModuleList(Block(width, emb) for _ in range(blocks))
        self.attention = Attention(width) if attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor, skip: Tensor | None = None) -> Tensor:
        z = self.first(x)
        if skip is not None:  # added, not concatenated: half the work of the block that follows
            z = z + skip
        for block in self.blocks:
            z = block(z, e)
        return self.attention(z)


class UNet(nn.Module):
    """net(x [B, inputs, H, W], time [B]) -> [B, outputs, H, W].

    Args:
        inputs, outputs: channels of the image going in and coming out.
        widths: channels at each level; each level halves the image.
        blocks: residual blocks a level, on the way down and up.
        attention: one flag a level (default: none); there is always one in the middle.
        patch: fold patch x patch pixels into channels first.
        time_dim: width of the noise-level embedding.

    H and W are any numbers from 1: to multiples of `multiple_of` the image is mirrored, and the output is cropped.
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
        }
        self.patch, self.multiple_of = patch, patch * 2 ** (len(widths) - 1)
        self.embed = nn.Sequential(
            Sinusoid(64), nn.Linear(64, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU()
        )
        self.inlet = nn.Conv2d(inputs * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, w in enumerate(widths):
            grow = nn.ConvTranspose2d(widths[level + 1], w, 2, stride=2) if level + 1 < len(widths) else nn.Identity()
            pool = nn.Conv2d(widths[level - 1], w, 2, stride=2) if level else nn.Identity()
            self.down.append(Stage(w, time_dim, blocks, flags[level], first=pool))
            self.up.append(Stage(w, time_dim, blocks, flags[level], first=grow))
        self.middle = Stage(widths[-1], time_dim, 1, True, first=nn.Identity())
        c = widths[0]
        self.norm = _norm(c)
        self.outlet = zero(nn.Conv2d(c, outputs * patch**2, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions like it on CPUs

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
        """Images as the inlet takes them: padded, and folded by `patch`."""
        return F.pixel_unshuffle(mirrored(x, self.multiple_of), self.patch).contiguous(
            memory_format=torch.channels_last
        )

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
        return cropped(F.pixel_shuffle(self.outlet(F.silu(self.norm(z))), self.patch).contiguous(), x)


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
        inputs: channels of the image. outputs: numbers that come out, 0 at first. widths, blocks, patch, time_dim: as
            in `UNet`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int] = (48, 96, 128),
        blocks: int = 1,
        patch: int = 2,
        time_dim: int = 64,
    ):
        super().__init__()
        self.body = UNet(inputs, 1, widths, blocks, patch=patch, time_dim=time_dim)
        del self.body.up, self.body.norm, self.body.outlet
        self.norm = _norm(widths[-1])
        self.outlet = zero(nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        z = self.body.encode(x, self.body.embed(time))[-1]
        return self.outlet(F.silu(self.norm(z)).mean((2, 3)))
