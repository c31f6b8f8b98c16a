"""The recipe: prior samples as data, fits that end in time and keep their best, sizes, errors beside the prior's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from deft import DEFT, DenoisingObjective, FitConfig, Observation, VPCosine, fit
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError
from deft.guidance.combine import Scaled, Zero
from deft.recipe import Recipe, fit_h
from deft.recipe.settings import REUSE, TIMED_VISITS, VISITS, Sizes, sizes_for
from deft.testing import half_seen
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from deft.train.fit import Interrupted, _Progress
from deft.train.level_weight import fit_level_weight
from deft.train.levels import level_errors, level_warning
from deft.train.prior_samples import CHUNK, draw_prior_samples, prior_gap

CPU = torch.device("cpu")
WORLD, OBS = half_seen(4)
PRIOR = WORLD.prior(VPCosine())


class Field:
    """Half of a 4 x 4 field seen, with fresh noise."""

    fixed = False

    def observe(self, x, noise):
        return Observation(OBS.likelihood.sample(x, noise), OBS.likelihood)


def small_h(seed=0, width=48):
    torch.manual_seed(seed)
    return DEFT((16,), 2, width=width)


def few(n, seed=3):
    return WORLD.sample(n, seed).float()


# ---------------------------------------------------------------- samples of the prior


def test_prior_samples_are_the_priors():
    """4,096 samples of 25 steps: means and variances of the exact prior, within 5 standard errors."""
    x = draw_prior_samples(PRIOR, 4096).x.double()
    exact = WORLD.mixture
    mean, cov = exact.means[0], exact.covariances[0]
    n = len(x)
    assert bool(((x.mean(0) - mean).abs() < 5 * (cov.diagonal() / n).sqrt()).all())
    ratio = x.var(0) / cov.diagonal()
    assert bool(((ratio - 1).abs() < 5 * math.sqrt(2 / n) + 0.01).all()), ratio


def test_noise_added_to_a_sample_is_not_the_noise_it_began_with():
    """The prior's error on its own samples, measured with the same seed, is that on other samples of its distribution
    (4 standard errors): with the starting noise it was a seventh of it."""
    drawn, fresh = (x.double() for x in (draw_prior_samples(PRIOR, 512, seed=0).x, few(512)))
    t, errors = torch.tensor(0.5), []
    for x in (drawn, fresh):
        _, a, s = PRIOR.coefficients(t, x)
        errors.append((PRIOR(a * x + s * Noise(0, 512).normal((16,)).double(), t).mean - x).square().mean(1))
    gap = float(errors[0].mean() - errors[1].mean())
    assert abs(gap) < 4 * float((errors[0].var() / 512 + errors[1].var() / 512).sqrt())


def test_a_longer_draw_begins_with_the_shorter_one(tmp_path):
    short = draw_prior_samples(PRIOR, 10, steps=4)
    assert torch.equal(draw_prior_samples(PRIOR, CHUNK + 5, steps=4).x[:10], short.x)
    later = draw_prior_samples(PRIOR, 7, steps=4, first=CHUNK + 3)
    assert torch.equal(draw_prior_samples(PRIOR, CHUNK + 10, steps=4).x[CHUNK + 3 :], later.x)
    assert short.calls == CHUNK * 4


def test_kept_samples_are_read_and_damaged_ones_drawn_again(tmp_path):
    calls = []
    handle = PRIOR.register_forward_hook(lambda *_: calls.append(1))
    try:
        first = draw_prior_samples(PRIOR, 2 * CHUNK, steps=4, folder=tmp_path)
        drawn = len(calls)
        assert (
            torch.equal(draw_prior_samples(PRIOR, 2 * CHUNK, steps=4, folder=tmp_path).x, first.x)
            and len(calls) == drawn
        )
        path = sorted(tmp_path.glob("prior-samples-*.safetensors"))[1]
        path.write_bytes(path.read_bytes()[:100])
        again = draw_prior_samples(PRIOR, 2 * CHUNK, steps=4, folder=tmp_path)
        assert torch.equal(again.x, first.x) and len(calls) == drawn + drawn // 2
        assert again.seconds > 0
        draw_prior_samples(PRIOR, CHUNK, steps=4, seed=1, folder=tmp_path)
        assert len(calls) == 2 * drawn, "another seed is another draw"
    finally:
        handle.remove()


def test_prior_gap_sees_a_narrow_prior_and_another_range():
    x = few(400)
    assert prior_gap(few(400, 9), x) is None
    assert "spread" in str(prior_gap(0.5 * few(400, 9), x))
    assert "mean" in str(prior_gap(few(400, 9) + 1, x))
    with pytest.raises(InputError, match="at least 1"):
        draw_prior_samples(PRIOR, 0)


# ---------------------------------------------------------------- fits that cannot over-fit


def held_out_error(h, n=2000):
    """Held-out loss on samples that no fit has seen."""
    batch = Clean(few(n, 77), Field()).draw(n, 5, 0, CPU)
    with torch.no_grad():
        return float(DenoisingObjective(PRIOR)(h, batch, BatchNoise(n, 5, 1)).value)


def overfit(steps, **changes):
    """A fit to 24 samples, which is soon learnt by heart."""
    h = small_h()
    config = FitConfig(
        steps=steps, batch=32, lr=5e-3, warmup=10, ema=0.95, evaluations=20, held_out_batches=8, **changes
    )
    result = fit(
        h,
        DenoisingObjective(PRIOR),
        Clean(few(24), Field()),
        Clean(few(256, 4), Field()),
        config=config,
        device="cpu",
        progress=False,
    )
    return h.eval(), result


@pytest.fixture(scope="module")
def lengths():
    return {n: overfit(n, patience=5) for n in (120, 1200)}


@pytest.mark.slow
def test_a_longer_fit_is_not_worse(lengths):
    """Ten times the steps on 24 samples: on data that neither saw the longer fit is as good, within 3 %; without the
    rule (last weights) it is far worse, so that the test can fail."""
    short, long = (held_out_error(h) for h, _ in lengths.values())
    last, _ = overfit(1200, patience=0, weights="raw")
    assert long < 1.03 * short, (short, long)
    assert held_out_error(last) > 1.25 * short


def test_it_ends_early_and_says_so(lengths):
    short, long = (r for _, r in lengths.values())
    assert short.ended == "" or short.steps <= 120
    assert (
        long.ended.startswith("ended early: the held-out loss had not fallen for 5 evaluations") and long.steps < 1200
    )
    assert long.best_step <= long.steps and long.held_out[long.weights] == min(
        min(r["raw"], r["ema"]) for r in long.history
    )


def test_the_last_phase_brings_the_rate_down():
    """From what it was at its first step to 0 at its last, by half a cosine; then the fit is done."""
    config, last = FitConfig(steps=1000), {"start": 10, "length": 4, "rate": 0.5, "evaluated": 3}
    at = [_Progress(step=step, last=last) for step in (10, 12, 14)]
    assert [p.rate(config, 0.1) for p in at] == pytest.approx([0.5, 0.25, 0.0], abs=1e-9)
    assert [p.done(config, 0.0) for p in at] == pytest.approx([0.010, 0.012, 1.0])
    assert [p.due(config, 0.1) for p in at] == [3, 5, 7]


@pytest.mark.parametrize("where", [0.3, 0.95])
def test_resume_is_bitwise_also_in_the_last_phase(tmp_path, where, lengths):
    whole, result = lengths[1200]
    at = int(where * result.steps)

    class Stops:
        calls = 0

        def __call__(self, module, batch, noise):
            self.calls += module.training
            if module.training and self.calls == at:
                raise KeyboardInterrupt
            return DenoisingObjective(PRIOR)(module, batch, noise)

    config = FitConfig(
        steps=1200, batch=32, lr=5e-3, warmup=10, ema=0.95, evaluations=20, held_out_batches=8, patience=5
    )
    data, held_out = Clean(few(24), Field()), Clean(few(256, 4), Field())
    with pytest.raises(Interrupted):
        fit(small_h(), Stops(), data, held_out, config=config, folder=tmp_path, device="cpu", progress=False)
    h = small_h()
    again = fit(
        h,
        DenoisingObjective(PRIOR),
        data,
        held_out,
        config=config,
        folder=tmp_path,
        resume=True,
        device="cpu",
        progress=False,
    )
    assert all(torch.equal(a, b) for a, b in zip(h.state_dict().values(), whole.state_dict().values(), strict=True))
    assert again.steps == result.steps and [r["raw"] for r in again.history] == [r["raw"] for r in result.history]


# ---------------------------------------------------------------- the recipe


ENOUGH = Recipe(steps=300, batch=64, prior_samples=3000, cache=6000, ema=0.98)


@pytest.fixture(scope="module")
def many():
    """Held-out error of an h fitted to 3,000 images."""
    h = small_h()
    fit_h(PRIOR, Field(), few(3000), few(256, 4), ENOUGH, h=h, prior_samples=0, progress=False)
    return held_out_error(h)


@pytest.mark.parametrize("images", [0, 24])
def test_no_images_are_as_good_as_many(images, many):
    """An h fitted to the prior's samples alone, or to 24 images and those, comes as near to the exact h as one fitted
    to 3,000 images (held-out loss within 3 %), and leaves the errors by level below the prior's."""
    h = small_h()
    fitted = fit_h(PRIOR, Field(), few(images) if images else None, few(256, 4), ENOUGH, h=h, progress=False)
    assert held_out_error(h) < 1.03 * many
    assert fitted.sizes == Sizes(3000, 6000)
    assert not fitted.warnings and all(r["h"] < r["prior"] * 1.02 for r in fitted.levels)
    assert {"steps", "seconds", "prior_samples", "cache", "levels", "held_out_loss", "best_step"} <= set(
        fitted.summary()
    )


