"""Whatever is given to the library in the wrong form is one line at the door: what was given, what was expected."""

from __future__ import annotations

import functools
import json
import types
from typing import Annotated

import numpy as np
import pytest
import torch

import deft
from deft import (
    DDIM,
    DEFT,
    DPS,
    EDM,
    MMPS,
    VE,
    Gaussian,
    Identity,
    Mask,
    Matrix,
    MeanDenoiser,
    NetworkDenoiser,
    Noise,
    Observation,
    Piecewise,
    PiGDM,
    Poisson,
    Scaled,
    Sum,
    VPCosine,
    VPLinear,
    VPTable,
)
from deft.arguments import checks_arguments
from deft.domains.image.data import dataset
from deft.domains.image.prior import ImagePrior
from deft.errors import CheckpointError, DeftError, InputError
from deft.io.h_files import bundled_h
from deft.nn import UNet
from deft.samplers import Sampler
from deft.values import Range
from toys import toy_prior

nan, inf = float("nan"), float("inf")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x, time):
        return self.drop(x)


@functools.cache
def things():
    """A small world with its observation, the bundled prior with two fitted h, and a prior that is none of theirs."""
    world, obs = deft.testing.half_seen(4)
    w = types.SimpleNamespace(
        world=world, obs=obs, prior=world.prior(VPCosine()), h=PiGDM(), img=deft.load_prior("fashion")
    )
    w.fh, w.x = deft.load(bundled_h("inpaint")), dataset("fashion", "test").x[:2]
    w.o, w.cov = w.fh.task.observe(w.x, Noise(0, 2)), deft.load_covariance(w.img)
    w.S = lambda **given: deft.sample_posterior(w.prior, w.h, w.obs, **({"n": 1, "steps": 2} | given))
    w.F = lambda *a, **given: w.fh.sample(*(a or (w.o,)), **({"n": 1, "steps": 2} | given))
    w.oct_ = deft.load(bundled_h("sr4")).task.observe(w.x, Noise(0, 2))
    w.g = deft.times(w.prior.schedule, 3)
    w.trainp = NetworkDenoiser(Net(), VPCosine(), (16,)).train()
    torch.manual_seed(0)
    w.other = ImagePrior(UNet(1, 1, (24, 32), patch=4), VPCosine(), (1, 32, 32)).eval()
    return w


