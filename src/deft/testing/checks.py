"""Checks that hold for every operator, likelihood, h-transform and sampler, ours and yours.

Each check draws a few random numbers of its own (fixed seed), raises `AssertionError` with what was got, what
was expected and what that usually means, and returns nothing. Call them from your tests:

>>> import torch
>>> from deft import Gaussian, Mask
>>> from deft.testing import check_likelihood, check_operator
>>> mask = Mask(torch.tensor([[1.0, 0.0, 1.0, 1.0]]))
>>> check_operator(mask, (4,))
>>> check_likelihood(Gaussian(mask, 0.1), (4,))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import SPACINGS, times
from deft.core.htransform import HTransform, Potential
from deft.core.likelihood import Likelihood, Observation
from deft.core.operator import LinearOperator, Operator
from deft.core.random import Noise
from deft.core.sampler import Sampler
from deft.core.schedule import Schedule
from deft.denoiser import MeanDenoiser
from deft.errors import InputError
from deft.guidance.exact import dense
from deft.likelihood.gaussian import Gaussian
from deft.samplers.draw import sample
from deft.schedule import SCHEDULES, VPTable

SOLVE_TOLERANCE = 3e-4
"""Relative error allowed to `solve` and `pinv`, which may be iterative."""


def schedules() -> dict[str, Schedule]:
    """One schedule for every row of `SCHEDULES`, with its default arguments (a table: DDPM's)."""
    return {name: VPTable.linear() if kind is VPTable else kind() for name, kind in SCHEDULES.items()}


def check_operator(
    op: Operator,
    event_shape: tuple[int, ...],
    batch: int = 3,
    dtype: torch.dtype = torch.float64,
    *,
    surrogate: bool = False,
    seed: int = 0,
) -> None:
    """Everything the library takes for granted of an operator A: [B, *E] -> [B, *M].

    Any A: samples do not see each other; indexing and `repeat` move the per-sample settings along; `measured_part`
    is a projection that keeps A(x); `vjp` is A'(x)^T r; a small step along the likelihood's score, and along
    its `approx_mean_update`, lowers ||A x - y||^2. A linear A moreover: A(ax + z) = aAx + Az, <Ax, y> = <x, A^T y>,
    solve = (noise I + gram A A^T)^{-1} against the dense matrix, A pinv(A x) = A x; A = A^T = A A where `projection`
    says so.

    Args:
        op: the operator; if its settings are per sample, for `batch` samples.
        event_shape: *E.
        surrogate: True for an A that is constant almost everywhere (rounding), where automatic differentiation is given
            a stand-in. `vjp` is still compared with that; of the moves, the whole `approx_mean_update` alone must lower
            the misfit.
    """
    noise, close = Noise(seed, batch), _Close(dtype)
    x, z = (noise.normal(event_shape).to(dtype) for _ in range(2))
    y = op(x)
    assert y.shape[0] == batch, f"A(x) has shape {tuple(y.shape)} for a batch of {batch}: keep the batch axis first"
    r = op.measured_part(noise.normal(y.shape[1:]).to(dtype))
    close(op.measured_part(r), r, "measured_part(measured_part(y)) is not measured_part(y): it must be a projection")
    close(op.measured_part(y), y, "measured_part changes A(x): A must leave entries that are no measurement at zero")
    assert op.number_of_measurements(y).shape == (batch,), (
        f"number_of_measurements has shape {tuple(op.number_of_measurements(y).shape)}, expected ({batch},)"
    )
    _check_features(op.features(y), event_shape, batch, op.feature_channels)

    for i in range(batch):
        close(op[i : i + 1](x[i : i + 1]), y[i : i + 1], f"A of sample {i} alone differs from A of the batch")
    order = torch.arange(batch).flip(0)
    close(op[order](x[order]), y[order], "op[index] does not move the settings along (see `per_sample`)")
    close(
        op.repeat(2)(x.repeat_interleave(2, 0)), y.repeat_interleave(2, 0), "op.repeat(2) is not A for each row twice"
    )

    pulled = _autograd(lambda v: (op(v) * r).sum(), x)
    close(op.vjp(x, r), pulled, "vjp(x, r) is not the gradient of <A(x), r>")
    if isinstance(op, LinearOperator):
        _check_linear(op, x, z, y, r, close)
    _check_descent(op, x, z, surrogate, seed)


def _check_linear(op: LinearOperator, x: Tensor, z: Tensor, y: Tensor, r: Tensor, close: _Close) -> None:
    close(op(1.7 * x + z), 1.7 * y + op(z), "A(1.7 x + z) is not 1.7 A x + A z: not linear")
    left, right = (y * r).flatten(1).sum(1), (x * op.adjoint(r)).flatten(1).sum(1)
    size = y.flatten(1).norm(dim=1) * r.flatten(1).norm(dim=1)
    close(left / size, right / size, "<A x, y> differs from <x, A^T y>: the adjoint is wrong")
    if op.projection:
        close(op(y), y, "A says it is a projection, and A A x is not A x")
        close(op.adjoint(r), op(r), "A says it is an orthogonal projection, and A^T is not A")
        free = Noise(0, len(r)).normal(tuple(r.shape[1:])).to(r.dtype)
        close(
            op.measured_part(free),
            op(free),
            "A says it is a projection: what of y is a measurement (`measured_part`) must be A y",
        )
        rank = dense(op, tuple(x.shape[1:]), x.dtype).diagonal(dim1=-2, dim2=-1).sum(-1)
        close(
            op.number_of_measurements(y),
            rank.expand(len(y)),
            "number_of_measurements is not the rank of the projection A",
        )
    if op.orthogonal_rows is not None:
        close(op(op.adjoint(r)), op.orthogonal_rows * r, "A says that A A^T = c I (`orthogonal_rows`), and it is not")
    slow = _Close(r.dtype, SOLVE_TOLERANCE)
    slow(op(op.pinv(y)), y, "A pinv(A x) is not A x")
    matrix = dense(op, tuple(x.shape[1:]), x.dtype)
    gram = matrix @ matrix.mT
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    tail = (1,) * (r.ndim - 1)
    for noise, weight in ((0.1, 1.0), (torch.linspace(0.01, 1, len(r), dtype=r.dtype), 0.3)):
        n = torch.as_tensor(noise, dtype=r.dtype).reshape(-1, 1, 1)
        exact = torch.linalg.solve(n * eye + weight * gram, r.flatten(1)[..., None])[..., 0].reshape(r.shape)
        given = noise if isinstance(noise, float) else noise.reshape(-1, *tail)
        slow(op.solve(r, given, weight), exact, "solve is not (noise I + gram A A^T)^{-1} r")


def _check_descent(op: Operator, x: Tensor, z: Tensor, surrogate: bool, seed: int) -> None:
    """Both initial likelihood branches of DEFT point towards the data (an inpainting code was published that
    starts by pushing away from it)."""
    like = Gaussian(op, 0.3)
    y = like.sample(z, Noise(seed + 1, len(z)))

    def misfit(v: Tensor) -> Tensor:
        return like.residual(y, v).square().flatten(1).sum(1)

    tail = (1,) * (x.ndim - 1)
    moves = {} if surrogate else {"score": like.score(y, x)}
    for rho2 in (0.01, 1.0):
        moves[f"approx_mean_update at rho^2 = {rho2}"] = like.approx_mean_update(
            y, x, torch.full((len(x), *tail), rho2, dtype=x.dtype)
        )
    for name, move in moves.items():
        assert bool(torch.isfinite(move).all()), f"the likelihood's {name} is not finite"
        after = misfit(x + (move if surrogate else _step(move, x, 1e-3)))
        step = "the whole" if surrogate else "a small step along the"
        assert bool((after < misfit(x)).all()), f"{step} {name} does not lower ||A x - y||: its sign?"


def check_likelihood(
    like: Likelihood,
    event_shape: tuple[int, ...],
    batch: int = 3,
    dtype: torch.dtype = torch.float64,
    *,
    y: Tensor | None = None,
    draws: int = 4000,
    statistics: bool = True,
    surrogate: bool = False,
    seed: int = 0,
) -> None:
    """p(y | x): shapes, `score` = grad_x log_prob, and whether `sample` draws from the density `log_prob` names.

    The last by the two Bartlett identities, which need no formula for the density: along any direction d,
    E_y[d.score] = 0 and E_y[(d.score)^2] = -E_y[d^2 log p], both within 5 standard errors of `draws` draws
    (5 % of slack is allowed to the second for the finite difference).

    Args:
        y: [batch, *M], for a likelihood that draws none (a reward); then without statistics.
        statistics: False for a likelihood whose density is a stated surrogate (sigma_y = 0).
        surrogate: True if automatic differentiation is given a stand-in (see `check_operator`): then `score` is
            compared with that alone, and not with a finite difference.
    """
    noise, close = Noise(seed, batch), _Close(dtype)
    x = noise.normal(event_shape).to(dtype)
    if y is None:
        y = like.sample(x, Noise(seed + 1, batch))
        close(like.sample(x, Noise(seed + 1, batch)), y, "the same noise drew another y: use the `noise` given, alone")
    else:
        statistics = False
    obs = Observation(y, like)
    value = obs.log_prob(x)
    assert value.shape == (batch,), f"log_prob has shape {tuple(value.shape)}, expected ({batch},)"
    assert bool(torch.isfinite(value).all()), "log_prob of a y drawn from p(y | x) is not finite"
    _check_features(obs.features(), event_shape, batch, like.feature_channels)

    z = noise.normal(event_shape).to(dtype)
    if not bool(torch.isfinite(obs.log_prob(z)).all()):  # an event: only its own samples have a density
        z = x
    score = obs.score(z)
    close(score, _autograd(lambda v: obs.log_prob(v).sum(), z), "score is not the gradient of log_prob")
    d = _unit(noise.normal(event_shape).to(dtype))
    if dtype == torch.float64 and not surrogate:
        slope = (obs.log_prob(z + 1e-5 * d) - obs.log_prob(z - 1e-5 * d)) / 2e-5
        along = (score * d).flatten(1).sum(1)
        _Close(dtype, 1e-4)(along, slope, "score differs from a finite difference of log_prob")
    for i in range(batch):
        close(
            obs[i].score(z[i : i + 1]), score[i : i + 1], f"the score of row {i} alone differs from that in the batch"
        )
    twice = obs.repeat(2)
    close(twice.score(z.repeat_interleave(2, 0)), score.repeat_interleave(2, 0), "repeat(2) changes the score")
    tail = (1,) * (x.ndim - 1)
    step = like.approx_mean_update(y, z, torch.full((batch, *tail), 0.5, dtype=dtype))
    assert step.shape == x.shape, f"approx_mean_update has shape {tuple(step.shape)}, expected {tuple(x.shape)}"
    uphill = (step * score).flatten(1).sum(1)
    assert bool((uphill >= -1e-9 * score.flatten(1).norm(dim=1)).all()), (
        "approx_mean_update points against the score: its sign?"
    )
    if statistics:
        _check_draws(obs[0], x[:1], d[:1], draws, seed)


def _check_draws(one: Observation, x: Tensor, d: Tensor, draws: int, seed: int) -> None:
    n = draws
    x, d, like = x.expand(n, *x.shape[1:]), d.expand(n, *d.shape[1:]), one.likelihood.repeat(n)
    obs = Observation(like.sample(x, Noise(seed + 2, n)), like)
    slope = (obs.score(x) * d).flatten(1).sum(1).double()
    error = slope.std() / math.sqrt(n)
    assert abs(slope.mean()) <= 5 * error + 1e-12, (
        f"E_y[score] along a direction is {slope.mean():.4g}, expected 0 within {5 * error:.2g}: `sample` and "
        "`log_prob` have different means"
    )
    step = 1e-3
    curvature = ((obs.score(x + step * d) - obs.score(x - step * d)) * d).flatten(1).sum(1).double() / (2 * step)
    square, expected = slope.square(), -curvature.mean()
    error = 5 * square.std() / math.sqrt(n) + 0.05 * expected.abs()
    assert abs(square.mean() - expected) <= error + 1e-12, (
        f"E_y[score^2] along a direction is {square.mean():.4g}, expected {expected:.4g} within {error:.2g}: the "
        "noise that `sample` adds is not the one `log_prob` assumes"
    )


def check_htransform(h: HTransform, prior: Denoiser, obs: Observation, *, seed: int = 0) -> None:
    """What samplers and objectives take for granted of an h, at four noise levels of the prior's schedule.

    Shape [B, *E] and finite; samples do not see each other; `needs_graph = False` is the truth (the prior's
    graph changes nothing); a `Potential` is the gradient of its log_h; and on average over the batch a small
    step of the denoised mean along h raises log p(y | x̂): the sign is right.

    Args:
        obs: at least 4 measurements, drawn from p(y | x) of plausible x.
    """
    b = len(obs)
    dtype = prior.state_like(obs.y).dtype
    noise, close = Noise(seed, b), _Close(dtype)
    u = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=torch.float64)
    gained = []
    for t in _levels(prior.schedule, u):
        at = f"at t = {float(t):.3g}"
        _, alpha, sigma = prior.coefficients(t, torch.zeros(1, *prior.event_shape, dtype=dtype))
        x_t = noise.normal(prior.event_shape).to(dtype) * (alpha**2 + sigma**2).sqrt()
        pred, value = _evaluate(h, prior, obs, x_t, t)
        assert value.shape == x_t.shape, f"h has shape {tuple(value.shape)}, expected {tuple(x_t.shape)}"
        assert bool(torch.isfinite(value).all()), f"h is not finite {at}"
        for i in (0, b - 1):
            one = slice(i, i + 1)
            _, alone = _evaluate(h, prior, obs[i], x_t[one], t)
            _Close(dtype, 1e-3 if dtype == torch.float32 else 1e-6)(
                alone, value[one], f"h of sample {i} alone differs from that in the batch {at}"
            )
        if not h.needs_graph:
            close(h(pred.detach(), obs), value, f"h uses the prior's graph {at}, but says needs_graph = False")
        if isinstance(h, Potential) and dtype == torch.float64:
            _check_gradient(h, prior, obs, x_t, t, value)
        before, move = obs.log_prob(pred.mean), _step(value, pred.mean, 1e-3)
        gained.append(torch.where(torch.isfinite(before), obs.log_prob(pred.mean + move) - before, 0.0).mean())
        if float(value.abs().max()) > 0 and bool(torch.isfinite(before).all()) and float(before.abs().max()) > 0:
            assert gained[-1] > 0, f"a small step of x̂ along h lowers log p(y | x̂) {at}: the sign of h?"


