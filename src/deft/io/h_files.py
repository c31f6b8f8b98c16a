"""A fitted h as a file: its own weights alone, and a card naming the prior it belongs to by convention and fingerprint.

An h of any kind of data is saved and loaded by the same two functions. What a card describes by name (a kind of learned
h, a task) is looked up with the prior's kind of data; what is a caller's own code (a network, a class of h, a class of
task) is named as "package.module:name", and imported only for callers who trust it.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.denoiser import NetworkDenoiser
from deft.denoiser.identity import is_prior
from deft.errors import CheckpointError, InputError
from deft.io.cards import check_card
from deft.io.files import NEEDS, load_weights, save_weights
from deft.io.identity import differences, listed, plain
from deft.io.reading import reason_of
from deft.io.sizes import say_size
from deft.io.tasks import TASKS, UNLISTED, make_task
from deft.io.text import shape_text
from deft.kinds.domain import Domain, Table, Task, domain_of
from deft.kinds.records import task_from
from deft.learned import DEFT, LEARNED, Learned, LearnedCovariance, WithCovariance
from deft.learned.factory import Factory, is_named
from deft.methods.method import Method
from deft.runtime.importable import check_name, find_trusted, name_of
from deft.runtime.untrusted import building, held
from deft.tensors import float32_default, weights_note

KINDS: Table[type[Learned]] = Table(
    lambda domain: {**LEARNED, **{k: v for k, v in domain.learned().items() if k not in LEARNED}}
)
"""Name -> class of learned h: those for every kind of data, and each one's own."""


def bundled_h(task: str, prior: str = "") -> Path:
    """The file of the h that comes with the library for a task, on the bundled prior `prior` (default: the task's own).

    >>> bundled_h("inpaint").name
    'h-inpaint.safetensors'
    """
    found = Table(lambda domain: domain.bundled_h(prior))
    if task not in found:
        raise InputError(
            f"no h for {task} is bundled, only for {', '.join(sorted(found))}: fit one (deft fit, or deft demo without"
            " --pretrained)"
        )
    return found[task]


def bundled_of_prior(kind: str, prior: Denoiser) -> Learned:
    """The h of a kind that is of the prior alone ("covariance") which comes with the library for this prior.

    Raises:
        InputError: there is none for this prior.
    """
    domain = domain_of(prior)
    name = f"{kind}-{prior.loaded_as}"
    found = {} if domain is None else domain.bundled_h()
    if name not in found:
        raise InputError(
            f"no learned {kind} is bundled for this prior ({prior.loaded_as or 'one of your own'}): fit one, deft fit"
            f" --method {kind} --out RUN, and give RUN"
        )
    return load_h(found[name], prior)[0]


def load_covariance(prior: Denoiser, path: str | Path | None = None, *, trust_code: bool = False) -> LearnedCovariance:
    """The learned covariance of a prior: an h for every linear measurement (docs/any-linear.md).

    Args:
        path: a run of `deft fit --method covariance`, or its file; None takes the one that comes with the library.

    Raises:
        InputError: none is bundled for this prior, or the file holds another kind of h. CheckpointError: it is damaged,
            or was fitted to another prior.

    >>> import deft
    >>> load_covariance(deft.load_prior("fashion")).event_shape
    (1, 32, 32)
    """
    found = bundled_of_prior("covariance", prior) if path is None else load_h(path, prior, trust_code=trust_code)[0]
    if not isinstance(found, LearnedCovariance):
        raise InputError(
            f"{path} holds an h of the kind {class_name(found, domain_of(prior))}, no learned covariance: fit one, deft"
            " fit --method covariance"
        )
    return found.to(prior.state_like().device)


def needed_h(
    method: Method[Any], prior: Denoiser, fitted: HTransform | None, beside: LearnedCovariance | None = None
) -> HTransform | None:
    """The learned h that a method draws with: `fitted`, and what comes with the library for this prior where the method
    takes that in its place, or beside it.

    beside: one of your own, in the place of that which comes with the library.

    Raises:
        InputError: the method needs one that is not bundled for this prior.
    """
    kind = LEARNED.get(method.learned)
    if kind is not None and kind.of_prior and not isinstance(fitted, kind):
        return bundled_of_prior(method.learned, prior).to(prior.state_like().device)
    if not method.beside or fitted is None or isinstance(fitted, WithCovariance):
        return fitted
    return WithCovariance(fitted, load_covariance(prior) if beside is None else beside)


