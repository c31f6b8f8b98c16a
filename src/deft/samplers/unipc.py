"""UniPC: a multistep solver of the ODE that corrects each step with the call that the next one needs anyway."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Sampler, evaluate
from deft.core.transition import Level
from deft.errors import InputError


class UniPC(Sampler):
    """UniPC-p with data prediction: the predictor UniP-p, then the corrector UniC-p at no further call.

    With lambda = log(alpha/sigma), w = lambda_s - lambda_t and D the denoised mean, the ODE's step is

        x_s = (sigma_s/sigma_t) x_t + alpha_s int_0^w e^(v - w) D(lambda_t + v) dv.

    The predictor puts the polynomial through the last p means in place of D. The next step's call gives D at x_s; the
    corrector takes the step again with the polynomial through that one too, and the next step starts from there.

    The order of the error is p + 1. Steps onto the clean end, and the first p - 1, are of lower order.

    Zhao, Bai, Rao, Zhou & Lu 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion
    Models", https://arxiv.org/abs/2302.04867, algorithms 5 to 8. There the weights of the polynomial may have errors of
    the order of the step; here they are exact, which matters for wide steps.

    Args:
        p: means in the predictor, 1 to 3.

    Raises:
        InputError: another p.

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.UniPC(), steps=20, spacing="log-snr")
    >>> 0.47 < x.std() < 0.53
    tensor(True)
    """

    def __init__(self, p: int = 2):
        if p not in (1, 2, 3):
            raise InputError(f"UniPC takes p = 1, 2 or 3 means in a step, got {p}")
        self.p = p
        self.order = p + 1

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        mean = evaluate(denoiser, x_t, t).mean
        if s.sigma == 0:
            return s.alpha * mean, None
        now = math.log(t.alpha / t.sigma)
        means, at = [mean], [now]
        if carry is not None and now > carry[1][0]:
            level, before, x, *known = carry  # where the last step began, corrected, and its means, newest first
            x_t = _moved(x, level, t, [mean, *known], [now, *before], start=before[0])
            means, at = [mean, *known][: self.p], [now, *before][: self.p]
        return _moved(x_t, t, s, means, at, start=now), (t, at, x_t, *means)


def _moved(x: Tensor, t: Level, s: Level, means: list[Tensor], at: list[float], start: float) -> Tensor:
    """x [B, *E] from level t to s, with the polynomial through the means at the lambdas `at` in place of D."""
    width = math.log(s.alpha / s.sigma) - start
    out = (s.sigma / t.sigma) * x
    for mean, weight in zip(means, weights([v - start for v in at], width), strict=True):
        out = out + s.alpha * weight * mean
    return out


def weights(nodes: list[float], width: float) -> list[float]:
    """int_0^w e^(v - w) L_i(v) dv for the Lagrange polynomials L_i of the nodes."""
    size = len(nodes)
    scaled = torch.tensor(nodes, dtype=torch.float64) / width
    powers = scaled[None, :] ** torch.arange(size, dtype=torch.float64)[:, None]
    wanted = [-math.expm1(-width)]  # int_0^w e^(v - w) (v / w)^k dv, by parts
    for k in range(1, size):
        wanted.append(1 - k * wanted[-1] / width if width > 0.1 else _series(k, width))
    found: list[float] = torch.linalg.solve(powers, torch.tensor(wanted, dtype=torch.float64)).tolist()
    return found


def _series(k: int, width: float) -> float:
    """The same integral for a narrow step, where the recursion loses its digits: w sum_j (-w)^j k! / (k + j + 1)!."""
    term, total = width / (k + 1), 0.0
    for j in range(12):
        total += term
        term *= -width / (k + j + 2)
    return total