def _check_gradient(h: Potential, prior: Denoiser, obs: Observation, x_t: Tensor, t: Tensor, value: Tensor) -> None:
    d = _unit(torch.sin(torch.arange(x_t.numel(), dtype=x_t.dtype)).reshape(x_t.shape))
    width = 1e-4 * float(x_t.std())
    ends = [h.log_h(prior(x_t + sign * width * d, t), obs).detach() for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * width)
    along = (value * d).flatten(1).sum(1)
    _Close(x_t.dtype, 1e-4)(along, slope, f"h is not the gradient of log_h at t = {float(t):.3g}")


def check_sampler(
    sampler: Sampler,
    over: Iterable[Schedule] | None = None,
    *,
    steps: int = 8,
    event_shape: tuple[int, ...] = (3,),
) -> None:
    """What `sample` promises of every sampler, on every schedule (default: one of each kind there is).

    A denoiser that knows x_0 = c for certain is answered with c: the grid ends at the clean end, without noise.
    The denoiser is called `sampler.calls(steps)` times. The same `Noise` gives the same samples bit for bit, and
    a sample does not depend on its batch; if the sampler is stochastic, other seeds give other paths.
    """
    for schedule in schedules().values() if over is None else over:
        where = f"with {type(sampler).__name__} on {schedule.name}"
        c = torch.linspace(-0.5, 1.0, math.prod(event_shape)).reshape(1, *event_shape)
        known = MeanDenoiser(_certain(c), schedule, event_shape)
        for spacing in SPACINGS:
            try:
                grid = times(schedule, steps, spacing)
            except InputError:  # even steps of t where t is sigma
                continue
            with _count(known) as calls:
                x = sample(known, 4, sampler=sampler, grid=grid)
            message = f"does not end at the clean end {where}, {spacing} spacing"
            _Close(torch.float32, 1e-4)(x, c.expand_as(x), message)
            assert calls[0] == sampler.calls(steps), (
                f"{calls[0]} calls of the denoiser in {steps} steps {where}, but calls({steps}) ="
                f" {sampler.calls(steps)}"
            )
        normal = MeanDenoiser(lambda x, a, s: a * x / (a**2 + s**2), schedule, event_shape)
        x = sample(normal, Noise(1, 4), sampler=sampler, steps=steps)
        assert torch.equal(x, sample(normal, Noise(1, 4), sampler=sampler, steps=steps)), f"not deterministic {where}"
        part = sample(normal, Noise(1, [2, 3]), sampler=sampler, steps=steps)
        _Close(torch.float32)(part, x[2:], f"a sample depends on its batch {where}")
        start = x * 0 + 1.0
        paths = [sample(normal, Noise(seed, 4), sampler=sampler, steps=steps, x=start) for seed in (1, 2)]
        assert torch.equal(*paths) != sampler.stochastic, f"stochastic = {sampler.stochastic} is not the truth {where}"


