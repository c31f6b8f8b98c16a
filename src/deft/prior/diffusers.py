"""Unconditional models, of pixels or of latents, saved by Hugging Face diffusers: a pipeline folder, a model folder, or a hub id.

Everything that is stated in the files is read from them: prediction type, table of betas, zero-SNR rescaling, learned
variance. What is not (the range of the images) is named in the card's `unsure`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deft.denoise import Denoiser, NetworkDenoiser, freeze
from deft.errors import CheckpointError, InputError
from deft.noise import EDM, VE, RectifiedFlow, Schedule, VPTable
from deft.prior.latent import Autoencoder, LatentPrior

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""diffusers' prediction_type -> our output kind."""

INSTALL = "diffusers is not installed: pip install 'deft-diffusion[diffusers]'"


def recognise(path: Path) -> bool:
    """Whether a folder was written by diffusers' `save_pretrained`."""
    if (path / "model_index.json").is_file():
        return True
    return "_diffusers_version" in _json(path / "config.json")


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
    label: int | None = None,
    variant: str | None = None,
    event_shape: tuple[int, ...] | None = None,
    gradient: str = "decoder",
    **changes: Any,
) -> Denoiser:
    """A diffusers model as a frozen prior.

    Args:
        name: a pipeline folder (model_index.json), a model folder (config.json, with a scheduler beside it or in it), or a
            hub id such as google/ddpm-cifar10-32 where a hub is reachable.
        label: the class, for a class-conditional model.
        variant: "fp16" for files named so.
        gradient: for a pipeline with an autoencoder (a latent prior), see `deft.operator.latent.Decoded`.
        event_shape: needed only if the model's config states no sample_size.
        changes: keywords of `NetworkDenoiser` that override what the files say (output, value_range, time, ...).

    Raises:
        InputError: diffusers is missing; the hub cannot be reached; the model needs more than x_t and t.
        CheckpointError: weights are missing, do not fit the config, or are no plain tensors.
    """
    folder = Path(name) if Path(name).is_dir() else _download(str(name))
    unet, scheduler = find_parts(folder)
    config = _json(unet / "config.json")
    model = load_model(unet, variant)
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    if classes and (label is None or not 0 <= label < classes):
        raise InputError(f"{name} is class-conditional: give label, a whole number from 0 to {classes - 1} (got {label})")
    if event_shape is None:
        event_shape = _event_shape(config, name)
    said = read_scheduler(_json(scheduler)) if scheduler else {}
    if "schedule" not in said and "schedule" not in changes:
        raise InputError(
            f"{name} holds a model but no scheduler_config.json: give the pipeline's folder, or the schedule and the output by hand"
        )
    channels = event_shape[0]
    said |= {"learned_variance": int(config.get("out_channels", channels)) == 2 * channels}
    if config.get("time_embedding_type") == "fourier" and "time" not in said:
        said["time"] = "sigma"
    net: nn.Module = Labelled(model, int(label or 0)) if classes else Sample(model)
    prior = NetworkDenoiser(net, event_shape=tuple(event_shape), **(said | changes))
    freeze(prior)
    unsure = [] if "value_range" in said or "value_range" in changes else ["value_range: [-1, 1] is taken, as diffusers' pipelines do"]
    if classes:
        unsure.append(f"class {label} of {classes}: the card of an h fitted to this prior should say so")
    where = find_autoencoder(folder)
    latent: Denoiser = prior
    if where is not None:
        autoencoder, data_shape = load_autoencoder(where, prior.event_shape)
        latent = LatentPrior(prior, autoencoder, data_shape, gradient)
        unsure = [u for u in unsure if not u.startswith("value_range")]
    latent.card = {
        "family": "diffusers", "name": str(name), "class": config.get("_class_name"), "parameters": prior.parameter_count(),
        "scheduler": _json(scheduler).get("_class_name") if scheduler else None, "unsure": unsure,
    }  # fmt: skip
    return latent.to(device)