MISUSES = {
    "sampler text": lambda w: w.S(sampler="heun"),
    "sampler class": lambda w: w.S(sampler=deft.Heun),
    "steps float": lambda w: w.S(steps=2.5),
    "steps 2.0": lambda w: w.S(steps=2.0),
    "steps text": lambda w: w.S(steps="3"),
    "steps None": lambda w: w.S(steps=None),
    "steps huge": lambda w: w.S(steps=10**12),
    "n float": lambda w: w.S(n=1.5),
    "n 0": lambda w: w.S(n=0),
    "n text": lambda w: w.S(n="2"),
    "n None": lambda w: w.S(n=None),
    "batch float": lambda w: w.S(batch=1.5),
    "batch 0": lambda w: w.S(batch=0),
    "seed float": lambda w: w.S(seed=0.5),
    "seed neg": lambda w: w.S(seed=-1),
    "seed huge": lambda w: w.S(seed=2**80),
    "seed None": lambda w: w.S(seed=None),
    "first neg": lambda w: w.S(first=-1),
    "first float": lambda w: w.S(first=0.5),
    "spacing": lambda w: w.S(spacing="foo"),
    "spacing None": lambda w: w.S(spacing=None),
    "spacing 3": lambda w: w.S(spacing=3),
    "grid empty": lambda w: w.S(grid=[]),
    "grid one": lambda w: w.S(grid=w.g[:1]),
    "grid rising": lambda w: w.S(grid=w.g[::-1]),
    "grid floats": lambda w: w.S(grid=[1.0, 0.5, 0.0]),
    "grid text": lambda w: w.S(grid="abc"),
    "obs tensor": lambda w: deft.sample_posterior(w.prior, w.h, w.obs.y, 1, steps=2),
    "obs None": lambda w: deft.sample_posterior(w.prior, w.h, None, 1, steps=2),
    "h None": lambda w: deft.sample_posterior(w.prior, None, w.obs, 1, steps=2),
    "h class": lambda w: deft.sample_posterior(w.prior, deft.PiGDM, w.obs, 1, steps=2),
    "h text": lambda w: deft.sample_posterior(w.prior, "pigdm", w.obs, 1, steps=2),
    "prior net": lambda w: deft.sample_posterior(torch.nn.Linear(2, 2), w.h, w.obs, 1, steps=2),
    "prior text": lambda w: deft.sample_posterior("fashion", w.h, w.obs, 1),
    "prior None": lambda w: deft.sample_posterior(None, w.h, w.obs, 1),
    "prior is h swapped": lambda w: deft.sample_posterior(w.h, w.prior, w.obs, 1),
    "callback 3": lambda w: w.S(callback=3),
    "condition tensor": lambda w: deft.condition(w.prior, w.h, w.obs.y),
    "condition prior": lambda w: deft.condition("a", w.h, w.obs),
    "condition h": lambda w: deft.condition(w.prior, w.prior, w.obs),
    "sample noise float": lambda w: deft.sample(w.prior, 2.5, steps=2),
    "sample 0": lambda w: deft.sample(w.prior, 0, steps=2),
    "sample -1": lambda w: deft.sample(w.prior, -1, steps=2),
    "sample text": lambda w: deft.sample(w.prior, "3", steps=2),
    "sample net": lambda w: deft.sample(torch.nn.Linear(2, 2), 2),
    "sample x list": lambda w: deft.sample(w.prior, 2, steps=2, x=[1, 2]),
    "sample x shape": lambda w: deft.sample(w.prior, 2, steps=2, x=torch.zeros(3, 16)),
    "sample x int": lambda w: deft.sample(w.prior, 2, steps=2, x=torch.zeros(2, 16, dtype=torch.int64)),
    "sample x nan": lambda w: deft.sample(w.prior, 2, steps=2, x=torch.full((2, 16), nan)),
    "Noise neg": lambda w: Noise(0, -1),
    "Noise float": lambda w: Noise(0.5, 2),
    "Noise text": lambda w: Noise("a", 2),
    "Noise idx float": lambda w: Noise(0, 2.5),
    "Noise idx neg": lambda w: Noise(0, [-1]),
    "Noise None": lambda w: Noise(None, 2),
    "obs rows": lambda w: Observation(torch.zeros(3, 16), Gaussian(Mask(torch.ones(2, 16)), 0.1)),
    "obs y list": lambda w: Observation([1.0, 2.0], Gaussian(Identity(), 0.1)),
    "obs like None": lambda w: Observation(torch.zeros(1, 4), None),
    "obs like op": lambda w: Observation(torch.zeros(1, 4), Identity()),
    "obs scalar": lambda w: deft.condition(w.prior, w.h, Observation(torch.tensor(1.0), Gaussian(Identity(), 0.1))),
    "obs empty": lambda w: deft.condition(w.prior, w.h, Observation(torch.zeros(0, 16), Gaussian(Identity(), 0.1))),
    "gauss neg": lambda w: Gaussian(Identity(), -1),
    "gauss nan": lambda w: Gaussian(Identity(), nan),
    "gauss inf": lambda w: Gaussian(Identity(), inf),
    "gauss text": lambda w: Gaussian(Identity(), "a"),
    "gauss op None": lambda w: Gaussian(None, 0.1),
    "gauss op tensor": lambda w: Gaussian(torch.eye(3), 0.1),
    "gauss sigma tensor neg": lambda w: Gaussian(Identity(), torch.tensor([-1.0])),
    "mask list": lambda w: Mask([1, 0]),
    "mask nan": lambda w: Mask(torch.full((1, 4), nan)),
    "mask half": lambda w: Mask(torch.full((1, 4), 0.5)),
    "matrix text": lambda w: Matrix("a"),
    "matrix 1d": lambda w: Matrix(torch.ones(3)),
    "matrix nan": lambda w: Matrix(torch.full((2, 2), nan)),
    "matrix int": lambda w: Matrix(torch.ones(2, 2, dtype=torch.int64)),
    "times float": lambda w: deft.times(w.prior.schedule, 2.5),
    "times sched None": lambda w: deft.times(None, 3),
    "times sched prior": lambda w: deft.times(w.prior, 3),
    "vplin": lambda w: VPLinear("a"),
    "vp neg": lambda w: VPLinear(-1, 2),
    "vptable empty": lambda w: VPTable([]),
    "vptable nan": lambda w: VPTable([nan]),
    "vptable 2": lambda w: VPTable([2.0]),
    "vptable text": lambda w: VPTable("abc"),
    "edm": lambda w: EDM(sigma_min=-1),
    "ve": lambda w: VE(1, nan),
    "ddim eta text": lambda w: DDIM("a"),
    "ddim nan": lambda w: DDIM(nan),
    "ddim none": lambda w: DDIM(None),
    "scaled nan": lambda w: Scaled(w.h, nan),
    "scaled text": lambda w: Scaled(w.h, "a"),
    "scaled none": lambda w: Scaled(None, 1.0),
    "sum": lambda w: Sum(w.h, None),
    "sum0": lambda w: Sum(),
    "piecewise": lambda w: Piecewise(w.h, None, 1.0),
    "piecewise at": lambda w: Piecewise(w.h, w.h, nan),
    "dps": lambda w: DPS(nan),
    "dps text": lambda w: DPS("a"),
    "mmps": lambda w: MMPS(0),
    "mmps f": lambda w: MMPS(1.5),
    "pigdm": lambda w: deft.PiGDM("a"),
    "diffpir": lambda w: deft.DiffPIR(nan),
    "poisson": lambda w: Poisson(Identity(), nan),
    "nd none": lambda w: NetworkDenoiser(None, VPCosine(), (4,)),
    "nd shape int": lambda w: NetworkDenoiser(Net(), VPCosine(), 4),
    "nd shape neg": lambda w: NetworkDenoiser(Net(), VPCosine(), (-1,)),
    "nd shape f": lambda w: NetworkDenoiser(Net(), VPCosine(), (2.5,)),
    "nd sched": lambda w: NetworkDenoiser(Net(), "vp", (4,)),
    "nd out": lambda w: NetworkDenoiser(Net(), VPCosine(), (4,), "foo"),
    "nd out none": lambda w: NetworkDenoiser(Net(), VPCosine(), (4,), None),
    "mean fn": lambda w: MeanDenoiser(None, VPCosine(), (4,)),
    "mean shape": lambda w: MeanDenoiser(lambda x, a, s: x, VPCosine(), None),
    "fit_h task": lambda w: deft.fit_h(w.img, "foo", w.x, steps=2),
    "fit_h prior none": lambda w: deft.fit_h(None, "inpaint", w.x, steps=2),
    "fit_h steps f": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2.5),
    "fit_h steps 0": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=0),
    "fit_h sec nan": lambda w: deft.fit_h(w.img, "inpaint", w.x, seconds=nan),
    "fit_h lr": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, lr=nan),
    "fit_h batch": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, batch=0),
    "fit_h batch f": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, batch=2.5),
    "fit_h size": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, size=nan),
    "fit_h x int": lambda w: deft.fit_h(w.img, "inpaint", (w.x * 100).int(), steps=2),
    "fit_h x range": lambda w: deft.fit_h(w.img, "inpaint", w.x * 127 + 127, steps=2),
    "fit_h x nan": lambda w: deft.fit_h(w.img, "inpaint", w.x * nan, steps=2),
    "fit_h x empty": lambda w: deft.fit_h(w.img, "inpaint", w.x[:0], steps=2),
    "fit_h x none": lambda w: deft.fit_h(w.img, "inpaint", None, steps=2, prior_samples=0),
    "fit_h x list": lambda w: deft.fit_h(w.img, "inpaint", [1, 2], steps=2),
    "fit_h x shape": lambda w: deft.fit_h(w.img, "inpaint", w.x[:, 0], steps=2),
    "fit_h width f": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, width=2.5),
    "fit_h width 0": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, width=0),
    "fit_h kw": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, foo=1),
    "fit_h seed": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, seed=-1),
    "fit_h device": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, device="foo"),
    "fit_h task class": lambda w: deft.fit_h(w.img, deft.tasks.Inpaint, w.x, steps=2),
    "fit_h ema": lambda w: deft.fit_h(w.img, "inpaint", w.x, steps=2, ema=nan),
    "fs other obs": lambda w: w.F(w.oct_),
    "fs y range": lambda w: w.F(w.o.y * 127 + 127, mask=w.o.likelihood.operator.mask),
    "fs no mask": lambda w: w.F(w.o.y),
    "fs n": lambda w: w.F(n=0),
    "fs n f": lambda w: w.F(n=1.5),
    "fs sampler": lambda w: w.F(sampler="foo"),
    "fs sampler cls": lambda w: w.F(sampler=deft.Heun),
    "fs steps": lambda w: w.F(steps=1.5),
    "fs settings": lambda w: w.F(settings={"foo": 1}),
    "fs settings l": lambda w: w.F(settings=[1]),
    "fs y none": lambda w: w.F(None),
    "fs y path": lambda w: w.F("nofile.npz"),
    "fs y int": lambda w: w.F(w.o.y.int(), mask=w.o.likelihood.operator.mask),
    "fs mask rows": lambda w: w.F(w.o.y, mask=torch.ones(3, 1, 32, 32)),
    "fs mask shape": lambda w: w.F(w.o.y, mask=torch.ones(2, 1, 16, 16)),
    "fs extra": lambda w: w.F(w.o.y, mask=w.o.likelihood.operator.mask, foo=1),
    "fs batch": lambda w: w.F(batch=0),
    "h other prior": lambda w: deft.sample_posterior(deft.load_prior("ct"), w.fh.h, w.o, 1, steps=2),
    "h other prior same shape": lambda w: deft.sample_posterior(w.other, w.fh.h, w.o, 1, steps=2),
    "h other task obs": lambda w: deft.sample_posterior(w.img, w.fh.h, w.oct_, 1, steps=2),
    "cov other": lambda w: deft.sample_posterior(deft.load_prior("ct"), w.cov, w.o, 1, steps=2),
    "train mode sample": lambda w: deft.sample(w.trainp, 1, steps=2),
    "prior t float": lambda w: w.img(w.x, 0.5),
    "prior t nan": lambda w: w.img(w.x, torch.tensor(nan)),
    "prior t out": lambda w: w.img(w.x, torch.tensor(5.0)),
    "prior t shape": lambda w: w.img(w.x, torch.tensor([0.1, 0.2, 0.3])),
    "prior x int": lambda w: w.img(w.x.int(), torch.tensor(0.5)),
    "prior x list": lambda w: w.img([1], torch.tensor(0.5)),
    "interval 2": lambda w: w.F().interval(2),
    "interval text": lambda w: w.F().interval("a"),
    "interval nan": lambda w: w.F().interval(nan),
    "draws": lambda w: deft.Draws([1]),
    "draws 1d": lambda w: deft.Draws(torch.zeros(3)),
    "draws load": lambda w: deft.Draws.load("nofile"),
    "draws save": lambda w: w.F().save(3),
    "load none": lambda w: deft.load(None),
    "load int": lambda w: deft.load(3),
    "load_prior none": lambda w: deft.load_prior(None),
    "load_prior int": lambda w: deft.load_prior(3),
    "load_prior dev": lambda w: deft.load_prior("fashion", "foo"),
    "load_prior kw": lambda w: deft.load_prior("fashion", foo=1),
    "load prior obj": lambda w: deft.load(deft.io.h_files.bundled_h("inpaint"), "ct"),
    "smc": lambda w: deft.sample_smc(w.prior, w.h, w.obs, 1.5, twist=w.world.h, steps=2),
    "smc twist": lambda w: deft.sample_smc(w.prior, w.h, w.obs, 1, twist=None, steps=2),
    "smc part": lambda w: deft.sample_smc(w.prior, w.h, w.obs, 1, twist=w.world.h, steps=2, particles=2.5),
    "smc ess": lambda w: deft.sample_smc(w.prior, w.h, w.obs, 1, twist=w.world.h, steps=2, ess_threshold="a"),
    "smc sampler": lambda w: deft.sample_smc(w.prior, w.h, w.obs, 1, twist=w.world.h, steps=2, sampler="a"),
    "task neg": lambda w: deft.tasks.Inpaint(sigma_y=-1),
    "task nan": lambda w: deft.tasks.Inpaint(sigma_y=nan),
    "task inf": lambda w: deft.tasks.Inpaint(sigma_y=inf),
    "task text": lambda w: deft.tasks.Inpaint(sigma_y="a"),
    "task obs list": lambda w: deft.tasks.Inpaint().observe([1], Noise(0, 1)),
    "task obs shape": lambda w: deft.tasks.Inpaint().observe(w.x[0], Noise(0, 2)),
    "task obs noise": lambda w: deft.tasks.Inpaint().observe(w.x, Noise(0, 3)),
    "task obs noise int": lambda w: deft.tasks.Inpaint().observe(w.x, 0),
    "task obs int": lambda w: deft.tasks.Inpaint().observe((w.x * 100).int(), Noise(0, 2)),
    "task obs empty": lambda w: deft.tasks.Inpaint().observe(w.x[:0], Noise(0, 0)),
    "obs index text": lambda w: w.o["a"],
    "obs repeat 0": lambda w: w.o.repeat(0),
    "obs repeat f": lambda w: w.o.repeat(1.5),
    "obs to": lambda w: w.o.to("foo"),
    "sized nan": lambda w: DEFT.sized(w.img, nan, 1),
    "DEFT": lambda w: DEFT(None, 1),
    "DEFT shape": lambda w: DEFT((1, 32, 32), feature_channels=-1),
    "fingerprint": lambda w: deft.fingerprint(None),
    "freeze": lambda w: deft.freeze(None),
}


