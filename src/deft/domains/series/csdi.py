"""The published CSDI network (Tashiro et al. 2021) as a prior of series [K, L], and as the amortised sampler it is.

One network, two uses. With nothing observed it is an unconditional denoiser, so every method of the library runs on it
(`CSDIPrior`). With y and a mask it returns E[x_0 | x_t, y] itself (`CSDIPrior.given`, `CSDIImputer`): trained for one
kind of measurement, it needs no h.

Series are in z-scores, each variable by its own mean and deviation over the training data, which no file of weights
holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction, freeze
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.denoiser import NetworkDenoiser
from deft.domains.series.csdi_net import CSDIConfig, CSDINet
from deft.errors import CheckpointError, InputError
from deft.io.states import SUFFIXES, Layout, check_fit, choose, find_states, holds, read_any, survey, which
from deft.learned.base import towards
from deft.operator import Identity, Mask
from deft.runtime.untrusted import building, describable
from deft.schedule import VPTable

CSDI = Layout(
    ("embed_layer.weight", "diffmodel.input_projection.weight", "diffmodel.diffusion_embedding.projection1.weight"),
    "a network of CSDI",
    "",
)
STEPS, FIRST, LAST = 50, 1e-4, 0.5
"""Of the published table of betas: how many, the first and the last."""
HOURS = 48
"""Length of the series that the published network was trained on."""
LARGEST = 256 * 2**20
"""Bytes. The published network has 1.7 MB; a larger file is not read to see whether it is one."""


def noise_schedule() -> VPTable:
    """The published table: beta_t = (linspace(beta_1^(1/2), beta_T^(1/2), T)_t)^2, T = 50.

    sigma/alpha goes from 0.01 to 173.
    """
    return VPTable(torch.linspace(FIRST**0.5, LAST**0.5, STEPS, dtype=torch.float64).square().tolist())


class CSDIPrior(NetworkDenoiser):
    """A network of CSDI with nothing observed, as a prior of series [K, L] in z-scores.

    t is the index into the table of betas. Between two, the codes of the neighbours are interpolated.

    clamp: E[x_0 | x_t] is cut off at plus and minus this, in z-scores; None does not cut.
    """

    def __init__(self, net: CSDINet, event_shape: tuple[int, ...], clamp: float | None = None, **convention: Any):
        usual: dict[str, Any] = {"schedule": noise_schedule(), "output": "eps", "time": "t"}
        super().__init__(net, event_shape=event_shape, **(usual | convention))
        self.clamp = clamp

    def reread(self, **changes: Any) -> CSDIPrior:
        assert isinstance(self.net, CSDINet)
        out = CSDIPrior(self.net, self.event_shape, self.clamp, **(self.convention() | changes))
        out.card = dict(self.card)
        return out.train(self.training)

    def describe(self) -> dict[str, Any]:
        """With what changes what is computed, but none of the weights."""
        assert isinstance(self.net, CSDINet)
        about = {"heads": self.net.config.heads} | ({} if self.clamp is None else {"clamp": self.clamp})
        return super().describe() | {"csdi": about}

    def mean_of(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        mean = super().mean_of(out, x_t, alpha, sigma)
        return mean if self.clamp is None else mean.clamp(-self.clamp, self.clamp)

    def mean_given(self, pred: Prediction, obs: Observation) -> Tensor:
        """E[x_0 | x_t, y] of the network: y itself where it was observed, what is returned elsewhere. [B, *E]."""
        net = self.net
        assert isinstance(net, CSDINet)
        y, mask = observed(obs, pred.x_t)

        def shown(x: Tensor, step: Tensor) -> Tensor:
            out: Tensor = net(x, step, y, mask)
            return out

        out = self.raw(pred.x_t, pred.t, pred.alpha, pred.sigma, net=shown)
        return torch.where(mask > 0, y, self.mean_of(out, pred.x_t, pred.alpha, pred.sigma))

    def given(self, obs: Observation) -> Denoiser:
        """The amortised sampler: the denoiser of p(x_0 | y) that the network is, at one run of it a step.

        Raises:
            InputError: y is not the observed entries of a series.
        """
        return Given(self, obs)


class Given(Denoiser):
    """x_t, t -> E[x_0 | x_t, y] of a `CSDIPrior`, one run of its network a step."""

    def __init__(self, prior: CSDIPrior, obs: Observation):
        super().__init__()
        observed(obs, prior.state_like(obs.y).new_zeros((len(obs), *prior.event_shape)))
        self.prior, self.obs = prior, obs
        self.schedule, self.event_shape = prior.schedule, prior.event_shape

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        t, alpha, sigma = self.coefficients(t, x_t)
        pred = Prediction(x_t, t, alpha, sigma, x_t)
        return Prediction(x_t, t, alpha, sigma, self.prior.mean_given(pred, self.obs))


class CSDIImputer(HTransform):
    """The amortised sampler as an h, for comparisons: h = (alpha / sigma^2) (E[x_0 | x_t, y] - E[x_0 | x_t]).

    Both means are of the same network, so a step costs two runs of it; `CSDIPrior.given` costs one. y is taken as free
    of noise, as in the network's training. The prior is borrowed: it is no part of this h and not saved with it.
    """

    def __init__(self, prior: CSDIPrior):
        super().__init__()
        if not isinstance(prior, CSDIPrior):
            raise InputError(
                f"CSDIImputer is a network of CSDI itself, got a {type(prior).__name__}: load one with"
                " deft.load_prior('model.pth')"
            )
        self._prior = (prior,)  # in a tuple, so that it is no part of this module

    def check_made_for(self, prior: Denoiser, obs: Observation) -> None:
        observed(obs, obs.y)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        return towards(pred, self._prior[0].mean_given(pred, obs))


def observed(obs: Observation, like: Tensor) -> tuple[Tensor, Tensor]:
    """(y, 0 where it is not known; mask, 1 where it is), both [B, *E], of a measurement of some entries.

    Raises:
        InputError: another measurement.
    """
    operator = obs.likelihood.operator
    if not isinstance(operator, (Mask, Identity)) or tuple(obs.y.shape) != tuple(like.shape):
        what = "no operator" if operator is None else type(operator).__name__
        raise InputError(
            f"a network of CSDI fills entries that were not observed, and y is of {what} with shape"
            f" {tuple(obs.y.shape)}: expected a Mask and {tuple(like.shape)}; take a method for any measurement (pigdm,"
            " mmps, dps)"
        )
    mask = operator.measured_part(torch.ones_like(obs.y)).to(like)
    return torch.where(mask > 0, obs.y.to(like), torch.zeros_like(like)), mask


# files


def recognise(path: str | Path) -> bool:
    """Whether a file holds a network of CSDI; only tensors are read, and nothing in it is run."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file() or path.stat().st_size > LARGEST:
        return False
    try:
        return bool(find_states(read_any(path), CSDI.landmarks))
    except CheckpointError:  # whoever loads it says so
        return False


