"""Train the prior `digits` of spoken digits (8 kHz, windows of 4,096 samples), on one CPU thread in about 40 minutes.

    python examples/sound/make_digits.py --out espeak-train.npz
    python benchmarks/train_digits.py --data fsdd-part.npz --more espeak-train.npz --out digits --seconds 2400
    python benchmarks/train_digits.py --data fsdd-part.npz --more espeak-train.npz --out digits --seconds 2400 --resume

--data: recordings back to back (pcm, offset, name, rate) of the Free Spoken Digit Dataset (CC BY-SA 4.0,
https://github.com/Jakobovski/free-spoken-digit-dataset); `examples/sound/make_data.py` makes it from the public folder
of WAV files. One speaker is held out. --more: digits that espeak-ng speaks, three draws in ten.

Each recording is brought to power 1, then placed at random (`deft.domains.sound.prior.Placed`).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from deft.cli.prior import finish_prior, start_weights
from deft.domains.sound.prior import Placed, new_prior
from deft.domains.sound.recordings import Recordings, loudness, unpack
from deft.io.arrays import read_arrays
from deft.io.files import write_json
from deft.kinds.domain import find_domain
from deft.schedule import VPCosine
from deft.train.denoising import PriorObjective
from deft.train.fit import FitConfig, fit
from deft.train.levels import level_table

RATE, LENGTH = 8000, 4096
LICENCE = "CC BY-SA 4.0 (Zohar Jackson and contributors; weights fitted to it, no recording)"


def read(path: Path) -> Recordings:
    """Recordings of power 1."""
    found = unpack(read_arrays(path), str(path))
    assert found.rate == RATE, f"{path}: {found.rate} samples a second, expected {RATE}"
    return Recordings([x / loudness(x) for x in found.sounds], found.names, found.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--more", type=Path)
    parser.add_argument("--held-out", default="jackson", help="the speaker that is left out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--widths", default="40,56,80")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start-from", help="begin with the weights of another prior of the same network")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(o.seed)
    every = read(o.data)
    theirs = [i for i, name in enumerate(every.names) if name.split("_")[1] == o.held_out]
    mine = [i for i in range(len(every)) if i not in set(theirs)]
    sounds, share = every.some(mine).sounds, torch.full((len(mine),), 1 / len(mine))
    if o.more:
        more = read(o.more).sounds
        sounds, share = [*sounds, *more], torch.cat([0.7 * share, torch.full((len(more),), 0.3 / len(more))])
    made = new_prior((1, LENGTH), VPCosine(), widths=tuple(map(int, o.widths.split(","))), patch=o.patch)
    if o.start_from:
        start_weights(made, o.start_from)
    print(f"{sum(p.numel() for p in made.parameters()):,} parameters, {len(sounds)} recordings, {len(theirs)} held out")
    config = FitConfig(
        steps=o.steps, batch=o.batch, lr=o.lr, warmup=200, ema=0.999, seed=o.seed, max_seconds=o.seconds,
        evaluations=o.evaluations, held_out_batches=4,
    )  # fmt: skip
    held = Placed(every.some(theirs).sounds, LENGTH)
    result = fit(
        made, PriorObjective(), Placed(sounds, LENGTH, share), held, config=config, folder=o.out, resume=o.resume,
        callback=lambda row: print(row, flush=True),
    )  # fmt: skip
    x_out = held.draw(len(theirs), 0, -1, torch.device("cpu")).x
    about = {
        "name": "digits",
        "data": f"Free Spoken Digit Dataset (index 0 to 31, five of six speakers, {o.held_out} held out), 70 %; digits"
        " of 32 voices of espeak-ng, 30 %; recordings of power 1, placed at random, up to 6 dB louder or softer",
        "source": "https://github.com/Jakobovski/free-spoken-digit-dataset, commit 26eb9aaf",
        "licence": LICENCE,
        "rate": RATE,
        "recipe": {k: v for k, v in asdict(config).items() if k != "saves"} | {"start_from": o.start_from},
        "steps": result.steps,
        "seconds": round(result.seconds),
        "weights": result.weights,
        "held_out_loss": result.held_out,
    }
    card = finish_prior(made, find_domain("sound"), x_out, o.out, about, half=True, grid=16)
    write_json(o.out / "log.json", {"history": result.history, "card": card})
    print(level_table(card["levels"]))


if __name__ == "__main__":
    main()
