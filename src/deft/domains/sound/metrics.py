"""Metrics of restored sounds, one number a sound. Sounds are [B, 1, L]."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.domains.sound.spectra import HOP, power

QUIET = 1e-4
"""Added to the power of a frame: what lies 40 dB below a sound of power 1 is silence, and not compared."""
LEAST = 1e-10
"""Ratios of power are not taken below this: 100 dB."""


def log_spectral_distance(x: Tensor, truth: Tensor, where: Tensor | None = None, quiet: float = QUIET) -> Tensor:
    """Log-spectral distance in dB, [B]:

        LSD = mean over frames t of sqrt(mean over f of (10 log10 (P(f, t) + quiet) / (P'(f, t) + quiet))^2),

    P and P' the power spectra of x and the truth in frames of 32 ms every 8 ms at 8 kHz (`spectra.power`). 0: the same
    magnitudes; phases are not compared. Gray & Markel (1976), "Distance measures for speech processing",
    https://doi.org/10.1109/TASSP.1976.1162849; the floor `quiet` is ours, without which silence decides.

    where: 1 at samples that count, [B or 1, 1, L]: frames whose middle counts. A sound without any has 0.

    >>> x = torch.randn(1, 1, 4096)
    >>> round(float(log_spectral_distance(10 * x, x, quiet=0.0)), 3)
    20.0
    """
    ratio = 10 * ((power(x) + quiet).clamp_min(1e-30) / (power(truth) + quiet).clamp_min(1e-30)).log10()
    frames = ratio.square().mean(1).sqrt()
    if where is None:
        return frames.mean(1)
    middles = (torch.arange(frames.shape[1], device=x.device) * HOP).clamp_max(x.shape[-1] - 1)
    weight = where.expand(len(x), 1, -1)[:, 0, middles].to(frames)
    return (frames * weight).sum(1) / weight.sum(1).clamp_min(1)


def si_sdr(x: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Scale-invariant ratio of signal to distortion in dB, [B]:

        SI-SDR = 10 log10 |a s|^2 / |a s - x|^2,    a = <x, s> / |s|^2,

    s the truth. A gain of x changes nothing. Le Roux, Wisdom, Erdogan & Hershey (2019), "SDR - half-baked or well
    done?", https://doi.org/10.1109/ICASSP.2019.8683855.

    The mean of the samples has the highest; single samples of the exact posterior lie below it.

    where: 1 at samples that count, [B or 1, 1, L]. A truth of zeros has -100 dB.

    >>> s = torch.tensor([[[1.0, 0.0]]])
    >>> si_sdr(torch.tensor([[[3.0, 0.3]]]), s)
    tensor([20.])
    """
    s, x = truth.flatten(1), x.flatten(1)
    if where is not None:
        weight = where.expand_as(truth).flatten(1).to(s)
        s, x = s * weight, x * weight
    energy = s.square().sum(1)
    target = (x * s).sum(1, keepdim=True) / energy.clamp_min(1e-30)[:, None] * s
    signal, rest = target.square().sum(1), (target - x).square().sum(1)
    ratio = signal.clamp_min(LEAST * rest) / rest.clamp_min(LEAST * signal).clamp_min(1e-30)
    return torch.where(energy > 0, 10 * ratio.clamp_min(LEAST).log10(), -100.0)
