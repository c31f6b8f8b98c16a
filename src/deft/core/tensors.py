"""Where tensors are, and of which type: what the library makes is float32, whatever `torch.set_default_dtype` says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deft.errors import InputError
from deft.values import shown


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


def as_device(device: torch.device | str) -> torch.device:
    """The device of a name.

    >>> as_device("cpu")
    device(type='cpu')
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device = {shown(device)}: expected cpu, cuda, cuda:1, ...") from error
