"""What every way of drawing returns, and how each is called: `Draws`, its numbers, its files and its face."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

import deft
from deft import DDIM, Ito, VPCosine
from deft.domains.protein.scaffold import draw_scaffolds
from deft.errors import CheckpointError, ContractError, InputError
from deft.guidance import Predictive
from deft.guidance.combine import Zero
from deft.io.files import save_weights
from deft.kinds import draws as core_draws
from deft.kinds.domain import Domain
from deft.kinds.draws import Draws
from deft.methods import plan
from deft.methods.plans import Plan
from deft.recipe.fitted import FittedH
from deft.samplers import (
    DAPS,
    DDRM,
    SAMPLERS,
    ChainDiagnostics,
    Heun,
    ParticleDiagnostics,
    PathDiagnostics,
    StepInfo,
    sample,
    sample_hmc,
    sample_paths,
    sample_posterior,
    sample_smc,
)
from deft.testing import half_seen

F64 = torch.float64
WORLD, OBS = half_seen(3)
PRIOR = WORLD.prior(VPCosine())
WAYS = {
    "one by one": (sample_posterior, {}),
    "particles": (sample_smc, {"twist": Predictive(0.5), "particles": 4}),
    "chains": (sample_hmc, {"iterations": 8, "burn_in": 6, "leapfrogs": 1}),
    "paths": (sample_paths, {}),
}
SHARED = ("prior", "h", "obs", "n", "sampler", "steps", "spacing", "seed", "batch")


def some(n=6, weighted=False, b=3):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(b, n, 2, 4, generator=g)
    log_w = torch.randn(b, n, generator=g, dtype=F64) if weighted else None
    how = PathDiagnostics(torch.rand(b, generator=g), torch.rand(b, generator=g)) if weighted else None
    return Draws(x, log_w, torch.rand(b, generator=g) if weighted else None, how)


# how it is called


@pytest.mark.parametrize("way", WAYS)
def test_arguments_have_one_order_and_no_typo_is_swallowed(way):
    """(prior, h, obs, n, *, sampler, steps, spacing, seed, batch), then the options that this one alone has, by
    name."""
    function, own = WAYS[way]
    parameters = inspect.signature(function).parameters
    assert tuple(parameters)[: len(SHARED)] == SHARED and parameters["n"].default == 1
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name not in SHARED[:4])
    assert {"grid", "first", "progress", "world"} <= set(parameters)
    with pytest.raises(TypeError, match="step_count"):
        function(PRIOR, Zero(), OBS, 2, step_count=3, **own)


@pytest.mark.parametrize("function", [Plan.draw, FittedH.sample, draw_scaffolds, sample], ids=lambda f: f.__qualname__)
def test_the_others_use_the_same_names(function):
    """What they know by themselves (h, the sampler of a plan) is not asked for; what is, is called the same, in the
    same order. What a task draws for a measurement (a mask) has names of the task's own."""
    parameters = inspect.signature(function).parameters
    assert [n for n in parameters if n in SHARED] == [n for n in SHARED if n in parameters]
    assert {n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD} <= {"drawn"}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_returns_draws(way):
    function, own = WAYS[way]
    draws = function(PRIOR, Zero(), OBS.repeat(2), 3, steps=8, spacing="log-snr", seed=1, batch=4, **own)
    assert isinstance(draws, Draws) and draws.x.shape == (2, 3, 9) and (draws.n, len(draws)) == (3, 2)
    kind = {
        "one by one": type(None),
        "particles": ParticleDiagnostics,
        "chains": ChainDiagnostics,
        "paths": PathDiagnostics,
    }[way]
    assert type(draws.diagnostics) is kind
    assert (draws.log_weight is not None) == (way == "paths") and (draws.log_evidence is not None) == (
        way in ("particles", "paths")
    )
    again = function(
        PRIOR, Zero(), OBS.repeat(2), 3, grid=deft.times(PRIOR.schedule, 8, "log-snr"), seed=1, batch=64, **own
    )
    torch.testing.assert_close(again.x, draws.x, rtol=1e-4, atol=1e-5)
    second = function(PRIOR, Zero(), OBS, 3, steps=8, spacing="log-snr", seed=1, first=1, **own)
    torch.testing.assert_close(second.x[0], draws.x[1], rtol=1e-4, atol=1e-5)
    assert isinstance(plan("gradient", steps=3).draw(PRIOR, OBS, 2), Draws)


