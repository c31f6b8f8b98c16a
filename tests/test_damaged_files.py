"""Files of other people, damaged or made to harm: an error of one line or the same result, and no more memory than
`docs/safety.md` says."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deft import VPCosine
from deft.bench.store import Drawn, Store, make_job
from deft.domains.image.pictures import decode
from deft.domains.image.volumes import read_volume
from deft.domains.protein.structure import read_structure
from deft.errors import CheckpointError, DeftError, InputError
from deft.io.arrays import read_arrays
from deft.io.draws_files import load_draws, save_draws
from deft.io.files import load_state, load_weights, save_state, save_weights
from deft.io.h_files import load_h, save_h
from deft.io.measurements import read_measurement, task_of
from deft.io.prior_files import load_own
from deft.io.reading import parse_json
from deft.io.settings import read_kernel, read_numbers
from deft.io.tasks import get_task
from deft.io.torch_files import read_torch_file
from deft.kinds.draws import Draws
from deft.learned import DEFT
from deft.nn import UNet
from deft.prior import ImagePrior
from deft.prior.diffusers import recognise
from deft.runtime.untrusted import TooLargeError, building
from deft.train.fit import FitConfig
from deft.train.state import check_state

few = settings(
    derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A file of every kind."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    prior = ImagePrior(UNet(1, 1, (8, 8), patch=2), VPCosine(), (1, 8, 8))
    prior.save(folder / "prior.safetensors", name="tiny")
    prior = load_own(folder / "prior.safetensors")
    save_h(folder / "h.safetensors", DEFT((1, 8, 8), 1, width=8), prior, get_task("denoise"))
    save_draws(folder / "draws.safetensors", Draws(torch.randn(2, 3, 1, 8, 8)))
    weights = {"w": torch.randn(40, 40)}
    state = {"config": {}, "step": 3, "elapsed": 1.0, "history": [], "raw": weights, "ema": weights, "optimiser": {}}
    save_state(folder / "state.pt", state)
    torch.save(weights, folder / "weights.pt")
    task = np.array(json.dumps(get_task("denoise").config()))
    np.savez(folder / "scan.npz", y=np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32), task=task)
    np.save(folder / "a.npy", np.arange(60.0).reshape(6, 10))
    (folder / "k.txt").write_text("1 2 3\n4 5 6\n7 8 9\n")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(folder / "p.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)).save(folder / "p.jpg")
    line = "ATOM  {:5d}  CA  ALA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C  \n"
    (folder / "s.pdb").write_text("".join(line.format(i, i, 3.8 * i, 0, 0) for i in range(1, 9)))
    return folder


def told(value: object) -> object:
    """What a reader gave, as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {k: told(v) for k, v in value.items()}
    return [told(v) for v in value] if isinstance(value, (list, tuple)) else value


@cache
def prior_of(folder: Path) -> ImagePrior:
    return load_own(folder / "prior.safetensors")


def of_h(path: Path) -> object:
    return load_h(path, prior_of(path.parent))[0].state_dict()


READERS = {
    "prior.safetensors": lambda p: load_own(p).state_dict(),
    "h.safetensors": of_h,
    "draws.safetensors": lambda p: load_draws(p).x,
    "state.pt": lambda p: load_state(p, torch.device("cpu")),
    "weights.pt": lambda p: read_torch_file(p, "save it"),
    "scan.npz": lambda p: read_measurement(p, task_of(p) or get_task("denoise"), (1, 8, 8)).y,
    "a.npy": lambda p: read_numbers(p, "angles", ("x",)),
    "k.txt": lambda p: read_kernel(p),
    "p.png": lambda p: decode(p, None, True).frames[0][1],
    "p.jpg": lambda p: decode(p, None, True).frames[0][1],
    "s.pdb": lambda p: read_structure(p).x,
}
WHOLE = ("prior.safetensors", "h.safetensors", "draws.safetensors", "state.pt")
"""Files with a hash: a change is noticed, or changes nothing."""