class Labelled(nn.Module):
    """A class-conditional model with its class held fixed."""

    def __init__(self, model: nn.Module, label: int):
        super().__init__()
        self.model = model
        self.label: Tensor
        self.register_buffer("label", torch.tensor([label]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.model(x, time, class_labels=self.label.expand(x.shape[0]), return_dict=False)[0]


def find_autoencoder(folder: Path) -> Path | None:
    """The folder of a pipeline's autoencoder, if its model lives in latents."""
    found = [folder / k for k in ("vae", "vqvae") if (folder / k / "config.json").is_file()]
    return found[0] if found else None


def load_autoencoder(folder: Path, latent: tuple[int, ...]) -> tuple[Autoencoder, tuple[int, ...]]:
    """(frozen autoencoder, shape of the data) of a folder, for latents of a shape."""
    config = _json(folder / "config.json")
    made = Autoencoder(load_model(folder), float(config.get("scaling_factor") or 0.18215), float(config.get("shift_factor") or 0.0))
    made.eval().requires_grad_(False)
    with torch.no_grad():
        shape = tuple(made.decode(torch.zeros(1, *latent)).shape[1:])
    return made, shape


def find_parts(folder: Path) -> tuple[Path, Path | None]:
    """(folder of the model, scheduler_config.json) of a pipeline or of a bare model."""
    index = _json(folder / "model_index.json")
    if index:
        models = [k for k in ("unet", "transformer", "model") if (folder / k / "config.json").is_file()]
        if "text_encoder" in index:
            raise InputError(f"{folder} is a text-conditional pipeline ({index.get('_class_name')}): this adapter takes unconditional models")
        if not models:
            raise CheckpointError(f"{folder} has a model_index.json but no unet/config.json: the download is not complete")
        scheduler = folder / "scheduler" / "scheduler_config.json"
        return folder / models[0], scheduler if scheduler.is_file() else None
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no model_index.json and no config.json: it is not a diffusers folder")
    beside = [folder / "scheduler_config.json", folder.parent / "scheduler" / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"]
    found = [p for p in beside if p.is_file()]
    return folder, found[0] if found else None


def load_model(folder: Path, variant: str | None = None) -> nn.Module:
    """The model of a folder, its weights loaded strictly and without unpickling."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(INSTALL) from error
    kind = str(_json(folder / "config.json").get("_class_name"))
    known = getattr(diffusers, kind, None)
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        raise InputError(f"{folder}/config.json names the class {kind!r}, which diffusers {diffusers.__version__} does not have")
    if "Condition" in kind or "ControlNet" in kind:
        raise InputError(f"{kind} is conditional (it wants more than x_t and t): this adapter takes unconditional models")
    try:
        model, info = known.from_pretrained(  # type: ignore[attr-defined]
            str(folder), variant=variant, output_loading_info=True, local_files_only=True, low_cpu_mem_usage=False,
            torch_dtype=torch.float16 if variant == "fp16" else None,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        first = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{folder}: the weights cannot be loaded ({first[:240]}); they must be complete, and .safetensors or a .bin of plain tensors"
        ) from error
    wrong = {k: info.get(k) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(k)}
    if wrong:
        what = "; ".join(f"{k.replace('_', ' ')}: {len(v)} ({sorted(map(str, v))[0]} ...)" for k, v in wrong.items() if v)
        raise CheckpointError(f"{folder}: the weights do not fit the config: {what}")
    return model


def read_scheduler(config: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `NetworkDenoiser` that a scheduler_config.json stands for."""
    import diffusers

    kind = str(config.get("_class_name"))
    if kind == "ScoreSdeVeScheduler":
        ve = VE(config.get("sigma_min", 0.01), config.get("sigma_max", 1348.0))
        return {"schedule": ve, "output": "score", "time": "sigma", "value_range": (0.0, 1.0)}
    if kind.startswith("FlowMatch"):
        # its `shift` moves the sampler's grid, not what the network was trained on
        return {"schedule": RectifiedFlow(), "output": "flow", "time": "1000t"}
    if kind.startswith("EDM"):
        edm = EDM(config.get("sigma_min", 0.002), config.get("sigma_max", 80.0))
        kept = config.get("prediction_type", "epsilon")
        if kept != "epsilon":
            raise InputError(f"{kind} with prediction_type {kept!r} is not known here: give output, schedule and time by hand")
        return {
            "schedule": edm, "output": "edm", "time": "log-sigma/4", "scale_input": True,
            "sigma_data": config.get("sigma_data", 0.5),
        }  # fmt: skip
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTIONS:
        raise InputError(f"prediction_type {prediction!r} is none of {', '.join(PREDICTIONS)}")
    made = getattr(diffusers, kind, None)
    if made is None:
        raise InputError(f"diffusers {diffusers.__version__} has no scheduler {kind!r}: give output and schedule by hand")
    scheduler = made.from_config(config)
    if not isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor):
        raise InputError(f"the scheduler {kind} states no table of betas: give output and schedule by hand")
    return {"schedule": table(scheduler.alphas_cumprod), "output": PREDICTIONS[prediction], "time": "t"}


def table(alphas_cumprod: Tensor) -> Schedule:
    """A table of cumulative alphas as a schedule; a last entry of 0 (zero terminal SNR, Lin et al. 2024) becomes 1e-12."""
    abar = alphas_cumprod.double().clone()
    if float(abar[-1]) < 1e-12:
        abar[-1] = 1e-12
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return VPTable((1 - abar / before).tolist())


def _event_shape(config: dict[str, Any], name: object) -> tuple[int, ...]:
    channels, side = config.get("in_channels"), config.get("sample_size")
    if channels is None or side is None:
        raise InputError(f"{name} states no sample_size: give event_shape, for example 3,64,64")
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    return (int(channels), *map(int, sides))


def _json(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
