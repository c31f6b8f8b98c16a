"""Training steps as one CUDA graph: for small networks, whose steps are mostly the time of launching kernels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM = 4
"""Steps before the capture: cuDNN chooses its kernels, the optimiser makes its state."""


def said(step: int, seconds: float, loss: float, mean: list[Tensor]) -> None:
    """A `look` that prints."""
    print(f"step {step}, {step / seconds:.1f} a second, loss {loss:.5f}", flush=True)


def descend(
    module: nn.Module,
    loss: Callable[[], Tensor],
    seconds: float,
    *,
    lr: float = 2.5e-3,
    warmup: int = 100,
    average: float = 0.002,
    look: Callable[[int, float, float, list[Tensor]], None] | None = None,
    looks: int = 10,
    capture: bool = True,
) -> int:
    """Adam with half a cosine over the time that is given; the module ends with the averaged weights.

    loss: draws its batch on the device and returns a scalar; on CUDA the whole step is captured once and replayed,
        unless `capture` is False: for a loss that chooses anything on the host.
    average: lowest share of the newest weights in the average. look(step, seconds, mean loss since the last look,
        averaged weights) is called `looks` times, evenly over the time, and at the end. Returns the steps.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    on_gpu = device.type == "cuda" and capture
    mean = [p.detach().clone() for p in parameters]
    start = [p.detach().clone() for p in parameters]
    rate, share, total = (torch.zeros((), device=device) for _ in range(3))
    optimiser = torch.optim.Adam(
        parameters, lr=rate if on_gpu else lr, betas=(0.9, 0.99), capturable=on_gpu, fused=on_gpu or None
    )
    for p in parameters:
        p.grad = torch.zeros_like(p)

    def one() -> None:
        value = loss()
        optimiser.zero_grad(set_to_none=False)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimiser.step()
        with torch.no_grad():  # not by _foreach_lerp_, which waits for a weight that is on the device
            change = torch._foreach_sub(parameters, mean)
            torch._foreach_mul_(change, share)
            torch._foreach_add_(mean, change)
        total.add_(value.detach().float())

    go = one
    if on_gpu:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                one()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one()
        go = graph.replay
        with torch.no_grad():  # as if nothing had happened
            for p, first, m in zip(parameters, start, mean, strict=True):
                p.copy_(first)
                m.copy_(first)
            for state in optimiser.state.values():
                for value in state.values():
                    value.zero_()
    total.zero_()
    started, step, looked, last = time.monotonic(), 0, 0, 0
    while (done := (time.monotonic() - started) / seconds) < 1:
        now = lr * min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * done)) + lr / 250
        rate.fill_(now)
        if not on_gpu:
            optimiser.param_groups[0]["lr"] = now
        share.fill_(max(average, 1 / (step + 10)))
        go()
        step += 1
        if on_gpu and step % 10 == 0:
            torch.cuda.synchronize()
        if look is not None and done >= (looked + 1) / looks:
            looked += 1
            look(step, time.monotonic() - started, float(total) / (step - last), mean)
            last = step
            total.zero_()
    if look is not None and step > last:
        look(step, time.monotonic() - started, float(total) / (step - last), mean)
    with torch.no_grad():
        for p, m in zip(parameters, mean, strict=True):
            p.copy_(m)
    return step
