"""Backbones: chains and their buckets, geometry, the equivariant network, the prior and the subspace its samples live
in."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from deft import FitConfig, Noise, fit, freeze
from deft.core.condition import Conditioned
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise, RowNoise
from deft.denoiser import MeanDenoiser
from deft.domains.protein.chains import BOUNDS, UNIT, Bucketed, chains, pad, template
from deft.domains.protein.geometry import dihedrals, frames, neighbours, residues, rmsd, superposed
from deft.domains.protein.network import BOND, Block, chain_net
from deft.domains.protein.prior import backbone_prior, load_backbone
from deft.errors import CheckpointError, InputError
from deft.guidance.combine import Zero
from deft.likelihood.gaussian import Gaussian
from deft.operator.basic import Identity
from deft.samplers.draw import sample
from deft.samplers.ode import DDIM
from deft.schedule import EDM, make_schedule
from deft.train.denoising import PriorObjective, diffuse

CPU = torch.device("cpu")
LEVELS = (0.003, 0.05, 0.5, 3.0, 20.0)


@pytest.fixture(scope="module")
def test_chains():
    return chains("test")


def rotation(seed=0, dtype=torch.float32):
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return (q * torch.det(q)).to(dtype)


def scrambled(dtype=torch.float32):
    """A prior whose every layer does something: zero-initialised ones are given random weights."""
    torch.manual_seed(0)
    prior = backbone_prior("tiny")
    for module in prior.modules():
        if isinstance(module, Block):
            torch.nn.init.normal_(module.film.weight, std=0.05)
    for stage in prior.net.stages:
        torch.nn.init.normal_(stage.outlet.weight, std=0.5)
    return freeze(prior.to(dtype))


def noisy(prior, traces, sigma, length=None, seed=0):
    """(x_t, t) of some traces; each chain's noise does not depend on the padding."""
    x = pad(traces, length)
    n = torch.zeros_like(x)
    for i, trace in enumerate(traces):
        n[i, : len(trace)] = Noise(seed, [i]).normal((128, 3))[0, : len(trace)]
    dtype = prior.state_like().dtype
    x = x + sigma * prior.project(n, x)
    return x.to(dtype), torch.tensor(sigma, dtype=dtype)


# data


def test_chains_are_as_described(test_chains):
    counts = {s: len(chains(s)) for s in ("train", "validation", "test")}
    assert counts == {"train": 3810, "validation": 231, "test": 451}
    assert {len(c.x) for c in test_chains} <= set(range(40, 129))
    assert all(len(c.x) == len(c.sequence) == len(c.dssp) for c in test_chains)
    every = torch.cat([c.x for c in test_chains])
    assert every.dtype == torch.float32 and float(every.std(0).mean()) == pytest.approx(1, abs=0.05)
    bonds = UNIT * torch.cat([c.x.diff(dim=0).norm(dim=-1) for c in test_chains])
    assert float(bonds.mean()) == pytest.approx(UNIT * BOND, abs=0.005) and float(bonds.max()) < 4.21
    assert max(float(c.x.mean(0).abs().max()) for c in test_chains) < 1e-6
    assert not any((c.x == 0).all(-1).any() for c in test_chains), "a residue that would be taken for padding"
    clusters = [{c.cluster for c in chains(s)} for s in ("train", "validation", "test")]
    assert not clusters[0] & clusters[2] and not clusters[0] & clusters[1] and not clusters[1] & clusters[2]
    assert len(chains("test", longest=64)) == sum(len(c.x) <= 64 for c in test_chains)
    with pytest.raises(InputError, match="unknown split"):
        chains("benchmark")


def test_padding(test_chains):
    some = [c.x for c in test_chains[:3]]
    x = pad(some, 128)
    assert x.shape == (3, 128, 3)
    assert (
        residues(x).sum(1).tolist()
        == [len(c) for c in some]
        == residues(template([len(c) for c in some])).sum(1).tolist()
    )
    with pytest.raises(InputError, match="does not fit"):
        pad(some, 30)


