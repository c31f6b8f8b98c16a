"""The network of CSDI (Tashiro et al. 2021), under its published parameter names, written from the paper.

A gated residual network in the manner of DiffWave (Kong et al. 2021) over a table of K variables by L times, whose
layers attend along time and then along variables. It is shown two tables, the values that were observed and the noised
rest, and for each entry when it is, of which variable, and whether it was observed. Everything that shapes tell is read
from them (`CSDIConfig.from_shapes`).

Tashiro et al. (2021), "CSDI: Conditional Score-based Diffusion Models for Probabilistic Time Series Imputation",
https://arxiv.org/abs/2107.03502.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shapes = Mapping[str, tuple[int, ...]]
LONGEST_PERIOD = 10_000.0
"""Of the waves that code an hour (Vaswani et al. 2017), over 2 pi; and the highest frequency of those that code a
step."""


@dataclass(frozen=True)
class CSDIConfig:
    """What the shapes of a state dict say of its network, and heads, which they do not.

    variables: K. channels: of the residual layers. layers: how many of them. feature: numbers that code a variable.
    time: that code an hour. step: that code the step of the diffusion. widening: inner width of the attention layers.
    """

    variables: int = 35
    channels: int = 64
    layers: int = 4
    feature: int = 16
    time: int = 128
    step: int = 128
    widening: int = 64
    heads: int = 8

    @classmethod
    def from_shapes(cls, shapes: Shapes, heads: int = 8) -> CSDIConfig:
        """Raises KeyError for a tensor that is missing, ValueError for shapes of no such network."""
        variables, feature = shapes["embed_layer.weight"]
        channels, seen, _ = shapes["diffmodel.input_projection.weight"]
        step = shapes["diffmodel.diffusion_embedding.projection1.weight"][0]
        layer = "diffmodel.residual_layers.0."
        side = shapes[layer + "cond_projection.weight"][1]
        widening = shapes[layer + "time_layer.layers.0.linear1.weight"][0]
        layers = 1 + max(
            (int(k.split(".")[2]) for k in shapes if k.startswith("diffmodel.residual_layers.")), default=-1
        )
        time = side - feature - 1
        if seen != 2:
            raise ValueError(
                f"it is shown {seen} table{'s' * (seen != 1)} of values, and a network of CSDI that imputes two"
            )
        if time < 2 or time % 2 or step < 4 or step % 2 or channels % heads or heads < 1:
            raise ValueError(
                f"{channels} channels in {heads} heads, {time} numbers for an hour and {step} for a step do not go"
                " together"
            )
        return cls(variables, channels, layers, feature, time, step, widening, heads)


def by_entry(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of width 1 over [..., C], channels last: the published layers are such, and work on each entry."""
    return F.linear(x, layer.weight[..., 0], layer.bias)


class Attention(nn.Module):
    """Self-attention over [B, N, C], in heads of C / H channels: softmax(q k^T / sqrt(C / H)) v."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(seen.transpose(1, 2).reshape(b, n, c))
        return out


class EncoderLayer(nn.Module):
    """A layer of a Transformer's encoder (Vaswani et al. 2017), normalised after each sum, with a GELU."""

    def __init__(self, c: CSDIConfig):
        super().__init__()
        self.self_attn = Attention(c.channels, c.heads)
        self.linear1, self.linear2 = nn.Linear(c.channels, c.widening), nn.Linear(c.widening, c.channels)
        self.norm1, self.norm2 = nn.LayerNorm(c.channels), nn.LayerNorm(c.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x))
        out: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return out


