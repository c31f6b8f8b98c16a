"""Measurements as files: an .npz with y, what was drawn for it (a mask, a blur kernel), and the task's settings.

    deft measure --task ct --data photos/ --out scans.npz
    deft sample run --measurement scans.npz --row 3
    deft sample --prior ct --measurement scans.npz          # of the task it was made with

A file made elsewhere needs `y` [N, *M] (or [*M]) and, for tasks whose operator differs from image to image, the tensor that
`deft list` names (`mask`, `kernel`); `task`, the settings as JSON, is compared if it is there.

Units: y is what the operator makes of images in [-1, 1]. With `value_range` (low, high) it was made of images u in that range,
x = s u + o with s = 2/(high - low) and o = -1 - s low, and is brought to the same units (`in_our_units`). A file that does
not say its task, and whose values look like those of another range, is a question and not a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.likelihood import as_tensor
from deft.core.random import BatchNoise
from deft.domains.image.tasks import Drawn, ImageTask, LowLight, get_task, other_settings
from deft.errors import ContractError, InputError
from deft.io.arrays import read_arrays, save_arrays
from deft.io.text import shape_text
from deft.likelihood import Gaussian, Likelihood, Observation, Poisson
from deft.operator import LinearOperator, Operator


def save_measurement(path: str | Path, obs: Observation, task: ImageTask, **more: Any) -> None:
    """Write an observation of a task; `more` are further arrays (the truth, say)."""
    arrays: dict[str, Any] = {"y": obs.y, "task": np.array(json.dumps(task.config())), **more}
    if task.drawn:
        arrays[task.drawn] = getattr(operator_of(obs.likelihood), task.drawn)
    save_arrays(path, **arrays)


def operator_of(likelihood: Likelihood) -> Operator:
    """The operator of a likelihood that has one."""
    if isinstance(likelihood, (Gaussian, Poisson)):
        return likelihood.operator
    raise InputError(f"{type(likelihood).__name__} has no operator")


def is_measurement(path: str | Path) -> bool:
    """Whether a file is an .npz with a `y` in it, rather than a picture."""
    path = Path(path)
    return path.suffix == ".npz" and path.exists() and "y" in read_arrays(path)


def read_measurement(path: str | Path, task: ImageTask, event_shape: Sequence[int], value_range: Limits | None = None) -> Observation:
    """The observation in a file, as one of `task` for images of a shape. value_range: black and white of the images that y was made of.

    Raises `InputError`: a file of another task or of other settings (other noise is allowed: the given task's counts), y of a
    shape that the task does not make, values that are not finite or all zero, a missing mask or kernel.
    """
    path = Path(path)
    arrays = read_arrays(path)
    if "y" not in arrays:
        raise InputError(f"{path} has no array y: a measurement file holds y" + (f" and {task.drawn}" if task.drawn else ""))
    if "task" in arrays:
        _check_task(path, str(arrays["task"]), task)
    return observation(str(path), arrays, task, event_shape, value_range, sure="task" in arrays)


def task_of(path: str | Path) -> ImageTask | None:
    """The task with which `deft measure` made a file; None for a picture, and for a file that does not say."""
    arrays = read_arrays(Path(path)) if is_measurement(path) else {}
    if "task" not in arrays:
        return None
    made = _described(Path(path), str(arrays["task"]))
    try:
        name = made.pop("name", None)
        usual = get_task(str(name))
        for key, value in made.items():
            kind = type(getattr(usual, key, value))
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise InputError(f"{key} is {value!r}")
            if isinstance(value, str) and value and key not in (*usual.choices, *usual.switches):
                raise InputError(f"{key} names a file, {value}")  # whoever made this file does not choose what is opened here
        return get_task(usual.name, **{k: float(v) if type(v) is int and isinstance(getattr(usual, k, v), float) else v for k, v in made.items()})
    except InputError as error:
        raise InputError(f"{path} does not say of what task it is in a way that is understood here ({error}): name one with --task, and its settings with --task-option") from error


def _described(path: Path, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: `task` is no JSON object ({error}); leave it out if the file is not of `deft measure`") from error


def _check_task(path: Path, text: str, task: ImageTask) -> None:
    made = _described(path, text)
    wanted = task.config()
    if made.get("name") != wanted["name"]:
        raise InputError(f"{path} is a measurement of the task {made.get('name')}, not of {wanted['name']}: give one of the same task")
    other = other_settings(made, task)
    if other:
        raise InputError(f"{path} was measured by another operator: {'; '.join(other)}")


def observation(
    where: str, arrays: Mapping[str, np.ndarray], task: ImageTask, event_shape: Sequence[int], value_range: Limits | None = None, *, sure: bool = True
) -> Observation:  # fmt: skip
    """An observation from arrays y and, if the task draws one, a mask or kernel; `where` names them in errors.

    value_range: see the module. sure: y is known to be in the units of images in [-1, 1]; otherwise values that look like another range's
    are refused with the question.
    """
    probe = task.check(event_shape)
    if arrays["y"].dtype.kind in "iub" and value_range is None:
        raise InputError(
            f"{where}[y] holds {arrays['y'].dtype} values, {arrays['y'].min()} to {arrays['y'].max()}: say what black and white of the images were with "
            f"--range{_asked(arrays['y'].astype(np.float64), task)}"
        )
    y = _tensor(arrays["y"], f"{where}[y]", task.elsewhere)
    y = y[None] if y.ndim == probe.y.ndim - 1 else y
    if y.shape[1:] != probe.y.shape[1:]:
        raise InputError(
            f"{where}[y] has shape {tuple(y.shape)}; the task {task.name} makes (N, {', '.join(map(str, probe.y.shape[1:]))}) of images of {shape_text(event_shape)}"
            + (f"; {task.elsewhere}" if task.elsewhere else "")
        )
    if len(y) == 0:
        raise InputError(f"{where}[y] holds 0 measurements")
    for i, row in enumerate(y):
        if not bool(row.any()) and value_range is None:
            raise InputError(f"{where}[y]: measurement number {i} is all zeros: nothing was measured, or it was not filled in")
    if isinstance(task, Drawn):
        if task.drawn not in arrays:
            raise InputError(f"{where} lacks the array {task.drawn!r}: the operator of {task.name} differs from image to image, and is needed with y")
        operator = task.build(_drawn(arrays[task.drawn], f"{where}[{task.drawn}]", task, event_shape, len(y)))
    else:
        operator = task.operator(torch.zeros(len(y), *event_shape), BatchNoise(len(y), 0))
    measured = operator.restrict(torch.ones_like(y)) != 0
    empty = (~measured.flatten(1).any(1)).nonzero()
    if len(empty):
        raise InputError(f"{where}: measurement number {int(empty[0])} measures nothing: its {getattr(task, 'drawn', '') or 'mask'} hides everything (1 is seen, 0 hidden)")
    if task.drawn == "mask" and task.pictures and bool((~measured).any()):
        seen, hidden = y[measured], y[~measured]
        if bool((seen == seen[0]).all()) and not bool((hidden == hidden[0]).all()):
            raise InputError(
                f"{where}: every pixel that its mask calls seen has the value {float(seen[0]):g}, and the others differ: 1 is seen and 0 hidden; is the mask the "
                "other way round? Give 1 - mask (of a picture with --mask: --mask-hole white)"
            )
    hidden_too = task.drawn == "mask" and not task.pictures and bool((~measured).any())
    if hidden_too and float((y[measured] == 0).float().mean()) > 0.3 and float((y[~measured] != 0).float().mean()) > 0.05:
        raise InputError(
            f"{where}: y is 0 at many places that its mask calls measured, and not 0 at many that it calls not measured: the mask is the other way round "
            "(give 1 - mask), or y and mask are in different orders (one of them shifted or transposed)"
        )
    if value_range is not None:
        y = in_our_units(y, task, operator, event_shape, value_range)
    elif not sure:
        _question(where, y[measured], task)
    if isinstance(probe.likelihood, Poisson) and bool((y < 0).any()):
        raise InputError(f"{where}[y] has negative values (down to {float(y.min()):.3g}): photon counts are 0 or more")
    try:
        return Observation(operator.restrict(y), task.likelihood(operator))
    except (ContractError, RuntimeError) as error:
        raise InputError(f"{where} does not fit the task {task.name}: {error}") from error


Limits = tuple[float, float]
"""Black and white of images."""


def in_our_units(y: Tensor, task: ImageTask, operator: Operator, event_shape: Sequence[int], value_range: Limits) -> Tensor:
    """y [N, *M] that was measured of images u in [low, high], as if it had been of x = s u + o in [-1, 1].

    Of a linear A: s y + A(o), its noise s times as large. Of a non-linear one whose y is a picture: s y + o. Of photon counts:
    (y - low)/(high - low), the share of white.

    Raises:
        InputError: y is no such function of the image (magnitudes, say); a range that is none.

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
    if isinstance(task.likelihood(operator), Poisson):
        return (y - low) / (high - low)
    if isinstance(operator, LinearOperator):
        return operator.restrict(s * y + operator(torch.full((len(y), *event_shape), o, dtype=y.dtype)))
    if task.pictures:
        return s * y + o
    if (low, high) == (-1.0, 1.0):
        return y
    raise InputError(f"--range {low:g},{high:g} cannot be carried out: y of {task.name} is neither a picture nor linear in the image; measure images in [-1, 1]")


def _asked(values: np.ndarray, task: ImageTask) -> str:
    """The range that values look like, as an option's value."""
    if isinstance(task, LowLight):
        return f" 0,{task.photons:g}" if values.max() > 2 else " 0,1"
    top = float(values.max())
    return " 0,1" if top <= 1.5 else " 0,255" if top <= 260 else " 0,4095" if top <= 4200 else " 0,65535"


def _question(where: str, seen: Tensor, task: ImageTask) -> None:
    """Refuse y of a file that does not say its units, where they look like another range's."""
    values = seen.double().numpy()
    if isinstance(task, LowLight):
        if values.max() > 2 and bool((values == np.round(values)).all()):
            raise InputError(
                f"{where}[y] holds whole numbers up to {values.max():g}, expected counts as a share of white (counts / {task.photons:g}): give "
                f"--range 0,{task.photons:g} (or --range 0,1 if they are right as they are)"
            )
        return
    if not task.pictures:
        return
    low, top = np.quantile(values, [0.01, 0.99]).tolist()
    noise = 3 * task.sigma_y
    if low > -0.25 - 0.4 * noise and top > 0.0 and values.min() > -0.5 - noise:
        raise InputError(
            f"{where}[y] holds values from {values.min():.3g} to {values.max():.3g}, and hardly any below 0; images are in [-1, 1]: give --range"
            f"{_asked(values, task)} (or --range=-1,1 if they are right as they are)"
        )
    if max(abs(low), abs(top)) > 1.5 + noise:
        raise InputError(
            f"{where}[y] holds values from {values.min():.3g} to {values.max():.3g}, and images are in [-1, 1]: say what black and white were with "
            "--range LOW,HIGH (or --range=-1,1 if they are right as they are)"
        )


def _drawn(array: np.ndarray, where: str, task: Drawn, event_shape: Sequence[int], n: int) -> Tensor:
    like = task.draw(event_shape, BatchNoise(1, 0))
    value = _tensor(array, where)
    if task.drawn == "mask" and value.max() > 1 and set(value.unique().tolist()) == {0.0, 255.0}:
        value = value / 255
    while value.ndim < like.ndim:
        value = value[None] if value.ndim < like.ndim - 1 or value.shape[0] != n else value[:, None]
    fits = value.ndim == like.ndim and all(a in (1, b) for a, b in zip(value.shape[1:], _mask_shape(like, event_shape), strict=True))
    if value.shape[0] not in (1, n) or (task.drawn == "mask" and (not fits or value.shape[-2:] != like.shape[-2:])):
        raise InputError(f"{where} has shape {tuple(array.shape)}, expected ({n} or 1, {', '.join(map(str, like.shape[1:]))})")
    return value


def _mask_shape(like: Tensor, event_shape: Sequence[int]) -> tuple[int, ...]:
    """The largest mask of a sample, without the batch: of each entry, or as the task draws it."""
    return tuple(event_shape) if like.ndim == len(event_shape) + 1 else tuple(like.shape[1:])


def _tensor(array: np.ndarray, where: str, elsewhere: str = "") -> Tensor:
    """elsewhere: what leads out where another program measured."""
    out = f"; {elsewhere}" if elsewhere else ""
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {array.dtype}, expected real numbers{out}")
    if array.ndim == 0:
        raise InputError(f"{where} is one number, expected an array")
    value = as_tensor(array, where).float()
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise InputError(f"{where} has {bad} values that are not finite (NaN or infinite){out}")
    return value
