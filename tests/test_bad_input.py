"""Every kind of bad input: one line that names what was given, what was expected and the fix; exit code 2."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deft.io import files as checkpoint
from deft.schedule import VPTable
from deft.train.data import Clean
from deft.train.denoising import DenoisingObjective
from deft.train.protocols import Loss
from toys import pictures, refused, result, run, save_pictures, toy_prior


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A toy prior, a folder of good pictures, a mask, and a run fitted to them."""
    folder = tmp_path_factory.mktemp("shop")
    toy_prior(folder / "prior.safetensors")
    toy_prior(folder / "other.safetensors", seed=1)
    save_pictures(folder / "good", pictures(24))
    Image.fromarray(pictures(1)[0]).save(folder / "photo.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 4:10] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    from deft.cli import main

    assert main([*map(str, fit_line(folder, folder / "run"))]) == 0
    return folder


def fit_line(shop, out, *more, data=None):
    return (
        "fit", "--prior", shop / "prior.safetensors", "--size", 0.4, "--data", data or shop / "good", "--out", out,
        "--steps", 4, "--batch", 4, "--bank", 0, *more,
    )  # fmt: skip


def sample_line(shop, out, *more, run_folder=None, picture="photo.png", mask="mask.png"):
    return (
        "sample",
        run_folder or shop / "run",
        "--measurement",
        shop / picture,
        "--mask",
        shop / mask,
        "-n",
        2,
        "--steps",
        2,
        "--out",
        out,
        *more,
    )


# folders and pictures


def test_missing_folder(shop, tmp_path, capsys):
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "nowhere"))
    assert "no such file or folder" in line and "nowhere" in line


def test_empty_folder(shop, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "empty"))
    assert "no pictures in" in line and "empty" in line and ".npz" in line


@pytest.fixture
def spoilt(shop, tmp_path):
    folder = save_pictures(tmp_path / "spoilt", pictures(12))
    (folder / "100.png").write_bytes(b"")
    (folder / "101.png").write_bytes(b"this is not a picture")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / "102.png")
    whole = (folder / "102.png").read_bytes()
    (folder / "102.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_bad_files_among_good_ones_are_named(shop, spoilt, tmp_path, capsys):
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=spoilt))
    assert "3 of 15" in line and "100.png: the file is empty (0 bytes)" in line
    assert "101.png: not a picture" in line and "102.png: truncated" in line and "--skip-bad" in line
    assert not (tmp_path / "out").exists()


def test_skip_bad_goes_on_and_names_them(shop, spoilt, tmp_path, capsys):
    code, out, _ = run(capsys, *fit_line(shop, tmp_path / "out", "--skip-bad", data=spoilt))
    assert code == 0 and "left out 3 of 15: 100.png, 101.png, 102.png" in out
    assert (tmp_path / "out" / "h.safetensors").exists()


def test_skip_bad_with_nothing_left(shop, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    assert "none of the 1 images" in refused(
        capsys, *fit_line(shop, tmp_path / "out", "--skip-bad", data=tmp_path / "bad")
    )


def test_wrong_size(shop, tmp_path, capsys):
    save_pictures(tmp_path / "large", pictures(3, side=32))
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "large"))
    assert "32x32 pixels, expected 16x16 (the prior's size)" in line and "--resize" in line
    assert run(capsys, *fit_line(shop, tmp_path / "out", "--resize", data=tmp_path / "large"))[0] == 0


def test_wrong_channels(shop, tmp_path, capsys):
    colour = np.stack([pictures(3, seed=i) for i in range(3)], -1)
    save_pictures(tmp_path / "colour", colour)
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "colour"))
    assert "RGB, expected grey" in line and "--convert" in line
    assert run(capsys, *fit_line(shop, tmp_path / "out", "--convert", data=tmp_path / "colour"))[0] == 0


