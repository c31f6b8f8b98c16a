"""Processes with independent steps that need not be Gaussian, and their posteriors by Gibbs sampling.

    x_k = u_1 + ... + u_k,    u_k independent, Gauss, Laplace, Student or Bernoulli-Laplace,

in one channel: samples [1, L]. All kinds have the same covariance; what lies between them are the jumps. Every step is
normal given a scale of its own, u_k ~ N(0, w_k), so that the posterior of a linear measurement with Gaussian noise is
Gaussian given the scales, and a Gibbs sampler draws one given the other (`LevyWorld.gold`):

    Laplace             1 / w_k | u_k ~ InverseGaussian(mean 1 / (b |u_k|), shape 1 / b^2)
    Student             w_k | u_k ~ InverseGamma((nu + 1) / 2, (nu s^2 + u_k^2) / 2)
    Bernoulli-Laplace   w_k = q_k v_k: q_k | v, the other q, y with u integrated out, then v_k | u_k as for Laplace

The test signals are those of Bohra et al. 2023, "A Statistical Framework to Investigate the Optimality of
Signal-Reconstruction Methods", https://arxiv.org/abs/2203.09920, and the use for posterior samplers is that of Zach et
al. 2026, "A Statistical Benchmark for Diffusion Posterior Sampling Algorithms",
https://openreview.net/forum?id=zDI2G8t0of. The sampler here is written from the formulas above.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.core.random import generator
from deft.errors import InputError, unknown
from deft.guidance.exact import Mixture, dense
from deft.kinds.draws import Draws
from deft.likelihood.gaussian import linear
from deft.testing.worlds import MixtureWorld

F64 = torch.float64
KINDS = ("gauss", "laplace", "student", "bernoulli-laplace")


def levy(
    kind: str,
    length: int = 64,
    *,
    df: float = 3.0,
    jumps: float = 0.1,
    std: float = 1.0,
    event_shape: tuple[int, ...] | None = None,
) -> LevyWorld:
    """The process x_k = u_1 + ... + u_k of `length` steps, in units in which the mean over k of E x_k^2 is std^2.

    Args:
        kind: "gauss", "laplace", "student" or "bernoulli-laplace".
        df: degrees of freedom of Student's steps, above 2. jumps: the share of Bernoulli-Laplace steps that are not 0.
        event_shape: [1, length], or (length,) for operators that take vectors.

    Raises:
        InputError: another kind, or a setting out of its range.

    >>> import deft
    >>> world = levy("laplace", 16)
    >>> x = world.sample(2)
    >>> obs = deft.Observation(x, deft.Gaussian(deft.Identity(), 0.1))
    >>> world.gold(obs, n=40, burn=20).x.shape
    torch.Size([2, 40, 1, 16])
    """
    if kind not in KINDS:
        raise unknown("kind of step", kind, KINDS)
    if not (length >= 1 and df > 2 and 0 < jumps <= 1 and 0 < std < math.inf):
        raise InputError(
            "levy needs length >= 1, df > 2 (steps of finite variance), 0 < jumps <= 1 and std > 0, got"
            f" {length}, {df}, {jumps} and {std}"
        )
    return LevyWorld(kind, length, df, jumps, std, event_shape or (1, length))


class LevyWorld:
    """See `levy`, which makes it. variance: of one step."""

    def __init__(self, kind: str, length: int, df: float, jumps: float, std: float, event_shape: tuple[int, ...]):
        if math.prod(event_shape) != length:
            raise InputError(f"a process of {length} steps has samples [1, {length}], not {list(event_shape)}")
        self.kind, self.length, self.df, self.jumps, self.event_shape = kind, length, df, jumps, tuple(event_shape)
        self.variance = 2 * std**2 / (length + 1)
        share = jumps if kind == "bernoulli-laplace" else 1.0
        self.scale = math.sqrt(self.variance / (2 * share))
        """b of a Laplace step, of density exp(-|u| / b) / 2b."""

    @property
    def gaussian(self) -> MixtureWorld:
        """The Gaussian world of the same mean and covariance, C_jk = variance min(j, k): exact for "gauss", and else
        what a method that knows second moments alone can see."""
        k = torch.arange(1, self.length + 1, dtype=F64)
        c = self.variance * torch.minimum(k[:, None], k)
        one, zero = torch.ones(1, dtype=F64), torch.zeros(1, self.length, dtype=F64)
        return MixtureWorld(Mixture(one, zero, c[None]), self.event_shape)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws of the process, [n, *E], float32; exact."""
        g = generator(seed, 41)
        return self.steps((n, self.length), g).cumsum(1).float().reshape(n, *self.event_shape)

    def steps(self, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
        """Independent steps u, float64."""
        return self._scales(shape, g).sqrt() * torch.randn(shape, generator=g, dtype=F64) * self._jumps(shape, g)

    def gold(
        self, obs: Observation, n: int, *, chains: int = 8, burn: int = 200, thin: int = 1, seed: int = 0
    ) -> Draws:
        """n samples of the exact posterior of each measurement: `Draws` of x [B, n, *E], float64.

        Samples of a chain depend on each other: take several hundred, and more where two seeds disagree. For "gauss"
        they are independent. The samples of a chain follow each other: sample i is of chain i // (n / chains).

        Args:
            obs: linear measurements with Gaussian noise of one operator.
            chains: of each measurement, started from the prior. burn: sweeps of each that are not kept. thin: sweeps
                between two that are.

        Raises:
            InputError: another measurement, or n that the chains cannot share.
        """
        if n < 1 or chains < 1 or burn < 0 or thin < 1 or n % chains:
            raise InputError(
                "gold needs n, chains and thin above 0, burn of 0 or more, and n a multiple of chains, got"
                f" n = {n}, chains = {chains}, burn = {burn}, thin = {thin}"
            )
        like, operator = linear(obs, "the Gibbs sampler")
        h = dense(operator, self.event_shape, F64)
        keep = operator.measured_part(torch.ones_like(obs.y)).flatten(1)[0] != 0
        if len(h) != 1:
            raise InputError("gold takes measurements of one operator: give those of each operator by themselves")
        h = h[0][keep].flip(1).cumsum(1).flip(1)  # of the steps: A C, C the running sum
        y = obs.y.double().flatten(1)[:, keep].repeat_interleave(chains, 0)
        noise = (like.deviation.double() ** 2).expand(len(obs)).repeat_interleave(chains)
        state = _Gibbs(self, h, y, noise, generator(seed, 42))
        kept = []
        for sweep in range(burn + (n // chains - 1) * thin + 1):
            u = state.sweep()
            if sweep >= burn and (sweep - burn) % thin == 0:
                kept.append(u.cumsum(1))
        x = torch.stack(kept, 1).reshape(len(obs), n, *self.event_shape)
        return Draws(x)

    # the laws of scales

    def _scales(self, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
        """w of steps that are not 0, from their prior."""
        if self.kind == "gauss":
            return torch.full(shape, self.variance, dtype=F64)
        if self.kind == "student":
            return self._inverse_gamma(self.df / 2, torch.full(shape, self.df / 2, dtype=F64) * self._s2, g)
        return 2 * self.scale**2 * torch.empty(shape, dtype=F64).exponential_(generator=g)

    def _jumps(self, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
        if self.kind != "bernoulli-laplace":
            return torch.ones(shape, dtype=F64)
        return (torch.rand(shape, generator=g, dtype=F64) < self.jumps).to(F64)

    @property
    def _s2(self) -> float:
        return self.variance * (self.df - 2) / self.df

    def _scales_given(self, u: Tensor, g: torch.Generator) -> Tensor:
        """w given the step u, which is not 0."""
        if self.kind == "gauss":
            return torch.full_like(u, self.variance)
        if self.kind == "student":
            return self._inverse_gamma((self.df + 1) / 2, (self.df * self._s2 + u.square()) / 2, g)
        return _laplace_scales(u.abs(), self.scale, g)

    @staticmethod
    def _inverse_gamma(shape: float, rate: Tensor, g: torch.Generator) -> Tensor:
        gamma = torch._standard_gamma(torch.full_like(rate, shape), generator=g)
        return rate / gamma.clamp_min(1e-300)


def _laplace_scales(size: Tensor, b: float, g: torch.Generator) -> Tensor:
    """w with 1/w ~ InverseGaussian(mean 1/(b |u|), shape 1/b^2), of |u| = size.

    The two roots of Michael, Schucany & Haas 1976, "Generating Random Variates Using Transformations with Multiple
    Roots", https://doi.org/10.1080/00031305.1976.10479147, written for w, so that nothing cancels at u = 0.
    """
    z = torch.randn(size.shape, generator=g, dtype=size.dtype).square()
    large = b * size + b**2 / 2 * (z + (z.square() + 4 * z * size / b).sqrt())
    first = torch.rand(size.shape, generator=g, dtype=size.dtype) * (large + b * size) <= large
    return torch.where(first, large, (b * size).square() / large).clamp_min(1e-300)


class _Gibbs:
    """Chains of scales w, spikes q and steps u for y = H u + noise, one a row."""

    def __init__(self, world: LevyWorld, h: Tensor, y: Tensor, noise: Tensor, g: torch.Generator):
        self.world, self.h, self.y, self.noise, self.g = world, h, y, noise, g
        shape = (len(y), world.length)
        self.slab, self.q = world._scales(shape, g), world._jumps(shape, g)

    def sweep(self) -> Tensor:
        """One sweep; the steps u, [rows, L]."""
        if self.world.kind == "bernoulli-laplace":
            self._spikes()
        u = self._steps()
        given = self.world._scales_given(u, self.g)
        if self.world.kind == "bernoulli-laplace":  # the slab of a step that is 0 has its prior
            given = torch.where(self.q > 0, given, self.world._scales(u.shape, self.g))
        self.slab = given
        return u

    def _factor(self, w: Tensor) -> Tensor:
        """Cholesky factor of H W H^T + sigma_y^2 I."""
        s = (self.h * w[:, None]) @ self.h.mT
        s.diagonal(dim1=1, dim2=2).add_(self.noise[:, None])
        return torch.linalg.cholesky(s)

    def _steps(self) -> Tensor:
        """u given the scales: a draw of the prior, moved by what its own measurement lacks of y."""
        w = self.q * self.slab
        u = w.sqrt() * torch.randn(w.shape, generator=self.g, dtype=F64)
        n = self.noise.sqrt()[:, None] * torch.randn(self.y.shape, generator=self.g, dtype=F64)
        lack = (self.y - u @ self.h.mT - n)[..., None]
        return u + w * (torch.cholesky_solve(lack, self._factor(w))[..., 0] @ self.h)

    def _spikes(self) -> None:
        """Each q_k in turn given the others, u integrated out.

        With S = H W H^T + sigma_y^2 I without step k, a = h_k^T S^{-1} h_k and b = h_k^T S^{-1} y, the odds of q_k = 1
        are (1 + v a)^{-1/2} exp(v b^2 / (2 (1 + v a))) p / (1 - p). H^T S^{-1} H and H^T S^{-1} y follow by rank one.
        """
        p, rows = self.world.jumps, len(self.y)
        if p == 1:
            return
        factor = self._factor(self.q * self.slab)
        both = torch.cat([self.h.expand(rows, -1, -1), self.y[..., None]], 2)
        solved = torch.cholesky_solve(both, factor)
        gram = self.h.mT @ solved  # [rows, L, L + 1]: H^T S^{-1} [H, y]
        order = torch.randperm(self.world.length, generator=self.g)
        chance = torch.rand(rows, self.world.length, generator=self.g, dtype=F64).logit()
        for k in order.tolist():
            v, old = self.slab[:, k], self.q[:, k]
            a, b = gram[:, k, k], gram[:, k, -1]
            shrink = 1 / (1 - old * v * a)  # S without step k
            a, b = a * shrink, b * shrink
            odds = (v * b.square() / (1 + v * a) - torch.log1p(v * a)) / 2 + math.log(p / (1 - p))
            new = (chance[:, k] < odds).to(F64)
            moved = (new != old).nonzero()[:, 0]
            if len(moved):
                g, delta = gram[moved], (new - old)[moved] * v[moved]
                row = g[:, k]
                gram[moved] = g - (delta / (1 + delta * row[:, k]))[:, None, None] * row[:, :-1, None] * row[:, None]
                self.q[moved, k] = new[moved]
