"""The one training function: priors and h-transforms alike.

    fit(module, objective, batches) -> FitResult

reads top to bottom: prepare (or resume), loop (evaluate on held-out data, draw, loss, backward, step, average),
save, finish with the best weights that an evaluation has seen, raw or averaged. What is learned is the objective's
business, what it is learned from is the batches' business. Every random number of step k comes from (seed, k), so a
resumed run repeats the numbers an unbroken one would have used: on the CPU it is the same bit for bit.

A fit to a thousand images over-fits when it is long. Two things keep a longer fit from being worse than a shorter one:
the weights of the best evaluation are kept, and a fit whose held-out loss has stopped falling (`FitConfig.patience`)
goes back to them, brings the learning rate down over a short last phase, and ends.

Of several processes (`deft.runtime.distributed`) each does some rows of the same batch, and gradients are summed: the
same fit up to the order of summation, however many there are.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from deft._renamed import old_arguments
from deft.core.random import BatchNoise, RowNoise
from deft.errors import CheckpointError, InputError, LostError, NonFiniteError
from deft.io.files import load_state, save_state
from deft.io.folders import holds_folder
from deft.io.identity import identity_of, module_identity, other_identity, plain
from deft.runtime.distributed import World, get_world
from deft.runtime.messages import Callback
from deft.tensors import as_device
from deft.train.protocols import Batches, Loss, Objective, Source
from deft.train.state import WAY_OUT, check_state, resume_from
from deft.values import (
    Count,
    CountOrNone,
    FitSteps,
    NotNegative,
    Part,
    Positive,
    Rate,
    Rows,
    Seconds,
    Seed,
    check_fields,
)


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit. The learning rate warms up linearly, then falls to 0 along half a cosine.

    steps, batch: optimiser steps and samples in each, of all processes together.
    accumulate: go through a process's share of a batch in so many parts, one after the other, to save memory.
    streams: one random stream for each row of a batch (`RowNoise`), so that a process draws its own rows alone and not
        the whole batch: for many processes. Other numbers than the default's.
    max_seconds: stop (with the learning rate brought down in time) once this much time has gone.
    ema: decay of the averaged weights (ramped up from 0 as (1+k)/(10+k), as is usual).
    clip: largest gradient norm. bf16: autocast the forward pass to bfloat16.
    evaluations: how often the held-out loss is computed, evenly over the steps (or over `max_seconds`).
    held_out_batches: batches of held-out data at each evaluation, the same draws every time.
    patience: after so many evaluations without a lower held-out loss the fit goes back to its best weights and ends
        with a last phase of `LAST_PHASE` of the steps it took to get there; 0 never ends early.
    weights: what the module ends with: the "raw" or "ema" (averaged) weights of the last step, or the "best" of both
        over all evaluations.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> pairs = deft.Pairs(obs.y.expand(64, 4), obs.repeat(64))
    >>> objective, h = deft.DenoisingObjective(world.prior(deft.VPCosine())), deft.DEFT((4,), 2, width=8)
    >>> config = deft.FitConfig(steps=8, batch=16, evaluations=2, held_out_batches=1)
    >>> [row["step"] for row in deft.fit(h, objective, pairs, pairs, config=config, progress=False).history]
    [4, 8]
    """

    steps: FitSteps = 2000
    batch: Rows = 64
    lr: Rate = 2e-3
    warmup: CountOrNone = 100
    weight_decay: NotNegative = 0.0
    ema: Part = 0.999
    clip: Positive = 1.0
    bf16: bool = False
    seed: Seed = 0
    max_seconds: Seconds | None = None
    evaluations: Count = 10
    held_out_batches: CountOrNone = 4
    patience: CountOrNone = 0
    saves: Count = 20
    accumulate: Count = 1
    streams: bool = False
    weights: Literal["best", "raw", "ema"] = "best"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def source(self) -> Source:
        return RowNoise if self.streams else BatchNoise

    def rate(self, progress: float, step: int) -> float:
        """Learning rate at step `step` when the fraction `progress` of the fit is done."""
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


