"""Networks of EDM and EDM2 as priors (Karras et al. 2022, 2024): the published pickles, and state dicts.

    prior = load_edm("edm-ffhq-64x64-uncond-vp.pkl")
    prior = load_edm("edm-imagenet-64x64-cond-adm.pkl", label=207)

The network is built from the names and shapes of its tensors. What surrounds it, the preconditioning
D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), is recorded in a pickle (class and numbers); a bare state dict does
not have it, and EDM's own is taken and named as a doubt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, freeze
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, InputError, unknown
from deft.io.inert import Record
from deft.io.sizes import say_size, sides_of
from deft.io.states import EDM, EDM2, Found, check_fit, choose, find_states, holds, read_any, survey, which
from deft.io.torch_files import BY_FUNCTION
from deft.nn.edm import EDMConfig, edm_unet
from deft.nn.edm2 import EDM2Config, EDM2UNet
from deft.nn.padding import cropped, mirrored
from deft.prior.autoencoder import load_autoencoder
from deft.prior.labels import NONE
from deft.prior.latent import LatentPrior
from deft.prior.sizes import padding_of
from deft.runtime.untrusted import building, describable
from deft.schedule import EDM as EDMSchedule
from deft.schedule import VE, VPLinear, VPTable

KINDS = {
    "EDMPrecond": "edm",
    "Precond": "edm",
    "VPPrecond": "vp",
    "VEPrecond": "ve",
    "iDDPMPrecond": "iddpm",
}
"""Class that a pickle records -> preconditioning."""
PRECONDITIONINGS = tuple(dict.fromkeys(KINDS.values()))
SWITCHES = {
    "label": "label_balance", "concat": "concat_balance", "residual": "res_balance", "attend": "attn_balance",
    "head": "channels_per_head", "clip": "clip_act",
}  # fmt: skip
"""Field of `EDM2Config` that shapes do not tell -> the argument that a pickle records."""
LATENTS: dict[str, Any] = {
    "raw_mean": (5.81, 3.25, 0.12, -2.15), "raw_std": (4.17, 4.62, 3.71, 3.28), "final_mean": 0, "final_std": 0.5,
}  # fmt: skip
"""How EDM2's latents were made from those of Stable Diffusion's autoencoder, where a pickle does not say."""


class Settings(NamedTuple):
    """A preconditioning: its kind, and what the pickle says of it. stated: whether it says so."""

    kind: str
    numbers: Mapping[str, float]
    stated: bool

    def get(self, key: str, usual: float) -> float:
        return float(self.numbers.get(key, usual))


class Inner(nn.Module):
    """net(x, time) -> F(x, time, code): the class filled in, one-hot, channels beyond the image's dropped, images of
    any size padded.

    VE networks of Song et al. (2021b) are given log(sigma / 2) and return -n: with `ve`, n is returned for log(sigma).
    The class is a buffer, so that it is part of the prior's fingerprint.
    """

    code: Tensor | None

    def __init__(self, net: nn.Module, classes: int, label: int | None, ve: bool = False):
        super().__init__()
        self.net, self.ve = net, ve
        code = torch.zeros(1, classes) if classes else None
        if code is not None and label is not None:
            code[0, label] = 1
        self.register_buffer("code", code)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        code = None if self.code is None else self.code.expand(len(x), -1)
        seen: Any = self.net
        padded = mirrored(x, seen.multiple_of)
        out: Tensor = cropped(seen(padded, time - math.log(2) if self.ve else time, code)[:, : x.shape[1]], x)
        return -out if self.ve else out


class EDMPrior(NetworkDenoiser):
    """A network of EDM as a prior for images in [-1, 1] (or for latents): under EDM's and VE's preconditioning t is
    sigma, or [0, 1]; under VP's [0, 1], under iDDPM's the index into its table."""

    def __init__(self, inner: Inner, event_shape: tuple[int, ...], kind: str, **convention: Any):
        super().__init__(inner, event_shape=event_shape, **convention)
        self.kind = kind

    def reread(self, **changes: Any) -> EDMPrior:
        assert isinstance(self.net, Inner)
        out = EDMPrior(self.net, self.event_shape, self.kind, **(self.convention() | changes))
        out.card = dict(self.card)
        return out.train(self.training)

    def describe(self) -> dict[str, Any]:
        """With what changes what the network computes, but none of its weights."""
        assert isinstance(self.net, Inner)
        config: Any = self.net.net.config
        more = {k: getattr(config, k) for k in SWITCHES if hasattr(config, k)}
        padding = padding_of(self.event_shape[1:], int(self.net.net.multiple_of))  # type: ignore[arg-type]
        return super().describe() | {"edm": {"layout": config.layout, "preconditioning": self.kind} | more} | padding


def convention_of(settings: Settings, steps: Tensor | None = None) -> dict[str, Any]:
    """How a network is read under its preconditioning, as keywords of `NetworkDenoiser` (table 1 of the paper).

    steps: u_0 > ... > u_M = 0, the levels of iDDPM's, which a file has beside the weights.
    """
    get = settings.get
    if settings.kind == "edm":
        low, high = max(0.002, get("sigma_min", 0)), min(80.0, get("sigma_max", math.inf))
        return {
            "schedule": EDMSchedule(low, high), "output": "edm", "time": "log-sigma/4", "scale_input": True,
            "sigma_data": get("sigma_data", 0.5),
        }  # fmt: skip
    if settings.kind == "vp":  # x / alpha scaled by 1 / sqrt(1 + sigma^2 / alpha^2) is x itself
        low, rise = get("beta_min", 0.1), get("beta_d", 19.9)
        return {"schedule": VPLinear(low, low + rise), "output": "eps", "time": f"{get('M', 1000) - 1:g}t"}
    if settings.kind == "ve":
        schedule: Schedule = VE(get("sigma_min", 0.02), get("sigma_max", 100.0))
        return {"schedule": schedule, "output": "eps", "time": "log-sigma"}
    u = _levels(settings) if steps is None else steps.double().flatten()
    if len(u) < 3 or not bool((u[:-1] > u[1:]).all()) or float(u[-1]) != 0:
        raise CheckpointError("the levels u of its preconditioning do not fall to 0: the file is damaged")
    kept = 1 / (1 + u.flip(0) ** 2)  # abar of u_M, u_(M-1), ..., u_0
    return {"schedule": VPTable((1 - kept[1:] / kept[:-1]).tolist()), "output": "eps", "time": "index"}


def _levels(settings: Settings) -> Tensor:
    """u_M = 0; u_(j-1)^2 = (u_j^2 + 1) / max(abar_(j-1) / abar_j, C_1) - 1; abar_j = sin^2(pi/2 j / (M (C_2 + 1)))."""
    m = int(settings.get("M", 1000))
    c1, c2 = settings.get("C_1", 0.001), settings.get("C_2", 0.008)
    abar = [math.sin(math.pi / 2 * j / (m * (c2 + 1))) ** 2 for j in range(m + 1)]
    u = [0.0] * (m + 1)
    for j in range(m, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(abar[j - 1] / abar[j], c1) - 1)
    return torch.tensor(u, dtype=torch.float64)


def find(whole: Any) -> list[Found]:
    """The networks of EDM or EDM2 in a file."""
    return find_states(whole, EDM.landmarks) or find_states(whole, EDM2.landmarks)


def load_edm(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    label: int | str | None = None,
    sides: tuple[int, int] | None = None,
    event_shape: tuple[int, ...] | None = None,
    weights: str | None = None,
    preconditioning: str | None = None,
    autoencoder: str | None = None,
    gradient: str | None = None,
    **changes: Any,
) -> Denoiser:
    """A checkpoint of EDM or EDM2 as a frozen prior, in float32; every weight is checked and used. Nothing of a pickle
    is run.

    Args:
        label: the class of every image, for a class-conditional network; "none" for no class (the code of zeros).
        sides: (H, W) of the images where they are not those of the file; of sides that are no multiples of what the
            network halves it is shown the padded image (`deft.nn.padding`). event_shape: the same as (C, H, W).
        weights: which of several networks in the file, by its place there ("ema").
        preconditioning: one of `PRECONDITIONINGS`, over what the file says.
        autoencoder: for a network of latents (EDM2 at 512 pixels), a folder of diffusers with the autoencoder: then the
            prior's samples are its images. Without it they are the latents.
        gradient: with an autoencoder, see `deft.prior.latent.LatentPrior`.
        changes: of the convention; see `NetworkDenoiser`.

    Raises:
        CheckpointError: a file that is not there, cut off, holds code, or is of another network.
        InputError: a label missing, not wanted or out of range; channels that the network does not have.
    """
    path = Path(path)
    whole = read_any(path)
    found = find(whole)
    if not found:
        raise CheckpointError(
            f"{path} is a {'pickle' if path.suffix.startswith('.p') else 'file'} without a network of EDM"
            f" ({holds(whole)}{'; ' + survey(whole) if survey(whole) else ''}): {BY_FUNCTION}"
        )
    found = choose(path, found, weights)
    taken = found[0]
    settings = _settings(taken.record, "u" in taken.beside)
    if preconditioning is not None:
        if preconditioning not in PRECONDITIONINGS:
            raise unknown("preconditioning", preconditioning, PRECONDITIONINGS)
        settings = settings._replace(kind=preconditioning, stated=True)
    net = _network(path, taken)
    config = net.config
    channels = config.in_channels
    if config.out_channels not in (channels, 2 * channels):
        raise InputError(
            f"{path.name} takes {channels} channels and returns {config.out_channels}: it wants more than x_t and"
            f" sigma; {BY_FUNCTION}, with the rest held fixed in it"
        )
    label = _label(path, config.classes, label)
    sides = sides_of(path.name, channels, event_shape, sides)
    net.to_empty(device=device)
    net.load_state_dict({k: v.float() for k, v in taken.state.items()})
    convention = convention_of(settings, taken.beside.get("u")) | changes
    inner = Inner(net, config.classes, label, settings.kind == "ve")
    prior = EDMPrior(inner, (channels, *(sides or (config.side,) * 2)), settings.kind, **convention)
    prior.card = {
        "family": "edm",
        "name": path.stem,
        "file": path.name,
        "class": config.name,
        "config": asdict(config) | {"preconditioning": settings.kind},
        "label": NONE if config.classes and label is None else label,
        "unsure": _doubts(taken, settings, config.classes, label, changes) + which(found),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    if taken.where:
        prior.card["weights"] = taken.where
    say_size(path.name, (channels, config.side, config.side), prior.event_shape)
    freeze(prior)
    prior.to(device)
    return _with_autoencoder(path, prior, whole, autoencoder, gradient)


def _settings(record: Record | None, levels: bool) -> Settings:
    """What a pickle's record says of the preconditioning."""
    if record is None:
        return Settings("iddpm" if levels else "edm", {}, levels)
    said = {**_arguments(record), **record.attributes()}
    numbers = {
        k: float(v) for k, v in said.items() if isinstance(v, (int, float)) and not isinstance(v, bool) and k[0] != "_"
    }
    return Settings(KINDS.get(record.what, "edm"), numbers, record.what in KINDS)


