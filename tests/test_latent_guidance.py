"""Guidance in the latents (`gradient=latents`): exact where the autoencoder is linear, no decoder pass in a step, and
files that say how they were guided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import pixel_unshuffle

import deft
from deft import MMPS, DPMpp2M, Gaussian, Mask, Noise, Observation, VPCosine, sample_posterior
from deft.domains.image.tasks import TASKS
from deft.errors import CheckpointError, InputError
from deft.likelihood.paste import paste_measured, paste_weight
from deft.operator import BlockAverage, Convolution, PhaseRetrieval
from deft.operator.channels import ChannelMap
from deft.prior import latent_surrogate
from deft.prior.latent import LatentPrior, default_gradient, relative_cost
from deft.prior.latent_surrogate import KINDS, Surrogate, fill, kinds_of
from deft.testing import check_operator
from test_latent import GAIN, Folded, gaussian_prior, pipeline  # noqa: F401
from toys import pictures, result, run, save_pictures

S2 = 0.7**2
"""Variance of the latents of the world."""


def world(gradient="latents"):
    return LatentPrior(gaussian_prior((4, 8, 8), 0.7), Folded(), (1, 16, 16), gradient)


def block_mask(rows=1):
    """A hole of whole blocks of 2 x 2."""
    mask = torch.ones(rows, 1, 16, 16)
    mask[..., 4:10, 6:12] = 0
    return Mask(mask)


# exactness


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_a_mask_of_whole_blocks_has_the_closed_form_posterior(sigma):
    """Linear autoencoder, Gaussian world: mean s^2/(s^2 + sigma^2) y where it was measured, the prior in the hole."""
    prior, like, variance = world(), Gaussian(block_mask(), sigma), GAIN**2 * S2
    obs = Observation(like.sample(variance**0.5 * torch.randn(2, 1, 16, 16), Noise(3, 2)), like)
    latent, z = prior.to_latent(obs), torch.randn(2, 4, 8, 8)
    # the step of a belief N(z, rho^2), against that of the pixels
    found = latent.likelihood.mean_update(latent.y, z, torch.tensor(0.5))
    exact = like.mean_update(obs.y, prior.decode(z), torch.tensor(0.5 * GAIN**2))
    torch.testing.assert_close(found, pixel_unshuffle(exact, 2) / GAIN, atol=0.05, rtol=0.05)
    assert not bool((found[..., 2:5, 3:6] != 0).any())  # nothing is known in the hole
    # samples: MMPS is exact here
    n, seen = 100, block_mask().mask.bool().expand_as(obs.y)
    draws = sample_posterior(prior, MMPS(8), obs, n, steps=120, sampler=DPMpp2M())
    mean, std = variance / (variance + sigma**2) * obs.y, (1 / (1 / variance + 1 / sigma**2)) ** 0.5
    assert float((draws.mean - mean)[seen].square().mean().sqrt()) < 1.1 * std / n**0.5 + 0.03
    assert float(draws.mean[~seen].square().mean().sqrt()) < 1.1 * (variance / n) ** 0.5
    assert float(draws.std[seen].mean()) == pytest.approx(std, rel=0.05)
    assert float(draws.std[~seen].mean()) == pytest.approx(variance**0.5, rel=0.05)


def test_blocks_averaged_are_exact_too():
    """4 pixels become one number: a surrogate of rank 1 at each place, measured."""
    prior, operator, sigma = world(), BlockAverage(2), 0.2
    x = 0.7 * GAIN * torch.randn(3, 1, 16, 16)
    obs = Observation(Gaussian(operator, sigma).sample(x, Noise(4, 3)), Gaussian(operator, sigma))
    z, rho2 = torch.randn(3, 4, 8, 8), torch.tensor(0.3)
    latent = prior.to_latent(obs)
    exact = obs.likelihood.mean_update(obs.y, prior.decode(z), GAIN**2 * rho2)
    torch.testing.assert_close(
        latent.likelihood.mean_update(latent.y, z, rho2), pixel_unshuffle(exact, 2) / GAIN, atol=0.05, rtol=0.05
    )


def test_the_noise_of_the_surrogate_is_that_of_the_pixels():
    prior = world()
    for sigma in (0.1, 0.4):
        found = prior.surrogate_of(block_mask(), sigma)
        for kind in (1, 2, 3):
            torch.testing.assert_close(found.gain[kind], torch.eye(4).double(), atol=0.02, rtol=0)
            noise = found.noise[kind].diagonal() / (sigma / GAIN) ** 2
            assert bool(((noise > 0.9) & (noise < 1.25)).all())
        assert not bool(found.gain[0].any())
    rows = Observation(torch.zeros(2, 1, 16, 16), Gaussian(block_mask(), torch.tensor([0.1, 0.4])))
    matrices = prior.to_latent(rows).likelihood.operator.matrices[:, 1]
    assert float((matrices[0] / matrices[1]).diagonal().mean()) == pytest.approx(4, rel=0.1)


def test_a_place_measured_in_part_says_less_than_one_measured_whole():
    found = world().surrogate_of(block_mask(), 0.1)
    noise = torch.linalg.matrix_norm(found.noise, 2)
    assert float(noise[3]) < float(noise[torch.tensor([k for k in range(4, KINDS) if found.gain[k].any()])].min())


# the parts


def test_the_operator_of_the_surrogate_passes_the_checks_of_an_operator():
    matrices = torch.randn(3, 4, 2, 2)
    matrices[:, 0] = 0
    kinds = torch.randint(0, 4, (3, 5, 6), generator=torch.Generator().manual_seed(0))
    check_operator(ChannelMap(matrices, kinds, torch.randn(3, 4, 5, 6)), (2, 5, 6))
    check_operator(ChannelMap(matrices[:1], kinds[:1], torch.randn(1, 2, 5, 6)), (2, 5, 6))


def test_kinds_of_places():
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 12:22, 12:20] = 0  # rows 3 to 5.5 and columns 3 to 5 of a grid of places 4 pixels wide
    kinds = kinds_of(mask, (8, 8))[0]
    assert bool((kinds[3:5, 3:5] == 0).all()) and bool((kinds[5, 3:5] > 3).all())
    assert int(kinds[2, 4]) == 3 and int(kinds[1, 4]) == 2 and int(kinds[0, 4]) == 1 and int(kinds[7, 7]) == 1
    assert bool((kinds_of(torch.ones(1, 1, 32, 32), (8, 8)) == 1).all())
    scattered = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert bool((kinds_of(scattered, (8, 8)) > 3).all())


def test_filling_in():
    """What was measured stays, and a plane is continued."""
    plane = torch.linspace(-1, 1, 32).expand(1, 2, 32, 32).clone()
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 0
    filled = fill(plane * mask, mask)
    assert torch.equal(filled * mask, plane * mask) and float((filled - plane).abs().max()) < 0.2
    assert torch.isfinite(fill(plane[..., :5, :7] * 0, mask[..., :5, :7] * 0)).all()


# what a step costs


class Down8(nn.Module):
    """Random weights, 8 times smaller: 1x512x512 <-> 4x64x64, counted."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(1, 4, 8, stride=8)
        self.outer = nn.ConvTranspose2d(4, 1, 8, stride=8)
        self.rows = {"encode": 0, "decode": 0}

    def encode(self, x):
        self.rows["encode"] += len(x)
        return self.inner(x)

    def decode(self, z):
        self.rows["decode"] += len(z)
        return self.outer(z)


