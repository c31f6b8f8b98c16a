"""A prior whose residual blocks are compiled by torch.compile, or the prior itself where that fails."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch

from deft.core.random import BatchNoise
from deft.denoiser import NetworkDenoiser
from deft.errors import InputError
from deft.nn.unet import Block, UNet
from deft.runtime.messages import log, old_messages
from deft.train.fit import FitConfig
from deft.train.protocols import Batches, Objective

P = TypeVar("P", bound=NetworkDenoiser)

GRAPHS = 32
"""torch.compile gives up on a function after so many graphs of it: two are needed for each width."""


@old_messages("say")
def compiled(
    prior: P, objective: Objective, batches: Batches, *, config: FitConfig, device: torch.device | str,
    backend: str | Callable[..., Any] = "inductor",
) -> P:  # fmt: skip
    """A copy of `prior` on `device` with compiled residual blocks; `prior` itself if compilation fails, with a warning
    in the log.

    One compiled block serves all of its width, so compilation takes time for each width, not for each layer. All of it
    happens here: one training step without an update, and one look in evaluation mode, with the batch and the
    precision of `config`. Weights and their names stay as they were. A deep copy of the result is not compiled.

    Args:
        objective, batches, config: those of the fit that follows.
        backend: of torch.compile.

    Raises:
        InputError: the prior's network is not a `UNet`.
    """
    if not isinstance(prior.net, UNet):
        raise InputError(f"only a UNet can be compiled here, got {type(prior.net).__name__}")
    where = torch.device(device)
    started = time.monotonic()
    trial = copy.deepcopy(prior).to(where).train()
    rows = range(-(-config.batch // config.accumulate))
    torch._dynamo.config.cache_size_limit = max(GRAPHS, torch._dynamo.config.cache_size_limit)
    try:
        for block in trial.modules():
            if isinstance(block, Block):
                block.compile(backend=backend, dynamic=False)
        batch = batches.draw(config.batch, config.seed, 0, where, rows=rows, source=config.source)
        with torch.autocast(where.type, torch.bfloat16) if config.bf16 else nullcontext():
            loss = objective(trial, batch, config.source(config.batch, config.seed, 0, 1, rows=rows)).value
        loss.backward()
        trial.eval()
        with torch.no_grad():
            objective(trial, batch, BatchNoise(config.batch, config.seed, 0, 1, rows=rows))
    except Exception as error:  # a compiler fails in many ways, and training is possible without it
        reason = " ".join(str(error).split())
        log.warning(f"note: torch.compile failed ({type(error).__name__}: {reason[:300]}); training goes on without it")
        return prior
    trial.zero_grad(set_to_none=True)
    log.info(f"compiled in {time.monotonic() - started:.0f} s")
    return trial.train()