def test_nothing_to_fit_to():
    with pytest.raises(InputError, match="nothing to fit to"):
        fit_h(PRIOR, Field(), h=small_h(), prior_samples=0, progress=False)
    for bad in ({"prior_samples": -1}, {"cache": -1}, {"fresh": 1.0}, {"seconds": 0.0}, {"steps": 0}):
        with pytest.raises(InputError):
            Recipe(**bad)


@pytest.mark.parametrize(
    ("images", "per_call", "per_step"), [(0, 1e-3, 0.03), (1000, 1e-3, 0.03), (50, 0.05, 1.0), (60_000, 1e-3, 0.03)]
)
def test_sizes_keep_to_the_time_and_to_the_visits(images, per_call, per_step):
    recipe = Recipe(seconds=300.0)
    sizes = sizes_for(recipe, PRIOR, images, per_call=per_call, per_step=per_step)
    drawing, caching = sizes.prior_samples * 25 * per_call, sizes.cache * per_call
    steps = (300 - drawing - caching) / per_step
    assert steps > 0
    floor = 512 if images == 0 else 0
    assert steps * 64 / max(images + sizes.prior_samples, 1) < 1.1 * TIMED_VISITS or sizes.prior_samples <= floor
    assert steps * 64 / sizes.cache < 1.2 * REUSE
    assert (sizes.prior_samples == 0) == (images == 60_000)


