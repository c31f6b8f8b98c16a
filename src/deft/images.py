"""Images in and out: folders, npz files and single pictures in; PNGs, npz files and labelled grids out.

Inside the library images are tensors [N, C, H, W] in [-1, 1]. Nothing is repaired in silence: a picture of another
size, with other channels or with values outside the range is an error that names it, and a flag to go on.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from deft.distributed import get_world
from deft.errors import InputError, unknown
from deft.train.checkpoint import write_atomic

SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npz", ".npy")
RANGES: dict[str, tuple[float, float]] = {"-1,1": (-1.0, 1.0), "0,1": (0.0, 1.0), "0,255": (0.0, 255.0)}
"""What black and white are in a floating-point array."""


@dataclass(frozen=True)
class ImageSet:
    """x: [N, C, H, W] in [-1, 1]; names: one each; labels: [N] or None; skipped: what --skip-bad left out."""

    x: Tensor
    names: list[str]
    labels: Tensor | None = None
    skipped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Reading:
    """How strictly images are read.

    event_shape: (C, H, W) of the prior, or None if any common shape will do.
    skip_bad: leave out what cannot be used, instead of stopping.
    resize: bring pictures to the prior's size. convert: bring them to its channels (grey or RGB).
    range: a key of `RANGES`, for floating-point arrays; None accepts [-1, 1] if there is a negative value.
    slack: how far values may lie outside the range (measurements carry noise).
    constant: whether a picture of one single value is accepted. whose: the size that is expected, for messages.
    """

    event_shape: tuple[int, int, int] | None = None
    skip_bad: bool = False
    resize: bool = False
    convert: bool = False
    range: str | None = None
    slack: float = 1e-3
    constant: bool = False
    whose: str = "the prior's"


def shape_text(shape: Sequence[int]) -> str:
    """(1, 32, 32) -> "32x32 grey"."""
    channels = {1: "grey", 3: "RGB"}.get(shape[0], f"{shape[0]} channels")
    return f"{shape[-2]}x{shape[-1]} {channels}"


# reading


def read_images(source: str | Path, reading: Reading | None = None) -> ImageSet:
    """Read a folder of PNG/JPEG files, an .npz or .npy file, or one picture.

    Raises:
        InputError: nothing there, or images that cannot be used (each named, with the reason).
    """
    reading, source = reading or Reading(), Path(source)
    if not source.exists():
        raise InputError(f"no such file or folder: {source}")
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not files:
            raise InputError(f"no PNG or JPEG files in {source}: give a folder of images, or an .npz file")
        return _read_files(files, source, reading)
    if source.suffix.lower() in ARRAYS:
        arrays = read_arrays(source)
        name = next((k for k in ("x", "images") if k in arrays), next(iter(arrays)))
        x, kept, skipped = read_stack(arrays[name], f"{source}[{name}]", reading)
        labels = arrays.get("labels")
        if labels is not None and labels.shape != arrays[name].shape[:1]:
            raise InputError(f"{source}: labels has shape {labels.shape}, expected ({len(arrays[name])},)")
        chosen = None if labels is None else torch.from_numpy(labels[kept].astype(np.int64))
        return ImageSet(x, [f"{i:05d}" for i in kept], chosen, skipped)
    if source.suffix.lower() in SUFFIXES:
        return _read_files([source], source, reading)
    raise InputError(f"{source} is none of {', '.join((*SUFFIXES, *ARRAYS))}, nor a folder of pictures")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz (or the one of an .npy, as "x")."""
    try:
        with path.open("rb") as f:
            loaded = np.load(f, allow_pickle=False)
            out = {"x": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = "it is empty" if path.exists() and path.stat().st_size == 0 else one_line(error)
        raise InputError(f"cannot read {path} as an array file: {reason}; write it with numpy.savez(path, x=images)") from error
    if not out:
        raise InputError(f"{path} holds no array: write it with numpy.savez(path, x=images)")
    return out


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read_files(files: list[Path], source: Path, reading: Reading) -> ImageSet:
    images, names, bad = [], [], []
    for path in files:
        try:
            images.append(_check_values(read_picture(path, reading), reading))
            names.append(path.name)
        except InputError as error:
            bad.append((path.name, str(error)))
    if bad and not reading.skip_bad:
        if len(files) == 1:
            raise InputError(f"{files[0]}: {bad[0][1]}")
        raise InputError(_bad_list(bad, len(files), source))
    if not images:
        raise InputError(f"none of the {len(files)} images in {source} can be used: {bad[0][0]}: {bad[0][1]}")
    first = images[0].shape
    other = next(((n, i.shape) for n, i in zip(names, images, strict=True) if i.shape != first), None)
    if other is not None:
        raise InputError(
            f"images of mixed sizes in {source}: {names[0]} is {shape_text(first)}, {other[0]} is "
            f"{shape_text(other[1])}; bring them to one size{' with --resize' if reading.event_shape else ''}"
        )
    return ImageSet(torch.stack(images), names, None, [name for name, _ in bad])


def _bad_list(bad: list[tuple[str, str]], total: int, source: Path) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"{len(bad)} of {total} images in {source} cannot be used ({shown}{more}): mend them, or leave them out with --skip-bad"


def read_picture(path: Path, reading: Reading) -> Tensor:
    """One picture as [C, H, W] in [-1, 1], matched to the prior; errors do not repeat the path."""
    if path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes)")
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)  # cameras store which way up they were held
    except UnidentifiedImageError as error:
        raise InputError("not a PNG or JPEG picture") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"truncated or damaged ({one_line(error)})") from error
    return _match_picture(image, reading)


