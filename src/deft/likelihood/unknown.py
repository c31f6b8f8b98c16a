"""A degradation that nobody can write down: y is known from pairs (x, y) alone, without an operator.

    task = UnknownTask.from_pairs(prior.event_shape, y)      # y [N, *M] of any shape
    obs = task.observation(y)                                # what a learned h is shown, and nothing but one can use

The likelihood has a view of y for networks (`features`) and neither a density nor a gradient. y is standardised, by its
mean and deviation over the pairs: one of each a channel where y lies on a grid as samples do, one of each a number
where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.likelihood import Decoder, Likelihood, Observation, as_tensor
from deft.core.operator import Operator
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError
from deft.likelihood.task import Limits, OperatorTask
from deft.tensors import float32_default

FINEST = 4
"""A y that is larger than a sample is seen at up to so many times its size along an axis; what is finer is averaged."""
BEYOND = 1.5
"""Values of a picture this far out are in other units; a little beyond 1 may be noise."""
SINGLE = 4096
"""Up to so many numbers of a y that is on no grid are standardised one by one, more by one mean and deviation."""
NO_OPERATOR = (
    "this degradation is known from pairs alone: there is no operator A, no noise and no likelihood p(y | x). A fitted"
    " h (deft, amortised, ...) and the prior alone can be used; for another method name the task with its operator"
)


class Unknown(Likelihood):
    """p(y | x) that nobody can write down. It can be looked at (`features`), and nothing else: sampling y, its density,
    gradients and everything that is made of them are an `InputError`.

    Args:
        y_shape: *M. event_shape: *E of the samples that `features` is shaped like.
        mean, std: of y over the pairs: a number each for every channel (a y on a grid), or for every entry, or for all.
        pictures: y is a picture in [-1, 1], of one or three channels.

    `features`: a y with as many axes as a sample, two at least, lies *on a grid*: it is brought to the sample's size
    along each axis (a larger y to a multiple of it, whose cells become channels), and filled up with zero channels. Any
    other y is m numbers, laid out one after the other in as many sample-sized views as they need; where samples lie on
    a grid, a network looks at them through an encoder of its own (`deft.nn.encoder.Encoded`).

    >>> like = Unknown((3, 8, 8), (1, 16, 16), [0.0], [1.0])
    >>> like.features(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 3, 16, 16])
    >>> try:
    ...     like.log_prob(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 16, 16))
    ... except InputError as error:
    ...     print(str(error).split(":")[0])
    this degradation is known from pairs alone
    """

    has_density = False

    def __init__(
        self,
        y_shape: Sequence[int],
        event_shape: Sequence[int],
        mean: Sequence[float] | Tensor,
        std: Sequence[float] | Tensor,
        pictures: bool = False,
    ):
        self.y_shape, self.event_shape, self.pictures = tuple(y_shape), tuple(event_shape), pictures
        self.mean, self.std = torch.as_tensor(mean).float(), torch.as_tensor(std).float()

    @property
    def feature_channels(self) -> int:  # type: ignore[override]
        return views_of(self.y_shape, self.event_shape)

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        raise InputError(NO_OPERATOR)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        raise InputError(NO_OPERATOR)

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        raise InputError(NO_OPERATOR)

    def tempered(self, beta: float) -> Likelihood:
        raise InputError(NO_OPERATOR)

    def after(self, decoder: Decoder) -> Likelihood:
        """The same: its view is shaped like the latents already."""
        return self

    def check(self, y: Tensor) -> None:
        if tuple(y.shape[1:]) != self.y_shape or not y.is_floating_point():
            raise InputError(
                f"y has shape {tuple(y.shape)} of {str(y.dtype).removeprefix('torch.')}, expected floats (N,"
                f" {', '.join(map(str, self.y_shape))}): h was fitted to such y"
            )
        if not bool(torch.isfinite(y).all()):
            raise InputError("y has values that are not finite (NaN or infinite): h was fitted to finite ones")

    def standardised(self, y: Tensor) -> Tensor:
        """(y - mean) / std, in y's shape."""
        if on_grid(self.y_shape, self.event_shape):
            shape = (1, -1) + (1,) * (y.ndim - 2)
            return (y - self.mean.to(y).reshape(shape)) / self.std.to(y).reshape(shape)
        flat = (y.flatten(1) - self.mean.to(y)) / self.std.to(y)
        return flat.reshape(y.shape)

    def features(self, y: Tensor) -> Tensor:
        self.check(y)
        z, c, views = self.standardised(y), self.event_shape[0], self.feature_channels
        if not on_grid(self.y_shape, self.event_shape):
            flat = z.flatten(1)
            room = views * math.prod(self.event_shape)
            return F.pad(flat, (0, room - flat.shape[1])).reshape(len(y), views * c, *self.event_shape[1:])
        z = cells_to_channels(resized(z, self._finer()), finer(self.y_shape, self.event_shape))
        return torch.cat([z, z.new_zeros(len(z), views * c - z.shape[1], *z.shape[2:])], dim=1)

    def _finer(self) -> tuple[int, ...]:
        """The size to which y is brought: of a sample, or a multiple of it."""
        k = finer(self.y_shape, self.event_shape)
        return tuple(k * n for n in self.event_shape[1:])

    def picture(self, y: Tensor) -> Tensor:
        """A y that is a picture as it is, of its own size, in [-1, 1]; of another the standardised values, from -2.5 to
        2.5 deviations; of m numbers a square of m cells."""
        value = y if self.pictures else (self.standardised(y) / 2.5).clamp(-1, 1)
        if len(self.y_shape) == 3 and self.y_shape[0] in (1, 3):
            size = self.event_shape[1:] if len(self.event_shape) == 3 else value.shape[2:]
            grown = max(1, *(round(a / b) for a, b in zip(size, value.shape[2:], strict=True)))
            return value.repeat_interleave(grown, 2).repeat_interleave(grown, 3)
        flat = value.flatten(1)
        side = math.ceil(math.sqrt(flat.shape[1]))
        square = F.pad(flat, (0, side**2 - flat.shape[1]), value=-1.0).reshape(-1, 1, side, side)
        target = max(self.event_shape[1:], default=side)
        grown = max(1, math.ceil(target / side))
        return square.repeat_interleave(grown, 2).repeat_interleave(grown, 3)


