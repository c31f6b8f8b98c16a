"""Store bundled weights in fewer bits, and measure what that does.

    python benchmarks/half_weights.py                                      # the table, of files as they are in git
    python benchmarks/half_weights.py --write --satellite out/prior.safetensors --data eurosat-part.npz

Without --before the files before are those of the commit `BEFORE`. --write replaces the bundled files by the rounded
ones; --satellite is the prior `satellite` as it was trained (float16) and --data its pictures. Weights of a prior of
another precision have another fingerprint; its card names the old one under `stands_for`, so that an h that was fitted
to them still belongs to it.

float16: every tensor (networks of features: those with two axes or more; an h: all but its levels). int8: tensors with
two axes or more, but for the first and the last layer and those of the time (float16), as bytes with a float16 scale
for each 64 neighbours in a row of outputs, chosen for the smallest squared error.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from deft import Noise, condition, load_prior
from deft.domains.image.contrastive import load_encoder
from deft.domains.image.data import dataset
from deft.domains.image.domain import WEIGHTS
from deft.domains.image.features import in_batches
from deft.io.files import from_bytes, save_weights
from deft.io.h_files import KEPT_WHOLE, load_h
from deft.io.prior_files import load_own
from deft.kinds.domain import find_domain

ROOT = Path(__file__).parents[1]
PROTEIN = WEIGHTS.parents[1] / "protein" / "weights"
DATA = (
    WEIGHTS.parent / "data" / "ct.npz",
    WEIGHTS.parent / "data" / "fashion.npz",
    PROTEIN.parent / "data" / "chains.npz",
)
BEFORE = "26f9a61"
GROUP = 64
ENDS = ("inlet.", "outlet.", "embed.")
LEVELS = tuple((k + 0.5) / 10 for k in range(10))


def raw(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file as they are stored, and its card."""
    with safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["deft"])  # noqa: SIM118


def halves(tensors: dict[str, Tensor], whole: tuple[str, ...] = (), axes: int = 0) -> dict[str, Tensor]:
    return {
        k: v.half() if v.dtype == torch.float32 and k not in whole and v.ndim >= axes else v for k, v in tensors.items()
    }


def to_bytes(w: Tensor, group: int = GROUP) -> tuple[Tensor, Tensor]:
    """w [rows, ...] as bytes of its shape, and scales [rows, groups]: of a few, those with the smallest error."""
    rows = w.float().flatten(1)
    if rows.shape[1] % group:
        group = rows.shape[1]
    parts = rows.reshape(len(rows), -1, group)
    top = parts.abs().amax(-1, keepdim=True) / 127
    best = scale = error = torch.empty(0)
    for share in torch.linspace(0.75, 1, 26):
        s = (top * share).half().float().clamp_min(2**-24)
        q = (parts / s).round().clamp(-127, 127)
        e = (q * s - parts).square().sum(-1, keepdim=True)
        if not len(best):
            best, scale, error = q, s, e
        best, scale, error = torch.where(e < error, q, best), torch.where(e < error, s, scale), torch.minimum(e, error)
    return best.to(torch.int8).reshape(w.shape), scale[..., 0].half()


def eights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, w in tensors.items():
        if w.ndim < 2 or name.startswith(ENDS):
            found[name] = w.half()
        else:
            found[name], found[name + ".scale"] = to_bytes(w)
    return found


def store_prior(source: Path, target: Path, precision: str) -> None:
    tensors, card = raw(source)
    stored = eights(tensors) if precision == "int8" else halves(tensors)
    prior = load_own(source)
    prior.net.load_state_dict(from_bytes(source, stored))
    about = card | {"precision": precision, "sha256": prior.fingerprint()}
    about["stands_for"] = [*card.get("stands_for", []), card["sha256"]]
    if precision == "int8":
        about.pop("rounding", None)  # of float16
        about["precision"] = f"int8, a float16 scale for each {GROUP}; first and last layer float16"
    save_weights(target, stored, about)


def store_h(source: Path, target: Path) -> None:
    tensors, card = raw(source)
    save_weights(target, halves(tensors, whole=KEPT_WHOLE), card | {"weights_stored": "float16"})


def store_network(source: Path, target: Path) -> None:
    tensors, card = raw(source)
    save_weights(target, halves(tensors, axes=2), card | {"weights_stored": "float16"})


def pack(source: Path, target: Path) -> None:
    """The same arrays, by LZMA in place of deflate."""
    arrays = dict(np.load(source))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as z:
        for name, value in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, value)
            z.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_LZMA)
    assert all(np.array_equal(v, np.load(target)[k]) for k, v in arrays.items())


# what it does


@torch.no_grad()
def errors(model: Any, x: Tensor, prior: Any, batch: int = 50) -> Tensor:
    """Squared error of E[x_0 | x_t] by level and sample, [10, N]. model: x_t, t, rows -> its mean."""
    noise, found = prior.project(Noise(0, len(x)).normal(x.shape[1:]), x), []
    low, high = prior.schedule.t_min, prior.schedule.t_max
    for share in LEVELS:
        t = torch.tensor(low + (high - low) * share)
        a, s = float(prior.schedule.alpha(t)), float(prior.schedule.sigma(t))
        parts = [slice(i, min(i + batch, len(x))) for i in range(0, len(x), batch)]
        made = torch.cat([model(a * x[rows] + s * noise[rows], t, rows) for rows in parts])
        found.append((made - x).flatten(1).square().mean(1))
    return torch.stack(found)


