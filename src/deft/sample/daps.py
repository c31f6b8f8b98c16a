"""DAPS: each noise level answered by a whole x_0, which is moved towards y and put under noise again."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from deft.condition import Conditioned
from deft.denoise import Denoiser
from deft.errors import InputError
from deft.htransform.guidance import gaussian
from deft.kernel import Level, ddim
from deft.sample.base import Carry, Draw, ManyDraws, evaluate
from deft.sample.travel import between


class DAPS(ManyDraws):
    """Decoupled annealing posterior sampling (Zhang et al. 2024, algorithm 1). One step from t to s:

        1. x̂_0: the probability-flow ODE of the prior from x_t to the clean end, in `ode_steps` Euler steps (DDIM);
        2. x_0: `langevin_steps` of x <- x + k grad [ log N(x; x̂_0, r^2 I) + log p(y | x) ] + sqrt(2 k) n, from x̂_0;
        3. x_s = alpha_s x_0 + sigma_s n.

    Where ours differs from the paper: r^2 = d^2 sigma^2 / (d^2 alpha^2 + sigma^2), the variance left in data of deviation d; the
    paper's r = sigma/alpha is its limit for large d, and does not stay inside the data at high noise. And the step k is
    rate / (1/r^2 + 1/sigma_y^2), stable for rate < 2 if |A| <= 1, where the paper has a falling table of absolute steps.

    Exact only in a limit: x_0 | x_t ~ N(x̂_0, r^2 I) must be right, as it is for data N(0, d^2 I) and ode_steps = 1 (then x̂_0 is
    the mean), and the Langevin steps many, of a small rate. With more ODE steps x̂_0 is itself as spread as the data, r^2 comes
    on top of it where the chain mixes, and samples vary too much. Directions that y does not see mix slowly, by
    rate sigma_y^2 / (r^2 + sigma_y^2) a step. Returns x_0 of the last level. h is not used.

    Args:
        ode_steps: calls of the prior in a step. langevin_steps, rate, data_std: see above.
    """

    needs_observation = True

    def __init__(self, ode_steps: int = 5, langevin_steps: int = 50, rate: float = 0.2, data_std: float = 1.0):
        if ode_steps < 1 or langevin_steps < 1 or not (rate > 0 and data_std > 0):
            raise InputError(
                f"DAPS needs ode_steps and langevin_steps of at least 1, rate and data_std above 0; got {ode_steps}, {langevin_steps}, {rate} and {data_std}"
            )
        self.ode_steps, self.langevin_steps, self.rate, self.data_std = ode_steps, langevin_steps, rate, data_std

    def calls(self, steps: int) -> int:
        return steps * self.ode_steps

    def advance(self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        obs = denoiser.obs
        x = x_t
        for a, b in pairwise(between(denoiser.schedule, t, Level(denoiser.schedule.t_min, 1.0, 0.0), self.ode_steps)):
            x = ddim(a, b).step(x, evaluate(denoiser.prior, x, a).mean, None)
        middle, precision = x, (t.alpha / t.sigma) ** 2 + self.data_std**-2
        noise = gaussian(obs, "DAPS").deviation.to(x).reshape((-1,) + (1,) * (x.ndim - 1)) ** 2
        k = self.rate / (precision + 1 / noise)
        for _ in range(self.langevin_steps):
            x = x + k * ((middle - x) * precision + obs.score(x)) + torch.sqrt(2 * k) * draw()
        return (s.alpha * x + s.sigma * draw() if s.sigma > 0 else x), None
