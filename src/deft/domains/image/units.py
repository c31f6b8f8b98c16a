"""In which units a measurement of images came: of images in [-1, 1], in [0, 1], in grey levels. What cannot be told is
asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from deft.errors import InputError
from deft.likelihood import Likelihood
from deft.likelihood.task import Arrays, Change, Limits
from deft.operator import Operator


class Pictured(Protocol):
    """What is asked of a task here. pictures: y is a picture with values in [-1, 1]."""

    name: ClassVar[str]
    pictures: ClassVar[bool]

    @property
    def sigma_y(self) -> float: ...

    def likelihood(self, operator: Operator) -> Likelihood: ...

    def range_hint(self, values: np.ndarray) -> str: ...


def in_our_units(
    y: Tensor, task: Pictured, operator: Operator, event_shape: Sequence[int], value_range: Limits
) -> Tensor:
    """y [N, *M] that was measured of images u in [low, high], as if it had been of x = s u + o in [-1, 1].

    Of a linear A: s y + A(o), its noise s times as large. Of a non-linear one whose y is a picture: s y + o. Of photon
    counts: (y - low)/(high - low), the share of white.

    Raises:
        InputError: y is no such function of the image (magnitudes, say); a range that is none.

    >>> import torch
    >>> from deft.domains.image.tasks import SuperResolution
    >>> from deft.operator import BlockAverage
    >>> in_our_units(torch.tensor([[[[0.25]]]]), SuperResolution(), BlockAverage(4), (1, 4, 4), (0.0, 1.0))
    tensor([[[[-0.5000]]]])
    """
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"--range takes black and white, two numbers with the lower first, got {low:g},{high:g}")
    s = 2 / (high - low)
    o = -1 - s * low
    rescaled = task.likelihood(operator).rescaled(y, s, o, event_shape)
    if rescaled is not None:
        return rescaled
    if task.pictures:
        return s * y + o
    if (low, high) == (-1.0, 1.0):
        return y
    raise InputError(
        f"--range {low:g},{high:g} cannot be carried out: y of {task.name} is neither a picture nor linear in the"
        " image; measure images in [-1, 1]"
    )


def range_hint(top: float) -> str:
    """The range that values up to `top` look like, as an option's value."""
    return " 0,1" if top <= 1.5 else " 0,255" if top <= 260 else " 0,4095" if top <= 4200 else " 0,65535"


def question(where: str, seen: Tensor, task: Pictured) -> None:
    """Refuse measured values of a file that does not say its units, where they look like another range's."""
    if not task.pictures:
        return
    values = seen.double().numpy()
    low, top = np.quantile(values, [0.01, 0.99]).tolist()
    noise = 3 * task.sigma_y
    if low > -0.25 - 0.4 * noise and top > 0.0 and values.min() > -0.5 - noise:
        raise InputError(
            f"{where}[y] holds values from {values.min():.3g} to {values.max():.3g}, and hardly any below 0; images are"
            f" in [-1, 1]: give --range{task.range_hint(values)} (or --range=-1,1 if they are right as they are)"
        )
    if max(abs(low), abs(top)) > 1.5 + noise:
        raise InputError(
            f"{where}[y] holds values from {values.min():.3g} to {values.max():.3g}, and images are in [-1, 1]: say"
            " what black and white were with --range LOW,HIGH (or --range=-1,1 if they are right as they are)"
        )


def check_mask_sense(where: str, y: Tensor, measured: Tensor, pictures: bool) -> None:
    """Refuse a mask that is evidently the other way round. pictures: y is one, with what is hidden filled in."""
    if not bool((~measured).any()):
        return
    seen, hidden = y[measured], y[~measured]
    if pictures and bool((seen == seen[0]).all()) and not bool((hidden == hidden[0]).all()):
        raise InputError(
            f"{where}: every pixel that its mask calls seen has the value {float(seen[0]):g}, and the others differ: 1"
            " is seen and 0 hidden; is the mask the other way round? Give 1 - mask (of a picture with --mask:"
            " --mask-hole white)"
        )
    if not pictures and float((seen == 0).float().mean()) > 0.3 and float((hidden != 0).float().mean()) > 0.05:
        raise InputError(
            f"{where}: y is 0 at many places that its mask calls measured, and not 0 at many that it calls not"
            " measured: the mask is the other way round (give 1 - mask), or y and mask are in different orders (one of"
            " them shifted or transposed)"
        )


# other ways in which a measurement may have been made


def other_ranges(y: np.ndarray) -> list[Change]:
    """Of images in [0, 1], [0, 255], ..., where y may be of such."""
    top = float(np.abs(y).max())
    return [
        Change(f"of images in [{a:g}, {b:g}]", f"--range {a:g},{b:g}", value_range=(a, b))
        for a, b in ((0, 1), (0, 255), (0, 4095), (0, 65535))
        if b / 50 < top and (b > 1 or top < 200)
    ]


def turned(y: np.ndarray) -> list[Change]:
    """Of a picture y: turned, mirrored, negative."""
    found = [
        Change(
            "upside down", "flip y (and mask) along its rows: y[..., ::-1, :]", _on_images(lambda v: v[..., ::-1, :])
        ),
        Change(
            "left and right swapped",
            "flip y (and mask) along its columns: y[..., ::-1]",
            _on_images(lambda v: v[..., ::-1]),
        ),
        Change(
            "black and white swapped", "give -y", lambda a: {**a, "y": np.ascontiguousarray(-a["y"].astype(np.float64))}
        ),
    ]
    if y.shape[-1] == y.shape[-2]:
        found.append(
            Change(
                "rows and columns swapped",
                "swap the last two axes of y (and mask)",
                _on_images(lambda v: v.swapaxes(-1, -2)),
            )
        )
    return found


def _on_images(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    """y and a mask alike."""
    return lambda a: {
        k: np.ascontiguousarray(change(v)) if k in ("y", "mask") and v.ndim >= 2 else v for k, v in a.items()
    }
