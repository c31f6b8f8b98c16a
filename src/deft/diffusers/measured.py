"""What a call is given, as the task's measurement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.diffusers.pictures import as_images, seen_of
from deft.errors import InputError
from deft.io.measurements import observation
from deft.recipe import FittedH
from deft.values import quoted

OF_THE_PRIOR = ("prompt", "negative_prompt", "guidance_scale")
"""Arguments of calls in diffusers that are options of the prior here."""


def without_prompt(prior: Denoiser, more: dict[str, Any]) -> dict[str, Any]:
    """What else was given, once the prompt is known to be that of the prior."""
    for name in OF_THE_PRIOR:
        given, own = more.get(name), prior.card.get(name, _option(prior, name))
        if given is not None and str(given) != str(own):
            said = "has none" if own is None else f"has {quoted(own)}"
            raise InputError(
                f"{name} is {quoted(given)}, and the prior {said}: it is part of the prior, and h was fitted to it;"
                f" give it to from_pretrained({name}=...)"
            )
    return {k: v for k, v in more.items() if k not in OF_THE_PRIOR}


def _option(prior: Denoiser, name: str) -> str | None:
    """An option that a prior was loaded with, as text."""
    return next((text.partition("=")[2] for text in prior.loaded_with if text.partition("=")[0] == name), None)


def observed(
    prior: Denoiser, h: FittedH | None, task: Any, image: Any, mask_image: Any, drawn: dict[str, Any]
) -> Observation:
    """The measurement of a call.

    Args:
        image: pictures in [0, 1] where the task's measurement is a picture; else an array in the task's own units; or
            an `Observation`.
        mask_image: white where the picture is to be filled. drawn: what else the task takes (kernel=).

    Raises:
        InputError: something is missing, or is not for this task, or has another size or range.
    """
    if image is None:
        raise InputError("image is missing: give what was measured, a picture (mask_image is white where to fill it)")
    if isinstance(image, Observation):
        if mask_image is not None or drawn:
            raise InputError("an Observation holds its mask and all that was drawn: leave the rest out")
        return image
    if task is None:
        raise InputError("this pipeline has no h, and so no task: give task='inpaint', say, to from_pretrained")
    _check_drawn(task, mask_image, drawn)
    shape = tuple(prior.data_shape)
    if getattr(task, "pictures", False):
        image = as_images(image, tuple(task.check(shape).y.shape[1:]), 3 * task.sigma_y + 1e-3)
    if mask_image is not None:
        drawn = {"mask": _as_many(seen_of(mask_image, shape[1:]), len(image))}
    if h is not None:
        return h.observe(image, **drawn)
    arrays = {k: torch.as_tensor(v).cpu().numpy() for k, v in {"y": image, **drawn}.items()}
    return observation("the measurement", arrays, task, shape)


def _check_drawn(task: Any, mask_image: Any, drawn: dict[str, Any]) -> None:
    takes = getattr(task, "drawn", "")
    if mask_image is not None and takes != "mask":
        raise InputError(f"mask_image is for tasks with a mask, and this one is {task.name}: leave it out")
    if takes == "mask" and mask_image is None:
        raise InputError(f"{task.title} needs mask_image, as large as the image, white where it is to be filled")
    for name in drawn:
        if name != takes or name == "mask":
            other = f" (the task {task.name} takes {takes}=)" if takes not in ("", "mask") else ""
            raise InputError(f"a call of this pipeline takes no {name}={other}")
    if takes not in ("", "mask") and takes not in drawn:
        raise InputError(f"the {takes} of {task.name} differs from image to image: give {takes}=")


def _as_many(mask: Tensor, n: int) -> Tensor:
    if len(mask) not in (1, n):
        raise InputError(f"mask_image holds {len(mask)} masks for {n} images: give one, or one for each")
    return mask.expand(n, *mask.shape[1:])
