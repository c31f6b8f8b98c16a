"""Unconditional models, of pixels or of latents, saved by Hugging Face diffusers: a pipeline folder, a model folder, or
a hub id.

Everything that is stated in the files is read from them: prediction type, table of betas, zero-SNR rescaling, learned
variance. What is not (the range of the images) is named in the card's `unsure`.
"""

from __future__ import annotations

import inspect
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, freeze
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, InputError
from deft.io.files import check_header
from deft.io.reading import read_json
from deft.io.states import DIFFUSERS, check_fit, choose, find_states, holds, read_any, survey, which
from deft.io.torch_files import BY_FUNCTION
from deft.prior.labels import NONE, null_class
from deft.prior.latent import Autoencoder, LatentPrior
from deft.prior.probing import try_once
from deft.prior.scheduler import BY_HAND, PREDICTIONS, examine, read_scheduler, table
from deft.runtime.untrusted import building, check_zip, held

__all__ = [
    "PREDICTIONS",
    "Labelled",
    "Sample",
    "find_autoencoder",
    "find_parts",
    "load_diffusers",
    "load_model",
    "read_scheduler",
    "recognise",
    "table",
]

INSTALL = "diffusers is not installed: pip install 'deft-diffusion[diffusers]'"


def recognise(path: Path) -> bool:
    """Whether a folder was written by diffusers' `save_pretrained`."""
    if (path / "model_index.json").is_file():
        return True
    return any("_diffusers_version" in _json(path / k / "config.json") for k in ("", *MODELS))


class Sample(nn.Module):
    """model(x, t).sample, the calling convention of diffusers, as net(x, t)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.model(x, time, return_dict=False)[0]


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
    state: Weights | None = None,
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
        event_shape: needed only if the model's config states no sample_size.
        state: weights from a file elsewhere, in place of the folder's (`load_state`).
        changes: keywords of `NetworkDenoiser` that override what the files say (output, value_range, time, ...). With
            schedule and output given, a scheduler that cannot be read is no obstacle.

    Raises:
        InputError: diffusers is missing; the hub cannot be reached; the model needs more than x_t and t.
        CheckpointError: weights are missing, do not fit the config, or are no plain tensors.
    """
    folder = Path(name) if Path(name).is_dir() else _download(str(name))
    parts = look_at(folder)
    config = _json(parts.model / "config.json")
    said, unsure = _convention(name, parts.scheduler, changes)
    if config.get("time_embedding_type") == "fourier" and "time" not in said:
        said["time"] = "sigma"
    shape = event_shape or _event_shape(config, name)
    inputs = int(config.get("in_channels") or shape[0])
    outputs = int(config.get("out_channels") or inputs)
    if outputs not in (inputs, 2 * inputs):
        raise InputError(
            f"{name}: the model takes {inputs} channels and returns {outputs}: it wants more than x_t and t (an image"
            f" to start from, as models for super-resolution and inpainting do); {BY_FUNCTION}, with the rest held"
            " fixed in it"
        )
    said |= {"learned_variance": outputs == 2 * shape[0]}
    model, notes = load_model(parts.model, variant) if state is None else model_of_state(parts.model, state)
    unsure += notes
    net, label, notes = _with_label(name, model, config, label)
    prior = NetworkDenoiser(net, event_shape=tuple(shape), **(said | changes))
    freeze(prior)
    try_once(prior.to(device), str(name))
    where = parts.autoencoder
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
            elsewhere=(parts.model / "config.json", folder / "model_index.json"),
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
        "scheduler": _json(parts.scheduler).get("_class_name") if parts.scheduler else None,
        "unsure": unsure + parts.unsure + notes,
    }
    if label is not None:
        latent.card["label"] = label
    return latent.to(device)


class Weights(NamedTuple):
    """Weights of a model of diffusers in a file of training code: the file, where in it, the tensors, the doubts."""

    path: Path
    where: str
    tensors: dict[str, Tensor]
    unsure: list[str]


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


