"""A fitted h, alone or with its prior, as one module of tensors: what `deft.workflow.exporting` writes as a graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deft.core.condition import Conditioned, fitted_to
from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import levels
from deft.core.htransform import HTransform
from deft.core.likelihood import Likelihood, Observation
from deft.core.random import BatchNoise
from deft.core.transition import Level
from deft.denoiser import MeanDenoiser, NetworkDenoiser
from deft.errors import InputError
from deft.learned import Learned
from deft.likelihood.task import Tilt
from deft.likelihood.unknown import UnknownTask
from deft.operator import Operator
from deft.recipe.fitted import FittedH

BATCHES = (2, 1, 5)
"""Rows at which a graph is compared with PyTorch; it is traced with the first."""
PLACES = (0.98, 0.7, 0.4, 0.15, 0.03)
"""Noise levels at which it is compared, as shares of the schedule's times."""


@dataclass(frozen=True)
class Task:
    """What a measurement brings into a graph.

    likelihood: of one row; drawn: the name of what differs from measurement to measurement ("mask"), or "".
    """

    likelihood: Likelihood
    drawn: str = ""

    def observation(self, y: Tensor, drawn: Tensor | None) -> Observation:
        """The observation, with what was drawn for it in its operator's place."""
        if drawn is None:
            return Unchecked(y, self.likelihood)
        likelihood = copy.copy(self.likelihood)
        likelihood.operator = _with(self.likelihood.operator, self.drawn, drawn)
        return Unchecked(y, likelihood)


class Unchecked(Observation):
    """An observation of any number of rows: the checks of one would fix it while it is traced."""

    def __init__(self, y: Tensor, likelihood: Likelihood):
        for name, value in {"y": y, "likelihood": likelihood, "_lifted": None}.items():
            object.__setattr__(self, name, value)


def _with(operator: Operator | None, name: str, value: Tensor) -> Operator:
    out = copy.copy(operator)
    setattr(out, name, value)
    assert out is not None
    return out


