"""Latent priors: with an autoencoder that is exact, the latent problem is the pixel problem."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from deft import DPS, Gaussian, Mask, Noise, Observation, VPCosine, condition, sample_posterior
from deft.denoiser import MeanDenoiser
from deft.errors import InputError
from deft.operator import BlockAverage, Radon
from deft.operator.latent import GRADIENTS, Decoded
from deft.prior import load_prior
from deft.prior.latent import LatentPrior, measure_gain
from deft.testing import check_operator
from toys import pictures, result, run, save_pictures

GAIN = 3.0


class Folded(torch.nn.Module):
    """z = unshuffle(x) / g: a linear autoencoder without loss, 1x8x8 <-> 4x4x4."""

    def encode(self, x):
        return pixel_unshuffle(x, 2) / GAIN

    def decode(self, z):
        return pixel_shuffle(z, 2) * GAIN


def gaussian_prior(shape, deviation):
    """Independent normal numbers: E[x_0 | x_t] is a scalar times x_t."""
    d2 = deviation**2
    return MeanDenoiser(lambda x, a, s: a * d2 / (a**2 * d2 + s**2) * x, VPCosine(), shape)


def hole():
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 0
    return Mask(mask)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("operator", [hole(), BlockAverage(4)], ids=["mask", "blocks"])
def test_the_pull_is_exact_where_the_decoder_is(gradient, operator):
    """rho^2 J^T (noise + rho^2 J J^T)^{-1} r with J = A D: both ways, for a decoder with equal singular values."""
    z = torch.randn(3, 4, 4, 4)
    latent = Decoded(operator, Folded(), gradient, GAIN)
    y = operator(torch.randn(3, 1, 8, 8))
    r, noise, rho2 = (
        latent.measured_part(y - latent(z)),
        torch.full((3, 1, 1, 1), 0.04),
        torch.tensor([0.1, 1.0, 0.01]).reshape(3, 1, 1, 1),
    )
    x_pull = operator.approx_mean_update(pixel_shuffle(z, 2) * GAIN, r, noise, GAIN**2 * rho2)  # exact, in the data
    torch.testing.assert_close(
        latent.approx_mean_update(z, r, noise, rho2), pixel_unshuffle(x_pull, 2) / GAIN, atol=1e-5, rtol=1e-4
    )


def test_the_posterior_mean_of_latents_is_solved_in_the_data():
    """CT after a decoder: `mean_update` goes by the operator's own, `approx_mean_update` by its preconditioned step."""
    z, operator = torch.randn(2, 4, 4, 4), Radon(8, 6)
    latent = Decoded(operator, Folded(), "encoder", GAIN)
    r, noise, rho2 = (
        operator(torch.randn(2, 1, 8, 8)) - latent(z),
        torch.full((2, 1, 1, 1), 0.01),
        torch.full((2, 1, 1, 1), 0.3),
    )
    x = pixel_shuffle(z, 2) * GAIN
    for found, step in (
        (latent.mean_update, operator.mean_update),
        (latent.approx_mean_update, operator.approx_mean_update),
    ):
        torch.testing.assert_close(
            found(z, r, noise, rho2), pixel_unshuffle(step(x, r, noise, GAIN**2 * rho2), 2) / GAIN, atol=1e-4, rtol=1e-3
        )
    assert (
        float(
            (latent.mean_update(z, r, noise, rho2) - latent.approx_mean_update(z, r, noise, rho2)).norm()
            / latent.mean_update(z, r, noise, rho2).norm()
        )
        > 0.1
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_decoded_passes_the_checks_of_an_operator(gradient):
    check_operator(Decoded(hole(), Folded(), gradient, GAIN), (4, 4, 4))


def test_lift_is_encoded_once():
    calls = []

    class Counting(Folded):
        def encode(self, x):
            calls.append(1)
            return super().encode(x)

    obs = Observation(torch.randn(2, 1, 8, 8), Gaussian(Decoded(hole(), Counting()), 0.1))
    first = obs.features()
    assert first.shape == (2, 8, 4, 4) and len(calls) == 2  # values and mask
    assert obs.features() is first and len(calls) == 2
    torch.testing.assert_close(obs[1].features(), first[1:])
    torch.testing.assert_close(obs.repeat(2).features(), first.repeat_interleave(2, 0))
    assert len(calls) == 2


def test_gain():
    assert measure_gain(Folded(), gaussian_prior((4, 4, 4), 1.0)) == pytest.approx(GAIN, rel=1e-3)


def test_dps_in_latents_is_dps_on_what_they_decode_to():
    """The same chain in other coordinates: x = D(z), so that grad_z = D^T grad_x."""
    latent = LatentPrior(gaussian_prior((4, 4, 4), 0.2), Folded(), (1, 8, 8))
    pixel = gaussian_prior((1, 8, 8), 0.2)
    obs = Observation(hole()(torch.randn(2, 1, 8, 8)), Gaussian(hole(), 0.1))
    t = torch.tensor(0.4)
    z = Noise(0, 2).normal((4, 4, 4))
    inside = condition(latent, DPS(0.3), latent.to_latent(obs)).both(z, t)[1]
    scaled = Observation(obs.y / GAIN, Gaussian(hole(), 0.1 / GAIN))  # the measurement of x / g
    outside = condition(pixel, DPS(0.3 * GAIN), scaled).both(pixel_shuffle(z, 2), t)[1]
    torch.testing.assert_close(inside, pixel_unshuffle(outside, 2), atol=1e-5, rtol=1e-4)


def test_samples_come_out_decoded():
    latent = LatentPrior(gaussian_prior((4, 4, 4), 0.2), Folded(), (1, 8, 8))
    obs = Observation(hole()(torch.randn(2, 1, 8, 8)), Gaussian(hole(), 0.1))
    assert sample_posterior(latent, DPS(0.3), obs, 3, steps=3).x.shape == (2, 3, 1, 8, 8)
    with pytest.raises(InputError, match="unknown gradient"):
        LatentPrior(gaussian_prior((4, 4, 4), 0.2), Folded(), (1, 8, 8), "both")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A latent diffusion pipeline with random weights, as diffusers saves one."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ldm")
    vae = diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.7,
        mid_block_add_attention=False,
    )
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(32, 64),
        layers_per_block=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"]})
    )
    return folder, vae.eval()