LAST_PHASE = 0.25
"""Length of the last phase of a fit that ends early, as a share of the steps to its best evaluation."""
LAST_EVALUATIONS = 4
"""Evaluations in that phase."""


@dataclass
class FitResult:
    """What a fit leaves: the module (its weights chosen), how it came to them, the held-out loss over time.

    weights, best_step: which weights the module has ("raw" or "ema"), and of which step. held_out: the held-out loss of
    raw and averaged weights at that step (NaN without held-out data). ended: why the fit ended early, or "".
    """

    module: nn.Module
    steps: int
    seconds: float
    weights: str
    held_out: dict[str, float]
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    ended: str = ""


@dataclass
class _Progress:
    """How far a fit is: what `state.pt` keeps of it beside the weights.

    evaluated: evaluations that were due so far. best: of the best evaluation, its step, the losses, which weights won,
    and these weights. last: first step, length and learning rate of the last phase, once it has begun.
    """

    step: int = 0
    elapsed: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    evaluated: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, float] | None = None

    def done(self, config: FitConfig, elapsed: float) -> float:
        """Share of the fit that is done, by steps or by time, 1 at its end."""
        if self.last is not None and self.step >= self.last["start"] + self.last["length"]:
            return 1.0
        share = self.step / config.steps
        return max(share, elapsed / config.max_seconds) if config.max_seconds else share

    def rate(self, config: FitConfig, done: float) -> float:
        """Learning rate of the next step."""
        if self.last is None:
            return config.rate(done, self.step)
        u = (self.step - self.last["start"]) / self.last["length"]
        return self.last["rate"] * 0.5 * (1 + math.cos(math.pi * min(1.0, u)))

    def due(self, config: FitConfig, done: float) -> int:
        """How many evaluations should have been made by now."""
        if self.last is None:
            return int(done * config.evaluations + 1e-9)
        u = (self.step - self.last["start"]) / self.last["length"]
        return int(self.last["evaluated"]) + int(u * LAST_EVALUATIONS + 1e-9)

    def stale(self) -> int:
        """Evaluations since the best one."""
        return sum(row["step"] > self.best["step"] for row in self.history) if self.best else 0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during a fit; the message says what was saved."""


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or this process's own under a launcher, or the best there is: CUDA, then the CPU."""
    if name is not None:
        return as_device(name)
    own = get_world().device
    if own is not None:
        return own
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place_of(objective: Objective) -> torch.device:
    """Where a fit happens if nobody says: where the objective's prior is, or, without one, `pick_device()`."""
    prior = getattr(objective, "prior", None)
    if isinstance(prior, nn.Module):
        for tensor in (*prior.parameters(), *prior.buffers()):
            return tensor.device
    return pick_device()


