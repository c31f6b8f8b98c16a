"""Guided-diffusion (ADM) checkpoints as priors: Dhariwal & Nichol 2021, and the many models trained with their code.

    prior = load_adm("256x256_diffusion_uncond.pt")            # flags from the shapes of the weights
    prior = load_adm("my_model.pt", config=ADMConfig(image_size=128, num_heads=4))

Weights say nothing of the heads of attention, of the noise schedule and of the image size: `infer_config` takes those
of the published model with the same shapes, or assumes, and says which it did.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deft._old_names import moved
from deft.core.denoiser import freeze
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, InputError, unknown
from deft.io.sizes import say_size, sides_of
from deft.io.states import (
    ADM,
    Found,
    check_fit,
    choose,
    find_states,
    holds,
    levels,
    read_any,
    survey,
    which,
)
from deft.io.torch_files import BY_FUNCTION
from deft.nn.adm import ADMConfig, ADMUNet
from deft.nn.padding import cropped, mirrored
from deft.prior.labels import NONE, null_class
from deft.prior.sizes import padding_of
from deft.runtime.untrusted import building, describable
from deft.schedule import VPTable


def _published(image_size: int, **flags: Any) -> ADMConfig:
    """What all published models share, and what one of them has of its own."""
    shared: dict[str, Any] = {
        "image_size": image_size, "num_channels": 256, "num_res_blocks": 2, "attention_resolutions": "32,16,8",
        "num_head_channels": 64, "learn_sigma": True, "resblock_updown": True, "use_scale_shift_norm": True,
        "use_fp16": True, "noise_schedule": "linear", "diffusion_steps": 1000,
    }  # fmt: skip
    return ADMConfig(**(shared | flags))


CONFIGS: dict[str, ADMConfig] = {
    "imagenet-256": _published(256),
    "imagenet-256-cond": _published(256, class_cond=True),
    "imagenet-64-cond": _published(
        64,
        class_cond=True,
        num_channels=192,
        num_res_blocks=3,
        noise_schedule="cosine",
        use_new_attention_order=True,
        dropout=0.1,
    ),
    "imagenet-128-cond": _published(128, class_cond=True, num_heads=4, num_head_channels=-1),
    "imagenet-512-cond": _published(512, class_cond=True, use_fp16=False),
    "lsun-bedroom": _published(256, dropout=0.1),
    "lsun-cat": _published(256, dropout=0.1),
    "lsun-horse": _published(256, dropout=0.1),
    "ffhq-256": _published(256, num_channels=128, num_res_blocks=1, attention_resolutions="16", use_fp16=False),
}
"""Name -> flags, from the README of openai/guided-diffusion; ffhq-256: the model of DPS (Chung et al. 2023)."""

FILES: dict[str, tuple[str, ...]] = {
    "imagenet-256": ("256x256_diffusion_uncond.pt",),
    "imagenet-256-cond": ("256x256_diffusion.pt",),
    "imagenet-64-cond": ("64x64_diffusion.pt",),
    "imagenet-128-cond": ("128x128_diffusion.pt",),
    "imagenet-512-cond": ("512x512_diffusion.pt",),
    "lsun-bedroom": ("lsun_bedroom.pt",),
    "lsun-cat": ("lsun_cat.pt",),
    "lsun-horse": ("lsun_horse.pt", "lsun_horse_nodropout.pt"),
    "ffhq-256": ("ffhq_10m.pt",),
}
"""Name -> the names its file is published under."""

LANDMARKS = ADM.landmarks
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}

# Files.


def recognise(names: Iterable[str]) -> bool:
    """Whether these are the parameter names of an ADM UNet. Its classifiers and latent-diffusion UNets are not."""
    return set(LANDMARKS) <= set(names)


def read_state(path: str | Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The ADM state dict in a .pt, .pth or .safetensors file, out of the usual nestings and prefixes.

    Of training states that hold several, the moving average comes first.

    Raises:
        CheckpointError: no such file; truncated; more than tensors in a pickle (unless `trust_pickle`); no ADM UNet.
    """
    return read_states(path, trust_pickle=trust_pickle)[0].state


def read_states(path: str | Path, *, trust_pickle: bool = False, weights: str | None = None) -> list[Found]:
    """Every ADM state dict in a file, the one to take first: a moving average before the weights it is of, the outer
    before the inner.

    weights: take the one whose place in the file is this, or has this in it.
    """
    path = Path(path)
    whole = read_any(path, trust_pickle=trust_pickle)
    _refuse_latent(path, whole)
    found = find_states(whole, LANDMARKS)
    if not found:
        raise CheckpointError(_holds_none(path, whole))
    return choose(path, found, weights)