def test_sizes_of_a_number_of_steps():
    """2,000 steps of 64 beside 1,000 images: each is seen 32 times; named numbers are taken as they are."""
    sizes = sizes_for(Recipe(steps=2000), PRIOR, 1000)
    assert sizes.prior_samples == pytest.approx(2000 * 64 / VISITS - 1000, abs=1) and sizes.cache == 2000 * 64 // REUSE
    assert sizes_for(Recipe(steps=2000), PRIOR, 100_000).prior_samples == 0
    assert sizes_for(Recipe(prior_samples=7, cache=9), PRIOR, 1000) == Sizes(7, 9)


def test_samples_of_large_images_stay_within_memory():
    """3 x 512 x 512: 2 GiB hold 682 of them; a number that is asked for is taken as it is."""

    class Large:
        event_shape = (3, 512, 512)

    assert sizes_for(Recipe(steps=20_000), Large(), 0).prior_samples == 2**31 // (4 * 3 * 512**2)
    assert sizes_for(Recipe(steps=20_000, prior_samples=5000), Large(), 0).prior_samples == 5000


def test_resumed_fits_keep_their_sizes(tmp_path):
    recipe = Recipe(steps=6, batch=8, warmup=1, prior_samples=16, cache=32, evaluations=2)
    fit_h(PRIOR, Field(), recipe=recipe, h=small_h(), folder=tmp_path, progress=False)
    again = fit_h(
        PRIOR,
        Field(),
        recipe=replace(recipe, prior_samples=None),
        h=small_h(),
        folder=tmp_path,
        resume=True,
        progress=False,
    )
    assert again.sizes == Sizes(16, 32, 0.0)
    with pytest.raises(InputError, match="began with prior_samples = 16, and is to be resumed with 17"):
        fit_h(
            PRIOR,
            Field(),
            recipe=replace(recipe, prior_samples=17),
            h=small_h(),
            folder=tmp_path,
            resume=True,
            progress=False,
        )
    (tmp_path / "sizes.json").write_text("{")
    with pytest.raises(InputError, match=r"sizes\.json"):
        fit_h(PRIOR, Field(), recipe=recipe, h=small_h(), folder=tmp_path, resume=True, progress=False)