def start_from(source: str | Path, prior: Denoiser, feature_channels: int, *, trust_code: bool = False) -> DEFT:
    """A DEFT to fit that begins with the weights of another: a run folder, an h.safetensors, or a task whose h is
    bundled."""
    path = Path(source)
    other, _, _ = load_h(path if path.exists() else bundled_h(str(source)), prior, trust_code=trust_code)
    if not isinstance(other, DEFT):
        raise InputError(
            f"{source} holds an h of the kind {class_name(other, domain_of(prior))}: only DEFT can start from another"
        )
    return type(other).init_like(other, feature_channels)


KEPT_WHOLE = ("log_rho2", "level_weight")
"""Buffers that stay in float32 in a file of half precision."""


def save_h(
    path: str | Path, h: Learned, prior: Denoiser, task: Task, /, *, half: bool = False, **card: Any
) -> dict[str, Any]:
    """Write h's weights and card; keywords are added to the card. Returns the card.

    Args:
        path: the file to write, FOLDER/h.safetensors.
        h: of a kind of `LEARNED` or of the prior's kind of data, or of a class of your own; with its own network if
            that is made by a class or function (`Factory`).
        prior: the prior it was fitted to. task: what it was fitted to.
        half: weights in float16, half the size; they are float32 again when loaded.

    Raises:
        InputError: it could not be loaded again: a network that no card can describe, code that no other program can
            import (a lambda, what is defined inside a function or in the script that runs).
    """
    if not isinstance(h, Learned):
        raise InputError(
            f"{type(h).__name__} is none of the kinds of learned h that a file can hold: {', '.join(KINDS)}, and"
            " subclasses of deft.learned.Learned"
        )
    domain = domain_of(prior)
    settings, about_task = h.config(), task.config()
    name, code = class_name(h, domain), _code_of(task, domain)
    try:
        if getattr(h, "own_network", False):
            raise InputError(
                "its N1 is a network (net=), which a card cannot describe: give the class or function that makes it,"
                " net=Net or net=Factory(Net, ...), and fit again"
            )
        for named in [n for n in (name, code) if ":" in n] + [found["factory"] for found in _factories(settings)]:
            check_name(named)
        if code and not _same(task_from(type(task), plain(about_task)), task):
            raise InputError(
                f"{code} made from its config() is another: let config() return the arguments that make it, or give it"
                " a from_config"
            )
        plain([settings, about_task])
    except (InputError, CheckpointError, TypeError) as error:
        raise InputError(
            f"this h cannot be saved, for it could not be loaded: {error}. Or keep torch.save(h.state_dict(), FILE) and"
            " the code that builds it"
        ) from error
    about = {
        "kind": "h-transform",
        "format": 1,
        "class": name,
        "h": settings,
        "task": about_task,
        "prior_sha256": prior.fingerprint(),
        "prior_convention": convention_of(prior),
    }
    if code:
        about["task_code"] = code
    about |= {k: v for k, v in card.items() if k not in ("class", "task_code")}
    tensors = h.state_dict()
    if half:
        about["weights_stored"] = "float16"
        tensors = {k: v.half() if v.dtype == torch.float32 and k not in KEPT_WHOLE else v for k, v in tensors.items()}
    save_weights(path, tensors, about)
    return about


def class_name(h: Learned, domain: Domain | None = None) -> str:
    """How a card names h's class: as a table of `LEARNED` or of the kinds of data does, else as it is imported."""
    return next((name for name, kind in KINDS.of(domain).items() if type(h) is kind), name_of(type(h)))


def _code_of(task: Task, domain: Domain | None) -> str:
    """What a task's class is imported as, if no table has it; else ""."""
    known = (TASKS.of(domain).get(task.name), *UNLISTED.values())
    return "" if type(task) in known else name_of(type(task))


def _same(a: Task, b: Task) -> bool:
    return bool(a == b) if is_dataclass(b) else a.config() == b.config()


def _factories(value: Any) -> list[dict[str, Any]]:
    """The factories that settings name, wherever they stand."""
    if is_named(value):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [found for part in parts for found in _factories(part)]