def test_buckets(test_chains):
    data = Bucketed([c.x for c in test_chains])
    assert sum(len(b) for b in data.buckets) == len(test_chains)
    assert [b.shape[1] for b in data.buckets] == list(BOUNDS)
    seen = set()
    counts = torch.zeros(len(data.buckets))
    for step in range(400):
        bucket, rows = data._choose(16, 0, step)
        counts[bucket] += 1
        assert len(set(rows.tolist())) == 16
        seen |= {(bucket, int(i)) for i in rows}
    assert len(seen) == len(test_chains)  # a chain is left out of 400 steps with probability exp(-14)
    share = torch.tensor([len(b) for b in data.buckets]) / len(test_chains)
    assert float(((counts / 400 - share).abs() / (share * (1 - share) / 400).sqrt()).max()) < 4  # deviations
    a, b = (data.draw(16, 3, 7, CPU).x for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a[:, :64], data.draw(16, 3, 8, CPU).x[:, :64])
    assert torch.equal(data.draw(16, 3, 7, CPU, rows=range(4, 9), source=RowNoise).x, a[4:9])
    looks = [data._choose(16, 0, -1 - i)[0] for i in range(20)]
    assert set(looks) == set(range(len(data.buckets))) and torch.equal(
        data.draw(4, 0, -3, CPU).x, data.draw(4, 0, -3, CPU).x
    )
    assert len(data.draw(200, 0, 0, CPU).x) == 200  # more than the bucket has
    with pytest.raises(InputError, match="longer than the last bucket"):
        Bucketed([c.x for c in test_chains], bounds=(64, 80))


# geometry


def test_frames(test_chains):
    """Right-handed and orthonormal; they turn with the chain and see neither where it is nor what is behind its end."""
    trace = test_chains[0].x
    n = len(trace)
    x = trace[None] + 0.05 * Noise(0, 1).normal((n, 3))
    real = residues(x)
    frame = frames(x, real)
    torch.testing.assert_close(frame.transpose(-1, -2) @ frame, torch.eye(3).expand_as(frame), atol=1e-5, rtol=0)
    assert float((torch.linalg.det(frame) - 1).abs().max()) < 1e-5
    q = rotation()
    torch.testing.assert_close(frames(x @ q.T, real), q @ frame, atol=2e-5, rtol=0)
    torch.testing.assert_close(frames(x + 3.0, real), frame, atol=1e-4, rtol=0)  # the ends, too
    longer = torch.cat([x, torch.zeros(1, 9, 3)], 1)
    assert torch.equal(frames(longer, residues(longer))[:, :n], frame)
    assert torch.equal(frame[:, 0], frame[:, 1]) and torch.equal(frame[:, -1], frame[:, -2])
    assert torch.equal(neighbours(longer, (-1, 2), residues(longer))[0, n - 2 : n, 1], x[0, [n - 1, n - 1]])
    assert torch.equal(neighbours(longer, (-1, 2), residues(longer))[0, :2, 0], x[0, [0, 0]])


def test_dihedrals_of_a_helix():
    """A right-handed alpha helix (100 degrees and 1.5 angstrom a residue, radius 2.3) has +50 degrees; its mirror image
    -50."""
    i = torch.arange(20.0)
    angle = math.radians(100) * i
    x = torch.stack([2.3 * angle.cos(), 2.3 * angle.sin(), 1.5 * i], -1)
    assert float(x.diff(dim=0).norm(dim=-1).mean()) == pytest.approx(3.8, abs=0.05)
    torch.testing.assert_close(torch.rad2deg(dihedrals(x)), torch.full((17,), 50.0), atol=1.5, rtol=0)
    torch.testing.assert_close(dihedrals(x * torch.tensor([1.0, 1.0, -1.0])), -dihedrals(x))


def test_superposition_never_mirrors(test_chains):
    x = UNIT * test_chains[0].x[10:30]
    q = rotation(1)
    torch.testing.assert_close(superposed(x @ q + 5, x), x, atol=1e-3, rtol=0)
    assert float(rmsd(x @ q + 5, x)) < 1e-3
    assert float(rmsd(-x @ q, x)) > 1.5  # angstrom: a motif is not found in its mirror image
    whole = torch.cat([x, torch.randn(7, 3)])
    mask = torch.arange(27) < 20
    assert float(rmsd(torch.cat([x @ q, torch.zeros(7, 3)]), whole, mask)) < 1e-3
    weights = torch.rand(4, 20, 3)
    torch.testing.assert_close(
        rmsd(weights, x.expand(4, 20, 3)), torch.stack([rmsd(w, x) for w in weights]), atol=1e-4, rtol=0
    )