def _arguments(record: Record) -> dict[str, Any]:
    """The keywords that a recorded object was made with."""
    found = record.attributes().get("_init_kwargs")
    return {str(k): v for k, v in found.items()} if isinstance(found, Mapping) else {}


def _switches(record: Record) -> dict[str, Any]:
    """What a pickle says of an EDM2 network that its shapes do not."""
    said = _arguments(record)
    found = {k: said.get(v) for k, v in SWITCHES.items()}
    numbers = {k: v for k, v in found.items() if isinstance(v, (int, float)) and 0 <= v < math.inf}
    return {k: int(v) if k == "head" else float(v) for k, v in numbers.items()}


def _network(path: Path, taken: Found) -> Any:
    """The network of a state dict, on the meta device: every tensor has its name and its shape."""
    shapes = {k: tuple(v.shape) for k, v in taken.state.items()}
    kind: Any = EDM2Config if "emb_noise.weight" in shapes else EDMConfig
    try:
        config = kind.from_shapes(shapes)
        if isinstance(config, EDM2Config) and taken.record is not None:
            config = replace(config, **_switches(taken.record))
        with torch.device("meta"), building(*describable(taken.state)):
            net = EDM2UNet(config) if isinstance(config, EDM2Config) else edm_unet(config)
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError, AttributeError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: the weights are of no network of EDM: {reason}") from error
    check_fit(path, net.state_dict(), taken.state, f"the {config.name} network of its shapes")
    return net


