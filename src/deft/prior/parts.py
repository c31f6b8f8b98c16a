"""The parts of a folder that diffusers wrote: the denoiser, its scheduler, its autoencoder, where its text encoders
are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from deft.errors import CheckpointError, InputError
from deft.io.reading import read_json

AUTOENCODERS = ("vae", "vqvae", "movq", "vqgan", "first_stage", "first_stage_model", "autoencoder")
"""Names of the folder of an autoencoder, the one to take first."""

MODELS = ("unet", "transformer", "model")
"""The same of the denoiser."""


class Parts(NamedTuple):
    """A pipeline's parts: folder of the denoiser, the scheduler's config, folder of the autoencoder; unsure: what else
    is there."""

    model: Path
    scheduler: Path | None
    autoencoder: Path | None
    unsure: list[str]
    home: Path
    """The folder that was looked at."""


def is_autoencoder(kind: str) -> bool:
    return "Autoencoder" in kind or kind.startswith("VQModel")


def look_at(folder: Path) -> Parts:
    """The parts of a folder that diffusers wrote.

    Raises:
        InputError: a pipeline with several denoisers.
        CheckpointError: a part is missing, or this is no folder of diffusers.
    """
    index = config_of(folder / "model_index.json")
    own = str(config_of(folder / "config.json").get("_class_name", ""))
    kinds = {p.parent.name: str(config_of(p).get("_class_name", "")) for p in sorted(folder.glob("*/config.json"))}
    encoders = sorted(
        (k for k, kind in kinds.items() if is_autoencoder(kind) or (k in AUTOENCODERS and kind)),
        key=lambda k: (k not in AUTOENCODERS, k),
    )
    encoders.sort(key=lambda k: (k not in index, AUTOENCODERS.index(k) if k in AUTOENCODERS else len(AUTOENCODERS)))
    autoencoder = folder / encoders[0] if encoders else None
    lost = [k for k in AUTOENCODERS if isinstance(index.get(k), list) and None not in index[k][:1] and k not in kinds]
    if lost and not own:
        raise CheckpointError(
            f"{folder} has a model_index.json but no {lost[0]}/config.json, which it lists: the download is not"
            " complete"
        )
    unsure = [
        f"autoencoder: {encoders[0]}/ was taken; {', '.join(encoders[1:])} is there as well" for _ in encoders[1:2]
    ]
    schedulers = [
        folder / "scheduler" / "scheduler_config.json",
        folder / "scheduler_config.json",
        *sorted(folder.glob("*/scheduler_config.json")),
    ]
    if own and not is_autoencoder(own):  # a model folder, or a pipeline whose parts lie side by side
        if not index and autoencoder is None:
            beside = folder.parent
            schedulers = [schedulers[1], beside / "scheduler" / "scheduler_config.json", schedulers[0]]
            near = [
                k
                for k in AUTOENCODERS
                if (beside / k / "config.json").is_file() and (beside / "model_index.json").is_file()
            ]
            unsure += [
                f"autoencoder: {beside / k} lies beside this model: its samples are latents; give the folder {beside}"
                " for images"
                for k in near[:1]
            ]
        return Parts(folder, _first(reversed(schedulers) if index else schedulers), autoencoder, unsure, folder)
    models = [k for k, kind in kinds.items() if k not in encoders and (k in MODELS or k in index) and kind]
    named = [k for k in models if k in index] or models
    if len(named) > 1:
        raise InputError(f"{folder} holds several models ({', '.join(named)}): give the folder of one of them")
    if not index and not named:
        raise CheckpointError(f"{folder} holds no model_index.json and no config.json: it is not a diffusers folder")
    if not named:
        missing = next((k for k in MODELS if k in index), MODELS[0])
        raise CheckpointError(
            f"{folder} has a model_index.json but no {missing}/config.json, and no config.json beside it: the download"
            " is not complete"
        )
    averaged = [k for k in kinds if k.startswith(named[0]) and k != named[0] and "ema" in k]
    unsure += [f"weights: {named[0]}/ was taken; {k}/ is there as well" for k in averaged]
    return Parts(folder / named[0], _first(schedulers), autoencoder, unsure, folder)


def text_parts(index: dict[str, Any]) -> list[str]:
    """Names of the tokenizers and text encoders that a model_index.json lists, but those it says are not there."""
    return [
        k
        for k, v in index.items()
        if k.startswith(("text_encoder", "tokenizer")) and not (isinstance(v, list) and None in v[:1])
    ]


def _first(paths: Any) -> Path | None:
    return next((p for p in paths if p.is_file()), None)


def find_autoencoder(folder: Path) -> Path | None:
    """The folder of a pipeline's autoencoder, if its model lives in latents."""
    return look_at(folder).autoencoder


def find_parts(folder: Path) -> tuple[Path, Path | None]:
    """(folder of the model, scheduler_config.json) of a pipeline or of a bare model."""
    parts = look_at(folder)
    return parts.model, parts.scheduler


def recognise(path: Path) -> bool:
    """Whether a folder was written by diffusers' `save_pretrained`."""
    if (path / "model_index.json").is_file():
        return True
    return any("_diffusers_version" in config_of(path / k / "config.json") for k in ("", *MODELS))


def config_of(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        value = read_json(path, "a config of diffusers")
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    return value if isinstance(value, dict) else {}
