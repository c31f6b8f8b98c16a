"""Imputation: after each step, what was measured is overwritten by y under the noise of the level reached."""

from __future__ import annotations

from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Draw, ManyDraws, Sampler
from deft.core.transition import Level
from deft.likelihood.gaussian import linear


class Imputed(ManyDraws):
    """Any sampler, each of whose steps from t to s is followed by

        x_s <- (I - A^+ A) x_s + A^+ A (alpha_s A^+ y + sigma_s n),   n fresh at every level,

    for a linear A; for a mask that overwrites the seen entries by a noised y. At the clean end it is y itself.

    Around the prior's own sampler (h = `Zero`) this is imputation as in Y. Song et al. 2021b, "Score-based generative
    modeling through stochastic differential equations" (https://arxiv.org/abs/2011.13456, appendix I.2), without their
    corrector steps. Inside `TimeTravel` it is RePaint, with the gradient of DPS for h it is MCG (see the table of
    `deft.methods`). `deft.guidance.Replacement` replaces the measured part of x̂ instead (DDNM), by a y whose noise is
    one path.

    x_s counts y as noiseless: measured entries end as y, its noise included.

    Args:
        sampler: what takes the steps; it may use h.

    Raises:
        InputError: the measurement is not linear with Gaussian noise.

    >>> from deft import VPCosine, condition
    >>> from deft.guidance.combine import Zero
    >>> from deft.samplers import Ancestral, Imputed, sample
    >>> from deft.testing import half_seen
    >>> world, obs = half_seen(2)
    >>> x = sample(condition(world.prior(VPCosine()), Zero(), obs), 1, sampler=Imputed(Ancestral()), steps=8)
    >>> float(obs.likelihood.residual(obs.y, x).abs().max())
    0.0
    """

    needs_observation = True

    def __init__(self, sampler: Sampler):
        self.sampler = sampler

    def calls(self, steps: int) -> int:
        return self.sampler.calls(steps)

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        _, operator = linear(denoiser.obs, "imputation")
        x_s, carry = self.sampler.advance(denoiser, x_t, t, s, draw, carry)
        known = operator.pinv(s.alpha * denoiser.obs.y.to(x_s))
        free = x_s - s.sigma * draw() if s.sigma > 0 else x_s
        return x_s - operator.pinv(operator(free)) + known, carry