@old_arguments(on_evaluation="callback")
@holds_folder
def fit(
    module: nn.Module,
    objective: Objective,
    batches: Batches,
    held_out: Batches | None = None,
    *,
    config: FitConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    world: World | None = None,
    identity: Mapping[str, Any] | None = None,
) -> FitResult:
    """Fit `module` to `objective` on `batches`.

    Args:
        module: what is trained; its parameters alone enter the optimiser.
        objective: objective(module, batch, noise) -> Loss.
        batches: where (x_0, observation) come from.
        held_out: the same for data not trained on; decides between raw and averaged weights.
        folder: where `state.pt` is kept for `resume`; None keeps nothing.
        resume: go on from that state. More steps than it was made with train it for longer.
        device: where the module and the batches go; by default where the objective's frozen prior is
            (`load_prior(name, "cuda")`), and for a prior in training the best there is.
        callback: called with each row of the history, on the main process.
        world: the processes that share the work, by default all that were launched; each must call this.
        identity: what the data are, as plain values by part; kept in the state, and compared by `resume`. By default
            what batches say of themselves (`identity()`); module and objective always say it.

    Raises:
        NonFiniteError: a loss that is not a number, on any process; the last good state is still in `folder`.
        Interrupted: Ctrl-C; the state is saved first.
        LostError: another process died; the state is saved first.
        CheckpointError: `resume` without a usable state, with other settings, or with the state of another fit.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> prior, x = world.prior(deft.VPCosine()), world.sample(256).float()
    >>> pairs = deft.Pairs(x, deft.Observation(obs.likelihood.sample(x, deft.Noise(0, 256)), obs.likelihood))
    >>> _ = torch.manual_seed(0)
    >>> h = deft.DEFT((4,), 2, width=8, n2_start=0.0)
    >>> config = deft.FitConfig(steps=40, warmup=5, lr=0.01, evaluations=2)
    >>> result = deft.fit(h, deft.DenoisingObjective(prior), pairs, pairs, config=config, progress=False)
    >>> result.history[-1]["raw"] < result.history[0]["raw"]
    True
    """
    world = world or get_world()
    config = launched_config(config or FitConfig(), world)
    given = config
    where = torch.device(device) if device is not None else place_of(objective)
    path = Path(folder) / "state.pt" if folder is not None else None

    # 1. prepare
    parts = world.parts(config.batch, config.accumulate)
    module.to(where).train()
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    at = _Progress()
    if path is None:
        about = {}
    elif identity is None:
        about = whole_identity(
            module, objective, {"data": identity_of(batches), "held-out data": identity_of(held_out)}
        )
    else:
        about = whole_identity(module, objective, identity)
    state = world.from_main(lambda: read_resumable(path, given, about) if resume else None)
    world.same_weights(module)
    average = copy.deepcopy(module).requires_grad_(False)
    if state is not None:
        at = _Progress(**{f.name: state[f.name] for f in fields(_Progress) if f.name in state})
        config = replace(config, held_out_batches=state["config"].get("held_out_batches", config.held_out_batches))
        resume_from(path, state, module, average, optimiser)
        if config.steps > state["config"].get("steps", config.steps):  # for longer: the learning rate rises again
            at.last, at.evaluated = None, int(at.done(config, at.elapsed) * config.evaluations + 1e-9)
        del state

    def save() -> None:
        """Write the state as it is now."""
        if path is not None:
            at.elapsed = time.monotonic() - started
            now = {
                "config": asdict(config),
                "identity": about,
                **{f.name: getattr(at, f.name) for f in fields(_Progress)},
            }
            now |= {"raw": module.state_dict(), "ema": average.state_dict(), "optimiser": optimiser.state_dict()}
            save_state(path, now)

    def evaluate(data: Batches, done: float, running: Tensor | None) -> None:
        """Evaluate on held-out data, keep the weights if they are the best yet, and see whether it is time to end."""
        losses = _held_out(objective, {"raw": module, "ema": average}, data, config, where, world)
        row = {"step": at.step, "seconds": time.monotonic() - started}
        row |= {"loss": math.nan if running is None else float(running)} | losses
        at.history.append(row)
        winner = min(losses, key=lambda k: losses[k])
        if math.isfinite(losses[winner]) and (at.best is None or losses[winner] < at.best[at.best["weights"]]):
            kept = (module if winner == "raw" else average).state_dict()
            kept = {k: v.detach().cpu().clone() for k, v in kept.items()}
            at.best = {"step": at.step, "weights": winner, **losses, "state": kept}
        if callback and world.main:
            callback(row)
        if config.patience and at.last is None and done < 1 and at.best is not None and at.stale() >= config.patience:
            length = max(1, round(LAST_PHASE * at.best["step"]))
            at.last = {"start": at.step, "length": length, "rate": at.rate(config, done), "evaluated": at.evaluated}
            module.load_state_dict(at.best["state"])
            average.load_state_dict(at.best["state"])

    # 2. loop
    started = time.monotonic() - at.elapsed
    running = None
    bar = tqdm(total=config.steps, initial=at.step, disable=not (progress and world.main), unit="step", desc="fit")
    autocast = torch.autocast(where.type, torch.bfloat16) if config.bf16 else nullcontext()
    save_at = _marks(config.steps, config.saves) if path else set()
    last_save = time.monotonic()
    with world.stopping() as asked, bar, _saving(path, save, lambda: f"step {at.step} of {config.steps}", world):
        while True:
            stop, elapsed = world.pulse(asked(), time.monotonic() - started)
            if stop:
                raise KeyboardInterrupt
            done = at.done(config, elapsed)
            cut = done >= 1 and at.done(replace(config, max_seconds=None), 0.0) < 1
            if cut:  # by the time: a resumed fit goes on from here, without the evaluation that this one ends with
                save()
            due = config.evaluations if done >= 1 else at.due(config, done)
            if (
                held_out is not None
                and (due > at.evaluated or done >= 1)
                and not (at.history and at.history[-1]["step"] == at.step)
            ):
                at.evaluated = due
                evaluate(held_out, done, running)
                if at.last is not None:
                    bar.total = int(at.last["start"] + at.last["length"])
            if done >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = at.rate(config, done)
            check = where.type == "cpu" or at.step % 50 == 0  # elsewhere a look has to wait for the device
            optimiser.zero_grad(set_to_none=True)
            value = torch.zeros((), device=where)
            with world.together():
                for rows in parts:
                    noise = config.source(config.batch, config.seed, at.step, 1, rows=rows)
                    batch = batches.draw(config.batch, config.seed, at.step, where, rows=rows, source=config.source)
                    with autocast:
                        loss = objective(module, batch, noise)
                    if check:
                        _check_finite(loss, at.step)
                    part = loss.value * (len(rows) / config.batch)
                    part.backward()
                    value = value + part.detach()
            value = world.sum_gradients(parameters, value)
            length = nn.utils.clip_grad_norm_(parameters, config.clip)
            if (check or at.step + 1 in save_at) and not bool(torch.isfinite(length)):
                raise NonFiniteError(
                    f"the gradient became {float(length)} at step {at.step}: lower --lr, or check the data"
                )
            optimiser.step()
            _average(average, module, min(config.ema, (1 + at.step) / (10 + at.step)))
            at.step += 1

            running = value if running is None else 0.98 * running + 0.02 * value
            bar.update()
            if at.step % 20 == 0:
                bar.set_postfix_str(f"loss {float(running):.4f}")
                # as many steps as there is time for: the time left is then right
                if config.max_seconds and at.last is None:
                    fraction = (time.monotonic() - started) / config.max_seconds
                    bar.total = max(at.step, min(config.steps, round(at.step / fraction)))
            if at.step in save_at or (path and time.monotonic() - last_save > 120):
                save()
                last_save = time.monotonic()

    # 3. finish with the chosen weights
    elapsed = time.monotonic() - started
    if not cut:
        save()
    last_row = {k: at.history[-1][k] for k in ("raw", "ema")} if at.history else {"raw": math.nan, "ema": math.nan}
    if config.weights == "best" and at.best is not None:
        winner, scores, best_step = at.best["weights"], {k: at.best[k] for k in ("raw", "ema")}, at.best["step"]
        module.load_state_dict(at.best["state"])
    else:
        winner, scores, best_step = "raw" if config.weights == "raw" else "ema", last_row, at.step
        if winner == "ema":
            module.load_state_dict(average.state_dict())
    module.eval()
    return FitResult(module, at.step, elapsed, winner, scores, at.history, best_step, _ended(at, config))