def _match_picture(image: Image.Image, reading: Reading) -> Tensor:
    image = _plain(image, reading.convert)
    expected = reading.event_shape
    if expected is not None:
        _, height, width = expected
        if (image.height, image.width) != (height, width):
            if not reading.resize:
                raise InputError(
                    f"{image.height}x{image.width} pixels, expected {height}x{width} ({reading.whose} size): "
                    "resize it, or give --resize"
                )
            image = image.resize((width, height), Image.Resampling.LANCZOS)
    values = np.asarray(image, dtype=np.float32)
    top = 65535.0 if image.mode in ("I", "I;16") else 255.0
    x = torch.from_numpy(values / (top / 2) - 1).clamp(-1, 1)
    return _match_channels(x[None] if x.ndim == 2 else x.permute(2, 0, 1).contiguous(), reading)


def _plain(image: Image.Image, convert: bool) -> Image.Image:
    """Without palette and alpha: L, I (16 bits) or RGB."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] != 255:
            if not convert:
                raise InputError("partly transparent: flatten it, or give --convert to put it on black")
            ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(ground, image.convert("RGBA"))
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "I", "I;16") else image.convert("RGB")


def _match_channels(x: Tensor, reading: Reading) -> Tensor:
    """[C, H, W] with the prior's channels; a grey picture stored as RGB counts as grey."""
    expected = reading.event_shape
    if expected is None or x.shape[0] == expected[0]:
        return x
    if x.shape[0] == 3 and expected[0] == 1:
        if bool((x[0] == x[1]).all()) and bool((x[0] == x[2]).all()):
            return x[:1]
        if reading.convert:
            return (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        raise InputError("RGB, expected grey (the prior has 1 channel): convert it, or give --convert")
    if x.shape[0] == 1 and expected[0] == 3:
        if reading.convert:
            return x.expand(3, -1, -1).contiguous()
        raise InputError("grey, expected RGB (the prior has 3 channels): convert it, or give --convert")
    raise InputError(f"{x.shape[0]} channels, expected {expected[0]} (the prior's)")


def _check_values(x: Tensor, reading: Reading) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{int((~torch.isfinite(x)).sum())} values are NaN or infinite")
    low, high = float(x.min()), float(x.max())
    if low < -1 - reading.slack or high > 1 + reading.slack:
        raise InputError(f"values from {low:.4g} to {high:.4g}, expected -1 to 1: say what black and white are with --range")
    if low == high and not reading.constant:
        raise InputError(f"constant: every pixel is {low:.4g}")
    return x


def read_stack(array: np.ndarray, name: str, reading: Reading) -> tuple[Tensor, list[int], list[str]]:
    """Images from an array NHW, NHWC or NCHW: (x, the rows kept, the rows left out)."""
    x = _channels_first(array, name, reading)
    scaled = torch.from_numpy(_scaled(x, name, reading))
    images, kept, bad = [], [], []
    for i, image in enumerate(scaled):
        try:
            images.append(_check_values(_match_array(image, reading), reading))
            kept.append(i)
        except InputError as error:
            bad.append((f"number {i}", str(error)))
    if bad and (not reading.skip_bad or not images):
        if len(scaled) == 1:
            raise InputError(f"{name}: {bad[0][1]}")
        raise InputError(_bad_list(bad, len(scaled), Path(name)))
    return torch.stack(images), kept, [name for name, _ in bad]


def _match_array(image: Tensor, reading: Reading) -> Tensor:
    expected = reading.event_shape
    if expected is not None and image.shape[1:] != expected[1:]:
        if not reading.resize:
            raise InputError(
                f"{image.shape[1]}x{image.shape[2]} pixels, expected {expected[1]}x{expected[2]} ({reading.whose} size): "
                "resize them, or give --resize"
            )
        image = torch.nn.functional.interpolate(
            image[None], size=expected[1:], mode="bicubic", antialias=True, align_corners=False
        )[0].clamp(-1, 1)
    return _match_channels(image, reading)


def _channels_first(array: np.ndarray, name: str, reading: Reading) -> np.ndarray:
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(f"{name} holds {array.dtype} values, expected uint8 (0 to 255) or floating point")
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        raise InputError(f"{name} has shape {array.shape}, expected [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if len(array) == 0:
        raise InputError(f"{name} holds 0 images")
    channels = (reading.event_shape[0],) if reading.event_shape else (1, 3)
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if last and (not first or (array.shape[1] not in channels and array.shape[3] in channels)):
        array = array.transpose(0, 3, 1, 2)
    elif not first and array.shape[1] not in channels:
        raise InputError(f"{name} has shape {array.shape}: no axis of 1 or 3 channels, in place 1 or last")
    return array


def _scaled(x: np.ndarray, name: str, reading: Reading) -> np.ndarray:
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 127.5 - 1
    x = x.astype(np.float32)
    if reading.range is not None:
        if reading.range not in RANGES:
            raise unknown("range", reading.range, RANGES)
        low, high = RANGES[reading.range]
        return (x - low) * (2 / (high - low)) - 1
    finite = x[np.isfinite(x)]
    if finite.size and finite.min() >= 0 and finite.max() > 0:
        guess = "0,1" if finite.max() <= 1 else "0,255"
        raise InputError(
            f"{name} holds floating-point values from {finite.min():.4g} to {finite.max():.4g}, expected -1 to 1: "
            f"give --range {guess} (or --range=-1,1 if they are right as they are)"
        )
    return np.ascontiguousarray(x)


def read_mask(path: str | Path, size: Sequence[int], *, hole: str = "black", resize: bool = False) -> Tensor:
    """A mask as [1, 1, H, W] of 1 (seen) and 0 (hidden).

    hole: the colour of what is hidden: "black" (the default: white is seen) or "white".

    Raises:
        InputError: wrong size, values in between, everything hidden or nothing hidden.
    """
    path, height, width = Path(path), int(size[-2]), int(size[-1])
    if not path.exists():
        raise InputError(f"no such mask: {path}")
    if path.suffix.lower() in ARRAYS:
        arrays = read_arrays(path)
        values: np.ndarray = np.squeeze(arrays.get("mask", next(iter(arrays.values())))).astype(np.float32)
        values = values / 255 if values.size and np.nanmax(values) > 1 else values
    else:
        try:
            picture = read_picture(path, Reading(event_shape=None, constant=True, convert=True))
        except InputError as error:
            raise InputError(f"mask {path}: {error}") from error
        values = (picture.mean(0).numpy() + 1) / 2
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"mask {path} has shape {values.shape} or holds NaN, expected one finite picture {height}x{width}")
    if values.shape != (height, width):
        if not resize:
            raise InputError(
                f"mask {path} is {values.shape[0]}x{values.shape[1]}, expected {height}x{width}: it must be as large "
                "as the picture (or give --resize)"
            )
        picture = torch.from_numpy(values)[None, None]
        values = (torch.nn.functional.interpolate(picture, size=(height, width))[0, 0] > 0.5).float().numpy()
    between = float(((values > 0.25) & (values < 0.75)).mean())
    if between > 0.01:
        raise InputError(f"mask {path}: {100 * between:.0f} % of its pixels are grey; it must be black and white (save it as PNG)")
    seen = (values > 0.5) if hole == "black" else (values <= 0.5)
    other = "white" if hole == "black" else "black"
    if not seen.any():
        raise InputError(f"mask {path} hides everything ({other} is seen here): flip it with --mask-hole {other}, or mend it")
    if seen.all():
        raise InputError(f"mask {path} hides nothing ({hole} is the hole here): flip it with --mask-hole {other}, or mend it")
    return torch.from_numpy(seen.astype(np.float32))[None, None]


# writing


def open_folder(path: str | Path, *, overwrite: bool = False, ours: Callable[[Path], bool] | None = None) -> Path:
    """The output folder, made if need be and known to be writable.

    Args:
        overwrite: accept one with files in it; those of the same name are replaced.
        ours: tells a folder that an earlier run of the same command left, which is accepted too.

    Raises:
        InputError: it exists, is a file, or cannot be written.
    """
    path = Path(path)
    if not get_world().main:  # which looks into the folder, and fills it
        return path
    if path.exists() and not path.is_dir():
        raise InputError(f"output folder {path} is a file: give another --out")
    try:
        if path.is_dir() and any(path.iterdir()) and not overwrite and not (ours and ours(path)):
            raise InputError(f"output folder {path} exists and is not empty: give another --out, or --overwrite")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {one_line(error)}; give another --out") from error
    return path


def to_pixels(x: Tensor) -> np.ndarray:
    """[..., C, H, W] in [-1, 1] -> uint8 [..., H, W, 3] (grey is repeated)."""
    pixels = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.movedim(-3, -1)
    return (pixels.expand(*pixels.shape[:-1], 3) if pixels.shape[-1] == 1 else pixels).contiguous().numpy()


def save_picture(path: str | Path, x: Tensor) -> None:
    """Write [C, H, W] in [-1, 1] as a PNG."""
    pixels = to_pixels(x)
    save_image(path, Image.fromarray(pixels[..., 0] if x.shape[0] == 1 else pixels))


def save_image(path: str | Path, image: Image.Image) -> None:
    write_atomic(path, lambda p: image.save(p, format="PNG", optimize=True))


def save_arrays(path: str | Path, **arrays: Any) -> None:
    """Write an .npz with these arrays (tensors are converted)."""
    plain = {k: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in arrays.items()}

    def write(p: Path) -> None:
        with p.open("wb") as f:
            np.savez_compressed(f, **plain)  # type: ignore[arg-type]

    write_atomic(path, write)


_HEAT = np.array([(10, 8, 30), (66, 20, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 190)], np.float32)
_HOLE = np.array((54, 110, 140), np.uint8)


def heat(values: Tensor, top: float) -> np.ndarray:
    """[..., H, W] -> uint8 [..., H, W, 3]: 0 is near black, `top` pale yellow."""
    u = (values.detach().float().cpu().numpy() / max(top, 1e-12)).clip(0, 1) * (len(_HEAT) - 1)
    low = np.minimum(u.astype(int), len(_HEAT) - 2)
    part = (u - low)[..., None]
    return (_HEAT[low] * (1 - part) + _HEAT[low + 1] * part).round().astype(np.uint8)


def with_hole(pixels: np.ndarray, hidden: Tensor) -> np.ndarray:
    """uint8 [..., H, W, 3] with the hidden pixels (1 in [..., 1, H, W]) painted blue, so that no one takes them for data."""
    hole = hidden.detach().cpu().numpy()[..., 0, :, :, None] > 0.5
    return np.where(hole, _HOLE, pixels)


_SPELT = str.maketrans({"Π": "Pi", "σ": "sigma", "η": "eta", "α": "alpha"})
"""Pillow's own font has no Greek."""


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError, TypeError):  # a Pillow without FreeType has one small bitmap font
        return ImageFont.load_default()


