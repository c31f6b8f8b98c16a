"""Types, devices and shapes of tensors, and the mode of modules, looked at before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deft.errors import InputError
from deft.values import quoted

PerRow = float | Tensor | np.ndarray | Sequence[float]
"""A number for all samples, or one for each row."""


@contextmanager
def float32_default() -> Iterator[None]:
    """Tensors that are made inside without a dtype are float32. Also a decorator.

    For what a fingerprint, a file or a seed stands for: a network that is built, an operator that is drawn.

    >>> with float32_default():
    ...     torch.zeros(1).dtype
    torch.float32
    """
    before = torch.get_default_dtype()
    if before is torch.float32:  # the usual case: nothing global is touched
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def of_numpy(value: np.ndarray) -> Tensor:
    """An array of NumPy as a tensor; float64, in which NumPy has numbers, as float32.

    >>> of_numpy(np.zeros(3)).dtype
    torch.float32
    """
    if value.dtype.kind not in "fiub":
        raise InputError(f"an array of {value.dtype}: expected numbers")
    found = torch.from_numpy(np.array(value))
    return found.float() if found.dtype == torch.float64 else found


def weights_note(module: nn.Module) -> str:
    """For a message about two priors that are not the same: whether the precision may be the reason."""
    found = next((v.dtype for v in module.state_dict().values() if v.is_floating_point()), torch.float32)
    if found == torch.float32:
        return ""
    return f"; its weights are {str(found).removeprefix('torch.')}, and another precision counts as another prior"


def placed(value: Tensor, like: Tensor) -> Tensor:
    """`value` on the device and in the dtype of `like`.

    One number of the host is written there by a kernel that is given it. A copy from the host's memory would wait for
    all that the device still has to do.

    >>> placed(torch.tensor(0.5, dtype=torch.float64), torch.zeros(2))
    tensor(0.5000)
    """
    if value.device == like.device or value.device.type != "cpu" or value.numel() != 1 or value.requires_grad:
        return value.to(like)
    return like.new_full(value.shape, float(value))


def as_device(device: torch.device | str) -> torch.device:
    """The device of a name.

    >>> as_device("cpu")
    device(type='cpu')
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"no such device: {quoted(device)}; give cpu, cuda, cuda:1, ...") from error


def as_shape(event_shape: Any) -> tuple[int, ...]:
    """*E of a sample, once it is known to be one.

    >>> as_shape([1, 32, 32])
    (1, 32, 32)
    """
    try:
        found = tuple(operator.index(n) for n in event_shape)
    except TypeError:
        found = ()
    if not found or min(found) < 1:
        raise InputError(f"event_shape = {quoted(event_shape)}: expected a tuple of whole numbers, such as (1, 32, 32)")
    return found


def check_eval(model: nn.Module) -> None:
    """Refuse a model in training mode whose answers depend on it: with dropout they differ from call to call, and batch
    normalisation looks at the other samples."""
    odd = [
        type(m).__name__
        for m in model.modules()
        if m.training and isinstance(m, (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm))
    ]
    if odd:
        raise InputError(
            f"the prior is in training mode, and its {odd[0]} then gives other answers: deft.freeze(prior), or"
            " prior.eval()"
        )


def as_count(value: Any) -> int | None:
    """A whole number of Python, NumPy or a tensor of one number; None for what is none."""
    try:
        return operator.index(value)
    except TypeError:
        return None