@pytest.mark.parametrize("name", MISUSES)
def test_what_is_misused_is_one_line(name):
    with pytest.raises(DeftError) as error:
        MISUSES[name](things())
    assert 10 < len(str(error.value)) < 1000 and "\n" not in str(error.value), str(error.value)


@checks_arguments
def drawn(n: Annotated[int, Range(1)], *scales: float, name: str = "", sampler: Sampler | None = None, how: list = ()):
    return n


@pytest.mark.parametrize(
    "given", [(1,), (np.int64(2), 0.5, 3, inf), (torch.tensor(2),)], ids=["one", "several", "tensors of one number"]
)
def test_what_is_right_is_taken_as_it_is(given):
    assert drawn(*given) == given[0] and drawn(1, name="two\nlines", sampler=None, how=[1]) == 1


@pytest.mark.parametrize(
    "given, named, finds",
    [
        ((0,), {}, "drawn: n = 0: expected a whole number of at least 1"),
        ((True,), {}, "n = true"),
        ((1.0,), {}, "n = 1.0"),
        ((1, 0.5, nan), {}, r"scales\[1\] = nan"),
        ((1, "x"), {}, r"scales\[0\] = 'x'"),
        ((1,), {"name": 3}, "name = 3: expected a text"),
        ((1,), {"sampler": "heun"}, "an object and not its name"),
        ((1,), {"sampler": deft.Heun}, "give an object"),
        ((1,), {"how": "abc"}, "how = 'abc': expected a list"),
    ],
)
def test_what_a_message_says(given, named, finds):
    with pytest.raises(InputError, match=finds):
        drawn(*given, **named)


