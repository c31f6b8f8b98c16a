"""The autoencoder of a pipeline of diffusers, and what scales its latents."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deft.errors import CheckpointError, InputError
from deft.prior.latent import Autoencoder
from deft.prior.parts import config_of
from deft.prior.weights import Weights, load_model, model_of_state


def load_autoencoder(
    folder: Path,
    latent: tuple[int, ...],
    variant: str | None = None,
    scale: float | Sequence[float] | None = None,
    shift: float | Sequence[float] | None = None,
    elsewhere: Sequence[Path] = (),
    state: Weights | None = None,
) -> tuple[Autoencoder, tuple[int, ...], list[str]]:
    """(frozen autoencoder, shape of the data, doubts) of a folder, for latents of a shape; always in float32.

    scale, shift: of the latents, over what the config says. elsewhere: configs that may state them where the
        autoencoder's own does not. state: its weights from a file elsewhere.
    """
    config = config_of(folder / "config.json")
    if state is None:
        model, unsure = load_model(folder, variant, dtype=torch.float32)
    else:
        model, unsure = model_of_state(folder, state)[0].float(), list[str]()
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
    # not by getattr, which of a model of diffusers finds its config, and warns
    own = {**vars(model), **dict(model.named_buffers(recurse=False)), **dict(model.named_parameters(recurse=False))}
    doubts, others = [], [(p, config_of(p)) for p in elsewhere]

    def get(key: str) -> Any:
        value = config[key] if config.get(key) is not None else filled.get(key) if key not in config else None
        if value is None and isinstance(own.get(key), Tensor):
            value = own[key].tolist()
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
