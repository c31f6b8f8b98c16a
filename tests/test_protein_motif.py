"""Motifs of backbones: the operator, the gauge, a Gaussian chain with everything in closed form, and the learned h."""

from __future__ import annotations

import math

import pytest
import torch

from deft import DDIM, FitConfig, Gaussian, Observation, PiGDM, VPCosine, fit
from deft.core.grid import times
from deft.core.random import BatchNoise, Noise
from deft.denoiser import MeanDenoiser
from deft.domains.protein.baselines import ChainAmortised
from deft.domains.protein.chains import Bucketed, chains, pad
from deft.domains.protein.geometry import residues
from deft.domains.protein.htransform import ChainDEFT, Seen
from deft.domains.protein.motif import SIGMA_Y, Motif, MotifTask, given_motif, observe_motif
from deft.domains.protein.prior import backbone_prior
from deft.domains.protein.scaffold import load_scaffolder
from deft.errors import ContractError, InputError
from deft.guidance.exact import dense
from deft.io.h_files import save_h
from deft.learned.base import count_parameters
from deft.samplers import SAMPLERS, Cooled, Ito, sample_posterior
from deft.testing import check_operator, gaussian_chain
from deft.train.denoising import DenoisingObjective
from deft.train.path import AdjointMatching, LogVariance, RelativeEntropy, simulate
from deft.train.protocols import Batch

GROUP = torch.tensor([[0, 1, 1, 1, 0, 0, 2, 2, 0, 2, 2, 0]])


def rotation(seed: int = 0) -> torch.Tensor:
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    return q * torch.det(q).sign()


def test_operator():
    check_operator(Motif(GROUP), (12, 3))
    check_operator(Motif(torch.cat([GROUP, GROUP.flip(1), 1 * (GROUP == 1)])), (12, 3), batch=3)


def test_it_is_a_projection_of_the_rank_it_counts():
    a = dense(Motif(GROUP), (12, 3), torch.float64)[0]
    assert torch.allclose(a @ a, a, atol=1e-12) and torch.allclose(a, a.mT, atol=1e-12)
    assert (
        int(torch.linalg.matrix_rank(a))
        == int(Motif(GROUP).number_of_measurements(torch.zeros(1, 12, 3)))
        == 3 * (3 - 1) + 3 * (4 - 1)
    )


def test_where_a_motif_lies_is_not_told():
    x = torch.randn(1, 12, 3, dtype=torch.float64)
    moved = x.clone()
    moved[:, 1:4] += torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    moved[:, [6, 7, 9, 10]] -= 5
    moved[:, [0, 4, 5, 8, 11]] = 0
    op = Motif(GROUP)
    assert torch.allclose(op(x), op(moved), atol=1e-12)
    one = Motif((GROUP > 0).long())  # as one group, the pose of one to the other is told
    assert not torch.allclose(one(x), one(moved), atol=0.1)


def test_given_motif():
    x = torch.randn(5, 3) * 4
    obs = given_motif([x[:3], x[3:]], [[2, 3, 4], [8, 9]], 12)
    assert torch.allclose(8 * obs.y[0, 2:5], x[:3] - x[:3].mean(0), atol=1e-5) and float(obs.y[0, :2].abs().max()) == 0
    with pytest.raises(InputError, match="on another motif"):
        given_motif([x[:3], x[3:]], [[2, 3, 4], [4, 9]], 12)
    with pytest.raises(InputError, match="3 residues and 2 places"):
        given_motif([x[:3]], [[2, 3]], 12)
    with pytest.raises(ContractError, match="whole numbers"):
        Motif(GROUP.float())


