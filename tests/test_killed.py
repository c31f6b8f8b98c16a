"""kill -9 at any moment, a full disk, files with more in them than tensors: nothing saved is lost, nothing is run."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import sys
import time

import numpy as np
import pytest
import torch

from deft import (
    DEFT,
    DenoisingObjective,
    FitConfig,
    Gaussian,
    Mask,
    NetworkDenoiser,
    Observation,
    VPCosine,
    fit,
    freeze,
)
from deft.errors import CheckpointError, InputError
from deft.io.files import load_state, load_weights, save_weights, write_text
from deft.nn import MLP
from deft.train.data import Clean
from toys import pictures, refused, run, save_pictures, toy_prior

D, CPU = 6, torch.device("cpu")
X = torch.randn(64, D, generator=torch.Generator().manual_seed(0))
LIKE = Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])), 0.2)
CONFIG = FitConfig(steps=400, batch=8, warmup=2, evaluations=1, saves=200, held_out_batches=1, ema=0.9)


class Task:
    def observe(self, x, noise):
        return Observation(LIKE.sample(x, noise), LIKE)


def one_fit(folder, resume):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    prior = freeze(NetworkDenoiser(MLP(D, D, width=16), VPCosine(), (D,)))
    h = DEFT((D,), 2, width=16)
    fit(
        h,
        DenoisingObjective(prior),
        Clean(X, Task()),
        Clean(X[:8], Task()),
        config=CONFIG,
        folder=folder,
        resume=resume,
        device="cpu",
        progress=False,
    )
    torch.save(h.state_dict(), folder / "done.pt")


def child(folder, resume):
    signal.alarm(120)
    one_fit(folder, resume)
    os._exit(0)


def wait_for_a_save(process, path):
    def stamp():
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return None

    before = stamp()
    while process.is_alive() and stamp() == before:
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_twenty_kills(tmp_path):
    """SIGKILL at twenty random moments of a fit, resume each time: the weights of an uninterrupted one, bit for bit."""
    fork = multiprocessing.get_context("fork")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child must not wait for threads it does not have
    try:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        whole.mkdir(), killed.mkdir()
        one_fit(whole, False)  # here, so that what a first fit imports is there for every fork
        rng, kills, reached, tries = random.Random(0), 0, [], 0
        while not (killed / "done.pt").exists() and tries < 200:
            process = fork.Process(target=child, args=(killed, (killed / "state.pt").exists()))
            process.start()
            tries += 1
            if kills < 20:
                for _ in range(rng.randint(1, 4)):  # a few saves later, and then at any moment
                    wait_for_a_save(process, killed / "state.pt")
                time.sleep(rng.uniform(0, 0.02))
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
            process.join()
            if (killed / "state.pt").exists():
                reached.append(load_state(killed / "state.pt", CPU)["step"])  # readable, whenever the blow fell
        assert kills == 20 and len(set(reached)) > 3, (kills, reached)
        expected, got = (torch.load(f / "done.pt", weights_only=True) for f in (whole, killed))
        assert all(torch.equal(v, got[k]) for k, v in expected.items())
        assert [p.name for p in killed.iterdir() if p.name.startswith(".")] == []
    finally:
        torch.set_num_threads(threads)


def test_a_full_disk_loses_nothing(tmp_path):
    """The file-size limit stands in for a full disk: the write fails, the file that was there stays whole."""
    path = tmp_path / "h.safetensors"
    save_weights(path, {"w": torch.ones(10)}, {"kind": "first"})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=r"cannot write .*; free some space"):
            save_weights(path, {"w": torch.ones(100_000)}, {"kind": "second"})
        with pytest.raises(InputError, match="cannot write"):
            write_text(tmp_path / "report.md", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before and load_weights(path)[1] == {"kind": "first"}
    assert [p.name for p in tmp_path.iterdir()] == ["h.safetensors"]


class Evil:
    """What a malicious pickle does when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def test_no_pickle_is_run(capsys, tmp_path):
    """Weights, states, arrays: every reader refuses, in one line, what would run code."""
    trace = tmp_path / "it ran"
    torch.save({"w": Evil(trace)}, tmp_path / "weights.pt")
    assert "--trust-pickle" in refused(capsys, "prior", "inspect", tmp_path / "weights.pt")
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(Evil(trace)))
    refused(capsys, "prior", "inspect", tmp_path / "weights.safetensors")
    refused(capsys, "info", tmp_path / "weights.safetensors")
    (tmp_path / "network.pkl").write_bytes(pickle.dumps(Evil(trace)))
    assert "holds code" in refused(capsys, "prior", "inspect", tmp_path / "network.pkl")
    torch.save({"config": Evil(trace)}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError):
        load_state(tmp_path / "state.pt", CPU)
    np.savez(tmp_path / "images.npz", x=np.array([Evil(trace)], dtype=object))
    toy_prior(tmp_path / "toy.safetensors")
    refused(
        capsys,
        "fit",
        "--prior",
        tmp_path / "toy.safetensors",
        "--data",
        tmp_path / "images.npz",
        "--out",
        tmp_path / "run",
    )
    np.save(tmp_path / "image.npy", np.array([Evil(trace)], dtype=object))
    refused(
        capsys,
        "sample",
        "--prior",
        tmp_path / "toy.safetensors",
        "--task",
        "denoise",
        "--measurement",
        tmp_path / "image.npy",
        "--out",
        tmp_path / "o",
    )
    assert not trace.exists()


