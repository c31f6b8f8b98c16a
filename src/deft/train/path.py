"""Objectives for an h that is learned from one measurement and its likelihood, without any data: stochastic control.

A path x_T, ..., x_0 under the control h has the weight (`deft.samplers.path`, one formula for all that follows)

    log w = log p(y | x_0) + sum over steps of log( prior's step / corrected step ),     E[w] = p(y).

The exact h makes log w the constant log p(y) (paper, theorem 3.1 (1) and (3)). Each objective here is minimal there:

    LogVariance         Var(log w) / 2 over a batch of paths, which are not differentiated (Richter et al. 2020; Nüsken
                        & Richter 2021)
    TrajectoryBalance   E (log w - log Z)^2 / 2 with log Z learned (Malkin et al. 2022; Venkatraman et al. 2024)
    RelativeEntropy     E[-log w] = control cost - E log p(y | x_0), through the chain (Dai Pra 1991; paper, sec. 3.4)
    AdjointMatching     regression of h onto the gradient of log p(y | x_0), carried back along the prior's own steps
                        (Domingo-Enrich et al. 2025)

The first two hold for paths of any control (`behaviour`), and need neither the prior's derivative nor a graph longer
than a step. Sums are over all entries of a sample, a path has one number, and the noise that made a step is the noise
that weighs it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deft._old_names import moved
from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise
from deft.core.transition import Kernel, Level, log_ratio, shift
from deft.errors import ContractError, InputError
from deft.runtime.distributed import get_world
from deft.samplers.ode import KernelSampler, with_weights
from deft.samplers.sde import Ito
from deft.train.protocols import Batch, Loss

NUMBER, SUBSET, REPLAYED, BACK, SEGMENT = 11, 12, 13, 14, 1000
"""Which of a batch's own sources draws the number of steps, which are differentiated, what is replayed, its noise, and
(the first) a segment's."""


class Step(NamedTuple):
    """One step of B paths, as it happened, without a graph: enough to weigh it under any control."""

    t: Level
    kernel: Kernel
    pred: Prediction
    taken: Tensor
    n: Tensor

    def ratio(self, h: Tensor) -> Tensor:
        """log( prior's step / step corrected by h ), [B], in float64."""
        return log_ratio(self.kernel, shift(self.kernel, self.t, h).double(), self.n.double(), self.taken.double())


class SimulatedPaths(NamedTuple):
    """x: clean ends [B, *E]. log_weight: [B]. cost: sum of |shift|^2 / (2 std^2) under the control, [B]. steps: those
    that were kept."""

    x: Tensor
    log_weight: Tensor
    cost: Tensor
    steps: list[Step]


def normal_of(prior: Denoiser, noise: BatchNoise, like: Tensor, rows: slice = slice(None)) -> Tensor:
    """Standard normal numbers [B, *E] where the prior's samples live, in the dtype and on the device of `like`."""
    n = noise.normal(prior.event_shape, device=like.device)[rows].to(like.dtype)
    return prior.project(n, torch.ones_like(n))


@torch.no_grad()
def simulate(
    prior: Denoiser,
    control: HTransform,
    obs: Observation,
    noise: BatchNoise,
    grid: Sequence[Level],
    sampler: KernelSampler,
    *,
    keep: Collection[int] = (),
    behaviour: HTransform | None = None,
    rows: slice = slice(None),
) -> SimulatedPaths:
    """Draw paths and weigh them under `control`.

    keep: the steps (by number) that are returned. behaviour: the control that draws the paths, if another. rows: of
        `noise` that are used.
    The last step, onto the clean end, is the prior's own mean: there a control has nothing left to do.
    """
    drawn = Conditioned(prior, behaviour or control, obs)
    like = drawn.state_like(obs.y)
    x = normal_of(drawn, noise, like, rows) * grid[0].sigma
    log_w, cost = (torch.zeros(len(obs), dtype=torch.float64, device=like.device) for _ in range(2))
    steps = []
    for i, (t, s) in enumerate(pairwise(grid)):
        kernel = sampler.kernel(t, s)
        pred, h = drawn.both(x, torch.tensor(t.t, dtype=torch.float64))
        if s.sigma == 0:
            x = kernel.step(x, pred.mean, None)
            break
        n = normal_of(drawn, noise, like, rows)
        step = Step(t, kernel, pred, shift(kernel, t, h), n)
        mine = h if behaviour is None else control(pred, obs)
        log_w += step.ratio(mine)
        cost += _effort(kernel, shift(kernel, t, mine))
        if i in keep:
            steps.append(step)
        x = kernel.step(x, pred.mean, n) + step.taken
    return SimulatedPaths(x, log_w + obs.log_prob(x).double(), cost, steps)