def model_of_state(folder: Path, state: Weights) -> tuple[nn.Module, list[str]]:
    """(the model that a folder's config.json describes, with weights from elsewhere, doubts)."""
    known = _class_of(folder)
    try:
        with building(*held(state.tensors)):
            model: nn.Module = known.from_config(_json(folder / "config.json"))  # type: ignore[attr-defined]
    except Exception as error:  # of diffusers, given whatever a config says
        first = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{folder}/config.json describes no network of {state.path} ({first[:240]})") from error
    check_fit(state.path, model.state_dict(), state.tensors, f"the {type(model).__name__} of {folder}/config.json")
    model.load_state_dict(state.tensors)
    return model, state.unsure


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
        said, unsure = examine(_json(scheduler), changes.get("output"))
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


def _with_label(
    name: object, model: nn.Module, config: dict[str, Any], label: int | str | None
) -> tuple[nn.Module, int | None, list[str]]:
    """The model as net(x, t), with its class held fixed if it has classes, and what there is to say of the class."""
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    classes = classes if classes and "class_labels" in inspect.signature(model.forward).parameters else None
    if not classes:
        if label is not None:
            raise InputError(
                f"{name} takes no class (a {type(model).__name__} without classes), got label={label}: give no label"
            )
        return Sample(model), None, []
    tables = [
        m.num_embeddings
        for m in model.modules()
        if isinstance(m, nn.Embedding) and m.num_embeddings in (classes, classes + 1)
    ]
    rows = max(tables, default=int(classes))
    none = null_class(rows, int(classes))
    if label == NONE:
        if none is None:
            raise InputError(
                f"{name} has {rows} classes, and nothing says that one of them stands for none: if it was trained with"
                f" one, give its number as label; else give label=0..{rows - 1}"
            )
        label = none
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < rows:
        also = f"; label={NONE} (class {none}) is the unconditional prior" if none is not None else ""
        last = rows - 1 if none is None else none - 1
        raise InputError(
            f"{name} is class-conditional: give label, a whole number from 0 to {last} (got {label}){also}"
        )
    if label == none:
        return (
            Labelled(model, label),
            label,
            [f"class {label} of {rows} is taken for the one that stands for none: this is the unconditional prior"],
        )
    return (
        Labelled(model, label),
        label,
        [f"class {label} of {classes}: the card of an h fitted to this prior should say so"],
    )


