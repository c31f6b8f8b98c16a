"""How good the prior `digits` is: its denoising error, its own samples, and restored digits of a speaker it never heard.

    python benchmarks/sound.py --data fsdd.npz --what levels                     # a minute of one CPU thread
    python benchmarks/sound.py --data fsdd.npz --what gap --methods pigdm mmps   # or bandwidth, denoise-sound, declip

--data: what `examples/sound/make_data.py` makes. The yardstick is a stationary Gaussian with the mean power spectrum of
the training data (the Wiener filter), which knows of no time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from deft import Noise, load_prior
from deft.denoiser import MeanDenoiser
from deft.domains.sound.classifier import digit_classifier
from deft.domains.sound.measure import measure
from deft.domains.sound.prior import Placed
from deft.domains.sound.recordings import Recordings, loudness, unpack
from deft.domains.sound.tasks import TASKS
from deft.io.arrays import read_arrays
from deft.kinds.domain import find_domain
from deft.methods import plan
from deft.train.prior_quality import denoising_errors, draw

LENGTH, RATE = 4096, 8000


def of(recordings: Recordings, rows: list[int], step: int, n: int) -> Tensor:
    """n windows of these recordings at power 1: their middles (step -1), or placed at random."""
    sounds = [recordings.sounds[i] / loudness(recordings.sounds[i]) for i in rows]
    return Placed(sounds, LENGTH).draw(n, 0, step, torch.device("cpu")).x


def levels(prior, x: Tensor, spectrum: Tensor, out: Path | None) -> None:
    """Denoising errors beside the yardstick's, and what the prior's own samples are like."""

    def wiener(x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return torch.fft.ifft(torch.fft.fft(x_t) * (a * spectrum / (a * a * spectrum + s * s))).real

    yardstick = MeanDenoiser(wiener, prior.schedule, (1, LENGTH))
    spoken = find_domain("sound").read("espeak:test").x
    found = [denoising_errors(p, v) for v in (x[:96], spoken) for p in (prior, yardstick)]
    for a, b, c, d in zip(*found, strict=True):
        print(
            f"angle {a['angle']:.2f}  held-out speaker {a['prior']:.4f}, {a['prior'] / b['prior']:.2f} of the Gaussian's;",
            end=" ",
        )
        print(f"espeak {c['prior']:.4f}, {c['prior'] / d['prior']:.2f}")
    net, samples = digit_classifier(), draw(prior, 48, seed=0, progress=False)
    sure = [float((net(v).softmax(1).amax(1) > 0.7).float().mean()) for v in (samples, x)]
    print(f"power of samples {float(samples.square().mean()):.3f}, of data {float(x.square().mean()):.3f}")
    print(f"share in which the classifier is sure of a digit: samples {sure[0]:.2f}, data {sure[1]:.2f}")
    if out is not None:
        domain = find_domain("sound").with_card({"rate": RATE})
        (out / "samples.png").write_bytes(domain.picture(samples[:15], (), "samples of the prior") or b"")


def restored(prior, name: str, methods: list[str], x: Tensor, labels: Tensor, spectrum: Tensor, n: int, s: int) -> None:
    """A line of metrics for each method, and for the Wiener filter, or what was heard, alone."""
    x, labels, task, net = x[:n], labels[:n], TASKS[name](), digit_classifier()
    obs = task.observe(x, Noise(0, n))
    for method in methods:
        started = time.process_time()
        draws = plan(method, name, steps=25).draw(prior, obs, s, seed=0, batch=32)
        seconds = (time.process_time() - started) / n / s
        line(method, measure(draws.x, x, obs, network=net, labels=labels), seconds)
    low, hertz = obs.likelihood.operator.pinv(obs.y), RATE / LENGTH * torch.arange(LENGTH)
    hertz = torch.minimum(hertz, RATE - hertz)
    if name in ("denoise-sound", "bandwidth"):
        noise = torch.full((LENGTH,), task.sigma_y**2 * (task.factor if name == "bandwidth" else 1))
        if name == "bandwidth":
            noise[hertz > RATE / 2 / task.factor] = torch.inf
        low = torch.fft.ifft(torch.fft.fft(low) * spectrum / (spectrum + noise)).real
    line(
        "Wiener" if name in ("denoise-sound", "bandwidth") else "heard",
        measure(low[:, None], x, obs, network=net, labels=labels),
    )
    print("digit of the truth", float((net(x).argmax(1) == labels).float().mean()))


def line(name: str, found: dict[str, Tensor], seconds: float = 0.0) -> None:
    print(f"{name:8}", *(f"{k} {float(v.mean()):.3f}" for k, v in found.items()), f"seconds {seconds:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", default="digits")
    parser.add_argument("--held-out", default="jackson")
    parser.add_argument("--what", choices=("levels", *TASKS), default="levels")
    parser.add_argument("--methods", nargs="+", default=["pigdm", "mmps"])
    parser.add_argument("--sounds", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    torch.set_num_threads(1)
    every = unpack(read_arrays(o.data), str(o.data))
    who = [name.split("_")[1] for name in every.names]
    theirs, mine = ([i for i, w in enumerate(who) if (w == o.held_out) is held] for held in (True, False))
    spectrum = torch.fft.fft(of(every, mine, 3, 400), norm="ortho").abs().square().mean(0)[0]
    x, labels = of(every, theirs, -1, len(theirs)), every.some(theirs).labels
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    prior = load_prior(o.prior)
    if o.what == "levels":
        levels(prior, x[rows], spectrum, o.out)
    else:
        restored(prior, o.what, o.methods, x[rows], labels[rows], spectrum, o.sounds, o.samples)


if __name__ == "__main__":
    main()
