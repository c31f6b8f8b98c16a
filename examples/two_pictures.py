"""Fill the hole of two pictures in ten lines: the library without its command line.

python examples/two_pictures.py
"""

from pathlib import Path

import torch

import deft
from deft.domains.image.data import fashion
from deft.domains.image.writing import Column, picture_grid, save_image, to_pixels
from deft.prior import load_prior

prior = load_prior("fashion")
truth = fashion("test").x[:2]

mask = torch.ones(1, 1, 32, 32)
mask[..., 10:22, 8:24] = 0
likelihood = deft.Gaussian(deft.Mask(mask), sigma_y=0.05)
y = likelihood.sample(truth, deft.Noise(0, 2))

samples = deft.sample_posterior(prior, deft.PiGDM(), deft.Observation(y, likelihood), n=4, steps=50).x

columns = [Column("truth", to_pixels(truth)), Column("measurement", to_pixels(y))]
columns += [Column(f"sample {i + 1}", to_pixels(samples[:, i])) for i in range(4)]
save_image(Path("two-pictures.png"), picture_grid(columns))
print("wrote two-pictures.png")
