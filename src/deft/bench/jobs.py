"""One piece of a comparison: fit an h, draw samples and measure them, or measure what a draw costs.

Everything a piece needs is in its `spec`, so that it can be done by any process: the prior by name, the task's and the plan's
settings, the images by split and number, the seeds, and the fit it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.bench.images import describe
from deft.bench.images import images_of as images_on_cpu
from deft.bench.measure import measure
from deft.bench.report import picture_of
from deft.bench.store import Store, Unit, unit
from deft.bench.studies import Arm, FitSettings, Setting, short
from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.core.random import Noise
from deft.domains.image.data import Labelled
from deft.domains.image.features import FEATURES, FeatureNetwork, calibrate, load_features
from deft.domains.image.tasks import ImageTask, make_task
from deft.domains.image.writing import save_arrays
from deft.errors import InputError, NonFiniteError
from deft.io.h_files import bundled_h, load_h, save_h
from deft.io.prior_files import BUNDLED
from deft.io.text import one_line
from deft.learned.base import count_parameters
from deft.methods import METHODS, Plan, plan
from deft.prior import load_prior
from deft.recipe import fit_h
from deft.runtime.distributed import World, alone
from deft.runtime.memory import PeakMemory

WARM_UP, COUNTED = 2, 8
"""Steps of the two draws of a cost measurement: what the second takes longer is the cost of its further steps."""


DEVICE: ContextVar[str] = ContextVar("device", default="cpu")
"""Where the pieces of this process compute; see `do`."""


@cache
def _prior_on(name: str, options: str, device: str) -> Denoiser:
    return load_prior(name, device=device, **json.loads(options))


def _prior(name: str, options: str) -> Denoiser:
    return _prior_on(name, options, DEVICE.get())


def the_prior(on: Setting | Mapping[str, Any]) -> Denoiser:
    """The prior of a setting, or of a piece's `spec`, on the device of the pieces; loaded once."""
    name, options = (on.prior, on.prior_options) if isinstance(on, Setting) else (on["prior"], on.get("prior_options", {}))
    return _prior(name, json.dumps(dict(options), sort_keys=True))


def images_of(spec: Any, split: str, event_shape: Sequence[int]) -> Labelled:
    """`deft.bench.images.images_of`, on the device of the pieces."""
    found = images_on_cpu(spec, split, event_shape)
    return Labelled(found.x.to(DEVICE.get()), found.labels)


@cache
def the_features(name: str) -> FeatureNetwork | None:
    """A network by its name, or NAME:PATH; None for "" and "none"."""
    name, _, path = name.partition(":")
    return load_features(name, path or None) if name and name != "none" else None


def _looking(name: str, x: Tensor) -> FeatureNetwork | None:
    """The network, its unit set by the true images x if it does not bring one."""
    network = the_features(name)
    if network is not None and not FEATURES[network.name].data:
        calibrate(network, x)
    return network


# ---------------------------------------------------------------- what there is to do


def base_of(on: Setting, *splits: str) -> dict[str, Any]:
    """The prior and the images of these splits, as every piece's `spec` names them."""
    prior, more = the_prior(on), dict[str, Any]()
    if on.prior_options:
        more["prior_options"] = dict(on.prior_options)
    if on.prior not in BUNDLED:  # another file of the same name is another prior
        more["prior_sha256"] = prior.fingerprint()[:16]
    return {"prior": on.prior, "data": describe(on.source, splits, prior.data_shape), **more}


def fit_unit(on: Setting, task: dict[str, Any], arm: Arm, seed: int) -> Unit:
    settings = asdict(arm.fit)
    settings.pop("seeds")
    for name in ("start_from", "fitted"):
        if not settings[name]:
            settings.pop(name)
    for source in (arm.fit.fitted, arm.fit.start_from):  # another file of the same name is another h
        if source:
            settings["options"] = {**settings["options"], "sha256": file_digest(_fitted_path(source, task["name"], on.prior))}
    spec = base_of(on, "fit", "validation") | {"task": task, "method": learned_as(arm), "fit": settings, "seed": seed}
    return unit("fit", f"{short(on.prior)}-{task['name']}-{learned_as(arm)}-s{seed}", spec)  # arms that want the same fit share it


