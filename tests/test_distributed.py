"""Several processes are one process: the same gradients, fits and samples; a process that dies ends the run with a
line.

Real processes over gloo, started by accelerate's own launcher. Without GPUs it starts several with --multi_gpu alone:
with --cpu it wants an MPI.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deft import FitConfig, VPCosine, fit
from deft.core.random import BatchNoise, RowNoise
from deft.errors import InputError
from deft.runtime.distributed import World, get_world, launch_note
from deft.runtime.shard import shard
from deft.train.cache import PredictionCache
from deft.train.data import Clean, Pairs
from deft.train.denoising import draw_times
from deft.train.fit import Interrupted, launched_config
from processes import Task, X, fitted, parts
from toys import pictures, run, save_pictures, toy_prior

pytest.importorskip("accelerate")
HERE = Path(__file__).parent
LAUNCH = [
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_machines",
    "1",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DEFT_TIMEOUT": "60", **extra}


def start(
    size: int, *command: object, precision: str = "no", limit: float = 100, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as `size` processes; one of them needs no launcher."""
    launcher = [*LAUNCH, "--mixed_precision", precision, "--num_processes", str(size)] if size > 1 else []
    line = [sys.executable, *launcher, *map(str, command)]
    return subprocess.run(line, env=environment(**extra), capture_output=True, text=True, timeout=limit)


def said(done: subprocess.CompletedProcess[str], word: str) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(word)]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[int, dict[str, Any]]:
    """What 1, 2 and 3 processes return for the same cases."""
    out = tmp_path_factory.mktemp("processes")
    with pytest.raises(Interrupted):
        fitted(out / "half", objective=_Stops(parts()[1], 6))
    cases = {
        1: ["gradients", "fit", "samples", "errors", "sharded"],
        2: ["gradients", "fit", "samples", "errors", "sharded", "resumed"],
    }
    cases[3] = ["gradients", "samples", "errors"]
    results = {}
    for size, names in cases.items():
        done = start(size, HERE / "processes.py", out, *names)
        assert done.returncode == 0, done.stderr
        results[size] = torch.load(out / f"{size}.pt", weights_only=False)
    return results