def test_mixed_sizes(shop, tmp_path, capsys):
    folder = save_pictures(tmp_path / "mixed", pictures(3))
    Image.fromarray(pictures(1, side=32)[0]).save(folder / "900.png")
    line = refused(capsys, "prior", "train", "--data", folder, "--out", tmp_path / "prior")
    assert "mixed sizes" in line and "000.png is 16x16 grey" in line and "900.png is 32x32 grey" in line
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=folder))
    assert "900.png: 32x32 pixels, expected 16x16" in line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x.__setitem__((2, 5, 5), np.nan), "number 2: 1 values are NaN or infinite"),
        (lambda x: x.__setitem__(3, 0.25), "number 3: constant: every pixel is 0.25"),
        (lambda x: x.__setitem__((1, 0, 0), 7.0), "number 1: values from"),
    ],
)
def test_bad_values(shop, tmp_path, capsys, change, expected):
    x = pictures(12).astype(np.float32) / 127.5 - 1
    change(x)
    np.savez(tmp_path / "x.npz", x=x)
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "x.npz"))
    assert expected in line and "--skip-bad" in line
    assert run(capsys, *fit_line(shop, tmp_path / "out", "--skip-bad", data=tmp_path / "x.npz"))[0] == 0


@pytest.mark.parametrize(("top", "flag"), [(1.0, "0,1"), (255.0, "0,255")])
def test_ambiguous_range(shop, tmp_path, capsys, top, flag):
    np.savez(tmp_path / "x.npz", x=pictures(12).astype(np.float32) / 255 * top)
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "x.npz"))
    assert f"--range {flag}" in line
    assert run(capsys, *fit_line(shop, tmp_path / "out", "--range", flag, data=tmp_path / "x.npz"))[0] == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"nonsense"])
def test_bad_npz(shop, tmp_path, capsys, content):
    (tmp_path / "x.npz").write_bytes(content)
    line = refused(capsys, *fit_line(shop, tmp_path / "out", data=tmp_path / "x.npz"))
    assert "cannot read" in line and "x.npz" in line and "numpy.savez" in line


def test_one_constant_picture(shop, tmp_path, capsys):
    Image.new("L", (16, 16), 128).save(tmp_path / "flat.png")
    line = refused(capsys, *sample_line(shop, tmp_path / "out", picture=tmp_path / "flat.png"))
    assert "flat.png" in line and "constant" in line


def test_measurement_of_another_size(shop, tmp_path, capsys):
    Image.fromarray(pictures(1, side=32)[0]).save(tmp_path / "large.png")
    line = refused(capsys, *sample_line(shop, tmp_path / "out", picture=tmp_path / "large.png"))
    assert "large.png: 32x32 pixels, expected 16x16" in line and "--resize" in line
    assert run(capsys, *sample_line(shop, tmp_path / "out", "--resize", picture=tmp_path / "large.png"))[0] == 0


# masks


@pytest.mark.parametrize(("value", "what", "flip"), [(0, "hides everything", "white"), (255, "hides nothing", "white")])
def test_mask_of_one_colour(shop, tmp_path, capsys, value, what, flip):
    Image.new("L", (16, 16), value).save(tmp_path / "mask.png")
    line = refused(capsys, *sample_line(shop, tmp_path / "out", mask=tmp_path / "mask.png"))
    assert what in line and f"--mask-hole {flip}" in line


def test_mask_of_another_size(shop, tmp_path, capsys):
    Image.new("L", (8, 8), 0).save(tmp_path / "mask.png")
    line = refused(capsys, *sample_line(shop, tmp_path / "out", mask=tmp_path / "mask.png"))
    assert "is 8x8, expected 16x16" in line


def test_grey_mask(shop, tmp_path, capsys):
    Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))).save(tmp_path / "mask.png")
    line = refused(capsys, *sample_line(shop, tmp_path / "out", mask=tmp_path / "mask.png"))
    assert "grey" in line and "black and white" in line


def test_no_mask(shop, tmp_path, capsys):
    line = refused(capsys, "sample", shop / "run", "--measurement", shop / "photo.png", "--out", tmp_path / "out")
    assert "--mask FILE" in line and "white is seen" in line


# checkpoints


def test_no_such_run(shop, tmp_path, capsys):
    line = refused(capsys, *sample_line(shop, tmp_path / "out", run_folder=tmp_path / "nowhere"))
    assert "no such run" in line and "deft fit" in line