# the network


@pytest.mark.parametrize("sigma", LEVELS)
def test_turns_with_its_input(sigma, test_chains):
    """To 1e-4 of the largest output in float32 (measured: 1e-5), at random weights and every noise level."""
    prior, q = scrambled(), rotation()
    x, t = noisy(prior, [c.x for c in test_chains[:4]], sigma)
    net = lambda x: prior.raw(x, *prior.coefficients(t, x))  # noqa: E731
    out = net(x)
    assert float((net(x @ q) - out @ q).abs().max()) < 1e-4 * float(out.abs().max())
    assert float((net(-x) + out).abs().max()) > 0.1 * float(out.abs().max())  # and knows left from right


@pytest.mark.parametrize("sigma", LEVELS)
def test_padding_and_place_change_nothing(sigma, test_chains):
    prior = scrambled(torch.float64)
    traces = [c.x for c in test_chains[:4]]
    (x, t), (longer, _) = (noisy(prior, traces, sigma, n) for n in (None, 128))
    net = lambda x: prior.raw(x, *prior.coefficients(t, x))  # noqa: E731
    out, n = net(x), x.shape[1]
    close = {"atol": 1e-9 * float(out.abs().max()), "rtol": 0}
    torch.testing.assert_close(net(longer)[:, :n], out, **close)
    for i, trace in enumerate(traces):
        torch.testing.assert_close(net(x[i : i + 1, : len(trace)]), out[i : i + 1, : len(trace)], **close)
    assert not out[~residues(x)].any() and float(out.sum(1).abs().max()) < 1e-9
    moved = torch.where(residues(x)[..., None], x + 7.0, 0.0)  # nothing centred: the network sees differences alone
    torch.testing.assert_close(net(moved), out, atol=1e-7 * float(out.abs().max()), rtol=0)
    single = scrambled()
    x, longer = x.float(), longer.float()
    out = single(x, t.float()).mean
    torch.testing.assert_close(single(longer, t.float()).mean[:, :n], out, atol=1e-4 * float(out.abs().max()), rtol=0)


def test_starts_from_the_gaussian_guess(test_chains):
    """The last layers are zero at first: the mean is then that of unit Gaussian data, x_t / (1 + sigma^2)."""
    prior = freeze(backbone_prior("small"))
    x, t = noisy(prior, [c.x for c in test_chains[:2]], 0.7)
    torch.testing.assert_close(prior(x, t).mean, x / (1 + 0.49))


