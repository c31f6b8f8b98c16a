"""Samples of another size than a network was trained or fitted on: the one line that says so."""

from __future__ import annotations

from collections.abc import Sequence

from deft.errors import InputError
from deft.io.text import shape_text
from deft.runtime.messages import log


def say_size(what: str, trained: Sequence[int], asked: Sequence[int], how: str = "trained on") -> None:
    """Warn, where the two differ, that `what` was trained on samples of one shape and is asked for those of another."""
    if tuple(trained) != tuple(asked):
        log.warning(
            f"warning: {what} was {how} {shape_text(trained)} and is asked for {shape_text(asked)}: look at its samples"
            " before you use them"
        )


def sides_of(
    what: str, channels: int, event_shape: Sequence[int] | None, sides: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """(H, W) of the samples that are asked for, given as event_shape (C, H, W) or as sides; None: neither is.

    Raises:
        InputError: both, or an event_shape of another number of channels or axes.
    """
    if event_shape is None:
        return sides
    if sides is not None:
        raise InputError("event_shape and sides both say the size: give one of them")
    if len(event_shape) != 3 or event_shape[0] != channels:
        raise InputError(
            f"{what} makes images of {channels} channels: give event_shape={channels},HEIGHT,WIDTH, got"
            f" {','.join(map(str, event_shape))}"
        )
    return event_shape[1], event_shape[2]
