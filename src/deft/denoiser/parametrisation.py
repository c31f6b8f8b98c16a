"""What networks are trained to return, and what they are given about the noise: one table each.

`OUTPUTS` is the one place where eps, v, x0, score, flow and EDM outputs are distinguished: mean = c_skip x_t + c_out
output.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from deft.errors import InputError, unknown

Coefficient = Callable[[Tensor, Tensor], Tensor | float]
TimeMap = Callable[[Tensor, Tensor, Tensor], Tensor]


def _edm_c_in(a: Tensor, s: Tensor) -> Tensor:
    return (a**2 + s**2).rsqrt()


OUTPUTS: dict[str, tuple[Coefficient, Coefficient]] = {
    "x0": (lambda a, s: 0.0, lambda a, s: 1.0),
    "eps": (lambda a, s: 1 / a, lambda a, s: -s / a),
    "v": (lambda a, s: a / (a**2 + s**2), lambda a, s: -s / (a**2 + s**2)),
    "score": (lambda a, s: 1 / a, lambda a, s: s**2 / a),
    "flow": (lambda a, s: 1 / (a + s), lambda a, s: -s / (a + s)),
    "reverse-flow": (lambda a, s: 1 / (a + s), lambda a, s: s / (a + s)),
    "edm": (lambda a, s: a / (a**2 + s**2), lambda a, s: s * _edm_c_in(a, s)),
}
"""output kind -> (c_skip, c_out), functions of (alpha, sigma), with mean = c_skip x_t + c_out output.

eps = n; v = alpha n - sigma x_0 (Salimans & Ho 2022); flow = n - x_0 and reverse-flow = x_0 - n (Liu et al. 2023;
Lipman et al. 2023 let time run from noise to data); edm: the network F of Karras et al. 2022, eq. 7, for data of unit
standard deviation.
"""

TIMES: dict[str, TimeMap] = {
    "t": lambda t, a, s: t,
    "index": lambda t, a, s: t.round(),
    "999t": lambda t, a, s: 999 * t,
    "1000t": lambda t, a, s: 1000 * t,
    "1-t": lambda t, a, s: 1 - t,
    "sigma": lambda t, a, s: s / a,
    "log-sigma": lambda t, a, s: torch.log(s / a),
    "log-sigma/4": lambda t, a, s: torch.log(s / a) / 4,
    "log-snr": lambda t, a, s: 2 * torch.log(a / s),
}
"""name -> what a network is given about the noise, a function of (t, alpha, sigma), each [B].

t is the schedule's own time: an index (perhaps between two) for a table of betas, [0, 1] for the continuous ones, sigma
for EDM. alpha and sigma are the network's own, on the range it was trained on. index: for networks that look t up in a
table. 999t: VP networks of Song et al. 2021b. log-sigma/4: c_noise of Karras et al. 2022, table 1.
"""


_MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)(t|\(1-t\))")


def time_map(name: str | TimeMap) -> TimeMap:
    """A row of `TIMES`, or N t or N (1 - t) for any number N ("500t", "1000(1-t)"), or the function itself.

    >>> float(time_map("500t")(torch.tensor(0.5), torch.tensor(1.0), torch.tensor(1.0)))
    250.0
    """
    if not isinstance(name, str):
        if not callable(name):
            raise InputError(f"time is a name ({', '.join(TIMES)}) or a function of (t, alpha, sigma), got {name!r}")
        return name
    if name in TIMES:
        return TIMES[name]
    found = _MULTIPLE.fullmatch(name)
    if found is None:
        raise unknown("time", name, [*TIMES, "1000(1-t)"])
    factor, falling = float(found[1]), found[2] != "t"
    return lambda t, a, s: factor * (1 - t) if falling else factor * t


def to_output(kind: str, x_t: Tensor, mean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The network output of the given kind that stands for `mean`: the table read backwards."""
    c_skip, c_out = parametrisation(kind)
    return (mean - c_skip(alpha, sigma) * x_t) / c_out(alpha, sigma)


def parametrisation(kind: str) -> tuple[Coefficient, Coefficient]:
    if kind not in OUTPUTS:
        raise unknown("output kind", str(kind), OUTPUTS)
    return OUTPUTS[kind]