class _Stops:
    """An objective that is interrupted at its training call number `at`."""

    def __init__(self, objective, at):
        self.objective, self.at, self.calls = objective, at, 0

    def __call__(self, module, batch, noise):
        self.calls += module.training
        if module.training and self.calls == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.objective(module, batch, noise)


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest relative distance of two lists of tensors."""
    assert len(one) == len(other) > 10
    return max(float((a - b).norm() / a.norm().clamp_min(1e-8)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("kind", "most"), [("plain", 1e-5), ("accumulated", 1e-5), ("streams", 1e-5), ("bf16", 0.02)])
def test_gradients_are_those_of_one_process(found, size, kind, most):
    """A batch of 13 over 2 and 3 processes (and 2 parts each): the gradient of the mean over all 13."""
    assert distance(found[1]["gradients"][kind], found[size]["gradients"][kind]) < most


def test_accumulated_gradients_are_those_of_the_whole_batch(found):
    for size in (1, 2, 3):
        assert distance(found[1]["gradients"]["plain"], found[size]["gradients"]["accumulated"]) < 1e-5
    # other numbers are seen to be others
    assert distance(found[1]["gradients"]["plain"], found[1]["gradients"]["streams"]) > 1e-2


@pytest.mark.parametrize("kind", ["plain", "accumulated"])
def test_a_fit_is_that_of_one_process(found, kind):
    """Ten steps, from different weights on each process: the same weights to 1e-4 of the way they went, the same
    history."""
    one, two = found[1]["fit"]["plain"], found[2]["fit"][kind]
    begun = [p.detach() for p in parts()[0].parameters()]
    away = max(
        float((a - b).norm() / (a - c).norm().clamp_min(1e-6))
        for a, b, c in zip(one["weights"], two["weights"], begun, strict=True)
    )
    assert away < 1e-4
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert one["held_out"] == pytest.approx(two["held_out"], rel=1e-5)


def test_accelerate_is_for_several_processes(found):
    assert not found[1]["accelerate"] and found[2]["accelerate"]


@pytest.mark.parametrize("size", [2, 3])
def test_samples_are_the_same_bit_for_bit(found, size):
    """10 samples in batches of 3, convolutions and all; so is a bank of predictions, and what one process draws
    alone."""
    for name, expected in found[1]["samples"].items():
        assert torch.equal(found[size]["samples"][name], expected), name


@pytest.mark.parametrize("size", [2, 3])
def test_an_error_of_one_is_an_error_of_all(found, size):
    every = found[size]["errors"]["said"]
    assert [e["nan"] for e in every] == ["the loss became nan at step 0: lower --lr, or check the data"] * size
    assert [e["other"] for e in every] == [f"DeftError: rank {size - 1} failed with KeyError: 'of its own'"] * (
        size - 1
    ) + ["KeyError: 'of its own'"]
    assert {e["batch"] for e in every} == {
        f"a batch of {2 * size - 1} cannot be split into {2 * size} parts (2 on each of {size} processes): give a batch"
        f" of at least {2 * size}, or fewer parts (accumulate)"
    }


def test_a_sharded_prior_is_the_prior(found):
    """Each of two processes holds half, before and after a forward and a backward pass, and everything else is as
    before."""
    one, two = found[1]["sharded"], found[2]["sharded"]
    torch.testing.assert_close(two["prediction"], one["prediction"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two["gradient"], one["gradient"], rtol=1e-4, atol=1e-5)
    assert (two["size"], two["fingerprint"]) == (one["size"], one["fingerprint"])
    assert all(one["size"] / 2 <= held < 0.51 * one["size"] for held in two["held"])
    assert distance(one["fit"]["weights"], two["fit"]["weights"]) < 1e-5


def test_a_fit_is_resumed_by_another_number_of_processes(found):
    """One process is told to end in step 6 (SIGTERM); two go on: the weights of a fit that was never stopped."""
    assert distance(found[1]["fit"]["plain"]["weights"], found[2]["resumed"]["fit"]["weights"]) < 1e-5
    assert len(found[2]["resumed"]["fit"]["history"]) == len(found[1]["fit"]["plain"]["history"])
    assert found[2]["resumed"]["said"].startswith("nothing to resume")


# the command line


@pytest.fixture
def things(tmp_path):
    """A prior, a folder of pictures, a mask, and the arguments of a short fit."""
    prior, photos = toy_prior(tmp_path / "prior.safetensors"), save_pictures(tmp_path / "photos", pictures(24))
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:12, 4:12] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    short = ["--steps", 12, "--batch", 8, "--warmup", 2, "--bank", 0, "--size", 0.5, "--device", "cpu"]
    return tmp_path, ["fit", "--prior", prior, "--data", photos, *short]


def weights(folder: Path) -> list[Tensor]:
    return list(torch.load(folder / "state.pt", weights_only=True)["raw"].values())


def test_a_killed_process_ends_the_run_with_a_line_and_the_run_goes_on(things, capsys):
    """SIGKILL in step 7 of 12: one line within 30 s that names the process; one process resumes to the same weights."""
    folder, arguments = things
    began = time.monotonic()
    done = start(
        2, HERE / "processes.py", "deft", *arguments, "--out", folder / "run", AT="7", HIT=str(int(signal.SIGKILL))
    )
    assert time.monotonic() - began < 60 and done.returncode != 0  # starting takes its part of it
    (line,) = said(done, "error: ")
    assert line.startswith(
        f"error: rank 1 of 2 was lost at step 6 of 12; saved in {folder / 'run'}; resume with: accelerate launch ... -m"
        " deft fit "
    )
    assert line.endswith("--resume")
    assert run(capsys, *arguments, "--out", folder / "whole")[0] == 0
    code, _, err = run(capsys, *arguments, "--out", folder / "run", "--resume")
    assert code == 0, err
    assert distance(weights(folder / "whole"), weights(folder / "run")) < 1e-4
    log = json.loads((folder / "run" / "log.json").read_text())
    assert [row["step"] for row in log["history"]] == [
        row["step"] for row in json.loads((folder / "whole" / "log.json").read_text())["history"]
    ]


def test_sampling_from_the_command_line(things, capsys):
    """`accelerate launch -m deft sample`: the samples of one process, said and written once."""
    folder, arguments = things
    save_pictures(folder / "one", pictures(1))
    command = [
        "sample",
        "--prior",
        arguments[2],
        "--task",
        "inpaint",
        "--method",
        "pigdm",
        "--measurement",
        folder / "one" / "000.png",
    ]
    command += ["--mask", folder / "mask.png", "-n", 5, "--batch", 2, "--steps", 3, "--device", "cpu"]
    done = start(2, "-m", "deft", *command, "--out", folder / "two", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 5
    assert run(capsys, *command, "--out", folder / "alone")[0] == 0
    one, two = (np.load(folder / name / "samples.npz")["samples"] for name in ("alone", "two"))
    assert np.array_equal(one, two)


@pytest.mark.slow
def test_evaluating_and_training_a_prior_from_the_command_line(things, capsys):
    folder, arguments = things
    command = [
        "evaluate",
        "--prior",
        arguments[2],
        "--data",
        arguments[4],
        "--methods",
        "pigdm,prior",
        "--images",
        5,
        "--samples",
        2,
    ]
    command += ["--batch", 3, "--steps", 3, "--device", "cpu"]
    assert run(capsys, *command, "--out", folder / "alone")[0] == 0
    one = np.load(folder / "alone" / "samples.npz")
    for name, extra in (("two", []), ("sharded", ["--shard-prior"])):
        done = start(2, "-m", "deft", *command, *extra, "--out", folder / name, "--json")
        assert done.returncode == 0, done.stderr
        assert {row["method"] for row in json.loads(done.stdout)["rows"]} == {"pigdm", "prior"}
        two = np.load(folder / name / "samples.npz")
        for key in one.files:  # sharded weights lie in another order in memory, and the file holds half precision
            np.testing.assert_allclose(one[key], two[key], rtol=2e-3 if extra else 0, atol=1e-4 if extra else 0)

    command = [
        "prior",
        "train",
        "--data",
        arguments[4],
        "--widths",
        "16,24",
        "--patch",
        4,
        "--steps",
        4,
        "--batch",
        7,
        "--evaluations",
        1,
        "--device",
        "cpu",
    ]
    done = start(2, "-m", "deft", *command, "--accumulate", 2, "--streams", "--out", folder / "p2", precision="bf16")
    assert done.returncode == 0, done.stderr
    assert run(capsys, *command, "--streams", "--bf16", "--out", folder / "p1")[0] == 0
    assert distance(weights(folder / "p1"), weights(folder / "p2")) < 1e-2


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(things):
    folder, arguments = things
    done = start(
        3, HERE / "processes.py", "deft", *arguments, "--out", folder / "run", AT="7", HIT=str(int(signal.SIGTERM))
    )
    (line,) = said(done, "stopped")
    assert "stopped at step 7 of 12; saved in" in line and line.endswith("--resume")


@pytest.mark.slow
def test_a_frozen_process_is_waited_for_no_longer_than_the_timeout(things):
    """A process that stands still (SIGSTOP) with DEFT_TIMEOUT=8; accelerate gives it 30 s more to end by itself."""
    folder, arguments = things
    done = start(
        2,
        HERE / "processes.py",
        "deft",
        *arguments,
        "--out",
        folder / "run",
        AT="7",
        HIT=str(int(signal.SIGSTOP)),
        DEFT_TIMEOUT="8",
    )
    (line,) = said(done, "error: ")
    assert line.startswith("error: rank 1 of 2 did not answer within 8 s (DEFT_TIMEOUT) at step 6 of 12; saved in")


@pytest.mark.slow
def test_a_mistake_in_the_command_line_is_said_once(things):
    folder, arguments = things
    done = start(2, "-m", "deft", *arguments, "--out", folder / "run", precision="fp16")
    assert said(done, "error: ") == [
        "error: --mixed_precision fp16 is not supported, only bf16 and no: give bf16, which needs no loss scaling"
    ]
    assert not (folder / "run").exists()


# one process


def test_parts_of_a_batch():
    """Every row once, in order, in parts that differ by a row at most; too few rows are refused."""

    class Of(World):
        def __init__(self, rank, size):
            super().__init__()
            self.rank, self.size = rank, size

    for n, size, pieces in ((13, 3, 2), (6, 3, 2), (8, 1, 1), (7, 2, 1)):
        every = [part for rank in range(size) for part in Of(rank, size).parts(n, pieces)]
        assert [i for part in every for i in part] == list(range(n))
        assert max(map(len, every)) - min(map(len, every)) <= 1
    with pytest.raises(InputError, match=r"batch of 5 .* 6 parts \(2 on each of 3 processes\).* at least 6"):
        Of(0, 3).parts(5, 2)


@pytest.mark.parametrize("source", [BatchNoise, RowNoise])
def test_a_part_has_the_numbers_of_the_whole(source):
    """Random numbers, noise levels and data: rows 3 to 7 of 10, drawn alone, are rows 3 to 7."""
    rows, cpu = range(3, 7), torch.device("cpu")
    whole, part = source(10, 1, 2), source(10, 1, 2, rows=rows)
    assert (len(part), part.total) == (4, 10)
    for shape in ((), (2, 3)):
        assert torch.equal(part.uniform(shape), whole.uniform(shape)[3:7])
        assert torch.equal(part.normal(shape), whole.normal(shape)[3:7])
    times = [draw_times(VPCosine(), source(10, 5, rows=r), 3.0, 0.5) for r in (rows, None)]
    assert torch.equal(times[0], times[1][3:7])
    pairs = Pairs(X, Task().observe(X, BatchNoise(len(X), 0)))
    for data in (Clean(X, Task()), pairs, PredictionCache.build(parts()[1].prior, X, Task(), 20)):
        for step in (4, -2):
            a = data.draw(10, 0, step, cpu, rows=rows, source=source)
            b = data.draw(10, 0, step, cpu, source=source)
            assert torch.equal(a.x, b.x[3:7]) and torch.equal(a.observation.y, b.observation.y[3:7])


def test_streams_are_standard_normal_and_apart():
    z = RowNoise(400, 7).normal((50,))
    assert abs(float(z.mean())) < 4 / z.numel() ** 0.5 and abs(float(z.var()) - 1) < 4 * (2 / z.numel()) ** 0.5
    assert not torch.equal(z[0], z[1]) and not torch.equal(RowNoise(1, 8).normal((50,))[0], z[0])


def test_precision_is_the_launchers(monkeypatch):
    for value, wanted in (("no", False), ("bf16", True)):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
        assert launched_config(FitConfig(), World()).bf16 is wanted
        assert launched_config(FitConfig(bf16=True), World()).bf16
    for value in ("fp16", "fp8"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
        with pytest.raises(InputError, match=rf"--mixed_precision {value} is not supported"):
            launched_config(FitConfig(), World())


def test_one_process_where_several_were_wanted_is_said(monkeypatch):
    assert get_world().size == 1 and launch_note() is None
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "this is one process" in (launch_note() or "")
    assert World().device == torch.device("cpu")


def test_one_process_cannot_shard():
    with pytest.raises(InputError, match=r"leave --shard-prior out"):
        shard(parts()[1].prior)


def test_accumulate_may_change_in_a_resumed_fit(tmp_path):
    """How a batch is split is no setting of the fit; an older state that has not heard of it is resumed, too."""
    h, objective = parts()
    with pytest.raises(Interrupted):
        fitted(tmp_path, h=h, objective=_Stops(objective, 6))
    path = tmp_path / "state.pt"
    state = torch.load(path, weights_only=True)
    state["config"] = {k: v for k, v in state["config"].items() if k not in ("accumulate", "streams")}
    torch.save(state, path)
    resumed, whole = fitted(tmp_path, resume=True, accumulate=3), fitted()
    assert distance(whole["weights"], resumed["weights"]) < 1e-5


def test_after_a_fit_signals_are_as_before(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    h, objective = parts()
    fit(h, objective, Clean(X, Task()), config=FitConfig(steps=1, batch=4), device="cpu", progress=False)
    with pytest.raises(Interrupted):
        fitted(tmp_path, objective=_Stops(objective, 2))
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