def outcome(name: str, path: Path) -> object:
    """What a reader gave, or None for an error of one line; whatever else it raises fails the test."""
    try:
        return told(READERS[name](path))
    except DeftError as error:
        assert "\n" not in str(error), str(error)
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damage_is_an_error_or_no_change(name, shop):
    raw = (shop / name).read_bytes()
    whole, path = outcome(name, shop / name), shop / f"damaged-{name}"
    assert whole is not None

    @few
    @given(st.sampled_from(["flip", "cut", "zero", "long"]), st.floats(0, 0.9999), st.integers(0, 7))
    def check(how, share, bit):
        data, at = bytearray(raw), int(share * len(raw))
        if how == "flip":
            data[at] ^= 1 << bit
        elif how == "cut":
            del data[at:]
        elif how == "zero":
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        else:
            data[at:at] = b"\xff" * 9
        path.write_bytes(data)
        found = outcome(name, path)
        assert found is None or name not in WHOLE or found == whole, (how, at)

    check()


def rewritten(source: Path, path: Path, card: object, text: str | None = None) -> Path:
    """A safetensors file with another card, without its hash."""
    raw = source.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    header["__metadata__"] = {"deft": json.dumps(card) if text is None else text}
    new = json.dumps(header).encode()
    new += b" " * (-len(new) % 8)
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + n :])
    return path


WRONG = [None, -1, 10**9, 10**30, 2.5, 1e308, "x", True, [], {}, [3000, 3000]]


@pytest.mark.parametrize("name", ["prior.safetensors", "h.safetensors", "draws.safetensors"])
def test_fields_of_a_card_have_types(name, shop):
    """Each field missing, null, of another type, negative, huge; one deep, and inside tables."""
    _, card = load_weights(shop / name)
    places = [(k,) for k in card] + [(k, j) for k, v in card.items() if isinstance(v, dict) for j in v]
    for place in places:
        for wrong in ["gone", *WRONG]:
            changed = json.loads(json.dumps(card))
            where = changed if len(place) == 1 else changed[place[0]]
            if wrong == "gone":
                del where[place[-1]]
            else:
                where[place[-1]] = wrong
            outcome(name, rewritten(shop / name, shop / f"card-{name}", changed))
    for changed in ([1], None, 3, "x", {}):
        assert outcome(name, rewritten(shop / name, shop / f"card-{name}", changed)) is None
    assert outcome(name, rewritten(shop / name, shop / f"card-{name}", None, "[" * 200_000)) is None
    with pytest.raises(CheckpointError, match="newer version"):
        READERS[name](rewritten(shop / name, shop / f"card-{name}", card | {"format": 99}))


@pytest.mark.parametrize(
    "changes",
    [{"network": {"widths": [3000] * 3}}, {"network": {"blocks": 3000}}, {"network": {"inputs": -1}}, {"sha256": "0"},
     {"schedule": {"bound": "x"}}, {"schedule": {"bound": 1e9}}, {"event_shape": [1, 10**6, 10**6]},
     {"event_shape": [3, 8, 8]}, {"output": []}, {"range": [0, 1]}],
)  # fmt: skip
def test_a_prior_that_asks_for_what_its_file_has_not(changes, shop):
    _, card = load_weights(shop / "prior.safetensors")
    for key, value in changes.items():
        card[key] = card[key] | value if isinstance(value, dict) else value
    with pytest.raises(CheckpointError):
        load_own(rewritten(shop / "prior.safetensors", shop / "asks.safetensors", card))


def test_an_old_file_without_a_hash_loads(shop):
    tensors, card = load_weights(shop / "prior.safetensors")
    found, same = load_weights(rewritten(shop / "prior.safetensors", shop / "old.safetensors", card))
    assert same == card and told(found) == told(tensors)
    torch.save(
        {"config": 1, "step": 1, "elapsed": 0.0, "history": 1, "raw": 1, "ema": 1, "optimiser": 1}, shop / "o.pt"
    )
    assert load_state(shop / "o.pt", torch.device("cpu"))["step"] == 1


def test_a_network_is_no_larger_than_its_file():
    with pytest.raises(TooLargeError, match=r"parts|tensors"), building(4, 1000), torch.device("meta"):
        UNet(1, 1, (1, 1), blocks=10**9, time_dim=1)


