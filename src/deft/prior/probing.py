"""One pass of a prior on noise, as it is loaded: what wants more than x_t and t says so now, and in one line."""

from __future__ import annotations

import torch

from deft.core.denoiser import Denoiser
from deft.errors import CheckpointError, InputError
from deft.io.torch_files import BY_FUNCTION

WANTS_MORE = (
    "it wants more than x_t and t (a prompt, a low-resolution image, ...), or samples of another shape; for the first"
    f" {BY_FUNCTION}, with the rest held fixed in it"
)


def try_once(prior: Denoiser, name: str) -> None:
    """Call the prior once, at sigma = alpha, on one sample.

    Raises:
        InputError: the call fails, or returns a mean of another shape.
    """
    like = prior.state_like()
    x = torch.randn((1, *prior.event_shape), generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    t = prior.schedule.time_of(torch.zeros((), dtype=torch.float64))
    what = f"{name}: one trial pass on x_t of shape {tuple(x.shape)} and t"
    try:
        with torch.no_grad():
            shape = tuple(prior(x, t).mean.shape)
    except (InputError, CheckpointError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a network raises that is called in a way it does not know
        first = " ".join(str(error).split())[:200] or "no message"
        raise InputError(
            f"{what} fails ({type(error).__name__}: {first}): {WANTS_MORE}; another shape is given as event_shape=C,H,W"
        ) from error
    if shape != tuple(x.shape):
        raise InputError(f"{what} returns {shape}: {WANTS_MORE}; another shape is given as event_shape=C,H,W")
