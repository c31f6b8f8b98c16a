"""Models saved by diffusers: our samplers equal diffusers' own schedulers, step by step; what cannot be read is
said."""

from __future__ import annotations

import json

import pytest
import torch

from deft.core.grid import levels
from deft.core.random import Noise
from deft.errors import CheckpointError, DeftError, InputError
from deft.prior import load_prior
from deft.samplers import DDIM, Ancestral, sample
from deft.schedule import EDM, VE, RectifiedFlow

diffusers = pytest.importorskip("diffusers")

BETAS = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.001 + 0.0001 * i for i in range(200)], "num_train_timesteps": 200},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def model(seed=0, **options):
    torch.manual_seed(seed)
    net = diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **options,
        }
    )
    return net.eval()


def pipeline(folder, scheduler, **options):
    net = model(**options)
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(folder)
    return net


def close(ours, theirs, step):
    assert ours.shape == theirs.shape
    size = max(1.0, float(theirs.abs().max()))
    assert float((ours - theirs).abs().max()) <= 1e-5 * size, (
        f"step {step}: {float((ours - theirs).abs().max()) / size:.2e}"
    )


def walk(sampler, prior, grid, x, noises):
    """Our states along a grid, the noise of each step given."""
    from deft.core.sampler import Sampler

    assert isinstance(sampler, Sampler)
    states, carry = [], None
    for i in range(len(grid) - 1):
        noise = noises[i] if sampler.stochastic and grid[i + 1].sigma > 0 else None
        with torch.no_grad():
            x, carry = sampler.step(prior, x, grid[i], grid[i + 1], noise, carry)
        states.append(x)
    return states


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_is_diffusers_ddim(tmp_path, prediction, betas, eta):
    """From the same start and noise, every state equals that of diffusers' DDIMScheduler to 1e-5."""
    options = {"num_train_timesteps": 1000, **BETAS[betas], "prediction_type": prediction, "clip_sample": False}
    scheduler = diffusers.DDIMScheduler(**options)
    net = pipeline(tmp_path, scheduler)
    scheduler.set_timesteps(10)
    prior = load_prior(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    noises = torch.randn(10, 2, 1, 8, 8)
    ours = walk(DDIM(eta), prior, levels(prior.schedule, scheduler.timesteps.tolist()), x, noises)
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            out = net(x, t).sample
        x = scheduler.step(out, t, x, eta=eta, variance_noise=noises[i] if eta else None).prev_sample
        if i + 1 < 10 or eta == 0:  # diffusers adds noise even to the last step; here the last step is the clean end
            close(ours[i], x, i)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("betas", [*BETAS, "sigmoid", "laplace"])
def test_ancestral_is_diffusers_ddpm(tmp_path, prediction, betas, monkeypatch):
    """The ancestral sampler is DDPMScheduler with variance "fixed_small", from the same noise."""
    named = BETAS.get(betas, {"beta_schedule": betas})  # the last two are DDPMScheduler's alone
    options = {"num_train_timesteps": 1000, **named, "prediction_type": prediction, "clip_sample": False}
    scheduler = diffusers.DDPMScheduler(**options)
    net = pipeline(tmp_path, scheduler)
    scheduler.set_timesteps(10)
    prior = load_prior(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    noises = torch.randn(10, 2, 1, 8, 8)
    ours = walk(Ancestral(), prior, levels(prior.schedule, scheduler.timesteps.tolist()), x, noises)
    from diffusers.schedulers import scheduling_ddpm

    for i, t in enumerate(scheduler.timesteps):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, n=noises[i], **k: n)
        with torch.no_grad():
            out = net(x, t).sample
        x = scheduler.step(out, t, x).prev_sample
        close(ours[i], x, i)


def test_zero_terminal_snr(tmp_path):
    """Zero-SNR rescaling (v prediction): alpha = 0 at the first level, where ours is 1e-6."""
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
    )
    net = pipeline(tmp_path, scheduler)
    scheduler.set_timesteps(8)
    assert int(scheduler.timesteps[0]) == 999 and float(scheduler.alphas_cumprod[-1]) == 0
    prior = load_prior(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    ours = walk(DDIM(0.0), prior, levels(prior.schedule, scheduler.timesteps.tolist()), x, None)
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            x = scheduler.step(net(x, t).sample, t, x, eta=0.0).prev_sample
        close(ours[i], x, i)
    assert bool(torch.isfinite(sample(prior, 2, steps=5)).all())


def test_learned_variance_is_dropped(tmp_path):
    net = pipeline(tmp_path, diffusers.DDPMScheduler(variance_type="learned_range"), out_channels=2)
    prior = load_prior(tmp_path)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor(500.0)
    with torch.no_grad():
        out = net(x, 500).sample
        torch.testing.assert_close(prior(x, t).eps, out[:, :1], atol=1e-5, rtol=1e-5)


def test_class_conditional(tmp_path):
    net = pipeline(tmp_path, diffusers.DDPMScheduler(), num_class_embeds=5)
    with pytest.raises(InputError, match="give label, a whole number from 0 to 4"):
        load_prior(tmp_path)
    prior, other = load_prior(tmp_path, label=3), load_prior(tmp_path, label=2)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            prior(x, torch.tensor(10.0)).eps, net(x, 10, class_labels=torch.tensor([3, 3])).sample, atol=1e-5, rtol=1e-5
        )
    assert prior.fingerprint() != other.fingerprint()