def test_values_of_a_state_have_types(shop):
    good = load_state(shop / "state.pt", torch.device("cpu"))
    check_state(shop / "state.pt", good, FitConfig())
    wrong = {"config": 3, "raw": None, "ema": {}, "optimiser": None, "step": "x", "elapsed": float("nan"), "history": 3}
    for name, value in [*wrong.items(), ("step", -5), ("config", {"warmup": "x"}), ("best", 3), ("last", {"start": 1})]:
        with pytest.raises(CheckpointError, match=f"damaged: {name} is"):
            check_state(shop / "state.pt", good | {name: value}, FitConfig())
    for name in good:
        save_state(shop / "less.pt", {k: v for k, v in good.items() if k != name})
        with pytest.raises(CheckpointError, match="not the state of a fit"):
            load_state(shop / "less.pt", torch.device("cpu"))


def test_tensors_that_show_more_than_is_stored(shop):
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, shop / "wide.pt")
    with pytest.raises(CheckpointError, match="fewer numbers stored"):
        read_torch_file(shop / "wide.pt", "save it")


@settings(few, max_examples=15)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_json_is_read_as_it_was_written(value):
    assert parse_json(json.dumps(value), "a.json", "a card") == value


def test_json_nested_deep(tmp_path):
    for text in ("[" * 200_000, '{"a":' * 200_000, "[" * 100 + "]" * 100):
        with pytest.raises(CheckpointError, match="nested"):
            parse_json(text, "a.json", "a card")
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="nested"):
        recognise(tmp_path)