def test_gradient_through_a_frozen_prior_is_whole(test_chains):
    """What guidance differentiates, against a difference quotient; the shortcut of training does not reach it."""
    prior = scrambled(torch.float64)
    x, t = noisy(prior, [c.x for c in test_chains[:2]], 0.3)
    direction = prior.project(torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype), x)
    x = x.requires_grad_()
    value = lambda x: prior(x, t).mean.square().sum()  # noqa: E731
    with torch.no_grad():
        quotient = float(value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    for training in (False, True):
        prior.train(training)
        assert float((torch.autograd.grad(value(x), x)[0] * direction).sum()) == pytest.approx(quotient, rel=1e-4)


def test_autocast_leaves_geometry_alone(test_chains):
    prior = scrambled()
    x, t = noisy(prior, [c.x for c in test_chains[:2]], 0.05)
    out = prior(x, t).mean
    with torch.autocast("cpu", torch.bfloat16):
        rough = prior(x, t).mean
    assert rough.dtype == torch.float32
    signal = (out - x / (1 + 0.05**2)).norm()
    assert 0 < float((rough - out).norm()) < 0.05 * float(signal)
    with pytest.raises(InputError, match="unknown size"):
        chain_net("huge")


# the prior


def test_projection(test_chains):
    prior = backbone_prior("tiny")
    x = pad([c.x for c in test_chains[:5]], 128)
    n = Noise(0, 5).normal((128, 3))
    p = prior.project(n, x)
    assert float(p.sum(1).abs().max()) < 1e-4 and torch.equal(residues(p), residues(x))
    torch.testing.assert_close(prior.project(p, x), p, atol=1e-6, rtol=0)  # a projection
    other = Noise(1, 5).normal((128, 3))
    # orthogonal
    torch.testing.assert_close((p * other).sum(), (n * prior.project(other, x)).sum(), rtol=1e-4, atol=1e-3)
    plain = MeanDenoiser(lambda x, a, s: x, EDM(), (3,))
    assert plain.project(n, x) is n


def test_noise_stays_in_the_subspace(test_chains):
    """In training, in samples of several lengths and through `condition`; a sample does not depend on its batch."""
    prior = scrambled()
    x = pad([c.x for c in test_chains[:4]])
    x_t, _, _, _ = diffuse(prior.schedule, x, BatchNoise(4, 0), prior=prior)
    assert torch.equal(residues(x_t), residues(x)) and float((x_t.mean(1).abs() / x_t.std()).max()) < 1e-4
    like = template([40, 64, 51])
    steps = {"steps": 3, "spacing": "log-snr", "like": like}
    seen = []
    drawn = sample(prior, Noise(0, 3), sampler=DDIM(eta=1.0), callback=lambda i, level, x: seen.append(x), **steps)
    for state in seen:
        assert torch.equal(residues(state), residues(like)) and float((state.mean(1).abs() / state.std()).max()) < 1e-4
    alone = sample(prior, Noise(0, [1]), sampler=DDIM(eta=1.0), steps=3, spacing="log-snr", like=like[1:2])
    torch.testing.assert_close(alone, drawn[1:2], atol=1e-4 * float(drawn.abs().max()), rtol=0)
    again = sample(prior, Noise(0, 3), sampler=DDIM(eta=1.0), **steps)
    assert torch.equal(again, drawn)
    whole = sample(prior.of_length(50), 2, steps=2)
    assert whole.shape == (2, 50, 3) and bool(residues(whole).all())
    obs = Observation(x, Gaussian(Identity(), 0.1))
    assert Conditioned(prior, Zero(), obs).project(x_t, x).equal(prior.project(x_t, x))


def test_schedule_of_training():
    schedule = backbone_prior("tiny").schedule
    again = make_schedule({"name": schedule.name, **schedule.config()})
    u = (torch.arange(10001).double() + 0.5) / 10001
    log = again.training_time(u).log()
    assert float(log.median()) == pytest.approx(-1.0, abs=0.01)
    assert float(log.quantile(0.8413)) == pytest.approx(0.5, abs=0.02)
    assert set(EDM().config()) == {"sigma_min", "sigma_max"}  # a fingerprint of before is one of now


def test_file(tmp_path):
    prior = scrambled()
    prior.save(tmp_path / "p.safetensors", torch.float16, name="toy")
    back = load_backbone(tmp_path / "p.safetensors")
    assert back.card["name"] == "toy" and back.card["network"]["class"] == "ChainNet" and back.event_shape == (128, 3)
    for a, b in zip(prior.parameters(), back.parameters(), strict=True):
        assert b.dtype == torch.float32 and not b.requires_grad
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert (
        back.fingerprint()
        == load_backbone(tmp_path / "p.safetensors").fingerprint()
        == back.of_length(64).fingerprint()
    )
    (tmp_path / "q.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        load_backbone(tmp_path / "q.safetensors")


def test_learns(test_chains):
    """A few steps on short chains: below the loss of the Gaussian guess, and the same weights twice."""
    data = Bucketed([c.x for c in chains("train", longest=48)], bounds=(48,))
    config = FitConfig(steps=25, batch=12, lr=5e-3, warmup=5, evaluations=1, held_out_batches=2, weights="raw")
    torch.manual_seed(0)
    start = backbone_prior("tiny")
    before = float(
        PriorObjective()(copy.deepcopy(start).eval(), data.draw(64, 0, 0, CPU), BatchNoise(64, 1)).value.detach()
    )
    results = [
        fit(copy.deepcopy(start), PriorObjective(), data, data, config=config, device=CPU, progress=False)
        for _ in range(2)
    ]
    assert results[0].held_out["raw"] < 0.85 * before
    a, b = (torch.cat([p.flatten() for p in r.module.parameters()]) for r in results)
    assert np.array_equal(a.detach().numpy(), b.detach().numpy())