def test_old_names_warn_and_work():
    for old, new, function, own in (
        ({"samples": 2}, {"n": 2}, sample_posterior, {"steps": 3}),
        (
            {"samples": 2, "threshold": 1.0, "apart": True},
            {"n": 2, "ess_threshold": 1.0, "independent": True},
            sample_smc,
            {"twist": Predictive(0.5), "steps": 5},
        ),
        ({"samples": 2}, {"n": 2}, sample_hmc, {"iterations": 2, "steps": 5}),
    ):
        with pytest.warns(DeprecationWarning, match="is now"):
            before = function(PRIOR, Zero(), OBS, **old, **own)
        assert torch.equal(before.x, function(PRIOR, Zero(), OBS, **new, **own).x)
    how = sample_smc(PRIOR, Zero(), OBS, 2, twist=Predictive(0.5), steps=5)
    with pytest.warns(DeprecationWarning, match="diagnostics.ess_fraction"):
        assert torch.equal(how.effective, how.diagnostics.ess_fraction)
    with pytest.raises(InputError, match=r"takes \(prior, h, obs, n\)"):
        sample_paths(deft.condition(PRIOR, Zero(), OBS), deft.Noise(0, 1), Ito())


# the callback


@pytest.mark.parametrize("sampler", [DDIM(1.0), Heun(), DDRM(), DAPS(2, 3)], ids=lambda s: type(s).__name__)
def test_the_callback_sees_the_whole_prediction(sampler):
    """Of the conditioned denoiser at x_t where the sampler asks for it, else of the prior; the hooks are gone
    afterwards."""
    found: list[StepInfo] = []
    denoiser = deft.condition(PRIOR, WORLD.h, OBS)
    x = sample(denoiser, 1, sampler=sampler, steps=5, callback=found.append)
    assert [(i.step, i.steps) for i in found] == [(k, 5) for k in range(1, 6)]
    assert torch.equal(found[-1].x, x) and found[-1].s.sigma == 0 and found[0].t.sigma == pytest.approx(1, abs=1e-3)
    own = isinstance(sampler, DDIM | Heun)
    for before, info in pairwise(found):
        assert info.t == before.s and info.prediction.mean.shape == x.shape
        if own:
            assert torch.equal(info.prediction.x_t, before.x)
            expected = denoiser(before.x, torch.tensor(info.t.t, dtype=F64)).mean
            torch.testing.assert_close(info.prediction.mean, expected, rtol=1e-5, atol=1e-6)
    assert not denoiser._forward_hooks and not PRIOR._forward_hooks
    assert torch.equal(x, sample(denoiser, 1, sampler=sampler, steps=5))


def test_the_callback_of_the_last_release_warns_and_works():
    new, old = [], []
    sample_posterior(PRIOR, Zero(), OBS, 2, steps=4, callback=new.append)
    with pytest.warns(DeprecationWarning, match="takes one StepInfo"):
        sample(PRIOR, 2, steps=4, callback=lambda i, level, x: old.append((i, level.sigma, x.shape)))
    assert [o[0] for o in old] == [i.step for i in new] and old[-1][1:] == (0.0, (2, 9))


# numbers


def test_mean_std_and_interval_without_weights():
    draws = some()
    torch.testing.assert_close(draws.mean, draws.x.mean(1))
    torch.testing.assert_close(draws.std, draws.x.std(1))
    for level in (0.5, 0.9):
        for ours, p in zip(draws.interval(level), ((1 - level) / 2, (1 + level) / 2), strict=True):
            torch.testing.assert_close(ours, draws.x.quantile(p, 1))
    assert draws.mean is draws.mean and draws.std is draws.std  # found once
    assert torch.equal(some(1).std, torch.zeros(3, 2, 4)) and torch.equal(some(1).interval(0.5)[0], some(1).x[:, 0])
    torch.testing.assert_close(draws.ess, torch.full((3,), 6.0, dtype=F64))