def _refuse_latent(path: Path, whole: Any) -> None:
    for _, level, _ in levels(whole):
        for key in level:
            if re.search(r"(^|\.)(model\.diffusion_model|first_stage_model|cond_stage_model)\.", str(key)):
                raise CheckpointError(
                    f"{path} is of latent-diffusion, a UNet of latents: {BY_FUNCTION} around it and its autoencoder"
                    " (deft.prior.latent.LatentPrior), built with that code; the betas of its unconditional models are"
                    " the convention ldm-scaled-linear; or convert it to a folder of diffusers"
                )


def _holds_none(path: Path, whole: Any) -> str:
    known = survey(whole)
    if known:
        return f"{path} holds no guided-diffusion UNet: {known}"
    names = {str(key) for _, level, _ in levels(whole) for key in level}
    way = f"a network of another library: {BY_FUNCTION}"
    ends = ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "transformer_blocks.0.attn1.to_q.weight")
    if any(name.endswith(ends) for name in names):
        way = (
            "these look like the weights of a model of diffusers: give its folder, which has the config.json and the"
            " scheduler"
        )
    return f"{path} holds no guided-diffusion UNet ({holds(whole)}, ...); expected {LANDMARKS[0]} and so on; {way}"


# Flags.


def infer_config(state: Mapping[str, Tensor]) -> tuple[ADMConfig, list[str]]:
    """The flags a state dict was trained with, and what of them is not in it: one line each, with what was assumed.

    Shapes tell in_channels, num_channels, channel_mult, num_res_blocks, the levels with attention, learn_sigma,
    class_cond, use_scale_shift_norm and resblock_updown. They cannot tell the number of heads, the order of qkv, the
    noise schedule and its length, the image size: they come from the published model of these shapes, or are assumed.

    Raises `CheckpointError` for shapes that no flags explain.
    """
    if not recognise(state):
        missing = next(name for name in LANDMARKS if name not in state)
        raise CheckpointError(f"no guided-diffusion UNet: {missing} is missing; give an unwrapped state dict")
    try:
        config, unsure = _from_shapes({name: tuple(v.shape) for name, v in state.items()})
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"the weights fit no guided-diffusion flags: {reason}; give config=...") from error
    twins = [name for name, known in CONFIGS.items() if _told_by_shapes(known) == _told_by_shapes(config)]
    if twins:
        first = CONFIGS[twins[0]]
        return first, [
            f"shapes of {', '.join(twins)}: heads, attention order, schedule ({first.noise_schedule}, "
            f"{first.diffusion_steps} steps) and image size ({first.image_size}) are taken from {twins[0]}"
        ]
    return config, unsure


def _told_by_shapes(c: ADMConfig) -> tuple[Any, ...]:
    classes = c.num_classes if c.class_cond else 0
    sizes = c.in_channels, c.num_channels, c.num_res_blocks, c.channel_mult, c.attention_levels, classes
    return (*sizes, c.learn_sigma, c.use_scale_shift_norm, c.resblock_updown)


def _from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[ADMConfig, list[str]]:
    # Each way up to the next level ends an output block with a second ResBlock or a conv of its own.
    parts = [name.split(".") for name in shapes if name.startswith("output_blocks.")]
    ups = {int(p[1]) for p in parts if p[2] != "0" and p[3:] == ["in_layers", "2", "weight"]}
    convs = {int(p[1]) for p in parts if p[3:] == ["conv", "weight"]}
    levels = 1 + len(ups | convs)
    blocks = 1 + max(int(p[1]) for p in parts)
    stride = blocks // levels  # input blocks of a level: its ResBlocks and the way down
    if blocks % levels or stride < 2:
        raise ValueError(f"{blocks} output blocks on {levels} levels")

    channels = shapes["time_embed.0.weight"][1]
    widths = [shapes[f"input_blocks.{1 + stride * level}.0.out_layers.3.weight"][0] for level in range(levels)]
    attention = [f"input_blocks.{1 + stride * level}.1.qkv.weight" in shapes for level in range(levels)]
    inputs, outputs = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(f"{inputs} channels go in and {outputs} come out, expected {inputs} or {2 * inputs}")
    labels = shapes.get("label_emb.weight")
    per_head = 64 if all(w % 64 == 0 for w in widths) else -1
    side = 8 * 2 ** (levels - 1)
    config = ADMConfig(
        image_size=side,
        in_channels=inputs,
        num_channels=channels,
        num_res_blocks=stride - 1,
        channel_mult=tuple(w / channels for w in widths),
        learn_sigma=outputs == 2 * inputs,
        class_cond=labels is not None,
        num_classes=labels[0] if labels else 1000,
        attention_resolutions=tuple(side // 2**level for level in range(levels) if attention[level]),
        num_head_channels=per_head,
        use_scale_shift_norm=shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0],
        resblock_updown=bool(ups),
    )
    unsure = [
        (
            "attention heads: the weights are the same for any number; assumed "
            f"num_heads={config.num_heads}, num_head_channels={per_head}"
        ),
        "attention order: the weights are the same for both; assumed use_new_attention_order=False",
        "noise schedule: not in the weights; assumed noise_schedule='linear', diffusion_steps=1000",
        f"image size: not in the weights; assumed image_size={side}, for a coarsest level of 8 pixels as published",
    ]
    if inputs == outputs and inputs == 6:
        unsure.append("6 channels in and out: assumed images of 6; published upsamplers look alike and are no priors")
    return config, unsure


