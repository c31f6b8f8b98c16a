"""Student's t: probabilities and quantiles, for any number of degrees of freedom of at least 1."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def student_p(t: float, degrees: float) -> float:
    """P(|T| >= |t|) for Student's t with (perhaps fractional) degrees of freedom of at least 1.

    With t = sqrt(degrees) tan(a) the density is proportional to cos(a)^(degrees - 1), which is integrated numerically.

    >>> round(student_p(4.303, 2), 4)
    0.05
    """
    if math.isinf(t):
        return 0.0
    start = math.atan(abs(t) / math.sqrt(degrees))
    half = (math.pi / 2 - start) / 2
    tail = half * float(_WEIGHTS @ np.cos(start + half * (1 + _NODES)) ** (degrees - 1))
    whole = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2))
    return min(1.0, tail / whole)


@lru_cache(maxsize=256)
def student_quantile(q: float, degrees: float) -> float:
    """The q-quantile of Student's t for q > 1/2, by bisection.

    >>> round(student_quantile(0.975, 2), 3)
    4.303
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, degrees) > 2 * (1 - q) else (low, middle)
    return high