class _Close:
    """got is expected, to a relative tolerance of the largest entry."""

    def __init__(self, dtype: torch.dtype, tolerance: float | None = None):
        self.tolerance = max(tolerance or 0.0, 200 * torch.finfo(dtype).eps)

    def __call__(self, got: Tensor, expected: Tensor, message: str) -> None:
        assert got.shape == expected.shape, f"{message} (shape {tuple(got.shape)}, expected {tuple(expected.shape)})"
        scale = max(float(expected.detach().abs().max()), 1e-12)
        off = float((got.detach() - expected.detach()).abs().max()) / scale
        assert off <= self.tolerance, f"{message} (relative difference {off:.2g}, allowed {self.tolerance:.2g})"


def _certain(c: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, alpha, sigma: c.to(x.dtype).expand_as(x)


def _autograd(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]


def _unit(d: Tensor) -> Tensor:
    return d / d.flatten(1).norm(dim=1).reshape((-1,) + (1,) * (d.ndim - 1))


def _step(move: Tensor, x: Tensor, share: float) -> Tensor:
    """`move`, each sample's scaled to a length of `share` times that of x (0 stays 0)."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    size = move.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return move * (share * x.flatten(1).norm(dim=1) / size).reshape(shape)


def _check_features(features: Tensor, event_shape: tuple[int, ...], batch: int, channels: int) -> None:
    expected = (batch, channels * event_shape[0], *event_shape[1:])
    assert features.shape == expected, (
        f"features has shape {tuple(features.shape)}, expected {expected} (feature_channels = {channels})"
    )


def _levels(schedule: Schedule, u: Tensor) -> Iterator[Tensor]:
    """Times at the given shares of the range of arctan(sigma/alpha), which every schedule covers."""
    yield from schedule.time_of(-2 * torch.tan(u * math.pi / 2).log())


def _evaluate(h: HTransform, prior: Denoiser, obs: Observation, x_t: Tensor, t: Tensor) -> tuple[Prediction, Tensor]:
    with torch.enable_grad():
        pred = prior(x_t.detach().requires_grad_(), t)
        value = h(pred, obs)
    return pred.detach(), value.detach()


@contextmanager
def _count(module: torch.nn.Module) -> Iterator[list[int]]:
    """How often a module is called inside."""
    calls = [0]

    def hook(*_: object) -> None:
        calls[0] += 1

    handle = module.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()
