"""A measurement of images as a linear Gaussian measurement of their latents: guidance without the autoencoder.

An image is made of the measurement once: the measured pixels with the hole filled in (a mask), or the operator's own
first view of y (`Operator.features`, the pseudo-inverse for most). It is encoded, s = E(image), and s is taken for a
measurement of the latents z, at each place of their grid alone:

    s = G_k z + b_k + n,   n ~ N(0, V_k),   k the kind of the place.

G_k, b_k and V_k are measured, not assumed: samples of the prior are decoded to images x, which are measured with noise
as the operator says it is, and s is regressed on their own codes z = E(x), as a latent prior is a model of codes (least
squares over all channels of a place). So V_k holds the encoder's response to the noise of y, and what filling in cost.
Kinds are one for all places, or for masks:

    0      none of its pixels was measured, and nothing is known
    1..3   all its pixels were measured, and so were those of two places around, of one, of none
    4...   some were: by the mean distance of its pixels to the next measured one (`DISTANCES`)

Errors of neighbouring places are not independent, and V is multiplied by what they add up to (`inflations`).
What this cannot express: what a measurement says of several places together, and anything not linear.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.likelihood import Observation
from deft.core.operator import Operator
from deft.core.random import Noise
from deft.errors import CheckpointError, InputError
from deft.likelihood.gaussian import Gaussian
from deft.operator import Mask
from deft.operator.channels import ChannelMap
from deft.operator.masks import boxes, free_form, outside, random_pixels

Encode = Callable[[Tensor], Tensor]

DISTANCES = (0.05, 0.1, 0.2, 0.35)
"""Ends of the kinds of places that were measured in part, in widths of a place."""
WHOLE = 3
"""Kinds of places all of whose pixels were measured."""
KINDS = 1 + WHOLE + len(DISTANCES) + 1
PLACES = 8192
"""About so many places are regressed on, at least; `MIN_SAMPLES` to `MAX_SAMPLES` samples of the prior."""
MIN_SAMPLES, MAX_SAMPLES = 8, 128
FLOOR = 1e-6
"""Least variance of a surrogate's noise, for latents of about unit variance."""
LEAST_SHARE = 0.05
"""A measurement that explains less than this share of a latent's variance has no surrogate."""
OTHERS = "take gradient=encoder or gradient=decoder"


class Surrogate(NamedTuple):
    """gain G [K, c, c], offset b [K, c], noise V [K, c, c], by kind of place."""

    gain: Tensor
    offset: Tensor
    noise: Tensor

    def share(self) -> float:
        """Share of the variance of a latent of unit variance that the best kind of place explains."""
        c = self.gain.shape[1]
        eye = torch.eye(c, dtype=self.gain.dtype)
        known = self.gain.mT @ torch.linalg.solve(self.noise, self.gain)
        left = torch.linalg.inv(eye + known).diagonal(dim1=1, dim2=2).mean(1)
        return float(1 - left.min())

    def config(self) -> dict[str, Any]:
        """As JSON: numbers as float32 in base64."""
        k, c = self.offset.shape
        numbers = torch.cat([v.flatten() for v in self]).float().numpy()
        return {"kinds": k, "channels": c, "float32": base64.b64encode(numbers.tobytes()).decode()}

    @classmethod
    def from_config(cls, config: Any) -> Surrogate:
        """Raises: CheckpointError: the numbers are not those of a surrogate."""
        try:
            k, c = int(config["kinds"]), int(config["channels"])
            numbers = torch.from_numpy(np.frombuffer(base64.b64decode(config["float32"]), np.float32).copy()).double()
            gain, offset, noise = numbers.split([k * c * c, k * c, k * c * c])
            made = cls(gain.reshape(k, c, c), offset.reshape(k, c), noise.reshape(k, c, c))
            fine = bool(numbers.isfinite().all()) and bool((torch.linalg.eigvalsh(made.noise) > 0).all())
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"the card holds no surrogate of latents: {type(error).__name__}") from error
        if not fine:
            raise CheckpointError("the card's surrogate of latents has noise that is no covariance")
        return made


# an image of the measurement


