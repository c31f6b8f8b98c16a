"""Learning on parts of paths: a value function, and balance between two of its levels.

With F(x_t) = p(y | x_t), the very function whose gradient is the exact h, every part of a path is balanced by itself,

    log F(x_t) = log F(x_s) + sum over the part's steps of log( prior's step / corrected step ),    F(x_0) = p(y | x_0).

So a network for log F beside h lets a batch take `length` steps in place of a whole chain (sub-trajectory balance:
Madan et al. 2023; for diffusions Zhang et al. 2024, "Diffusion generative flow samplers"). A part starts anywhere: at
clean ends from a replay, noised to its level.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise
from deft.core.transition import shift
from deft.errors import ContractError, InputError
from deft.guidance.twist import Predictive, Spread
from deft.train.path import REPLAYED, Control, PathObjective, Step, gathered, normal_of, simulate
from deft.train.protocols import Loss

PLACE, FRESH = 15, 16
"""Sources of a batch: where its part begins, and whether whole paths are drawn first."""


class Value(nn.Module):
    """log F(x_t; y) = c(level) log p~(y | x_t) + a small network of x_t, x̂ and the level (after Zhang et al. 2024).

    p~ is `Predictive`, a closed form that costs no call of the prior; c starts at 1 and the network at 0. level:
    log(sigma/alpha).

    Args:
        event_shape: *E of the prior, (d,) or (C, H, W). width: of the network. rho2: what the prior leaves open (a
            calibrated DEFT's `rho2`).
    """

    def __init__(
        self, event_shape: tuple[int, ...], *, width: int = 32, rho2: Spread | None = None, data_std: float = 1.0
    ):
        super().__init__()
        if len(event_shape) not in (1, 3):
            raise InputError(f"Value is for samples of shape (d,) and (C, H, W), not {event_shape}")
        self.base = Predictive(data_std, rho2)
        self.level, self.strength = nn.Sequential(nn.Linear(1, width), nn.SiLU()), nn.Linear(width, 1)
        views = 2 * event_shape[0]
        self.looked: nn.Module = nn.Identity()
        if len(event_shape) == 3:
            self.looked = nn.Sequential(
                nn.Conv2d(views, width, 3, 2, 1),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, 2, 1),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(1),
            )
            views = width
        self.head = nn.Sequential(nn.Linear(views + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.extra = nn.Linear(width, 1)
        for last in (self.strength, self.extra):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        """[B]"""
        level = torch.log(pred.sigma / pred.alpha).reshape(-1, 1).expand(len(pred.x_t), 1)
        kind = self.extra.weight.dtype
        with torch.no_grad():
            base = self.base.log_h(pred, obs)
        seen = self.looked(torch.cat([pred.x_t * (pred.alpha**2 + pred.sigma**2).rsqrt(), pred.mean], 1).to(kind))
        extra = self.extra(self.head(torch.cat([seen, level.to(kind)], 1)))[:, 0]
        return (1 + self.strength(self.level(level.to(kind) / 5))[:, 0]) * base + extra


class SubTrajectoryBalance(PathObjective):
    """E (log F(x_t) - log F(x_s) - sum of log ratios)^2 / 2 over parts of `length` steps (Madan et al. 2023).
    Fit a `Control` with a replay and a value.

    Gradients of parts at low noise are hundreds of times those at high noise: give `FitConfig(clip=100)`. With a clip
    at 1 h hardly moves (two dimensions, 300 batches: Var(log w) from 29 to 19, and to 0.2 with the clip at 100).

    Args:
        length: steps of a part: calls of the prior for each of its paths, two more for F, whatever the chain's length.
        fresh: probability that a batch first draws whole paths, to keep the replay going.
    """

    def __init__(
        self,
        prior: Denoiser,
        steps: int | tuple[int, int] = 100,
        *,
        length: int = 8,
        fresh: float = 0.1,
        **options: Any,
    ):
        super().__init__(prior, steps, **options)
        if length < 1 or not 0 <= fresh <= 1:
            raise InputError(f"a part has at least 1 step and fresh is a probability, got {length} and {fresh}")
        self.length, self.fresh = length, fresh

    def loss(self, module: nn.Module, obs: Observation, noise: BatchNoise) -> Loss:
        if not isinstance(module, Control) or module.replay is None or module.value is None:
            raise ContractError(
                "SubTrajectoryBalance needs ends to start from and a value: fit Control(h, replay=Replay(...),"
                f" value=Value(...)), got {type(module).__name__}"
            )
        module.check()
        h, value, replay, grid = module.h, module.value, module.replay, self.grid(noise)
        if not replay.filled or (
            module.training and float(torch.rand((), generator=noise.shared(FRESH), dtype=torch.float32)) < self.fresh
        ):
            whole = simulate(self.prior, h, obs, noise.spawn(FRESH), grid, self.sampler)
            replay.add(whole.x, whole.log_weight)

        n = len(grid) - 1  # steps, the one onto the clean end among them
        begin = int(torch.randint(0, n, (), generator=noise.shared(PLACE)))
        end = min(begin + self.length, n)
        with torch.no_grad():
            like = self.prior.state_like(obs.y)
            x_0 = replay.draw(len(obs), noise.spawn(REPLAYED)).to(like)
            n_t = normal_of(self.prior, noise, like)
            first = grid[begin]
            x = first.sigma * n_t + (first.alpha * x_0 if begin else 0.0)
            steps: list[Step] = []
            total = torch.zeros(len(obs), dtype=torch.float64, device=like.device)
            for t, s in pairwise(grid[begin : end + 1]):
                kernel = self.sampler.kernel(t, s)
                pred = self.prior(x, torch.tensor(t.t, dtype=torch.float64))
                if s.sigma == 0:
                    steps.append(Step(t, kernel, pred, torch.zeros_like(x), torch.zeros_like(x)))
                    x = kernel.step(x, pred.mean, None)
                    break
                mine = h(pred, obs)
                m = normal_of(self.prior, noise, like)
                step = Step(t, kernel, pred, shift(kernel, t, mine), m)
                total += step.ratio(mine)
                steps.append(step)
                x = kernel.step(x, pred.mean, m) + step.taken
            last = grid[end]
            clean = last.sigma == 0
            later = None if clean else self.prior(x, torch.tensor(last.t, dtype=torch.float64))
            at_end = obs.log_prob(x).double() if later is None else value(later, obs).double()
            gap = value(steps[0].pred, obs).double() - at_end - total
        loss = 0.5 * gap.square().mean()
        by = gap / len(gap)
        noisy = steps[:-1] if clean else steps
        terms: list[Callable[[], Tensor]] = [lambda: (by * value(steps[0].pred, obs).double()).sum()]
        if later is not None:
            terms.append(lambda: -(by * value(later, obs).double()).sum())
        terms += [_ratio_term(step, h, obs, -by) for step in noisy]
        return Loss(gathered(module, terms, loss), {"ends of the part": x.sum(), "balance": gap.mean()})


def _ratio_term(step: Step, h: HTransform, obs: Observation, by: Tensor) -> Callable[[], Tensor]:
    return lambda: (by * step.ratio(h(step.pred, obs))).sum()