def load_csdi(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    event_shape: tuple[int, ...] | None = None,
    clamp: float | None = None,
    heads: int = 8,
    weights: str | None = None,
    **changes: Any,
) -> CSDIPrior:
    """A published network of CSDI (a state dict) as a frozen prior, in float32; every weight is checked and used.

    Args:
        event_shape: (K, L) for series of another length than 48. K is the network's own.
        clamp: see `CSDIPrior`.
        heads: of its attention, which the weights do not tell.
        weights: which of several networks in the file, by its place there.
        changes: of the convention (schedule=...); see `NetworkDenoiser`.

    Raises:
        CheckpointError: a file that is not there, cut off, holds code, or is of another network.
        InputError: another number of variables.
    """
    path = Path(path)
    whole = read_any(path)
    found = find_states(whole, CSDI.landmarks)
    if not found:
        raise CheckpointError(
            f"{path} holds no network of CSDI ({survey(whole) or holds(whole)}): expected a state dict with"
            f" {CSDI.landmarks[0]}"
        )
    found = choose(path, found, weights)
    state = found[0].state
    net = _network(path, state, heads)
    shape = (net.config.variables, HOURS) if event_shape is None else tuple(event_shape)
    if len(shape) != 2 or shape[0] != net.config.variables:
        raise InputError(
            f"{path.name} is of {net.config.variables} variables, got event_shape={shape}: give"
            f" ({net.config.variables}, LENGTH)"
        )
    net.load_state_dict({k: v.float() for k, v in state.items()})
    prior = CSDIPrior(net, shape, clamp, **changes)
    prior.card = {
        "family": "csdi",
        "domain": "series",
        "name": path.stem,
        "file": path.name,
        "config": asdict(net.config),
        "unit": "standard deviations of each variable over the training data",
        "unsure": _doubts(shape, changes) + which(found),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    freeze(prior)
    return prior.to(device)


def _network(path: Path, state: Mapping[str, Tensor], heads: int) -> CSDINet:
    """The network of a state dict, untrained: every tensor has its name and its shape."""
    try:
        config = CSDIConfig.from_shapes({k: tuple(v.shape) for k, v in state.items()}, heads)
        with torch.device("meta"), building(*describable(state)):
            expected = CSDINet(config).state_dict()
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: the weights are of no network of CSDI: {reason}") from error
    check_fit(path, expected, state, "the network of CSDI of its shapes")
    return CSDINet(config)


def _doubts(shape: tuple[int, ...], changes: Mapping[str, Any]) -> list[str]:
    doubts = ["unit: z-scores, by means and deviations of the training data, which are not in the weights"]
    if "schedule" not in changes:
        doubts.append(f"noise schedule: not in the weights; the published table of {STEPS} betas is taken")
    if shape[1] != HOURS:
        doubts.append(f"length: the published network was trained on {HOURS} times, and {shape[1]} were asked for")
    return doubts
