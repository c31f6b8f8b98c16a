"""Importance fine-tuning: a fit to many measurements without a clean sample."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from deft import Gaussian, Mask, Observation, VPCosine
from deft.core.random import Noise
from deft.denoiser import MeanDenoiser
from deft.errors import CheckpointError, InputError
from deft.guidance.exact import Mixture
from deft.learned import DEFT
from deft.samplers.diagnostics import ess_fraction
from deft.testing import MixtureWorld
from deft.train.fit import FitConfig
from deft.train.importance import draw_round, flattened, importance_fit

MEAN, VARIANCE = torch.tensor([0.3, -0.2]), torch.tensor([0.25, 0.16])
WORLD = MixtureWorld(Mixture(torch.ones(1), MEAN[None], torch.diag(VARIANCE)[None]))
PRIOR = MeanDenoiser(lambda x, a, s: MEAN + VARIANCE * a * (x - a * MEAN) / (VARIANCE * a**2 + s**2), VPCosine(), (2,))
LIKE = Gaussian(Mask(torch.tensor([[1.0, 0.0]])), 0.2)


def measurements(n, seed=0):
    x = WORLD.sample(n, seed).float()
    return Observation(LIKE.sample(x, Noise(seed, n)), LIKE)


def test_flattened_weights_leave_what_they_should():
    log_w = (
        torch.randn(50, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * torch.linspace(0.01, 30, 50)[:, None]
    )
    gamma = flattened(log_w, 0.3)
    share = ess_fraction(gamma[:, None] * log_w)
    full = ess_fraction(log_w) >= 0.3
    assert bool((gamma[full] == 1).all()) and bool(full.any()) and bool((~full).any())
    assert torch.allclose(share[~full], torch.full_like(share[~full], 0.3), atol=1e-3)


def test_a_round_is_the_posterior_where_the_weights_are_whole():
    """h = 0 proposes the prior; 64 paths of each of 300 measurements by weight have the posterior's mean and variance,
    within 4 SE."""
    obs = measurements(300)
    h = DEFT((2,), 2, 8, n2_start=0.0)
    out = draw_round(PRIOR, h, obs, paths=64, steps=20, min_ess=1e-9, batch=6400)
    assert bool((out.gamma == 1).all())
    gain = 0.25 / (0.25 + 0.04)
    exact = MEAN[0] + gain * (obs.y[:, 0] - MEAN[0])
    z = out.x[..., 0].mean(1) - exact
    assert abs(float(z.mean())) < 4 * float(z.std()) / math.sqrt(300) + 0.01  # 20 steps
    spread = float(out.x[..., 0].var(1).mean())
    assert spread == pytest.approx(0.25 * (1 - gain), rel=0.15)


def test_rounds_bring_h_to_the_posterior():
    """Var(log w) falls round by round, which it does not where the weights are not used: fitted to its own paths, h
    stays what it is."""
    obs = measurements(120)
    config = FitConfig(steps=60, batch=64, lr=1e-2, warmup=10, ema=0.9, evaluations=1)

    def go(least):
        torch.manual_seed(0)
        h = DEFT((2,), 2, 16, n2_start=0.0)
        return importance_fit(h, PRIOR, obs, rounds=3, paths=16, steps=16, min_ess=least, config=config)

    rows, blind = go(0.2), go(1.0)
    assert rows[2]["variance"] < 0.8 * rows[1]["variance"] < 0.48 * rows[0]["variance"]
    assert rows[2]["bound"] > rows[0]["bound"] and rows[2]["effective"] > 1.4 * rows[0]["effective"]
    assert blind[2]["variance"] > 0.5 * blind[0]["variance"]


@pytest.mark.parametrize("where", ["a draw", "a fit"])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, monkeypatch, where):
    from deft.train import importance

    obs, config = measurements(12), FitConfig(steps=6, batch=16, evaluations=1, saves=6)

    def go(folder, **options):
        torch.manual_seed(0)
        h = DEFT((2,), 2, 8, n2_start=0.0)
        return h, importance_fit(h, PRIOR, obs, rounds=3, paths=4, steps=5, config=config, folder=folder, **options)

    note = tmp_path / "whole/round-1/note.txt"  # a user's, which stays
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    whole, rows = go(tmp_path / "whole")
    assert note.exists() and not (tmp_path / "whole/round-1/state.pt").exists()
    assert not (tmp_path / "whole/round-2").exists()
    name, count = ("draw_round", 3) if where == "a draw" else ("fit", 2)
    real, calls = getattr(importance, name), []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) < count:
            return real(*args, **options)
        if name == "fit":  # in the middle of it
            real(*args, **options | {"config": replace(options["config"], max_seconds=1e-9)})
        raise KeyboardInterrupt

    monkeypatch.setattr(importance, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts")
    monkeypatch.setattr(importance, name, real)
    seen = []
    again, others = go(tmp_path / "parts", resume=True, callback=lambda row: seen.append(row["round"]))
    assert others == rows and seen == [1, 2, 3]  # two rounds were drawn before
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    with pytest.raises(CheckpointError, match=r"measurements\.y: was"):
        importance_fit(
            DEFT((2,), 2, 8, n2_start=0.0),
            PRIOR,
            measurements(12, 5),
            rounds=3,
            paths=4,
            steps=5,
            config=config,
            folder=tmp_path / "parts",
            resume=True,
        )
    # also between rounds, where no fit's own state could tell
    with pytest.raises(CheckpointError, match="other lr of the fit"):
        importance_fit(
            DEFT((2,), 2, 8, n2_start=0.0),
            PRIOR,
            obs,
            rounds=3,
            paths=4,
            steps=5,
            config=replace(config, lr=0.5),
            folder=tmp_path / "parts",
            resume=True,
        )


def test_refusals():
    with pytest.raises(InputError, match="2 measurements"):
        importance_fit(DEFT((2,), 2, 8), PRIOR, measurements(1))
    with pytest.raises(InputError, match="at least 2 paths"):
        draw_round(PRIOR, DEFT((2,), 2, 8), measurements(2), paths=1)