@torch.no_grad()
def simulate_backward(
    prior: Denoiser,
    control: HTransform,
    obs: Observation,
    noise: BatchNoise,
    grid: Sequence[Level],
    sampler: KernelSampler,
    x: Tensor,
    *,
    keep: Collection[int] = (),
    rows: slice = slice(None),
) -> SimulatedPaths:
    """Paths that end near given x_0, weighed under `control`: x_0 is noised level by level, and each step is read as
    one of the chain.

    The forward process of x_0 from the posterior is the posterior's path measure, so that good ends make good paths.
    The clean end is the prior's mean at the last noisy level, as in `simulate`.
    """
    like = prior.state_like(obs.y)
    levels = [v for v in grid if v.sigma > 0]
    states, alpha, sigma, at = [], 1.0, 0.0, x.to(like)
    for v in reversed(levels):
        r = v.alpha / alpha
        n = normal_of(prior, noise, like, rows)
        at = r * at + math.sqrt(max(v.sigma**2 - (r * sigma) ** 2, 0.0)) * n
        states.append(at)
        alpha, sigma = v.alpha, v.sigma
    states.reverse()
    log_w, cost = (torch.zeros(len(obs), dtype=torch.float64, device=like.device) for _ in range(2))
    steps = []
    for i, (t, s) in enumerate(pairwise(grid)):
        kernel = sampler.kernel(t, s)
        pred = prior(states[i], torch.tensor(t.t, dtype=torch.float64))
        if s.sigma == 0:
            x = kernel.step(states[i], pred.mean, None)
            break
        step = Step(
            t,
            kernel,
            pred,
            torch.zeros_like(states[i]),
            (states[i + 1] - kernel.step(states[i], pred.mean, None)) / kernel.std,
        )
        mine = control(pred, obs)
        log_w += step.ratio(mine)
        cost += _effort(kernel, shift(kernel, t, mine))
        if i in keep:
            steps.append(step)
    return SimulatedPaths(x, log_w + obs.log_prob(x).double(), cost, steps)


def joined(a: SimulatedPaths, b: SimulatedPaths) -> SimulatedPaths:
    """The rows of one, then those of the other, over the same grid."""
    steps = [
        Step(p.t, p.kernel, p.pred.joined(q.pred), torch.cat([p.taken, q.taken]), torch.cat([p.n, q.n]))
        for p, q in zip(a.steps, b.steps, strict=True)
    ]
    return SimulatedPaths(
        torch.cat([a.x, b.x]), torch.cat([a.log_weight, b.log_weight]), torch.cat([a.cost, b.cost]), steps
    )


def _effort(kernel: Kernel, moved: Tensor) -> Tensor:
    """|moved|^2 / (2 std^2), [B], float64: the relative entropy of the corrected step to the prior's."""
    return moved.double().square().flatten(1).sum(1) / (2 * kernel.std**2)


def gathered(module: nn.Module, terms: Iterable[Callable[[], Tensor]], value: Tensor) -> Tensor:
    """A scalar equal to `value` whose gradient is that of the sum of the terms, each differentiated by itself.

    Only one term's graph is in memory at a time, however many there are.
    """
    if not torch.is_grad_enabled():
        return value.detach()
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    for term in terms:
        for so_far, g in zip(total, torch.autograd.grad(term(), parameters, allow_unused=True), strict=True):
            if g is not None:
                so_far += g
    out = value.detach()
    for p, g in zip(parameters, total, strict=True):
        out = out + ((p - p.detach()) * g).sum().to(out)
    return out


