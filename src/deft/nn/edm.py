"""The UNets of "Elucidating the design space" (EDM; Karras et al. 2022), under their published tensor names.

DDPM++ and NCSN++ (Song et al. 2021b) are one class, ADM (Dhariwal & Nichol 2021) in EDM's layout another. Everything
that shapes tell is read from them (`EDMConfig.from_shapes`): the names hold the side of every level.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shapes = Mapping[str, tuple[int, ...]]
EPS = {"song": 1e-6, "adm": 1e-5}
"""Of the group norms of each layout."""
HALF_ROOT = math.sqrt(0.5)
_SIDE = re.compile(r"enc\.(\d+)x(\d+)_")


class Levels:
    """Of a network that halves the picture at each level."""

    side: int
    widths: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(self.side >> level for level in range(len(self.widths)))


@dataclass(frozen=True)
class EDMConfig(Levels):
    """What the shapes of a state dict say of its network.

    layout: "song" (DDPM++, NCSN++) or "adm". side: pixels of the finest level, each further one has half. stem:
    channels of the first convolution; widths: of each level. noise, emb: channels of the embedded noise level, and of
    what the blocks get. attention: whether a level's blocks attend. classes, augment: widths of what is embedded beside
    the noise level, 0 for nothing. fourier: random frequencies instead of the fixed ones. aux_in: "standard", "skip" or
    "residual" inputs on every level; aux_out: "standard" or "skip" outputs. taps: length of the resampling filter.

    >>> round(EDMConfig("song", 32, 3, 3, 128, (256, 256, 256), 128, 512, 4, (False, True, False)).parameters / 1e6, 1)
    55.7
    """

    layout: str
    side: int
    in_channels: int
    out_channels: int
    stem: int
    widths: tuple[int, ...]
    noise: int
    emb: int
    blocks: int
    attention: tuple[bool, ...]
    classes: int = 0
    augment: int = 0
    fourier: bool = False
    aux_in: str = "standard"
    aux_out: str = "standard"
    taps: int = 2

    @property
    def name(self) -> str:
        """As the papers call it."""
        if self.layout == "adm":
            return "ADM"
        return "NCSN++" if self.fourier or self.aux_in != "standard" else "DDPM++"

    @property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in edm_unet(self).parameters())

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> EDMConfig:
        """The network that tensors of these names and shapes are of.

        Raises `KeyError`, `ValueError` or `IndexError`: of none.
        """
        sides = levels_of(shapes)
        at = [f"enc.{side}x{side}_" for side in sides]
        adm = "out_conv.weight" in shapes
        filters = {v[-1] for k, v in shapes.items() if k.endswith("resample_filter")}
        if len(filters) > 1:
            raise ValueError(f"resampling filters of several lengths, {sorted(filters)}")
        stem, inputs = shapes[at[0] + "conv.weight"][:2]
        emb, noise = shapes["map_layer0.weight"]
        return cls(
            layout="adm" if adm else "song",
            side=sides[0],
            in_channels=inputs,
            out_channels=shapes["out_conv.weight" if adm else f"dec.{sides[0]}x{sides[0]}_aux_conv.weight"][0],
            stem=stem,
            widths=tuple(shapes[level + "block0.conv1.weight"][0] for level in at),
            noise=noise,
            emb=emb,
            blocks=blocks_of(shapes, at[0]),
            attention=tuple(level + "block0.qkv.weight" in shapes for level in at),
            classes=shapes.get("map_label.weight", (0, 0))[1],
            augment=shapes.get("map_augment.weight", (0, 0))[1],
            fourier="map_noise.freqs" in shapes,
            aux_in=next((k for k in ("skip", "residual") if any(f"_aux_{k}." in name for name in shapes)), "standard"),
            aux_out="skip" if sum("_aux_conv.weight" in name for name in shapes) > 1 else "standard",
            taps=filters.pop() if filters else 2,
        )


def levels_of(shapes: Shapes) -> tuple[int, ...]:
    """The sides of the levels, finest first, from names such as enc.64x64_conv.weight."""
    found = {m[1]: m[2] for m in map(_SIDE.match, shapes) if m}
    sides = tuple(sorted((int(side) for side in found), reverse=True))
    if not sides or any(a != b for a, b in found.items()) or any(sides[0] >> i != s for i, s in enumerate(sides)):
        raise ValueError(f"sides of its levels are {', '.join(map(str, sides)) or 'not there'}, expected each half")
    return sides


def blocks_of(shapes: Shapes, level: str) -> int:
    """How many blocks a level has on the way down."""
    number = re.compile(re.escape(level) + r"block(\d{1,3})\.")
    return 1 + max(int(m[1]) for m in map(number.match, shapes) if m)


def edm_unet(config: EDMConfig) -> EDMUNet:
    return (ADMLayout if config.layout == "adm" else SongLayout)(config)


# Parts.


def halve(x: Tensor, f: Tensor) -> Tensor:
    """Every channel smoothed by f [1, 1, k, k], which sums to 1, and every second pixel of it."""
    return F.conv2d(x, f.expand(x.shape[1], 1, -1, -1), stride=2, padding=(f.shape[-1] - 1) // 2, groups=x.shape[1])


def double(x: Tensor, f: Tensor) -> Tensor:
    """Zeros between the pixels of every channel, smoothed by 4 f."""
    each = (4 * f).expand(x.shape[1], 1, -1, -1)
    return F.conv_transpose2d(x, each, stride=2, padding=(f.shape[-1] - 1) // 2, groups=x.shape[1])


def binomial(taps: int) -> Tensor:
    """[1, 1, k, k]: rows of Pascal's triangle, (1, 1) or (1, 3, 3, 1), whose outer product sums to 1."""
    row = torch.tensor([float(math.comb(taps - 1, i)) for i in range(taps)])
    return (row[:, None] * row / row.sum() ** 2)[None, None]


