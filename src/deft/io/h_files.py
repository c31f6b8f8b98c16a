"""A fitted h as a file: its own weights alone, and a card naming the prior it belongs to by convention and fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.denoiser import NetworkDenoiser
from deft.domains.image.tasks import TASKS, ImageTask, Tilt, make_task
from deft.errors import CheckpointError, DeftError, InputError
from deft.io.files import load_weights, save_weights
from deft.io.identity import differences, listed, plain
from deft.learned import DEFT, LEARNED, Learned, kind_of


def bundled_h(task: str, prior: str = "") -> Path:
    """The file of the h that comes with the library for a task, on the bundled prior `prior` (default: the task's own).

    >>> bundled_h("inpaint").name
    'h-inpaint.safetensors'
    """
    folder = Path(str(resources.files("deft.domains.image") / "weights"))
    own = folder / f"h-{task}-{prior}.safetensors"
    path = own if prior and own.exists() else folder / f"h-{task}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(p.stem.removeprefix("h-") for p in folder.glob("h-*.safetensors")))
        raise InputError(f"no h for {task} is bundled, only for {known}: fit one (deft fit, or deft demo without --pretrained)")
    return path


def start_from(source: str | Path, prior: Denoiser, lift_channels: int) -> DEFT:
    """A DEFT to fit that begins with the weights of another: a run folder, an h.safetensors, or a task whose h is bundled."""
    path = Path(source)
    other, _, _ = load_h(path if path.exists() else bundled_h(str(source)), prior)
    if not isinstance(other, DEFT):
        raise InputError(f"{source} holds an h of the kind {kind_of(other)}: only DEFT can start from another")
    return DEFT.like(other, lift_channels)


class Described(Protocol):
    """What a card says of a task: an `ImageTask`'s part, or another domain's."""

    name: ClassVar[str]
    lift_channels: ClassVar[int]

    def config(self) -> dict[str, Any]: ...


KEPT_WHOLE = ("log_rho2", "level_weight")
"""Buffers that stay in float32 in a file of half precision."""


def save_h(path: str | Path, h: Learned, prior: Denoiser, task: Described, kind: str = "", /, *, half: bool = False, **card: Any) -> dict[str, Any]:
    """Write h's weights and card; keywords are added to the card. kind: h's name, if it is none of `LEARNED`. half: weights in float16, half
    the size; they are float32 again when loaded. Returns the card."""
    name = kind or kind_of(h)
    cannot = _unloadable(h, task, kind)
    if cannot:
        raise InputError(
            f"this h cannot be saved, for it could not be loaded: {cannot}. Keep torch.save(h.state_dict(), FILE) and the code that builds it"
        )
    about = {
        "kind": "h-transform",
        "format": 1,
        "class": name,
        "h": h.config(),
        "task": task.config(),
        "prior_sha256": prior.fingerprint(),
        "prior_convention": convention_of(prior),
    }
    about |= {k: v for k, v in card.items() if k != "class"}
    tensors = h.state_dict()
    if half:
        about["weights_stored"] = "float16"
        tensors = {k: v.half() if v.dtype == torch.float32 and k not in KEPT_WHOLE else v for k, v in tensors.items()}
    save_weights(path, tensors, about)
    return about


def _unloadable(h: Learned, task: Described, kind: str) -> str:
    """Why `load_h` could not build this h from its card, "" if it can. kind: named by another domain, which answers for it."""
    if getattr(h, "own_network", False):
        return "its N1 is a network of your own (net=), which a card cannot describe"
    if kind:
        return ""
    if type(h) not in LEARNED.values():
        return f"{type(h).__name__} is a class of your own; the kinds of h a file may hold are {', '.join(LEARNED)}"
    if type(task) not in (*TASKS.values(), Tilt):
        return f"its task {task.name} is a class of your own ({type(task).__name__}), which is none of `deft list`"
    return ""


def load_h(path: str | Path, prior: Denoiser, task: ImageTask | None = None) -> tuple[Learned, ImageTask, dict[str, Any]]:
    """The h, its task and its card, from a file or a run folder, of an h for images; see `load_any_h`."""
    h, found, card = load_any_h(path, prior, LEARNED, make_task)
    if task is not None:
        other = differences(found.config(), plain(task.config()))
        if other:
            raise CheckpointError(f"{path} was fitted to another task: {listed(other)}; fit one to this task, or take its own")
    return h, found, card


T = TypeVar("T", bound=Described)


def load_any_h(
    path: str | Path, prior: Denoiser, kinds: Mapping[str, type[Learned]], tasks: Callable[[dict[str, Any]], T]
) -> tuple[Learned, T, dict[str, Any]]:
    """The h, its task and its card, from a file or a run folder.

    Args:
        path: h.safetensors, or the folder that holds it.
        prior: the prior it was fitted to; compared by convention (schedule, output kind, value range, ...), then by the
            SHA-256 of both convention and weights. Files without a convention in their card are compared by the latter.
        kinds: the classes of h a card may name. tasks: makes a task from its `config()`.

    Raises:
        CheckpointError: the file is no h-transform, is damaged, or was fitted to another prior or task; the message lists each
            difference as `field: fitted X, given Y`.
    """
    path = Path(path)
    path = path / "h.safetensors" if path.is_dir() else path
    tensors, card = read_h(path)
    _check_prior(path, card, prior)
    if card["task"].get("name") == "motif" and card.get("class") not in [*kinds]:
        raise CheckpointError(f"{path} holds an h for motifs of proteins: use it with deft protein scaffold --run {path}")
    found = _task(path, card, tasks)
    h = _build(path, card, tensors, prior, kinds)
    if h.event_shape != tuple(prior.event_shape) or h.lift_channels != found.lift_channels:
        raise CheckpointError(
            f"{path} holds an h for samples {h.event_shape} shown {h.lift_channels} views of y; the prior makes {tuple(prior.event_shape)}, "
            f"the task {found.name} shows {found.lift_channels}: the card does not belong to these weights"
        )
    return h.eval().requires_grad_(False), found, card


def read_h(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of an h.safetensors, before anything is built from them."""
    try:
        tensors, card = load_weights(path)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"the card in {path} is no JSON ({error}): take the file from its source again") from error
    if not isinstance(card, dict) or card.get("kind") != "h-transform":
        kind = card.get("kind", "something") if isinstance(card, dict) else "something"
        raise CheckpointError(f"{path} holds {kind!r}, not an h-transform")
    for field, kind in (("h", dict), ("task", dict), ("prior_sha256", str)):
        if not isinstance(card.get(field), kind):
            raise CheckpointError(f"the card in {path} lacks {field!r}: take the file from its source again")
    bad = [k for k, v in tensors.items() if not bool(torch.isfinite(v.float()).all())]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinite weights, first in {bad[0]}: take the file from its source again")
    return tensors, card