def _fitted_path(source: str, task: str, prior: str) -> Path:
    """The file of an h that is taken as it is."""
    path = Path(source)
    if source == "bundled":
        path = bundled_h(task, prior)
    elif not path.exists() and path.suffix == "":  # a fit may start from the bundled h of a task
        path = bundled_h(source)
    return path / "h.safetensors" if path.is_dir() else path


def file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}; give a fitted h, or \"bundled\"") from error


def learned_as(arm: Arm) -> str:
    """Which kind of h an arm fits: several methods use one (a particle sampler of DEFT uses a DEFT)."""
    return METHODS[arm.method].learned or arm.method


def draw_unit(
    on: Setting, task: dict[str, Any], arm: Arm, chosen: Plan, fitted: Unit | None, *, split: str, images: int, samples: int, seed: int,
    batch: int, pictures: int = 0,
) -> Unit:  # fmt: skip
    spec = base_of(on, split) | {
        "features": on.looked_at, "task": task, "plan": chosen.config(),
        "fit": None if fitted is None else fitted.key, "split": split, "images": images, "samples": samples, "seed": seed, "batch": batch,
    }  # fmt: skip
    return unit("draw", f"{short(on.prior)}-{task['name']}-{short(arm.name)}-{split[:4]}-s{seed}", spec, pictures)


def cost_unit(on: Setting, task: dict[str, Any], arm: Arm, chosen: Plan, fitted: Unit | None, batch: int) -> Unit:
    spec = base_of(on, "validation") | {"task": task, "plan": chosen.config(), "fit": None if fitted is None else fitted.key, "batch": batch}
    return unit("cost", f"{short(on.prior)}-{task['name']}-{short(arm.name)}", spec)


def plan_of(config: dict[str, Any]) -> Plan:
    """A plan from its `config()`."""
    c = dict(config)
    return plan(c.pop("method"), **c)


# ---------------------------------------------------------------- doing it


def do(u: Unit, folder: str | Path, device: str = "cpu") -> None:
    """Do one piece on a device and write it down. A method that diverges is a result, and is written down as one.

    Any other error (memory, a chain that does not move) is noted beside it with its traceback, and the piece stays missing.
    """
    store = Store(folder)
    if store.has(u):
        return
    started = time.monotonic()
    before = DEVICE.set(device)
    try:
        with alone():
            try:
                result = WORK[u.kind](u, store)
            except NonFiniteError as error:
                result = {"failed": str(error)}
            result |= {"took": round(time.monotonic() - started, 2), "threads": torch.get_num_threads(), "device": device_name(device)}
            store.write(u, result)
    except Exception as error:
        store.fail(u, f"{traceback.format_exc()}\n{type(error).__name__}: {one_line(error)}")
    finally:
        DEVICE.reset(before)


