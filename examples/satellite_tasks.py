"""Clouds, the stripes of a scanner, low resolution, lost colour and blur: what the prior `satellite` makes of them.

python examples/satellite_tasks.py docs/images/satellite-tasks.png     # two minutes of a core

The truth is drawn from the prior itself, as no picture of its data is bundled. Prints the PSNR of the mean of the
samples, and how far one sample is from the measurement, over the noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

import deft
from deft.core.likelihood import Observation
from deft.domains.image.tasks import get_task
from deft.domains.image.writing import Column, picture_grid, picture_of, save_image, to_pixels
from deft.likelihood import Gaussian
from deft.methods.plans import plan
from deft.operator import Mask

TRUTHS, DRAWS, STEPS, NOISE = (3, 7), 4, 50, 0.02
TASKS = {"inpaint-freeform": "clouds", "sr4": "4x smaller", "colourise": "brightness", "deblur-gaussian": "a blur"}


def stripes(side: int, each: int = 8, wide: int = 3) -> torch.Tensor:
    """A mask [1, side, side] that hides `wide` rows of every `each`, as a broken detector of a scanner does."""
    seen = torch.arange(side) % each >= wide
    return seen.float()[None, :, None].expand(1, side, side)


def measured(x: torch.Tensor) -> dict[str, Observation]:
    found = {title: get_task(name, sigma_y=NOISE).observe(x, deft.Noise(1, len(x))) for name, title in TASKS.items()}
    lines = Gaussian(Mask(stripes(x.shape[-1]).expand(len(x), 1, -1, -1)), NOISE)
    return found | {"stripes": Observation(lines.sample(x, deft.Noise(2, len(x))), lines)}


def main(out: Path) -> None:
    prior = deft.load_prior("satellite")
    x = deft.sample(prior, deft.Noise(3, TRUTHS), steps=50).clamp(-1, 1)
    parts = []
    for title, obs in measured(x).items():
        draws = plan("pigdm", steps=STEPS).draw(prior, obs, DRAWS, seed=3)
        error = (draws.mean - x).square().flatten(1).mean(1)
        far = obs.residual_rms(draws.x[:, 0])
        assert far is not None
        print(f"{title}: PSNR {[round(v, 1) for v in (10 * torch.log10(4 / error)).tolist()]}", end=", ")
        print(f"residual over noise {[round(v, 2) for v in (far / NOISE).tolist()]}", flush=True)
        columns = [
            Column("from the prior", to_pixels(x)),
            Column(title, picture_of(obs, tuple(x.shape[1:]))),
            Column("a sample", to_pixels(draws.x[:, 0])),
            Column("another", to_pixels(draws.x[:, 1])),
            Column(f"mean of {DRAWS}", to_pixels(draws.mean)),
        ]
        parts.append(picture_grid(columns, cell=128))
    whole = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    for i, part in enumerate(parts):
        whole.paste(part, (0, sum(p.height for p in parts[:i])))
    save_image(out, whole.quantize(256))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
