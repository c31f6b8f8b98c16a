"""Train the classifier of spoken digits that comes with the library, in about four minutes of one CPU thread.

    python make_data.py --folder free-spoken-digit-dataset/recordings --out fsdd.npz
    python make_digits.py --out espeak-train.npz
    python train_classifier.py --data fsdd.npz --more espeak-train.npz --out digit-classifier.safetensors

One speaker is held out, whose recordings are then told apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from deft.domains.sound.classifier import LENGTH, accuracy, save_classifier, train_classifier
from deft.domains.sound.data import SPLITS, dataset
from deft.domains.sound.recordings import Recordings, unpack, window
from deft.io.arrays import read_arrays

SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset, commit 26eb9aaf"
LICENCE = "CC BY-SA 4.0 (Zohar Jackson and contributors; weights fitted to it, no recording)"


def middles(recordings: Recordings) -> torch.Tensor:
    """The middle window of each recording, [N, 1, 4096]."""
    return torch.stack([window(x, LENGTH) for x in recordings.sounds])[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--more", type=Path, required=True)
    parser.add_argument("--held-out", default="jackson", help="the speaker that is left out")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    torch.set_num_threads(1)
    every, more = (unpack(read_arrays(p), str(p)) for p in (o.data, o.more))
    who = [name.split("_")[1] for name in every.names]
    mine, theirs = ([i for i, w in enumerate(who) if (w == o.held_out) is held] for held in (False, True))
    train, test = every.some(mine), every.some(theirs)
    weight = torch.cat([torch.full((len(train),), 1 / len(train)), torch.full((len(more),), 0.4 / len(more))])
    labels = torch.cat([train.labels, more.labels])
    net = train_classifier([*train.sounds, *more.sounds], labels, steps=o.steps, weight=weight, look=print)
    right = {
        f"held-out speaker, {len(test)} recordings": accuracy(net, middles(test), test.labels),
        "the speakers it was trained on": accuracy(net, middles(train), train.labels),
    }
    for split in SPLITS:
        spoken = dataset("espeak", split)
        right[f"espeak:{split}, other voices"] = accuracy(net, spoken.x, spoken.labels)
    print(right)
    data = f"Free Spoken Digit Dataset (index 0 to 31, five of six speakers, {o.held_out} held out), 71 %; digits of"
    save_classifier(
        o.out, net, name="digit-classifier", data=f"{data} 32 voices of espeak-ng, 29 %", source=SOURCE,
        licence=LICENCE, rate=8000, steps=o.steps, accuracy=right,
    )  # fmt: skip


if __name__ == "__main__":
    main()