def noise_schedule(config: ADMConfig) -> VPTable:
    """The table of betas of the flags, N = diffusion_steps.

    linear: from 1e-4 to 2e-2, times 1000/N (Ho et al. 2020). cosine: abar(u) = cos^2((u + 0.008)/1.008 pi/2) and
    beta_i = min(1 - abar((i+1)/N) / abar(i/N), 0.999) (Nichol & Dhariwal 2021, eq. 17).
    """
    n = config.diffusion_steps
    if config.noise_schedule == "linear":
        return VPTable.linear(n, 1e-4 * 1000 / n, 2e-2 * 1000 / n)
    abar = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
    return VPTable([min(1 - b / a, 0.999) for a, b in itertools.pairwise(abar)])


# The prior.


class Eps(nn.Module):
    """net(x, t) -> predicted noise alone: learned variances dropped, the class filled in, images of any size padded.

    The class is a buffer, so that it is part of the prior's fingerprint.
    """

    label: Tensor | None

    def __init__(self, net: ADMUNet, label: int | None = None):
        super().__init__()
        self.net = net
        self.scale = 1000 / net.config.diffusion_steps if net.config.rescale_timesteps else 1.0
        self.register_buffer("label", None if label is None else torch.tensor(label))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        y = None if self.label is None else self.label.expand(len(x))
        out = self.net(mirrored(x, self.net.multiple_of), t * self.scale, y)[:, : self.net.config.in_channels]
        return cropped(out, x)


class ADMPrior(NetworkDenoiser):
    """An ADM UNet (Dhariwal & Nichol 2021) as a prior for images in [-1, 1]; t is the index into the table of betas,
    fractions allowed.

    sides: (H, W) of the images; by default the flags' image_size, twice. changes: of the convention the flags imply;
        see `NetworkDenoiser`.
    """

    def __init__(self, net: ADMUNet, label: int | None = None, *, sides: tuple[int, int] | None = None, **changes: Any):
        height, width = sides or (net.config.image_size,) * 2
        convention: dict[str, Any] = {"schedule": noise_schedule(net.config), "output": "eps"} | changes
        super().__init__(Eps(net, label), event_shape=(net.config.in_channels, height, width), **convention)
        self.label, self.sides = label, (height, width)
        self.config = net.config

    def reread(self, **changes: Any) -> ADMPrior:
        assert isinstance(self.net, Eps)
        label = self.net.label
        _, height, width = self.event_shape
        out = ADMPrior(
            self.net.net, None if label is None else int(label), sides=(height, width), **(self.convention() | changes)
        )
        out.card = dict(self.card)
        return out.to(next(self.parameters()).device).train(self.training)

    def describe(self) -> dict[str, Any]:
        """With the flags that change what the network computes, but none of its weights."""
        flags = ("num_heads", "num_head_channels", "use_new_attention_order", "rescale_timesteps")
        assert isinstance(self.net, Eps)
        padding = padding_of(self.sides, self.net.net.multiple_of)
        return super().describe() | {"adm": {name: getattr(self.config, name) for name in flags}} | padding