class Shrunk(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Conv2d(4, 4, 1)

    def forward(self, x, time):
        return self.net(x)


def large(gradient):
    inner = deft.NetworkDenoiser(Shrunk(), VPCosine(), (4, 64, 64), "v")
    return deft.freeze(LatentPrior(inner, Down8(), (1, 512, 512), gradient, gain=1.0))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run at 512 pixels for each way: one fitted for a step, one as it is built."""
    images = torch.rand(3, 1, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    changes = {"prior_samples": 0, "cache": 0, "interval_images": 0, "evaluations": 1, "width": 4, "batch": 1}
    one = deft.fit_h(large("latents"), "inpaint", images, steps=1, progress=False, device="cpu", **changes)
    two = deft.FittedH(deft.DEFT((4, 64, 64), 2, 4), large("decoder"), one.task)
    folders = {"latents": tmp_path_factory.mktemp("latents"), "decoder": tmp_path_factory.mktemp("decoder")}
    one.save(folders["latents"])
    two.save(folders["decoder"])
    return folders


def passes(folder, gradient, n=2, steps=4):
    """Rows that pass the autoencoder where n samples of one measurement are drawn by a fresh prior."""
    prior = large(gradient)
    h = deft.load(folder, prior)
    mask = torch.ones(1, 1, 512, 512)
    mask[..., 100:300, 200:400] = 0
    prior.autoencoder.rows.update(encode=0, decode=0)
    h.sample(Observation(mask * 0.5, Gaussian(Mask(mask), 0.05)), n, steps=steps, progress=False)
    return prior.autoencoder.rows


def test_one_decoder_pass_a_sample_at_512_pixels(fitted, monkeypatch):
    """The decoder runs once a sample, the encoder for the measurement alone: the filled image, the values, the mask."""
    assert passes(fitted["latents"], "latents") == {"encode": 3, "decode": 2}
    assert passes(fitted["latents"], "latents", n=3, steps=6) == {"encode": 3, "decode": 3}
    # what this can see: the other way, and surrogates that are measured again
    assert passes(fitted["decoder"], "decoder")["decode"] > 2 * 4
    monkeypatch.setattr(LatentPrior, "restore", lambda self, config: None)
    again = passes(fitted["latents"], "latents")
    assert again["encode"] > 3 and again["decode"] > 2


# which way, and files


def test_the_default_goes_by_the_size_of_the_decoder(fitted):
    light = LatentPrior(gaussian_prior((4, 8, 8), 0.7), Folded(), (1, 16, 16), None)
    heavy = large(None)
    assert relative_cost(light.autoencoder, light.prior) == 0 and light.gradient == "decoder"
    assert relative_cost(heavy.autoencoder, heavy.prior) > 2 and heavy.gradient == "latents"
    assert default_gradient(heavy.autoencoder, heavy.prior) == "latents"


def test_an_h_is_guided_as_it_was_fitted_whatever_the_default_became(fitted):
    """A card of the time before, whose prior was guided through the decoder because that was the default."""
    prior = large(None)
    assert prior.gradient == "latents"
    h = deft.load(fitted["decoder"], prior)
    assert h.prior.gradient == "decoder"
    with pytest.raises(CheckpointError, match="gradient: fitted 'decoder', given 'latents'"):
        deft.load(fitted["decoder"], large("latents"))  # stated, and other


def test_nan_where_nothing_was_measured_is_as_hidden_as_anything():
    """A hole that cuts places in two: what an encoder and a network are shown of it, and what is put back."""
    mask = torch.ones(1, 1, 16, 16)
    mask[..., 5:10, 7:12] = 0
    y = mask * torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, holes = (Observation(torch.where(mask > 0, y, v), Gaussian(Mask(mask), 0.1)) for v in (0.0, torch.nan))
    one, two = (world().to_latent(obs) for obs in (plain, holes))
    assert torch.equal(one.y, two.y) and torch.equal(one.features(), two.features())
    x = torch.randn(1, 2, 1, 16, 16)
    assert torch.equal(paste_measured(x, holes, 2), paste_measured(x, plain, 2))


def test_damaged_surrogates_are_refused():
    config = world().surrogate_of(block_mask(), 0.1).config()
    again = Surrogate.from_config(config)
    torch.testing.assert_close(again.noise, world().surrogate_of(block_mask(), 0.1).noise, rtol=1e-5, atol=1e-6)
    endless = {**config, "kinds": float("inf")}
    for bad in (
        {**config, "kinds": 3},
        {**config, "float32": "x"},
        {},
        None,
        {**config, "float32": "AAAA" * 10},
        endless,
    ):
        with pytest.raises(CheckpointError):
            Surrogate.from_config(bad)
    with pytest.raises(CheckpointError, match="of 4 channels, the latents have 2"):
        LatentPrior(gaussian_prior((2, 8, 8), 1.0), Folded(), (1, 16, 16), "latents").restore({"a": config})
    few = Surrogate(*(v[:2] for v in again)).config()
    for key, bad, says in (
        ("Mask 0.1", few, "of 2 kinds of places, expected 9"),
        ("Radon 1 0.1", config, "expected 2"),
    ):
        with pytest.raises(CheckpointError, match=says):
            world().restore({key: bad})


def test_what_has_no_surrogate_names_the_other_ways():
    prior, y = world(), torch.zeros(2, 1, 16, 16)
    kernels = Convolution(torch.rand(2, 1, 3, 3))
    for like, says in (
        (deft.Poisson(block_mask(), 10.0), "needs Gaussian noise"),
        (Gaussian(kernels, 0.1), "differs from measurement to measurement"),
        (Gaussian(PhaseRetrieval(2), 0.1), "finds nothing of the latents"),
    ):
        with pytest.raises(InputError, match=says) as found:
            seen = y if like.operator is None or not isinstance(like.operator, PhaseRetrieval) else like.operator(y)
            prior.to_latent(Observation(seen, like))
        assert "take gradient=encoder or gradient=decoder" in str(found.value) and "\n" not in str(found.value)
    prior.chosen = True  # by the rule: then such a measurement goes through the decoder
    assert type(prior.to_latent(Observation(y, Gaussian(kernels, 0.1))).likelihood.operator).__name__ == "Decoded"


# the measured pixels, put back


def test_pasting_puts_back_what_was_measured():
    mask = torch.ones(1, 1, 16, 16)
    mask[..., 5:11, 5:11] = 0
    obs = Observation(mask * torch.rand(2, 1, 16, 16), Gaussian(Mask(mask), 0.1))
    x = torch.rand(2, 3, 1, 16, 16)
    hard, soft = paste_measured(x, obs, 0), paste_measured(deft.Draws(x), obs, 2).x
    seen = mask.bool()[0]
    for i in range(3):
        assert torch.equal(hard[:, i][:, seen], obs.y[:, seen]) and torch.equal(hard[:, i][:, ~seen], x[:, i][:, ~seen])
    assert torch.equal(paste_weight(mask, 2)[0, 0, 8, :8], torch.tensor([1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0]))
    torch.testing.assert_close(soft[:, :, 0, 8, 4], obs.y[:, None, 0, 8, 4] / 3 + 2 / 3 * x[:, :, 0, 8, 4])
    with pytest.raises(InputError, match="needs a mask"):
        paste_measured(x, Observation(torch.zeros(2, 1, 4, 4), Gaussian(BlockAverage(4), 0.1)))
    with pytest.raises(InputError, match="border"):
        paste_measured(x, obs, -1)


def test_latents_at_the_command_line(capsys, pipeline, tmp_path):  # noqa: F811
    """The commands of docs/latent.md: a fit guided in the latents, samples with the measured pixels put back."""
    folder, _ = pipeline
    images = save_pictures(tmp_path / "photos", pictures(12))
    mask = np.full((16, 16), 255, dtype=np.uint8)
    mask[4:9, 4:9] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out, drawn = tmp_path / "run", tmp_path / "filled"
    given = ("--prior", folder, "--prior-option", "gradient=latents", "--data", images, "--task", "inpaint")
    assert run(capsys, "fit", *given, "--steps", 2, "--batch", 4, "--bank", 8, "--out", out)[0] == 0
    seen = ("--measurement", images / "000.png", "--mask", tmp_path / "mask.png", "-n", 2, "--steps", 3)
    found = result(capsys, "sample", out, *seen, "--paste", "--out", drawn, "--json")
    plain = result(capsys, "sample", out, *seen, "--out", tmp_path / "plain", "--json")
    pasted, x = (np.load(f / "samples.npz") for f in (drawn, tmp_path / "plain"))
    deep = np.zeros((16, 16), bool)
    deep[:, 13:] = True  # at least 4 pixels from the hole
    assert np.array_equal(pasted["samples"][:, 0, deep], np.repeat(pasted["y"][:, deep], 2, 0))
    assert np.array_equal(pasted["samples"][..., 4:9, 4:9], x["samples"][..., 4:9, 4:9])
    assert found["pasted"] == 4 and "pasted" not in plain and found["residual"] == plain["residual"] > 0
    code, _, err = run(capsys, "sample", "--prior", "fashion", "--task", "sr4", "--paste", "--measurement",
                       tmp_path / "mask.png", "--resize", "--convert", "--out", tmp_path / "q")  # fmt: skip
    assert code == 2 and "--paste needs a mask" in err


def test_tasks_with_a_surrogate():
    """Of the tasks of images, those that are guided in the latents of a good autoencoder."""
    prior, x = world(), 0.7 * GAIN * torch.randn(2, 1, 16, 16).clamp(-2, 2) / 3
    found = {}
    for name in ("inpaint", "inpaint-random", "outpaint", "sr4", "denoise"):
        if name in TASKS:
            obs = deft.domains.image.tasks.get_task(name).observe(x, Noise(0, 2))
            try:
                prior.to_latent(obs)
                found[name] = True
            except InputError:
                found[name] = False
    assert all(found.values()), found
    assert latent_surrogate.OTHERS