def _ended(at: _Progress, config: FitConfig) -> str:
    if at.last is None or at.best is None:
        return ""
    return (
        f"ended early: the held-out loss had not fallen for {config.patience} evaluations at step {at.last['start']}; "
        f"a last phase of {at.last['length']} steps began from the best weights until then"
    )


def launched_config(config: FitConfig, world: World | None = None) -> FitConfig:
    """The settings with the launcher's --mixed_precision in them: bf16 is the same as `bf16=True`.

    Raises `InputError` for fp16 and fp8. With fp16 a gradient is now and then infinite and the step is skipped, as
    part of the method, while here a gradient that is not finite ends the fit; bf16 has float32's range.
    """
    precision = (world or get_world()).precision
    if precision not in ("no", "bf16"):
        raise InputError(
            f"--mixed_precision {precision} is not supported, only bf16 and no: give bf16, which needs no loss scaling"
        )
    return replace(config, bf16=config.bf16 or precision == "bf16")


def _marks(total: int, count: int) -> set[int]:
    """`count` step numbers spread evenly over 1..total, the last among them."""
    return {round(total * (i + 1) / count) for i in range(count)}


def _check_finite(loss: Loss, step: int) -> None:
    if bool(torch.isfinite(loss.value)):
        return
    bad = [name for name, value in loss.metrics.items() if not bool(torch.isfinite(value).all())]
    term = f"; first non-finite term: {bad[0]}" if bad else ""
    raise NonFiniteError(
        f"the loss became {float(loss.value.detach())} at step {step}{term}: lower --lr, or check the data"
    )


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)