def test_whole_weights_are_repetitions():
    """A sample of weight 3 counts like three samples of weight 1; one of weight 0 not at all."""
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    times = torch.tensor([3, 1, 2, 0])
    weighted = Draws(x, times.double().log().expand(2, 4))
    repeated = Draws(x.repeat_interleave(times, 1))
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.ess, torch.full((2,), 36 / 14, dtype=F64))
    for level in (0.3, 0.8):  # quantiles of weighted samples are samples: the inverse of their distribution function
        for ours, p in zip(weighted.interval(level), ((1 - level) / 2, (1 + level) / 2), strict=True):
            assert bool((ours[:, None] == x[:, :3]).any(1).all())
            below, up_to = ((f(repeated.x, ours[:, None])).double().mean(1) for f in (torch.lt, torch.le))
            assert bool((below <= p).all()) and bool((up_to >= p).all())
    assert bool((weighted.interval(0.9)[1] <= x[:, :3].amax(1)).all())


def test_the_weighted_variance_is_without_bias():
    """20,000 sets of 5 normal numbers under fixed weights: the mean of std^2 is 1, to 4 standard errors."""
    n = 20_000
    x = torch.randn(n, 5, 1, generator=torch.Generator().manual_seed(2), dtype=F64)
    v = Draws(x, torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0]).expand(n, 5)).std.square()[:, 0]
    assert abs(float(v.mean()) - 1) < 4 * float(v.std()) / n**0.5


def test_weighted_paths_have_the_posteriors_moments():
    """Paths of the prior, weighed: mean and std of 40,000 are the posterior's, the plain ones are far from it."""
    draws = sample_paths(PRIOR, WORLD.h, OBS, 4000, steps=60, batch=4000)
    exact = WORLD.posterior(OBS)
    assert float(((draws.mean[0] - exact.mean) / exact.std).abs().max()) < 0.2
    assert float((draws.std[0] / exact.std - 1).abs().max()) < 0.15
    assert float(draws.log_evidence) == pytest.approx(exact.log_evidence, abs=0.3)


# a sequence of measurements


def test_a_sequence_of_measurements():
    draws = some(weighted=True)
    assert len(draws) == 3 and len(list(draws)) == 3
    one = draws[1]
    assert (
        one.x.shape == (1, 6, 2, 4)
        and torch.equal(one.x[0], draws.x[1])
        and torch.equal(one.log_weight[0], draws.log_weight[1])
    )
    assert torch.equal(draws[-1].diagnostics.ess_fraction, draws.diagnostics.ess_fraction[2:])
    assert torch.equal(draws[torch.tensor([2, 0])].x, draws.x[[2, 0]]) and len(draws[1:]) == 2
    for bad in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            draws[bad]
    with pytest.raises(InputError, match=r"take draws\.x"):
        draws[0, 1]
    back = Draws.cat(list(draws))
    assert torch.equal(back.x, draws.x) and torch.equal(back.log_evidence, draws.log_evidence)
    assert torch.equal(back.diagnostics.log_weight_variance, draws.diagnostics.log_weight_variance)
    with pytest.raises(InputError, match="equally many"):
        Draws.cat([draws, some(4)])
    assert torch.equal(draws.to("cpu").x, draws.x) and torch.equal(draws.cpu().mean, draws.mean)
    for same in (pickle.loads(pickle.dumps(draws)), copy.deepcopy(draws)):
        assert torch.equal(same.x, draws.x) and torch.equal(
            same.diagnostics.ess_fraction, draws.diagnostics.ess_fraction
        )


def test_what_it_cannot_be():
    with pytest.raises(ContractError, match=r"expected \[B, n, \*data\]"):
        Draws(torch.zeros(3))
    with pytest.raises(ContractError, match="log_weight has shape"):
        Draws(torch.zeros(2, 3, 4), torch.zeros(3))
    with pytest.raises(InputError, match="between 0 and 1"):
        some().interval(90)


def test_what_was_a_tensor_says_where_it_is():
    for name in ("shape", "flatten", "numpy", "device"):
        with pytest.raises(AttributeError, match=r"take draws\.x"):
            getattr(some(), name)
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        some().colour  # noqa: B018


# files and faces


@pytest.mark.parametrize("weighted", [False, True])
def test_what_was_saved_loads_again(tmp_path, weighted):
    draws = some(weighted=weighted)
    for given, file in (
        (tmp_path / "out", tmp_path / "out" / "draws.safetensors"),
        (tmp_path / "one.safetensors", tmp_path / "one.safetensors"),
    ):
        assert draws.save(given) == file and file.exists()
        got = Draws.load(given)
        assert (
            torch.equal(got.x, draws.x)
            and repr(got) == repr(draws)
            and type(got.diagnostics) is type(draws.diagnostics)
        )
        for name in ("log_weight", "log_evidence"):
            ours, theirs = getattr(got, name), getattr(draws, name)
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)


