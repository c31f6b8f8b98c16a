"""Text-conditional pipelines as priors: for each family, every state of our DDIM equals that of the family's own
pipeline, with the same scheduler, prompt, guidance and noise."""

from __future__ import annotations

import json

import pytest
import torch

from deft.core.grid import levels
from deft.prior import load_prior
from deft.samplers import DDIM

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import text_models as models  # noqa: E402
from test_diffusers import walk  # noqa: E402
from text_models import NEGATIVE, PROMPT  # noqa: E402

STEPS = 4
V = {"prediction_type": "v_prediction", "unet": {"use_linear_projection": True}}
HALVED = {"height": 16, "width": 16, "use_resolution_binning": False, "clean_caption": False}


FLOW = {"sigmas": [0.99, 0.7, 0.4, 0.1]}
"""Straight paths begin at 0.999 here, where E[x_0 | x_t] still says something of x_t; a pipeline begins at 1."""


def record(pipe, x, **call):
    """(times, states) of the pipeline's own run: what its scheduler returns, one after the other."""
    times, states, own = [], [], pipe.scheduler.step

    def step(out, t, sample, *args, **options):
        options["return_dict"] = False
        found = own(out, t, sample, *args, **options)
        times.append(float(t))
        states.append(found[0].detach().clone())
        return found

    pipe.scheduler.step = step
    pipe.set_progress_bar_config(disable=True)
    try:
        with torch.no_grad():
            pipe(latents=x, num_inference_steps=STEPS, output_type="latent", **call)
    finally:
        pipe.scheduler.step = own
    return times, states


def compare(prior, x, times, states, bound=1e-5):
    """Our states along the same times, from the same start. The last step of a table ends at its first index, which is
    no clean end here, so that it is left out."""
    flow = prior.describe()["schedule"] == "flow"
    grid = levels(prior.schedule, [t / 1000 for t in times] if flow else times)
    ours = walk(DDIM(0.0), prior, grid, x, None)
    assert len(ours) == len(states) == STEPS
    for i, (mine, theirs) in enumerate(zip(ours, states, strict=True)):
        if flow or i + 1 < STEPS:
            off = float((mine - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))
            assert off <= bound, f"step {i}: {off:.2e}"
    assert float((states[-1] - x).abs().max()) > 0.1


def noise(channels, seed=0):
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


GUIDED = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.0}


@pytest.mark.parametrize("which", ["eps", "v"])
@pytest.mark.parametrize("asked", [GUIDED, {"prompt": PROMPT, "guidance_scale": 3.0}, {"prompt": PROMPT}])
def test_stable_diffusion(tmp_path, which, asked):
    """1.x (eps) and 2.x (v, linear projections), with a negative prompt, with guidance from no text, without."""
    pipe = models.stable_diffusion(tmp_path, **(V if which == "v" else {}))
    x = noise(4)
    call = {"guidance_scale": 1.0, **asked, "num_images_per_prompt": 2}
    compare(load_prior(tmp_path, **asked), x, *record(pipe, x, **call))


def test_no_prompt_is_the_side_of_guidance_without_a_text(tmp_path):
    pipe = models.stable_diffusion(tmp_path)
    x = noise(4)
    compare(load_prior(tmp_path), x, *record(pipe, x, prompt="", guidance_scale=1.0, num_images_per_prompt=2))


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("negative", ["", NEGATIVE])
def test_stable_diffusion_xl(tmp_path, zeros, negative):
    """Two encoders, the pooled state, the six sizes; without a text zeros or the embeddings of no letters."""
    pipe = models.stable_diffusion_xl(tmp_path, zeros)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    x = noise(4)
    prior = load_prior(tmp_path, prompt=PROMPT, negative_prompt=negative, guidance_scale=3.0)
    call = {"prompt": PROMPT, "negative_prompt": negative or None, "guidance_scale": 3.0, "num_images_per_prompt": 2}
    compare(prior, x, *record(pipe, x, **call))


@pytest.mark.parametrize("sigma", [False, True])
def test_pixart(tmp_path, sigma):
    """T5 with its mask, learned variance dropped; Alpha takes 120 tokens, Sigma 300."""
    pipe = models.pixart(tmp_path, sigma)
    x = noise(4)
    call = GUIDED | HALVED | {"num_images_per_prompt": 2}
    prior = load_prior(tmp_path, **GUIDED)
    compare(prior, x, *record(pipe, x, **call))
    assert prior.prior.net.given_prompt_attention_mask.shape == (2, 300 if sigma else 120)


@pytest.mark.parametrize("t5", [True, False])
@pytest.mark.parametrize("asked", [GUIDED, {"prompt": PROMPT}])
def test_stable_diffusion_3(tmp_path, t5, asked):
    """Two of CLIP and T5, or zeros in its place; straight paths."""
    pipe = models.stable_diffusion_3(tmp_path, t5)
    x = noise(16)
    call = {"guidance_scale": 1.0, **asked, "num_images_per_prompt": 2, "height": 16, "width": 16}
    call |= FLOW
    compare(load_prior(tmp_path, **asked), x, *record(pipe, x, **call))


