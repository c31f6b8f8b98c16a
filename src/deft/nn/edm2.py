"""The magnitude-preserving UNet of EDM2 (Karras et al. 2024), under its published tensor names.

Weights are normalised when they are used, sums and concatenations keep the magnitude of what goes in, and no layer has
a bias or a norm with parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.nn.edm import Levels, Shapes, binomial, blocks_of, double, halve, levels_of

EPS = 1e-4


@dataclass(frozen=True)
class EDM2Config(Levels):
    """What the shapes of a state dict say of its network, and what they do not: the last six, with their published
    values.

    noise, emb: channels of the embedded noise level, and of what the blocks get. label, concat, residual, attend:
    weight of the second of two branches in each kind of sum (t of the paper's eq. 88 and 103). head: channels of a
    head. clip: greatest activation.
    """

    side: int
    channels: int
    widths: tuple[int, ...]
    noise: int
    emb: int
    blocks: int
    attention: tuple[bool, ...]
    classes: int = 0
    label: float = 0.5
    concat: float = 0.5
    residual: float = 0.3
    attend: float = 0.3
    head: int = 64
    clip: float = 256.0

    layout = "edm2"
    name = "EDM2"

    @property
    def in_channels(self) -> int:
        return self.channels

    @property
    def out_channels(self) -> int:
        return self.channels

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> EDM2Config:
        """The network that tensors of these names and shapes are of.

        Raises `KeyError`, `ValueError` or `IndexError`: of none.
        """
        sides = levels_of(shapes)
        at = [f"enc.{side}x{side}_" for side in sides]
        emb, noise = shapes["emb_noise.weight"]
        return cls(
            side=sides[0],
            channels=shapes["out_conv.weight"][0],
            widths=tuple(shapes[level + "block0.conv_res1.weight"][0] for level in at),
            noise=noise,
            emb=emb,
            blocks=blocks_of(shapes, at[0]),
            attention=tuple(level + "block0.attn_qkv.weight" in shapes for level in at),
            classes=shapes.get("emb_label.weight", (0, 0))[1],
        )


def unit(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x over its root mean square along dim (eq. 66 of the paper), computed in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    size = torch.linalg.vector_norm(wide, dim=dim, keepdim=True)
    return x / (EPS + size * math.sqrt(size.numel() / x.numel())).to(x.dtype)


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1-t) a + t b) / sqrt((1-t)^2 + t^2): of unit magnitude if a and b are, and independent."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Channels of a and b side by side, the share of each in the magnitude set by t, whatever their numbers."""
    n, m = a.shape[1], b.shape[1]
    scale = math.sqrt(n + m) / math.hypot(1 - t, t)
    return torch.cat([scale * (1 - t) / math.sqrt(n) * a, scale * t / math.sqrt(m) * b], dim=1)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over its root mean square for normal inputs, 0.596."""
    return F.silu(x) / 0.596


class Fourier(nn.Module):
    """sqrt(2) cos(2 pi (w t + p)), with w normal and p uniform, both kept times 2 pi."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, t: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cos(t[:, None] * self.freqs.to(t.dtype) + self.phases.to(t.dtype))


class MPConv(nn.Module):
    """A convolution (kernel 1, 3) or a matrix (kernel 0) each of whose filters has length 1 when it is used."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *(kernel,) * (2 if kernel else 0)))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        each = tuple(range(1, w.ndim))
        w = (unit(w, each) * (gain / math.sqrt(w[0].numel()))).to(x.dtype)
        return F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)


class Block(nn.Module):
    """A residual block (figure 21 of the paper): the encoder's normalises its features by pixel, the decoder's do not;
    the embedding multiplies the channels between the two convolutions."""

    def __init__(
        self, c: EDM2Config, inputs: int, outputs: int, *, encoder: bool, resize: str = "", attention: bool = False
    ):
        super().__init__()
        self.encoder, self.resize = encoder, resize
        self.residual, self.balance, self.clip = c.residual, c.attend, c.clip
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(outputs if encoder else inputs, outputs, 3)
        self.emb_linear = MPConv(c.emb, outputs)
        self.conv_res1 = MPConv(outputs, outputs, 3)
        self.conv_skip = MPConv(inputs, outputs, 1) if inputs != outputs else None
        self.heads = max(1, outputs // c.head) if attention else 0
        if attention:
            self.attn_qkv, self.attn_proj = MPConv(outputs, 3 * outputs, 1), MPConv(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.resize:
            x = (halve if self.resize == "down" else double)(x, binomial(2).to(x))
        if self.encoder:
            x = unit(x if self.conv_skip is None else self.conv_skip(x), 1)
        scale = 1 + self.emb_linear(emb, self.emb_gain)[:, :, None, None]
        z = self.conv_res1(mp_silu(scale * self.conv_res0(mp_silu(x))))
        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, z, self.residual)
        if self.heads:
            x = mp_sum(x, self.attend(x), self.balance)
        return x.clamp(-self.clip, self.clip)

    def attend(self, x: Tensor) -> Tensor:
        """Attention between normalised queries, keys and values (cosine attention)."""
        b, c, *sides = x.shape
        # channels are [heads, channels of a head, (q, k, v)]
        parts = unit(self.attn_qkv(x).reshape(b, self.heads, c // self.heads, 3, -1), 2)
        q, k, v = parts.transpose(2, 4).unbind(3)
        return self.attn_proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, *sides))


class EDM2UNet(nn.Module):
    """F(x [B, C, H, W], c_noise [B], code [B, classes] or None) -> [B, C, H, W]: the network inside the
    preconditioning. H and W are multiples of `multiple_of`; code: one-hot classes, or zeros for none."""

    def __init__(self, config: EDM2Config):
        super().__init__()
        self.config = c = config
        self.multiple_of = 2 ** (len(c.widths) - 1)
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier, self.emb_noise = Fourier(c.noise), MPConv(c.noise, c.emb)
        self.emb_label = MPConv(c.classes, c.emb) if c.classes else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        width, kept = c.widths[0], [c.widths[0]]
        for level, (side, out) in enumerate(zip(c.sides, c.widths, strict=True)):
            here = f"{side}x{side}_"
            if level:
                self.enc[here + "down"] = Block(c, width, width, encoder=True, resize="down")
                kept.append(width)
            else:
                self.enc[here + "conv"] = MPConv(c.channels + 1, width, 3)
            for i in range(c.blocks):
                self.enc[f"{here}block{i}"] = Block(c, width, out, encoder=True, attention=c.attention[level])
                width = out
                kept.append(width)
        for level, (side, out) in reversed(list(enumerate(zip(c.sides, c.widths, strict=True)))):
            here = f"{side}x{side}_"
            if level + 1 == len(c.widths):
                self.dec[here + "in0"] = Block(c, width, width, encoder=False, attention=True)
                self.dec[here + "in1"] = Block(c, width, width, encoder=False)
            else:
                self.dec[here + "up"] = Block(c, width, width, encoder=False, resize="up")
            for i in range(c.blocks + 1):
                inputs = width + kept.pop()
                self.dec[f"{here}block{i}"] = Block(c, inputs, out, encoder=False, attention=c.attention[level])
                width = out
        self.out_conv = MPConv(width, c.channels, 3)

    def forward(self, x: Tensor, time: Tensor, code: Tensor | None = None) -> Tensor:
        if any(side % self.multiple_of for side in x.shape[2:]):
            raise ValueError(f"images of {tuple(x.shape[2:])} pixels: sides must be multiples of {self.multiple_of}")
        c = self.config
        emb = self.emb_noise(self.emb_fourier(time).to(x.dtype))
        if self.emb_label is not None:
            code = emb.new_zeros(len(x), c.classes) if code is None else code.to(emb.dtype)
            emb = mp_sum(emb, self.emb_label(math.sqrt(c.classes) * code), c.label)
        emb = mp_silu(emb)
        z = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # a channel of ones stands for a bias
        kept: list[Tensor] = []
        for level, side in enumerate(c.sides):
            here = f"{side}x{side}_"
            z = self.enc[here + "down"](z, emb) if level else self.enc[here + "conv"](z)
            kept.append(z)
            for i in range(c.blocks):
                z = self.enc[f"{here}block{i}"](z, emb)
                kept.append(z)
        for level, side in reversed(list(enumerate(c.sides))):
            here = f"{side}x{side}_"
            for part in ("in0", "in1") if level + 1 == len(c.widths) else ("up",):
                z = self.dec[here + part](z, emb)
            for i in range(c.blocks + 1):
                z = self.dec[f"{here}block{i}"](mp_cat(z, kept.pop(), c.concat), emb)
        out: Tensor = self.out_conv(z, self.out_gain)
        return out
