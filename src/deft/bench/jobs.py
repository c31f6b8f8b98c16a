"""One job of a study: fit an h, draw samples and measure them, or measure what a draw costs.

Everything a job needs is in its `spec`, so that it can be done by any process: the prior by name, the task's and the
plan's settings, the data by split and number, the seeds, and the fit it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.bench.compare import TensorCases, draw, stacked
from deft.bench.data import describe, samples_of
from deft.bench.store import Job, Store, make_job
from deft.bench.studies import Entry, FitSettings, Setting, domain_of_tasks, short
from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.core.random import Noise
from deft.errors import InputError, NonFiniteError, OutputError
from deft.io.arrays import save_arrays
from deft.io.h_files import KINDS, bundled_h, load_h, save_h
from deft.io.prior_files import BUNDLED
from deft.io.tasks import make_task
from deft.io.text import one_line
from deft.kinds.domain import Data, Domain
from deft.kinds.records import PairedData
from deft.learned.base import count_parameters
from deft.methods import METHODS, Plan, plan
from deft.prior import load_prior
from deft.recipe import fit_h
from deft.runtime.distributed import alone
from deft.runtime.memory import PeakMemory
from deft.train.data import Pairs

WARM_UP, COUNTED = 2, 8
"""Steps of the two draws of a cost measurement: what the second takes longer is the cost of its further steps."""


DEVICE: ContextVar[str] = ContextVar("device", default="cpu")
"""Where the pieces of this process compute; see `do`."""
TRUST: ContextVar[bool] = ContextVar("trust", default=False)
"""Whether an h that a study names may name code of its own; see `do`."""


@cache
def _prior_on(name: str, options: str, device: str) -> Denoiser:
    return load_prior(name, device=device, **json.loads(options))


def _prior(name: str, options: str) -> Denoiser:
    return _prior_on(name, options, DEVICE.get())


def the_prior(on: Setting | Mapping[str, Any]) -> Denoiser:
    """The prior of a setting, or of a piece's `spec`, on the device of the pieces; loaded once."""
    name, options = (
        (on.prior, on.prior_options) if isinstance(on, Setting) else (on["prior"], on.get("prior_options", {}))
    )
    return _prior(name, json.dumps(dict(options), sort_keys=True))


def domain_of(spec: Mapping[str, Any]) -> Domain:
    """The kind of data of a job: the one whose task it is."""
    return domain_of_tasks([spec["task"]["name"]])


def task_of(spec: Mapping[str, Any]) -> Any:
    """The task of a job."""
    return make_task(spec["task"], domain_of(spec))


def data_of(spec: Mapping[str, Any], split: str, prior: Denoiser) -> Data:
    """The samples of a split that a job's `spec` names, on the CPU."""
    return samples_of(domain_of(spec).with_card(prior.card), spec["data"], split, prior.data_shape)


def cases_of(spec: Mapping[str, Any], split: str, count: int, seed: int, prior: Denoiser, task: Any) -> TensorCases:
    """The first `count` samples of a split, each with a measurement that the seed decides."""
    domain, data = domain_of(spec).with_card(prior.card), data_of(spec, split, prior)
    x, labels = data.x[:count], None if data.labels is None else data.labels[:count]
    name = spec.get("features", "")
    network = domain.feature_network(name, x) if name and name != "none" else None
    if labels is not None and bool((labels < 0).any()):
        labels = None
    obs = task.observation(data.y[:count]) if isinstance(data, PairedData) else task.observe(x, Noise(seed, len(x)))
    return TensorCases(domain, x, obs, labels=labels, network=network)


# ---------------------------------------------------------------- what there is to do


def base_of(on: Setting, *splits: str) -> dict[str, Any]:
    """The prior and the images of these splits, as every piece's `spec` names them."""
    prior, more = the_prior(on), dict[str, Any]()
    if on.prior_options:
        more["prior_options"] = dict(on.prior_options)
    if on.prior not in BUNDLED:  # another file of the same name is another prior
        more["prior_sha256"] = prior.fingerprint()[:16]
    return {
        "prior": on.prior,
        "data": describe(on.domain.with_card(prior.card), on.source, splits, prior.data_shape),
        **more,
    }


DIGEST = "sha256"
"""Among the options of a fit in a piece's `spec`, and no option: of the h that it begins with, or takes."""


def fit_job(on: Setting, task: dict[str, Any], entry: Entry, seed: int) -> Job:
    settings = asdict(entry.fit)
    settings.pop("seeds")
    for name in ("start_from", "fitted"):
        if not settings[name]:
            settings.pop(name)
    for source in (entry.fit.fitted, entry.fit.start_from):  # another file of the same name is another h
        if source:
            settings["options"] = {
                **settings["options"],
                DIGEST: file_digest(_fitted_path(source, task["name"], on.prior, learned_as(entry))),
            }
    spec = base_of(on, "fit", "validation") | {"task": task, "method": learned_as(entry), "fit": settings, "seed": seed}
    # entries that want the same fit share it
    return make_job("fit", f"{short(on.prior)}-{task['name']}-{learned_as(entry)}-s{seed}", spec)


