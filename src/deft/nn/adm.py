"""The UNet of "Diffusion models beat GANs" (ADM; Dhariwal & Nichol 2021), under its published parameter names.

The published files load into it as they are: the same names, the same shapes, the same function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
"""image size -> channels of each level over `num_channels`, when none are given."""

SCHEDULES = ("linear", "cosine")
GROUPS = 32
Weighted = TypeVar("Weighted", nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class ADMConfig:
    """The published flags, under their published names; what is not given has the published default.

    channel_mult: channels of each level over num_channels; None: `CHANNEL_MULT[image_size]`.
    attention_resolutions: image sides at which there is attention, "32,16,8" or (32, 16, 8).
    num_head_channels: channels of one head; -1: num_heads heads of whatever is left (the two are exclusive).
    use_fp16: whether the trunk ran in half precision; how a file is loaded is the loader's choice (`trunk_to`).
    rescale_timesteps: the network hears 1000 t / diffusion_steps in place of the index t.

    Once made, channel_mult and attention_resolutions are tuples. `ValueError`: flags that contradict each other.

    >>> ADMConfig(image_size=256, attention_resolutions="32,16,8").attention_levels
    (False, False, False, True, True, True)
    """

    image_size: int = 64
    in_channels: int = 3
    num_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: tuple[float, ...] | None = None
    learn_sigma: bool = False
    class_cond: bool = False
    num_classes: int = 1000
    attention_resolutions: str | tuple[int, ...] = "16,8"
    num_heads: int = 4
    num_head_channels: int = -1
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    dropout: float = 0.0
    use_fp16: bool = False
    noise_schedule: str = "linear"
    diffusion_steps: int = 1000
    rescale_timesteps: bool = False

    def __post_init__(self) -> None:
        mult, sides = self.channel_mult, self.attention_resolutions
        if mult is None:
            if self.image_size not in CHANNEL_MULT:
                known = ", ".join(map(str, CHANNEL_MULT))
                raise ValueError(f"no default channel_mult for image_size {self.image_size} (only {known}): give one")
            mult = CHANNEL_MULT[self.image_size]
        if isinstance(sides, str):
            sides = tuple(int(side) for side in sides.split(",") if side.strip())
        if self.noise_schedule not in SCHEDULES:
            raise ValueError(f"noise_schedule {self.noise_schedule!r}: expected one of {', '.join(SCHEDULES)}")
        if not mult or min(self.image_size, self.in_channels, self.num_channels, self.num_res_blocks, *mult) <= 0:
            raise ValueError(f"sizes, channels, channel_mult and num_res_blocks must be above 0, got {self!r}")
        whole = tuple(int(m) if float(m).is_integer() else float(m) for m in mult)
        object.__setattr__(self, "channel_mult", whole)
        object.__setattr__(self, "attention_resolutions", tuple(sorted({int(s) for s in sides}, reverse=True)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(int(m * self.num_channels) for m in self.channel_mult or ())

    @property
    def attention_levels(self) -> tuple[bool, ...]:
        """Whether a level has attention: level l has images of side image_size / 2^l."""
        factors = {self.image_size // int(side) for side in self.attention_resolutions}
        return tuple(2**level in factors for level in range(len(self.widths)))

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    def heads(self, channels: int) -> int:
        """Number of attention heads of a layer with so many channels."""
        size = channels // max(1, self.num_heads) if self.num_head_channels == -1 else self.num_head_channels
        count = self.num_heads if self.num_head_channels == -1 else channels // max(1, size)
        if count < 1 or count * size != channels:
            flags = f"num_head_channels={self.num_head_channels}, num_heads={self.num_heads}"
            raise ValueError(f"{channels} channels do not split into the heads of {flags}: give a divisor")
        return count


def sinusoids(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """[B] -> [B, dim]: cos(t w_i), then sin(t w_i), w_i = max_period^(-i/n), i < n = dim // 2; an odd dim ends in 0."""
    n = dim // 2
    t = t if t.dtype == torch.float64 else t.float()
    w = torch.exp(-math.log(max_period) / n * torch.arange(n, dtype=t.dtype, device=t.device))
    angle = t[:, None] * w
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, dim % 2))