@pytest.mark.parametrize("way", ["particles", "chains"])
def test_diagnostics_are_saved(tmp_path, way):
    function, own = WAYS[way]
    draws = function(PRIOR, Zero(), OBS, 2, steps=5, **own)
    got = Draws.load(draws.save(tmp_path))
    assert repr(got.diagnostics) == repr(draws.diagnostics) and repr(got) == repr(draws)


def test_files_that_are_no_draws(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        Draws.load(tmp_path)
    save_weights(tmp_path / "h.safetensors", {"w": torch.zeros(2)}, {"kind": "deft"})
    with pytest.raises(CheckpointError, match="holds deft, not draws"):
        Draws.load(tmp_path / "h.safetensors")
    save_weights(tmp_path / "n.safetensors", {"x": torch.zeros(2, 3, 4)}, {"kind": "draws", "format": 99})
    with pytest.raises(CheckpointError, match="later version"):
        Draws.load(tmp_path / "n.safetensors")


def test_saving_works_whatever_was_imported_first(tmp_path):
    code = (
        "import torch; from deft.kinds.draws import Draws; d = Draws(torch.zeros(1, 2, 3)); "
        f"print(Draws.load(d.save({str(tmp_path)!r})).x.shape)"
    )
    assert (
        "[1, 2, 3]" in subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    )


def test_repr_says_what_there_is():
    text = repr(some(weighted=True))
    for part in ("3 measurements x 6 samples of (2, 4)", "mean", "std", "effective", "log evidence", "Var(log w)"):
        assert part in text
    assert "effective" not in repr(some()) and repr(Draws(torch.zeros(1, 1, 2))).startswith(
        "Draws(1 measurement x 1 sample of (2,)"
    )


class Strip(Domain):
    name, title = "strips", "strips"

    def owns(self, event_shape):
        return event_shape == (2, 4)

    def picture(self, x, titles=()):
        self.seen = x, list(titles)
        return b"\x89PNG"


def test_a_notebook_shows_the_picture_of_its_domain(monkeypatch):
    """Found by the shape or by its name; no domain, or none with a picture: the text alone."""
    strip = Strip()
    monkeypatch.setattr(core_draws, "domain_of_shape", lambda shape: strip if strip.owns(tuple(shape)) else None)
    draws = some(10)
    assert draws._repr_png_() == b"\x89PNG"
    x, titles = strip.seen
    assert (
        torch.equal(x[0], draws.mean[0])
        and torch.equal(x[1:], draws.x[0, :7])
        and titles[:2] == ["mean", "sample 1"]
        and len(x) == len(titles)
    )
    assert Draws(torch.zeros(1, 2, 5))._repr_png_() is None
    assert Draws(draws.x, domain="nobody-knows-it")._repr_png_() is None
    monkeypatch.setattr(core_draws, "find_domain", lambda name: {"strips": strip}[name])
    assert Draws(torch.zeros(1, 2, 5), domain="strips")._repr_png_() == b"\x89PNG"
    monkeypatch.setattr(Strip, "picture", Domain.picture)
    assert draws._repr_png_() is None


def test_draws_keep_the_domain_that_the_prior_names():
    prior = WORLD.prior(VPCosine())
    prior.card["domain"] = "field"
    for name, (function, own) in WAYS.items():
        assert function(prior, Zero(), OBS, 2, steps=5, **own).domain == "field", name
        assert function(PRIOR, Zero(), OBS, 2, steps=5, **own).domain == ""


def test_samplers_print_their_arguments():
    for kind in SAMPLERS.values():
        assert eval(repr(kind()), {k.__name__: k for k in SAMPLERS.values()}).__dict__ == kind().__dict__
    assert (
        repr(plan("dps")) == "plan('dps', settings={'zeta': 1.8}, sampler='ddim', eta=1.0, steps=50, spacing='angle')"
    )
    with pytest.raises(InputError, match="no h to scale"):
        plan("daps").draw(PRIOR, OBS, 2, scale=2.0)