def test_an_h_goes_with_its_prior_after_a_copy_as_well(tmp_path):
    """The prior itself, a copy of it, and the same file loaded again are its own; one changed weight is another."""
    import copy
    import pickle

    w = things()
    for h in (w.fh.h, copy.deepcopy(w.fh.h), pickle.loads(pickle.dumps(w.fh.h))):
        for prior in (w.fh.prior, copy.deepcopy(w.fh.prior), w.img):
            assert deft.condition(prior, Scaled(h, 1.0), w.o).event_shape == (1, 32, 32)
        changed = copy.deepcopy(w.fh.prior)
        next(changed.parameters()).data.view(-1)[0] += 0.01
        with pytest.raises(InputError, match="fitted to another prior"):
            deft.condition(changed, Scaled(h, 1.0), w.o)


def test_an_h_goes_with_its_kind_of_measurement():
    """Of as many views of y: a blur for noise alone. As a fit leaves it, as a file holds it, in a power of p(y | x)."""
    w = things()
    blur = deft.load(bundled_h("deblur-gaussian"), w.img)
    own, other = blur.task.observe(w.x, Noise(0, 2)), deft.tasks.get_task("denoise").observe(w.x, Noise(0, 2))
    assert own.likelihood.feature_channels == other.likelihood.feature_channels
    assert deft.condition(w.img, blur.h, Observation(own.y, own.likelihood.tempered(0.5))).event_shape == (1, 32, 32)
    for h in (blur.h, deft.fit_h(w.img, blur.task, w.x, width=8, steps=1, batch=2, cache=2, prior_samples=2).h):
        with pytest.raises(InputError, match=r"fitted to measurements of .*, and these are of Identity"):
            deft.condition(w.img, Scaled(h, 1.0), other)
    with pytest.raises(InputError, match="these are of Identity"):
        blur.sample(other, 1, steps=2)


