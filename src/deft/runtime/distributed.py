"""More than one process: what the rest of the library needs to know of the others.

A launcher (`accelerate launch`, `torchrun`, `mpirun`) starts the same program several times. `get_world()` is a
process's place among them; without a launcher it is a `World` of one, in which every question is answered at once and
accelerate is not imported. Every process runs the same lines; the main one (rank 0) alone writes and speaks.

Processes wait for each other in exchanges, and one that failed between two of them would be waited for in vain. So
each exchange begins with an agreement: whoever has an error enters it with the error, and all raise it
(`World.together`).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deft.errors import DeftError, InputError, LostError
from deft.runtime.launchers import launched
from deft.runtime.signals import interrupt, note

J = TypeVar("J")
T = TypeVar("T")

TIMEOUT = 300.0
"""Seconds a process waits for the others before it gives the run up, unless DEFT_TIMEOUT says otherwise."""


class World:
    """One process alone; the interface of all.

    rank, size: this process's number, and how many there are. main: rank 0, which writes files and shows bars.
    speaks: whether an error is this process's to print. device: where it computes, None to choose.
    precision: what the launcher asked for: "no", "bf16", "fp16", "fp8".
    """

    rank, size = 0, 1

    def __init__(self) -> None:
        self.speaks = os.environ.get("RANK", "0") == "0"
        self.precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
        self.device = torch.device("cpu") if _flag("ACCELERATE_USE_CPU") else None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def parts(self, n: int, pieces: int = 1) -> list[range]:
        """This process's rows of a batch of n, in `pieces` consecutive pieces; sizes differ by one row at most.

        >>> World().parts(5, 2)
        [range(0, 2), range(2, 5)]
        """
        every = self.size * pieces
        if n < every:
            raise InputError(
                f"a batch of {n} cannot be split into {every} parts ({pieces} on each of {self.size} processes): give a"
                f" batch of at least {every}, or fewer parts (accumulate)"
            )
        ends = [n * i // every for i in range(every + 1)]
        return [range(ends[i], ends[i + 1]) for i in range(self.rank * pieces, (self.rank + 1) * pieces)]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that ends well on every process or raises on every process, with the first one's error."""
        yield

    def agree(self, error: Exception | None) -> None:
        """Raise the error of the first process that has one, on every process."""
        if error is not None:
            raise error

    def pulse(self, stop: bool, clock: float) -> tuple[bool, float]:
        """(whether any process was asked to stop, the latest clock): a decision that must be the same everywhere."""
        return stop, clock

    def total(self, value: float) -> float:
        """Sum of a number over the processes."""
        return value

    def sum_gradients(self, parameters: Sequence[nn.Parameter], value: Tensor) -> Tensor:
        """Replace each gradient by its sum over the processes, in one message; return the sum of the scalar `value`."""
        return value

    def same_weights(self, module: nn.Module) -> None:
        """Give every process the main one's parameters and buffers."""

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make()` returns on the main process, on every process (tensors on the CPU)."""
        return make()

    def share(self, jobs: Sequence[J], do: Callable[[J], T]) -> Iterator[T]:
        """do(job) of every job, in order, on every process; each job is done by one of them.

        Each process calls `do` equally often (the last job may be done by several), for a sharded network is called
        by all or by none. Results that are tensors must be on the CPU where there are several processes.
        """
        return map(do, jobs)

    def missing(self) -> list[int]:
        """Processes that do not answer a roll call; for the message of a run that is coming to an end."""
        return []

    @contextmanager
    def stopping(self) -> Iterator[Callable[[], bool]]:
        """Turn SIGTERM into Ctrl-C, so that a fit that is told to end saves its state first.

        The value asks whether to stop. One process is interrupted at once (KeyboardInterrupt) and never asks;
        of several, each takes note and all stop after the same step.
        """
        with _signals({signal.SIGTERM: interrupt}):
            yield lambda: False

    def close(self) -> None:
        """Leave the others in good order."""


class Processes(World):
    """One of several processes, which meet through accelerate's `PartialState`.

    Small things (decisions, numbers, results) travel through the CPU (gloo), gradients through the device's own
    backend (NCCL on CUDA). An exchange that fails raises `LostError`, which names who did not answer.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise InputError(
                "this program was started as one of several processes, which needs accelerate: pip install"
                " 'deft-diffusion[distributed]'"
            ) from error
        for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
            if _flag(name):
                raise InputError(
                    f"{name} is set: only h is trained, and it is small; launch with --multi_gpu, and use --shard-prior"
                    " for a large prior"
                )
        import torch.distributed as dist

        self._dist, self._timeout, self._raised, self._lost = dist, _timeout(), None, False
        wait = timedelta(seconds=self._timeout)
        try:
            state = PartialState(cpu=_flag("ACCELERATE_USE_CPU") or not torch.cuda.is_available(), timeout=wait)
            # nothing on the CPU can go through NCCL
            self._cpu = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=wait)
        except (RuntimeError, ValueError) as error:
            raise LostError(
                f"the processes did not find each other within {self._timeout:g} s"
                f" ({' '.join(str(error).split())[:200]})"
            ) from error
        self.rank, self.size = state.process_index, state.num_processes
        self.device = torch.device("cpu") if state.device.type == "cpu" else state.device
        self.speaks = self.main

    _raised: BaseException | None

    @contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except LostError:
            raise
        except Exception as error:
            self.agree(error)
        else:
            self.agree(None)

    def agree(self, error: Exception | None) -> None:
        if error is not None and any(e is self._raised for e in _causes(error)):  # all know
            raise error
        self._pulse(error, False, 0.0)

    def pulse(self, stop: bool, clock: float) -> tuple[bool, float]:
        return self._pulse(None, stop, clock)

    def _pulse(self, error: Exception | None, stop: bool, clock: float) -> tuple[bool, float]:
        """The agreement; one message for all its uses, so that whoever fails is heard wherever the others are."""
        out = torch.tensor([error is not None, stop, clock], dtype=torch.float64)
        self._exchange(self._dist.all_reduce, out, op=self._dist.ReduceOp.MAX, group=self._cpu)
        failed, stopped, clock = out.tolist()
        if failed:
            kind = DeftError if error is None or not isinstance(error, DeftError) else type(error)
            said = (
                None
                if error is None
                else (kind, f"{'' if kind is not DeftError else type(error).__name__ + ': '}{error}")
            )
            rank, first = next((i, e) for i, e in enumerate(self._everyones(said)) if e is not None)
            if error is None or (isinstance(error, DeftError) and rank != self.rank):
                kind, text = first
                error = kind(text if kind is not DeftError else f"rank {rank} failed with {text}")
            self._raised = error
            raise error
        return bool(stopped), clock

    def total(self, value: float) -> float:
        out = torch.tensor([value], dtype=torch.float64)
        self._exchange(self._dist.all_reduce, out, group=self._cpu)
        return float(out)

    def sum_gradients(self, parameters: Sequence[nn.Parameter], value: Tensor) -> Tensor:
        for p in parameters:
            if p.grad is None:  # no row of this process used it; another's may have
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([value.detach().reshape(1), *(g.reshape(-1) for g in gradients)])
        self._exchange(self._dist.all_reduce, flat, group=self._group(flat))
        first, *rest = flat.split([1, *(g.numel() for g in gradients)])
        for gradient, summed in zip(gradients, rest, strict=True):
            gradient.copy_(summed.view_as(gradient))
        return first.reshape(()).to(value.dtype)

    def same_weights(self, module: nn.Module) -> None:
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.numel():
                    whole = tensor.contiguous()
                    self._exchange(self._dist.broadcast, whole, 0, group=self._group(whole))
                    tensor.copy_(whole)

    def from_main(self, make: Callable[[], T]) -> T:
        box: list[Any] = [None]
        with self.together():
            if self.main:
                box[0] = make()
        self._exchange(self._dist.broadcast_object_list, box, 0, group=self._cpu)
        return box[0]

    def share(self, jobs: Sequence[J], do: Callable[[J], T]) -> Iterator[T]:
        for low in range(0, len(jobs), self.size):
            with self.together():
                result = do(jobs[min(low + self.rank, len(jobs) - 1)])
            yield from self._everyones(result)[: len(jobs) - low]

    def _everyones(self, value: Any) -> list[Any]:
        out: list[Any] = [None] * self.size
        self._exchange(self._dist.all_gather_object, out, value, group=self._cpu)
        return out

    def _group(self, tensor: Tensor) -> Any:
        return self._cpu if tensor.device.type == "cpu" else None

    def _exchange(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except RuntimeError as error:
            late = "tim" in str(error).lower()  # timed out, timeout
            self._lost, gone = True, self.missing()
            who = f"rank {', '.join(map(str, gone))} of {self.size}" if gone else "another process"
            how = f"did not answer within {self._timeout:g} s (DEFT_TIMEOUT)" if late else "was lost"
            raise LostError(f"{who} {how}") from error

    def missing(self, min_wait: float = 1.0, max_wait: float = 5.0) -> list[int]:
        """The roll: who ends writes its number down, waits a little and reads who has not."""
        # the launcher ends the others, and a message is to be finished
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        started = time.monotonic()
        gone = [i for i in range(self.size) if i != self.rank]
        try:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = self._dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=max_wait))
            store.set(f"deft/ends/{self.rank}", "1")
            while (
                gone and (spent := time.monotonic() - started) < max_wait and not (len(gone) == 1 and spent > min_wait)
            ):
                time.sleep(0.05)
                gone = [i for i in gone if not store.check([f"deft/ends/{i}"])]
        except (RuntimeError, KeyError):  # the roll is kept by the launcher or by rank 0: gone with its host
            gone = [0] if self.rank else gone
        self.speaks = self.rank == min(set(range(self.size)) - set(gone))
        return gone

    @contextmanager
    def stopping(self) -> Iterator[Callable[[], bool]]:
        asked = threading.Event()

        def take_note(number: int, frame: Any) -> None:
            note(number)
            asked.set()

        # a launcher passes Ctrl-C on, so it comes twice; and a run that ends early has a message to finish
        with _signals({signal.SIGTERM: take_note, signal.SIGINT: take_note}, after_errors=False):
            yield asked.is_set

    def close(self) -> None:
        if self._dist.is_initialized() and not (self._lost and self._cpu is not None):  # NCCL may wait for the dead
            self._dist.destroy_process_group()


@cache
def launched_world() -> World:
    """This process's place among those that a launcher started; a `World` of one without a launcher.

    Raises:
        InputError: a launcher, but no accelerate, or settings of it that are not for this library.
        LostError: the processes did not find each other.
    """
    return Processes() if launched() else World()


_alone: ContextVar[World | None] = ContextVar("alone", default=None)


def get_world() -> World:
    """The processes this one works with: those that were launched, or none within `alone()`."""
    return _alone.get() or launched_world()


@contextmanager
def alone() -> Iterator[World]:
    """A block in which this process works, and writes files, by itself, whatever a launcher started."""
    world = World()
    token = _alone.set(world)
    try:
        yield world
    finally:
        _alone.reset(token)


def launch_note() -> str | None:
    """What to say to a person who asked accelerate for several processes on CPUs and got one."""
    if get_world().size == 1 and _flag("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ:
        return (
            "note: this is one process: `accelerate launch --cpu` starts several through MPI alone (--mpirun_hostfile);"
            " without MPI launch with --multi_gpu (and ACCELERATE_USE_CPU=1 where there is a GPU), or with torchrun"
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def _timeout() -> float:
    text = os.environ.get("DEFT_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"DEFT_TIMEOUT must be a number of seconds above 0, got {text!r}")
    return seconds


@contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[int, Any], Any]], after_errors: bool = True) -> Iterator[None]:
    """Handlers for the time of a block, where there may be any (the main thread); restored after errors if asked to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except BaseException:
        if after_errors:
            _restore(before.items())
        raise
    _restore(before.items())


def _restore(handlers: Iterable[tuple[signal.Signals, Any]]) -> None:
    for number, handler in handlers:
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