def _fitted_path(source: str, task: str, prior: str, method: str = "") -> Path:
    """The file of an h that is taken as it is. method: which kind, where that is of the prior alone."""
    path = Path(source)
    if source == "bundled":
        path = bundled_h(method if method and KINDS[method].of_prior else task, prior)
    elif not path.exists() and path.suffix == "":  # a fit may start from the bundled h of a task
        path = bundled_h(source)
    return path / "h.safetensors" if path.is_dir() else path


def file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f'cannot read {path}: {error}; give a fitted h, or "bundled"') from error


def learned_as(entry: Entry) -> str:
    """Which kind of h an entry fits: several methods use one (a particle sampler of DEFT uses a DEFT)."""
    return METHODS[entry.method].learned or entry.method


def draw_job(
    on: Setting,
    task: dict[str, Any],
    entry: Entry,
    chosen: Plan,
    fitted: Job | None,
    *,
    split: str,
    images: int,
    samples: int,
    seed: int,
    batch: int,
    pictures: int = 0,
) -> Job:
    spec = base_of(on, split) | {
        "features": on.network,
        "task": task,
        "plan": chosen.config(),
        "fit": None if fitted is None else fitted.key,
        "split": split,
        "images": images,
        "samples": samples,
        "seed": seed,
        "batch": batch,
    }
    if METHODS[entry.method].beside:  # it comes with the library, and another file of that name is another method
        spec["beside"] = file_digest(bundled_h(METHODS[entry.method].beside, on.prior))
    return make_job("draw", f"{short(on.prior)}-{task['name']}-{short(entry.name)}-{split[:4]}-s{seed}", spec, pictures)


def cost_job(on: Setting, task: dict[str, Any], entry: Entry, chosen: Plan, fitted: Job | None, batch: int) -> Job:
    spec = base_of(on, "validation") | {
        "task": task,
        "plan": chosen.config(),
        "fit": None if fitted is None else fitted.key,
        "batch": batch,
    }
    return make_job("cost", f"{short(on.prior)}-{task['name']}-{short(entry.name)}", spec)


def plan_of(config: dict[str, Any]) -> Plan:
    """A plan from its `config()`."""
    c = dict(config)
    return plan(c.pop("method"), **c)


# ---------------------------------------------------------------- doing it


def do(job: Job, folder: str | Path, device: str = "cpu", trust_code: bool = False) -> None:
    """Do one piece on a device and write it down. A method that diverges is a result, and is written down as one.

    Any other error (memory, a chain that does not move) is noted beside it with its traceback, and the piece stays
    missing. trust_code: import what the card of an h names (`load_h`).
    """
    store = Store(folder)
    if store.has(job):
        return
    started = time.monotonic()
    before, trusted = DEVICE.set(device), TRUST.set(trust_code)
    try:
        with alone():
            try:
                result = WORK[job.kind](job, store)
            except NonFiniteError as error:
                result = {"failed": str(error)}
            result |= {
                "took": round(time.monotonic() - started, 2),
                "threads": torch.get_num_threads(),
                "device": device_name(device),
            }
            store.write(job, result)
    except OutputError:  # a full disk is not the job's fault, and the next would fail alike
        raise
    except Exception as error:
        store.fail(job, f"{traceback.format_exc()}\n{type(error).__name__}: {one_line(error)}")
    finally:
        DEVICE.reset(before)
        TRUST.reset(trusted)


