"""Measurements as files: an .npz with y, what was drawn for it (a mask, a blur kernel), and the task's settings.

    deft measure --task ct --data photos/ --out scans.npz
    deft sample run --measurement scans.npz --row 3
    deft sample --prior ct --measurement scans.npz          # of the task it was made with

A file made elsewhere needs `y` [N, *M] (or [*M]) and, for tasks whose operator differs from image to image, the tensor
that `deft list` names (`mask`, `kernel`); `task`, the settings as JSON, is compared if it is there.

Units: y is what the operator makes of images in [-1, 1]. With `value_range` (low, high) it was made of images u in that
range, x = s u + o with s = 2/(high - low) and o = -1 - s low, and is brought to the same units
(`OperatorTask.rescaled`). A file that does not say its task, and whose values look like those of another range, is a
question and not a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.likelihood import as_tensor
from deft.core.random import BatchNoise
from deft.errors import ContractError, InputError
from deft.io.arrays import array_headers, read_arrays, save_arrays
from deft.io.cards import is_number
from deft.io.reading import json_table, parse_json, reason_of
from deft.io.settings import as_range
from deft.io.tasks import get_task
from deft.io.text import shape_text
from deft.kinds.domain import Domain
from deft.likelihood import Likelihood, Observation
from deft.likelihood.task import Drawn, Limits, OperatorTask
from deft.likelihood.unknown import UnknownTask
from deft.operator import Operator
from deft.tensors import float32_default


def save_measurement(path: str | Path, obs: Observation, task: OperatorTask, **more: Any) -> None:
    """Write an observation of a task; `more` are further arrays (the truth, say)."""
    arrays: dict[str, Any] = {"y": obs.y, "task": np.array(json.dumps(task.config())), **more}
    if task.drawn:
        arrays[task.drawn] = getattr(operator_of(obs.likelihood), task.drawn)
    save_arrays(path, **arrays)


@dataclass
class Converted:
    """y and what was drawn for it, of a task; scale: what the program's own numbers were multiplied with; notes:
    what was assumed, in words."""

    y: Tensor
    task: OperatorTask
    drawn: Tensor | None = None
    scale: float = 1.0
    notes: list[str] = field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """A measurement file for `deft sample --measurement`."""
        arrays: dict[str, Any] = {
            "y": self.y.float(),
            "task": np.array(json.dumps(self.task.config())),
            "scale": np.array(self.scale),
        }
        if self.drawn is not None:
            arrays[self.task.drawn] = self.drawn.float()
        save_arrays(path, **arrays, notes=np.array("\n".join(self.notes)))


def operator_of(likelihood: Likelihood) -> Operator:
    """The operator of a likelihood that has one."""
    if likelihood.operator is None:
        raise InputError(f"{type(likelihood).__name__} has no operator")
    return likelihood.operator


def is_measurement(path: str | Path) -> bool:
    """Whether a file is an .npz with a `y` in it, rather than a picture."""
    path = Path(path)
    return path.suffix == ".npz" and path.exists() and "y" in array_headers(path)


def limits(value_range: object) -> Limits | None:
    """--range as two numbers, for arrays of measurements."""
    found = as_range(value_range)
    if isinstance(found, str):
        raise InputError(
            f"--range {found} is for DICOM files: say black and white of the images that were measured, LOW,HIGH"
        )
    return found


def read_measurement(
    path: str | Path, task: OperatorTask, event_shape: Sequence[int], value_range: Limits | None = None
) -> Observation:
    """The observation in a file, as one of `task` for samples of a shape. value_range: black and white of the images
    that y was made of.

    Raises `InputError`: a file of another task or of other settings (other noise is allowed: the given task's counts),
    y of a shape that the task does not make, values that are not finite or all zero, a missing mask or kernel.
    """
    path = Path(path)
    arrays = read_arrays(path, ["y", "task", *([task.drawn] if task.drawn else [])])
    if "y" not in arrays:
        raise InputError(
            f"{path} has no array y: a measurement file holds y" + (f" and {task.drawn}" if task.drawn else "")
        )
    if "task" in arrays:
        _check_task(path, str(arrays["task"]), task)
    return observation(str(path), arrays, task, event_shape, value_range, sure="task" in arrays)


def task_of(path: str | Path, domain: Domain | None = None) -> OperatorTask | None:
    """The task with which `deft measure` made a file; None for a picture, and for a file that does not say. domain:
    whose task it is, if that is known."""
    headers = array_headers(Path(path)) if Path(path).suffix == ".npz" and Path(path).exists() else {}
    if "y" not in headers or "task" not in headers:
        return None
    made = _described(Path(path), str(read_arrays(Path(path), ["task"])["task"]))
    largest = max(LARGEST_SETTING, math.prod(headers["y"][0]))
    try:
        name = made.pop("name", None)
        usual: OperatorTask = get_task(str(name), domain)
        for key, value in made.items():
            _check_setting(key, value, largest)
            kind = type(getattr(usual, key, value))
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise InputError(f"{key} is {value!r}")
            if isinstance(value, str) and value and key not in (*usual.choices, *usual.switches):
                # whoever made this file does not choose what is opened here
                raise InputError(f"{key} names a file, {value}")
        return get_task(
            usual.name,
            domain,
            **{
                k: float(v) if type(v) is int and isinstance(getattr(usual, k, v), float) else v
                for k, v in made.items()
            },
        )
    except Exception as error:  # a task's own code, given whatever a file says
        raise InputError(
            f"{path} does not say of what task it is in a way that is understood here ({reason_of(error)}): name one"
            " with --task, and its settings with --task-option"
        ) from error


LARGEST_SETTING = 4096
"""Of a task that a file describes, whole numbers and lengths of lists (angles, factors, sides of kernels), unless y has
more numbers: what is measured with more, has more."""


def _check_setting(key: str, value: Any, largest: int) -> None:
    """Refuse a setting that takes much memory before anybody has looked at it."""
    parts = value if isinstance(value, list) else [value]
    if parts and all(isinstance(v, list) for v in parts):  # rows, of a kernel
        parts = [v for row in parts for v in row]
    too_large = [v for v in parts if type(v) is int and key != "seed" and abs(v) > largest]
    if len(parts) > largest or too_large or not all(isinstance(v, (bool, str)) or is_number(v) for v in parts):
        raise InputError(f"{key} is {value!r:.40}")


def _described(path: Path, text: str) -> dict[str, Any]:
    try:
        return json_table(parse_json(text, path, "a task", InputError), path, "a task", InputError)
    except InputError as error:
        raise InputError(
            f"{path}: `task` is no JSON object ({error}); leave it out if the file is not of `deft measure`"
        ) from error


def other_settings(made: Mapping[str, Any], task: OperatorTask) -> list[str]:
    """What a file's `config()` says otherwise than a task, the noise aside: one text each. A convention that is not
    written is the usual one.

    >>> other_settings({"name": "ct", "angles": 60, "start": 90.0}, get_task("ct"))
    ['start: measured with 90.0, expected 0.0']
    """
    usual = task.usual_conventions()
    wanted = {**usual, **task.config()}
    found = {**usual, **made}
    return [
        f"{k}: measured with {found[k]}, expected {v}"
        for k, v in wanted.items()
        if k in found and found[k] != v and k not in ("name", "sigma_y")
    ]


def _check_task(path: Path, text: str, task: OperatorTask) -> None:
    made = _described(path, text)
    wanted = task.config()
    if made.get("name") != wanted["name"]:
        raise InputError(
            f"{path} is a measurement of the task {made.get('name')}, not of {wanted['name']}: give one of the same"
            " task"
        )
    other = other_settings(made, task)
    if other:
        raise InputError(f"{path} was measured by another operator: {'; '.join(other)}")


@float32_default()
def observation(
    where: str,
    arrays: Mapping[str, np.ndarray],
    task: OperatorTask,
    event_shape: Sequence[int],
    value_range: Limits | None = None,
    *,
    sure: bool = True,
) -> Observation:
    """An observation from arrays y and, if the task draws one, a mask or kernel; `where` names them in errors.

    value_range: see the module. sure: y is known to be in the units of images in [-1, 1]; otherwise values that look
    like another range's are refused with the question.
    """
    if isinstance(task, UnknownTask):
        return task.observation(task.arranged(arrays["y"], f"{where}[y]", value_range))
    probe = task.check(event_shape)
    if arrays["y"].dtype.kind in "iub" and value_range is None:
        raise InputError(
            f"{where}[y] holds {arrays['y'].dtype} values, {arrays['y'].min()} to {arrays['y'].max()}: say what black"
            f" and white of the images were with --range{task.range_hint(arrays['y'].astype(np.float64))}"
        )
    y = _tensor(arrays["y"], f"{where}[y]", task.elsewhere)
    y = y[None] if y.ndim == probe.y.ndim - 1 else y
    if y.shape[1:] != probe.y.shape[1:]:
        raise InputError(
            f"{where}[y] has shape {tuple(y.shape)}; the task {task.name} makes (N,"
            f" {', '.join(map(str, probe.y.shape[1:]))}) of images of {shape_text(event_shape)}"
            + (f"; {task.elsewhere}" if task.elsewhere else "")
        )
    if len(y) == 0:
        raise InputError(f"{where}[y] holds 0 measurements")
    for i, row in enumerate(y):
        if not bool(row.any()) and value_range is None:
            raise InputError(
                f"{where}[y]: measurement number {i} is all zeros: nothing was measured, or it was not filled in"
            )
    if isinstance(task, Drawn):
        if task.drawn not in arrays:
            raise InputError(
                f"{where} lacks the array {task.drawn!r}: the operator of {task.name} differs from image to image, and"
                " is needed with y"
            )
        drawn = _drawn(arrays[task.drawn], f"{where}[{task.drawn}]", task, event_shape, len(y))
        operator = task.build_for(drawn, event_shape)
    else:
        operator = task.operator(torch.zeros(len(y), *event_shape), BatchNoise(len(y), 0))
    measured = operator.measured_part(torch.ones_like(y)) != 0
    empty = (~measured.flatten(1).any(1)).nonzero()
    if len(empty):
        raise InputError(
            f"{where}: measurement number {int(empty[0])} measures nothing: its {getattr(task, 'drawn', '') or 'mask'}"
            " hides everything (1 is seen, 0 hidden)"
        )
    task.check_measured(where, y, measured, sure or value_range is not None)
    if value_range is not None:
        y = task.rescaled(y, operator, event_shape, value_range)
    try:
        probe.likelihood.check(y)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    try:
        return Observation(operator.measured_part(y), task.likelihood(operator))
    except (ContractError, RuntimeError) as error:
        raise InputError(f"{where} does not fit the task {task.name}: {error}") from error


def _drawn(array: np.ndarray, where: str, task: Drawn, event_shape: Sequence[int], n: int) -> Tensor:
    like = task.draw(event_shape, BatchNoise(1, 0))
    value = _tensor(array, where)
    if task.drawn == "mask" and value.max() > 1 and set(value.unique().tolist()) == {0.0, 255.0}:
        value = value / 255
    while value.ndim < like.ndim:
        value = value[None] if value.ndim < like.ndim - 1 or value.shape[0] != n else value[:, None]
    fits = value.ndim == like.ndim and all(
        a in (1, b) for a, b in zip(value.shape[1:], _mask_shape(like, event_shape), strict=True)
    )
    if value.shape[0] not in (1, n) or (task.drawn == "mask" and (not fits or value.shape[-2:] != like.shape[-2:])):
        raise InputError(
            f"{where} has shape {tuple(array.shape)}, expected ({n} or 1, {', '.join(map(str, like.shape[1:]))})"
        )
    return value


def _mask_shape(like: Tensor, event_shape: Sequence[int]) -> tuple[int, ...]:
    """The largest mask of a sample, without the batch: of each entry, or as the task draws it."""
    whole = like.ndim == len(event_shape) + 1 and tuple(like.shape[2:]) == tuple(event_shape[1:])
    return tuple(event_shape) if whole else tuple(like.shape[1:])


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