@contextmanager
def _saving(path: Path | None, save: Callable[[], None], at: Callable[[], str], world: World) -> Iterator[None]:
    """Save before a run that is stopped from outside ends, and say so. A step that was broken off was not taken."""
    try:
        yield
    except KeyboardInterrupt:
        if path is None:
            raise
        save()
        raise Interrupted(f"stopped at {at()}; saved in {path.parent}") from None
    except LostError as error:
        if path is None:
            raise
        save()
        kept = "saved" if world.main else "what the main process saved is"
        raise LostError(f"{error} at {at()}; {kept} in {path.parent}", saved=True) from error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was)


def _held_out(
    objective: Objective,
    modules: dict[str, nn.Module],
    data: Batches,
    config: FitConfig,
    where: torch.device,
    world: World,
) -> dict[str, float]:
    """Mean held-out loss of each module, on the same draws every time (keys no training step uses)."""
    out, source = {}, config.source
    for name, module in modules.items():
        total = 0.0
        with world.together(), _evaluating(module):
            for i in range(config.held_out_batches):
                for rows in world.parts(config.batch, config.accumulate):
                    batch = data.draw(config.batch, config.seed, -1 - i, where, rows=rows, source=source)
                    noise = source(config.batch, config.seed, -1 - i, 1, rows=rows)
                    total += float(objective(module, batch, noise).value) * (len(rows) / config.batch)
        out[name] = world.total(total) / config.held_out_batches
    return out


def lasting(config: FitConfig) -> dict[str, Any]:
    """What must be the same to resume: not how long the fit is, nor how a batch is split, nor what changes no step."""
    kept = asdict(config)
    for name in ("steps", "max_seconds", "accumulate", "held_out_batches", "saves", "weights"):
        kept.pop(name)
    return kept


def whole_identity(module: nn.Module, objective: Objective, more: Mapping[str, Any]) -> dict[str, Any]:
    """What is trained on what, as `state.pt` keeps it. more: what is said of the data, and whatever else."""
    return {"module": module_identity(module), "objective": identity_of(objective), **plain(dict(more))}


def read_resumable(path: Path | None, config: FitConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a file, once it is known to be of this fit.

    Raises `CheckpointError`: no state, a damaged one, or one of a fit with other settings or another identity.
    """
    if path is None or not path.exists():
        raise CheckpointError(f"nothing to resume: {path} does not exist")
    state = load_state(path, torch.device("cpu"))
    check_state(path, state, FitConfig())
    other = other_identity(state.get("identity", {}), identity)  # an older file has none
    if other:
        raise CheckpointError(f"{path} is the state of another fit ({other}): {WAY_OUT}")
    mine, theirs = lasting(config), lasting(FitConfig()) | state["config"]  # an older file lacks the newer settings
    if state["step"] >= max(mine["warmup"], theirs["warmup"]):
        theirs["warmup"] = mine["warmup"]  # over for both
    if not (mine["patience"] and theirs["patience"]):
        theirs["evaluations"] = mine["evaluations"]  # they change no step then, and version 0.1.0 made fewer
    settings = {k: v for k, v in theirs.items() if k in mine and mine[k] != v}
    if settings:
        raise CheckpointError(f"{path} was made with other settings: {settings}; {WAY_OUT}")
    return state
