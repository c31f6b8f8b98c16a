"""`torch.set_default_dtype` is the caller's; what the library makes is float32 whatever it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
