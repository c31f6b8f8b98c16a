"""The driver of a comparison: draw what each entry draws for the same cases, keep it, go on with what is kept, measure
it.

    cases = TensorCases(domain, x, task.observe(x, Noise(0, len(x))))
    results = compare({"dps": plan("dps"), "pigdm": plan("pigdm")}, prior, cases, samples=4)

Whatever the kind of data: it says how its cases are drawn and measured (`deft.kinds.domain.Cases`), and this how they
are run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from deft.bench.result import Result
from deft.bench.store import Drawn, Store, make_job
from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.io.h_files import needed_h
from deft.kinds.domain import Cases, Domain
from deft.printing import singular
from deft.runtime.memory import PeakMemory
from deft.runtime.messages import log, old_messages


class TensorCases(Cases):
    """Cases of samples that are tensors of one shape: x [N, *E] with an observation of each, measured by
    `Domain.measure`.

    labels: [N], or None. network: a feature network (`Domain.feature_network`), or None. names: of the cases, for
        pictures.
    """

    def __init__(
        self,
        domain: Domain,
        x: Tensor,
        obs: Observation,
        *,
        labels: Tensor | None = None,
        network: Any = None,
        names: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ):
        self.domain, self.x, self.obs, self.labels, self.network = domain, x.cpu(), obs.to("cpu"), labels, network
        self.names, self.settings = names, dict(settings or {})
        self.problems, self.title = [str(i) for i in range(len(x))], domain.title

    def config(self) -> dict[str, Any]:
        return {**self.settings, "y_sha256": self.obs.fingerprint()}

    def draw(
        self,
        plan: Any,
        prior: Denoiser,
        rows: range,
        samples: int,
        *,
        fitted: HTransform | None = None,
        seed: int = 0,
        batch: int = 64,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> Tensor:
        """[rows, samples, *E]"""
        obs = self.obs if len(rows) == len(self) else self.obs[rows.start : rows.stop]
        h = needed_h(plan.method, prior, fitted)
        return plan.draw(
            prior, obs.to(device), samples, fitted=h, seed=seed, first=rows.start, batch=batch, progress=progress
        ).x.cpu()

    def measure(self, samples: Sequence[Any]) -> dict[str, np.ndarray]:
        known = {k: v for k, v in (("network", self.network), ("labels", self.labels)) if v is not None}
        found = self.domain.measure(stacked(samples), self.x, self.obs, **known)
        return {k: found[k].double().numpy() for k in self.domain.metrics() if k in found}


def stacked(samples: Sequence[Any]) -> Tensor:
    """The samples of every case, [N, S, *E]."""
    return torch.stack([torch.as_tensor(x) for x in samples])


def draw(
    plan: Any,
    prior: Denoiser,
    cases: Cases,
    samples: int = 1,
    *,
    fitted: HTransform | None = None,
    seed: int = 0,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = False,
    store: Store | None = None,
    kind: str = "samples",
    title: str = "",
) -> Drawn:
    """What a plan draws for all cases. With a store batch by batch, each kept at once, and from there as far as it is
    there.

    Those of fewer repeats are the first of more. What other settings drew has another file's name, and is left alone.

    Args:
        kind: the folder in the store. title: of the bar that shows how many cases are drawn.
    """
    options: dict[str, Any] = {"fitted": fitted, "seed": seed, "batch": batch, "device": device}
    if store is None:
        started = time.perf_counter()
        x = cases.draw(plan, prior, range(len(cases)), samples, progress=progress, **options)
        return Drawn([np.asarray(one, np.float32) for one in x], time.perf_counter() - started)
    spec = {**plan.config(), **cases.config(), "prior": prior.fingerprint(), "seed": seed} | (
        {} if samples == 1 else {"samples": samples}
    )
    job = make_job(kind, cases.name_of(plan), spec)
    done = store.read_samples(job)
    with tqdm(
        total=len(cases),
        initial=min(len(done.x), len(cases)),
        desc=title,
        unit=singular(cases.title),
        disable=not progress,
    ) as bar:
        while len(done.x) < len(cases):
            low = len(done.x)
            rows = range(low, min(low + cases.at_once(plan, batch), len(cases)))
            peak, started = PeakMemory(device), time.perf_counter()
            with peak:
                x = cases.draw(plan, prior, rows, samples, **options)
            done.seconds += time.perf_counter() - started
            done.mib = None if peak.mib is None else max(done.mib or 0.0, peak.mib)
            done.x += [np.asarray(one, np.float32) for one in x]
            store.write_samples(job, done)
            bar.update(len(rows))
    return done.first(len(cases))


@old_messages("say")
def compare(
    plans: Mapping[str, Any],
    prior: Denoiser,
    cases: Cases,
    samples: int = 1,
    *,
    fitted: HTransform | None = None,
    seed: int = 0,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = False,
    store: Store | None = None,
    kind: str = "samples",
    on_result: Callable[[dict[str, Result]], None] = lambda results: None,
) -> dict[str, Result]:
    """Every plan on the same measurements, starting noise and seeds: name -> result, its samples with it.

    Args:
        plans: name of an entry -> what it draws with (`deft.methods.Plan`, or a kind of data's own).
        samples: of each case. fitted: a learned h, for the plans that need one and do not bring it.
        store, kind: keep samples there as they are drawn, and go on with those that are there; see `draw`.
        on_result: called with the results that are there, after each entry.
    """
    results: dict[str, Result] = {}
    for name, plan in plans.items():
        log.info(f"{plan.method.title}: {len(cases)} {cases.title} x {samples} samples, {plan.steps} steps")
        drawn = draw(
            plan,
            prior,
            cases,
            samples,
            fitted=fitted,
            seed=seed,
            batch=batch,
            device=device,
            progress=progress,
            store=store,
            kind=kind,
            title=name,
        )
        values = {k: np.asarray(v, float).reshape(cases.repeats, -1) for k, v in cases.measure(drawn.x).items()}
        trained = sum(p.numel() for p in fitted.parameters()) if plan.method.trained and fitted is not None else 0
        figures = {
            "calls": float(plan.calls(samples)),
            "seconds": drawn.seconds / (len(cases) * samples),
            "parameters": float(trained),
        }
        if drawn.mib is not None:
            figures["memory_mib"] = drawn.mib
        results[name] = Result(
            name,
            plan,
            values,
            title=plan.method.title,
            samples=drawn.x,
            figures=figures,
            seeds=tuple(range(cases.repeats)),
        )
        on_result(results)
    return results