class Replay(nn.Module):
    """Clean ends of earlier paths with their weights, the better ones drawn more often: by rank, 1 / (rank +
    1)^`sharpness` (Schaul et al. 2016).

    A new end takes the place of the worst one where the replay is full. size: how many are kept. event_shape: *E of the
    prior.
    """

    x: Tensor
    log_weight: Tensor
    count: Tensor

    def __init__(
        self, size: int, event_shape: Sequence[int], *, sharpness: float = 0.7, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        if size < 1 or not sharpness >= 0:
            raise InputError(
                f"a replay needs a size of at least 1 and a sharpness of at least 0, got {size} and {sharpness}"
            )
        self.size, self.sharpness = size, sharpness
        self.register_buffer("x", torch.zeros(size, *event_shape, dtype=dtype))
        self.register_buffer("log_weight", torch.full((size,), -math.inf, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @property
    def filled(self) -> int:
        return int(self.count)

    @torch.no_grad()
    def add(self, x: Tensor, log_weight: Tensor) -> None:
        every = torch.cat([self.log_weight, log_weight.to(self.log_weight)])
        best = every.argsort(descending=True, stable=True)[: self.size]
        self.x.copy_(torch.cat([self.x, x.to(self.x)])[best])
        self.log_weight.copy_(every[best])
        self.count.fill_(min(self.filled + len(x), self.size))

    def draw(self, n: int, noise: BatchNoise) -> Tensor:
        """n of them, with replacement."""
        share = (torch.arange(self.filled, device=self.x.device, dtype=torch.float64) + 1) ** -self.sharpness
        u = noise.uniform(device=self.x.device)[:n].double()
        return self.x[torch.searchsorted(share.cumsum(0) / share.sum(), u).clamp_max(self.filled - 1)]


class PathObjective(ABC):
    """What the objectives share: a prior, a grid, and paths of the batch's observations.

    Args:
        prior: the frozen denoiser.
        steps: of the chain; a pair (least, most) draws another number for each batch.
        spacing: of the grid, see `deft.core.grid`. sampler: one with noise; `Ito`'s weights stay finite as steps get
            small.
        subset: differentiate this many steps of each batch, drawn at random and weighed by steps / subset, instead of
            all: an unbiased estimate of the same gradient for less work and memory. None for all.
    """

    least = 1
    """Paths that a part of a batch must have."""
    differentiates_prior = False
    """Whether the loss needs the derivative of the prior's mean in x_t."""
    learns_log_z = False
    """Whether what is fitted is a `Control`, which has log Z beside h."""

    def __init__(
        self,
        prior: Denoiser,
        steps: int | tuple[int, int] = 100,
        *,
        spacing: str = "log-snr",
        sampler: KernelSampler | None = None,
        subset: int | None = None,
    ):
        self.prior, self.spacing, self.sampler, self.subset = prior, spacing, sampler or Ito(), subset
        self.steps = (steps, steps) if isinstance(steps, int) else (int(steps[0]), int(steps[1]))
        if not 2 <= self.steps[0] <= self.steps[1]:
            raise InputError(f"steps must be at least 2, or a pair (least, most), got {steps}")
        if subset is not None and subset < 1:
            raise InputError(f"subset must be at least 1, got {subset}")
        with_weights(self.sampler)

    def identity(self) -> dict[str, Any]:
        """What `deft.io.identity` compares when a fit is resumed."""
        behaviour = getattr(self, "behaviour", None)
        return {
            "class": type(self).__name__,
            "prior": self.prior.fingerprint()[:16],
            "steps": list(self.steps),
            "spacing": self.spacing,
            "sampler": type(self.sampler).__name__,
            "subset": self.subset,
            "drawn by": behaviour and type(behaviour).__name__,
        }

    def grid(self, noise: BatchNoise) -> list[Level]:
        low, high = self.steps
        n = low if low == high else int(torch.randint(low, high + 1, (), generator=noise.shared(NUMBER)))
        return times(self.prior.schedule, n, self.spacing)

    def chosen(self, noise: BatchNoise, grid: Sequence[Level]) -> tuple[list[int], float]:
        """(the steps that are differentiated, the weight of each)."""
        n = len(grid) - 2  # the step onto the clean end has no control
        k = n if self.subset is None else min(self.subset, n)
        order = range(n) if k == n else torch.randperm(n, generator=noise.shared(SUBSET))[:k].sort().values.tolist()
        return list(order), n / k

    def __call__(self, module: nn.Module, batch: Batch, noise: BatchNoise) -> Loss:
        obs = batch.observation
        if obs is None:
            raise ContractError("a path objective needs the measurement: a batch of `Measured`")
        if len(obs) < self.least:
            raise InputError(
                f"{type(self).__name__} needs at least {self.least} paths at once, got {len(obs)}: raise the batch, or"
                " lower accumulate"
            )
        return self.loss(module, obs, noise)

    @abstractmethod
    def loss(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> Loss: ...


def watched(walked: SimulatedPaths) -> dict[str, Tensor]:
    """What `fit` names if it is not finite, in the order in which things break."""
    return {
        "the paths' clean ends": walked.x.sum(),
        "control cost": walked.cost.mean(),
        "log weight": walked.log_weight.mean(),
    }


class OffPolicy(PathObjective):
    """An objective of log w alone, for paths of any control.

    behaviour: the control that draws the paths; None for h itself.
    """

    def __init__(
        self,
        prior: Denoiser,
        steps: int | tuple[int, int] = 100,
        *,
        behaviour: HTransform | None = None,
        **options: object,
    ):
        super().__init__(prior, steps, **options)  # type: ignore[arg-type]
        self.behaviour = behaviour

    def weights(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> tuple[SimulatedPaths, float]:
        """(the batch's paths, the weight of each step that was kept): half of them from the replay, where a `Control`
        in training has one."""
        if isinstance(module, Control):
            module.check()
        h, grid = control_of(module), self.grid(noise)
        chosen, weight = self.chosen(noise, grid)
        options: dict[str, Any] = {"keep": set(chosen)}
        replay = module.replay if isinstance(module, Control) and module.training else None
        old = len(obs) // 2 if replay is not None and replay.filled else 0
        walked = simulate(
            self.prior,
            h,
            obs[old:],
            noise,
            grid,
            self.sampler,
            behaviour=self.behaviour,
            rows=slice(old, None),
            **options,
        )
        if replay is not None:
            if old:
                x = replay.draw(old, noise.spawn(REPLAYED))
                walked = joined(
                    simulate_backward(
                        self.prior,
                        h,
                        obs[:old],
                        noise.spawn(BACK),
                        grid,
                        self.sampler,
                        x,
                        rows=slice(0, old),
                        **options,
                    ),
                    walked,
                )
            replay.add(walked.x[old:], walked.log_weight[old:])
        return walked, weight

    @staticmethod
    def differentiated(
        module: nn.Module, h: HTransform, obs: Observation, walked: SimulatedPaths, by: Tensor, value: Tensor
    ) -> Tensor:
        """`value`, with the gradient of sum_i by_i log w_i in h: the steps' ratios, one step at a time."""

        def term(step: Step) -> Tensor:
            return (by * step.ratio(h(step.pred, obs))).sum()

        return gathered(module, ((lambda s=s: term(s)) for s in walked.steps), value)  # type: ignore[misc]


class LogVariance(OffPolicy):
    """Var(log w) / 2 over the rows of one measurement (VarGrad: Richter et al. 2020; the log-variance
    divergence: Nüsken & Richter 2021).

    Drawn by h itself its gradient is that of the control objective in expectation, and the batch mean is the control
    variate. Of a batch in parts each part has its own mean, which is as unbiased and a little noisier.

    >>> import deft
    >>> from deft.core.random import BatchNoise
    >>> from deft.train.measured import Measured
    >>> world, obs = deft.testing.half_seen(2)
    >>> objective = LogVariance(world.prior(deft.VPCosine()), steps=20)
    >>> batch = Measured(obs).draw(64, 0, 0, torch.device("cpu"))
    >>> h, none = (deft.DEFT((4,), 2, width=8, n2_start=n2) for n2 in (1.0, 0.0))  # untrained; the second is 0
    >>> objective(h, batch, BatchNoise(64, 0)).value < objective(none, batch, BatchNoise(64, 0)).value
    tensor(True)
    """

    least = 2

    def loss(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> Loss:
        h = control_of(module)
        walked, weight = self.weights(module, obs, noise)
        log_w = walked.log_weight
        by = weight * (log_w - log_w.mean()) / (len(log_w) - 1)
        value = 0.5 * log_w.var()
        return Loss(self.differentiated(module, h, obs, walked, by, value), watched(walked))


class Control(nn.Module):
    """An h with what is learned or kept beside it: log Z for trajectory balance, a replay of clean ends, a `Value` for
    parts of paths.

    log_z takes gradient steps of its own on (log w - log_z)^2 / 2, of size `rate`: log_z += rate (mean log w - log_z).
    It starts at the first batch's mean, for from 0 it would take as long to find its place as h. All of it is in the
    state that `fit` saves, so that a fit resumes.
    """

    log_z: Tensor
    started: Tensor

    def __init__(
        self, h: HTransform, *, rate: float = 0.05, replay: Replay | None = None, value: nn.Module | None = None
    ):
        super().__init__()
        if not 0 < rate <= 1:
            raise InputError(f"rate is a share of the way to the batch's mean, above 0 and at most 1, got {rate}")
        self.h, self.rate, self.replay, self.value = h, rate, replay, value
        self.register_buffer("log_z", torch.zeros((), dtype=torch.float64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def check(self) -> None:
        """log Z, replay and value follow the paths of one process."""
        if get_world().size > 1:
            raise InputError(
                "a Control (log Z, a replay, a value) is for one process: use vargrad without a replay on several, or"
                " launch one"
            )

    @torch.no_grad()
    def move(self, log_weight: Tensor) -> None:
        """A step of log Z towards a batch's mean."""
        mean = log_weight.mean().to(self.log_z)
        self.log_z.copy_(torch.where(self.started, self.log_z + self.rate * (mean - self.log_z), mean))
        self.started.fill_(True)


class TrajectoryBalance(OffPolicy):
    """E (log w - log Z)^2 / 2 (Malkin et al. 2022, with the prior's chain as backward policy: Venkatraman et al. 2024).
    Fit a `Control`.

    >>> import deft
    >>> from deft.core.random import BatchNoise
    >>> from deft.train.measured import Measured
    >>> world, obs = deft.testing.half_seen(2)
    >>> objective = TrajectoryBalance(world.prior(deft.VPCosine()), steps=20)
    >>> batch = Measured(obs).draw(64, 0, 0, torch.device("cpu"))
    >>> h, none = (Control(deft.DEFT((4,), 2, width=8, n2_start=n2)) for n2 in (1.0, 0.0))  # untrained; the second is 0
    >>> objective(h, batch, BatchNoise(64, 0)).value < objective(none, batch, BatchNoise(64, 0)).value
    tensor(True)
    """

    learns_log_z = True

    def loss(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> Loss:
        if not isinstance(module, Control):
            raise ContractError(f"TrajectoryBalance learns log Z beside h: fit Control(h), got {type(module).__name__}")
        walked, weight = self.weights(module, obs, noise)
        centre = module.log_z if bool(module.started) else walked.log_weight.mean()
        gap = walked.log_weight - centre
        value = 0.5 * gap.square().mean()
        if module.training:
            module.move(walked.log_weight)
        return Loss(self.differentiated(module, module.h, obs, walked, weight * gap / len(gap), value), watched(walked))


class RelativeEntropy(PathObjective):
    """E[-log w] = E[control cost - log p(y | x_0)] (Dai Pra 1991), back-propagated through the chain in segments of
    about the root of its steps.

    Its minimum is -log p(y), the relative entropy to the posterior's paths being 0 there. It looks for modes: of two
    far apart it may keep one.

    through_prior: keep the prior's derivative. Without it a step costs no backward pass of the prior, and the gradient
        lacks what a change of x_t does to all further denoised means, but for the last, which is taken to follow x_t /
        alpha: it is that of no objective, and is biased (tests/test_path.py shows how much).

    >>> import deft
    >>> from deft.core.random import BatchNoise
    >>> from deft.train.measured import Measured
    >>> world, obs = deft.testing.half_seen(2)
    >>> objective = RelativeEntropy(world.prior(deft.VPCosine()), steps=20)
    >>> batch = Measured(obs).draw(64, 0, 0, torch.device("cpu"))
    >>> h, none = (deft.DEFT((4,), 2, width=8, n2_start=n2) for n2 in (1.0, 0.0))  # untrained; the second is 0
    >>> objective(h, batch, BatchNoise(64, 0)).value < objective(none, batch, BatchNoise(64, 0)).value
    tensor(True)
    """

    differentiates_prior = True

    def __init__(
        self, prior: Denoiser, steps: int | tuple[int, int] = 100, *, through_prior: bool = True, **options: object
    ):
        super().__init__(prior, steps, **options)  # type: ignore[arg-type]
        if self.subset is not None:
            raise InputError("RelativeEntropy goes through every step: subset is for the other objectives")
        self.through_prior = through_prior

    def loss(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> Loss:
        h, grid = control_of(module), self.grid(noise)
        like = self.prior.state_like(obs.y)
        x = normal_of(self.prior, noise, like) * grid[0].sigma
        cost = torch.zeros(len(obs), dtype=torch.float64, device=like.device)
        pairs = list(pairwise(grid))
        size = max(1, math.isqrt(len(pairs)))
        for i in range(0, len(pairs), size):
            x, cost = checkpoint(self._segment, x, cost, h, obs, noise, pairs[i : i + size], i, use_reentrant=False)
        log_p = obs.log_prob(x).double()
        metrics = {
            "the paths' clean ends": x.detach().sum(),
            "control cost": cost.detach().mean(),
            "log likelihood": log_p.detach().mean(),
        }
        return Loss((cost - log_p).mean(), metrics)

    def _segment(
        self,
        x: Tensor,
        cost: Tensor,
        h: HTransform,
        obs: Observation,
        noise: BatchNoise,
        pairs: list[tuple[Level, Level]],
        number: int,
    ) -> tuple[Tensor, Tensor]:
        """A few steps. Runs twice, forward and when it is differentiated: the noise is of its own number, the same both
        times."""
        source = noise.spawn(SEGMENT + number)
        for t, s in pairs:
            kernel = self.sampler.kernel(t, s)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.through_prior):
                pred = self.prior(x, torch.tensor(t.t, dtype=torch.float64))
            if s.sigma == 0:
                # without the prior's derivative the end would know nothing of x: here the mean is taken to follow x /
                # alpha
                mean = pred.mean if self.through_prior else pred.mean.detach() + (x - x.detach()) / t.alpha
                return kernel.step(x, mean, None), cost
            if self.through_prior and x.requires_grad and not pred.mean.requires_grad:
                raise ContractError(
                    f"RelativeEntropy differentiates the prior, but {type(self.prior).__name__} returns a mean that is"
                    " cut off from x_t: the gradient would lack terms. Use vargrad or tb, or say through_prior=False"
                )
            moved = shift(kernel, t, h(pred, obs))
            n = normal_of(self.prior, source, x)
            x, cost = kernel.step(x, pred.mean, n) + moved, cost + _effort(kernel, moved)
        return x, cost


class AdjointMatching(PathObjective):
    """Regression of each step's shift onto its best answer, given what the path ends in (Domingo-Enrich et al. 2025,
    lean adjoint).

    With a_0 = -grad log p(y | x_0) carried back along the prior's own steps, a_t = (d prior's step / d x_t)^T a_s,

        loss = sum over steps of E | shift / std + std a_s |^2 / 2,        shift: of h at x_t, the target detached,

    so that h learns -a, the gradient of the final log-likelihood, averaged over the paths through x_t. Paths are drawn
    by h with the noise of the reverse SDE (`Ito`), without which x_T would tell of x_0 (the value bias). One backward
    pass of the prior a step, none of them through h.

    >>> import deft
    >>> from deft.core.random import BatchNoise
    >>> from deft.train.measured import Measured
    >>> world, obs = deft.testing.half_seen(2)
    >>> objective = AdjointMatching(world.prior(deft.VPCosine()), steps=20)
    >>> batch = Measured(obs).draw(64, 0, 0, torch.device("cpu"))
    >>> h, none = (deft.DEFT((4,), 2, width=8, n2_start=n2) for n2 in (1.0, 0.0))  # untrained; the second is 0
    >>> objective(h, batch, BatchNoise(64, 0)).value < objective(none, batch, BatchNoise(64, 0)).value
    tensor(True)
    """

    differentiates_prior = True

    def loss(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> Loss:
        h, grid = control_of(module), self.grid(noise)
        chosen, weight = self.chosen(noise, grid)
        n = len(grid) - 2
        walked = simulate(self.prior, h, obs, noise, grid, self.sampler, keep=set(range(n)))
        adjoint = -obs.score(walked.x)
        last = self.sampler.kernel(grid[-2], grid[-1])
        x_last = _arrival(walked.steps[-1]) if walked.steps else walked.x
        adjoint = self._back(last, grid[-2], x_last, adjoint)
        targets: dict[int, Tensor] = {}
        for i in reversed(range(n)):
            step = walked.steps[i]
            targets[i] = -(step.kernel.std**2) * adjoint
            if i > 0:
                adjoint = self._back(step.kernel, step.t, step.pred.x_t, adjoint)

        def term(i: int) -> Tensor:
            step = walked.steps[i]
            gap = shift(step.kernel, step.t, h(step.pred, obs)) - targets[i]
            return weight * _effort(step.kernel, gap).mean()

        with torch.no_grad():
            value = torch.stack([term(i) for i in chosen]).sum()
        terms: Iterable[Callable[[], Tensor]] = ((lambda i=i: term(i)) for i in chosen)  # type: ignore[misc]
        return Loss(gathered(module, terms, value), watched(walked))

    def _back(self, kernel: Kernel, t: Level, x_t: Tensor, adjoint: Tensor) -> Tensor:
        """(d (c_x x_t + c_mean mean) / d x_t)^T adjoint."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            mean = self.prior(x, torch.tensor(t.t, dtype=torch.float64)).mean
            if not mean.requires_grad:
                raise ContractError(
                    f"AdjointMatching differentiates the prior, but {type(self.prior).__name__} returns a mean that is"
                    " cut off from x_t"
                )
            return torch.autograd.grad((kernel.step(x, mean, None) * adjoint).sum(), x)[0]


def _arrival(step: Step) -> Tensor:
    """x_s of a kept step."""
    return step.kernel.step(step.pred.x_t, step.pred.mean, step.n) + step.taken


def has_derivative(prior: Denoiser) -> bool:
    """Whether the prior's mean can be differentiated in x_t (that of a service or of a detached function cannot)."""
    like = prior.state_like()
    x = torch.zeros(1, *prior.event_shape, dtype=like.dtype, device=like.device, requires_grad=True)
    t = torch.tensor(prior.schedule.t_max, dtype=torch.float64)
    with torch.enable_grad():
        return prior(x, t).mean.requires_grad


def control_of(module: nn.Module) -> HTransform:
    """The h in what is fitted: the module itself, or that of a `Control`."""
    h = module if isinstance(module, HTransform) else getattr(module, "h", None)
    if not isinstance(h, HTransform):
        raise ContractError(f"a path objective fits an h-transform, got {type(module).__name__}")
    if h.needs_graph:
        raise ContractError(
            f"{type(h).__name__} differentiates through the prior, and cannot be learned on paths: use a learned h"
            " (DEFT)"
        )
    return h


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
