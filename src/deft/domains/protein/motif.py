"""The measurement of motif scaffolding: some residues' C-alphas, up to where they are.

    y = A x_0 + sigma_y n,    A = (remove each group's centroid) (keep the motif's rows)

A motif is a set of residues whose positions relative to each other are given; several that may shift against each other
are several groups (shift, not turn: the y of all groups is in one pose, and only a turn of all together is a choice of
gauge). The centroid is removed because a designer does not know where a motif lies from the middle of the protein,
which centred coordinates would tell. The rotation need not be: the law of backbones is the same for every pose, so the
pose in which y is given is a choice of gauge. A is an orthogonal projection (A = A^T = A A^T), of rank 3 (residues -
groups), and everything that guidance wants is closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Spectrum, dense_spectrum
from deft.core.random import BatchNoise, Noise
from deft.domains.protein.chains import UNIT
from deft.domains.protein.geometry import full_precision, residues
from deft.errors import ContractError, InputError
from deft.likelihood import Gaussian, Observation
from deft.likelihood.task import Drawn, measuring
from deft.tensors import float32_default
from deft.values import check_numbers

SIGMA_Y = 0.1 / UNIT
"""Deviation of a motif's coordinates, 0.1 angstrom: what models of good resolution differ by."""


class Motif(LinearOperator):
    """A: rows of no group become zero, the others lose their group's centroid. y has the shape of x.

    Args:
        group: [B, L] or [1, L], whole numbers: 0 for residues of no motif, 1, 2, ... for those of each.
    """

    per_sample = ("group",)
    feature_channels = 1
    projection = True

    def __init__(self, group: Tensor):
        if group.ndim != 2 or group.is_floating_point() or bool((group < 0).any()):
            raise ContractError(
                f"groups are whole numbers [B, L] from 0, got {group.dtype} of shape {tuple(group.shape)}"
            )
        self.group = group.long()

    def __call__(self, x: Tensor) -> Tensor:
        with full_precision(x):
            every = self.members(x)
            mean = (every @ x) / every.sum(-1, keepdim=True).clamp_min(1)
            return self.seen(x)[..., None] * x - every.transpose(-1, -2) @ mean

    def members(self, like: Tensor) -> Tensor:
        """Which residues are in each group, [B, groups, L]."""
        numbers = torch.arange(1, int(self.group.max()) + 1 if self.group.numel() else 1, device=self.group.device)
        return (self.group[:, None] == numbers[:, None]).to(like)

    def seen(self, like: Tensor) -> Tensor:
        """1 for residues of a motif, [B, L]."""
        return (self.group > 0).to(like)

    def cut(self, length: int) -> Motif:
        """For traces of another length."""
        if length < self.group.shape[1] and bool((self.group[:, length:] > 0).any()):
            raise ContractError(f"a motif lies behind residue {length}")
        return Motif(self.group[:, :length])

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def measured_part(self, y: Tensor) -> Tensor:
        return self(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        every = self.members(y)
        return (3 * (every.sum(-1) - 1).clamp_min(0).sum(-1)).expand(len(y))

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        """On what A sees: r / (noise + gram)."""
        inside = self(r)
        return inside / (noise + gram) + (r - inside) / noise

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        return dense_spectrum(self, event_shape, like)


@float32_default()
def observe_motif(
    x: Tensor, group: Tensor, noise: Noise | BatchNoise, sigma_y: float | Tensor = SIGMA_Y
) -> Observation:
    """Motifs of traces x [B, L, 3] in model space, with fresh noise. group: [B, L], see `Motif`."""
    like = Gaussian(Motif(group.to(x.device)), sigma_y)
    return Observation(like.sample(x, noise), like)


def given_motif(
    motif: Sequence[Tensor], positions: Sequence[Sequence[int]], length: int, sigma_y: float = SIGMA_Y
) -> Observation:
    """The observation of one chain of `length` residues: each motif's C-alphas [m, 3] in angstrom, and at which of its
    places (from 0) they lie."""
    y, group = torch.zeros(1, length, 3), torch.zeros(1, length, dtype=torch.long)
    for number, (x, places) in enumerate(zip(motif, positions, strict=True), 1):
        if len(x) != len(places) or not len(x):
            raise InputError(f"motif {number} has {len(x)} residues and {len(places)} places")
        if min(places) < 0 or max(places) >= length or bool((group[0, list(places)] > 0).any()):
            raise InputError(f"motif {number} lies outside the chain of {length} residues, or on another motif")
        y[0, list(places)], group[0, list(places)] = x.float() / UNIT, number
    operator = Motif(group)
    return Observation(operator(y), Gaussian(operator, sigma_y))


MOST_STRETCHES = 4
"""Stretches of a drawn motif, at most."""


@dataclass(frozen=True)
class MotifTask(Drawn):
    """Chains -> motifs of them, redrawn each time: what a scaffolding h is fitted to.

    single: share with one stretch of 9 to 24 residues, as most published problems have. The others have one to four
    stretches that make up 5 to 50 % of the chain (Lin et al. 2024b, Genie 2), each with its own group in a `free` share
    of them (free to shift; they keep their orientation).
    loosest: above sigma_y, each chain's deviation lies between the two, evenly in its logarithm; 0 for sigma_y alone.
    """

    name: ClassVar[str] = "motif"
    title: ClassVar[str] = "scaffold a motif"
    about: ClassVar[str] = "some stretches of a chain, up to where they are"
    kind: ClassVar[str] = "chains"
    drawn: ClassVar[str] = "group"
    prior: ClassVar[str] = "backbone"
    convention: ClassVar[str] = "C-alphas in units of 8 angstrom, each group without its centroid"
    feature_channels: ClassVar[int] = 1
    sigma_y: float = SIGMA_Y
    single: float = 0.6
    free: float = 0.25
    loosest: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "task motif: ")
        if not self.sigma_y > 0 or not (self.loosest == 0 or self.loosest >= self.sigma_y):
            raise InputError(
                f"a motif's deviation is above 0, and the loosest no smaller (or 0 for none), got {self.sigma_y:g} and"
                f" {self.loosest:g}"
            )

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        """Groups [B, L] for chains that fill all of a shape (L, 3)."""
        return self.groups(torch.full((len(noise),), shape[0]), shape[0], noise)

    def build(self, drawn: Tensor) -> Motif:
        return Motif(drawn.long())

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Motif:
        """Chains may be shorter than x is: motifs lie within each one's own residues."""
        return self.build(self.groups(residues(x).sum(1), x.shape[1], noise).to(x.device))

    def check(self, event_shape: Sequence[int]) -> Observation:
        """Try the task on a straight chain."""
        if len(event_shape) != 2 or event_shape[1] != 3:
            raise InputError(f"the task {self.name} is for chains [L, 3], got samples of shape {tuple(event_shape)}")
        line = torch.linspace(-1, 1, event_shape[0])[:, None].expand(1, -1, 3)
        return self.observe(line + 0.01, BatchNoise(1, 0))

    @float32_default()
    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        noise = measuring(noise)
        group = self.operator(x, noise).group
        sigma_y: float | Tensor = self.sigma_y
        if self.loosest > self.sigma_y:
            sigma_y = self.sigma_y * (self.loosest / self.sigma_y) ** noise.uniform(device=x.device)
        return observe_motif(x, group, noise, sigma_y)

    def groups(self, lengths: Tensor, width: int, noise: Noise | BatchNoise) -> Tensor:
        """[B, width]"""
        v, n, first = noise.uniform((12,)).double(), lengths.cpu()[:, None], torch.arange(MOST_STRETCHES) == 0
        single, apart = v[:, :1] < self.single, v[:, 7:8] < self.free
        total = (n * (0.05 + 0.45 * v[:, 1:2])).round().clamp_min(4)
        used = torch.where(
            single,
            first,
            torch.arange(MOST_STRETCHES) < torch.minimum(1 + (MOST_STRETCHES * v[:, 2:3]).floor(), total // 3),
        )
        shares = (0.5 + v[:, 8 : 8 + MOST_STRETCHES]) * used
        long = (
            torch.where(
                single,
                torch.minimum(9 + (16 * v[:, 1:2]).floor(), n),
                (total * shares / shares.sum(1, keepdim=True)).floor().clamp_min(3),
            )
            * used
        )
        spare = (n - long.sum(1, keepdim=True)).clamp_min(0)
        cuts = torch.where(used, (v[:, 3 : 3 + MOST_STRETCHES] * (spare + 1)).floor(), torch.inf).sort(1).values
        start = (cuts + long.cumsum(1) - long)[..., None]
        at = torch.arange(width)
        inside = (at >= start) & (at < torch.minimum(start + long[..., None], n[..., None]))
        return (inside * torch.where(apart, torch.arange(1, MOST_STRETCHES + 1), 1)[..., None]).sum(1)