def test_fresh_rows_of_a_cache():
    """A quarter of each batch is redrawn: predictions are the prior's, parts have the rows of the whole, held-out draws
    have none."""
    cache = PredictionCache.build(PRIOR, few(20), Field(), 40, fresh=0.25)
    whole = cache.draw(16, 0, 3, CPU)
    again = PRIOR(whole.prediction.x_t, whole.prediction.t)
    torch.testing.assert_close(again.mean, whole.prediction.mean, rtol=1e-4, atol=1e-5)
    known = cache.prediction.x_t
    old = [bool((known == row).all(1).any()) for row in whole.prediction.x_t]
    assert old == [True] * 12 + [False] * 4
    parts = [cache.draw(16, 0, 3, CPU, rows=rows) for rows in (range(0, 7), range(7, 13), range(13, 16))]
    assert torch.equal(torch.cat([p.x for p in parts]), whole.x)
    torch.testing.assert_close(
        torch.cat([p.prediction.mean for p in parts]), whole.prediction.mean, rtol=1e-4, atol=1e-5
    )
    assert torch.equal(torch.cat([p.observation.y for p in parts]), whole.observation.y)
    held_out = cache.draw(16, 0, -1, CPU).prediction.x_t
    assert all(bool((known == row).all(1).any()) for row in held_out)


def test_an_h_that_is_worse_than_the_prior_is_named():
    """The exact h never is; half of it neither; five times of it is, and where is said."""
    x = few(200, 8)
    obs = Field().observe(x, BatchNoise(200, 9))
    for h, bad in ((WORLD.h, False), (Scaled(WORLD.h, 0.5), False), (Zero(), False), (Scaled(WORLD.h, 5.0), True)):
        line = level_warning(level_errors(PRIOR, h, x, obs))
        assert (line is not None) is bad, line
    assert "sigma/alpha" in line and "--prior-samples" in line
    rows = level_errors(PRIOR, small_h(), x, obs)
    assert all(r["guide"] < r["prior"] for r in rows if r["angle"] > 0.5), (
        "the guide alone is better than nothing at high noise"
    )


def test_a_level_weight_switches_a_bad_h_off_where_it_is_bad():
    """An h that is the exact one above sigma/alpha = 1 and points away from it below: its weight is about 1 above and 0
    below, so that at no level it is worse than the prior alone; a good h keeps its weight."""

    class Net(torch.nn.Module):
        """Says nothing; the guide is what h is then."""

        def forward(self, features, time):
            sign = torch.where(time > 0, 0.0, -3.0)[:, None]  # n2 + gate = 1 above, -2 below
            return torch.cat([torch.zeros(len(features), 16), sign.expand(-1, 16)], 1)

    h = DEFT((16,), 2, net=Net()).calibrate(PRIOR, few(400))
    x = few(400, 8)
    obs = Field().observe(x, BatchNoise(400, 9))
    assert level_warning(level_errors(PRIOR, h, x, obs)) is not None
    held_out = PredictionCache.build(PRIOR, few(256, 4), Field(), 512)
    found = fit_level_weight(h, DenoisingObjective(PRIOR), held_out, batch=64, batches=8)
    assert float(h.weight_at(torch.tensor(1.5))) > 0.8 and float(h.weight_at(torch.tensor(-1.5))) < 0.1, found
    assert level_warning(level_errors(PRIOR, h, x, obs)) is None
    good = DEFT((16,), 2, n2_start=1.0, net=torch.nn.Identity())
    assert bool((good.level_weight == 1).all()), "1 until it is fitted: an h of an earlier version is as it was"


def test_an_earlier_file_lacks_the_level_weight(tmp_path):
    """State dicts without it load with 1 everywhere."""
    h = small_h()
    old = {k: v for k, v in h.state_dict().items() if k != "level_weight"}
    again = small_h(1)
    again.load_state_dict(DEFT.upgrade(old))
    assert bool((again.level_weight == 1).all())
