"""Galaxies with a hole, and galaxies through the atmosphere, restored with a fitted h: python restore.py [OUT]
[SECONDS]

The prior is of galaxygrad (see galaxies.py), and so are the galaxies: there are no images here but the prior's own
samples, which is all that an h needs to be fitted to. Writes galaxies.png and prints errors beside those of ΠGDM and of
the prior alone, at 50 steps each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from galaxies import hsc32
from torch import Tensor

import deft
from deft.domains.image.metrics import psnr
from deft.domains.image.writing import Column, picture_grid, save_image, to_pixels
from deft.operator import LinearOperator, Mask
from deft.train.data import PredictionCache

SIGMA_Y = 0.01  # on [-1, 1]; the sky is at -1, the middle of a bright galaxy near 0.7


class Hole:
    """A third of the side hidden, somewhere over the galaxy."""

    name, feature_channels = "a hole", 2

    def observe(self, x: Tensor, noise: deft.Noise) -> deft.Observation:
        side = x.shape[-1]
        size, place = side // 3, noise.uniform((2,)) * (side // 3) + side // 6
        i = torch.arange(side)
        rows, columns = (((i >= p[:, None]) & (i < p[:, None] + size)) for p in place.floor().T)
        like = deft.Gaussian(Mask(~(rows[:, None, :, None] & columns[:, None, None, :])), SIGMA_Y)
        return deft.Observation(like.sample(x, noise), like)


class Blur(LinearOperator):
    """Convolution with a symmetric kernel round the edges (the sky is the same on all sides): a product with a real T
    in Fourier space.

    Everything guidance asks for is then a formula. `LinearOperator`'s own conjugate gradients would do, at a hundred
    times the cost a step: a blur is ill-conditioned.
    """

    def __init__(self, side: int, width: float):
        i = torch.fft.fftfreq(side, 1 / side)
        k = torch.exp(-(i**2) / (2 * width**2))
        self.transfer = torch.fft.fft2((k / k.sum()).outer(k / k.sum())).real

    def _times(self, x: Tensor, factor: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * factor).real

    def __call__(self, x: Tensor) -> Tensor:
        return self._times(x, self.transfer)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return self._times(r, 1 / (noise + gram * self.transfer**2))

    def pinv(self, y: Tensor) -> Tensor:
        return self._times(y, torch.where(self.transfer > 1e-5, 1 / self.transfer, 0.0))

    def features(self, y: Tensor) -> Tensor:
        """A Wiener filter's guess, rather than the pseudo-inverse, which is noise."""
        return self._times(y, self.transfer / (self.transfer**2 + 0.01))


class Seeing:
    """A Gaussian point-spread function of deviation 1.5 pixels."""

    name, feature_channels = "seeing", 1

    def __init__(self, side: int, width: float = 1.5):
        self.like = deft.Gaussian(Blur(side, width), SIGMA_Y)

    def observe(self, x: Tensor, noise: deft.Noise) -> deft.Observation:
        return deft.Observation(self.like.sample(x, noise), self.like)


def main() -> None:
    out, seconds = (
        Path(sys.argv[1] if len(sys.argv) > 1 else "galaxies"),
        (float(sys.argv[2]) if len(sys.argv) > 2 else 120.0),
    )
    prior = hsc32()
    print(f"prior: {prior.parameter_count():,} parameters; drawing galaxies from it")
    x = torch.cat(
        [deft.sample(prior, deft.Noise(1, range(i, i + 80)), steps=60, spacing="log-snr") for i in range(0, 800, 80)]
    )
    x_fit, x_out = x[:768], x[768:]
    columns = []
    for task in (Hole(), Seeing(32)):
        h = deft.DEFT.sized(prior, 0.09, task.feature_channels).calibrate(prior, x_fit)
        bank = PredictionCache.build(prior, x_fit, task, 6000)
        fitted = deft.fit(
            h,
            deft.DenoisingObjective(prior),
            bank,
            config=deft.FitConfig(max_seconds=seconds, steps=100_000),
            device="cpu",
            progress=False,
        )
        obs = task.observe(x_out, deft.Noise(2, len(x_out)))
        print(
            f"\n{task.name}: h fitted in {fitted.seconds:.0f} s, {fitted.steps} steps; PSNR of the mean of 8, and"
            " residual / sigma_y"
        )
        # far out this prior's Jacobian is noise, and ΠGDM runs off: its h is kept no larger than the prior's own eps
        pigdm = deft.core.htransform.Clipped(deft.PiGDM(0.15), 1.0)
        for name, method in (("DEFT", h), ("ΠGDM, capped", pigdm), ("prior alone", deft.core.htransform.Zero())):
            drawn = deft.sample_posterior(
                prior, method, obs, 8, steps=50, spacing="log-snr" if name == "DEFT" else "angle", seed=3
            ).x
            # x spans [-1, 1]: a peak of 2
            r = obs.likelihood.residual(obs.y, drawn[:, 0]).square().flatten(1).sum(
                1
            ) / obs.likelihood.operator.number_of_measurements(obs.y)
            print(f"  {name:12} {psnr(drawn.mean(1), x_out).mean():6.2f} dB   {float(r.mean().sqrt()) / SIGMA_Y:5.2f}")
            if name == "DEFT":
                few = x_out.flatten(1).var(1).argsort(descending=True)[:5]
                columns += [Column("galaxy", bright(x_out[few])), Column(task.name, bright(obs.y[few]))]
                columns += [Column(f"sample {j + 1}", bright(drawn[few, j])) for j in range(2)]
                columns += [Column("mean of 8", bright(drawn[few].mean(1)))]
    out.mkdir(parents=True, exist_ok=True)
    save_image(
        out / "galaxies.png",
        picture_grid(columns, title="HSC ScoreNet 32, restored with two fitted h-transforms", cell=96, gaps=(4,)),
    )
    print(f"\nwrote {out}/galaxies.png")


def bright(x: Tensor):
    """Faint light made visible: the prior's data are the logarithm of the flux already; here they are stretched once
    more."""
    return to_pixels(2 * ((x + 1) / 2).clamp(0, 1).sqrt() - 1)


if __name__ == "__main__":
    main()