def _label(path: Path, classes: int, label: int | str | None) -> int | None:
    if not classes:
        if label is not None:
            raise InputError(f"{path.name} is unconditional, got label={label}: give no label")
        return None
    if label == NONE:
        return None
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < classes:
        raise InputError(
            f"{path.name} is class-conditional, got label={label}: give label=0..{classes - 1}, or label={NONE} for no"
            " class"
        )
    return label


def _doubts(taken: Found, settings: Settings, classes: int, label: int | None, changes: Mapping[str, Any]) -> list[str]:
    doubts = []
    if not settings.stated and not {"output", "time"} <= changes.keys():
        doubts.append(
            "preconditioning: not in a state dict; EDM's own is taken, sigma_data 0.5 (preconditioning="
            + ", ".join(PRECONDITIONINGS) + ")"
        )  # fmt: skip
    if classes and label is None:
        said = _arguments(taken.record).get("label_dropout") if taken.record is not None else None
        doubts.append(
            "label: no class is the code of zeros, which the network knows only if it was trained with label dropout"
            + (f" (its file says {said:g})" if isinstance(said, (int, float)) else " (its file does not say)")
        )
    return doubts


def _with_autoencoder(path: Path, prior: EDMPrior, whole: Any, folder: str | None, gradient: str | None) -> Denoiser:
    """The prior itself, or, where its samples are latents and the autoencoder is given, that of the images."""
    encoder = whole.get("encoder") if isinstance(whole, Mapping) else None
    latent = isinstance(encoder, Record) and "VAE" in encoder.what
    if folder is None:
        if latent or prior.event_shape[0] == 4:
            prior.card["unsure"].append(
                "samples: latents of an autoencoder that is not in the file; autoencoder=FOLDER (of diffusers,"
                " sd-vae-ft-mse for EDM2) makes images of them"
            )
        return prior
    said = {
        **LATENTS,
        **{k: v for k, v in (_arguments(encoder) if isinstance(encoder, Record) else {}).items() if k in LATENTS},
    }
    mean, deviation, to_mean, to_deviation = (
        torch.tensor(said[k], dtype=torch.float64).flatten() for k in ("raw_mean", "raw_std", "final_mean", "final_std")
    )
    # z = (E(x) - mean) to_deviation / deviation + to_mean
    scale = to_deviation / deviation
    shift = mean - to_mean / scale
    home = Path(folder)
    home = home / "vae" if (home / "vae" / "config.json").is_file() else home
    made, shape, doubts = load_autoencoder(home, prior.event_shape, None, scale.tolist(), shift.tolist())
    images = LatentPrior(prior, made.to(next(prior.parameters()).device), shape, gradient)
    images.card = dict(prior.card) | {"unsure": prior.card["unsure"] + doubts}
    return images