def fill(y: Tensor, mask: Tensor) -> Tensor:
    """y [B, C, H, W] with what is hidden (mask 0) filled in from coarser and coarser averages of what was measured
    (the pull-push algorithm, Gortler et al. 1996, "The lumigraph").

    >>> fill(torch.tensor([[[[1.0, 0.0, 3.0, 3.0]]]]), torch.tensor([[[[1.0, 0.0, 1.0, 1.0]]]]))[0, 0, 0, 1]
    tensor(1.5000)
    """
    mask = mask.to(y.dtype).expand_as(y)
    known = y * mask
    if (min(y.shape[-2:]) == 1 and max(y.shape[-2:]) == 1) or bool((mask > 0).all()):
        return torch.where(mask > 0, known / mask.clamp_min(1e-6), 0.0)
    coarse, weight = (F.avg_pool2d(v, 2, ceil_mode=True, count_include_pad=False) for v in (known, mask))
    below = fill(torch.where(weight > 0, coarse / weight.clamp_min(1e-6), 0.0), (weight > 0).to(y.dtype))
    up = F.interpolate(below, size=y.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(mask > 0, known / mask.clamp_min(1e-6), up)


def kinds_of(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The kind of each place of a grid (h, w) under a mask [B, C, H, W]: [B, h, w]."""
    seen = mask.float().amin(1, keepdim=True)  # a pixel was measured if all its channels were
    width = max(1, round(seen.shape[-1] / grid[1]))
    distance, reached = torch.zeros_like(seen), seen
    for _ in range(width):
        distance, reached = distance + (1 - reached), F.max_pool2d(reached, 3, 1, 1)
    distance = F.adaptive_avg_pool2d(distance / width, grid)
    whole = (distance == 0).float()
    kinds = torch.bucketize(distance, torch.tensor(DISTANCES, device=mask.device)) + 1 + WHOLE
    around = [1 - F.max_pool2d(1 - whole, 2 * n + 1, 1, n) for n in (1, 2)]  # behind an image's edge nothing is hidden
    kinds = torch.where(whole > 0, WHOLE - (around[0] + around[1]).long(), kinds)
    nothing = F.adaptive_max_pool2d(seen, grid) == 0
    return torch.where(nothing, 0, kinds.clamp_max(KINDS - 1))[:, 0]


def image_of(obs: Observation, shape: tuple[int, ...]) -> Tensor:
    """The image of a measurement that is encoded, [B, *shape]."""
    operator = obs.likelihood.operator
    assert operator is not None
    if isinstance(operator, Mask):
        return fill(operator.measured_part(obs.y), operator.mask)
    return operator.features(obs.y)[:, : shape[0]]


def why_none(obs: Observation, event_shape: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
    """One line why a measurement has no surrogate, None if it may have one."""
    like = obs.likelihood
    if not isinstance(like, Gaussian):
        return f"gradient=latents needs Gaussian noise of an operator, got {like.kind}: {OTHERS}"
    operator = like.operator
    if len(event_shape) != 3 or len(shape) != 3:
        return f"gradient=latents is for latents [c, h, w] of images, got {tuple(event_shape)}: {OTHERS}"
    drawn = ", ".join(name for name, value in operator.drawn() if len(value) > 1)
    if drawn and not isinstance(operator, Mask):
        return (
            f"gradient=latents measures once what an operator says of the latents, and {type(operator).__name__}"
            f" differs from measurement to measurement ({drawn}): {OTHERS}"
        )
    return None


# measuring it


def regress(z: Tensor, s: Tensor, kinds: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(gain, offset, noise) of s [N, c, h, w] given z by kind of place [N, h, w], and the whitened residuals like z.

    A kind with fewer than 20 places for each number that is fitted says nothing, as kind 0 does.
    """
    c = z.shape[1]
    eye = torch.eye(c, dtype=torch.float64)
    gain, noise = torch.zeros(number, c, c, dtype=torch.float64), eye.repeat(number, 1, 1)
    offset, residual = torch.zeros(number, c, dtype=torch.float64), torch.zeros(z.shape, dtype=torch.float64)
    rows_z, rows_s, where = (v.double().cpu() for v in (z.movedim(1, -1), s.movedim(1, -1), kinds))
    left = residual.movedim(1, -1)
    for k in range(1, number):
        of = where == k
        a, b = rows_z[of], rows_s[of]
        if len(a) < 20 * (c + 1):
            continue
        centre_a, centre_b = a.mean(0), b.mean(0)
        a = a - centre_a
        ridge = 1e-6 * a.square().mean().clamp_min(1e-12) * len(a) * eye
        # of the difference to z: an autoencoder without loss has gain 1 exactly
        gain[k] = eye + torch.linalg.solve(a.mT @ a + ridge, a.mT @ (b - centre_b - a)).mT
        offset[k] = centre_b - gain[k] @ centre_a
        rest = b - centre_b - a @ gain[k].mT
        noise[k] = rest.mT @ rest / (len(a) - c - 1) + FLOOR * eye
        left[of] = torch.linalg.solve_triangular(torch.linalg.cholesky(noise[k]), rest.mT, upper=False).mT
    return gain, offset, noise, residual


def inflations(residual: Tensor, kinds: Tensor, number: int) -> Tensor:
    """By kind of place, the sum of the correlations of a place's error (whitened, [N, c, h, w]) with those of the 3 x 3
    places around it, itself included, at least 1: [K]."""
    known = F.pad((residual != 0).any(1, keepdim=True).double(), (1, 1, 1, 1))
    padded, (h, w) = F.pad(residual, (1, 1, 1, 1)), kinds.shape[1:]
    total = torch.ones(number, dtype=torch.float64)
    for dy, dx in ((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)):
        product = (residual * padded[..., dy : dy + h, dx : dx + w]).mean(1)
        pair = known[:, 0, dy : dy + h, dx : dx + w] * known[:, 0, 1 : h + 1, 1 : w + 1]
        for k in range(1, number):
            of = kinds == k
            total[k] += product[of].sum() / pair[of].sum().clamp_min(1)
    return total.clamp_min(1)


def trial_masks(n: int, height: int, width: int) -> Tensor:
    """Masks that the surrogate of all masks is measured with, [n, 1, H, W]: a quarter each of holes, brush strokes, the
    outside of a window, and random pixels (an eighth to seven eighths)."""
    quarter = [len(range(i, n, 4)) for i in range(4)]
    noise = [Noise(101 + i, count) for i, count in enumerate(quarter[:3])]
    pixels = [random_pixels(Noise(104, [i]), height, width, (i % 7 + 1) / 8) for i in range(quarter[3])]
    parts = [boxes(noise[0], height, width, 0.2, 0.6), free_form(noise[1], height, width, 0.2, 0.4)]
    return torch.cat([*parts, outside(noise[2], height, width, 0.6), *pixels])


def measure(
    operator: Operator, sigma: float, z: Tensor, x: Tensor, encode: Encode, *, inflate: bool = True
) -> Surrogate:
    """The surrogate of an operator with noise sigma, by images x of the prior and their codes z [N, c, h, w]. Of a
    mask: that of all masks, by four of `trial_masks` for each sample, or two where there are few samples."""
    grid = (z.shape[-2], z.shape[-1])
    if isinstance(operator, Mask):
        each = 4 if len(z) > MIN_SAMPLES else 2
        masks = trial_masks(each * len(z), *x.shape[-2:]).to(x)
        masks = masks[torch.randperm(len(masks), generator=torch.Generator().manual_seed(0))]
        operator, z, x = Mask(masks), z.repeat_interleave(each, 0), x.repeat_interleave(each, 0)
        kinds, number = kinds_of(masks, grid).cpu(), KINDS
    else:
        kinds, number = torch.ones(1, *grid, dtype=torch.long).expand(len(z), -1, -1), 2
    like = Gaussian(operator, sigma)
    obs = Observation(like.sample(x, Noise(17, len(x))), like)
    s = torch.cat([encode(image_of(obs[i : i + 16], tuple(x.shape[1:]))) for i in range(0, len(x), 16)])
    gain, offset, noise, residual = regress(z, s, kinds, number)
    if inflate:
        noise = noise * inflations(residual, kinds, number)[:, None, None]
    for k in (WHOLE - 1, 1) if number > 2 else ():  # a grid may be too small to have the better kinds
        if not bool(gain[k].any()):
            gain[k], offset[k], noise[k] = gain[k + 1], offset[k + 1], noise[k + 1]
    return Surrogate(gain, offset, noise)


def key_of(operator: Operator, sigma: float) -> str:
    """What a surrogate is kept under: the operator with its settings (of masks the class alone), and the noise to two
    digits."""
    if isinstance(operator, Mask):
        return f"Mask {sigma:.2g}"
    found = hashlib.sha256()

    def add(thing: Any) -> None:
        for name, value in sorted(vars(thing).items()):
            found.update(name.encode())
            if isinstance(value, Tensor):
                found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            elif isinstance(value, Operator):
                add(value)
            elif not name.startswith("_"):
                found.update(repr(value).encode())

    add(operator)
    return f"{type(operator).__name__} {found.hexdigest()[:12]} {sigma:.2g}"


def observation_of(s: Tensor, kinds: Tensor, found: list[Surrogate], views: Tensor, operator: Operator) -> Observation:
    """The observation of latents: s [B, c, h, w] less its offset, whitened, of a `ChannelMap` with noise of variance 1.

    found: one for all rows, or one for each.
    """
    eye = torch.eye(s.shape[1], dtype=torch.float64)
    matrices, whitenings, offsets = [], [], []
    for one in found:
        root = torch.linalg.cholesky(one.noise)
        white = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
        silent = (one.gain == 0).all(2).all(1)
        matrices.append(white @ one.gain)
        whitenings.append(torch.where(silent[:, None, None], 0.0, white))
        offsets.append(one.offset)
    tables = [torch.stack(v).to(s.device) for v in (matrices, whitenings, offsets)]
    matrix, white, offset = (v.to(s.dtype) for v in tables)
    rows = torch.arange(len(found), device=s.device)[:, None, None]
    at = (lambda v: v[0][kinds]) if len(found) == 1 else (lambda v: v[rows, kinds])
    y = torch.einsum("bhwij,bjhw->bihw", at(white), s - at(offset).movedim(-1, 1))
    return Observation(y, Gaussian(ChannelMap(matrix, kinds, views, operator), 1.0))


def check_share(found: Surrogate, operator: Operator) -> None:
    """Raises: InputError: the measurement says nothing of single latents."""
    if found.share() < LEAST_SHARE:
        raise InputError(
            f"gradient=latents finds nothing of the latents in the encoded view of {type(operator).__name__}"
            f" ({100 * found.share():.1f} % of their variance): {OTHERS}"
        )