def device_name(device: str) -> str:
    """What a piece was done on, as reports show it: "cpu", or the name of the graphics card."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def _clock() -> float:
    """The time now, when the device has done all that it was asked to."""
    if torch.device(DEVICE.get()).type == "cuda":
        torch.cuda.synchronize(DEVICE.get())
    return time.perf_counter()


def _fit(u: Unit, store: Store) -> dict[str, Any]:
    s = u.settings
    prior, task, settings, seed = the_prior(s), make_task(s["task"]), FitSettings(**s["fit"]), s["seed"]
    data = images_of(s["data"], "fit", prior.data_shape).x
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[: settings.count]
    if settings.fitted:
        h, _, card = load_h(_fitted_path(settings.fitted, task.name, s["prior"]), prior, task)
        kept: dict[str, Any] = {k: card[k] for k in ("seconds", "steps", "levels", "weights", "held_out_loss") if k in card}
        save_h(store.path(u, ".safetensors"), h, prior, task, prior=s["prior"], **kept)
        trained = sum(p.numel() for p in h.parameters())
        return {"seconds": 0.0, **kept, "held_out": kept.get("held_out_loss", {}), "parameters": trained, "share": trained / prior.parameter_count()}
    state = store.path(u, "")
    fitted = fit_h(
        prior, task, data[rows.sort().values] if len(rows) else None, images_of(s["data"], "validation", prior.data_shape).x,
        settings.recipe(seed, s["method"]), folder=state, samples_folder=store.folder / "prior-samples", resume=(state / "state.pt").exists(), progress=False,
    )  # fmt: skip
    save_h(store.path(u, ".safetensors"), fitted.h, prior, task, **(fitted.card_now() | {"prior": s["prior"]}))
    for leftover in state.glob("*"):
        leftover.unlink()
    state.rmdir()
    about, trained = fitted.summary(), count_parameters(fitted.h)
    return {**about, "held_out": about["held_out_loss"], "parameters": trained, "share": trained / prior.parameter_count()}


def _fitted(spec: dict[str, Any], store: Store, prior: Denoiser, task: ImageTask) -> HTransform | None:
    if spec["fit"] is None:
        return None
    h, _, _ = load_h(store.folder / "fit" / f"{spec['fit']}.safetensors", prior, task)
    return h.to(DEVICE.get())


def _draw(u: Unit, store: Store) -> dict[str, Any]:
    s = u.settings
    prior, task, chosen = the_prior(s), make_task(s["task"]), plan_of(s["plan"])
    fitted = _fitted(s, store, prior, task)
    data = images_on_cpu(s["data"], s["split"], prior.data_shape)
    x, labels = data.x[: s["images"]], data.labels[: s["images"]]
    obs = task.observe(x, Noise(s["seed"], len(x)))
    started = _clock()
    with Backward(prior) as passes:
        drawn = chosen.draw(prior, obs.to(DEVICE.get()), s["samples"], fitted=fitted, seed=s["seed"], batch=s["batch"], world=World()).x
    seconds, drawn = (_clock() - started) / (drawn.shape[0] * drawn.shape[1]), drawn.cpu()
    values = measure(drawn, x, obs, classifier=_looking(s["features"], x), labels=labels if bool((labels >= 0).all()) else None)
    if u.pictures:
        n = u.pictures
        kept = {"truth": x[:n], "y": obs.y[:n], "samples": drawn[:n, :2], "mean": drawn[:n].mean(1)}
        save_arrays(store.path(u, ".npz"), seen=picture_of(obs[:n], x.shape[1:]), **{k: v.half() for k, v in kept.items()})
    per_image = {k: [round(float(v), 6) for v in values[k]] for k in values}
    backward = passes.rows / (drawn.shape[0] * drawn.shape[1])
    return {"per_image": per_image, "calls": chosen.calls(s["samples"]), "backward": backward, "seconds": seconds}


class Backward:
    """`with Backward(prior) as b: ...` then b.rows: how many samples were differentiated through the prior, counted each time."""

    def __init__(self, prior: Denoiser):
        self.prior, self.rows = prior, 0

    def __enter__(self) -> Backward:
        self._hook = self.prior.register_forward_hook(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _watch(self, module: Any, given: Any, pred: Prediction) -> None:
        if pred.mean.requires_grad:
            pred.mean.register_hook(self._count)

    def _count(self, gradient: Tensor) -> None:
        self.rows += len(gradient)


def _cost(u: Unit, store: Store) -> dict[str, Any]:
    """Seconds and memory of a sample, from a few steps of one batch: every step of a method costs the same.

    The first draw is thrown away: what is done once for a measurement (the singular vectors of an operator) is `once`, not the samples'.
    """
    s = u.settings
    prior, task, chosen = the_prior(s), make_task(s["task"]), plan_of(s["plan"])
    fitted = _fitted(s, store, prior, task)
    x = images_on_cpu(s["data"], "validation", prior.data_shape).x[: s["batch"]]
    obs = task.observe(x, Noise(0, len(x))).to(DEVICE.get())
    few, more = (plan_of({**s["plan"], "steps": min(n, chosen.steps)}) for n in (WARM_UP, WARM_UP + COUNTED))
    seconds, memory = [], PeakMemory(DEVICE.get())
    for p in (few, few, more):
        started = _clock()
        with memory:
            p.draw(prior, obs, 1, fitted=fitted, batch=s["batch"], world=World())
        seconds.append(_clock() - started)
    once, calls = max(seconds[0] - seconds[1], 0.0), more.calls() - few.calls()
    per_call = max(seconds[2] - seconds[1], 0.0) / calls if calls > 0 else seconds[2] / more.calls()
    per_sample = (seconds[1] + per_call * (chosen.calls() - few.calls())) / len(x)
    return {"seconds": per_sample, "once": once, "seconds_per_call": per_call / len(x), "calls": chosen.calls(), "memory_mib": memory.mib}


WORK = {"fit": _fit, "draw": _draw, "cost": _cost}