def test_a_trusted_pickle(capsys, tmp_path):
    """trust_pickle reads what weights_only does not, and says what the file lacks to be a prior."""
    trace = tmp_path / "it ran"
    torch.save({"w": Evil(trace)}, tmp_path / "weights.pt")
    refused(capsys, "prior", "inspect", tmp_path / "weights.pt", "--trust-pickle")
    assert trace.exists()


def test_no_unsafe_loader_in_the_sources():
    """torch.load without weights_only=True, numpy with allow_pickle, pickle.load: in one place, behind trust_pickle;
    and in one more with an unpickler that runs nothing (tests/test_edm.py)."""
    from pathlib import Path

    import deft

    found, inert = [], 0
    for path in Path(deft.__file__).parent.rglob("*.py"):
        for line in path.read_text().splitlines():
            inert += "torch.load(" in line and "pickle_module=INERT)" in line
            if "torch.load(" in line and "weights_only=True" not in line and "pickle_module=INERT)" not in line:
                found.append(f"{path.name}: {line.strip()}")
            if "allow_pickle=True" in line or "pickle.load" in line:
                found.append(f"{path.name}: {line.strip()}")
    assert all("trust_pickle" in f for f in found) and len(found) <= 1 and inert == 1, found


def test_a_card_writes_nowhere(capsys, tmp_path):
    """Names in a card are text: none of them is where anything is written."""
    toy_prior(tmp_path / "toy.safetensors")
    images = save_pictures(tmp_path / "images", pictures(6))
    assert (
        run(
            capsys,
            "fit",
            "--prior",
            tmp_path / "toy.safetensors",
            "--data",
            images,
            "--steps",
            1,
            "--batch",
            2,
            "--bank",
            0,
            "--size",
            0.5,
            "--out",
            tmp_path / "run",
        )[0]
        == 0
    )
    tensors, card = load_weights(tmp_path / "run/h.safetensors")
    card |= {"out": "../../escaped", "name": "../../escaped", "picture": "/escaped.png"}
    card["task"] = dict(card["task"])
    save_weights(tmp_path / "run/h.safetensors", tensors, card)
    here = set(tmp_path.rglob("*"))
    assert (
        run(
            capsys,
            "evaluate",
            tmp_path / "run",
            "--data",
            images,
            "--samples",
            1,
            "--steps",
            1,
            "--methods",
            "deft",
            "--out",
            tmp_path / "report",
        )[0]
        == 0
    )
    assert all((tmp_path / "report") in (p, *p.parents) for p in set(tmp_path.rglob("*")) - here)
    assert json.loads((tmp_path / "report/report.json").read_text())["rows"]


@pytest.mark.parametrize("prior", ["subprocess:run", "os:system", "mine.py:make", "http://127.0.0.1:9/", "owner/model"])
def test_a_card_runs_nothing_and_calls_nobody(capsys, tmp_path, monkeypatch, prior):
    """A stranger's card that names a function, a URL or a hub id as its prior, with or without a slash in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def make(**options):\n    open('it ran', 'w')\n")
    card = {
        "kind": "h-transform",
        "prior": prior,
        "prior_options": ["args=touch", "command=touch ran"],
        "prior_sha256": "0",
        "h": {},
        "task": {"name": "denoise"},
    }
    save_weights(tmp_path / "h.safetensors", {"w": torch.zeros(1)}, card)
    says = refused(capsys, "evaluate", tmp_path / "h.safetensors", "--data", "fashion", "--out", tmp_path / "r")
    assert "a card alone is not trusted to load: give it with --prior" in says
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.safetensors", "mine.py"]