def on_grid(y_shape: Sequence[int], event_shape: Sequence[int]) -> bool:
    """Whether y lies on a grid as samples do: as many axes, channels first, two to four of them."""
    return len(y_shape) == len(event_shape) and 2 <= len(event_shape) <= 4


def finer(y_shape: Sequence[int], event_shape: Sequence[int]) -> int:
    """At how many times the sample's size a y on a grid is seen: 1 to `FINEST`."""
    most = max(math.ceil(a / b) for a, b in zip(y_shape[1:], event_shape[1:], strict=True))
    return min(max(most, 1), FINEST)


def views_of(y_shape: Sequence[int], event_shape: Sequence[int]) -> int:
    """Sample-sized views that `Unknown.features` makes."""
    if on_grid(y_shape, event_shape):
        channels = y_shape[0] * finer(y_shape, event_shape) ** (len(event_shape) - 1)
        return -(-channels // event_shape[0])
    return -(-math.prod(y_shape) // math.prod(event_shape))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """x [B, C, *S] brought to another size: linear between cells, and averaged where it becomes smaller."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    if len(size) == 2:
        return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False, antialias=True)
    if all(a >= b for a, b in zip(x.shape[2:], size, strict=True)):
        return {1: F.adaptive_avg_pool1d, 3: F.adaptive_avg_pool3d}[len(size)](x, tuple(size))  # type: ignore[arg-type]
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def cells_to_channels(x: Tensor, k: int) -> Tensor:
    """x [B, C, k S_1, k S_2, ...] -> [B, C k^d, S_1, S_2, ...]."""
    if k == 1:
        return x
    d = x.ndim - 2
    split = x.reshape(*x.shape[:2], *(n for s in x.shape[2:] for n in (s // k, k)))
    order = (0, 1, *(3 + 2 * i for i in range(d)), *(2 + 2 * i for i in range(d)))
    return split.permute(order).flatten(1, 1 + d)


@dataclass(frozen=True)
class UnknownTask(OperatorTask):
    """What h is fitted to where nobody can write down how y was made. In no table of tasks: it is made from pairs.

    y_shape: *M. event_shape: *E of the prior. mean, std: of y over the pairs, see `Unknown`. pictures: y is a picture
    in [-1, 1], which may come as a file.

    >>> task = UnknownTask.from_pairs((1, 16, 16), torch.arange(12.0).reshape(6, 2))
    >>> task.mean, task.encode, len(task.observation(torch.zeros(3, 2)))
    ((5.0, 6.0), 2, 3)
    """

    name = "unknown"
    title = "an unknown degradation"
    about = "pairs (x, y) alone, no operator: `deft fit --pairs` without --task (docs/pairs.md)"
    feature_channels: ClassVar[int] = cast(
        int, property(lambda self: views_of(self.y_shape, self.event_shape))
    )  # by the shape of y, where other tasks have a number
    sigma_y: float = 0.0
    y_shape: tuple[int, ...] = ()
    event_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pictures: bool = False

    def __post_init__(self) -> None:
        for key in ("y_shape", "event_shape"):
            object.__setattr__(self, key, tuple(int(n) for n in getattr(self, key)))
        for key in ("mean", "std"):
            object.__setattr__(self, key, tuple(float(v) for v in getattr(self, key)))
        if not self.y_shape or not self.event_shape or min(*self.y_shape, *self.event_shape) < 1:
            raise InputError(
                f"{self.name}: y_shape and event_shape are shapes, got {self.y_shape} and {self.event_shape}: make the"
                " task from pairs (UnknownTask.from_pairs, deft fit --pairs)"
            )
        wanted = {len(_standard_shape(self.y_shape, self.event_shape))} if self.mean else set()
        if len(self.mean) != len(self.std) or len(self.mean) not in wanted or not min(self.std) > 0:
            raise InputError(
                f"{self.name}: {len(self.mean)} means and {len(self.std)} deviations above 0 for y of shape"
                f" {self.y_shape}, expected {wanted}"
            )

    @classmethod
    def from_pairs(cls, event_shape: Sequence[int], y: Tensor, *, pictures: bool | None = None) -> UnknownTask:
        """The task of these measurements y [N, *M] of samples [*E].

        pictures: whether y is a picture in [-1, 1]. Default: it has the axes of one (1 or 3 channels), and its values
            are.

        Raises:
            InputError: y has no entries, values that are not finite, or the same value everywhere.
        """
        if y.ndim < 1 or y.numel() == 0 or y.is_complex():
            raise InputError(
                f"y has shape {tuple(y.shape)} of {str(y.dtype).removeprefix('torch.')}, expected real numbers [N, ...]"
                " (of complex ones real and imaginary part as channels: torch.view_as_real(y).movedim(-1, 1))"
            )
        y = y.float()
        y = y[:, None] if y.ndim == 1 else y
        if not bool(torch.isfinite(y).all()):
            raise InputError(f"y has {int((~torch.isfinite(y)).sum())} values that are not finite (NaN or infinite)")
        shape = tuple(y.shape[1:])
        parts = len(_standard_shape(shape, event_shape))
        values = y.double()
        rows = (
            values.transpose(0, 1).flatten(1)
            if on_grid(shape, event_shape)
            else values.flatten(1).mT
            if parts > 1
            else values.reshape(1, -1)
        )
        mean, std = rows.mean(1), rows.std(1, correction=0)
        largest = float(std.max())
        if not largest > 0:
            raise InputError(
                f"y is the same for all pairs (its first value is {float(y.flatten()[0]):.4g}): it says nothing of x"
            )
        std = torch.where(std > 1e-6 * largest, std, torch.ones_like(std))
        if pictures is None:
            pictures = len(shape) == 3 and shape[0] in (1, 3) and float(y.abs().max()) <= 1.0 and float(y.min()) < 0
        return cls(
            y_shape=shape,
            event_shape=tuple(event_shape),
            mean=tuple(_short(v) for v in mean.tolist()),
            std=tuple(_short(v) for v in std.tolist()),
            pictures=pictures,
        )

    @property
    def fixed(self) -> bool:
        return False

    @property
    def encode(self) -> int:
        """How many numbers of y a network must see through an encoder, where samples lie on a grid and y does not;
        else 0."""
        if len(self.event_shape) == 1 or on_grid(self.y_shape, self.event_shape):
            return 0
        return math.prod(self.y_shape)

    @property
    def form(self) -> dict[str, Any]:
        """Settings of a `DEFT` that does without the operator: no guide g among its inputs, and none beside them."""
        return {"inputs": ["x_t", "x_hat", "y"], "residual": False, "gate": False, "encode": self.encode}

    def config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "y_shape": list(self.y_shape),
            "event_shape": list(self.event_shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "pictures": self.pictures,
        }

    def noise_text(self) -> str:
        return "unknown"

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        raise InputError(NO_OPERATOR)

    @float32_default()
    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        raise InputError(
            "this degradation is known from pairs alone, and cannot be applied to other samples: give pairs x and y"
            " (deft evaluate --pairs, or data=(x, y))"
        )

    def observation(self, y: Tensor) -> Observation:
        """Measurements y [N, *M] for an h that was fitted to such ones."""
        like = Unknown(self.y_shape, self.event_shape, self.mean, self.std, self.pictures)
        like.check(y)
        return Observation(y, like)

    def check(self, event_shape: Sequence[int]) -> Observation:
        """The observation of a y of zeros."""
        return self.observation(torch.zeros(1, *self.y_shape))

    def arranged(self, array: np.ndarray, where: str, value_range: Limits | None = None) -> Tensor:
        """y [N, *M] of an array: a single one, a grey picture without its channel axis, channels last, and bytes of
        pictures are taken too. value_range: black and white of pictures.

        Raises:
            InputError: another shape, or values that are not finite; `where` names them.
        """
        value, wanted = as_tensor(array, where), self.y_shape
        if value.is_complex():
            raise InputError(f"{where} holds {array.dtype}, expected real numbers: h was fitted to such y")
        if value_range is not None:
            if not self.pictures:
                raise InputError(f"{where}: h was fitted to y in units of its own, not to pictures: leave --range out")
            value = 2 * (value.float() - value_range[0]) / (value_range[1] - value_range[0]) - 1
        elif self.pictures and value.dtype == torch.uint8:
            value = value.float() / 127.5 - 1
        elif self.pictures and not value.is_floating_point():
            raise InputError(f"{where} holds {array.dtype}, expected pictures: bytes, or floats from -1 to 1")
        value, given = value.float(), tuple(value.shape)
        if len(wanted) == 3:
            last = (*wanted[1:], wanted[0])
            if given in (wanted[1:], last) and wanted[0] == 1 and len(given) == 2:
                value = value[None, None]
            elif wanted[0] == 1 and given[1:] == wanted[1:] and len(given) == 3 and given != wanted:
                value = value[:, None]
            elif given[-3:] == last and given[-3:] != wanted:
                value = value.movedim(-1, -3)
        elif wanted == (1,) and value.ndim == 1 and len(value) > 1:
            value = value[:, None]
        value = value[None] if tuple(value.shape) == wanted else value
        if tuple(value.shape[1:]) != wanted:
            raise InputError(
                f"{where} has shape {given}, expected (N, {', '.join(map(str, wanted))}): h was fitted to y of this"
                " shape"
            )
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise InputError(f"{where} has {bad} values that are not finite (NaN or infinite)")
        low, high = float(value.min()), float(value.max())
        if self.pictures and max(-low, high) > BEYOND:
            raise InputError(
                f"{where} holds {low:.4g} to {high:.4g}, and h was fitted to pictures from -1 to 1: say what is black"
                " and white with --range LOW,HIGH"
            )
        return value


def _standard_shape(y_shape: Sequence[int], event_shape: Sequence[int]) -> range:
    """One index for each number of `mean` and `std`."""
    n = y_shape[0] if on_grid(y_shape, event_shape) else math.prod(y_shape)
    return range(n if on_grid(y_shape, event_shape) or n <= SINGLE else 1)


def _short(value: float) -> float:
    """With six digits, as a card keeps it."""
    return float(f"{value:.6g}")
