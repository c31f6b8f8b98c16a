"""The two ways to sum along rays: a matrix that is kept, and weights computed anew. Both are one matrix."""

from __future__ import annotations

import pytest
import torch

from deft.operator import Radon, averaged, folded, radon
from deft.operator import projector as rays
from deft.operator.projector import Folded, Geometry, Tables, matrix

GEOMETRIES = {
    "plain": Geometry(16, 12, 24, 180.0),
    "all options": Geometry(17, 9, 26, 120.0, start=30.0, rotation="clockwise", centre=0.7, pitch=0.8, length=17.0),
    "axis": Geometry(12, 7, 20, 180.0, axis=(1.5, -2.0)),
    "wide detectors": Geometry(16, 5, 6, 180.0, pitch=4.0),
    "given directions": Geometry(12, 4, 17, 180.0, directions=(0.0, 45.0, 90.0, 135.0)),
    "one detector": Geometry(2, 3, 1, 360.0),
    "a whole turn": Geometry(15, 24, 23, 360.0),
    "odd": Geometry(16, 15, 24, 180.0),
    "centre": Geometry(16, 12, 24, 180.0, centre=0.7),
    "near detectors": Geometry(16, 6, 60, 180.0, pitch=0.3),
    "the same direction again": Geometry(12, 4, 17, 180.0, directions=(10.0, 10.0, 80.0, 190.0)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_folded_weights_are_the_kept_matrix(name, dtype, monkeypatch):
    g = GEOMETRIES[name]
    monkeypatch.setattr(folded, "ROOM", 4000)
    monkeypatch.setattr(folded, "COLUMNS", 4000)  # a few angles, and a part of the images, at a time
    random = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, g.side, g.side, dtype=dtype, generator=random)
    y = torch.randn(5, 2, g.angles, g.detectors, dtype=dtype, generator=random)
    kept, computed = Tables(g), Folded(g)
    close = 1e-13 if dtype == torch.float64 else 3e-6
    for ours, theirs in (
        (computed.forward(x), kept.forward(x)),
        (computed.adjoint(y), kept.adjoint(y)),
        (computed.smear(y), kept.smear(y)),
    ):
        assert float((ours - theirs).abs().max()) <= close * float(theirs.abs().max())
    whole = matrix(g).to(dtype)
    torch.testing.assert_close(kept.forward(x), (x.flatten(2) @ whole.mT).reshape(y.shape))
    torch.testing.assert_close(kept.adjoint(y), (y.flatten(2) @ whole).reshape(x.shape))


def test_evenly_spaced_directions_share_their_weights():
    """Eight views of one set of weights, but where fewer rays are alike."""
    assert [len(f.views) for f in folded.folds(Radon(64, 60).geometry)] == [8]
    assert sum(len(f.c) for f in folded.folds(Radon(64, 60).geometry)) == 16
    assert {len(f.views) for f in folded.folds(Radon(64, 60, centre=0.5).geometry)} == {4}


def test_the_adjoint_of_a_large_scan_is_its_transpose_in_float32():
    op = Radon(192, 180)
    assert isinstance(rays.projector(op.geometry), Folded)
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(1, 1, 192, 192, generator=random), torch.rand(1, 1, 180, op.detectors, generator=random)
    there, back = (op(x) * y).double().sum(), (x * op.adjoint(y)).double().sum()
    assert float((there - back).abs() / there.abs()) < 1e-5


@pytest.mark.parametrize("many", [0, 150])
def test_the_posterior_mean_step_of_a_large_scan(many, monkeypatch):
    """Solved to 1e-4 of the right-hand side, on weights that are computed anew: within 1 % of the dense solve."""
    monkeypatch.setattr(radon, "MANY", many)
    monkeypatch.setattr(rays, "TABLES", 0)
    monkeypatch.setattr(radon, "KEPT", 0)
    rays.projector.cache_clear()
    radon._response.cache_clear()
    op = Radon(12, 9)
    assert isinstance(rays.projector(op.geometry), Folded)
    r = torch.randn(2, 1, 9, op.detectors, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise, rho2 = torch.tensor(0.02, dtype=torch.float64) ** 2, torch.full((2, 1, 1, 1), 0.09, dtype=torch.float64)
    found = op.mean_update(torch.zeros(2, 1, 12, 12, dtype=torch.float64), r, noise, rho2)
    a = matrix(op.geometry)
    exact = 0.09 * torch.linalg.solve(noise * torch.eye(144) + 0.09 * a.mT @ a, a.mT @ r.flatten(1).mT).mT
    rays.projector.cache_clear()
    radon._response.cache_clear()
    assert float((found.flatten(1) - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("options", [{}, {"pitch": 0.7, "length": 32.0}, {"directions": (0.0, 17.0, 45.0, 131.0)}])
def test_the_average_of_the_normal_operator(options):
    """K is the mean of A^T A over shifts of the rays; as it stands, with Fourier transforms, on an image."""
    side = 9
    pixels = torch.zeros(3, 1, side, side, dtype=torch.float64)
    pixels[0, 0, 4, 4] = pixels[1, 0, 1, 7] = pixels[2, 0, 8, 0] = 1
    g = Radon(side, 5, **options).geometry
    total, shifts = 0.0, torch.arange(41) / 41
    for centre in shifts.tolist():
        projector = Tables(g._replace(centre=centre, detectors=4 * g.detectors))
        total = total + projector.adjoint(projector.forward(pixels)) / len(shifts)
    found = averaged.filtered(pixels, averaged.spectra(g, torch.float64, "cpu")[0])
    assert float((found - total).abs().max()) < 2e-3 * float(total.max())


def test_the_average_leaves_fewer_steps(monkeypatch):
    """Of the solve of a large scan: half of those with the diagonal preconditioner, or near it."""
    op, steps = Radon(96, 400), []
    forward = Folded.forward
    monkeypatch.setattr(Folded, "forward", lambda self, x: steps.append(1) or forward(self, x))
    monkeypatch.setattr(radon, "KEPT", 0)
    monkeypatch.setattr(radon, "projector", Folded)
    radon._response.cache_clear()
    x = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    y, noise, rho2, counts = op(x), torch.tensor(4e-4), torch.full((1, 1, 1, 1), 0.09), []
    op.response(x)
    for many in (10**6, 0):
        monkeypatch.setattr(radon, "MANY", many)
        steps.clear()
        op.mean_update(x, y, noise, rho2)
        counts.append(len(steps))
    radon._response.cache_clear()
    assert counts[1] <= 0.7 * counts[0], counts


@pytest.mark.parametrize(
    ("side", "options"),
    [
        (160, {"angles": 20}),
        (160, {"angles": 90}),
        (160, {"angles": 40, "arc": 90.0}),
        (160, {"angles": 30, "pitch": 2.0}),
        (256, {"angles": 30, "pitch": 8.0}),  # few rays
        (128, {"angles": 1}),  # rays through the middles of pixels, which they must be at the smaller size, too
        (128, {"angles": 1, "centre": 1.0, "axis": (1.0, 0.0)}),
    ],
)
def test_the_bound_of_the_spectrum_holds_where_it_is_found_on_a_smaller_image(side, options, monkeypatch):
    """A^T A <= lambda: the largest eigenvalue of lambda^(-1/2) A^T A lambda^(-1/2) is at most 1, and not far below."""
    op = Radon(side, **options)
    monkeypatch.setattr(radon, "KEPT", 0)  # as for a scan that is too large for tables
    radon._response.cache_clear()
    v = torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(1))
    for _ in range(20):
        v = v / v.norm()
        v = op.precondition(op.adjoint(op(v)), 0.0, 1.0)
    radon._response.cache_clear()
    assert 0.7 < float(v.norm()) <= 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"side": 64, "angles": 8},
        {"side": 32, "angles": 60},
        {"side": 6, "angles": 1},
        {"side": 2, "angles": 1, "detectors": 1},
        {"side": 16, "angles": 3, "detectors": 2},
    ],
)
def test_the_bound_of_the_spectrum_is_a_bound(options):
    """With 8 angles the two largest eigenvalues are close, and few steps of the power method stop below both."""
    op = Radon(**options)
    v = torch.randn(1, 1, op.side, op.side, generator=torch.Generator().manual_seed(1))
    for _ in range(200):
        v = v / v.norm()
        v = op.precondition(op.adjoint(op(v)), 0.0, 1.0)
    assert 0.9 < float(v.norm()) <= 1.0