def device_name(device: str) -> str:
    """What a piece was done on, as reports show it: "cpu", or the name of the graphics card."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def _clock() -> float:
    """The time now, when the device has done all that it was asked to."""
    if torch.device(DEVICE.get()).type == "cuda":
        torch.cuda.synchronize(DEVICE.get())
    return time.perf_counter()


def _fit(job: Job, store: Store) -> dict[str, Any]:
    s = job.settings
    given = {k: v for k, v in s["fit"].get("options", {}).items() if k != DIGEST}
    prior, task, settings, seed = the_prior(s), task_of(s), FitSettings(**s["fit"] | {"options": given}), s["seed"]
    found, held_out = data_of(s, "fit", prior), data_of(s, "validation", prior)
    rows = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[: settings.count].sort().values
    if settings.fitted:
        file = _fitted_path(settings.fitted, task.name, s["prior"], s["method"])
        h, _, card = load_h(file, prior, task, trust_code=TRUST.get())
        kept: dict[str, Any] = {
            k: card[k] for k in ("seconds", "steps", "levels", "weights", "held_out_loss") if k in card
        }
        save_h(store.path(job, ".safetensors"), h, prior, task, prior=s["prior"], **kept)
        trained = sum(p.numel() for p in h.parameters())
        return {
            "seconds": 0.0,
            **kept,
            "held_out": kept.get("held_out_loss", {}),
            "parameters": trained,
            "share": trained / max(prior.parameter_count(), 1),
        }
    state = store.path(job, "")
    fitted = fit_h(
        prior,
        task,
        _to_fit(found, task, rows),
        _to_fit(held_out, task, None),
        settings.recipe(seed, s["method"]),
        folder=state,
        samples_folder=store.folder / "prior-samples",
        resume=(state / "state.pt").exists(),
        progress=False,
        trust_code=TRUST.get(),
    )
    save_h(store.path(job, ".safetensors"), fitted.h, prior, task, **(fitted.card_now() | {"prior": s["prior"]}))
    for leftover in state.glob("*"):
        leftover.unlink()
    state.rmdir()
    about, trained = fitted.summary(), count_parameters(fitted.h)
    return {
        **about,
        "held_out": about["held_out_loss"],
        "parameters": trained,
        "share": trained / max(prior.parameter_count(), 1),
    }


def _to_fit(data: Data, task: Any, rows: Tensor | None) -> Any:
    """Samples, or pairs, for `fit_h`: some rows or all (None); None for no rows."""
    if rows is not None and not len(rows):
        return None
    x = data.x if rows is None else data.x[rows]
    if isinstance(data, PairedData):
        return Pairs(x, task.observation(data.y if rows is None else data.y[rows]))
    return x


def _fitted(spec: dict[str, Any], store: Store, prior: Denoiser, task: Any) -> HTransform | None:
    if spec["fit"] is None:
        return None
    h, _, _ = load_h(store.folder / "fit" / f"{spec['fit']}.safetensors", prior, task, trust_code=TRUST.get())
    return h.to(DEVICE.get())


def _draw(job: Job, store: Store) -> dict[str, Any]:
    s = job.settings
    prior, task, chosen = the_prior(s), task_of(s), plan_of(s["plan"])
    cases = cases_of(s, s["split"], s["images"], s["seed"], prior, task)
    with Backward(prior) as passes:
        drawn = draw(
            chosen,
            prior,
            cases,
            s["samples"],
            fitted=_fitted(s, store, prior, task),
            seed=s["seed"],
            batch=s["batch"],
            device=DEVICE.get(),
        )
    count = len(cases) * s["samples"]
    values = cases.measure(drawn.x)
    if job.pictures:
        n, x, shape = job.pictures, stacked(drawn.x[: job.pictures]), cases.x.shape[1:]
        kept = {"truth": cases.x[:n], "y": cases.obs.y[:n], "samples": x[:, :2], "mean": x.mean(1)}
        seen = cases.domain.measured_picture(cases.obs[:n], tuple(shape))
        save_arrays(
            store.path(job, ".npz"),
            **({} if seen is None else {"seen": seen}),
            **{k: v.half() for k, v in kept.items()},
        )
    per_image = {k: [round(float(v), 6) for v in values[k]] for k in values}
    return {
        "per_image": per_image,
        "calls": chosen.calls(s["samples"]),
        "backward": passes.rows / count,
        "seconds": drawn.seconds / count,
    }


class Backward:
    """`with Backward(prior) as b: ...` then b.rows: how many samples were differentiated through the prior, counted
    each time."""

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


def _cost(job: Job, store: Store) -> dict[str, Any]:
    """Seconds and memory of a sample, from a few steps of one batch: every step of a method costs the same.

    The first draw is thrown away: what is done once for a measurement (the singular vectors of an operator) is `once`,
    not the samples'.
    """
    s = job.settings
    prior, task, chosen = the_prior(s), task_of(s), plan_of(s["plan"])
    fitted = _fitted(s, store, prior, task)
    cases = cases_of(s, "validation", s["batch"], 0, prior, task)
    short_run, long_run = (plan_of({**s["plan"], "steps": min(n, chosen.steps)}) for n in (WARM_UP, WARM_UP + COUNTED))
    seconds, memory = [], PeakMemory(DEVICE.get())
    for p in (short_run, short_run, long_run):
        started = _clock()
        with memory:
            cases.draw(p, prior, range(len(cases)), 1, fitted=fitted, batch=s["batch"], device=DEVICE.get())
        seconds.append(_clock() - started)
    once, calls = max(seconds[0] - seconds[1], 0.0), long_run.calls() - short_run.calls()
    per_call = max(seconds[2] - seconds[1], 0.0) / calls if calls > 0 else seconds[2] / long_run.calls()
    per_sample = (seconds[1] + per_call * (chosen.calls() - short_run.calls())) / len(cases)
    return {
        "seconds": per_sample,
        "once": once,
        "seconds_per_call": per_call / len(cases),
        "calls": chosen.calls(),
        "memory_mib": memory.mib,
    }


WORK = {"fit": _fit, "draw": _draw, "cost": _cost}
