"""`torch.set_default_dtype(float64)`, which scripts of other fields set, changes nothing that a seed or a fingerprint
stands for; and everything that people hand to workers can be copied and pickled."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import deft
from deft.core.random import BatchNoise, Noise, RowNoise
from deft.errors import DeftError
from deft.io.h_files import bundled_h
from deft.io.tasks import TASKS, get_task
from deft.methods import METHODS, plan
from deft.samplers import SAMPLERS
from toys import toy_prior


@pytest.fixture
def float64_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def images():
    from deft.domains.image.data import dataset

    return dataset("fashion", "test").x[:2]


def flat(value):
    return list(value.parameters()) + list(value.buffers()) if isinstance(value, torch.nn.Module) else [value]


def same(a, b) -> bool:
    """Bit for bit, type included."""
    a, b = flat(a), flat(b)
    return len(a) == len(b) and all(u.dtype == v.dtype and torch.equal(u, v) for u, v in zip(a, b, strict=True))


@pytest.mark.parametrize("source", [lambda: Noise(3, 2), lambda: BatchNoise(2, 3), lambda: RowNoise(2, 3)])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_noise_of_a_seed(source, draw, float64_default):
    there = getattr(source(), draw)((5,))
    torch.set_default_dtype(torch.float32)
    assert same(getattr(source(), draw)((5,)), there)


def observed(name, images):
    """A measurement of images by a task of images, and what an h is shown of it; None if these cannot be measured."""
    try:
        obs = get_task(name).observe(images, Noise(0, len(images)))
    except (DeftError, RuntimeError):  # a task of three channels, or of another kind of data
        return None
    return [obs.y, obs.likelihood.features(obs.y), obs.likelihood.log_prob(obs.y, images)]


def test_measurements_of_every_task(images):
    before = {name: observed(name, images) for name in TASKS}
    assert sum(v is not None for v in before.values()) >= 19
    torch.set_default_dtype(torch.float64)
    try:
        for name, kept in before.items():
            now = observed(name, images)
            assert (now is None) == (kept is None), name
            assert kept is None or all(same(a, b) for a, b in zip(kept, now, strict=True)), name
    finally:
        torch.set_default_dtype(torch.float32)


SLOW = {"hmc"}  # thousands of calls


def draw_everything(place, images):
    """What a program of a user computes: a prior, a fit, its h, and samples by each method that needs no fit."""
    prior = deft.load_prior(place.parent / "prior.safetensors")
    x = torch.nn.functional.avg_pool2d(images, 2)
    task = get_task("inpaint")
    obs = task.observe(x, Noise(0, 2))
    made = {"fingerprint": prior.fingerprint()}
    for name, method in METHODS.items():
        if not method.learned and name not in SLOW:
            try:
                made[name] = plan(name, steps=3).draw(prior, obs, 2, seed=1).x
            except DeftError as error:
                made[name] = str(error)
    fitted = deft.fit_h(prior, task, x, width=8, steps=3, batch=4, warmup=1, prior_samples=4, cache=8, progress=False)
    made["h"] = fitted.h
    made["fitted"] = fitted.sample(obs, 2, steps=3).x
    fitted.save(place / "run")
    made["loaded"] = deft.load(place / "run", prior).sample(obs, 2, steps=3).x
    return made


def test_a_whole_program(images, tmp_path):
    toy_prior(tmp_path / "prior.safetensors")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = draw_everything(tmp_path / "a", images)
    assert sum(isinstance(v, torch.Tensor) for v in before.values()) > 15
    torch.set_default_dtype(torch.float64)
    try:
        after = draw_everything(tmp_path / "b", images)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in before.items():
        assert value == after[name] if isinstance(value, str) else same(value, after[name]), name


def test_a_bundled_h_still_belongs_to_its_prior(float64_default):
    fitted = deft.load(bundled_h("inpaint"))
    assert {p.dtype for p in [*fitted.prior.parameters(), *fitted.h.parameters()]} == {torch.float32}


# copies


class Nothing(torch.nn.Module):
    def forward(self, x, time):
        return torch.zeros_like(x)


COPIES = [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


@pytest.mark.parametrize("way", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_copies_say_the_same(way, images):
    prior = deft.load_prior("fashion")
    assert way(prior).fingerprint() == prior.fingerprint()
    other = deft.NetworkDenoiser(Nothing(), deft.VPCosine(), (4,), "v", time="500t")
    x, t = torch.ones(1, 4), torch.tensor(0.5)
    assert torch.equal(way(other)(x, t).mean, other(x, t).mean)
    for name in TASKS:
        if observed(name, images) is not None:
            obs = get_task(name).observe(images, Noise(0, 2))
            twin = way(obs)
            assert torch.equal(twin.y, obs.y) and way(get_task(name)) == get_task(name), name
            assert torch.equal(twin.likelihood.log_prob(twin.y, images), obs.likelihood.log_prob(obs.y, images)), name
    for name, sampler in SAMPLERS.items():
        assert repr(way(sampler())) == repr(sampler()), name


@pytest.mark.parametrize("way", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_conditioned_models_and_what_they_draw(way, images):
    fitted = deft.load(bundled_h("inpaint"))
    obs, t = fitted.task.observe(images, Noise(0, 2)), torch.tensor(0.5)
    draws = fitted.sample(obs, 1, steps=2)
    assert torch.equal(way(fitted).sample(obs, 1, steps=2).x, draws.x)
    assert torch.equal(way(draws).interval(0.9)[0], draws.interval(0.9)[0])
    for h in (deft.PiGDM(), deft.DPS(), fitted.h, deft.Piecewise(fitted.h, deft.MMPS(), 1.0)):
        made = deft.condition(fitted.prior, h, obs)
        assert torch.equal(way(made)(images, t).mean, made(images, t).mean)


class Observed(Dataset):
    def __init__(self, obs):
        self.obs = obs

    def __len__(self):
        return len(self.obs)

    def __getitem__(self, i):
        return self.obs[[i]]


def test_a_data_loader_hands_out_observations(images):
    obs = get_task("inpaint").observe(images, Noise(0, 2))
    found = list(DataLoader(Observed(obs), batch_size=None, num_workers=1))
    assert all(torch.equal(f.y[0], y) for f, y in zip(found, obs.y, strict=True))
