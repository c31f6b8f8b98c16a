"""An h of two parts: each where it belongs, and backward passes only where they are needed."""

from __future__ import annotations

import math

import pytest
import torch

import deft
from deft.core.condition import condition
from deft.errors import InputError
from deft.guidance.combine import Interval, Piecewise, Scaled, Sum, Zero
from deft.guidance.covariance import MMPS
from deft.methods import plan
from deft.samplers import sample
from deft.testing import half_seen

WORLD, OBS = half_seen(3)
PRIOR = WORLD.prior(deft.VPCosine())


def draw(name, **settings):
    made = plan(name, steps=8, sampler="ddim", spacing="log-snr", settings=settings)
    return made.draw(PRIOR, OBS, 3, fitted=WORLD.h).x


def test_its_ends_are_the_two_methods():
    torch.testing.assert_close(draw("deft-mmps", at=1e-9), draw("deft"))
    torch.testing.assert_close(draw("deft-mmps", at=1e9), draw("mmps"))
    middle = draw("deft-mmps", at=1.0)
    assert not torch.allclose(middle, draw("deft"), atol=1e-3) and not torch.allclose(middle, draw("mmps"), atol=1e-3)
    with pytest.raises(InputError, match="needs a fitted h"):
        plan("deft-mmps").draw(PRIOR, OBS, 2)
    with pytest.raises(InputError, match="at > 0"):
        Piecewise(MMPS(1), MMPS(1), 0.0)


def test_of_the_exact_h_on_both_sides_nothing_is_lost():
    """The parts agree where they meet: the same samples as of the exact h alone, bit for bit."""
    one, both = (
        deft.sample_posterior(PRIOR, h, OBS, 4, steps=12).x for h in (WORLD.h, Piecewise(WORLD.h, WORLD.h, 1.0))
    )
    assert torch.equal(one, both)


@pytest.mark.parametrize("at", [0.5, 2.0])
def test_the_graph_is_built_below_alone(at):
    """One level after the other, and levels that differ from row to row."""
    seen = []

    class Watched(MMPS):
        def forward(self, pred, obs):
            seen.append(float((pred.sigma / pred.alpha).max()))
            assert pred.mean.requires_grad
            return super().forward(pred, obs)

    class NoGraph(Zero):
        def forward(self, pred, obs):
            if float((pred.sigma / pred.alpha).min()) > at:
                assert not pred.mean.requires_grad
            return super().forward(pred, obs)

    h = Piecewise(NoGraph(), Watched(1), at)
    sample(condition(PRIOR, h, OBS.repeat(2)), 2, steps=10, spacing="log-snr")
    assert seen and max(seen) <= at
    calls = len(seen)
    levels = torch.tensor([0.3, 0.7], dtype=torch.float64)  # below and above `at` for both values of it or not
    mixed = condition(PRIOR, h, OBS.repeat(2))(torch.randn(2, 9, dtype=torch.float64), levels)
    assert mixed.mean.shape == (2, 9) and len(seen) >= calls


def test_the_limit_goes_through_wrappers():
    h = Piecewise(Zero(), MMPS(1), 0.5)
    assert (h.needs_graph, h.graph_below) == (True, 0.5)
    assert Scaled(h, 2.0).graph_below == Interval(h, 0.1, 1.0).graph_below == Sum(Zero(), h).graph_below == 0.5
    assert Sum(h, MMPS(1)).graph_below == Piecewise(MMPS(1), Zero(), 0.5).graph_below == math.inf
    assert Piecewise(Zero(), Zero(), 0.5).needs_graph is False