def test_training_motifs():
    lengths = torch.tensor([40, 64, 128] * 100)
    group = MotifTask().groups(lengths, 128, BatchNoise(300, 0))
    size = (group > 0).sum(1)
    assert int(size.min()) >= 3 and bool((size <= 0.55 * lengths + 24).all())
    assert all(int((row > 0).nonzero().max()) < n for row, n in zip(group, lengths.tolist(), strict=True))
    runs = ((group > 0).int().diff(dim=1, prepend=torch.zeros(300, 1, dtype=torch.int)) == 1).sum(1)
    assert 0.6 < float((runs == 1).float().mean()) < 0.9 and int(runs.max()) <= 4
    assert float((group.amax(1) > 1).float().mean()) > 0.03  # free relative pose
    again = MotifTask().groups(lengths, 128, BatchNoise(300, 0))
    assert torch.equal(group, again)


# the Gaussian chain


@pytest.fixture(scope="module")
def chain():
    world = gaussian_chain(16)
    group = torch.zeros(1, 16, dtype=torch.long)
    group[0, 4:9], group[0, 11:14] = 1, 2
    obs = observe_motif(world.sample(1, 3), group, Noise(4, 1), 0.05)
    return world, world.prior(VPCosine()), obs, world.posterior(obs)


def off(x, posterior):
    """(largest error of a mean in standard errors, largest relative error of a deviation over its standard error) along
    the posterior's axes."""
    values, axes = torch.linalg.eigh(posterior.covariance)
    keep = values > 1e-4
    z = ((x.double().flatten(1) - posterior.mean) @ axes)[:, keep] / values[keep].sqrt()
    n = len(z)
    return float(z.mean(0).abs().max()) * n**0.5, float((z.std(0) - 1).abs().max()) * (2 * n) ** 0.5


@pytest.mark.parametrize("name", [k for k, s in SAMPLERS.items() if not s().needs_observation])
def test_every_sampler_reaches_the_posterior_of_a_chain(chain, name):
    world, prior, obs, posterior = chain
    n = 300
    x = sample_posterior(prior, world.h, obs, n, sampler=SAMPLERS[name](), steps=120, spacing="log-snr", batch=n).x[0]
    mean, spread = off(x, posterior)
    assert mean < 4.5 and spread < 5.5  # the worst of 45 directions; the steps' own error adds to it


def test_a_wrong_sign_or_no_h_is_seen(chain):
    world, prior, obs, posterior = chain
    x = sample_posterior(
        prior,
        world.h,
        Observation(-obs.y, obs.likelihood),
        400,
        sampler=DDIM(1.0),
        steps=60,
        spacing="log-snr",
        batch=400,
    ).x[0]
    assert off(x, posterior)[0] > 20


def test_pigdm_keeps_to_the_motif(chain):
    """On a projection ΠGDM's covariance is r^2 I: not exact for a chain, but y is kept to its noise."""
    _, prior, obs, _ = chain
    x = sample_posterior(prior, PiGDM(0.5), obs, 200, sampler=DDIM(1.0), steps=200, spacing="log-snr", batch=200).x[0]
    like = obs.likelihood
    rms = float(
        (
            like.residual(obs.y.expand(200, -1, -1), x).square().flatten(1).sum(1)
            / like.operator.number_of_measurements(obs.y)
        )
        .mean()
        .sqrt()
    )
    assert 0.03 < rms < 0.08


def test_cooled_samples_vary_less(chain):
    world, prior, obs, posterior = chain
    cool = Cooled(DDIM(1.0), 0.6)
    a, b = times(VPCosine(), 10)[3:5]
    assert (
        cool.kernel(a, b).std == pytest.approx(0.6 * DDIM(1.0).kernel(a, b).std)
        and cool.kernel(a, b)[:2] == DDIM(1.0).kernel(a, b)[:2]
    )
    x = sample_posterior(prior, world.h, obs, 200, sampler=cool, steps=60, spacing="log-snr", batch=200).x[0]
    values, axes = torch.linalg.eigh(posterior.covariance)
    z = ((x.double().flatten(1) - posterior.mean) @ axes)[:, values > 1e-4] / values[values > 1e-4].sqrt()
    assert 0.3 < float(z.std(0).mean()) < 0.8 and float(z.mean(0).abs().max()) * 200**0.5 < 4.5
    for inner, temperature in ((DDIM(0.0), 0.5), (DDIM(1.0), 0.0), (DDIM(1.0), 1.5)):
        with pytest.raises(InputError, match="temperature"):
            Cooled(inner, temperature)