def load_adm(
    path: str | Path,
    *,
    config: ADMConfig | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    label: int | str | None = None,
    sides: tuple[int, int] | None = None,
    event_shape: tuple[int, ...] | None = None,
    weights: str | None = None,
    trust_pickle: bool = False,
    **changes: Any,
) -> ADMPrior:
    """A guided-diffusion checkpoint (Dhariwal & Nichol 2021; .pt, .pth, .safetensors) as a frozen prior; every weight
    is checked and used.

    Args:
        config: the flags, or a key of `CONFIGS`; None: `infer_config`, whose doubts are then in `prior.card["unsure"]`.
        dtype: of the trunk's convolutions, the rest is float32: float16 or bfloat16 for a GPU. Files in half precision
            are read into either.
        label: the class of every image, for a class-conditional model; "none" for the class that stands for none, where
            the weights have one.
        sides: (H, W) of the images, where they are of another size than the network was trained on; of sides that are
            no multiples of `ADMUNet.multiple_of` the network is shown the padded image (`deft.nn.padding`).
        event_shape: the same as (C, H, W).
        weights: which of several networks in the file, by its place there ("ema", "model").
        trust_pickle: also run the code a pickle may hold. Only for files from someone you trust.
        changes: single flags of `ADMConfig` over those of config (num_heads=8), or of the convention.

    Raises:
        CheckpointError: a file that is not there, cut off, not only tensors, or not of this network.
        InputError: an unknown name; flags without a network; a label missing, not wanted or out of range.
    """
    path = Path(path)
    if isinstance(config, str) and config not in CONFIGS:
        raise unknown("ADM config", config, CONFIGS)
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise unknown("dtype", str(dtype), DTYPES)
    dtype = DTYPES[str(dtype).removeprefix("torch.")]
    found = read_states(path, trust_pickle=trust_pickle, weights=weights)
    state = found[0].state
    name, unsure = None, list[str]()
    if config is None:
        config, unsure = infer_config(state)
    elif isinstance(config, str):
        name, config = config, CONFIGS[config]
    flags = {f.name: changes.pop(f.name) for f in fields(ADMConfig) if f.name in changes}
    try:
        config = _changed(config, flags)
        with torch.device("meta"), building(*describable(state)):  # gigabytes are made once, where they stay
            net = ADMUNet(config).trunk_to(dtype)
    except (ValueError, TypeError) as error:
        raise InputError(f"no network has these flags: {error}") from error
    label = _label(path, config, label)
    sides = sides_of(path.name, config.in_channels, event_shape, sides)
    if sides is None and config.image_size % net.multiple_of:
        raise InputError(
            f"{path.name} was trained on images whose sides are multiples of {net.multiple_of}, got"
            f" {config.image_size}: for images of another size give sides=HEIGHT,WIDTH"
        )
    try:
        check_fit(path, net.state_dict(), state, "the ADM network of its flags")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; give the config it was trained with") from error
    net.to_empty(device=device)
    net.load_state_dict(state)
    settled = {*flags, "noise_schedule"} if "schedule" in changes or found[0].betas is not None else set(flags)
    if found[0].betas is not None and "schedule" not in changes and "noise_schedule" not in flags:
        changes["schedule"] = VPTable(found[0].betas.double().flatten().tolist())
    prior = ADMPrior(net, label, sides=sides, **changes)
    prior.card = {
        "family": "adm",
        "name": name or _name(path, config),
        "file": path.name,
        "config": asdict(config),
        "label": label,
        "unsure": [doubt for doubt in unsure if not any(flag in doubt for flag in settled)] + which(found),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    if found[0].where:
        prior.card["weights"] = found[0].where
    say_size(path.name, (config.in_channels, config.image_size, config.image_size), prior.event_shape)
    freeze(prior)
    return prior.to(device)


def _label(path: Path, config: ADMConfig, label: int | str | None) -> int | None:
    last = config.num_classes - 1
    if not config.class_cond:
        if label is not None:
            raise InputError(f"{path.name} is unconditional, got label={label}: give no label")
        return None
    if label == NONE:
        found = null_class(config.num_classes, None)
        if found is None:
            raise InputError(
                f"{path.name} has {config.num_classes} classes, and its weights do not say that one of them stands for"
                " none: if it was trained with one, give its number"
            )
        return found
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= last:
        none = (
            f", or label={NONE} for the unconditional prior (class {last})"
            if null_class(config.num_classes, None) is not None
            else ""
        )
        raise InputError(f"{path.name} is class-conditional, got label={label}: give label=0..{last}{none}")
    return label


def _changed(config: ADMConfig, flags: dict[str, Any]) -> ADMConfig:
    """Some flags changed, and with them those that would otherwise contradict them."""
    out = dict(flags)
    if "num_heads" in flags:
        out.setdefault("num_head_channels", -1)
    if "image_size" in flags:  # the weights know levels, not pixels
        side = flags["image_size"]
        if isinstance(side, bool) or not isinstance(side, int):
            raise InputError(
                f"image_size is one whole number, got {side!r}: for images that are not square give sides=HEIGHT,WIDTH"
            )
        sides = tuple(side // 2**i for i, there in enumerate(config.attention_levels) if there)
        out.setdefault("attention_resolutions", sides)
    return replace(config, **out)


def _name(path: Path, config: ADMConfig) -> str | None:
    """The published model: the one with this file's name and these flags, else the first with these shapes."""
    twins = [name for name, known in CONFIGS.items() if _told_by_shapes(known) == _told_by_shapes(config)]
    return next((name for name in twins if path.name in FILES[name]), twins[0] if twins else None)


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