@float32_default()
def load_h(
    path: str | Path, prior: Denoiser, task: Task | None = None, *, trust_code: bool = False
) -> tuple[Learned, Any, dict[str, Any]]:
    """The h, its task and its card, from a file or a run folder.

    Args:
        path: h.safetensors, or the folder that holds it.
        prior: the prior it was fitted to; compared by convention (schedule, output kind, value range, ...), then by the
            SHA-256 of both convention and weights. Files without a convention in their card are compared by the latter.
        task: if given, the task that h must have been fitted to; an h that is of the prior alone (`Learned.of_prior`)
            serves any.
        trust_code: import what the card names of its author's own code (a network, a class of h or of task): that runs
            it.

    Raises:
        CheckpointError: the file is no h-transform, is damaged, was fitted to another prior or task, or names code that
            is not trusted; the message lists each difference as `field: fitted X, given Y`.
    """
    path = Path(path)
    path = path / "h.safetensors" if path.is_dir() else path
    tensors, card = read_h(path)
    _check_prior(path, card, prior)
    found = _task(path, card, domain_of(prior), trust_code)
    serves_all = _kind(path, card.get("class", "deft"), domain_of(prior), trust_code).of_prior
    if task is not None and serves_all:
        found = task
    elif task is not None:
        other = differences(found.config(), plain(task.config()))
        if other:
            raise CheckpointError(
                f"{path} was fitted to another task: {listed(other)}; fit one to this task, or take its own"
            )
    at_size = _at_size(path, card, prior)
    try:
        h = _build(path, at_size, tensors, prior, trust_code)
    except CheckpointError as error:
        if at_size is card:
            raise
        raise one_size(path, card, prior) from error
    if h.event_shape != tuple(prior.event_shape) or (not serves_all and h.feature_channels != found.feature_channels):
        raise CheckpointError(
            f"{path} holds an h for samples {h.event_shape} shown {h.feature_channels} views of y; the prior makes"
            f" {tuple(prior.event_shape)}, the task {found.name} shows {found.feature_channels}: the card does not"
            " belong to these weights"
        )
    h.belongs_to(prior, found, card["prior_sha256"])
    return h.eval().requires_grad_(False), found, card


def read_h(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of an h.safetensors, before anything is built from them."""
    tensors, card = load_weights(path)
    if card.get("kind") != "h-transform":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not an h-transform")
    check_card(path, card, NEEDS["h-transform"])
    bad = [k for k, v in tensors.items() if not bool(torch.isfinite(v.float()).all())]
    if bad:
        raise CheckpointError(
            f"{path} holds NaN or infinite weights, first in {bad[0]}: take the file from its source again"
        )
    return tensors, card


def _build(path: Path, card: dict[str, Any], tensors: dict[str, Tensor], prior: Denoiser, trust: bool) -> Learned:
    """The h a card describes; its shapes are compared with the file's before any memory is taken."""
    kind = _kind(path, card.get("class", "deft"), domain_of(prior), trust)  # older files hold no other kind
    settings = kind.upgrade_config(_resolved(card["h"], path, trust))
    tensors = kind.upgrade(tensors)
    try:
        with torch.device("meta"), building(*held(tensors)):
            described = {k: tuple(v.shape) for k, v in kind.from_config(prior, settings).state_dict().items()}
        there = {k: tuple(v.shape) for k, v in tensors.items()}
        if there != described:
            odd = sorted(k for k in there.keys() | described.keys() if there.get(k) != described.get(k))
            raise ValueError(
                f"{odd[0]} is {there.get(odd[0], 'missing')}, expected {described.get(odd[0], 'nothing of that name')}"
            )
        h = kind.from_config(prior, settings)
        h.load_state_dict(tensors)
    except Exception as error:  # the code of a class of h, given whatever a card says
        raise CheckpointError(f"{path} does not fit the h-transform its card describes: {reason_of(error)}") from error
    return h


def _takes_size(card: dict[str, Any], prior: Denoiser) -> bool:
    """Whether what a card describes works on samples of the prior's size, as far as its kind of data says."""
    domain = domain_of(prior)
    fitted = card["h"].get("event_shape") if isinstance(card.get("h"), dict) else None
    known = card.get("class", "deft") in KINDS.of(domain)
    return (
        isinstance(fitted, (list, tuple))
        and known
        and domain is not None
        and domain.takes_size(tuple(fitted), tuple(prior.event_shape))
    )


def one_size(path: Path, card: dict[str, Any], prior: Denoiser) -> InputError:
    """An error for an h that works at the size that it was fitted to and at no other."""
    fitted, asked = (shape_text(shape) for shape in (card["h"]["event_shape"], prior.event_shape))
    return InputError(
        f"{path} was fitted to {fitted} and works at that size alone, and the prior makes {asked}: give the prior at"
        f" that size (event_shape={','.join(map(str, card['h']['event_shape']))}), or fit an h at the other"
    )


def _at_size(path: Path, card: dict[str, Any], prior: Denoiser) -> dict[str, Any]:
    """The card, its h for samples of the prior's size.

    Raises:
        InputError: a task that was measured at one size.
    """
    if not _takes_size(card, prior) or tuple(card["h"]["event_shape"]) == tuple(prior.event_shape):
        return card
    if "event_shape" in card["task"]:
        raise one_size(path, card, prior)
    say_size(str(path), card["h"]["event_shape"], prior.event_shape, "fitted to")
    return {**card, "h": {**card["h"], "event_shape": list(prior.event_shape)}}


def _kind(path: Path, name: object, domain: Domain | None, trust: bool) -> type[Learned]:
    """The class of h that a card names."""
    known = KINDS.of(domain)
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str) or ":" not in name:
        raise CheckpointError(
            f"{path} holds an h of the kind {name!r}, which is none of those known here: {', '.join(KINDS)}"
        )
    kind = find_trusted(name, "the class of h", path, trust)
    if not isinstance(kind, type) or not issubclass(kind, Learned):
        raise CheckpointError(f"{path} names {name} as the class of its h, which is no deft.learned.Learned")
    return kind