def test_truncated_checkpoint(shop, tmp_path, capsys):
    data = (shop / "run" / "h.safetensors").read_bytes()
    (tmp_path / "h.safetensors").write_bytes(data[: len(data) // 2])
    line = refused(capsys, *sample_line(shop, tmp_path / "out", run_folder=tmp_path / "h.safetensors"))
    assert "truncated" in line and "h.safetensors" in line


def test_checkpoint_of_another_library(shop, tmp_path, capsys):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    for command in (
        ("info", tmp_path / "model.safetensors"),
        sample_line(shop, tmp_path / "out", run_folder=tmp_path / "model.safetensors"),
    ):
        assert "another library" in refused(capsys, *command)


def test_checkpoint_for_another_prior(shop, tmp_path, capsys):
    line = refused(capsys, *sample_line(shop, tmp_path / "out", "--prior", shop / "other.safetensors"))
    assert "was fitted to the prior" in line and "sha256" in line and "--prior" in line


def test_prior_in_place_of_a_run(shop, tmp_path, capsys):
    line = refused(capsys, *sample_line(shop, tmp_path / "out", run_folder=shop / "prior.safetensors"))
    assert "holds a prior, not an h-transform" in line


def test_resume_of_a_damaged_state(shop, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.pt").write_bytes(b"half")
    assert "truncated" in refused(capsys, *fit_line(shop, tmp_path / "out", "--resume"))


def test_resume_of_nothing(shop, tmp_path, capsys):
    assert "nothing to resume" in refused(capsys, *fit_line(shop, tmp_path / "out", "--resume"))


# output


def test_output_exists(shop, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    commands = [
        fit_line(shop, tmp_path / "out"), sample_line(shop, tmp_path / "out"),
        ("evaluate", shop / "run", "--data", shop / "good", "--out", tmp_path / "out"),
        ("prior", "train", "--data", shop / "good", "--out", tmp_path / "out", "--widths", "8,8"),
        ("demo", "--quick", "--prior", shop / "prior.safetensors", "--out", tmp_path / "out"),
    ]  # fmt: skip
    for command in commands:
        line = refused(capsys, *command)
        assert "exists and is not empty" in line and "--overwrite" in line, command
    assert run(capsys, *sample_line(shop, tmp_path / "out", "--overwrite"))[0] == 0
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_output_is_a_file(shop, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert "is a file" in refused(capsys, *sample_line(shop, tmp_path / "out"))


def test_output_cannot_be_written(shop, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys, *sample_line(shop, tmp_path / "file" / "out"))
    assert "cannot write to output folder" in line and "--out" in line


@pytest.mark.parametrize("command", [fit_line, sample_line])
def test_disk_full(shop, tmp_path, capsys, monkeypatch, command):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "replace", full)
    line = refused(capsys, *command(shop, tmp_path / "out"))
    assert "No space left on device" in line and "free some space" in line
    assert not list((tmp_path / "out").iterdir())  # nothing half-written stays


# names


@pytest.mark.parametrize(
    ("arguments", "given", "nearest"),
    [
        (("sampel",), "sampel", "sample"),
        (("prior", "trian"), "trian", "train"),
        (("fit", "--task", "inpant"), "inpant", "inpaint"),
        (("demo", "--task", "sr"), "sr", "sr4"),
        (("sample", "--method", "pigdn"), "pigdn", "pigdm"),
        (("sample", "--sampler", "dim"), "dim", "ddim"),
        (("fit", "--weighting", "epss"), "epss", "eps"),
        (("fit", "--stpes", "4"), "--stpes", "--steps"),
        (("info", "fashon"), "fashon", "fashion"),
        (("fit", "--prior", "fashon", "--data", "x", "--out", "y"), "fashon", "fashion"),
        (("fit", "--data", "fashion:tset", "--out", "y", "--prior", "PRIOR"), "tset", "test"),
    ],
)
def test_unknown_names(shop, capsys, arguments, given, nearest):
    line = refused(capsys, *[shop / "prior.safetensors" if a == "PRIOR" else a for a in arguments])
    assert given in line and nearest in line and "id you mean" in line


def test_unknown_setting_and_method_in_a_list(shop, tmp_path, capsys):
    line = refused(capsys, *sample_line(shop, tmp_path / "out", "--method", "dps", "--set", "zetta=1"))
    assert "unknown setting 'zetta' of dps: did you mean 'zeta'" in line
    line = refused(capsys, *sample_line(shop, tmp_path / "out", "--method", "dps", "--set", "zeta=much"))
    assert "setting zeta of dps is a number, got 'much'" in line
    line = refused(capsys, *sample_line(shop, tmp_path / "out", "--method", "dps", "--set", "zeta"))
    assert "KEY=VALUE" in line
    line = refused(
        capsys, "evaluate", shop / "run", "--data", shop / "good", "--methods", "deft,dpss", "--out", tmp_path / "out"
    )
    assert "unknown method 'dpss': did you mean 'dps'" in line


def test_deft_without_a_fit(shop, tmp_path, capsys):
    line = refused(
        capsys,
        "sample",
        "--prior",
        shop / "prior.safetensors",
        "--method",
        "deft",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "--out",
        tmp_path / "out",
    )
    assert "needs a fitted h" in line


# numbers


def test_steps_zero(shop, tmp_path, capsys):
    assert "--steps = 0: expected a whole number of at least 1" in refused(
        capsys, *fit_line(shop, tmp_path / "out", "--steps", 0)
    )
    assert "--steps = 0: expected a whole number" in refused(capsys, *sample_line(shop, tmp_path / "out", "--steps", 0))


def test_steps_above_the_table(shop, tmp_path, capsys):
    toy_prior(tmp_path / "table.safetensors", schedule=VPTable.linear(20))
    line = refused(
        capsys,
        "sample",
        "--prior",
        tmp_path / "table.safetensors",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "--steps",
        21,
        "--out",
        tmp_path / "out",
    )
    assert "steps is 21" in line and "from 1 to 20" in line


@pytest.mark.parametrize("command", [fit_line, sample_line])
def test_batch_too_large_is_refused_before_it_is_tried(shop, tmp_path, capsys, command):
    more = ("-n", 10**6) if command is sample_line else ()
    line = refused(capsys, *command(shop, tmp_path / "out", "--batch", 10**9, *more))
    assert "does not fit in memory" in line and "lower --batch" in line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"
            " bytes"
        ),
    ],
)
def test_memory_running_out(shop, tmp_path, capsys, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(DenoisingObjective, "__call__", fail)
    line = refused(capsys, *fit_line(shop, tmp_path / "out"))
    assert "does not fit in memory" in line and "lower --batch" in line


def test_a_bug_is_not_taken_for_lack_of_memory(shop, tmp_path, capsys, monkeypatch):
    """It is one line that says so, and where the traceback is."""

    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(DenoisingObjective, "__call__", fail)
    code, _, err = run(capsys, *fit_line(shop, tmp_path / "out"))
    line = err.strip().splitlines()[-1]
    assert (
        code == 1 and line.startswith("error: RuntimeError: a bug; this is a fault of deft") and "Traceback" not in err
    )
    file = Path(line.split("the traceback is in ")[1].split(" (DEFT_TRACEBACK")[0])
    assert "in fail" in file.read_text() and 'RuntimeError("a bug")' in file.read_text()
    file.unlink()
    monkeypatch.setenv("DEFT_TRACEBACK", "1")
    code, _, err = run(capsys, *fit_line(shop, tmp_path / "out", "--overwrite"))
    assert code == 1 and "Traceback (most recent call last)" in err and "above" in err.splitlines()[-1]


def test_loss_not_finite(shop, tmp_path, capsys, monkeypatch):
    """The error names step and term, and what was saved before is still good."""
    honest, calls = DenoisingObjective.__call__, []

    def broken(self, module, batch, noise):
        loss = honest(self, module, batch, noise)
        calls.extend([1] * module.training)  # not for looks at held-out data
        if len(calls) < 4:
            return loss
        return Loss(loss.value * float("nan"), loss.metrics | {"h": torch.tensor(float("nan"))})

    monkeypatch.setattr(DenoisingObjective, "__call__", broken)
    line = refused(capsys, *fit_line(shop, tmp_path / "out", "--steps", 9))
    assert "the loss became nan at step 3" in line and "first non-finite term: h" in line and "state.pt" in line
    monkeypatch.undo()
    state = checkpoint.load_state(tmp_path / "out" / "state.pt", torch.device("cpu"))
    assert state["step"] == 3
    assert all(bool(torch.isfinite(v).all()) for v in state["raw"].values())
    assert run(capsys, *fit_line(shop, tmp_path / "out", "--steps", 9, "--resume"))[0] == 0


def test_bad_numbers(shop, tmp_path, capsys):
    assert "--lr = 0.0: expected a number above 0" in refused(capsys, *fit_line(shop, tmp_path / "out", "--lr", 0))
    assert "--eta = 3.0: expected a number from 0 to 1" in refused(
        capsys, *sample_line(shop, tmp_path / "out", "--eta", 3)
    )
    assert "give a larger size" in refused(capsys, *fit_line(shop, tmp_path / "out", "--size", 0.001))
    assert "--sigma-y = -1.0: expected a number of at least 0" in refused(
        capsys, *fit_line(shop, tmp_path / "out", "--sigma-y", -1)
    )
    assert "there are 24, give 1 to 24" in refused(
        capsys, "evaluate", shop / "run", "--data", shop / "good", "--images", 99, "--out", tmp_path / "out"
    )


def test_no_such_device(shop, tmp_path, capsys):
    assert "no such device" in refused(capsys, *fit_line(shop, tmp_path / "out", "--device", "abacus"))


# pairs


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a: a.pop("mask"), "lacks mask"),
        (lambda a: a.update(y=a["y"][:-1]), "24 images x but 23 measurements y"),
        (lambda a: a.update(mask=a["mask"] * 0), "hides everything"),
        (lambda a: a.update(mask=a["mask"] * 0.5), "other than 1 (seen) and 0 (hidden)"),
        (lambda a: a.update(mask=a["mask"][:, :8]), "expected (24 or 1, 1, 16, 16)"),
    ],
)
def test_bad_pairs(shop, tmp_path, capsys, change, expected):
    x = pictures(24)
    mask = np.ones((24, 16, 16), np.float32)
    mask[:, 3:9, 3:9] = 0
    arrays = {"x": x, "y": (x * mask).astype(np.uint8), "mask": mask}
    change(arrays)
    np.savez(tmp_path / "pairs.npz", **arrays)
    line = refused(
        capsys,
        "fit",
        "--prior",
        shop / "prior.safetensors",
        "--task",
        "inpaint",
        "--pairs",
        tmp_path / "pairs.npz",
        "--out",
        tmp_path / "out",
    )
    assert expected in line