def test_numbers_of_other_libraries_are_numbers():
    w = things()
    assert torch.equal(Noise(np.int64(1), np.int64(2)).normal((3,)), Noise(1, 2).normal((3,)))
    assert torch.equal(Noise(1, torch.tensor(2)).normal((3,)), Noise(1, [np.int64(0), 1]).normal((3,)))
    for n in (np.int64(2), torch.tensor(2)):
        assert torch.equal(deft.sample(w.prior, n, steps=2), deft.sample(w.prior, 2, steps=2))
    for sigma in (np.array([0.1, 0.2]), [0.1, 0.2], torch.tensor([0.1, 0.2])):
        assert Gaussian(Identity(), sigma).sigma_y.tolist() == pytest.approx([0.1, 0.2])
        assert Poisson(Identity(), sigma).peak.tolist() == pytest.approx([0.1, 0.2])


def test_a_kind_of_the_fitted_operator_is_taken_and_a_wrapped_prior_can_be_owned():
    w = things()

    class OwnMask(Mask):
        pass

    own = Observation(w.o.y, Gaussian(OwnMask(w.o.likelihood.operator.mask), 0.05))
    assert deft.condition(w.img, deft.load(bundled_h("inpaint"), w.img).h, own).event_shape == (1, 32, 32)

    class Wrapped(deft.Denoiser):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.schedule, self.event_shape = inner, inner.schedule, inner.event_shape

        def forward(self, x_t, t):
            return self.inner(x_t, t)

    h, prior = deft.load(bundled_h("inpaint"), w.img), Wrapped(w.img)
    with pytest.raises(InputError, match=r"h\.belongs_to\(prior, task\)"):
        deft.condition(prior, h.h, w.o)
    h.h.belongs_to(prior, h.task)
    assert deft.condition(prior, h.h, w.o).event_shape == (1, 32, 32)