def npy(shape: str, data: bytes = b"") -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def test_array_files_that_lie(tmp_path):
    for shape in ("(1000000000,)", "(-1,)", "(10**9,)", "(1000000, 1000000)", "x", "(1.5,)"):
        (tmp_path / "a.npy").write_bytes(npy(shape, bytes(64)))
        with pytest.raises(InputError):
            read_arrays(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as z:
        for i in range(20_001):
            z.writestr(f"{i}.npy", b"")
    with pytest.raises(InputError, match="members"):
        read_arrays(tmp_path / "m.npz")


def test_a_task_in_a_file_asks_for_little(tmp_path):
    for key, value in {"angles": 10**9, "sigma_y": float("inf"), "arc": [1.0] * 9999}.items():
        task = json.dumps({**get_task("ct").config(), key: value})
        np.savez(tmp_path / "m.npz", y=np.ones((1, 1, 8, 8), np.float32), task=np.array(task))
        with pytest.raises(InputError):
            task_of(tmp_path / "m.npz")


BOMBS = """
import resource, sys
from pathlib import Path
from deft.errors import DeftError
from deft.domains.image.pictures import decode
from deft.domains.protein.structure import read_structure
from deft.io.arrays import read_arrays
from deft.io.prior_files import load_own
read = {".npz": read_arrays, ".png": lambda p: decode(p, None, True), ".gz": read_structure, ".safetensors": load_own}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read[Path(sys.argv[1]).suffix](Path(sys.argv[1])); print("read")
except DeftError as error:
    print("refused", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def png(width: int, height: int, chunks: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pack, rows = zlib.compressobj(9), b""
    for _ in range(height):
        rows += pack.compress(bytes(width + 1))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20), 9)) if chunks else b""
    return b"\x89PNG\r\n\x1a\n" + head + text * 60 + chunk(b"IDAT", rows + pack.flush()) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["zeros.npz", "pixels.png", "texts.png", "lines.pdb.gz", "widths.safetensors"])
def test_bombs_take_little_memory(kind, shop, tmp_path):
    path = tmp_path / kind
    if kind == "zeros.npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z, z.open("x.npy", "w") as f:
            f.write(npy("(100000000,)"))
            for _ in range(400):
                f.write(bytes(10**6))
    elif kind == "lines.pdb.gz":
        with gzip.open(path, "wb") as f:
            for _ in range(200):
                f.write(b"ATOM\n" * 200_000)
    elif kind == "widths.safetensors":
        _, card = load_weights(shop / "prior.safetensors")
        card["network"]["widths"] = [30_000, 30_000]
        rewritten(shop / "prior.safetensors", path, card)
    else:
        path.write_bytes(png(8000, 7800) if kind == "pixels.png" else png(8, 8, b"text"))
    done = subprocess.run([sys.executable, "-c", BOMBS, str(path)], capture_output=True, text=True, env=os.environ)
    said = done.stdout.split()
    assert said[:1] == ["refused"] and int(said[1]) < 150, (done.stdout, done.stderr[-500:])


def test_pictures_are_opened_by_the_named_formats(tmp_path, monkeypatch):
    """An EPS that is called .png does not start Ghostscript, as a picture, a mask or a kernel."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho called >> {tmp_path}/log\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "p.png").write_bytes(eps)
    for read in (lambda p: decode(p, None, True), read_kernel):
        with pytest.raises(InputError, match="format"):
            read(tmp_path / "p.png")
    assert not (tmp_path / "log").exists()


def test_a_volume_that_lies(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "v.nii")
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    raw[42:48] = struct.pack("<3h", 30_000, 30_000, 30_000)
    (tmp_path / "v.nii").write_bytes(raw)
    with pytest.raises(InputError, match="at most"):
        read_volume(tmp_path / "v.nii", None)


def test_a_scan_that_lies(tmp_path):
    from deft.domains.image.volumes import _check_frames

    with pytest.raises(InputError, match="at most"):
        _check_frames({"Rows": 60_000, "Columns": 60_000}, 1000)
    _check_frames({"Rows": 512, "Columns": 512}, 1000)


def test_a_changed_piece_is_named(tmp_path):
    """Whatever is changed in a piece of a comparison: its name is said, or the numbers are the same."""
    store, job = Store(tmp_path), make_job("draw", "tiny", {"a": (1, 2)}, 1)
    result = {"per_image": {"psnr": [20.5, 21.25]}, "calls": 10, "seconds": 0.5, "took": 1.0}
    store.path(job).parent.mkdir(parents=True)
    np.savez(store.path(job, ".npz"), truth=np.ones((1, 4)))
    store.write(job, result)
    raw, whole = store.path(job).read_bytes(), store.read(job)
    assert {k: whole[k] for k in result} == result and store.arrays(job) is not None

    @few
    @given(st.integers(0, len(raw) - 1), st.integers(0, 255))
    def check(at, value):
        store.path(job).write_bytes(raw[:at] + bytes([value]) + raw[at + 1 :])
        try:
            found = store.read(job)
        except InputError as error:
            assert store.path(job).name in str(error)
        else:  # white space, or the name of the hash
            assert {k: v for k, v in found.items() if k in result} == result

    check()
    store.path(job).write_bytes(raw)
    np.savez(store.path(job, ".npz"), truth=np.zeros((1, 4)))
    with pytest.raises(InputError, match=r"npz is damaged"):
        store.arrays(job)


def test_fields_of_an_old_piece_have_types(tmp_path):
    store, job = Store(tmp_path), make_job("draw", "old", {})
    good = {"kind": "draw", "spec": {}, "per_image": {"psnr": [1.0]}, "calls": 3}
    store.path(job).parent.mkdir(parents=True)
    store.path(job).write_text(json.dumps(good))
    assert store.read(job) == good
    store.path(job).write_text(json.dumps({k: v for k, v in good.items() if k != "calls"}))
    with pytest.raises(InputError, match="lacks calls"):
        store.read(job, whole=True)
    for name in ("per_image", "calls", "seconds", "kind", "spec", "memory_mib"):
        for wrong in ("x", [], [1], {"psnr": 3}, {"psnr": ["x"]}, {"psnr": []}, True):
            store.path(job).write_text(json.dumps(good | {name: wrong}))
            with pytest.raises(InputError, match="delete it"):
                store.read(job)


def test_changed_samples_are_drawn_again(tmp_path):
    store, job = Store(tmp_path), make_job("draw", "s", {"a": 1})
    store.write_samples(job, Drawn([np.ones((2, 3), np.float32)], 1.5))
    path = store.samples_path(job)
    assert len(store.read_samples(job).x) == 1
    arrays = read_arrays(path)
    for name, value in {"x": np.zeros((2, 3), np.float32), "seconds": np.array(9.0), "length": np.array([-2])}.items():
        np.savez(path, **{**arrays, name: value})
        assert store.read_samples(job).x == []


def test_weights_say_what_they_are(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.zeros(0)}, {"n": 1})
    tensors, card = load_weights(tmp_path / "w.safetensors")
    assert card == {"n": 1} and tensors["a"].dtype == torch.bfloat16 and tensors["b"].shape == (0,)
