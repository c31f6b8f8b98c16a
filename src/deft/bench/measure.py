"""Run several methods on the same images, measurements and seeds, and measure what they return."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.domains.image.features import FeatureNetwork, measure_features
from deft.domains.image.metrics import (
    coverage,
    crps,
    energy_score_pixels,
    psnr,
    residual_rms,
    root_mean_square,
    spread,
    spread_skill,
    ssim,
)
from deft.methods import Plan
from deft.train.levels import hidden_pixels


@dataclass(frozen=True)
class Metric:
    """key: in report.json. title: for people. better: "high", "low" or "" (a description). digits: shown.

    target: the value that the true posterior has, where neither more nor less is better. proper: a score of the whole distribution that in
    expectation is least for the true posterior; settings are tuned by these alone (`PROPER`).
    """

    key: str
    title: str
    better: str = ""
    digits: int = 3
    about: str = ""
    target: float | None = None
    proper: bool = False


METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric(
            "energy_score", "energy score", "low", 3,
            "feature distance to the truth less half of that between different samples of an image: least for the true posterior, "
            "where the distance alone is least for samples that vary too little; 1 is two random images", proper=True,
        ),
        Metric(
            "energy_score_pixels", "energy score of pixels", "low", 4,
            "energy score by the root mean square difference of pixels (their range is 2), not features", proper=True,
        ),
        Metric("crps", "CRPS", "low", 4, "energy score of each pixel alone, averaged over pixels", proper=True),
        Metric(
            "coverage", "coverage at 90 %", "", 3,
            "share of pixels whose central 90 % interval of the samples holds the truth (in the hole, if there is one; pixels that do not "
            "vary by a grey level left out): 0.9 is right, and 1 - 0.05 (S + 1) the least that S samples can show", target=0.9,
        ),
        Metric(
            "spread_skill", "spread over error", "", 3,
            "spread of the samples over the error of their mean, over all images (in the hole, if there is one): 1 is right, less is too sure", target=1.0,
        ),
        Metric(
            "feature_distance", "feature distance", "low", 3,
            "of single samples to the truth, in the features of a network trained on such images; 1 is two random images. Least for samples that vary too little",
        ),
        Metric(
            "perceptual_distance", "perceptual distance", "low", 4,
            "to the truth, between the same network's feature maps, position by position; 0 is the same. Not LPIPS: "
            "its formula without learned weights, in another network",
        ),
        Metric("top1", "top-1", "high", 3, "share of samples that the classifier puts into the true class"),
        Metric("psnr_mean", "PSNR of the mean (dB)", "high", 2, "of the mean of an image's samples"),
        Metric("psnr", "PSNR (dB)", "high", 2, "of single samples, over the whole image"),
        Metric("psnr_hidden", "PSNR in the hole (dB)", "high", 2, "of single samples, over what was not measured"),
        Metric("psnr_mean_hidden", "PSNR of the mean in the hole (dB)", "high", 2, "of the mean, over what was not measured"),
        Metric("ssim", "SSIM", "high", 3, "of single samples; 7x7 uniform window"),
        Metric("residual", "residual", "", 4, "root mean square of y - A x over what was measured; sigma_y is right"),
        Metric("spread", "spread", "", 3, "standard deviation of a pixel over an image's samples (in the hole, if there is one)"),
        Metric("diversity", "diversity", "", 3, "mean feature distance between two samples of an image"),
        Metric("calls", "network calls", "", 0, "of the prior, for one sample"),
        Metric("seconds", "seconds per sample", "low", 4, "wall clock of sampling, divided by the number of samples"),
        Metric("parameters", "parameters", "", 0, "that were trained for the task"),
    )
}  # fmt: skip
"""In the order in which reports show them."""

PROPER = tuple(key for key, m in METRICS.items() if m.proper)
"""Metrics that settings may be tuned by: nothing is tuned by a score that rewards too little spread."""


@dataclass
class Outcome:
    """What one method did: samples [N, S, *E], a value per image for each metric, single figures for the others."""

    plan: Plan
    samples: Tensor
    per_image: dict[str, Tensor]
    figures: dict[str, float] = field(default_factory=dict)


def run_method(
    plan: Plan,
    prior: Denoiser,
    obs: Observation,
    samples: int,
    *,
    fitted: HTransform | None = None,
    seed: int = 0,
    batch: int = 64,
    progress: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """`samples` draws for each measurement, [N, S, *E], and what they cost."""
    started = time.perf_counter()
    out = plan.draw(prior, obs, samples, fitted=fitted, seed=seed, batch=batch, progress=progress)
    seconds = (time.perf_counter() - started) / (out.shape[0] * out.shape[1])
    parameters = sum(p.numel() for p in fitted.parameters()) if plan.method.trained and fitted is not None else 0
    return out, {"calls": float(plan.calls(samples)), "seconds": seconds, "parameters": float(parameters)}


def measure(
    samples: Tensor, truth: Tensor, obs: Observation, *, classifier: FeatureNetwork | None = None, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Metric -> [N]: each averaged over an image's samples. samples: [N, S, *E]. classifier: any feature network."""
    n, s = samples.shape[:2]
    flat, truths = samples.flatten(0, 1), truth.repeat_interleave(s, 0)
    mean = samples.mean(1)
    hidden = hidden_pixels(obs, truth.shape)

    def average(values: Tensor) -> Tensor:
        return values.reshape(n, s).mean(1)

    out = {
        "psnr": average(psnr(flat, truths)),
        "psnr_mean": psnr(mean, truth),
    }
    if obs.likelihood.residual(obs.y, truth) is not None:
        out["residual"] = average(residual_rms(flat, obs.repeat(s)))
    if min(truth.shape[-2:]) >= 7:
        out["ssim"] = average(ssim(flat, truths))
    if hidden is not None:
        out["psnr_hidden"] = average(psnr(flat, truths, hidden.repeat_interleave(s, 0)))
        out["psnr_mean_hidden"] = psnr(mean, truth, hidden)
    if s > 1:
        out["energy_score_pixels"] = energy_score_pixels(samples, truth)
        out["crps"] = crps(samples, truth)
        out["spread"] = root_mean_square(spread(samples), hidden)
        out["coverage"] = coverage(samples, truth, where=hidden)
        out["spread_skill"] = spread_skill(samples, truth, hidden)
    if classifier is not None:
        out |= measure_features(classifier, samples, truth, labels)
    return out


def compare(
    plans: Sequence[Plan],
    prior: Denoiser,
    truth: Tensor,
    obs: Observation,
    *,
    fitted: HTransform | None = None,
    samples: int = 4,
    seed: int = 0,
    batch: int = 64,
    classifier: FeatureNetwork | None = None,
    labels: Tensor | None = None,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Outcome]:
    """Every plan on the same measurements, starting noise and seeds: method name -> outcome."""
    out: dict[str, Outcome] = {}
    where = prior.state_like().device
    for plan in plans:
        if say:
            say(f"{plan.method.title}: {len(truth)} images x {samples} samples, {plan.steps} steps")
        drawn, figures = run_method(
            plan, prior, obs.to(where), samples, fitted=fitted, seed=seed, batch=batch, progress=progress
        )
        drawn = drawn.cpu()
        values = measure(drawn, truth.cpu(), obs.to("cpu"), classifier=classifier, labels=labels)
        out[plan.method.name] = Outcome(plan, drawn, {k: v.double() for k, v in values.items()}, figures)
    return out
