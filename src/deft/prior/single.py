"""Stable Diffusion in one file, in the names of its original code: what the community shares as .safetensors or .ckpt.

The file holds the weights of network, autoencoder and text encoder. What it does not hold (configs, scheduler,
tokenizer) is taken from a folder that diffusers wrote for the same family. Names are converted by diffusers' own
functions; a pickle is read as tensors and plain values, and nothing of it is run (`deft.io.inert`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.errors import CheckpointError, InputError
from deft.io.states import levels, read_any
from deft.prior.diffusers import load_diffusers
from deft.prior.families import class_name
from deft.prior.parts import config_of, recognise
from deft.prior.weights import Weights

NETWORK, WORDS = "model.diffusion_model.", "cond_stage_model.transformer."
OTHER_WORDS = ("cond_stage_model.model.", "conditioner.embedders.")


def is_single(names: Iterable[str]) -> bool:
    """Whether tensors of these names are a network that is conditioned on a text, in the original code's names."""
    return any(k.startswith(NETWORK) and k.endswith(".attn2.to_k.weight") for k in names)


def load_single(
    name: str | Path, *, device: torch.device | str = "cpu", config: str | None = None, **options: Any
) -> Denoiser:
    """Stable Diffusion in one file as a frozen prior; every weight of the network is checked and used.

    Args:
        config: a folder of diffusers of the same family: its configs, scheduler and tokenizer are used, and weights
            only of what the file does not hold.
        options: of `load_diffusers`.

    Raises:
        InputError: no config, or one of another family.
        CheckpointError: the weights do not fit it.
    """
    path = Path(name)
    if config is None:
        raise InputError(
            f"{path} is Stable Diffusion in one file: give --prior-option config=FOLDER, a folder of diffusers of the"
            " same family, for its configs, scheduler and tokenizer; or make it a folder (docs/prior-text.md)"
        )
    folder = Path(config)
    if not folder.is_dir() or not recognise(folder):
        raise InputError(f"config={config} is no folder that diffusers wrote: give one of the same family as {path}")
    settings = config_of(folder / "unet" / "config.json")
    if class_name(settings) != "UNet2DConditionModel":
        raise InputError(f"config={config} holds no UNet2DConditionModel in unet/, which {path} is")
    tensors = tensors_of(path)
    notes = ["weights: those beside the average were taken, as diffusers does"] if has_average(tensors) else []
    parts = convert(path, tensors, folder)
    if "text_encoder" not in parts:
        notes.append(f"text_encoder: that of {folder} is taken; of this file's layout it is not read")
    prior = load_diffusers(
        folder, device=device, state=Weights(path, NETWORK.strip("."), parts.pop("unet"), notes), parts=parts, **options
    )
    prior.card |= {"name": path.stem, "file": path.name}
    return prior


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of the level that holds the network."""
    for _, level, _ in levels(read_any(path)):
        if is_single(map(str, level)):
            return {str(k): v for k, v in level.items() if isinstance(v, Tensor)}
    raise CheckpointError(f"{path} holds no text-conditional network in the names of Stable Diffusion's own code")


def has_average(tensors: Mapping[str, Tensor]) -> bool:
    return any(k.startswith("model_ema.") for k in tensors)


def convert(path: Path, tensors: Mapping[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    """Folder of the part -> its tensors, by diffusers' names: unet, vae, and the text encoder of 1.x."""
    from diffusers.loaders import single_file_utils as names

    try:
        made = {"unet": names.convert_ldm_unet_checkpoint(dict(tensors), config_of(folder / "unet" / "config.json"))}
        if any(k.startswith("first_stage_model.") for k in tensors):
            made["vae"] = names.convert_ldm_vae_checkpoint(dict(tensors), config_of(folder / "vae" / "config.json"))
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:  # of another family's config
        raise CheckpointError(
            f"{path} does not fit the configs of {folder} ({type(error).__name__}:"
            f" {' '.join(str(error).split())[:100]})"
        ) from error
    words = {k.removeprefix(WORDS): v for k, v in tensors.items() if k.startswith(WORDS)}
    return made | ({"text_encoder": words} if words else {})