class Labelled(nn.Module):
    """A class-conditional model with its class held fixed."""

    def __init__(self, model: nn.Module, label: int):
        super().__init__()
        self.model = model
        self.label: Tensor
        self.register_buffer("label", torch.tensor([label]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.model(x, time, class_labels=self.label.expand(x.shape[0]), return_dict=False)[0]


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


def is_autoencoder(kind: str) -> bool:
    return "Autoencoder" in kind or kind.startswith("VQModel")


def look_at(folder: Path) -> Parts:
    """The parts of a folder that diffusers wrote.

    Raises:
        InputError: a pipeline that wants a text, or one with several denoisers.
        CheckpointError: a part is missing, or this is no folder of diffusers.
    """
    index = _json(folder / "model_index.json")
    own = str(_json(folder / "config.json").get("_class_name", ""))
    text = [
        k
        for k, v in index.items()
        if k.startswith(("text_encoder", "tokenizer")) and not (isinstance(v, list) and None in v[:1])
    ]
    if text:
        raise InputError(
            f"{folder} is a text-conditional pipeline ({index.get('_class_name')}, with {text[0]}): this adapter takes"
            f" unconditional models; {BY_FUNCTION}, with the text held fixed in it"
        )
    kinds = {p.parent.name: str(_json(p).get("_class_name", "")) for p in sorted(folder.glob("*/config.json"))}
    encoders = sorted(
        (k for k, kind in kinds.items() if is_autoencoder(kind) or (k in AUTOENCODERS and kind)),
        key=lambda k: (k not in AUTOENCODERS, k),
    )
    encoders.sort(key=lambda k: (k not in index, AUTOENCODERS.index(k) if k in AUTOENCODERS else len(AUTOENCODERS)))
    autoencoder = folder / encoders[0] if encoders else None
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
        return Parts(folder, _first(reversed(schedulers) if index else schedulers), autoencoder, unsure)
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
    return Parts(folder / named[0], _first(schedulers), autoencoder, unsure)


def _first(paths: Any) -> Path | None:
    return next((p for p in paths if p.is_file()), None)


def find_autoencoder(folder: Path) -> Path | None:
    """The folder of a pipeline's autoencoder, if its model lives in latents."""
    return look_at(folder).autoencoder


def find_parts(folder: Path) -> tuple[Path, Path | None]:
    """(folder of the model, scheduler_config.json) of a pipeline or of a bare model."""
    parts = look_at(folder)
    return parts.model, parts.scheduler


def load_autoencoder(
    folder: Path,
    latent: tuple[int, ...],
    variant: str | None = None,
    scale: float | Sequence[float] | None = None,
    shift: float | Sequence[float] | None = None,
    elsewhere: Sequence[Path] = (),
) -> tuple[Autoencoder, tuple[int, ...], list[str]]:
    """(frozen autoencoder, shape of the data, doubts) of a folder, for latents of a shape; always in float32.

    scale, shift: of the latents, over what the config says. elsewhere: configs that may state them where the
        autoencoder's own does not.
    """
    config = _json(folder / "config.json")
    model, unsure = load_model(folder, variant, dtype=torch.float32)
    found_scale, found_shift, doubts = latent_statistics(
        folder, config, model, latent, elsewhere, asked=(scale is not None, shift is not None)
    )
    stated: dict[str, Any] = {}
    for key, value in (("latent_scale", scale), ("latent_shift", shift)):
        if value is not None:
            stated[key] = list(value) if isinstance(value, (list, tuple)) else value
    made = Autoencoder(
        model,
        found_scale if scale is None else _per_channel("latent_scale", scale, latent),
        found_shift if shift is None else _per_channel("latent_shift", shift, latent),
        stated,
    )
    if not bool((torch.as_tensor(made.scale) > 0).all()):
        raise InputError(
            f"{folder}: the scale of the latents must be above 0, got {_numbers(made.scale)}: give latent_scale"
        )
    made.eval().requires_grad_(False)
    try:
        with torch.no_grad():
            shape = tuple(made.decode(torch.zeros(1, *latent)).shape[1:])
    except Exception as error:  # whatever a decoder makes of latents that are not its own
        raise CheckpointError(
            f"{folder}: the autoencoder ({config.get('_class_name')}) does not decode latents of shape {latent}"
            f" ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        ) from error
    return made, shape, unsure + doubts


def latent_statistics(
    folder: Path,
    config: dict[str, Any],
    model: nn.Module,
    latent: tuple[int, ...],
    elsewhere: Sequence[Path] = (),
    asked: tuple[bool, bool] = (False, False),
) -> tuple[Tensor | float, Tensor | float, list[str]]:
    """(scale, shift, doubts) with z = scale (E(x) - shift), as diffusers' pipelines use an autoencoder: scaling_factor,
    shift_factor, latents_mean, latents_std.

    asked: whether scale and shift are given by hand, so that there is nothing to doubt.
    """
    kind = str(config.get("_class_name"))
    if kind == "AutoencoderRAE":  # scales its latents itself
        return 1.0, 0.0, []
    if isinstance(getattr(model, "bn", None), nn.BatchNorm2d) and not all(asked):
        raise InputError(
            f"{folder}: {kind} scales its latents by a batch norm of its own, in its pipeline: give latent_scale and"
            " latent_shift, one number for each channel"
        )
    filled = dict(getattr(model, "config", {}))
    doubts, others = [], [(p, _json(p)) for p in elsewhere]

    def get(key: str) -> Any:
        value = config[key] if config.get(key) is not None else filled.get(key) if key not in config else None
        if value is None and isinstance(getattr(model, key, None), Tensor):
            value = getattr(model, key).tolist()
        stated = config.get(key) is not None
        for path, other in others:
            if not stated and other.get(key) is not None:
                doubts.append(f"{key}: taken from {path.parent.name}/{path.name}, the autoencoder's config states none")
                return other[key]
        return value

    mean, std, factor, shift = (get(k) for k in ("latents_mean", "latents_std", "scaling_factor", "shift_factor"))
    somewhere = any(other.get("scaling_factor") is not None for _, other in others)
    if config.get("scaling_factor") is None and not somewhere and not asked[0] and std is None:
        usual = inspect.signature(type(model).__init__).parameters.get("scaling_factor")
        default = usual.default if usual is not None and isinstance(usual.default, (int, float)) else None
        factor = factor if factor is not None else default
        whose = f"{kind}'s default" if factor is not None else "as nothing states another"
        doubts.append(
            f"latent scale: the autoencoder's config states no scaling_factor; {1.0 if factor is None else factor:g} is"
            f" taken, {whose} (latent_scale=NUMBER overrules it)"
        )
    factor = 1.0 if factor is None else factor
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor):
        raise InputError(f"{folder}: scaling_factor is {factor!r}, expected a number: give latent_scale")
    if mean is None and std is None:
        return float(factor), float(shift or 0.0), doubts
    if not all(asked):
        doubts.append(
            "latents_mean and latents_std: z = (E(x) - mean) scaling_factor / std is taken, as diffusers' pipelines do"
            " (latent_scale and latent_shift overrule it)"
        )
    if shift:
        doubts.append(
            f"shift_factor: {shift:g} is stated beside latents_mean, and was passed over (latent_shift overrules it)"
        )
    deviation = torch.ones(1) if std is None else _statistic("latents_std", std, latent)
    if not bool((deviation > 0).all()):
        raise InputError(f"{folder}: latents_std must be above 0, got {_numbers(deviation)}: give latent_scale")
    return factor / deviation, torch.zeros(1) if mean is None else _statistic("latents_mean", mean, latent), doubts


def _statistic(key: str, value: Any, latent: tuple[int, ...]) -> Tensor:
    flat = torch.as_tensor(value, dtype=torch.float32).flatten()
    if flat.numel() == math.prod(latent) and flat.numel() != latent[0]:
        return flat.reshape(1, *latent)
    return _per_channel(key, flat.tolist(), latent)


def _per_channel(key: str, value: float | Sequence[float], latent: tuple[int, ...]) -> Tensor | Any:
    """A number as it is; one for each channel as a tensor that broadcasts with latents [B, C, ...]."""
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise InputError(f"{key} must be a finite number, got {value}")
        return float(value)
    if len(value) not in (1, latent[0]):
        raise InputError(
            f"{key} has {len(value)} numbers, the latents have {latent[0]} channels: give one number, or {latent[0]}"
        )
    return torch.tensor([float(v) for v in value]).reshape(1, -1, *(1,) * (len(latent) - 1))


def _numbers(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in torch.as_tensor(value).flatten().tolist()[:4])


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
    known = _class_of(folder)
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


def _class_of(folder: Path) -> type[nn.Module]:
    """The class of diffusers that a folder's config.json names."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(INSTALL) from error
    kind = str(_json(folder / "config.json").get("_class_name"))
    known = getattr(diffusers, kind, None)
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        raise InputError(
            f"{folder}/config.json names the class {kind!r}, which diffusers {diffusers.__version__} does not have"
        )
    if "Condition" in kind or "ControlNet" in kind:
        raise InputError(
            f"{kind} is conditional (it wants more than x_t and t): this adapter takes unconditional models"
        )
    return known


MAX_TENSORS = 20_000
"""Of a model of diffusers; the largest published ones have a few thousand."""


def _check_weights(folder: Path) -> int:
    """Bytes of a model's files of weights, none of which is packed or has a header that is too long."""
    whole = 0
    for path in folder.iterdir():
        if _SHARD.fullmatch(path.name):
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


def _event_shape(config: dict[str, Any], name: object) -> tuple[int, ...]:
    channels, side = config.get("in_channels"), config.get("sample_size")
    line = "1D" in str(config.get("_class_name"))
    if channels is None or side is None:
        raise InputError(f"{name} states no sample_size: give event_shape, for example {'2,64' if line else '3,64,64'}")
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side,) if line else (side, side)
    return (int(channels), *map(int, sides))


def _json(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        value = read_json(path, "a config of diffusers")
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    return value if isinstance(value, dict) else {}


def _download(name: str) -> Path:
    """A hub id's files: configs and tensors, nothing that would be run."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(INSTALL) from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.bin"]))
    except Exception as error:  # the hub's own errors, the network's, and those of a name that is none
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} is no folder here, and could not be had from the hub ({first[:160]})") from error