# Ctrl-C


def test_interrupted_fit_is_saved_and_resumed_bit_for_bit(shop, tmp_path, capsys, monkeypatch):
    honest = Clean.draw

    def draw(self, size, seed, step, device, **options):
        if step == 3:
            raise KeyboardInterrupt
        return honest(self, size, seed, step, device, **options)

    monkeypatch.setattr(Clean, "draw", draw)
    command = fit_line(shop, tmp_path / "out", "--steps", 6)
    code, _, err = run(capsys, *command)
    assert code == 130 and "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert "stopped at step 3 of 6" in last and "resume with: deft fit" in last and last.endswith("--resume")
    monkeypatch.undo()
    resumed = result(capsys, *command, "--resume")
    whole = result(capsys, *fit_line(shop, tmp_path / "whole", "--steps", 6))
    assert resumed["card"]["held_out_loss"] == whole["card"]["held_out_loss"]
    one, two = (checkpoint.load_weights(tmp_path / name / "h.safetensors")[0] for name in ("out", "whole"))
    assert all(torch.equal(one[k], two[k]) for k in two)


def test_interrupted_elsewhere(shop, tmp_path, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("deft.methods.plans.sample_posterior", stop)
    code, _, err = run(capsys, *sample_line(shop, tmp_path / "out"))
    last = err.strip().splitlines()[-1]
    assert code == 130 and last.startswith("stopped; start again with: deft sample ") and "--resume" not in last
