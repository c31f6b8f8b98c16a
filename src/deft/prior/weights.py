"""Weights of a model of diffusers, read strictly and without unpickling: of its folder, or of a file elsewhere."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deft.errors import CheckpointError, InputError
from deft.io.files import check_header
from deft.io.states import check_fit
from deft.prior.parts import config_of
from deft.runtime.untrusted import building, check_zip, held

INSTALL = "diffusers is not installed: pip install 'deft-diffusion[diffusers]'"

WEIGHTS = "diffusion_pytorch_model"
_SHARD = re.compile(rf"{WEIGHTS}(?:\.([a-z0-9_]+?))?(?:-\d+-of-\d+)?(?:\.([a-z0-9_]+))?\.(safetensors|bin)")


def weight_files(folder: Path) -> dict[str, set[str]]:
    """variant ("" for none) -> formats ("safetensors", "bin") of the weights in a model's folder."""
    found: dict[str, set[str]] = {}
    for path in folder.iterdir():
        match = _SHARD.fullmatch(path.name)
        if match:
            found.setdefault(match[1] or match[2] or "", set()).add(match[3])
    return found


def load_model(
    folder: Path, variant: str | None = None, dtype: torch.dtype | None = None
) -> tuple[nn.Module, list[str]]:
    """(the model of a folder, doubts); its weights loaded strictly and without unpickling.

    variant: of the files; where the folder has none of that name, the plain ones. dtype: by default half precision for
        "fp16", else float32.
    """
    known = class_of(folder)
    check_complete(folder)
    taken, formats, unsure = _choose(folder, variant)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(taken)
    try:
        # at least a byte a number, and no more tensors than a list of them could name
        with building(MAX_TENSORS, _check_weights(folder)):
            model, info = known.from_pretrained(  # type: ignore[attr-defined]
                str(folder),
                variant=taken or None,
                output_loading_info=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=dtype or half,
                use_safetensors="safetensors" in formats,
            )
    except Exception as error:  # of diffusers, given whatever a config says
        first = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{folder}: the weights cannot be loaded ({first[:240]}); they must be complete, and .safetensors or a .bin"
            " of plain tensors"
        ) from error
    wrong = {k: info.get(k) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(k)}
    if wrong:
        what = "; ".join(
            f"{k.replace('_', ' ')}: {len(v)} ({sorted(map(str, v))[0]} ...)" for k, v in wrong.items() if v
        )
        raise CheckpointError(f"{folder}: the weights do not fit the config: {what}")
    return model, unsure


def class_of(folder: Path) -> type[nn.Module]:
    """The class of diffusers that a folder's config.json names."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(INSTALL) from error
    kind = str(config_of(folder / "config.json").get("_class_name"))
    known = getattr(diffusers, kind, None)
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        raise InputError(
            f"{folder}/config.json names the class {kind!r}, which diffusers {diffusers.__version__} does not have"
        )
    if "ControlNet" in kind:
        raise InputError(
            f"{folder} holds a {kind}, which is steered by an image and makes none by itself: give the text-to-image"
            " model that it steers"
        )
    return known


_PART = re.compile(r"(.*?)-(\d+)-of-(\d+)(.*)")


def check_complete(folder: Path) -> None:
    """Refuse a folder of which shards of the weights are missing, those that an index or the shards' own names name.

    Raises:
        CheckpointError: the first file that is missing, and how many are.
    """
    there = {p.name for p in folder.iterdir() if p.is_file()}
    wanted: set[str] = set()
    for name in there:
        if name.endswith(".json") and ".index." in name:
            stated = config_of(folder / name).get("weight_map")
            listed = {v for v in stated.values() if isinstance(v, str)} if isinstance(stated, dict) else set()
            # one format is enough, of which another index may be left
            wanted |= (
                listed if listed & there or not any(n.endswith((".safetensors", ".bin")) for n in there) else set()
            )
        elif (part := _PART.fullmatch(name)) and int(part[3]) <= MAX_SHARDS:
            width = len(part[2])
            wanted |= {f"{part[1]}-{i:0{width}d}-of-{part[3]}{part[4]}" for i in range(1, int(part[3]) + 1)}
    missing = sorted(wanted - there)
    if missing:
        raise CheckpointError(
            f"{folder}: the download is not complete: {missing[0]} is missing ({len(missing)} of {len(wanted)} files of"
            " weights): fetch the rest"
        )


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precisions in which a network is kept, by name."""

MAX_SHARDS = 1000
"""Of a model; the largest published ones have some tens."""

MAX_TENSORS = 20_000
"""Of a model of diffusers; the largest published ones have a few thousand."""


def _check_weights(folder: Path) -> int:
    return check_files(p for p in folder.iterdir() if _SHARD.fullmatch(p.name))


def check_files(paths: Iterable[Path]) -> int:
    """Bytes of files of weights, none of which is packed or has a header that is too long."""
    whole = 0
    for path in paths:
        if path.suffix == ".safetensors":
            check_header(path)
        elif zipfile.is_zipfile(path):
            check_zip(path, stored=True)
        whole += path.stat().st_size
    return whole


def _choose(folder: Path, variant: str | None) -> tuple[str, set[str], list[str]]:
    """(variant that is read, its formats, doubts) of a model's folder."""
    there = weight_files(folder)
    named = sorted(v for v in there if v)
    if variant is not None and variant in there:
        return variant, there[variant], []
    if "" in there:
        averaged = [v for v in named if "ema" in v]
        unsure = [
            f"weights: {folder.name}/ holds the variant {v} as well, the plain files were taken" for v in averaged
        ]
        unsure += [
            f"variant: {folder.name}/ has no files of the variant {variant}, the plain ones were taken"
            for _ in (variant,)
            if variant is not None
        ]
        return "", there[""], unsure
    files = (
        ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix not in (".json", ".md", ".txt"))[:4])
        or "no weights"
    )
    if named:
        raise CheckpointError(
            f"{folder}: the weights cannot be loaded: it holds {files} alone: give variant={named[0]} (--prior-option"
            f" variant={named[0]})"
        )
    raise CheckpointError(
        f"{folder}: the weights cannot be loaded: no {WEIGHTS}.safetensors or .bin (it holds {files}); fetch them, or"
        " convert what is there with the library it is from"
    )


class Weights(NamedTuple):
    """Weights of a model of diffusers in a file of training code: the file, where in it, the tensors, the doubts."""

    path: Path
    where: str
    tensors: dict[str, Tensor]
    unsure: list[str]


def model_of_state(folder: Path, state: Weights) -> tuple[nn.Module, list[str]]:
    """(the model that a folder's config.json describes, with weights from elsewhere, doubts)."""
    known = class_of(folder)
    try:
        with building(*held(state.tensors)):
            model: nn.Module = known.from_config(config_of(folder / "config.json"))  # type: ignore[attr-defined]
    except Exception as error:  # of diffusers, given whatever a config says
        first = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{folder}/config.json describes no network of {state.path} ({first[:240]})") from error
    check_fit(state.path, model.state_dict(), state.tensors, f"the {type(model).__name__} of {folder}/config.json")
    model.load_state_dict(state.tensors)
    return model, state.unsure