def changes(before: Tensor, after: Tensor) -> str:
    """The relative change of the error: the mean over the levels with its standard error over the samples, and the
    smallest and largest of a level."""
    change = 100 * (after - before) / before.mean(1, keepdim=True)
    each, level = change.mean(0), change.mean(1)
    return (
        f"held-out error {float(each.mean()):+.4f} % (s.e. {float(each.std()) / len(each) ** 0.5:.4f}); by level"
        f" {float(level.min()):+.4f} to {float(level.max()):+.4f} %"
    )


def of_prior(before: Path, after: Path, x: Tensor) -> str:
    priors = [load_own(path) for path in (before, after)]
    return changes(*(errors(lambda x_t, t, rows, p=p: p(x_t, t).mean, x, p) for p in priors))


def of_h(before: Path, after: Path, count: int = 60) -> str:
    """An h for motifs, on chains that neither it nor the prior was fitted to."""
    prior = load_prior("backbone")
    x, found = find_domain("protein").read("chains:test", prior.data_shape).x[:count], []
    for path in (before, after):
        h, task, _ = load_h(path, prior)
        obs = task.observe(x, Noise(1, len(x)))
        found.append(
            errors(lambda x_t, t, rows, h=h, obs=obs: condition(prior, h, obs[rows])(x_t, t).mean, x, prior, 20)
        )
    return changes(*found)


def of_features(before: Any, after: Any, x: Tensor) -> str:
    one, other = (in_batches(net.features, x) for net in (before, after))
    return f"features differ by {float((one - other).norm(dim=1).mean()):.1e} of the mean distance of two images"


def satellites(path: Path, count: int) -> Tensor:
    """Validation pictures, every so many, so that all classes are among them."""
    from PIL import Image
    from train_satellite import VALIDATION, parts_of

    found = np.load(path)
    rows = np.flatnonzero(parts_of(found["name"], found["label"]) == VALIDATION)
    blob, at = found["jpeg"], found["offset"]
    rows = rows[:: len(rows) // count][:count]
    files = [io.BytesIO(blob[at[i] : at[i + 1]].tobytes()) for i in rows]
    x = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
    return torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1


JOBS = (
    ("fashion.safetensors", WEIGHTS, "float16"),
    ("ct.safetensors", WEIGHTS, "float16"),
    ("ct-contrastive.safetensors", WEIGHTS, "float16, biases float32"),
    ("motif-9.safetensors", PROTEIN, "float16"),
    ("motif-4.safetensors", PROTEIN, "float16"),
    ("satellite.safetensors", WEIGHTS, "int8"),
)
PRIORS = ("fashion.safetensors", "ct.safetensors", "satellite.safetensors")


def write(name: str, source: Path, target: Path) -> None:
    if name in PRIORS:
        store_prior(source, target, "int8" if name.startswith("satellite") else "float16")
    elif name.startswith("motif"):
        store_h(source, target)
    else:
        store_network(source, target)


def harm(name: str, before: Path, after: Path, pictures: Path | None, count: int) -> str:
    if name in ("ct.safetensors", "fashion.safetensors"):
        return of_prior(before, after, dataset(name.split(".")[0], "test").x[:count])
    if name == "satellite.safetensors":
        return "" if pictures is None else of_prior(before, after, satellites(pictures, count))
    if name.startswith("motif"):
        return of_h(before, after)
    return of_features(load_encoder(before), load_encoder(after), dataset("ct", "test").x)


def before_of(path: Path, folder: Path) -> Path:
    """The file as it was in the commit `BEFORE`."""
    target = folder / path.name
    name = path.resolve().relative_to(ROOT.resolve()).as_posix()
    target.write_bytes(
        subprocess.run(["git", "-C", str(ROOT), "show", f"{BEFORE}:{name}"], check=True, stdout=-1).stdout
    )
    return target


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--write", action="store_true", help="replace the bundled files")
    p.add_argument("--satellite", type=Path, help="the prior satellite as it was trained")
    p.add_argument("--data", type=Path, help="EuroSAT's pictures, an npz of its files (train_satellite.py)")
    p.add_argument("--count", type=int, default=200, help="held-out images for a prior")
    args = p.parse_args()
    print("| file | MB | | stored as | harm |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, home, precision in JOBS:
            if name.startswith("satellite") and args.satellite is None:
                continue
            before = args.satellite if name.startswith("satellite") else before_of(home / name, folder)
            if args.write:
                write(name, before, home / name)
            sizes = [f"{path.stat().st_size / 1e6:.2f}" for path in (before, home / name)]
            text = harm(name, before, home / name, args.data, args.count)
            print(f"| `{name}` | {sizes[0]} | {sizes[1]} | {precision} | {text} |", flush=True)
        for data in DATA:
            before = before_of(data, folder)
            if args.write:
                pack(before, data)
            sizes = [f"{path.stat().st_size / 1e6:.2f}" for path in (before, data)]
            print(f"| `{data.name}` | {sizes[0]} | {sizes[1]} | LZMA in place of deflate | none |")
    whole = sum(
        f.stat().st_size for k in ("weights", "data") for d in WEIGHTS.parents[1].glob(f"*/{k}") for f in d.iterdir()
    )
    print(f"\nBundled weights and data: {whole / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