def _build(path: Path, card: dict[str, Any], tensors: dict[str, Tensor], prior: Denoiser, kinds: Mapping[str, type[Learned]]) -> Learned:
    """The h a card describes; its shapes are compared with the file's before any memory is taken."""
    name = card.get("class", "deft")  # older files hold no other kind
    if not isinstance(name, str) or name not in kinds:
        raise CheckpointError(f"{path} holds an h of the kind {name!r}, which is none of those known here: {', '.join(kinds)}")
    kind = kinds[name]
    tensors = kind.upgrade(tensors)
    try:
        with torch.device("meta"):
            described = {k: tuple(v.shape) for k, v in kind.from_config(prior, card["h"]).state_dict().items()}
        held = {k: tuple(v.shape) for k, v in tensors.items()}
        if held != described:
            odd = sorted(k for k in held.keys() | described.keys() if held.get(k) != described.get(k))
            raise ValueError(f"{odd[0]} is {held.get(odd[0], 'missing')}, expected {described.get(odd[0], 'nothing of that name')}")
        h = kind.from_config(prior, card["h"])
        h.load_state_dict(tensors)
    except (DeftError, RuntimeError, TypeError, ValueError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise CheckpointError(f"{path} does not fit the h-transform its card describes: {reason}") from error
    return h


def _task(path: Path, card: dict[str, Any], tasks: Callable[[dict[str, Any]], T]) -> T:
    try:
        return tasks(card["task"])
    except (TypeError, KeyError, InputError) as error:
        raise CheckpointError(f"the card in {path} describes no task of this version ({error}): use the version that wrote it") from error


# Which prior: conventions first, so that a refusal can say what differs.


def convention_of(prior: Denoiser) -> dict[str, Any]:
    """`prior.describe()` as plain JSON, with what it leaves out where it is usual: shape and range of samples, time, ..."""
    about: dict[str, Any] = {"event_shape": prior.event_shape, "value_range": (-1.0, 1.0)}
    if isinstance(prior, NetworkDenoiser):
        about |= {k: v for k, v in prior.convention().items() if k != "schedule"}
        about["time"] = prior.time if isinstance(prior.time, str) else getattr(prior.time, "__name__", "a function")
    return plain(about | prior.describe())


def _check_prior(path: Path, card: dict[str, Any], prior: Denoiser) -> None:
    mine, theirs = prior.fingerprint(), card["prior_sha256"]
    fitted = card.get("prior_convention")
    other = differences(_one_schedule(fitted), _one_schedule(convention_of(prior))) if isinstance(fitted, dict) else []
    if theirs == mine:  # a prior behind a service says less of itself than the same one here
        other = [d for d in other if "nothing" not in d[1:]]
        if not other:
            return
    who = f"{path} was fitted to the prior {card.get('prior', '?')!r} (sha256 {theirs[:12]}…), this prior is {mine[:12]}…"
    what = f", in another convention: {listed(other)}" if other else ", of the same convention and other weights" if fitted else ""
    raise CheckpointError(f"{who}{what}: give the prior it was fitted to with --prior")


def _one_schedule(convention: dict[str, Any]) -> dict[str, Any]:
    """With the schedule's settings under its name: settings of two kinds of schedule have nothing in common."""
    rest = {k: v for k, v in convention.items() if k not in ("schedule", "settings")}
    return rest | {"schedule": {"name": convention.get("schedule"), "settings": convention.get("settings", {})}}