# the learned h


@pytest.fixture(scope="module")
def stirred():
    """A prior and an h with random last layers, chains of several lengths, and motifs of them."""
    torch.manual_seed(0)
    prior, h = backbone_prior("tiny").double(), ChainDEFT(32).double()
    for stage in [*prior.net.stages, h.n1.stage]:
        torch.nn.init.normal_(stage.outlet.weight, std=0.1)
    torch.nn.init.normal_(h.n1.gate.weight)
    x = pad([c.x.double() for c in chains("validation", longest=64)[:3]], 64)
    return prior.requires_grad_(False), h, x, MotifTask().observe(x, BatchNoise(3, 0))


@pytest.fixture(scope="module")
def amortised():
    """A network of its own with random last layers."""
    torch.manual_seed(0)
    h = ChainAmortised({"width": 32, "stages": 1, "blocks": 1, "heads": 4, "pair": 16}).double()
    for stage in [*h.net.stages, h.motif.stage]:
        torch.nn.init.normal_(stage.outlet.weight, std=0.1)
    torch.nn.init.normal_(h.join.weight, std=0.3)
    return h


@pytest.mark.parametrize("kind", ["deft", "amortised"])
@pytest.mark.parametrize("sigma", [0.01, 0.3, 3.0])
def test_h_turns_with_the_pose_and_tells_a_mirror_image(stirred, amortised, kind, sigma):
    prior, deft, x, obs = stirred
    h = deft if kind == "deft" else amortised
    t, n = (
        torch.tensor(sigma, dtype=torch.float64),
        prior.project(torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64), x),
    )
    x_t, q = x + sigma * n, rotation()
    with torch.no_grad():
        value = h(prior(x_t, t), obs)
        turned = h(prior(x_t @ q, t), Observation(obs.y @ q, obs.likelihood))
        mirrored = h(prior(-x_t, t), Observation(-obs.y, obs.likelihood))
        n0 = int(residues(x)[0].sum())
        alone = h(
            prior(x_t[:1, :n0], t),
            Observation(obs.y[:1, :n0], Gaussian(Motif(obs.likelihood.operator.group[:1, :n0]), SIGMA_Y)),
        )
    size = float(value.norm())
    assert float((value @ q - turned).norm()) < 1e-5 * size  # calibration is kept in float32
    assert float((value + mirrored).norm()) > 0.05 * size
    assert float((alone - value[:1, :n0]).norm()) < 1e-5 * float(alone.norm())
    assert float(value[~residues(x)].abs().max()) == 0 and float(value.sum(1).abs().max()) < 1e-9 * size


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_networks_are_shown_the_motif_put_in(stirred, sigma):
    """In what they see, the motif has y's shape and stands where its residues are in x̂; the rest is x̂'s. Trust falls
    from 1 to 0 as y's noise outgrows what is open."""
    prior, _, x, obs = stirred
    with torch.no_grad():
        pred = prior(x + sigma * prior.project(torch.randn_like(x), x), torch.tensor(sigma, dtype=torch.float64))
    rho2 = torch.full((1, 1, 1), 0.3, dtype=torch.float64)
    seen = Seen(pred, pred.mean, obs, rho2)
    operator = obs.likelihood.operator
    torch.testing.assert_close(operator(seen.put_in), obs.y)
    torch.testing.assert_close(seen.put_in - operator(seen.put_in), pred.mean - operator(pred.mean))
    torch.testing.assert_close(seen.noise, (pred.x_t - pred.mean) / sigma)
    for sigma_y, trust in ((1e-6, 1.0), (0.3**0.5, 0.5), (1e6, 0.0)):
        found = Seen(pred, pred.mean, Observation(obs.y, Gaussian(operator, sigma_y)), rho2)
        assert float((found.trust - trust).abs().max()) < 1e-6
        torch.testing.assert_close(found.g, found.trust * (obs.y - operator(pred.mean)))


