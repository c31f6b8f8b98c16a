"""The kernel Stein discrepancy of what entries drew, beside their other figures (`deft evaluate --stein`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from deft.bench.compare import TensorCases, stacked
from deft.bench.result import Result
from deft.core.denoiser import Denoiser
from deft.errors import InputError
from deft.runtime.messages import log
from deft.testing.stein import LEVEL, discrepancy, posterior_scores, stein_kernel

KEY = "stein"


def check_stein(prior: Denoiser, cases: TensorCases, samples: int) -> None:
    """Refuse what has no such figure, before anything is drawn.

    Raises:
        InputError: one sample of each, a prior of latents, or a kind of data without this metric.
    """
    if samples < 2:
        raise InputError("--stein compares the samples of a measurement with each other: it needs --samples 2 or more")
    if tuple(prior.event_shape) != tuple(prior.data_shape):
        raise InputError("--stein needs a prior of the data itself, and this one is of latents: leave it out")
    if KEY not in cases.domain.metrics():
        raise InputError(f"--stein is not among the metrics of {cases.domain.title}: leave it out")


def add_stein(
    results: Mapping[str, Result],
    prior: Denoiser,
    cases: TensorCases,
    *,
    seed: int = 0,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> None:
    """Give every result the metric `stein` of each case: the unbiased KSD^2 over the mean of k_p(x, x), from the
    samples of that case at noise `deft.testing.stein.LEVEL`. Its mean over the cases has an error; that of one case
    means little."""
    for result in results.values():
        if result.samples is None:
            continue
        x = stacked(result.samples)
        n, s = x.shape[:2]
        log.info(f"{result.title}: score of the posterior at {n * s} samples (sigma/alpha = {LEVEL:g})")
        obs = cases.obs.repeat(s).to(device)
        x_t, scores = posterior_scores(prior, obs, x.flatten(0, 1), seed=seed, batch=batch)
        pairs = zip(x_t.unflatten(0, (n, s)), scores.unflatten(0, (n, s)), strict=True)
        result.values[KEY] = np.array([discrepancy(stein_kernel(a, b))[1] for a, b in pairs]).reshape(cases.repeats, -1)
