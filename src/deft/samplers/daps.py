"""DAPS: each noise level answered by a whole x_0, which is moved towards y and put under noise again."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Draw, ManyDraws, evaluate
from deft.core.transition import Level, ddim
from deft.errors import InputError
from deft.likelihood.gaussian import gaussian
from deft.samplers.travel import between


class DAPS(ManyDraws):
    """Decoupled annealing posterior sampling (B. Zhang, W. Chu, J. Berner, C. Meng, A. Anandkumar & Y. Song 2025,
    "Improving diffusion inverse problem solving with decoupled noise annealing", https://arxiv.org/abs/2407.01521,
    algorithm 1). One step from t to s, with u = sigma_t / alpha_t:

        1. x̂_0: the probability-flow ODE of the prior from x_t to the clean end, in `ode_steps` Euler steps (DDIM);
        2. x_0: `langevin_steps` of x <- x + k grad [ log N(x; x̂_0, r^2 I) + log N(y; A(x), (tau sigma_y)^2 I) ] +
        sqrt(2 k) n, from x̂_0; 3. x_s = alpha_s x_0 + sigma_s n.

    r^2 = d^2 u^2 / (d^2 + u^2), the variance left in data of deviation d; the paper's r = u is d = inf. k = rate f(u) /
    (1/r^2 + 1/(tau sigma_y)^2), where

        f(u) = 1 - (1 - decay) (100^(1/7) - u^(1/7)) / (100^(1/7) - 0.1^(1/7)),   between decay and 1,

    falls along the levels as the authors' step sizes do along theirs, which are even in u^(1/7) from 100 to 0.1. Their
    k is rate f (tau sigma_y)^2, with rate 1/2 (inpainting) or 1 (super-resolution), tau sigma_y = 0.01 where sigma_y =
    0.05 (so tau = 0.2), and decay = 0.01: the same as ours where r is large beside tau sigma_y, and not stable beyond.
    Ours is, for rate < 2 and |A| <= 1.

    With tau below 1 the samples follow y more closely than its noise allows: that buys a better mean with a smaller
    spread.
    Exact only in a limit: tau = 1, x_0 | x_t ~ N(x̂_0, r^2 I) right, as it is for data N(0, d^2 I) and ode_steps = 1
    (then x̂_0 is the mean), and the Langevin steps many, of a small rate. With more ODE steps x̂_0 is itself as spread
    as the data, r^2 comes on top of it where the chain mixes, and samples vary too much. Directions that y does not see
    mix slowly, by k / r^2 a step. Returns x_0 of the last level. h is not used.

    Args:
        ode_steps: calls of the prior in a step. langevin_steps, rate, data_std, tau, decay: see above.

    Raises:
        InputError: a number out of its range, or a measurement whose noise is not Gaussian.

    >>> from deft import VPCosine
    >>> from deft.guidance.combine import Zero
    >>> from deft.samplers import DAPS, sample_posterior
    >>> from deft.testing import half_seen
    >>> world, obs = half_seen(2)
    >>> sample_posterior(world.prior(VPCosine()), Zero(), obs, 3, sampler=DAPS(2, 10), steps=8).x.shape
    torch.Size([1, 3, 4])
    """

    needs_observation = True

    def __init__(
        self,
        ode_steps: int = 5,
        langevin_steps: int = 100,
        rate: float = 1.0,
        data_std: float = math.inf,
        *,
        tau: float = 0.2,
        decay: float = 0.01,
    ):
        if ode_steps < 1 or langevin_steps < 1 or not (rate > 0 and data_std > 0 and tau > 0 and 0 < decay <= 1):
            raise InputError(
                "DAPS needs ode_steps and langevin_steps of at least 1, rate, data_std and tau above 0, and decay "
                "above 0 and at most 1; "
                f"got {ode_steps}, {langevin_steps}, {rate}, {data_std}, {tau} and {decay}"
            )
        self.ode_steps, self.langevin_steps, self.rate, self.data_std, self.tau, self.decay = (
            ode_steps,
            langevin_steps,
            rate,
            data_std,
            tau,
            decay,
        )

    def calls(self, steps: int) -> int:
        return steps * self.ode_steps

    def falling(self, ratio: float) -> float:
        """f at u = sigma/alpha."""
        top, bottom = 100 ** (1 / 7), 0.1 ** (1 / 7)
        return 1 - (1 - self.decay) * min(max((top - ratio ** (1 / 7)) / (top - bottom), 0.0), 1.0)

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        obs = denoiser.obs
        x = x_t
        for a, b in pairwise(between(denoiser.schedule, t, Level(denoiser.schedule.t_min, 1.0, 0.0), self.ode_steps)):
            x = ddim(a, b).step(x, evaluate(denoiser.prior, x, a).mean, None)
        middle, precision = x, (t.alpha / t.sigma) ** 2 + self.data_std**-2
        noise = gaussian(obs, "DAPS").deviation.to(x).reshape((-1,) + (1,) * (x.ndim - 1)) ** 2
        k = self.rate * self.falling(t.sigma / t.alpha) / (precision + 1 / (self.tau**2 * noise))
        for _ in range(self.langevin_steps):
            x = x + k * ((middle - x) * precision + obs.score(x) / self.tau**2) + torch.sqrt(2 * k) * draw()
        return (s.alpha * x + s.sigma * draw() if s.sigma > 0 else x), None
