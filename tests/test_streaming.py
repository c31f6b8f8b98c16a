"""Data that are read row by row: the same numbers as in memory, and no more memory than a few batches."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import deft
from deft.core.random import BatchNoise
from deft.domains.image import streaming
from deft.domains.image.loading import read
from deft.errors import InputError
from deft.io.tasks import get_task
from deft.kinds import stored
from deft.kinds.stored import Joined, Mapped, Stored, Subset, bounded, from_bytes, joined, spaced
from deft.recipe.data import hold_out, training_data
from deft.runtime.memory import PeakMemory
from deft.train.ahead import Ahead
from deft.train.data import Clean
from toys import pictures, refused, run, save_pictures, toy_prior

CPU, RNG = torch.device("cpu"), np.random.default_rng(0)
NOTE = "each is read when it is needed"


@pytest.fixture
def streamed(monkeypatch):
    """Whatever is larger than a few pictures is read row by row."""
    monkeypatch.setattr(streaming, "STREAMED", 1000)


def grey(n=24, side=16, low=0, high=256, dtype="uint8"):
    return RNG.integers(low, high, (n, side, side)).astype(dtype)


def save(folder, images, suffix="png", **options):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
            folder / f"{i:03d}.{suffix}", **options
        )
    return folder


def turned(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(folder, [Image.fromarray(x).resize((16, 12)) for x in grey(4)], "jpg", exif=exif)


def palette(folder):
    return save(folder, [Image.fromarray(RNG.integers(0, 255, (16, 16, 3)).astype("uint8")).quantize(9)] * 3)


def mixed(folder):
    """8 and 16 bits, a GIF of two frames, a file of another kind."""
    save(folder, grey(3))
    for i, x in enumerate(grey(3, high=60000, dtype="uint16")):
        Image.fromarray(x).save(folder / f"deep-{i}.png")
    two = [Image.fromarray(x) for x in grey(2)]
    two[0].save(folder / "two.gif", save_all=True, append_images=two[1:])
    (folder / "notes.txt").write_text("none")
    return folder


def transparent(folder):
    save(folder, grey(2))
    layer = RNG.integers(0, 255, (16, 16, 4)).astype("uint8")
    Image.fromarray(layer).convert("LA").save(folder / "a.png")
    return folder


def damaged(folder):
    save(folder, grey(4))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    return folder


def grey_as_rgb(folder):
    return save(folder, [np.repeat(x[..., None], 3, 2) for x in grey(3)])


FOLDERS = {
    "grey": (lambda f: save(f, grey()), (1, 16, 16), {}),
    "grey, no prior": (lambda f: save(f, grey()), None, {}),
    "resized": (lambda f: save(f, [*grey(3, 12), *grey(3, 20)]), (1, 16, 8), {"resize": True}),
    "of other sizes": (lambda f: save(f, [*grey(3, 16), *grey(3, 20)]), (1, 16, 16), {}),
    "mixed sizes, no prior": (lambda f: save(f, [*grey(3, 16), *grey(3, 20)]), None, {}),
    "to colour": (lambda f: save(f, grey(3)), (3, 16, 16), {"convert": True}),
    "no colour": (lambda f: save(f, grey(3)), (3, 16, 16), {}),
    "grey as rgb": (grey_as_rgb, (1, 16, 16), {}),
    "rgb for grey": (lambda f: save(f, RNG.integers(0, 255, (3, 16, 16, 3)).astype("uint8")), (1, 16, 16), {}),
    "rgb to grey": (lambda f: save(f, RNG.integers(0, 255, (3, 16, 16, 3)).astype("uint8")), (1, 16, 16),
                    {"convert": True}),
    "turned": (turned, (1, 16, 12), {}),
    "palette": (palette, (3, 16, 16), {}),
    "mixed kinds": (mixed, (1, 16, 16), {}),
    "mixed kinds, a range": (mixed, (1, 16, 16), {"value_range": (0, 255)}),
    "dark": (lambda f: save(f, grey(4, high=9)), (1, 16, 16), {}),
    "dark, its range": (lambda f: save(f, grey(4, high=9)), (1, 16, 16), {"value_range": (0, 15)}),
    "transparent": (transparent, (1, 16, 16), {}),
    "transparent to black": (transparent, (1, 16, 16), {"convert": True}),
    "damaged": (damaged, (1, 16, 16), {}),
    "damaged, left out": (damaged, (1, 16, 16), {"skip_bad": True}),
    "tiff of floats": (lambda f: save(f, [x.astype("float32") / 127.5 - 1 for x in grey(3)], "tif"), (1, 16, 16), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_row_by_row_is_the_folder_in_memory(tmp_path, streamed, name):
    """Pictures, names, sizes, notes, what is left out; and errors, before anything else is done, in the same words."""
    make, shape, options = FOLDERS[name]
    folder = make(tmp_path / "f")
    try:
        usual = read(str(folder), shape, **options)
    except InputError as error:
        with pytest.raises(InputError) as raised:
            read(str(folder), shape, **options, stream=True)
        assert str(raised.value) == str(error)
        return
    found = read(str(folder), shape, **options, stream=True)
    assert isinstance(found.x, Stored) and found.x.shape == tuple(usual.x.shape)
    assert torch.equal(found.x[:], usual.x) and torch.equal(found.x.rows([2, 0]), usual.x[[2, 0]])
    assert (found.names, found.sizes, found.skipped) == (usual.names, usual.sizes, usual.skipped)
    assert [n for n in found.notes if NOTE not in n] == usual.notes
    assert sum(NOTE in n for n in found.notes) == 1


ARRAYS = {
    "bytes": (grey(), (1, 16, 16), {}),
    "colour last": (RNG.integers(0, 255, (24, 16, 16, 3)).astype("uint8"), (3, 16, 16), {}),
    "floats": ((grey() / 127.5 - 1).astype("float32"), (1, 16, 16), {}),
    "doubles of the other byte order": ((grey() / 127.5 - 1).astype(">f8"), (1, 16, 16), {}),
    "16 bits": (grey(high=60000, dtype="uint16"), (1, 16, 16), {"value_range": (0, 65535)}),
    "whole numbers": (grey(dtype="int32"), (1, 16, 16), {}),
    "resized": (grey(24, 20), (1, 16, 16), {"resize": True}),
    "of another size": (grey(24, 20), (1, 16, 16), {}),
    "flat": (grey().reshape(24, -1), (1, 16, 16), {}),
}


@pytest.mark.parametrize("suffix", ["npy", "npz", "packed"])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_row_by_row_is_the_array_in_memory(tmp_path, streamed, name, suffix):
    array, shape, options = ARRAYS[name]
    path = tmp_path / f"x.{'npy' if suffix == 'npy' else 'npz'}"
    {"npy": np.save, "npz": lambda p, x: np.savez(p, images=x, labels=np.arange(24), more=x[0, :1]),
     "packed": lambda p, x: np.savez_compressed(p, x=x)}[suffix](path, array)  # fmt: skip
    try:
        usual = read(str(path), shape, **options)
    except InputError as error:
        with pytest.raises(InputError) as raised:
            read(str(path), shape, **options, stream=True)
        # of pictures that are all of another size the first alone is named, without a count of them
        said = str(raised.value).replace("number 0: ", "(number 0: ").replace(f"{path}[x]: ", "")
        assert said.replace(f"{path}[images]: ", "") in str(error)
        return
    found = read(str(path), shape, **options, stream=True)
    assert isinstance(found.x, Stored) and torch.equal(found.x[:], usual.x) and found.names == usual.names
    assert (found.labels is None) == (usual.labels is None) == (suffix != "npz")
    assert found.labels is None or torch.equal(found.labels, usual.labels)
    assert found.x.stored(torch.tensor([1])).dtype == (
        torch.uint8 if name in ("bytes", "colour last") else torch.float32
    )


def test_what_is_small_is_read_as_ever(tmp_path):
    found = read(str(save(tmp_path / "f", grey(3))), (1, 16, 16), stream=True)
    assert isinstance(found.x, torch.Tensor) and not any(NOTE in n for n in found.notes)


def test_a_picture_that_fails_later_is_named(tmp_path, streamed):
    folder = save(tmp_path / "f", grey(80))
    whole = (folder / "007.png").read_bytes()
    (folder / "007.png").write_bytes(whole[: len(whole) // 2])  # not among those that are looked at
    x = read(str(folder), (1, 16, 16), stream=True).x
    assert 7 not in spaced(80, streaming.LOOKED_AT).tolist()
    batches, failed = Clean(x), 0
    for step in range(8):  # on the thread that reads ahead, too
        try:
            batches.draw(10, 0, step, CPU)
        except InputError as error:
            failed += 1
            assert str(error).startswith(f"{folder}/007.png: truncated or damaged")
    assert failed == 1
    left = read(str(folder), (1, 16, 16), stream=True, skip_bad=True)
    assert len(left.x) == 79 and left.skipped == ["007.png"] and left.notes[0].startswith("left out 1 of 80: 007.png (")
    rows = np.where(np.arange(80)[:, None, None] == 7, np.nan, grey(80) / 127.5 - 1).astype("float32")
    np.save(tmp_path / "x.npy", rows)
    x = read(str(tmp_path / "x.npy"), (1, 16, 16), stream=True).x
    with pytest.raises(InputError, match=r"x.npy\[x\]: number 7: 256 values are NaN"):
        x[5:9]
    assert len(read(str(tmp_path / "x.npy"), (1, 16, 16), stream=True, skip_bad=True).x) == 79


@pytest.mark.skipif(sys.platform != "linux", reason="memory by /proc")
def test_memory_of_a_large_array(tmp_path):
    """100,000 pictures of 512 x 512 x 3 bytes, 79 GB of a sparse file: random batches take a few batches of memory."""
    path, shape = tmp_path / "large.npy", (100_000, 3, 512, 512)
    with open(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
        try:
            f.truncate(f.tell() + int(np.prod(shape)))
        except OSError:
            pytest.skip("no sparse files here")
    with PeakMemory() as m:
        x = read(str(path), shape[1:], stream=True).x
        rows, rest = hold_out(len(x), 0, x)
        batches = Clean(x.subset(rows))
        seen = [batches.draw(8, 0, step, CPU).x.shape for step in range(12)]
    assert seen == [(8, *shape[1:])] * 12 and len(rest) == 85
    assert m.mib is not None and m.mib < 200


# training


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    here = tmp_path_factory.mktemp("streamed")
    toy_prior(here / "prior.safetensors")
    save_pictures(here / "good", pictures(40))
    return here


def weights(h):
    return torch.cat([v.flatten() for v in h.h.state_dict().values()])


@pytest.mark.parametrize(("how", "more"), [({"cache": 0}, 8), ({"cache": 40, "fresh": 0.25}, 0)])
def test_a_fit_from_a_streamed_folder_is_that_from_memory(shop, monkeypatch, how, more):
    """Bit for bit: with new draws and cached ones, with samples of the prior and without."""
    prior, task = deft.load_prior(str(shop / "prior.safetensors")), get_task("inpaint")
    options = {"steps": 6, "batch": 4, "size": 0.4, "prior_samples": more, "interval_images": 0, "progress": False}
    data = str(shop / "good")
    usual = deft.fit_h(prior, task, data, **options, **how)
    monkeypatch.setattr(streaming, "STREAMED", 1000)
    found = training_data(prior, data)
    assert isinstance(found.x, Subset) and isinstance(found.x_out, torch.Tensor)
    other = deft.fit_h(prior, task, data, **options, **how)
    assert torch.equal(weights(usual), weights(other)) and usual.levels == other.levels
    assert [r["loss"] for r in usual.result.history] == [r["loss"] for r in other.result.history]


def test_a_streamed_fit_resumes(shop, tmp_path, monkeypatch, capsys):
    """Stopped and resumed, it is the fit of one piece; of other pictures it is refused."""
    monkeypatch.setattr(streaming, "STREAMED", 1000)
    prior, task = deft.load_prior(str(shop / "prior.safetensors")), get_task("denoise")
    options = {"batch": 4, "size": 0.4, "prior_samples": 0, "cache": 0, "interval_images": 0, "progress": False}
    whole = deft.fit_h(prior, task, str(shop / "good"), steps=8, **options)

    def stop(row):
        if row["step"] >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deft.fit_h(prior, task, str(shop / "good"), steps=8, folder=tmp_path / "r", callback=stop, **options)
    save_pictures(tmp_path / "others", pictures(40)[::-1])
    with pytest.raises(deft.errors.CheckpointError, match=r"data\.images"):
        deft.fit_h(prior, task, str(tmp_path / "others"), steps=8, folder=tmp_path / "r", resume=True, **options)
    again = deft.fit_h(prior, task, str(shop / "good"), steps=8, folder=tmp_path / "r", resume=True, **options)
    assert torch.equal(weights(whole), weights(again))


def test_held_out_data_are_bounded(shop, monkeypatch):
    """Of a streamed folder no more than fit: the first of those that were given, fewer of a tenth."""
    monkeypatch.setattr(streaming, "STREAMED", 1000)
    prior, good = deft.load_prior(str(shop / "prior.safetensors")), str(shop / "good")
    whole = read(good, (1, 16, 16)).x
    found = training_data(prior, good, good)
    assert torch.equal(found.x_out, whole) and any("held out: the first 40 of 40 images" in n for n in found.notes)
    monkeypatch.setattr(stored, "BOUND", 3 * 4 * 256)
    assert torch.equal(training_data(prior, good, good).x_out, whole[:3])
    assert [len(v) for v in hold_out(40, 0, read(good, stream=True).x)] == [37, 3]
    assert [len(v) for v in hold_out(40, 0)] == [36, 4]


@pytest.mark.slow
def test_commands_with_a_streamed_folder(shop, tmp_path, capsys, monkeypatch):
    """fit, evaluate, calibrate, prior train: what they write is what they write of the folder in memory."""

    def all_of(name):
        out = tmp_path / name
        line = ["--prior", shop / "prior.safetensors", "--data", shop / "good"]
        small = ["--size", 0.4, "--steps", 2, "--batch", 4, "--cache", 0, "--prior-samples", 0]
        assert run(capsys, "fit", *line, *small, "--task", "denoise", "--out", out / "run")[0] == 0
        few = ["--data", shop / "good", "--images", 3, "--samples", 2, "--steps", 2]
        assert run(capsys, "evaluate", out / "run", *few, "--methods", "deft", "--out", out / "e")[0] == 0
        train = ["--steps", 2, "--batch", 4, "--widths", "8,8", "--out", out / "p", "--flip"]
        code, said, _ = run(capsys, "prior", "train", "--data", shop / "good", *train)
        assert code == 0
        assert run(capsys, "prior", "inspect", shop / "prior.safetensors", "--images", shop / "good")[0] == 0
        assert (
            run(capsys, "measure", "--task", "sr4", "--data", shop / "good", "--images", 2, "--out", out / "y.npz")[0]
            == 0
        )
        arrays = [np.load(out / n) for n in ("e/samples.npz", "y.npz")]
        tensors, _ = deft.io.files.load_weights(out / "p/prior.safetensors")
        return said, {f"{i}{k}": z[k] for i, z in enumerate(arrays) for k in z} | {
            k: v.numpy() for k, v in tensors.items()
        }

    _, usual = all_of("a")
    monkeypatch.setattr(streaming, "STREAMED", 1000)
    said, other = all_of("b")
    assert NOTE in said and usual.keys() == other.keys()
    assert all(np.array_equal(v, other[k]) for k, v in usual.items())
    (shop / "good" / "zz.png").write_bytes(b"none")
    try:
        said = refused(
            capsys, "fit", "--prior", shop / "prior.safetensors", "--data", shop / "good", "--out", tmp_path / "c"
        )
    finally:
        (shop / "good" / "zz.png").unlink()
    assert "1 of 41 images" in said and "zz.png" in said and not (tmp_path / "c").exists()


# parts


class Numbered(Stored):
    """Rows that hold their number, as bytes, and know which were read on which thread."""

    def __init__(self, n):
        self.shape, self.read = (n, 2), []

    def stored(self, rows):
        self.read.append((rows.tolist(), threading.current_thread().name))
        return rows[:, None].expand(-1, 2).to(torch.uint8)

    def fingerprint(self):
        return f"{self.shape}"


def test_the_next_batch_is_read_ahead():
    x = Numbered(100)
    batches, plain = Clean(x), Clean(from_bytes(torch.arange(100, dtype=torch.uint8)[:, None].expand(-1, 2)))
    for step in (0, 1, 2, 40, 41, -1):
        whole = batches.draw(8, 3, step, CPU).x
        assert torch.equal(whole, plain.draw(8, 3, step, CPU).x)
        part = batches.draw(8, 3, step, CPU, rows=range(2, 5), source=BatchNoise).x
        assert torch.equal(part, whole[2:5])
    batches._ahead._thread.shutdown()
    names = [("ahead" if "deft-ahead" in thread else "now") for rows, thread in x.read if len(rows) == 8]
    assert names.count("now") == 3  # steps 0, 40 and -1
    assert names.count("ahead") == 5  # 1, 2, 3, 41, 42


@pytest.mark.gpu
def test_rows_on_a_gpu_are_those_on_the_cpu():
    """Pinned, sent while nobody waits, and scaled there: bit for bit the same numbers."""
    x = Numbered(200)
    here, there = Clean(x), Clean(x)
    for step in range(5):
        found = there.draw(64, 0, step, torch.device("cuda")).x
        assert found.is_cuda and torch.equal(found.cpu(), here.draw(64, 0, step, CPU).x)


def test_an_error_that_was_read_ahead_is_raised_where_it_is_asked_for():
    class Broken(Numbered):
        def stored(self, rows):
            if bool((rows == 7).any()):
                raise InputError("picture 7")
            return super().stored(rows)

    ahead, seven = Ahead(Broken(20)), torch.tensor([7])
    ahead.rows(torch.tensor([1]), CPU, lambda: seven)
    ahead.rows(torch.tensor([2]), CPU)
    with pytest.raises(InputError, match="picture 7"):
        ahead.rows(seven, CPU)


def test_parts_of_stored_samples():
    x, tensor = Numbered(10), torch.full((3, 2), 0.25)
    both = joined([x.subset(torch.tensor([4, 2])), tensor])
    assert isinstance(both, Joined) and both.shape == (5, 2) and both.ndim == 2
    assert torch.equal(both[:], torch.cat([x.rows([4, 2]), tensor]))
    assert both.stored(torch.tensor([1, 0])).dtype == torch.uint8  # of one part: as it is kept
    assert joined([tensor, tensor]).shape == (6, 2)
    twice = Mapped(x, lambda v: torch.cat([v, v], 1), (4,))
    assert torch.equal(
        Joined([twice, torch.zeros(1, 4)]).rows([3, 10]), torch.cat([twice.rows([3]), torch.zeros(1, 4)])
    )
    assert torch.equal(x[3:5], from_bytes(torch.tensor([[3, 3], [4, 4]], dtype=torch.uint8)))
    assert torch.equal(bounded(x, 4), x.rows([0, 3, 6, 9])) and bounded(tensor) is tensor
    names = {part.fingerprint() for part in (x, both, twice, x.subset(torch.arange(3)), x.subset(torch.arange(4)))}
    assert len(names) == 5 and "GiB" in repr(x)