def test_untrained_it_is_the_guide_or_nothing(stirred):
    prior, _, x, obs = stirred
    pred = prior(x + 0.5 * prior.project(torch.randn_like(x), x), torch.tensor(0.5, dtype=torch.float64))
    assert float(ChainDEFT(32, n2_start=0.0).double()(pred, obs).detach().abs().max()) == 0
    h = ChainDEFT(32).double().calibrate(prior, x)
    moved = pred.corrected(h(pred, obs)).mean
    before, after = (obs.likelihood.residual(obs.y, m).norm() for m in (pred.mean, moved))
    assert float(after.detach()) < 0.5 * float(before.detach())


def test_the_network_itself_sees_which_hand_a_chain_has(amortised):
    """A chain and its motif mirrored, under a prior that cannot tell them apart: what differs is the network's own
    doing."""
    x = pad([c.x.double() for c in chains("validation", longest=64)[:1]])
    obs, t = MotifTask().observe(x, BatchNoise(1, 0)), torch.tensor(0.5, dtype=torch.float64)
    blind = MeanDenoiser(lambda x_t, a, s: a / (a**2 + s**2) * x_t, backbone_prior("tiny").schedule, tuple(x.shape[1:]))
    x_t = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x_t = x_t - x_t.mean(1, keepdim=True)
    with torch.no_grad():
        value, mirrored = amortised(blind(x_t, t), obs), amortised(blind(-x_t, t), Observation(-obs.y, obs.likelihood))
    assert float((value + mirrored).norm()) > 0.05 * float(value.norm())


def test_sizes(stirred):
    big = backbone_prior("medium")
    for kind, shares in ((ChainDEFT, (0.04, 0.09)), (ChainAmortised, (0.09, 0.5))):
        for share in shares:
            h = kind.sized(big, share)
            assert 0.7 * share < count_parameters(h) / big.parameter_count() <= share
    assert 1 < count_parameters(ChainAmortised.sized(big, 1.0)) / big.parameter_count() < 1.3
    with pytest.raises(InputError, match="MeanDenoiser"):
        ChainAmortised.sized(MeanDenoiser(lambda x, a, s: x, big.schedule, (64, 3)), 1.0)


def test_full_tuning_begins_as_the_prior_and_the_guide(stirred):
    """Its network is the prior's, and its last branch DEFT's; nothing of the prior's is shared."""
    prior, _, x, obs = stirred
    pred = prior(x + 0.5 * prior.project(torch.randn_like(x), x), torch.tensor(0.5, dtype=torch.float64))
    tuned = ChainAmortised.sized(prior, 1.0, tuned=True).double().initialise(prior)
    with torch.no_grad():
        assert torch.allclose(tuned(pred, obs), ChainDEFT(32).double()(pred, obs), atol=1e-9)
    kept = {k: v.clone() for k, v in prior.state_dict().items()}
    with torch.no_grad():
        for p in tuned.parameters():
            p.add_(1.0)
    assert all(torch.equal(v, kept[k]) for k, v in prior.state_dict().items())


@pytest.mark.parametrize("kind", [ChainDEFT, ChainAmortised])
def test_a_file_holds_each_kind(stirred, tmp_path, kind):
    prior = backbone_prior("tiny").requires_grad_(False)
    x, obs = stirred[2].float(), MotifTask().observe(stirred[2].float(), BatchNoise(3, 0))
    h = (
        ChainDEFT(32) if kind is ChainDEFT else ChainAmortised.sized(prior, 1.0, tuned=True).initialise(prior)
    ).calibrate(prior, x)
    task = MotifTask(0.01, loosest=0.05)
    save_h(tmp_path / "h.safetensors", h, prior, task, name="x")
    again, back, card = load_scaffolder(tmp_path / "h.safetensors", prior)
    pred = prior(x, torch.tensor(0.5, dtype=torch.float64))
    with torch.no_grad():
        assert (
            type(again) is kind and back == task and card["name"] == "x" and torch.equal(again(pred, obs), h(pred, obs))
        )