def test_ncsnpp(tmp_path):
    """google/ncsnpp-*: the output is the score, images are in [0, 1], the network is given sigma."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_max=348.0)
    net = model(time_embedding_type="fourier")
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(tmp_path)
    prior = load_prior(tmp_path)
    assert isinstance(prior.inner_schedule, VE) and prior.value_range == (0.0, 1.0)
    x01, sigma = torch.rand(2, 1, 8, 8), 0.4
    with torch.no_grad():
        mean01 = x01 + sigma**2 * net(x01, torch.tensor([sigma, sigma])).sample  # Tweedie on the model's own range
    t = prior.inner_schedule.time_of(torch.tensor(-2.0).double() * torch.tensor(sigma).double().log())
    torch.testing.assert_close(prior(2 * x01 - 1, t).mean, 2 * mean01 - 1, atol=1e-4, rtol=1e-4)


def test_flow_and_edm(tmp_path):
    """The flow and EDM schedulers' own view of x_0 equals ours."""
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    net = pipeline(tmp_path / "flow", flow)
    prior = load_prior(tmp_path / "flow")
    assert isinstance(prior.inner_schedule, RectifiedFlow)
    x, s = torch.randn(2, 1, 8, 8), 0.37
    with torch.no_grad():
        torch.testing.assert_close(
            prior(x, torch.tensor(s)).mean, x - s * net(x, 1000 * s).sample, atol=1e-5, rtol=1e-5
        )
    edm = diffusers.EDMEulerScheduler()
    net = pipeline(tmp_path / "edm", edm)
    prior = load_prior(tmp_path / "edm")
    assert isinstance(prior.inner_schedule, EDM)
    sigma = torch.tensor(1.7)
    with torch.no_grad():
        out = net(edm.precondition_inputs(x, sigma), edm.precondition_noise(sigma)).sample
        torch.testing.assert_close(prior(x, sigma).mean, edm.precondition_outputs(x, out, sigma), atol=1e-5, rtol=1e-5)


def test_bare_model_folder(tmp_path):
    model().save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match=r"no scheduler_config\.json"):
        load_prior(tmp_path / "bare")
    prior = load_prior(tmp_path / "bare", convention="ddpm")
    assert prior.schedule.name == "vp-table" and prior.output == "eps"
    assert load_prior(tmp_path / "bare", convention="ddpm", output="v").fingerprint() != prior.fingerprint()
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "bare")
    assert load_prior(tmp_path / "bare").output == "v"
    assert "value_range" in load_prior(tmp_path / "bare").card["unsure"][0]


def test_older_files_of_plain_tensors(tmp_path):
    """.bin files are read with weights_only: a pickle with more in it is refused, and not run."""
    net = model()
    net.save_pretrained(tmp_path / "m", safe_serialization=False)
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "m")
    prior = load_prior(tmp_path / "m")
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(prior(x, torch.tensor(3.0)).eps, net(x, 3).sample, atol=1e-4, rtol=1e-4)
    trace = tmp_path / "it ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    torch.save({"conv_in.weight": Evil()}, next((tmp_path / "m").glob("*.bin")))
    with pytest.raises(CheckpointError, match="plain tensors"):
        load_prior(tmp_path / "m")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), "weights cannot be loaded"),
        (
            lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 50),
            "weights cannot be loaded",
        ),
        (lambda f: (f / "unet/config.json").write_text("{"), "is not JSON"),
        (lambda f: edit(f / "unet/config.json", _class_name="NoSuchModel"), "which diffusers .* does not have"),
        (lambda f: edit(f / "unet/config.json", _class_name="UNet2DConditionModel"), "conditional"),
        (lambda f: edit(f / "unet/config.json", block_out_channels=[8, 8]), "cannot be loaded|do not fit"),
        (lambda f: edit(f / "unet/config.json", layers_per_block=2), "cannot be loaded"),
        (lambda f: edit(f / "unet/config.json", sample_size=None), "states no sample_size"),
        (lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="mystery"), "prediction_type 'mystery'"),
        (lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="NoSuchScheduler"), "no scheduler"),
        (lambda f: edit(f / "model_index.json", text_encoder=["transformers", "CLIP"]), "text-conditional"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, spoil, says):
    pipeline(tmp_path, diffusers.DDPMScheduler())
    spoil(tmp_path)
    with pytest.raises(DeftError, match=says) as error:
        load_prior(tmp_path)
    assert "\n" not in str(error.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_streams(tmp_path):
    """A sample does not depend on its batch, with an adapted model as with our own."""
    pipeline(tmp_path, diffusers.DDPMScheduler(prediction_type="sample"))
    prior = load_prior(tmp_path)
    torch.testing.assert_close(
        sample(prior, Noise(0, 3), steps=4)[2:], sample(prior, Noise(0, [2]), steps=4), atol=1e-5, rtol=1e-5
    )