@pytest.mark.parametrize("embedded", [True, False])
def test_flux(tmp_path, embedded):
    """Packed latents, places of patches; the guidance scale as an input of the network, or true guidance."""
    pipe = models.flux(tmp_path, embedded)
    x = noise(16)
    asked = {"prompt": PROMPT, "guidance_scale": 3.0} | ({} if embedded else {"negative_prompt": NEGATIVE})
    prior = load_prior(tmp_path, event_shape=(16, 8, 8), **asked)
    call = dict(asked) if embedded else {"prompt": PROMPT, "negative_prompt": NEGATIVE, "true_cfg_scale": 3.0}
    packed = pipe._pack_latents(x, 2, 16, 8, 8)
    times, states = record(pipe, packed, **call, **FLOW, num_images_per_prompt=2, height=16, width=16)
    compare(prior, x, times, [pipe._unpack_latents(s, 16, 16, 2) for s in states])
    assert prior.rows_per_call == (1 if embedded else 2)


@pytest.mark.parametrize("asked", [GUIDED, {"prompt": PROMPT}])
def test_sana(tmp_path, asked):
    """Gemma after the pipeline's own instruction, the deep autoencoder."""
    pipe = models.sana(tmp_path)
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {"guidance_scale": 1.0, **asked, **HALVED, **FLOW, "num_images_per_prompt": 2, "height": 32, "width": 32}
    prior = load_prior(tmp_path, event_shape=(4, 16, 16), **asked)
    compare(prior, x, *record(pipe, x, **call))
    with torch.no_grad():
        theirs = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(prior.decode(x), theirs)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_dit(tmp_path, scale, monkeypatch):
    """Classes, with guidance from the class for none."""
    pipe = models.dit(tmp_path)
    x = noise(4)
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *a, **k: x)
    prior = load_prior(tmp_path, label=3, guidance_scale=scale)
    own, times, states = pipe.scheduler.step, [], []

    def step(out, t, sample):
        found = own(out, t, sample)
        times.append(float(t))
        states.append(found.prev_sample[:2].clone())
        return found

    pipe.scheduler.step = step
    pipe.set_progress_bar_config(disable=True)
    pipe([3, 3], guidance_scale=scale, num_inference_steps=STEPS)
    compare(prior, x, times, states)
    assert prior.rows_per_call == (1 if scale == 1 else 2)


def test_sizes_are_conditions_of_the_large_pixart(tmp_path):
    """Alpha of 1024 pixels takes height, width and their ratio: those of the images, whatever the latents' shape."""
    pipe = models.pixart(tmp_path)
    changes = {"use_additional_conditions": True, "num_attention_heads": 3, "cross_attention_dim": 24}
    net = diffusers.PixArtTransformer2DModel.from_config(dict(pipe.transformer.config) | changes)
    net.eval().save_pretrained(tmp_path / "transformer")
    prior = load_prior(tmp_path, prompt=PROMPT, event_shape=(4, 4, 8))
    x, t = torch.randn(1, 4, 4, 8), torch.tensor(400.0)
    embeds, mask, _, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    sizes = {"resolution": torch.tensor([[8.0, 16.0]]), "aspect_ratio": torch.tensor([[0.5]])}
    with torch.no_grad():
        theirs = net(x, embeds, t[None], sizes, encoder_attention_mask=mask).sample[:, :4]
    torch.testing.assert_close(prior(x, t).eps, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["pixart", "dit"])
def test_the_class_of_older_files(tmp_path, kind):
    """The published PixArt and DiT are a Transformer2DModel in their config.json."""
    getattr(models, kind)(tmp_path)
    asked = {"label": 3} if kind == "dit" else GUIDED
    before, file = load_prior(tmp_path, **asked), tmp_path / "transformer/config.json"
    norm = "ada_norm_zero" if kind == "dit" else "ada_norm_single"
    config = {"norm_type": norm, "caption_channels": None} | json.loads(file.read_text())
    file.write_text(json.dumps(config | {"_class_name": "Transformer2DModel"}))
    x, t = noise(4), torch.tensor(300.0)
    torch.testing.assert_close(load_prior(tmp_path, **asked)(x, t).mean, before(x, t).mean)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_of_the_network(tmp_path, dtype):
    models.stable_diffusion(tmp_path)
    prior, x, t = load_prior(tmp_path, dtype=dtype, **GUIDED), noise(4), torch.tensor(300.0)
    assert str(next(prior.prior.parameters()).dtype) == f"torch.{dtype}"
    off = (prior(x, t).mean - load_prior(tmp_path, **GUIDED)(x, t).mean).abs().max()
    assert float(off) <= (0 if dtype == "float32" else 0.1)


def test_a_gradient_goes_through_guidance(tmp_path):
    """DPS and its like differentiate E[x_0 | x_t]: both rows of the network have a part in it."""
    models.stable_diffusion(tmp_path)
    prior = load_prior(tmp_path, **GUIDED)
    x = noise(4).requires_grad_()
    mean = prior(x, torch.tensor(500.0)).mean
    (slope,) = torch.autograd.grad(mean.square().sum(), x)
    step = torch.randn_like(x) * 1e-3
    change = (
        prior(x + step, torch.tensor(500.0)).mean.square().sum()
        - prior(x - step, torch.tensor(500.0)).mean.square().sum()
    )
    assert float(change / 2) == pytest.approx(float((slope * step).sum()), rel=0.02)