def test_deviations_of_a_task_lie_between_its_two_evenly_in_their_logarithm():
    x = pad([c.x for c in chains("validation", longest=64)[:1]]).expand(4000, -1, -1)
    obs = MotifTask(0.01, loosest=0.04).observe(x, BatchNoise(4000, 0))
    level = (obs.likelihood.sigma_y / 0.01).log() / math.log(4.0)
    assert level.shape == (4000,) and float(level.min()) >= 0 and float(level.max()) <= 1
    assert abs(float(level.mean()) - 0.5) < 4 * (1 / 12 / 4000) ** 0.5
    each = obs.likelihood.residual(obs.y, x).square().flatten(1).sum(
        1
    ) / obs.likelihood.operator.number_of_measurements(obs.y)
    ratio = each / obs.likelihood.sigma_y**2  # the noise of each has its own deviation, and no other
    halves = [ratio[level < 0.5], ratio[level >= 0.5]]
    assert all(abs(float(r.mean()) - 1) < 4 * float(r.std()) / len(r) ** 0.5 for r in halves)


@pytest.mark.parametrize("kind", ["deft", "finetuned"])
def test_learning_lowers_the_loss_and_leaves_the_prior_alone(kind):
    torch.manual_seed(0)
    prior = backbone_prior("tiny").eval().requires_grad_(False)
    h = (ChainDEFT(32) if kind == "deft" else ChainAmortised.sized(prior, 1.0, tuned=True).initialise(prior)).calibrate(
        prior, pad([c.x for c in chains("train", longest=48)[:16]], 48)
    )
    objective = DenoisingObjective(prior, even=1.0)
    batches = Bucketed([c.x for c in chains("train", longest=48)], MotifTask(), bounds=(48,))
    held = batches.draw(64, 1, -1, torch.device("cpu"))

    def loss() -> float:
        with torch.no_grad():
            return float(objective(h, held, BatchNoise(64, 9)).value)

    before = loss()
    fit(
        h,
        objective,
        batches,
        batches,
        config=FitConfig(steps=30, batch=16, lr=5e-3, warmup=5, ema=0.9, evaluations=1, held_out_batches=1),
        progress=False,
    )
    assert loss() < 0.97 * before and all(p.grad is None for p in prior.parameters())


@pytest.mark.parametrize("kind", [LogVariance, RelativeEntropy, AdjointMatching])
def test_paths_of_chains_stay_centred_and_teach(stirred, kind):
    """The objectives that need no data, on one motif: states in the subspace, gradients in h alone."""
    torch.manual_seed(1)
    prior = backbone_prior("tiny").of_length(40).requires_grad_(False)
    h = ChainDEFT(32, length=40)
    obs = given_motif([torch.randn(9, 3) * 4], [list(range(12, 21))], 40)
    walked = simulate(
        prior, h, obs.repeat(3), BatchNoise(3, 0), times(prior.schedule, 4, "log-snr"), Ito(), keep={0, 1}
    )
    for x in (walked.x, *(s.pred.x_t for s in walked.steps)):
        assert float(x.sum(1).abs().max()) < 1e-3 * float(x.abs().max())
    loss = kind(prior, 4)(h, Batch(torch.empty(3, 0), obs.repeat(3)), BatchNoise(3, 0))
    loss.value.backward()
    assert float(h.n2.last.bias.grad.abs()) > 0 and all(p.grad is None for p in prior.parameters())
