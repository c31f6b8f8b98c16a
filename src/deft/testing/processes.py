"""Gaussian processes on given times: worlds whose posterior is kriging.

    x_c(t) ~ GP(0, sum_j B_j[c, c'] k_j(t, t')),    samples [C, L],

the linear model of coregionalisation: every kernel k_j is shared by the channels, B_j says how they go together. Given
y = A x + sigma_y n the posterior is Gaussian, C A^T (A C A^T + sigma_y^2 I)^{-1} y its mean (Rasmussen & Williams 2006,
"Gaussian Processes for Machine Learning", eq. 2.23 to 2.26): gaps, sums, block means
and blurs alike. Times need not be even.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deft.errors import InputError
from deft.guidance.exact import Mixture
from deft.printing import Printed
from deft.testing.worlds import MixtureWorld

F64 = torch.float64


class Kernel(Printed):
    """k(t, t') of times apart by d = |t - t'|; kernels add up and multiply, and `2.0 * kernel` scales the variance.

    >>> k = matern(0.5, length=2.0) + periodic(24.0, std=0.5)
    >>> k(torch.tensor([0.0, 2.0, 24.0])).diagonal()
    tensor([1.2500, 1.2500, 1.2500], dtype=torch.float64)
    """

    def __init__(self, of: Callable[[Tensor], Tensor]):
        self.of = of

    def __call__(self, times: Tensor) -> Tensor:
        """The covariance of the times [L], [L, L], float64."""
        t = times.double()
        return self.of((t[:, None] - t).abs())

    def __add__(self, other: Kernel) -> Kernel:
        return Kernel(lambda d: self.of(d) + other.of(d))

    def __mul__(self, other: Kernel | float) -> Kernel:
        if isinstance(other, Kernel):
            return Kernel(lambda d: self.of(d) * other.of(d))
        return Kernel(lambda d: other * self.of(d))

    __rmul__ = __mul__


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} of a kernel is a number above 0, got {value}")


def rbf(length: float = 1.0, std: float = 1.0) -> Kernel:
    """std^2 exp(-d^2 / (2 length^2)): smooth."""
    _positive(length=length, std=std)
    return Kernel(lambda d: std**2 * torch.exp(-(d**2) / (2 * length**2)))


def matern(nu: float = 1.5, length: float = 1.0, std: float = 1.0) -> Kernel:
    """Matérn's, with s = sqrt(2 nu) d / length:

        nu = 1/2    std^2 exp(-s)                       (Ornstein-Uhlenbeck: continuous and rough)
        nu = 3/2    std^2 (1 + s) exp(-s)
        nu = 5/2    std^2 (1 + s + s^2 / 3) exp(-s)

    Raises:
        InputError: another nu.
    """
    _positive(length=length, std=std)
    factors: dict[float, Callable[[Tensor], Tensor]] = {
        0.5: torch.ones_like, 1.5: lambda s: 1 + s, 2.5: lambda s: 1 + s + s**2 / 3,
    }  # fmt: skip
    if nu not in factors:
        raise InputError(f"matern has closed forms for nu = 0.5, 1.5 and 2.5, got {nu}")
    factor, rate = factors[nu], math.sqrt(2 * nu) / length
    return Kernel(lambda d: std**2 * factor(rate * d) * torch.exp(-rate * d))


def periodic(period: float, length: float = 1.0, std: float = 1.0) -> Kernel:
    """std^2 exp(-2 sin^2(pi d / period) / length^2): repeats exactly; times `rbf` it changes slowly."""
    _positive(period=period, length=length, std=std)
    return Kernel(lambda d: std**2 * torch.exp(-2 * torch.sin(math.pi * d / period) ** 2 / length**2))


def gaussian_process(
    times: Tensor | int,
    kernel: Kernel | Sequence[tuple[Kernel, Tensor]] | None = None,
    *,
    channels: int = 1,
    nugget: float = 1e-4,
) -> MixtureWorld:
    """A Gaussian world of series [C, L]: see the module's formula.

    Args:
        times: [L], in any order and with any steps; or L, for 0, 1, ..., L - 1.
        kernel: of all channels, independent of each other; or (kernel, B) for each term, B [C, C] symmetric and
            positive semi-definite. Default: Matérn 3/2 of length L / 8.
        channels: C, where `kernel` does not say it.
        nugget: variance that every entry has for itself, which also keeps the covariance positive definite.

    Raises:
        InputError: no times, a time twice without a nugget, or B that is no covariance.

    >>> import deft
    >>> world = gaussian_process(torch.tensor([0.0, 1.0, 1.5, 4.0]), matern(0.5, length=2.0), channels=2)
    >>> mask = torch.tensor([[[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]])
    >>> like = deft.Gaussian(deft.Mask(mask), 0.1)
    >>> obs = deft.Observation(like.sample(world.sample(1).float(), deft.Noise(1, 1)), like)
    >>> world.posterior(obs).std.reshape(2, 4).round(decimals=1)
    tensor([[0.1000, 0.6000, 0.1000, 0.1000],
            [0.1000, 0.1000, 0.6000, 1.0000]], dtype=torch.float64)
    """
    if isinstance(times, int):
        if times < 1:
            raise InputError(f"a series has one time or more, got {times}")
        times = torch.arange(times, dtype=F64)
    if times.ndim != 1 or not len(times) or not bool(torch.isfinite(times).all()):
        raise InputError(f"times are finite numbers [L], got shape {tuple(times.shape)}")
    if not 0 <= nugget < math.inf or channels < 1:
        raise InputError(f"nugget is a variance from 0, and channels a number from 1, got {nugget} and {channels}")
    if kernel is None:
        kernel = matern(1.5, max(1.0, float(times.max() - times.min()) / 8))
    terms = [(kernel, torch.eye(channels, dtype=F64))] if isinstance(kernel, Kernel) else list(kernel)
    c = sum(torch.kron(_coregionalisation(b), k(times)) for k, b in terms)
    assert isinstance(c, Tensor)
    d, count = len(c), len(c) // len(times)
    c = c + nugget * torch.eye(d, dtype=F64)
    if int(torch.linalg.cholesky_ex(c).info):
        raise InputError("the covariance is not positive definite: give a nugget (1e-4), and no time twice without one")
    one, zero = torch.ones(1, dtype=F64), torch.zeros(1, d, dtype=F64)
    return MixtureWorld(Mixture(one, zero, c[None]), (count, len(times)))


def _coregionalisation(b: Tensor) -> Tensor:
    b = b.double()
    if b.ndim != 2 or b.shape[0] != b.shape[1] or not torch.allclose(b, b.mT):
        raise InputError(f"B is a symmetric matrix [C, C], got shape {tuple(b.shape)}")
    if float(torch.linalg.eigvalsh(b).min()) < -1e-9 * float(b.diagonal().max()):
        raise InputError("B is no covariance of channels: it has a negative eigenvalue")
    return b