def test_pipelines_with_an_autoencoder(pipeline):
    folder, vae = pipeline
    prior = load_prior(folder)
    assert isinstance(prior, LatentPrior)
    assert (prior.event_shape, prior.data_shape) == ((2, 8, 8), (1, 16, 16))
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean * 0.7
        torch.testing.assert_close(prior.encode(x), z)
        torch.testing.assert_close(prior.decode(z), vae.decode(z / 0.7).sample)
    assert prior.fingerprint() != load_prior(folder, gradient="encoder").fingerprint()
    assert prior.parameter_count() == sum(p.numel() for p in prior.prior.parameters())


def test_latent_priors_at_the_command_line(capsys, pipeline, tmp_path):
    """fit, sample and evaluate as with any prior: images in, images out."""
    folder, _ = pipeline
    images = save_pictures(tmp_path / "images", pictures(12))
    out = tmp_path / "run"
    assert (
        run(capsys, "fit", "--prior", folder, "--data", images, "--steps", 3, "--batch", 4, "--bank", 8, "--out", out)[
            0
        ]
        == 0
    )
    mask = np.full((16, 16), 255, dtype=np.uint8)
    mask[4:9, 4:9] = 0
    from PIL import Image

    Image.fromarray(mask).save(tmp_path / "mask.png")
    drawn = result(
        capsys,
        "sample",
        out,
        "--measurement",
        images / "000.png",
        "--mask",
        tmp_path / "mask.png",
        "-n",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "drawn",
        "--json",
    )
    assert drawn["samples"] == 2 and np.load(tmp_path / "drawn/samples.npz")["samples"].shape == (2, 1, 16, 16)
    report = result(
        capsys,
        "evaluate",
        out,
        "--data",
        images,
        "--methods",
        "deft,dps,prior",
        "--samples",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "r",
        "--json",
    )
    assert {r["method"] for r in report["rows"]} == {"deft", "dps", "prior"}
    code, text, _ = run(capsys, "prior", "inspect", folder, "--images", images, "-n", 4)
    assert code == 0 and "data_shape: [1, 16, 16]" in text
    code, _, err = run(
        capsys, "evaluate", "--prior", folder, "--data", images, "--methods", "pigdm", "--out", tmp_path / "q"
    )
    assert code == 2 and "needs a linear operator, got Decoded" in err


def test_a_run_remembers_how_its_prior_was_read(capsys, pipeline, tmp_path):
    folder, _ = pipeline
    images = save_pictures(tmp_path / "images", pictures(12))
    run(
        capsys,
        "fit",
        "--prior",
        folder,
        "--prior-option",
        "gradient=encoder",
        "--data",
        images,
        "--steps",
        1,
        "--batch",
        2,
        "--bank",
        0,
        "--out",
        tmp_path / "run",
    )
    arguments = (
        "evaluate",
        tmp_path / "run",
        "--data",
        images,
        "--methods",
        "deft",
        "--samples",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "r",
    )
    assert run(capsys, *arguments)[0] == 0
    code, _, err = run(capsys, *arguments, "--overwrite", "--prior", folder)
    assert code == 2 and "gradient: fitted 'encoder', given 'decoder'" in err
