"""Geometry of C-alpha traces: which rows are residues, centring, local frames, dihedrals, superposition.

A trace is x [B, L, 3]. Rows behind the last residue of a shorter chain are exactly zero and stay so everywhere; nothing
here lets a residue see them. Everything is computed in float32 or float64, whatever autocast says: in bfloat16 a
coordinate of 20 angstrom is off by 0.08, more than bonds are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

TINY = 1e-12
"""Added to squared lengths, so that a vector of length zero has a direction (none) and a gradient."""


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """A context without autocast on the device of x."""
    return torch.autocast(x.device.type, enabled=False)


def coordinates(x: Tensor) -> Tensor:
    """x in float32, or float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def residues(x: Tensor) -> Tensor:
    """Which rows are residues, [B, L]: those that are not exactly zero."""
    return (x != 0).any(-1)


def centred(x: Tensor, real: Tensor) -> Tensor:
    """x with the mean over its residues removed, and zero behind them. real: [B, L]."""
    keep = real[..., None].to(x.dtype)
    mean = (x * keep).sum(-2, keepdim=True) / keep.sum(-2, keepdim=True).clamp_min(1)
    return (x - mean) * keep


def unit(v: Tensor) -> Tensor:
    return v * (v.square().sum(-1, keepdim=True) + TINY).rsqrt()


def neighbours(x: Tensor, offsets: Sequence[int], real: Tensor, margin: int = 0) -> Tensor:
    """x_{i + k} for each k of `offsets`, where that is before the first or behind the last residue the end residue's.

    margin: an i nearer to an end than this many residues counts as that far from it. Returns [B, L, K, 3].
    """
    b, n, _ = x.shape
    last = real.sum(-1)[:, None, None] - 1
    at = torch.minimum(torch.arange(n, device=x.device).clamp_min(margin)[:, None], last - margin)
    # not a tensor of offsets: a GPU would have to be waited for to copy it
    at = torch.cat([at + k for k in offsets], -1)
    at = torch.minimum(at.clamp_min(0), last.clamp_min(0))
    return x.gather(1, at.reshape(b, -1, 1).expand(-1, -1, 3)).reshape(b, n, len(offsets), 3)


def frames(x: Tensor, real: Tensor) -> Tensor:
    """A right-handed frame at each residue, [B, L, 3, 3]; its columns are the axes.

    With a = x_i - x_{i-1} and b = x_{i+1} - x_i: the tangent a + b, the part of b - a normal to it, and their cross
    product (the discrete Frenet frame; Hu, Lundgren & Niemi 2011). An end residue has the frame of its neighbour, so no
    frame sees anything but differences of residues. A mirror turns the third axis the other way: what is read in these
    frames knows left from right.
    """
    before, here, after = neighbours(x, (-1, 0, 1), real, margin=1).unbind(2)
    tangent = unit(after - before)
    bend = (after - here) - (here - before)
    normal = unit(bend - (bend * tangent).sum(-1, keepdim=True) * tangent)
    return torch.stack([tangent, normal, torch.linalg.cross(tangent, normal)], -1)


def local(frame: Tensor, v: Tensor) -> Tensor:
    """A vector in the coordinates of a frame, R^T v. frame: [..., 3, 3], v: [..., 3]."""
    return (frame.transpose(-1, -2) @ v[..., None])[..., 0]


def dihedrals(x: Tensor) -> Tensor:
    """Signed dihedral of each four neighbouring residues in radians, [..., L - 3]; about 0.87 in a right-handed helix.

    IUPAC's sign. Nothing is masked: the last ones of a shorter chain mean nothing.
    """
    b = x.diff(dim=-2)
    first, second, third = b[..., :-2, :], b[..., 1:-1, :], b[..., 2:, :]
    m, n = torch.linalg.cross(first, second), torch.linalg.cross(second, third)
    return torch.atan2((unit(second) * torch.linalg.cross(m, n)).sum(-1), (m * n).sum(-1))


def superposed(x: Tensor, onto: Tensor, mask: Tensor | None = None) -> Tensor:
    """x moved and turned, never mirrored, to lie on `onto` as well as it can (Kabsch 1976): [..., L, 3].

    mask: the rows that count, [..., L]; by default all.
    """
    weight = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
    total = weight.sum(-2, keepdim=True)
    here, there = ((z * weight).sum(-2, keepdim=True) / total for z in (x, onto))
    u, _, vt = torch.linalg.svd(((x - here) * weight).transpose(-1, -2) @ (onto - there))
    flip = torch.ones_like(u[..., 0, :])
    # without it a mirror image lies on its original
    flip[..., 2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    return (x - here) @ (u * flip[..., None, :]) @ vt + there


def rmsd(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square distance of the residues after `superposed` (Kabsch 1976), [...], in the units of x."""
    square = (superposed(x, y, mask) - y).square().sum(-1)
    if mask is None:
        return square.mean(-1).sqrt()
    weight = mask.to(x.dtype)
    return ((square * weight).sum(-1) / weight.sum(-1)).sqrt()