def _zero(layer: Weighted) -> Weighted:
    """The branch that ends here starts as a no-op."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Norm(nn.GroupNorm):
    """Group normalisation in at least float32, whatever the trunk computes in: half precision sums overflow."""

    def __init__(self, channels: int):
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.group_norm(x.to(wide), self.num_groups, weight, bias, self.eps).to(x.dtype)


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


RESIZE = {"": lambda x: x, "down": _halve, "up": _double}


class ResBlock(nn.Module):
    """Norm, SiLU, conv, the time mixed in, norm, SiLU, dropout, conv; plus the input.

    With `resize` both branches change resolution ("down": mean of 2x2, "up": nearest) before the first conv.
    With `scale_shift` the time scales and shifts the second norm's output; without, it is added before that norm.
    """

    def __init__(self, inputs: int, outputs: int, emb: int, dropout: float, scale_shift: bool, resize: str = ""):
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(Norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * outputs if scale_shift else outputs))
        self.out_layers = nn.Sequential(
            Norm(outputs), nn.SiLU(), nn.Dropout(dropout), _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        resize = RESIZE[self.resize]
        norm, silu, conv = self.in_layers
        z = conv(resize(silu(norm(x))))
        e = self.emb_layers(emb).to(z.dtype)[:, :, None, None]
        norm, silu, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            z = torch.addcmul(shift, norm(z), 1 + scale)
        else:
            z = norm(z + e)
        return self.skip_connection(resize(x)) + conv(dropout(silu(z)))


class Attention(nn.Module):
    """Self-attention over all pixels: softmax(q^T k / sqrt(d)) v, d the channels of a head; plus the input.

    The 3 C channels of qkv are read as [heads, 3, d] (the published files) or as [3, heads, d] (`new_order`).
    """

    def __init__(self, channels: int, heads: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        b, c, *sides = x.shape
        flat = x.reshape(b, c, -1)
        shape = (b, 3, self.heads, c // self.heads, -1) if self.new_order else (b, self.heads, 3, c // self.heads, -1)
        qkv = self.qkv(self.norm(flat)).reshape(shape).transpose(-1, -2)
        q, k, v = qkv.unbind(1 if self.new_order else 2)
        z = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, -1)
        return (flat + self.proj_out(z)).reshape(b, c, *sides)


class Downsample(nn.Module):
    """Half the side by a strided 3x3 conv."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the side by nearest neighbours and a 3x3 conv."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(_double(x))


class ADMUNet(nn.Module):
    """net(x [B, C, H, W], timesteps [B], y=None) -> [B, C or 2 C, H, W]: predicted noise, and the variance if learned.

    timesteps: the index into the table of betas, 0..diffusion_steps-1, or between two; y: class of each image, [B]
    integers, if and only if class_cond. H and W are multiples of `multiple_of`; image_size only places the attention.

    Source: Dhariwal & Nichol 2021, section 3 and appendix; after Nichol & Dhariwal 2021 and Ho et al. 2020.
    """

    def __init__(self, config: ADMConfig):
        super().__init__()
        self.config = config
        widths, attention, channels = config.widths, config.attention_levels, config.num_channels
        emb = 4 * channels
        self.multiple_of = 2 ** (len(widths) - 1)

        def res(inputs: int, outputs: int, resize: str = "") -> ResBlock:
            return ResBlock(inputs, outputs, emb, config.dropout, config.use_scale_shift_norm, resize)

        def attend(c: int) -> Attention:
            return Attention(c, config.heads(c), config.use_new_attention_order)

        self.time_embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        if config.class_cond:
            self.label_emb = nn.Embedding(config.num_classes, emb)

        c = widths[0]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.in_channels, c, 3, padding=1)])])
        skips = [c]  # channels of what each input block leaves for the way up
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                parts: list[nn.Module] = [res(c, width)]
                c = width
                if attention[level]:
                    parts.append(attend(c))
                self.input_blocks.append(nn.ModuleList(parts))
                skips.append(c)
            if level + 1 < len(widths):
                down = res(c, c, "down") if config.resblock_updown else Downsample(c)
                self.input_blocks.append(nn.ModuleList([down]))
                skips.append(c)

        self.middle_block = nn.ModuleList([res(c, c), attend(c), res(c, c)])

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(config.num_res_blocks + 1):
                parts = [res(c + skips.pop(), width)]
                c = width
                if attention[level]:
                    parts.append(attend(c))
                if level and i == config.num_res_blocks:
                    parts.append(res(c, c, "up") if config.resblock_updown else Upsample(c))
                self.output_blocks.append(nn.ModuleList(parts))

        self.out = nn.Sequential(Norm(c), nn.SiLU(), _zero(nn.Conv2d(c, config.out_channels, 3, padding=1)))

    def trunk_to(self, dtype: torch.dtype) -> ADMUNet:
        """Put the trunk's convolutions into `dtype`; embeddings, norms and the last layers stay as they are.

        The way the published models run in half precision: what is summed over many pixels or steps stays float32.
        """
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for layer in part.modules():
                if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                    layer.to(dtype)
        return self

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        if (y is not None) != self.config.class_cond:
            wanted = "class-conditional: give y, one class an image" if y is None else "unconditional: give no y"
            raise ValueError(f"this network is {wanted}")
        if any(side % self.multiple_of for side in x.shape[2:]):
            raise ValueError(f"images of {tuple(x.shape[2:])} pixels: sides must be multiples of {self.multiple_of}")
        first, *blocks = self.input_blocks
        features = sinusoids(timesteps, self.config.num_channels)
        emb = self.time_embed(features.to(next(self.time_embed.parameters()).dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        z = first[0](x.to(next(first.parameters()).dtype))  # type: ignore[index]
        skips = [z]
        for block in blocks:
            z = _run(block, z, emb)
            skips.append(z)
        z = _run(self.middle_block, z, emb)
        for block in self.output_blocks:
            z = _run(block, torch.cat([z, skips.pop()], dim=1), emb)
        return self.out(z.to(next(self.out.parameters()).dtype)).to(x.dtype)


def _run(parts: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    for part in parts.children():
        x = part(x, emb)
    return x
