"""Pictures as diffusers' pipelines take and return them: PIL, NumPy [N, H, W, C] or PyTorch [N, C, H, W], in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deft.errors import InputError
from deft.values import quoted

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
TAKES = "a PIL image, an array [H, W, C], a tensor [C, H, W], a batch or a list of these"
Picture = Image.Image | np.ndarray | Tensor | Sequence[Any]


def as_images(image: Any, shape: Sequence[int], slack: float = 1e-3) -> Tensor:
    """Pictures as [N, C, H, W] in [-1, 1].

    Args:
        image: PIL, or numbers in [0, 1] (whole numbers: bytes), one or several.
        shape: (C, H, W) that is expected. Nothing is resized: a measurement that was resized is another measurement.
        slack: how far values may lie outside [0, 1]: a measurement carries noise.

    Raises:
        InputError: another size, another number of channels, values in another range.
    """
    parts = [_one(part, shape) for part in image] if isinstance(image, (list, tuple)) else [_one(image, shape)]
    if not parts or any(not len(part) for part in parts):
        raise InputError(f"image holds no picture: expected {TAKES}")
    x = torch.cat(parts)
    low, high = float(x.min()), float(x.max())
    if not (low >= -slack and high <= 1 + slack):  # NaN is neither
        way = "bytes are uint8, or divided by 255" if high > 2 else "what is in [-1, 1] is (x + 1) / 2"
        raise InputError(f"image holds values from {low:.4g} to {high:.4g}, expected [0, 1] as in diffusers: {way}")
    return 2 * x - 1


def _one(image: Any, shape: Sequence[int]) -> Tensor:
    """[N, C, H, W] in [0, 1] of one picture, or of a batch."""
    c, h, w = shape
    if isinstance(image, Image.Image):
        x = _of_pil(image, c)
    elif isinstance(image, np.ndarray):
        x = _numbers(torch.from_numpy(np.ascontiguousarray(image)), "image")
        x = x[..., None] if x.ndim == 2 or (x.ndim == 3 and c == 1 and x.shape[-1] != 1) else x
        x = x[None] if x.ndim == 3 else x
        x = x.movedim(-1, 1) if x.ndim == 4 else x
    elif isinstance(image, Tensor):
        x = _numbers(image, "image")
        x = x[None] if x.ndim == 2 else x
        x = x[None] if x.ndim == 3 else x
    else:
        raise InputError(f"image is {quoted(image)}: expected {TAKES}")
    if x.ndim != 4 or x.shape[1] != c:
        raise InputError(f"image has shape {tuple(image.shape)}: expected {TAKES}, with {c} channels")
    if tuple(x.shape[2:]) != (h, w):
        raise InputError(
            f"image is {x.shape[2]}x{x.shape[3]} (height x width), expected {h}x{w}: what was measured is not resized"
            f" here; give image.resize(({w}, {h})), and its mask alike"
        )
    return x


def _of_pil(image: Image.Image, channels: int) -> Tensor:
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise InputError(
            f"image has the mode {image.mode}: give L or RGB (image.convert), or an array of numbers in [0, 1]"
        )
    if channels not in (1, 3):
        raise InputError(f"the prior has {channels} channels, which a PIL image has not: give an array or a tensor")
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        whole = image.convert("RGBA")
        if np.asarray(whole)[..., 3].min() < 255:
            raise InputError("image is transparent in places: put it on a colour first, or say so with mask_image")
        image = whole.convert("RGB")
    values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    if channels == 1:
        if image.mode not in ("1", "L") and np.ptp(values, axis=2).max() > 0:
            raise InputError("image is in colour, and the prior has 1 channel: give image.convert('L')")
        values = values[..., :1]
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None]


def _numbers(x: Tensor, what: str) -> Tensor:
    """Whole numbers are bytes; others stay as they are."""
    if x.dtype == torch.uint8:
        return x.float() / 255
    if x.dtype == torch.bool and what == "mask_image":
        return x.float()
    if not x.is_floating_point():
        raise InputError(f"{what} holds {str(x.dtype).removeprefix('torch.')}: expected uint8, or floats in [0, 1]")
    return x.detach().float().cpu()


def seen_of(mask: Any, size: Sequence[int]) -> Tensor:
    """A mask of diffusers, white where the picture is to be filled, as deft's [N, 1, H, W]: 1 is seen, 0 hidden.

    Values from 0.5 on are white, as in diffusers' mask processor.

    >>> import numpy as np
    >>> seen_of(np.array([[0.0, 1.0]]), (1, 2)).tolist()
    [[[[1.0, 0.0]]]]

    Raises:
        InputError: another size, values outside [0, 1], nothing or everything to fill.
    """
    parts = [_mask(m, size) for m in mask] if isinstance(mask, (list, tuple)) else [_mask(mask, size)]
    if not parts:
        raise InputError("mask_image is empty: give one mask, or one for each image")
    white = torch.cat(parts)
    low, high = float(white.min()), float(white.max())
    if not 0 <= low <= high <= 1:
        raise InputError(
            f"mask_image holds values from {low:.4g} to {high:.4g}: expected 0 to 1, 1 (white) where it is to be filled"
        )
    fill = white >= 0.5
    for i, one in enumerate(fill):
        if one.all() or not one.any():
            which = "white everywhere: nothing is seen" if one.all() else "black everywhere: there is nothing to fill"
            raise InputError(f"mask_image {i} is {which}; white is what is to be filled, as in diffusers")
    return (~fill).float()


def _mask(mask: Any, size: Sequence[int]) -> Tensor:
    """[N, 1, H, W] from 0 (black) to 1 (white)."""
    if isinstance(mask, Image.Image):
        x = torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32) / 255)
    elif isinstance(mask, np.ndarray):
        x = _numbers(torch.from_numpy(np.ascontiguousarray(mask)), "mask_image")
        x = x[..., 0] if x.ndim > 2 and x.shape[-1] == 1 else x
    elif isinstance(mask, Tensor):
        x = _numbers(mask, "mask_image")
        x = x[:, 0] if x.ndim == 4 and x.shape[1] == 1 else x
    else:
        raise InputError(f"mask_image is {quoted(mask)}: expected a PIL image, an array or a tensor")
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or tuple(x.shape[1:]) != tuple(size):
        shape = "x".join(map(str, reversed(mask.size))) if isinstance(mask, Image.Image) else tuple(mask.shape)
        raise InputError(f"mask_image has shape {shape}, expected {size[0]}x{size[1]} (height x width), as the image")
    return x[:, None]


def as_output(x: Tensor, output_type: str) -> Any:
    """Samples [N, C, H, W] in [-1, 1] as PIL images, or in [0, 1] as an array [N, H, W, C] or a tensor [N, C, H, W].

    >>> as_output(torch.tensor([[[[-1.0, 1.0]]]]), "np").tolist()
    [[[[0.0], [1.0]]]]
    """
    unit = (x.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return unit
    values = unit.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return values
    if values.shape[-1] not in (1, 3):
        raise InputError(f"images of {values.shape[-1]} channels are no PIL images: give output_type='np' or 'pt'")
    return [Image.fromarray(v[..., 0] if v.shape[-1] == 1 else v) for v in (values * 255).round().astype(np.uint8)]
