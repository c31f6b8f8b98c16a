"""Models of pixels or of latents saved by Hugging Face diffusers: a pipeline folder, a model folder, or a hub id; with
a class or a text held fixed, if they take one.

Everything that is stated in the files is read from them: prediction type, table of betas, zero-SNR rescaling, learned
variance. What is not (the range of the images) is named in the card's `unsure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, freeze
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, InputError
from deft.io.states import DIFFUSERS, choose, find_states, holds, read_any, survey, which
from deft.io.torch_files import BY_FUNCTION
from deft.prior.autoencoder import latent_statistics, load_autoencoder
from deft.prior.conditioned import Condition, check_encoders, condition_network, refuse_text
from deft.prior.families import class_name, text_family
from deft.prior.labelled import Labelled, Sample
from deft.prior.latent import LatentPrior
from deft.prior.parts import (
    AUTOENCODERS,
    MODELS,
    Parts,
    config_of,
    find_autoencoder,
    find_parts,
    is_autoencoder,
    look_at,
    recognise,
)
from deft.prior.probing import try_once
from deft.prior.refused import refuse
from deft.prior.scheduler import BY_HAND, PREDICTIONS, examine, read_scheduler, table
from deft.prior.sizes import model_at_size
from deft.prior.weights import DTYPES, INSTALL, WEIGHTS, Weights, load_model, model_of_state, weight_files

__all__ = [
    "AUTOENCODERS",
    "INSTALL",
    "MODELS",
    "PREDICTIONS",
    "WEIGHTS",
    "Labelled",
    "Parts",
    "Sample",
    "find_autoencoder",
    "find_parts",
    "is_autoencoder",
    "latent_statistics",
    "load_autoencoder",
    "load_diffusers",
    "load_model",
    "look_at",
    "read_scheduler",
    "recognise",
    "table",
    "weight_files",
]


def load_diffusers(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    label: int | str | None = None,
    variant: str | None = None,
    event_shape: tuple[int, ...] | None = None,
    gradient: str | None = None,
    latent_scale: float | Sequence[float] | None = None,
    latent_shift: float | Sequence[float] | None = None,
    prompt: str = "",
    negative_prompt: str = "",
    guidance_scale: float = 1.0,
    embeddings: str | None = None,
    lora: str | None = None,
    lora_scale: float = 1.0,
    dtype: str | None = None,
    state: Weights | None = None,
    parts: Mapping[str, dict[str, Tensor]] | None = None,
    **changes: Any,
) -> Denoiser:
    """A diffusers model as a frozen prior.

    Args:
        name: a pipeline folder (model_index.json, with its parts in folders of their own or beside it), a model folder
            (config.json, with a scheduler beside it or in it), or a hub id such as google/ddpm-cifar10-32 where a hub
            is reachable.
        label: the class, for a class-conditional model; "none" for the class that stands for none, where the model has
            one.
        variant: "fp16" for files named so; of parts that have no such files the plain ones are read.
        gradient: for a pipeline with an autoencoder, see `deft.prior.latent.LatentPrior`.
        latent_scale, latent_shift: of its latents, z = scale (E(x) - shift), over what its config says; a number, or
            one for each channel.
        event_shape: of another size than the model was trained on (of latents, for a pipeline with an autoencoder);
            needed if its config states no sample_size.
        prompt: the text, for a text-conditional model; "" for none, which is the model's own unconditional side.
        negative_prompt: the text that guidance leads away from; "" for none.
        guidance_scale: of classifier-free guidance, from 1 (none). Above 1 every call is two rows of the network for
            each row of x (`Prompted`); of FLUX.1-dev it is an input of the network.
        embeddings: a file of `deft prior embed`, in place of the text encoders.
        lora: a file of LoRA weights, merged into the network (and into text encoders that are used), lora_scale times.
        dtype: the network's precision, a key of `DTYPES`; by default float32, or that of the variant.
        state: weights from a file elsewhere, in place of the folder's (`load_state`).
        parts: tensors of other parts from that file, by the names of their folders (`load_single`).
        changes: keywords of `NetworkDenoiser` that override what the files say (output, value_range, time, ...). With
            schedule and output given, a scheduler that cannot be read is no obstacle.

    Raises:
        InputError: diffusers is missing; the hub cannot be reached; the model needs more than x_t and t.
        CheckpointError: weights are missing, do not fit the config, or are no plain tensors.
    """
    folder = Path(name) if Path(name).is_dir() else _download(str(name))
    refuse(name, config_of(folder / "model_index.json"), config_of(folder / "config.json"))
    found = look_at(folder)
    config = config_of(found.model / "config.json")
    refuse(name, config_of(folder / "model_index.json"), config)
    asked = Condition(prompt, negative_prompt, guidance_scale, embeddings, label, lora, lora_scale)
    family = text_family(config)
    if family is None:
        refuse_text(name, class_name(config), asked)
    said, unsure = _convention(name, found.scheduler, changes)
    if config.get("time_embedding_type") == "fourier" and "time" not in said:
        said["time"] = "sigma"
    silent = config.get("sample_size") is None or config.get("in_channels") is None
    stated = None if event_shape and silent else _event_shape(config, name)
    shape = tuple(event_shape or stated or ())
    inputs = int(config.get("in_channels") or shape[0])
    outputs = int(config.get("out_channels") or inputs)
    if family is not None and family.channels is not None:
        inputs, outputs = family.channels(config)
    if outputs not in (inputs, 2 * inputs):
        raise InputError(
            f"{name}: the model takes {inputs} channels and returns {outputs}: it wants more than x_t and t (an image"
            f" to start from, as models for super-resolution and inpainting do); {BY_FUNCTION}, with the rest held"
            " fixed in it"
        )
    said |= {"learned_variance": outputs == 2 * shape[0]}
    if family is not None and embeddings is None:
        check_encoders(found, config, parts or ())
    if state is None:
        model, notes = load_model(found.model, variant, None if dtype is None else DTYPES[dtype])
    else:
        model, notes = model_of_state(found.model, state)
        model = model if dtype is None else model.to(DTYPES[dtype])
    unsure += notes
    under = condition_network(name, model, config, found, asked, shape, variant, parts)
    net = model_at_size(name, under.net, config, stated, shape)
    if event_shape and len(shape) > 1 and shape[0] != inputs:
        own = ",".join(map(str, (inputs, *shape[1:])))
        raise InputError(
            f"{name} has {inputs} channels, event_shape={','.join(map(str, shape))} has {shape[0]}: give"
            f" event_shape={own}"
        )
    prior = NetworkDenoiser(net, event_shape=shape, **(said | changes))
    freeze(prior)
    try_once(prior.to(device), str(name))
    where = found.autoencoder
    if where is None and (latent_scale is not None or latent_shift is not None):
        raise InputError(f"{name} has no autoencoder: latent_scale and latent_shift are for latent priors")
    latent: Denoiser = prior
    if where is not None:
        autoencoder, data_shape, doubts = load_autoencoder(
            where,
            prior.event_shape,
            variant,
            latent_scale,
            latent_shift,
            elsewhere=(found.model / "config.json", folder / "model_index.json"),
            state=None if state is None or not parts or "vae" not in parts else state._replace(tensors=parts["vae"]),
        )
        latent = LatentPrior(prior, autoencoder.to(device), data_shape, gradient)
        unsure += doubts
    elif "value_range" not in said and "value_range" not in changes:
        unsure.append("value_range: [-1, 1] is taken, as diffusers' pipelines do")
    latent.card = {
        "family": "diffusers",
        "name": str(name),
        "class": config.get("_class_name"),
        "parameters": prior.parameter_count(),
        "scheduler": config_of(found.scheduler).get("_class_name") if found.scheduler else None,
        **under.card,
        "unsure": unsure + found.unsure + under.unsure,
    }
    return latent.to(device)


def load_state(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    config: str | None = None,
    weights: str | None = None,
    **options: Any,
) -> Denoiser:
    """A state dict of a model of diffusers (a training state, .pt, .ckpt, .bin, .safetensors) as a frozen prior; every
    weight is checked and used.

    Args:
        config: the folder that diffusers wrote, with config.json and scheduler; by default the folder of the file.
        weights: which of several networks in the file, by its place there ("ema").
        options: of `load_diffusers`.

    Raises:
        InputError: no config.json there.
        CheckpointError: the weights do not fit it.
    """
    path = Path(name)
    whole = read_any(path)
    found = find_states(whole, DIFFUSERS.landmarks)
    if not found:
        raise CheckpointError(f"{path} holds no model of diffusers ({holds(whole)})")
    found = choose(path, found, weights)
    folder = Path(config) if config is not None else path.parent
    folder = folder.parent if folder.is_file() else folder
    if not folder.is_dir() or not recognise(folder):
        raise InputError(
            f"{path}: {survey(whole)}. {folder} has no config.json of diffusers: give --prior-option config=FOLDER, the"
            " folder that diffusers wrote for this network"
        )
    state = Weights(path, found[0].where, found[0].state, which(found))
    prior = load_diffusers(folder, device=device, state=state, **options)
    prior.card |= {"name": path.stem, "file": path.name} | ({"weights": state.where} if state.where else {})
    return prior


def _convention(name: object, scheduler: Path | None, changes: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the scheduler's file says of the network, unless what is given by hand is all there is to say."""
    by_hand = "schedule" in changes and "output" in changes
    assumed = [
        f"{k}: not given, {usual} is taken"
        for k, usual in (("output", "eps"), ("time", "the schedule's own t"))
        if k not in changes
    ]
    if scheduler is None:
        if "schedule" in changes:
            return {}, assumed
        raise InputError(
            f"{name} holds a model but no scheduler_config.json: give the pipeline's folder, or"
            f" {BY_HAND.removeprefix('give ')}"
        )
    try:
        said, unsure = examine(config_of(scheduler), changes.get("output"))
    except (InputError, CheckpointError) as error:
        if not by_hand:
            raise
        return {}, [
            (
                f"scheduler: {scheduler.name} was passed over, output and schedule are given by hand"
                f" ({str(error).partition(':')[0]})"
            ),
            *assumed,
        ]
    return dict(said), [
        u
        for u in unsure
        if not ("schedule" in changes and u.startswith(("zero terminal SNR", "num_train_timesteps", "rescale_betas")))
    ]


def _event_shape(config: dict[str, Any], name: object) -> tuple[int, ...]:
    channels, side = config.get("in_channels"), config.get("sample_size")
    family = text_family(config)
    if family is not None and family.channels is not None:
        channels = family.channels(config)[0]
    if family is not None and side is None:
        side = family.side
    line = "1D" in str(config.get("_class_name"))
    if channels is None or side is None:
        raise InputError(f"{name} states no sample_size: give event_shape, for example {'2,64' if line else '3,64,64'}")
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side,) if line else (side, side)
    return (int(channels), *map(int, sides))


def _download(name: str) -> Path:
    """A hub id's files: configs and tensors, nothing that would be run."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(INSTALL) from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.bin", "*.txt", "*.model"]))
    except Exception as error:  # the hub's own errors, the network's, and those of a name that is none
        if type(error).__name__ == "GatedRepoError":
            raise InputError(
                f"{name} is gated on the hub: accept its terms there, and set HF_TOKEN; or give a folder that holds it"
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} is no folder here, and could not be had from the hub ({first[:160]})") from error
