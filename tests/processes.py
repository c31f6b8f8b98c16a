"""What each process of tests/test_distributed.py runs.

processes.py OUT CASE...       the cases below; the main process writes what they return into OUT/<size>.pt
processes.py deft ARGUMENT...  the command line; process 1 sends itself the signal HIT at its training step AT
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

from deft import (
    DEFT,
    DenoisingObjective,
    FitConfig,
    Gaussian,
    Mask,
    NetworkDenoiser,
    Noise,
    Observation,
    VPCosine,
    fit,
    freeze,
    sample_posterior,
)
from deft.errors import CheckpointError, InputError, NonFiniteError
from deft.nn import MLP, UNet
from deft.runtime.distributed import World, get_world
from deft.runtime.shard import shard
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from deft.train.protocols import Loss

D, SIDE = 6, 16
X = torch.randn(50, D, generator=torch.Generator().manual_seed(0))
LIKE = Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])), 0.2)
CONFIG = FitConfig(steps=10, batch=13, warmup=2, evaluations=2, saves=5, held_out_batches=2, ema=0.9, clip=1e9)


class Task:
    def observe(self, x, noise):
        return Observation(LIKE.sample(x, noise), LIKE)


def parts(seed=3) -> tuple[DEFT, DenoisingObjective]:
    torch.manual_seed(seed)
    prior = freeze(NetworkDenoiser(MLP(D, D, width=16), VPCosine(), (D,)))
    h = DEFT((D,), 2, width=16)
    for p in h.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return h, DenoisingObjective(prior)


def fitted(out: Path | None = None, h=None, objective=None, **changes: Any) -> dict[str, Any]:
    resume = changes.pop("resume", False)
    mine = parts()
    h = h or mine[0]
    config = FitConfig(**{**CONFIG.__dict__, **changes})
    result = fit(
        h,
        objective or mine[1],
        Clean(X, Task()),
        Clean(X[:20], Task()),
        config=config,
        folder=out,
        resume=resume,
        device="cpu",
        progress=False,
    )
    return {
        "weights": [p.detach().clone() for p in h.parameters()],
        "gradients": [p.grad.clone() for p in h.parameters() if p.grad is not None],
        "history": [{k: v for k, v in row.items() if k != "seconds"} for row in result.history],
        "held_out": result.held_out,
    }


def image_prior() -> NetworkDenoiser:
    torch.manual_seed(0)
    net = UNet(1, 1, (24, 32), patch=4)
    torch.nn.init.normal_(net.outlet.weight, std=0.05)
    return freeze(NetworkDenoiser(net, VPCosine(), (1, SIDE, SIDE), "v", time="log-sigma"))


def case_gradients(out: Path) -> dict[str, Any]:
    """One step, from random weights: what is left in .grad; plainly, accumulated, with a stream for each row, in
    bf16."""
    kinds = {"plain": {}, "accumulated": {"accumulate": 2}, "streams": {"streams": True}, "bf16": {"bf16": True}}
    return {name: fitted(steps=1, **changes)["gradients"] for name, changes in kinds.items()}


def case_fit(out: Path) -> dict[str, Any]:
    """Ten steps; a process that starts from weights of its own is given the main one's."""
    return {"plain": fitted(h=parts(3 + get_world().rank)[0]), "accumulated": fitted(accumulate=2)}


def case_samples(out: Path) -> dict[str, Any]:
    """Convolutions in batches of 3 (the last of 1), and a bank in chunks."""
    prior = image_prior()
    torch.manual_seed(1)
    h = DEFT((1, SIDE, SIDE), 2, width=8)
    torch.nn.init.normal_(h.n1.outlet.weight, std=0.05)
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., 4:12, 4:12] = 0
    like = Gaussian(Mask(mask), 0.1)
    obs = Observation(like.sample(Noise(5, 5).normal((1, SIDE, SIDE)), Noise(6, 5)), like)
    bank = PredictionCache.build(parts()[1].prior, X, Task(), 50, chunk=16)
    return {
        "samples": sample_posterior(prior, h.eval(), obs, 2, batch=3, steps=4).x,
        "alone": sample_posterior(prior, h.eval(), obs, 1, batch=3, steps=2, world=World()).x,
        "bank": bank.prediction.mean,
    }


def case_errors(out: Path) -> dict[str, Any]:
    """A NaN, and a mistake, on the last process alone: what every process raises."""
    world = get_world()
    said: dict[str, Any] = {}

    def bad(module, batch, noise):
        loss = parts()[1](module, batch, noise)
        return Loss(loss.value * (math.nan if world.rank == world.size - 1 else 1), loss.metrics)

    try:
        fitted(objective=bad)
    except NonFiniteError as error:
        said["nan"] = str(error)
    try:
        with world.together():
            if world.rank == world.size - 1:
                raise KeyError("of its own")
    except Exception as error:
        said["other"] = f"{type(error).__name__}: {error}"
    try:
        fitted(batch=2 * world.size - 1, accumulate=2)
    except InputError as error:
        said["batch"] = str(error)
    return {"said": list(world.share(range(world.size), lambda i: said))}


def case_sharded(out: Path) -> dict[str, Any]:
    """A sharded prior: its predictions, a backward pass through it, a fit to it, and how much each process holds."""
    spread = shard if get_world().size > 1 else lambda prior: prior
    prior, (h, objective) = spread(image_prior()), parts()
    objective.prior = spread(objective.prior)
    held = [sum(p.to_local().numel() if get_world().size > 1 else p.numel() for p in prior.parameters()) for _ in "1"]
    x = Noise(1, 4).normal((1, SIDE, SIDE)).requires_grad_()
    prediction = prior(x, torch.tensor(0.4)).mean
    gradient = torch.autograd.grad(prediction.square().sum(), x)[0]
    held.append(sum(p.to_local().numel() if get_world().size > 1 else p.numel() for p in prior.parameters()))
    return {
        "prediction": prediction.detach(), "gradient": gradient, "held": held, "size": prior.parameter_count(),
        "fingerprint": prior.fingerprint(), "fit": fitted(h=h, objective=objective),
    }  # fmt: skip


def case_resumed(out: Path) -> dict[str, Any]:
    """Half of a fit was made by one process, in OUT/half; these go on with it. A folder without a state is an error of
    all."""
    try:
        fitted(out / "nothing", resume=True)
    except CheckpointError as error:
        said = str(error)
    return {"fit": fitted(out / "half", resume=True), "said": said}


def command_line(arguments: list[str]) -> int:
    """`deft`, with a process that is hit in the middle of a fit."""
    from deft.cli import main

    at, seen, inner = int(os.environ["AT"]), [], DenoisingObjective.__call__

    def call(self, module, batch, noise):
        seen.extend([1] * module.training)
        if len(seen) == at and module.training and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), int(os.environ["HIT"]))
        return inner(self, module, batch, noise)

    DenoisingObjective.__call__ = call  # type: ignore[method-assign]
    return main(arguments)


def run(cases: list[str], out: Path) -> None:
    found = {name: globals()[f"case_{name}"](out) for name in cases}
    found["accelerate"] = "accelerate" in sys.modules
    if get_world().main:
        torch.save(found, out / f"{get_world().size}.pt")
    get_world().close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "deft":
        sys.exit(command_line(sys.argv[2:]))
    run(sys.argv[2:], Path(sys.argv[1]))
    # All is written, and the group is left. On a loaded machine PyTorch's own threads abort one process in fifty that
    # is torn down while another is still leaving ("terminate called without an active exception"), which would fail
    # tests of what was computed.
    sys.stdout.flush()
    os._exit(0)