@dataclass(frozen=True)
class Column:
    """A column of a picture grid: its title, a line below it, and uint8 pictures [N, H, W, 3]."""

    title: str
    pictures: np.ndarray
    note: str = ""


def picture_grid(
    columns: Sequence[Column],
    *,
    title: str = "",
    footer: str = "",
    rows: Sequence[str] = (),
    cell: int = 96,
    gaps: Sequence[int] = (),
) -> Image.Image:
    """Pictures in labelled columns: enlarged to about `cell` pixels without smoothing, on white.

    Args:
        title, footer: lines above and below. rows: a caption for each row, on the left.
        gaps: columns after which some space is left.
    """
    columns = [replace(c, title=c.title.translate(_SPELT), note=c.note.translate(_SPELT)) for c in columns]
    title, footer = title.translate(_SPELT), footer.translate(_SPELT)
    height, width = columns[0].pictures.shape[1:3]
    zoom = max(1, round(cell / max(height, width)))
    height, width = height * zoom, width * zoom
    pad, ink, soft = 8, (25, 25, 25), (120, 120, 120)
    big, normal, small = font(19), font(15), font(12)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max([0, *(measure.textlength(r, font=normal) for r in rows)])
    left = int(left) + 2 * pad if rows else pad
    wide = max(width, *(int(max(measure.textlength(c.title, font=normal), measure.textlength(c.note, font=small))) for c in columns))
    places, x = [], left
    for i in range(len(columns)):
        places.append(x + (wide - width) // 2)
        x += wide + pad + (2 * pad if i in gaps else 0)
    notes = any(c.note for c in columns)
    top = pad + (32 if title else 0)
    head = top + (22 if any(c.title for c in columns) else 0) + (18 if notes else 0)
    n = max(len(c.pictures) for c in columns)
    bottom = head + n * (height + pad)
    total = max(x, left + int(measure.textlength(title, font=big)) + pad, int(measure.textlength(footer, font=small)) + 2 * pad)
    image = Image.new("RGB", (total, bottom + (26 if footer else 0)), "white")
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((left, pad), title, fill=ink, font=big)
    for place, column in zip(places, columns, strict=True):
        middle = place + width / 2
        draw.text((middle, top), column.title, fill=ink, font=normal, anchor="ma")
        if column.note:
            draw.text((middle, top + 20), column.note, fill=soft, font=small, anchor="ma")
        for i, picture in enumerate(column.pictures):
            part = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
            image.paste(part, (place, head + i * (height + pad)))
    for i, caption in enumerate(rows):
        draw.text((left - pad, head + i * (height + pad) + height / 2), caption, fill=soft, font=normal, anchor="rm")
    if footer:
        draw.text((left, bottom + 2), footer, fill=soft, font=small)
    return image