class HGraph(nn.Module):
    """mean(x_t, x_hat, alpha, sigma, y, drawn) = x_hat + (sigma^2 / alpha) h: E[x_0 | x_t, y] of what a prior says.

    x_t, x_hat: [B, *E]. alpha, sigma: [B]. y: [B, *M]. drawn: what belongs to single measurements, where there is such.
    """

    def __init__(self, h: HTransform, task: Task):
        super().__init__()
        self.h, self.task = h, task

    def forward(
        self, x_t: Tensor, x_hat: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        alpha, sigma = (v.reshape(-1, *[1] * (x_t.ndim - 1)) for v in (alpha, sigma))
        pred = Prediction(x_t, alpha.reshape(-1), alpha, sigma, x_hat)
        return pred.corrected(self.h(pred, self.task.observation(y, drawn))).mean


class ConditionedGraph(nn.Module):
    """mean(x_t, t, alpha, sigma, y, drawn): the same with the prior in it. t: [B], the schedule's time."""

    def __init__(self, prior: Denoiser, h: HTransform, task: Task):
        super().__init__()
        self.prior, self.inner = prior, HGraph(h, task)

    def forward(
        self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        return self.inner(x_t, mean_of(self.prior, x_t, t, alpha, sigma), alpha, sigma, y, drawn)


class NetworkGraph(nn.Module):
    """The network of a prior by itself, net(x, time), as its convention asks it."""

    def __init__(self, prior: NetworkDenoiser):
        super().__init__()
        self.net = prior.net

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.net(x, time)


def mean_of(prior: Denoiser, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_t] of a prior whose alpha and sigma are given, [B]: without the checks and the float64 of a call."""
    alpha, sigma = (v.reshape(-1, *[1] * (x_t.ndim - 1)) for v in (alpha, sigma))
    if isinstance(prior, NetworkDenoiser):
        return prior.mean_of(prior.raw(x_t, t, alpha, sigma), x_t, alpha, sigma)
    assert isinstance(prior, MeanDenoiser)
    return prior.mean(x_t, alpha, sigma)


@dataclass(frozen=True)
class Case:
    """Inputs of a graph by name, and what PyTorch makes of them."""

    inputs: Mapping[str, Tensor]
    want: Tensor
    level: Level


@dataclass(frozen=True)
class Export:
    """A module to be written as a graph.

    inputs: name -> what it is, for people, in order. cases: inputs and outputs to compare with; it is traced with the
    first. blame: what to try by itself where tracing fails: (name, module, inputs).
    """

    module: nn.Module
    inputs: Mapping[str, str]
    cases: list[Case]
    output: str = "denoised"
    about: str = "E[x_0 | x_t, y]"
    blame: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = field(default_factory=list)


class Guide(nn.Module):
    """What h asks of a likelihood: its features of y, and how far the mean moves."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, x: Tensor, y: Tensor, drawn: Tensor | None = None) -> tuple[Tensor, Tensor]:
        obs = self.task.observation(y, drawn)
        rho2 = x.flatten(1).square().mean(1).reshape(-1, *[1] * (x.ndim - 1)) + 0.1
        return obs.features(), obs.likelihood.approx_mean_update(obs.y, x, rho2)


def task_of(fitted: FittedH) -> tuple[Task, str]:
    """(the task as a graph has it, the words for its operator).

    Raises:
        InputError: a reward, one measurement alone, or a latent prior, whose likelihoods are no tensors.
    """
    prior, task = fitted.prior, fitted.task
    if "measurement" in fitted.card or isinstance(task, Tilt) or not hasattr(task, "check"):
        raise InputError(
            "this h was fitted to one measurement or to a reward: a graph is for a task whose measurements are an input"
        )
    if isinstance(task, UnknownTask):
        raise InputError(
            "this h was fitted to pairs of an unknown degradation, whose y cannot be drawn to compare a graph with"
            " PyTorch: sample with deft"
        )
    observed = fitted_to(prior, prior.to_latent(task.check(prior.data_shape)))
    likelihood = observed.likelihood
    name = str(getattr(task, "drawn", ""))
    words = f"the operator {type(likelihood.operator).__name__} of the task {task.name}"
    computed = [k for k in getattr(likelihood.operator, "per_sample", ()) if k.startswith("_")]
    if name and (computed or not isinstance(getattr(likelihood.operator, name, None), Tensor)):
        raise InputError(
            f"{words} cannot be written as a graph: what it makes of its {name}, which would be an input, it makes"
            " before it is asked; use deft for this task"
        )
    return Task(likelihood, name), words if likelihood.operator is not None else f"the likelihood {likelihood.kind}"


def conditioned(fitted: FittedH, with_prior: bool) -> Export:
    """h, alone or with its prior, as a module to be written.

    Raises:
        InputError: a prior that holds no network here (a service, an ONNX graph), or a task that is no operator.
    """
    prior, h = fitted.prior, fitted.h
    if prior.data_shape != prior.event_shape:
        raise InputError(
            "an h of an autoencoder's latents cannot be written as a graph, which would need the decoder: use it here,"
            " with `deft sample` or deft.load"
        )
    if with_prior:
        way = "export h alone, without --with-prior, and ask the prior for x_hat by its own means"
        check_network(prior, (NetworkDenoiser, MeanDenoiser), way)
    task, words = task_of(fitted)
    cases = [case for n in BATCHES for case in _cases(fitted, h, task, n, with_prior)]
    first = tuple(cases[0].inputs.values())
    x_t, y = cases[0].inputs["x_t"], first[4:]
    about = {
        "x_t": "the noisy state, alpha x_0 + sigma n",
        **(
            {"t": "the schedule's time, of each row"}
            if with_prior
            else {"x_hat": "the prior's mean E[x_0 | x_t], asked at x_t"}
        ),
        "alpha": "of each row",
        "sigma": "of each row",
        "y": "the measurement of each row",
        **({task.drawn: "what was drawn for each measurement"} if task.drawn else {}),
    }
    blame: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = [(words, Guide(task), (x_t, *y))]
    module: nn.Module = HGraph(h, task)
    if with_prior:
        module = ConditionedGraph(prior, h, task)
        blame.append(("the network of the prior", Mean(prior), first[:4]))
    return Export(module, about, cases, blame=blame)


class Mean(nn.Module):
    """The prior's mean alone."""

    def __init__(self, prior: Denoiser):
        super().__init__()
        self.prior = prior

    def forward(self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return mean_of(self.prior, x_t, t, alpha, sigma)


def check_network(prior: Denoiser, kinds: tuple[type, ...], way: str) -> None:
    """Refuse a prior whose network is not here, or is a graph already that cannot be traced. way: what to do then."""
    script = "RecursiveScriptModule" in {type(m).__name__ for m in prior.modules()}
    if not isinstance(prior, kinds) or not prior.differentiable or script:
        raise InputError(
            f"the network of this prior ({prior.card.get('format') or type(prior).__name__}) cannot be written as a"
            f" graph: {way}"
        )


def _cases(fitted: FittedH, h: Learned, task: Task, n: int, with_prior: bool) -> Iterator[Case]:
    """n rows at each of `PLACES`, with measurements of smooth random samples."""
    prior = fitted.prior
    like, schedule = prior.state_like(), prior.schedule
    generator = torch.Generator().manual_seed(n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(like)

    x = (0.5 * normal(n, *prior.data_shape)).clamp(-1, 1)
    obs = fitted_to(prior, prior.to_latent(fitted.task.observe(x, BatchNoise(n, n))).to(like.device))
    z = prior.encode(x)
    drawn = getattr(obs.likelihood.operator, task.drawn) if task.drawn else None
    reference = Conditioned(prior, h, obs)
    span = schedule.t_max - schedule.t_min
    for level in levels(schedule, [schedule.t_min + place * span for place in PLACES])[:-1]:
        time = torch.full((n,), level.t, dtype=torch.float64)
        t, alpha, sigma = prior.coefficients(time, z)
        x_t = alpha * z + sigma * normal(*z.shape)
        with torch.no_grad():
            pred = prior(x_t, time)
            want = pred.corrected(h(pred, reference.obs)).mean
        rows = (v.reshape(-1).expand(n).contiguous() for v in (alpha, sigma))
        second = {"t": t.contiguous()} if with_prior else {"x_hat": pred.mean}
        inputs = {"x_t": x_t, **second, **dict(zip(("alpha", "sigma"), rows, strict=True)), "y": obs.y}
        if drawn is not None:
            inputs[task.drawn] = drawn.to(like.device).expand(n, *drawn.shape[1:]).contiguous()
        yield Case(inputs, want, level)


def network(prior: NetworkDenoiser) -> Export:
    """The network of a prior by itself, as a module to be written."""
    cases = []
    for n in BATCHES:
        generator = torch.Generator().manual_seed(n)
        like, schedule = prior.state_like(), prior.schedule
        for place in PLACES:
            t = torch.full((n,), schedule.t_min + place * (schedule.t_max - schedule.t_min), dtype=torch.float64)
            x = torch.randn((n, *prior.event_shape), generator=generator, dtype=torch.float32).to(like)
            t, alpha, sigma = prior.coefficients(t, x)
            seen: list[Tensor] = []
            with torch.no_grad():
                want = prior.raw(x, t, alpha, sigma, net=_keep(prior.net, seen))
            cases.append(Case({"x": seen[0], "time": seen[1].contiguous()}, seen[2], Level(float(t[0]), 0.0, 0.0)))
            del want
    about = {"x": "x_t as the network takes it (`convention`)", "time": "what it is told of the noise"}
    return Export(NetworkGraph(prior), about, cases, "output", "the network's own output")


def _keep(net: nn.Module, seen: list[Tensor]) -> Any:
    """The network, which notes what it is given and what it returns."""

    def call(x: Tensor, time: Tensor) -> Tensor:
        out: Tensor = net(x, time)
        seen.extend([x, time, out])
        return out

    return call