def _resolved(settings: Any, path: Path, trust: bool) -> Any:
    """Settings of h with each factory that they name in place of its name."""
    if is_named(settings):
        return Factory(find_trusted(settings["factory"], "the network", path, trust), **settings["options"])
    if isinstance(settings, dict):
        return {k: _resolved(v, path, trust) for k, v in settings.items()}
    return [_resolved(v, path, trust) for v in settings] if isinstance(settings, list) else settings


def _task(path: Path, card: dict[str, Any], domain: Domain | None, trust: bool) -> Any:
    code = card.get("task_code")
    kind = None if code is None else find_trusted(str(code), "the task", path, trust)
    try:
        return make_task(card["task"], domain) if kind is None else task_from(kind, card["task"])
    except Exception as error:  # a task's own code, given whatever a card says
        raise CheckpointError(
            f"the card in {path} describes no task of this version ({reason_of(error)}): use the version that wrote it"
        ) from error


# Which prior: conventions first, so that a refusal can say what differs.


def convention_of(prior: Denoiser) -> dict[str, Any]:
    """`prior.describe()` as plain JSON, with what it leaves out where it is usual: shape and range of samples, time,
    ..."""
    about: dict[str, Any] = {"event_shape": prior.event_shape, "value_range": (-1.0, 1.0)}
    if isinstance(prior, NetworkDenoiser):
        about |= {k: v for k, v in prior.convention().items() if k != "schedule"}
        about["time"] = prior.time if isinstance(prior.time, str) else getattr(prior.time, "__name__", "a function")
    return plain(about | prior.describe())


SAID = ("prompt", "negative_prompt", "guidance_scale", "label", "gradient")
"""Fields of a convention that are options of a prior, under the same name."""
FOLLOWS = ("prompt_sha256", "negative_prompt_sha256")
"""Fields that differ because one of `SAID` does."""


def _check_prior(path: Path, card: dict[str, Any], prior: Denoiser) -> None:
    mine, theirs = prior.fingerprint(), card["prior_sha256"]
    fitted = card.get("prior_convention")
    other = differences(_one_schedule(fitted), _one_schedule(convention_of(prior))) if isinstance(fitted, dict) else []
    if _takes_size(card, prior):
        other = [d for d in other if d[0] != "event_shape"]
    if is_prior(prior, theirs):  # a prior behind a service says less of itself than the same one here
        other = [d for d in other if "nothing" not in d[1:]]
        if not other:
            return
    if other and all(d[0] == "latent" for d in other):  # of images, beside that of the latents: no h goes along
        raise one_size(path, card, prior)
    who = (
        f"{path} was fitted to the prior {card.get('prior', '?')!r} (sha256 {theirs[:12]}…), this prior is {mine[:12]}…"
    )
    what = (
        f", in another convention: {listed(other)}"
        if other
        else ", of the same convention and other weights"
        if fitted
        else ""
    )
    way = _as_fitted(other) or "give the prior it was fitted to with --prior"
    raise CheckpointError(f"{who}{what}{weights_note(prior)}: {way}")


def _as_fitted(other: list[tuple[str, str, str]]) -> str:
    """What to give where a prior differs in what is said as it is loaded alone (a prompt, the way of a gradient)."""
    said = [d for d in other if d[0] in SAID]
    if not said or any(d[0] not in SAID and d[0] not in FOLLOWS for d in other):
        return ""
    give = [f"{field}={fitted}" for field, fitted, _ in said if fitted not in ("nothing", "''")]
    leave = [field for field, fitted, _ in said if fitted in ("nothing", "''")]
    ways = [f"give {', '.join(give)}"] if give else []
    return " and ".join([*ways, *([f"leave out {', '.join(leave)}"] if leave else [])])


def _one_schedule(convention: dict[str, Any]) -> dict[str, Any]:
    """With the schedule's settings under its name: settings of two kinds of schedule have nothing in common."""
    rest = {k: v for k, v in convention.items() if k not in ("schedule", "settings")}
    return rest | {"schedule": {"name": convention.get("schedule"), "settings": convention.get("settings", {})}}