def test_a_task_of_ones_own_needs_observe_alone():
    w = things()

    class Noisy:
        def observe(self, x, noise):
            like = Gaussian(Identity(), 0.1)
            return Observation(like.sample(x, noise), like)

    fitted = deft.fit_h(w.img, Noisy(), w.x, width=8, steps=1, batch=2, cache=2, prior_samples=2, progress=False)
    assert fitted.sample(Noisy().observe(w.x, Noise(0, 2)), 1, steps=2).x.shape == (2, 1, 1, 32, 32)


def test_a_grid_of_ones_own(caplog):
    w = things()
    assert deft.sample(w.prior, 2, grid=w.g).shape == (2, 16) and not caplog.text
    deft.sample(w.prior, 2, grid=w.g[:-1])
    assert "samples keep that much noise" in caplog.text


def test_arrays_of_numpy_are_taken_where_tensors_are(tmp_path):
    """The same operator, and the same fit, of an array and of a tensor."""
    seen = np.ones((1, 4, 4))
    seen[:, 1:2] = 0
    x = torch.randn(2, 4, 4)
    assert torch.equal(deft.Mask(seen)(x), deft.Mask(torch.from_numpy(seen))(x))
    assert torch.equal(deft.Mask(seen.astype(bool))(x), deft.Mask(seen)(x))
    assert deft.Matrix(np.eye(3)).matrix.dtype == torch.float32
    with pytest.raises(InputError, match="expected a tensor or a NumPy array"):
        deft.Mask([[1, 0]])
    with pytest.raises(InputError, match="array of <U1: expected numbers"):
        deft.Mask(np.array([["a"]]))
    prior = deft.load_prior(str(toy_prior(tmp_path / "p.safetensors")))
    data = np.random.default_rng(0).uniform(-1, 1, (16, 1, 16, 16))
    same = {"width": 4, "steps": 1, "batch": 2, "prior_samples": 0, "cache": 0, "calibrate": False, "progress": False}
    a, b = (deft.fit_h(prior, "denoise", d, **same).h.state_dict() for d in (data, torch.from_numpy(data).float()))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_number_of_a_task_may_be_a_tensor_of_one():
    for value in (torch.tensor(0.05), np.array(0.05, np.float32), np.float32(0.05)):
        task = deft.tasks.Inpaint(sigma_y=value)
        assert type(task.sigma_y) is float and json.loads(json.dumps(task.config())) == task.config()
    assert deft.tasks.SuperResolution(factor=torch.tensor(2)).factor == 2
    for bad in (torch.tensor([0.05, 0.1]), torch.tensor(0.05, requires_grad=True), torch.tensor(True), np.array("x")):
        with pytest.raises(InputError, match="sigma_y of the task inpaint = "):
            deft.tasks.Inpaint(sigma_y=bad)


def test_a_prior_of_another_precision_is_told_from_another_prior(tmp_path):
    prior = deft.load_prior(str(toy_prior(tmp_path / "p.safetensors")))
    h = deft.fit_h(prior, "denoise", width=4, steps=1, batch=2, prior_samples=4, cache=0, progress=False)
    h.save(tmp_path / "run")
    for dtype in (torch.float64, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        with pytest.raises(CheckpointError, match=f"its weights are {name}, and another precision counts as another"):
            deft.load(tmp_path / "run", deft.load_prior(str(tmp_path / "p.safetensors")).to(dtype))
