"""`deft sample` of more than one batch: what is drawn is written, and a run that was killed goes on after it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import deft
from deft.errors import CheckpointError, InputError
from deft.io import drawn
from deft.io.drawn import DrawnFile
from deft.io.tasks import get_task
from deft.kinds.draws import Draws
from deft.methods import Plan, plan
from deft.methods.drawing import ParticleSettings
from deft.workflow import sampling
from deft.workflow.sampling import Sampling, by_blocks, spread_of
from toys import refused, run, toy_prior

N, BATCH = 11, 4


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A prior, a photo with its mask, and what an uninterrupted run writes."""
    here = tmp_path_factory.mktemp("kept")
    toy_prior(here / "prior.safetensors")
    gray = np.random.default_rng(0).integers(0, 255, (16, 16)).astype("uint8")
    Image.fromarray(gray).save(here / "photo.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 4:10] = 0
    Image.fromarray(mask).save(here / "mask.png")
    return here


def line(shop, out, *more):
    seen = ["--measurement", shop / "photo.png", "--mask", shop / "mask.png", "--steps", 2, "--method", "pigdm"]
    return ["sample", "--prior", shop / "prior.safetensors", *seen, "-n", N, "--batch", BATCH, "--out", out, *more]


@pytest.fixture(scope="module")
def whole(shop):
    from deft.cli import main

    assert main([str(a) for a in line(shop, shop / "whole")]) == 0
    return contents(shop / "whole")


def contents(folder):
    """Every file's bytes, but for the seconds that drawing took and the folder's own name."""
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    about = json.loads(found.pop("sample.json")) | {"seconds": 0, "out": ""}
    return found, about


def killed_at(shop, out, call, resume=()):
    """Run the command in another process, which is killed in the middle of its `call`-th write of values or lines."""

    def child():
        signal.alarm(60)
        torch.set_num_threads(1)
        calls, append = [], drawn._append

        def dies(path, data):
            calls.append(path)
            if len(calls) == call:
                append(path, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            append(path, data)

        drawn._append = dies
        from deft.cli import main

        main([str(a) for a in line(shop, out, *resume)])
        os._exit(3)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
@pytest.mark.parametrize(("call", "kept"), [(1, 0), (3, 4), (4, 4), (5, 8)])
def test_a_killed_run_goes_on_and_draws_nothing_again(shop, whole, tmp_path, capsys, monkeypatch, call, kept):
    """Half of the values, or of the line that makes them count, were written: the chunk is drawn again, no other. At
    the end everything is as of a run that nobody killed, bit for bit."""
    out = tmp_path / "o"
    killed_at(shop, out, call)
    assert len(list(out.glob("sample-*.png"))) >= kept  # looked at while the others are drawn
    assert "go on with --resume" in refused(capsys, *line(shop, out))
    asked, own = [], Plan.draw
    monkeypatch.setattr(Plan, "draw", lambda *a, rows=None, **k: asked.append(rows) or own(*a, rows=rows, **k))
    assert run(capsys, *line(shop, out, "--resume"))[0] == 0
    assert [r.start for r in asked] == list(range(kept, N, BATCH))
    assert contents(out) == whole


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_another_command_is_refused_and_overwrite_begins_anew(shop, whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "o"
    killed_at(shop, out, 3)
    before = contents_so_far(out)
    for more, why in (
        (("--seed", 7), "settings.seed: was 0, now 7"),
        (("--steps", 3), "plan.steps: was 2, now 3"),
        (("--sigma-y", 0.2), "task.sigma_y"),
        (("--mask-hole", "white"), "measurement"),
    ):
        said = refused(capsys, *line(shop, out, *more, "--resume"))
        assert "samples of another run" in said and why in said, said
    with monkeypatch.context() as other:
        other.setattr("deft.workflow.drawing.__version__", "9.9.9")
        assert "deft: was" in refused(capsys, *line(shop, out, "--resume"))
    assert "give one of them" in refused(capsys, *line(shop, out, "--resume", "--overwrite"))
    together = refused(capsys, *line(shop, out, "--resume", "--method", "tds"))
    assert "draws all samples of a measurement together" in together
    assert contents_so_far(out) == before
    # another size of batches is the same run: a smaller one helps where memory ran out
    assert run(capsys, *line(shop, out, "--resume", "--batch", 5))[0] == 0
    assert sorted(p.name for p in out.iterdir()) == sorted([*whole[0], "sample.json"])
    assert "nothing to resume" in refused(capsys, *line(shop, out, "--resume"))
    killed_at(shop, tmp_path / "p", 3)
    assert run(capsys, *line(shop, tmp_path / "p", "--overwrite"))[0] == 0 and contents(tmp_path / "p") == whole


def contents_so_far(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".deft-lock"}


def test_a_pasted_run_in_batches_is_that_in_one(shop, tmp_path, capsys):
    for name, batch in (("one", N), ("some", 3)):
        assert run(capsys, *line(shop, tmp_path / name, "--paste", "--batch", batch))[0] == 0
    with np.load(tmp_path / "one/samples.npz") as a, np.load(tmp_path / "some/samples.npz") as b:
        assert all(np.allclose(a[k], b[k], atol=1e-5) for k in a) and set(a) == set(b)
    one, some = ((tmp_path / n / "sample-010.png").read_bytes() for n in ("one", "some"))
    assert one == some


def test_an_h_that_was_refined_stays_that_of_the_samples(shop, tmp_path, monkeypatch):
    """It is not refined again when the run goes on: elsewhere it might come out otherwise."""
    prior, task = deft.load_prior(str(shop / "prior.safetensors")), get_task("denoise")
    small = {"steps": 2, "batch": 2, "size": 0.4, "cache": 0, "prior_samples": 4, "interval_images": 0}
    fitted = deft.fit_h(prior, task, None, progress=False, **small)
    work = Sampling(prior, task, plan("deft", steps=2), fitted, samples=5, batch=2, refine=1)
    work.run(tmp_path / "whole", shop / "photo.png")
    append = DrawnFile.append

    def stops(self, *given):
        append(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DrawnFile, "append", stops)
        work.run(tmp_path / "o", shop / "photo.png")
    monkeypatch.setattr(type(fitted), "refine", None)
    work.run(tmp_path / "o", shop / "photo.png", resume=True)
    whole, again = contents(tmp_path / "whole"), contents(tmp_path / "o")
    assert whole[0].keys() == again[0].keys() and sorted(whole[1].pop("files")) == sorted(again[1].pop("files"))
    assert whole[0]["samples.npz"] == again[0]["samples.npz"] and whole[1] == again[1]


def test_particles_are_drawn_together(shop, tmp_path, caplog):
    prior, task = deft.load_prior(str(shop / "prior.safetensors")), get_task("denoise")
    made = plan("tds", steps=2, settings={"particles": 2})
    assert made.joint and isinstance(made.settings, ParticleSettings) and not plan("pigdm").joint
    with caplog.at_level("INFO", "deft"):
        Sampling(prior, task, made, samples=3, batch=2).run(tmp_path / "o", shop / "photo.png")
    assert "draws all 3 samples together" in caplog.text
    obs = task.observe(torch.zeros(1, 1, 16, 16), deft.Noise(0, 1))
    with pytest.raises(InputError, match="leave rows out"):
        made.draw(prior, obs, 3, rows=range(1, 2))


def test_some_rows_are_those_of_the_whole():
    world, obs = deft.testing.half_seen(2)
    obs = obs.repeat(2)
    prior = world.prior(deft.VPCosine())
    whole = deft.sample_posterior(prior, world.h, obs, 5, steps=3, first=2).x
    part = deft.sample_posterior(prior, world.h, obs, 5, steps=3, first=2, rows=range(1, 4)).x
    assert torch.allclose(part, whole[:, 1:4], atol=1e-6)
    for bad in (range(0), range(2, 9), range(0, 4, 2)):
        with pytest.raises(InputError, match="rows are some of the 5"):
            deft.sample_posterior(prior, world.h, obs, 5, steps=3, rows=bad)


# the file


def test_more_samples_than_are_read_into_memory(tmp_path, monkeypatch):
    """Through the file, block by block, they have the same numbers."""
    x = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))
    kept = DrawnFile.begin(tmp_path, {"a": 1})
    for part in x.split(7):
        kept.append(part, 0.5)
    usual = spread_of(Draws(x[None]), (-1.0, 1.0))
    for module in (drawn, sampling):
        monkeypatch.setattr(module, "MAPPED", 100)
    monkeypatch.setattr(sampling, "BLOCK", 6)
    seen = kept.read()
    assert torch.equal(seen, x) and kept.seconds == 1.5
    seen += 1  # of no concern to the file
    assert torch.equal(kept.read(), x)
    assert torch.allclose(spread_of(Draws(kept.read()[None]), (-1.0, 1.0)), usual, rtol=1e-6)
    obs = deft.Observation(torch.zeros(1, 3, 4), deft.Gaussian(deft.Identity(), 0.1))
    found = by_blocks(lambda rows, part: rows.residual_rms(part), obs, x)
    assert torch.allclose(found, obs.repeat(20).residual_rms(x))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / drawn.CHUNKS).write_text("[]\n"),
        lambda folder: (folder / drawn.CHUNKS).write_text('{"format": 9, "identity": {}}\n'),
        lambda folder: (folder / drawn.VALUES).unlink(),
        lambda folder: (folder / drawn.CHUNKS).write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    DrawnFile.begin(tmp_path, {}).append(torch.zeros(2, 3))
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing to resume|--overwrite"):
        DrawnFile.resume(tmp_path, {})


def test_values_that_changed_are_drawn_again(tmp_path):
    """A chunk whose values are not those that were written, and all after it."""
    kept = DrawnFile.begin(tmp_path, {})
    for i in range(3):
        kept.append(torch.full((2, 3), float(i)), files=[f"sample-{i:03d}.png"])
    data = bytearray((tmp_path / drawn.VALUES).read_bytes())
    data[30] ^= 1
    (tmp_path / drawn.VALUES).write_bytes(data)
    again = DrawnFile.resume(tmp_path, {})
    assert again.done == 2 and again.files == ["sample-000.png"]
    again.append(torch.ones(1, 3))
    assert DrawnFile.resume(tmp_path, {}).done == 3
    assert torch.equal(again.read(), torch.cat([torch.zeros(2, 3), torch.ones(1, 3)]))
    with pytest.raises(CheckpointError, match="follow others"):
        again.append(torch.ones(1, 4))
