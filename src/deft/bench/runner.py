"""Who does the jobs of a comparison: one process or several, on one machine or several that share a folder.

A job that is in the folder already is not done again. One that fails leaves a note in the folder and the others go on;
the same command tries it again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from deft.bench.jobs import do
from deft.bench.store import Job, Store
from deft.errors import LostError
from deft.runtime.messages import log

PATIENCE = 10.0
"""Seconds that processes have for their end when the work is broken off."""


def _begin(threads: int, parent: int) -> None:
    """What each process of a pool does first. It ends with its parent, also if that is killed, so that nobody works in
    a folder that is free by then; Ctrl-C is the parent's to hear."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _do(job: Job, folder: Path, device: str, trust_code: bool = False) -> None:
    """A job in a process of a pool; a fit that is told to end (SIGTERM) saves its state, and the process ends."""
    try:
        do(job, folder, device, trust_code)
    except KeyboardInterrupt:
        os._exit(130)


class Runner:
    """Whoever does the work: this process, so many of its children, or one of `parts` that share a folder; or nobody
    (`only_read`)."""

    def __init__(
        self,
        folder: Path,
        processes: int = 1,
        part: int = 0,
        parts: int = 1,
        progress: bool = True,
        only_read: bool = False,
        device: str = "cpu",
        trust_code: bool = False,
    ):
        self.store, self.folder, self.processes, self.part, self.parts = Store(folder), folder, processes, part, parts
        self.progress, self.only_read, self.device, self.trust_code = progress, only_read, device, trust_code
        self.failed: dict[str, str] = {}

    def has(self, work: Iterable[Job]) -> bool:
        return all(self.store.has(job) for job in work)

    def tried(self, work: Iterable[Job]) -> bool:
        """Whether all are done or have failed, and not all have failed."""
        work = list(work)
        return not work or (
            any(self.store.has(job) for job in work)
            and all(self.store.has(job) or job.key in self.failed for job in work)
        )

    def __call__(self, stage: str, work: Sequence[Job], *, by_one: bool = False) -> None:
        """Do what is missing of the work; returns when all of it is there. by_one: one process does it while all others
        wait."""
        work = list(dict.fromkeys(work))
        missing = self.store.missing(work)
        if self.only_read:
            return
        parts, processes = (1, 1) if by_one else (self.parts, self.processes)
        left = set(missing)
        mine = [job for i, job in enumerate(work) if i % parts == self.part and job in left]
        for job in mine:
            self.store.forgive(job)
        with tqdm(
            total=len(work), initial=len(work) - len(missing), desc=stage, unit="piece", disable=not self.progress
        ) as bar:
            if processes == 1 or len(mine) < 2:
                for job in mine:
                    bar.set_postfix_str(job.name[-40:])
                    do(job, self.folder, self.device, self.trust_code)
                    bar.update()
            else:
                self._spread(mine, bar)
            if self.parts > 1:
                self._wait(work, bar)
        for job in self.store.missing(work):
            self.failed[job.key] = self.store.failure(job) or "not done"
            log.warning(f"failed: {job.name}: {self.failed[job.key]}")

    def _spread(self, work: Sequence[Job], bar: Any) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        pool = ProcessPoolExecutor(
            self.processes, mp_context=context, initializer=_begin, initargs=(threads, os.getpid())
        )
        try:
            waiting = {pool.submit(_do, job, self.folder, self.device, self.trust_code) for job in work}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    bar.update()
        except BrokenProcessPool as error:
            raise LostError(
                "one of the processes died (out of memory? give fewer --jobs or a smaller batch); run the same command"
                " to resume"
            ) from error
        finally:
            workers = list((pool._processes or {}).values())
            for process in workers:  # an error or Ctrl-C waits no longer than a fit takes to save its state
                process.terminate()
            deadline = time.monotonic() + PATIENCE
            for process in workers:
                process.join(max(0.0, deadline - time.monotonic()))
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)

    def _wait(self, work: Sequence[Job], bar: Any) -> None:
        """Until the others' pieces are there as well, or have failed."""
        while missing := [job for job in self.store.missing(work) if self.store.failure(job) is None]:
            bar.n = len(work) - len(missing)
            bar.refresh()
            time.sleep(1.0)
