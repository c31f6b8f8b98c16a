"""Measurements as files: an .npz with y, what was drawn for it (a mask, a blur kernel), and the task's settings.

    deft measure --task ct --data photos/ --out scans.npz
    deft sample run --measurement scans.npz --row 3
    deft sample --prior ct --measurement scans.npz          # of the task it was made with

A file made elsewhere needs `y` [N, *M] (or [*M]) and, for tasks whose operator differs from image to image, the tensor that
`deft list` names (`mask`, `kernel`); `task`, the settings as JSON, is compared if it is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.errors import ContractError, InputError
from deft.images import read_arrays, save_arrays, shape_text
from deft.likelihood import Gaussian, Likelihood, Observation, Poisson
from deft.operator import Operator
from deft.random import BatchNoise
from deft.tasks import Drawn, ImageTask, get_task


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


def read_measurement(path: str | Path, task: ImageTask, event_shape: Sequence[int]) -> Observation:
    """The observation in a file, as one of `task` for images of a shape.

    Raises `InputError`: a file of another task or of other settings (other noise is allowed: the given task's counts), y of a
    shape that the task does not make, values that are not finite or all zero, a missing mask or kernel.
    """
    path = Path(path)
    arrays = read_arrays(path)
    if "y" not in arrays:
        raise InputError(f"{path} has no array y: a measurement file holds y" + (f" and {task.drawn}" if task.drawn else ""))
    if "task" in arrays:
        _check_task(path, str(arrays["task"]), task)
    return observation(str(path), arrays, task, event_shape)


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
            if isinstance(value, str) and value:
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
    other = [f"{k}: measured with {made[k]}, expected {v}" for k, v in wanted.items() if k in made and made[k] != v and k != "sigma_y"]
    if other:
        raise InputError(f"{path} was measured by another operator: {'; '.join(other)}")


def observation(where: str, arrays: Mapping[str, np.ndarray], task: ImageTask, event_shape: Sequence[int]) -> Observation:
    """An observation from arrays y and, if the task draws one, a mask or kernel; `where` names them in errors."""
    probe = task.check(event_shape)
    y = _tensor(arrays["y"], f"{where}[y]")
    y = y[None] if y.ndim == probe.y.ndim - 1 else y
    if y.shape[1:] != probe.y.shape[1:]:
        raise InputError(
            f"{where}[y] has shape {tuple(y.shape)}; the task {task.name} makes (N, {', '.join(map(str, probe.y.shape[1:]))}) of images of {shape_text(event_shape)}"
        )
    for i, row in enumerate(y):
        if not bool(row.any()):
            raise InputError(f"{where}[y]: measurement number {i} is all zeros: nothing was measured, or it was not filled in")
    if isinstance(task, Drawn):
        if task.drawn not in arrays:
            raise InputError(f"{where} lacks the array {task.drawn!r}: the operator of {task.name} differs from image to image, and is needed with y")
        operator = task.build(_drawn(arrays[task.drawn], f"{where}[{task.drawn}]", task, event_shape, len(y)))
    else:
        operator = task.operator(torch.zeros(len(y), *event_shape), BatchNoise(len(y), 0))
    if isinstance(probe.likelihood, Poisson) and bool((y < 0).any()):
        raise InputError(f"{where}[y] has negative values (down to {float(y.min()):.3g}): photon counts are 0 or more")
    try:
        return Observation(operator.restrict(y), task.likelihood(operator))
    except (ContractError, RuntimeError) as error:
        raise InputError(f"{where} does not fit the task {task.name}: {error}") from error


def _drawn(array: np.ndarray, where: str, task: Drawn, event_shape: Sequence[int], n: int) -> Tensor:
    like = task.draw(event_shape, BatchNoise(1, 0))
    value = _tensor(array, where)
    while value.ndim < like.ndim:
        value = value[None] if value.ndim < like.ndim - 1 or value.shape[0] != n else value[:, None]
    if value.shape[0] not in (1, n) or (task.drawn == "mask" and value.shape[-2:] != like.shape[-2:]):
        raise InputError(f"{where} has shape {tuple(array.shape)}, expected ({n} or 1, {', '.join(map(str, like.shape[1:]))})")
    return value


def _tensor(array: np.ndarray, where: str) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {array.dtype}, expected numbers")
    value = torch.from_numpy(np.ascontiguousarray(array)).float()
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise InputError(f"{where} has {bad} values that are not finite (NaN or infinite)")
    return value