class Conv(nn.Module):
    """A convolution, after resampling where there is some; without weights (kernel 0) the resampling alone.

    blur_last: for halving, the convolution first and then the smoothing, both on one margin of zeros.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, kernel: int, resize: str = "", taps: int = 2, *, blur_last: bool = False
    ):
        super().__init__()
        self.resize, self.blur_last = resize, blur_last
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(outputs)) if kernel else None
        if self.weight is not None:
            nn.init.kaiming_normal_(self.weight)
        self.register_buffer("resample_filter", binomial(taps) if resize else None)

    def forward(self, x: Tensor) -> Tensor:
        f = self.resample_filter
        if self.blur_last and isinstance(f, Tensor) and self.weight is not None:
            margin = self.weight.shape[-1] // 2 + (f.shape[-1] - 1) // 2
            f = f.to(x.dtype).expand(len(self.weight), 1, -1, -1)
            return F.conv2d(F.conv2d(x, self.weight, self.bias, padding=margin), f, stride=2, groups=len(f))
        if isinstance(f, Tensor):
            x = (halve if self.resize == "down" else double)(x, f.to(x.dtype))
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def norm(channels: int, layout: str) -> nn.GroupNorm:
    """Groups of at least four channels, 32 groups at most."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=EPS[layout])


class Block(nn.Module):
    """A residual block that may change resolution, and attention after it.

    Song's layout adds the embedding before the second norm, and multiplies every sum of two branches by sqrt(1/2);
    ADM's scales and shifts by it after that norm, and attends with heads of 64 channels.
    """

    def __init__(self, c: EDMConfig, inputs: int, outputs: int, resize: str = "", attention: bool = False):
        super().__init__()
        song = c.layout == "song"
        self.song, self.gain = song, HALF_ROOT if song else 1.0
        self.norm0, self.conv0 = norm(inputs, c.layout), Conv(inputs, outputs, 3, resize, c.taps)
        self.affine = nn.Linear(c.emb, outputs if song else 2 * outputs)
        self.norm1, self.conv1 = norm(outputs, c.layout), Conv(outputs, outputs, 3)
        mixed = inputs != outputs or (song and resize)
        self.skip = Conv(inputs, outputs, 1 if mixed else 0, resize, c.taps) if mixed or resize else None
        self.heads = 0 if not attention else 1 if song else max(1, outputs // 64)
        if attention:
            self.norm2 = norm(outputs, c.layout)
            self.qkv, self.proj = Conv(outputs, 3 * outputs, 1), Conv(outputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        z = self.conv0(F.silu(self.norm0(x)))
        e = self.affine(emb)[:, :, None, None]
        if self.song:
            z = self.norm1(z + e)
        else:
            scale, shift = e.chunk(2, dim=1)
            z = shift + (1 + scale) * self.norm1(z)
        z = self.gain * ((x if self.skip is None else self.skip(x)) + self.conv1(F.silu(z)))
        return self.gain * (z + self.attend(z)) if self.heads else z

    def attend(self, z: Tensor) -> Tensor:
        b, c, *sides = z.shape
        # channels are [heads, channels of a head, (q, k, v)]
        q, k, v = self.qkv(self.norm2(z)).reshape(b, self.heads, c // self.heads, 3, -1).transpose(2, 4).unbind(3)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, *sides))


class Frequencies(nn.Module):
    """[B] -> [B, 2n]: angles t w_i, their cosines and sines. Fixed frequencies are no part of the state; random ones
    are (`freqs`, in turns)."""

    def __init__(self, c: EDMConfig):
        super().__init__()
        self.n, self.song = c.noise // 2, c.layout == "song"
        if c.fourier:
            self.register_buffer("freqs", 16 * torch.randn(self.n))

    def forward(self, t: Tensor) -> Tensor:
        freqs = self._buffers.get("freqs")
        if freqs is None:
            last = self.n - 1 if self.song else self.n  # whether the last frequency is 1/10,000 or the one before it
            w = 10_000.0 ** (-torch.arange(self.n, device=t.device, dtype=t.dtype) / last)
        else:
            w = 2 * math.pi * freqs.to(t.dtype)
        angle = t[:, None] * w
        parts = (angle.sin(), angle.cos()) if self.song else (angle.cos(), angle.sin())
        return torch.cat(parts, dim=1)


# Networks.


class EDMUNet(nn.Module, ABC):
    """F(x [B, C, H, W], c_noise [B], code [B, classes] or None) -> [B, out, H, W]: the network inside the
    preconditioning. Abstract: `SongLayout`, `ADMLayout`.

    H and W are multiples of `multiple_of`. code: one-hot classes, or zeros for none. Augmentations are none.
    """

    def __init__(self, config: EDMConfig):
        super().__init__()
        self.config = c = config
        self.multiple_of = 2 ** (len(c.widths) - 1)
        self.map_noise = Frequencies(c)
        if c.augment:
            self.map_augment = nn.Linear(c.augment, c.noise, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(c.noise, c.emb), nn.Linear(c.emb, c.emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        width, kept = c.stem, [c.stem]
        for level, (side, out) in enumerate(zip(c.sides, c.widths, strict=True)):
            here = f"{side}x{side}_"
            if level:
                self.enc[here + "down"] = Block(c, width, width, "down")
                kept.append(width)
            else:
                self.enc[here + "conv"] = Conv(c.in_channels, c.stem, 3)
            for i in range(c.blocks):
                self.enc[f"{here}block{i}"] = Block(c, width, out, attention=c.attention[level])
                width = out
                kept.append(width)
        for level, (side, out) in reversed(list(enumerate(zip(c.sides, c.widths, strict=True)))):
            here = f"{side}x{side}_"
            if level + 1 == len(c.widths):
                self.dec[here + "in0"] = Block(c, width, width, attention=True)
                self.dec[here + "in1"] = Block(c, width, width)
            else:
                self.dec[here + "up"] = Block(c, width, width, "up")
            for i in range(c.blocks + 1):
                attends = c.attention[level] and (c.layout == "adm" or i == c.blocks)
                self.dec[f"{here}block{i}"] = Block(c, width + kept.pop(), out, attention=attends)
                width = out

    @abstractmethod
    def embed(self, time: Tensor, code: Tensor | None) -> Tensor:
        """What the blocks get of the noise level and the class."""

    def forward(self, x: Tensor, time: Tensor, code: Tensor | None = None) -> Tensor:
        if any(side % self.multiple_of for side in x.shape[2:]):
            raise ValueError(f"images of {tuple(x.shape[2:])} pixels: sides must be multiples of {self.multiple_of}")
        emb = self.embed(time, code)
        z, kept = self.down(x, emb)
        return self.up(z, kept, emb)

    def down(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The coarsest features, and what each part left for the way up."""
        z, aux, kept = x, x, list[Tensor]()
        for level, side in enumerate(self.config.sides):
            here = f"{side}x{side}_"
            z = self.enc[here + "down"](z, emb) if level else self.enc[here + "conv"](x)
            if level:
                z, aux = self.beside(here, z, aux)
            kept.append(z)
            for i in range(self.config.blocks):
                z = self.enc[f"{here}block{i}"](z, emb)
                kept.append(z)
        return z, kept

    def beside(self, here: str, z: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """The input's own way down, where there is one, added to a level's features."""
        return z, aux

    def up(self, z: Tensor, kept: list[Tensor], emb: Tensor) -> Tensor:
        out: Tensor | None = None
        for level, side in reversed(list(enumerate(self.config.sides))):
            here = f"{side}x{side}_"
            for part in ("in0", "in1") if level + 1 == len(self.config.widths) else ("up",):
                z = self.dec[here + part](z, emb)
            for i in range(self.config.blocks + 1):
                z = self.dec[f"{here}block{i}"](torch.cat([z, kept.pop()], dim=1), emb)
            out = self.outward(here, level, z, out)
        assert out is not None
        return out

    @abstractmethod
    def outward(self, here: str, level: int, z: Tensor, out: Tensor | None) -> Tensor | None:
        """What a level adds to the output."""


class SongLayout(EDMUNet):
    """DDPM++ and NCSN++ of Song et al. 2021b, as in Karras et al. 2022 (table 7 and appendix F)."""

    def __init__(self, config: EDMConfig):
        super().__init__(config)
        c, inputs = config, config.in_channels
        if c.classes:
            self.map_label = nn.Linear(c.classes, c.noise)
        for level, side in enumerate(c.sides):
            here, width = f"{side}x{side}_aux_", c.widths[level - 1]
            if level and c.aux_in == "skip":
                self.enc[here + "down"] = Conv(inputs, inputs, 0, "down", c.taps)
                self.enc[here + "skip"] = Conv(inputs, width, 1)
            elif level and c.aux_in == "residual":
                self.enc[here + "residual"] = Conv(inputs, width, 3, "down", c.taps, blur_last=True)
                inputs = width
            if level == 0 or c.aux_out == "skip":
                if level + 1 < len(c.widths) and c.aux_out == "skip":
                    self.dec[here + "up"] = Conv(c.out_channels, c.out_channels, 0, "up", c.taps)
                self.dec[here + "norm"] = norm(c.widths[level], "song")
                self.dec[here + "conv"] = Conv(c.widths[level], c.out_channels, 3)

    def embed(self, time: Tensor, code: Tensor | None) -> Tensor:
        e = self.map_noise(time).to(self.map_layer0.weight.dtype)
        if self.config.classes and code is not None:
            e = e + self.map_label(code.to(e.dtype) * math.sqrt(self.config.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(e))))

    def beside(self, here: str, z: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.aux_in == "skip":
            aux = self.enc[here + "aux_down"](aux)
            return z + self.enc[here + "aux_skip"](aux), aux
        if self.config.aux_in == "residual":
            z = HALF_ROOT * (z + self.enc[here + "aux_residual"](aux))
            return z, z
        return z, aux

    def outward(self, here: str, level: int, z: Tensor, out: Tensor | None) -> Tensor | None:
        if out is not None:
            out = self.dec[here + "aux_up"](out)
        if level and self.config.aux_out == "standard":
            return None
        own: Tensor = self.dec[here + "aux_conv"](F.silu(self.dec[here + "aux_norm"](z)))
        return own if out is None else out + own


class ADMLayout(EDMUNet):
    """ADM of Dhariwal & Nichol 2021, as in Karras et al. 2022 (table 7): other names than OpenAI's, the same idea."""

    def __init__(self, config: EDMConfig):
        super().__init__(config)
        if config.classes:
            self.map_label = nn.Linear(config.classes, config.emb, bias=False)
        self.out_norm, self.out_conv = norm(config.widths[0], "adm"), Conv(config.widths[0], config.out_channels, 3)

    def embed(self, time: Tensor, code: Tensor | None) -> Tensor:
        e = self.map_noise(time).to(self.map_layer0.weight.dtype)
        e = self.map_layer1(F.silu(self.map_layer0(e)))
        if self.config.classes and code is not None:
            e = e + self.map_label(code.to(e.dtype))
        return F.silu(e)

    def outward(self, here: str, level: int, z: Tensor, out: Tensor | None) -> Tensor | None:
        return None if level else self.out_conv(F.silu(self.out_norm(z)))