class Encoder(nn.Module):
    """One such layer; the name `layers` is that of the published parameters."""

    def __init__(self, c: CSDIConfig):
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(c)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ResidualLayer(nn.Module):
    """z, step, side -> (z', skip): attention along time, then along variables, a gate, two ways out.

    u = W_m attend(z + W_d step) + W_c side = (u_1, u_2);    W_o (sigmoid(u_1) tanh(u_2)) = (r, skip);
    z' = (z + r) / sqrt(2).
    """

    def __init__(self, c: CSDIConfig):
        super().__init__()
        self.time, self.feature = c.time, c.feature
        self.diffusion_projection = nn.Linear(c.step, c.channels)
        self.cond_projection = nn.Conv1d(c.time + c.feature + 1, 2 * c.channels, 1)
        self.mid_projection = nn.Conv1d(c.channels, 2 * c.channels, 1)
        self.output_projection = nn.Conv1d(c.channels, 2 * c.channels, 1)
        self.time_layer, self.feature_layer = Encoder(c), Encoder(c)

    def side(self, when: Tensor, which: Tensor, mask: Tensor) -> Tensor:
        """W_c of (when, which, mask) at every entry, [B or 1, K, L, 2 C]. when [L, time] and which [K, feature] are the
        same along an axis, so each has its own part of W_c."""
        of_time, of_variable, of_mask = self.cond_projection.weight[..., 0].split([self.time, self.feature, 1], 1)
        there = F.linear(when, of_time, self.cond_projection.bias) + F.linear(which, of_variable)[:, None]
        return there + mask[..., None] * of_mask[:, 0]

    def forward(self, z: Tensor, step: Tensor, when: Tensor, which: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        b, k, n, c = z.shape
        y = z + self.diffusion_projection(step)[:, None, None]
        y = self.time_layer(y.reshape(b * k, n, c)).reshape(b, k, n, c).transpose(1, 2)
        y = self.feature_layer(y.reshape(b * n, k, c)).reshape(b, n, k, c).transpose(1, 2)
        gate, value = (by_entry(self.mid_projection, y) + self.side(when, which, mask)).chunk(2, -1)
        rest, skip = by_entry(self.output_projection, gate.sigmoid() * value.tanh()).chunk(2, -1)
        return (z + rest) / math.sqrt(2), skip


class StepEmbedding(nn.Module):
    """The step t, perhaps between two: (sin, cos)(t f_j), f_j from 1 to 10^4 in even steps of the logarithm (Kong et
    al. 2021), through two layers.

    The highest waves mean nothing between two whole steps: there the two neighbours' codes are interpolated.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.projection1, self.projection2 = nn.Linear(width, width), nn.Linear(width, width)
        half = width // 2
        f = LONGEST_PERIOD ** (torch.arange(half, dtype=torch.float64) / (half - 1))
        self.register_buffer("frequencies", f, persistent=False)

    def code(self, step: Tensor) -> Tensor:
        # in double precision: 49 times 10^4 radians have an error of a hundredth in single
        at = step.double()[:, None] * self.frequencies.double()
        return torch.cat([at.sin(), at.cos()], 1).to(self.projection1.weight.dtype)

    def forward(self, step: Tensor) -> Tensor:
        low = step.floor()
        share = (step - low).to(self.projection1.weight.dtype)[:, None]
        code = torch.lerp(self.code(low), self.code(low + 1), share)
        return F.silu(self.projection2(F.silu(self.projection1(code))))


class Inner(nn.Module):
    """The network behind the tables and their codes; the name `diffmodel` is that of the published parameters."""

    def __init__(self, c: CSDIConfig):
        super().__init__()
        self.diffusion_embedding = StepEmbedding(c.step)
        self.input_projection = nn.Conv1d(2, c.channels, 1)
        self.output_projection1 = nn.Conv1d(c.channels, c.channels, 1)
        self.output_projection2 = nn.Conv1d(c.channels, 1, 1)
        self.residual_layers = nn.ModuleList(ResidualLayer(c) for _ in range(c.layers))

    def forward(self, tables: Tensor, when: Tensor, which: Tensor, mask: Tensor, step: Tensor) -> Tensor:
        """tables [B, K, L, 2], when [L, time], which [K, feature], mask [B or 1, K, L], step [B] -> [B, K, L]."""
        z = F.relu(by_entry(self.input_projection, tables))
        code = self.diffusion_embedding(step)
        total = torch.zeros_like(z)
        for layer in self.residual_layers:
            z, skip = layer(z, code, when, which, mask)
            total = total + skip
        total = total / math.sqrt(len(self.residual_layers))
        return by_entry(self.output_projection2, F.relu(by_entry(self.output_projection1, total)))[..., 0]


class CSDINet(nn.Module):
    """net(x_t [B, K, L], step [B], y, mask) -> E[n | x_t, y], [B, K, L].

    y: the observed values, 0 elsewhere; mask: 1 where they are, [B, K, L]. Without them nothing was observed. What is
    returned for an entry that was observed means nothing: the network was trained on the others alone.
    """

    def __init__(self, config: CSDIConfig | None = None):
        super().__init__()
        self.config = c = config or CSDIConfig()
        self.embed_layer = nn.Embedding(c.variables, c.feature)
        self.diffmodel = Inner(c)

    def hours(self, length: int) -> Tensor:
        """The code of each time l, [L, time]: sin and cos of l / 10^4^(2i / time) in turn (Vaswani et al. 2017)."""
        where = self.embed_layer.weight
        i = torch.arange(0, self.config.time, 2, dtype=torch.float64, device=where.device)
        at = torch.arange(length, dtype=torch.float64, device=where.device)[:, None]
        at = at / LONGEST_PERIOD ** (i / self.config.time)
        return torch.stack([at.sin(), at.cos()], -1).flatten(1).to(where.dtype)

    def forward(self, x: Tensor, step: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        mask = x.new_zeros((1, *x.shape[1:])) if mask is None else mask.to(x)
        seen = torch.zeros_like(x) if y is None else mask * y
        tables = torch.stack([seen, (1 - mask) * x], -1)
        out: Tensor = self.diffmodel(tables, self.hours(x.shape[-1]), self.embed_layer.weight, mask, step)
        return out
