"""Samples of the prior itself, as data to fit an h to.

An h for a frozen prior corrects that prior's own score, and what it should learn is a property of the prior and the
measurement alone: E[x_0 | x_t, y] under the prior. Pairs (x_0, y = A(x_0) + noise) with x_0 drawn from the prior are
exactly the pairs that define it, and there is no end of them, so that a long fit need not learn a small data set by
heart.

It is unsound where the prior is poor, or narrower than the images h will be used on: h then learns the prior's mistakes
as truth. `prior_gap` compares the samples with images of the user's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from deft.core.denoiser import Denoiser
from deft.core.random import Noise, seed_for
from deft.errors import CheckpointError, InputError
from deft.io.files import load_weights, save_weights
from deft.kinds.domain import domain_of
from deft.runtime.distributed import World, get_world
from deft.samplers import DPMpp2M, sample

CHUNK = 128
"""Samples drawn at once, and kept as one file."""
STEPS = 25
"""Steps of DPM-Solver++(2M), evenly in log-SNR, for a sample."""


@dataclass(frozen=True)
class Drawn:
    """x: samples [N, *E] in model space. seconds: what drawing them took (in an earlier run, for those read from
    files)."""

    x: Tensor
    seconds: float
    calls: int


def draw_prior_samples(
    prior: Denoiser, n: int, *, seed: int = 0, first: int = 0, steps: int = STEPS, folder: str | Path | None = None,
    seconds: float | None = None, progress: bool = False, world: World | None = None,
) -> Drawn:  # fmt: skip
    """n samples of the prior, by DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095) in `steps` steps.

    Sample i depends on (prior, seed, steps, first + i) alone: a longer draw begins with the shorter one's samples.
    Samples of priors of images are cut off at [-1, 1], and all are rounded to half precision.

    Args:
        first: number of the first sample.
        folder: keeps the samples as files of `CHUNK`; those that are there already, of the same prior, are read. Not
            used by several processes.
        seconds: stop after this long with the chunks that are done (at least one).

    Raises:
        InputError: n below 1. NonFiniteError: the prior's samples are not finite.

    >>> from deft.schedule import VPCosine
    >>> from deft.testing import half_seen
    >>> world, _ = half_seen(4)
    >>> draw_prior_samples(world.prior(VPCosine()), 6, steps=4).x.shape
    torch.Size([6, 16])
    """
    if n < 1:
        raise InputError(f"the number of prior samples must be at least 1, got {n}")
    world = world or get_world()
    # files would part processes that share a network
    where = Path(folder) if folder is not None and world.size == 1 else None
    started, known = time.monotonic(), 0.0
    key = (
        hashlib.sha256(f"{prior.fingerprint()} {seed_for('prior samples', seed)} {steps}".encode()).hexdigest()[:12]
        if where is not None
        else ""
    )
    domain = domain_of(prior) if tuple(prior.event_shape) == tuple(prior.data_shape) else None
    bounds = None if domain is None else domain.bounds

    def draw(low: int) -> dict[str, Tensor]:
        path = where / f"prior-samples-{key}-{low:07d}.safetensors" if where is not None else None
        if path is not None and path.exists():
            try:
                tensors, _ = load_weights(path)
                if len(tensors["x"]) == CHUNK and tensors["seconds"].ndim == 0:
                    return {"x": tensors["x"], "seconds": tensors["seconds"]}
            except (CheckpointError, KeyError):
                pass  # damaged: drawn again
        begun = time.monotonic()
        x = sample(
            prior,
            Noise(seed_for("prior samples", seed), range(low, low + CHUNK)),
            sampler=DPMpp2M(),
            steps=steps,
            spacing="log-snr",
        )
        x = (x if bounds is None else x.clamp(*bounds)).half().cpu()
        done = {"x": x, "seconds": torch.tensor(time.monotonic() - begun)}
        if path is not None:
            save_weights(
                path,
                done,
                {
                    "kind": "prior samples",
                    "prior_sha256": prior.fingerprint(),
                    "seed": seed,
                    "steps": steps,
                    "first": low,
                },
            )
        return done

    low = first // CHUNK * CHUNK
    starts = list(range(low, first + n, CHUNK))
    parts: list[Tensor] = []
    with tqdm(total=n, desc="prior samples", unit="sample", disable=not (progress and world.main)) as bar:
        for group in _groups(starts, world.size):
            for done in world.share(group, draw):
                parts.append(done["x"])
                known += float(done["seconds"])
                bar.update(min(CHUNK, n - bar.n))
            if seconds is not None and world.pulse(False, time.monotonic() - started)[1] > seconds:
                break
    x = torch.cat(parts).float()[first - low :][:n]
    return Drawn(x, known / world.size, len(parts) * CHUNK * steps)


def _groups(starts: list[int], size: int) -> Iterator[list[int]]:
    for i in range(0, len(starts), size):
        yield starts[i : i + size]


def prior_gap(samples: Tensor, x: Tensor, things: str = "images") -> str | None:
    """One line if images x (or other things) differ from the prior's samples in mean, spread or range, else None.

    Compared are the mean over all entries, the deviation of single entries over images (what a narrow prior has too
    little of) and the 1 % and 99 % quantiles. It is a rough look: a prior may pass and still lack a kind of image.
    """
    if len(samples) < 8 or len(x) < 8:
        return None
    a, b = _summary(samples), _summary(x)
    scale = max(b["spread"], 1e-6)
    said = []
    if not 0.8 < a["spread"] / scale < 1.25:
        said.append(f"spread {a['spread']:.3f} against {b['spread']:.3f}")
    for name, limit in (("mean", 0.25), ("1 % quantile", 0.5), ("99 % quantile", 0.5)):
        if abs(a[name] - b[name]) > limit * scale:
            said.append(f"{name} {a[name]:.3f} against {b[name]:.3f}")
    if not said:
        return None
    return (
        f"warning: samples of the prior differ from your {things} ({'; '.join(said)}): an h fitted to them learns"
        f" another kind of {'image' if things == 'images' else 'data'}. Give more {things} of yours and --prior-samples"
        " 0, or another prior"
    )


def _summary(x: Tensor) -> dict[str, float]:
    flat = x.float().flatten(1)
    values = flat.flatten()[:: max(1, flat.numel() // 1_000_000)]
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99])).tolist()
    return {
        "mean": float(flat.mean()),
        "spread": float(flat.std(0).square().mean().sqrt()),
        "1 % quantile": low,
        "99 % quantile": high,
    }
