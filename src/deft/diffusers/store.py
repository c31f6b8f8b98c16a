"""A pipeline's folder: the files of the model as they are, h beside them in h/, and deft_pipeline.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from deft.core.denoiser import Denoiser
from deft.errors import InputError
from deft.io.files import copy_file, make_folder, write_json
from deft.io.reading import read_json
from deft.prior import BUNDLED
from deft.prior import diffusers as adapter
from deft.prior.load import family_of, read_options
from deft.recipe import FittedH
from deft.recipe.fitted import recorded_options
from deft.values import quoted

INDEX, H = "deft_pipeline.json", "h"
WEIGHTS = re.compile(r"prior\.[a-z0-9]+")
"""A file of weights in the folder: no path, and no function of a program (mine.py:make), whoever wrote the index."""


class Stored(NamedTuple):
    """What a folder holds. prior: its name or path. h: the folder of h, or None. task: settings, without h."""

    prior: str
    options: dict[str, Any]
    h: Path | None
    task: dict[str, Any] | None


def read_stored(folder: Path) -> Stored | None:
    """What `save_pretrained` wrote into a folder; None if it did not write this one.

    Raises:
        InputError, CheckpointError: the index is damaged, or names a prior that lies elsewhere.
    """
    if not (folder / INDEX).is_file():
        return None
    about = read_json(folder / INDEX, "a pipeline")
    about = about if isinstance(about, dict) else {}
    name, task = about.get("prior"), about.get("task")
    inside = name == "." or (isinstance(name, str) and WEIGHTS.fullmatch(name) and (folder / name).is_file())
    if not inside and name not in BUNDLED:
        raise InputError(
            f"{folder / INDEX} names the prior {quoted(name)}: expected a bundled one, or a file in this folder"
        )
    options = read_options(recorded_options({"prior_options": about.get("prior_options", [])}))
    where = str(folder / str(name)) if inside else str(name)
    h = folder / H if (folder / H / "h.safetensors").is_file() else None
    return Stored(where, options, h, task if isinstance(task, dict) else None)


def write_stored(folder: Path, prior: Denoiser, h: FittedH | None, task: Any) -> None:
    """Write a folder that `read_stored` reads.

    Raises:
        InputError: the prior is of no file, or of code or a service; the folder is in use.
    """
    source = _files_of(prior)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty: give a new folder")
    make_folder(folder)
    name = prior.loaded_as
    if source is not None and source.is_dir():
        for file in _kept(source):
            copy_file(file, folder / file.relative_to(source))
        name = "."
    elif source is not None:
        name = "prior" + "".join(source.suffixes[-1:])
        copy_file(source, folder / name)
    if h is not None:
        h.save(folder / H)
    about = {"prior": name, "prior_options": list(prior.loaded_with)}
    write_json(folder / INDEX, about | ({} if h is not None or task is None else {"task": task.config()}))


def _kept(folder: Path) -> list[Path]:
    """The files of a model's folder, but hidden ones, links to folders, and what an earlier pipeline wrote beside the
    model."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in (INDEX, H) or (path.is_dir() and path.is_symlink()):
            continue
        found += _kept(path) if path.is_dir() else [path]
    return found


def _files_of(prior: Denoiser) -> Path | None:
    """The folder or file of a prior's weights; None for a bundled one, which needs none."""
    name = prior.loaded_as
    if name in BUNDLED:
        return None
    family = family_of(name) if name else ""
    if not name or family in ("python", "remote"):
        what = f"this prior is {quoted(name)}" if name else "this prior was made in Python"
        raise InputError(f"{what}, and has no files to copy: keep h alone with pipe.h.save(FOLDER)")
    if family == "hub":
        return adapter._download(name)
    path = Path(name)
    if (path / "prior.safetensors").is_file():
        return path / "prior.safetensors"
    if path.is_dir() and adapter.recognise(path):
        parts = adapter.look_at(path)
        needed = [p for p in (parts.scheduler, parts.autoencoder) if p is not None]
        if not all(p.resolve().is_relative_to(path.resolve()) for p in needed):
            raise InputError(f"{path} has parts that lie outside of it: load the prior from the pipeline's folder")
    return path
