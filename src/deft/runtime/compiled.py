"""Networks compiled by torch.compile while samples are drawn: the networks alone, and only within the loop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from deft.runtime.messages import log
from deft.runtime.precision import networks

M = TypeVar("M", bound=nn.Module)

FORWARD = "forward"
PATIENCE = 100
"""Calls of another shape than the first that are made as they are, before that shape is compiled too: the last batch
is often smaller, and compiling for it would take longer than it does."""
TOLERANCE = {torch.float32: 0.02, torch.float64: 1e-4}
"""Root mean square of what the compiled network returns less what the network does, over that of the latter, above
which it is not used. Others (16 bits): `LOW`."""
LOW = 0.2
GRAPHS = 64
"""torch.compile gives up on a function after so many graphs of it: one for each network, shape and precision."""

_looping: ContextVar[bool] = ContextVar("looping", default=False)


@contextmanager
def compiled_calls() -> Iterator[None]:
    """Inside, the networks that `compile_networks` marked are called compiled: around a loop over levels, in which a
    network is called many times with one shape. What runs a network once or twice, to check it, does not wait for a
    compiler."""
    before = _looping.set(True)
    try:
        yield
    finally:
        _looping.reset(before)


def compile_networks(
    module: M, on: bool = True, *, mode: str | None = None, backend: str | Callable[..., Any] = "inductor"
) -> M:
    """The prior or h whose networks are compiled by `torch.compile` from now on; the module itself, its weights as they
    were.

    A network is compiled at its first call in a sampling loop, for the shape, the precision and the device of that
    call; another shape after `PATIENCE` calls. What comes out, and its derivative where one is taken, is compared with
    the network itself once. If compilation fails or the two differ, the network runs as it is, and a line in the log
    says why. Names of weights, fingerprint and files stay as they were. A copy is compiled anew.

    Args:
        module: a `Denoiser` or an `HTransform`, of whatever parts. An autoencoder of latents is left as it is.
        on: False: the networks as they were.
        mode: of torch.compile: "max-autotune-no-cudagraphs" looks for faster kernels, for minutes; "reduce-overhead"
            replays CUDA graphs, which helps small networks. Not within threads.
        backend: of torch.compile.

    >>> import deft
    >>> prior = compile_networks(deft.load_prior("fashion"), backend="eager")  # "inductor" unless you try it out
    >>> x = deft.sample(prior, 1, steps=2)
    >>> is_compiled(prior), x.shape
    (True, torch.Size([1, 1, 32, 32]))
    """
    for net in networks(module):
        if isinstance(net.__dict__.get(FORWARD), Compiled):
            del net.__dict__[FORWARD]
        if on and isinstance(net, torch.jit.ScriptModule):
            log.warning("note: a TorchScript graph is not compiled by torch.compile: it runs as it is")
        elif on:
            net.__dict__[FORWARD] = Compiled(net, mode, backend)
    return module


def is_compiled(module: nn.Module) -> bool:
    """Whether `compile_networks` marked the networks of a prior or an h, and none of them had to be left as it was."""
    found = [net.__dict__.get(FORWARD) for net in networks(module)]
    marked = [f for f in found if isinstance(f, Compiled)]
    return bool(marked) and all(f.reason is None for f in marked)


class Compiled:
    """The forward function of a network, in its own `forward`'s place: hooks of the network run around it, as they
    do around the other.

    reason: why the network runs as it is after all, or None.
    """

    def __init__(self, net: nn.Module, mode: str | None, backend: str | Callable[..., Any]):
        self.net, self.mode, self.backend = net, mode, backend
        self.reason: str | None = None
        self._reset()

    def _reset(self) -> None:
        self._lock = RLock()
        self._call: Callable[..., Any] | None = None
        self._known: set[Any] = set()
        self._seen: Counter[Any] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: nothing that was compiled."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    def plain(self, *args: Any, **named: Any) -> Any:
        """The network's own forward function."""
        return type(self.net).forward(self.net, *args, **named)

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self.reason is not None or not _looping.get() or _inside_another():
            return self.plain(*args, **named)
        tensors = [v for v in tree_iter((args, named)) if isinstance(v, Tensor)]
        graph = torch.is_grad_enabled() and any(v.requires_grad for v in tensors)
        if any(v.device.type == "meta" for v in tensors):
            return self.plain(*args, **named)
        kinds = tuple((tuple(v.shape), v.dtype, v.device, v.requires_grad) for v in tensors)
        key = (graph, torch.is_grad_enabled(), _autocast(tensors), kinds)
        try:
            if key not in self._known:
                with self._lock:
                    if not self._learn(key, graph, args, named):
                        return self.plain(*args, **named)
            return self._run(graph, *args, **named)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler fails in many ways, and sampling is possible without it
            said = " ".join(str(error).split())
            self._give_up(f"torch.compile failed ({type(error).__name__}: {said[:300]})")
            return self.plain(*args, **named)

    def _run(self, graph: bool, *args: Any, **named: Any) -> Any:
        assert self._call is not None
        if self.mode is None or "no-cudagraphs" in self.mode:
            return self._call(*args, **named)
        if not graph:
            torch.compiler.cudagraph_mark_step_begin()
        # what a CUDA graph returns is overwritten by its next replay
        return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, self._call(*args, **named))

    def _learn(self, key: Any, graph: bool, args: Any, named: Any) -> bool:
        """Compile for calls of this kind, and see that the results are the network's own; False: not now."""
        if key in self._known:
            return True
        self._seen[key] += 1
        if any(k[:3] == key[:3] for k in self._known) and self._seen[key] <= PATIENCE:
            return False
        started = time.monotonic()
        if self._call is None:
            torch._dynamo.config.cache_size_limit = max(GRAPHS, torch._dynamo.config.cache_size_limit)
            from torch._functorch import config

            if hasattr(config, "donated_buffer"):
                config.donated_buffer = False  # guidance goes back through a graph that it keeps
            self._call = torch.compile(self.plain, backend=self.backend, mode=self.mode, dynamic=False)
        mine = _answers(lambda *a, **n: self._run(graph, *a, **n), graph, args, named)
        own = _answers(self.plain, graph, args, named)
        bound = LOW if key[2] is not None else TOLERANCE.get(own[0].dtype, LOW)
        for got, wanted, what in zip(mine, own, ("result", "derivative"), strict=False):
            error = float((got - wanted).norm() / wanted.norm().clamp_min(1e-6 * wanted.numel() ** 0.5))
            if not error <= bound:
                self._give_up(f"the {what} of the compiled {type(self.net).__name__} is another one ({error:.2g} away)")
                return False
        self._known.add(key)
        log.info(f"compiled {type(self.net).__name__} in {time.monotonic() - started:.0f} s")
        return True

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        log.warning(f"note: {reason}; sampling goes on without it")


def _answers(f: Callable[..., Any], graph: bool, args: Any, named: Any) -> list[Tensor]:
    """What a function returns, and where a graph is needed the derivative of its sum; nothing of it is kept."""
    if not graph:
        return [v.detach() for v in tree_iter(f(*args, **named)) if isinstance(v, Tensor)][:1]
    fresh = tree_map(
        lambda v: v.detach().clone().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v, (args, named)
    )
    leaves = [v for v in tree_iter(fresh) if isinstance(v, Tensor) and v.requires_grad]
    out = next(v for v in tree_iter(f(*fresh[0], **fresh[1])) if isinstance(v, Tensor))
    slope = torch.autograd.grad(out.float().square().sum(), leaves, allow_unused=True)[0]
    return [v.detach() for v in (out, slope) if v is not None]


def _autocast(tensors: list[Tensor]) -> torch.dtype | None:
    """In which precision a network computes that is called now; None: that of its weights."""
    place = tensors[0].device.type if tensors else "cpu"
    return torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None


def _inside_another() -> bool:
    """Whether something else looks at each operation of the network now: torch.func, forward derivatives, a compiler
    around it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
