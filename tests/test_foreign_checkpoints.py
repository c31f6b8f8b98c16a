"""Other people's checkpoints: whatever a file says of its network is read, or refused, or named as a doubt; never
passed over."""

from __future__ import annotations

import functools
import json
import math
import zipfile
from itertools import pairwise

import pytest
import torch
from torch import nn

from deft import DDIM, DEFT, Gaussian, Identity, Observation, condition, sample
from deft.core.denoiser import freeze
from deft.core.grid import SPACINGS, times
from deft.denoiser import MeanDenoiser, NetworkDenoiser
from deft.denoiser.parametrisation import time_map
from deft.errors import CheckpointError, ContractError, DeftError, InputError
from deft.guidance.combine import Zero
from deft.guidance.through_prior import DPS
from deft.nn.adm import ADMConfig, ADMUNet
from deft.prior import load_prior, wrap
from deft.prior.adm import load_adm, read_states
from deft.prior.check import confirm, coupled, try_conventions, warning
from deft.prior.conventions import CONVENTIONS
from deft.prior.load import read_options
from deft.samplers import SAMPLERS
from deft.schedule import EDM, VE, RectifiedFlow, VPCosine, VPLinear, VPTable
from deft.testing import moments
from toys import refused, result, run

M, S = 0.3, 0.5
"""Mean and deviation of the normal data of the exact networks."""


def normal_mean(x, a, s):
    return M + a * S**2 / (a**2 * S**2 + s**2) * (x - a * M)


# Samplers from every end of every schedule.


def zero_snr():
    """DDPM's table rescaled to zero terminal SNR, as diffusers does it."""
    root = torch.exp(VPTable.linear().log_alpha(torch.arange(1000.0).double()))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    root[-1] = 1e-6
    abar = root**2
    return VPTable((1 - abar / torch.cat([torch.ones(1).double(), abar[:-1]])).tolist())


ENDS = {
    "linear": VPTable.linear(),
    "cosine table": CONVENTIONS["ddpm-cosine"].make()["schedule"],
    "scaled linear": CONVENTIONS["ddpm-scaled-linear"].make()["schedule"],
    "zero terminal SNR": zero_snr(),
    "cosine": VPCosine(),
    "vp": VPLinear(),
    "ve": VE(),
    "ve, far": VE(0.01, 1348.0),
    "edm": EDM(),
    "flow": RectifiedFlow(),
}
STEPS = (10, 20, 50)
# share of the deviation by which 10, 20 and 50 steps may be off: on the two grids that suit every schedule, and on any
WITHIN = {
    "ddim": ((0.21, 0.11, 0.05), (0.50, 0.30, 0.15)),
    "ancestral": ((0.36, 0.21, 0.07), (0.60, 0.45, 0.25)),
    "ito": ((0.50, 0.25, 0.10), (0.95, 0.65, 0.30)),
    "heun": ((0.08, 0.03, 0.01), (0.40, 0.16, 0.05)),
    "dpmpp-2m": ((0.06, 0.02, 0.01), (0.27, 0.20, 0.06)),
    "sde-dpmpp-2m": ((0.06, 0.06, 0.04), (0.30, 0.30, 0.10)),
    "unipc": ((0.07, 0.02, 0.01), (0.80, 0.30, 0.06)),
}
SUITED = ("angle", "centre")
EDM_QUADRATIC = (0.60, 0.60, 0.30)


def test_every_sampler_has_its_bounds():
    assert set(WITHIN) == set(SAMPLERS)


@pytest.mark.parametrize("schedule", ENDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_exact_network_ends_in_its_law(name, schedule):
    """Exact mean and deviation of what a sampler draws with the exact denoiser of N(0.3, 0.5^2), on every grid, in 10,
    20 and 50 steps."""
    prior = MeanDenoiser(normal_mean, ENDS[schedule], (1,))
    off = []
    for spacing in SPACINGS:
        for i, steps in enumerate(STEPS):
            if schedule == "edm" and spacing == "uniform":  # its t is sigma
                with pytest.raises(InputError, match=r"every sample would be a blurred mean.*give another spacing"):
                    times(ENDS[schedule], steps, spacing)
                continue
            mean, covariance = moments(prior, SAMPLERS[name](), times(ENDS[schedule], steps, spacing))
            most = WITHIN[name][spacing not in SUITED][i]
            most = max(most, EDM_QUADRATIC[i]) if (schedule, spacing) == ("edm", "quadratic") else most
            spread = float(covariance[0, 0]) ** 0.5 / S - 1
            if abs(spread) > most or abs(float(mean[0]) - M) > 0.05 * S:
                off.append(
                    f"{spacing}, {steps} steps: mean {float(mean[0]):.3f}, deviation {spread:+.2f} (within {most})"
                )
    assert not off, off


@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_in_float32(name):
    """The same as samples are drawn: from alpha = 1e-6 nothing is lost to rounding."""
    prior = MeanDenoiser(normal_mean, zero_snr(), (8,))
    for steps, spacing in ((10, "angle"), (50, "angle"), (50, "uniform"), (50, "karras")):
        x = sample(prior, 250, sampler=SAMPLERS[name](), steps=steps, spacing=spacing)
        most = WITHIN[name][spacing not in SUITED][STEPS.index(steps)]
        assert abs(float(x.mean()) - M) < 0.06 and abs(float(x.std()) / S - 1) < most + 0.05, (
            steps,
            spacing,
            float(x.mean()),
            float(x.std()),
        )


def test_a_narrow_step_is_the_published_rule():
    """Where sigma/alpha falls by less than half, Heun is Karras et al.'s algorithm 1 to rounding, and Itô's noise that
    of the SDE."""
    from deft.core.transition import ito
    from deft.samplers import Heun, Ito

    prior, grid = MeanDenoiser(normal_mean, EDM(), (1,)), times(EDM(), 40, "karras")
    x = torch.randn(5, 1).double()
    for t, s in pairwise(grid[:-1]):
        d = (x - normal_mean(x, 1.0, t.sigma)) / t.sigma
        y = x + (s.sigma - t.sigma) * d
        wanted = x + (s.sigma - t.sigma) * (d + (y - normal_mean(y, 1.0, s.sigma)) / s.sigma) / 2
        torch.testing.assert_close(Heun().step(prior, x, t, s, None, None)[0], wanted)
        assert t.sigma > 2 * s.sigma or Ito().kernel(t, s) == ito(t, s)


# Schedulers of diffusers. `diffusers` is an extra.

diffusers = pytest.importorskip("diffusers")
scheduler_module = pytest.importorskip("deft.prior.scheduler")


def said(kind, **options):
    return scheduler_module.examine({"_class_name": kind, **options})


def levels_told(scheduler, steps=10):
    """(sigma/alpha, what the network is given) at each step of a scheduler of diffusers."""
    scheduler.set_timesteps(steps)
    flow = scheduler.config.get("use_flow_sigmas") or "Flow" in type(scheduler).__name__
    found = []
    for sigma, told in zip(scheduler.sigmas.double().tolist(), scheduler.timesteps.double().tolist(), strict=False):
        share = 1 - sigma if scheduler.config.get("invert_sigmas") else sigma
        ratio = share / max(1 - share, 1e-9) if flow else sigma
        if 1e-3 < ratio < 900:
            found.append((ratio, told))
    return found


TOLD = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler, v": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
    "euler, karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler, continuous v": (
        "EulerDiscreteScheduler",
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    ),
    "euler, continuous v of SVD": (
        "EulerDiscreteScheduler",
        {
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
            "sigma_min": 0.002,
            "sigma_max": 700.0,
            "use_karras_sigmas": True,
        },
    ),
    "euler, continuous v, sigmas without karras": (
        "EulerDiscreteScheduler",
        {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0},
    ),
    "euler, continuous eps": ("EulerDiscreteScheduler", {"timestep_type": "continuous"}),
    "euler, scaled linear": (
        "EulerDiscreteScheduler",
        {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    ),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow, shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow, dynamic shift": ("FlowMatchEulerDiscreteScheduler", {"base_shift": 0.7, "max_shift": 2.0}),
    "flow of 500": ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 500}),
    "flow, inverted": ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    "flow, inverted, of 250": ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True, "num_train_timesteps": 250}),
    "flow, heun": ("FlowMatchHeunDiscreteScheduler", {"num_train_timesteps": 400, "shift": 2.0}),
    "unipc, flow sigmas": (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ),
    "dpm, flow sigmas": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
    "dpm, flow sigmas of 100": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "num_train_timesteps": 100},
    ),
    "dpm, flow sigmas, eps": ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
    "edm": ("EDMEulerScheduler", {}),
    "edm, other sigmas": ("EDMEulerScheduler", {"sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 1.0}),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_the_network_is_told(name):
    """At every step of diffusers' own scheduler, our network is told the same number at the same sigma/alpha, and is
    multiplied and read alike."""
    kind, options = TOLD[name]
    convention = said(kind, **options).convention
    asked = []
    prior = NetworkDenoiser(
        lambda x, t: asked.append(float(t[0])) or torch.zeros_like(x), event_shape=(1,), **convention
    )
    told = levels_told(getattr(diffusers, kind)(**options))
    assert len(told) >= 5
    for ratio, wanted in told:
        prior(
            torch.ones(1, 1).double(), prior.schedule.time_of(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
        )
        whole = wanted == round(wanted) and abs(wanted) > 1  # theirs are rounded, here and there down
        assert asked[-1] == pytest.approx(wanted, rel=2e-3, abs=1.0 if whole else 2e-3), ratio


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 500, "shift": 2.0}),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("FlowMatchHeunDiscreteScheduler", {}),
        (
            "EulerDiscreteScheduler",
            {
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
                "sigma_min": 0.01,
                "sigma_max": 80.0,
                "use_karras_sigmas": True,
            },
        ),
        (
            "EulerDiscreteScheduler",
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        ),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
        ("DDIMScheduler", {"prediction_type": "v_prediction", "clip_sample": False}),
    ],
)
def test_an_exact_network_of_theirs_draws_its_data_here_and_there(kind, options):
    """The same function, exact for N(0.3, 0.5^2) by the meaning diffusers gives its arguments, under their sampler and
    under ours."""
    scheduler = getattr(diffusers, kind)(**options)
    convention = said(kind, **options).convention
    schedule, output = convention["schedule"], convention["output"]

    def net(x, told):  # what diffusers hands over: x on the scheduler's own scale, and a timestep
        told = torch.as_tensor(told, dtype=torch.float64).reshape(-1, 1)
        n = scheduler.config.num_train_timesteps
        if output == "flow":
            s = told / n
        elif output == "reverse-flow":
            s = 1 - told / n
        elif options.get("timestep_type") == "continuous":
            s = torch.exp(4 * told)
            a = (1 + s**2).rsqrt()
            return a * (x - a * normal_mean(x, a, s * a)) / (s * a) - s * a * normal_mean(x, a, s * a)
        else:
            a = torch.exp(schedule.log_alpha(told))
            s = (1 - a**2).sqrt().clamp_min(1e-8)
            return a * (x - a * normal_mean(x, a, s)) / s - s * normal_mean(x, a, s)
        a = 1 - s
        mean = normal_mean(x, a, s)
        velocity = (x - a * mean) / s.clamp_min(1e-6) - mean
        return velocity if output == "flow" else -velocity

    scheduler.set_timesteps(60)
    x = torch.randn(3000, 1).double() * float(
        scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else 1.0
    )
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(scaled, float(t)).float(), t, x.float()).prev_sample.double()
    assert abs(float(x.mean()) - M) < 0.06 and abs(float(x.std()) - S) < 0.07, "the test's own network"
    ours = sample(NetworkDenoiser(net, event_shape=(4,), **convention), 500, sampler=SAMPLERS["dpmpp-2m"](), steps=40)
    assert abs(float(ours.mean()) - M) < 0.06 and abs(float(ours.std()) - S) < 0.05


TABLES = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    "sigmoid": ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
    "pndm": ("PNDMScheduler", {"beta_schedule": "scaled_linear"}),
    "trained": ("DDIMScheduler", {"trained_betas": [0.001 * (i + 1) for i in range(50)], "num_train_timesteps": 50}),
    "shorter": ("DDPMScheduler", {"num_train_timesteps": 250}),
    "cogvideo": ("CogVideoXDDIMScheduler", {"snr_shift_scale": 1.0}),
    "shift of the SNR": ("CogVideoXDPMScheduler", {"snr_shift_scale": 3.0}),
    "latent diffusion": ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}),
    "repaint": ("RePaintScheduler", {}),
    "unclip": ("UnCLIPScheduler", {}),
    "inverse": ("DDIMInverseScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {"beta_schedule": "scaled_linear"}),
    "zero SNR": ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    "zero SNR, dpm": (
        "DPMSolverMultistepScheduler",
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    kind, options = TABLES[name]
    found = said(kind, **options)
    abar = getattr(diffusers, kind)(**options).alphas_cumprod.double()
    schedule = found.convention["schedule"]
    kept = abar[:-1] if "zero" in name else abar
    ours = torch.exp(2 * schedule.log_alpha(torch.arange(len(abar), dtype=torch.float64)))
    assert len(schedule.betas) == len(abar)
    torch.testing.assert_close(ours[: len(kept)], kept, atol=1e-9, rtol=1e-6)
    assert bool((ours.diff() < 0).all()) and found.unsure == []


def test_latent_diffusions_own_table():
    """`ldm-scaled-linear` is the table of their unconditional models."""
    abar = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195
    ).alphas_cumprod.double()
    schedule = CONVENTIONS["ldm-scaled-linear"].make()["schedule"]
    torch.testing.assert_close(
        torch.exp(2 * schedule.log_alpha(torch.arange(1000.0).double())), abar, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("DDIMScheduler", {"sigma_shift": 3.0}, "sigma_shift"),
        ("DDPMScheduler", {"input_perturbation": 0.1}, "input_perturbation"),
        ("PNDMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("HeunDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type"),
        ("DDIMScheduler", {"snr_shift_scale": 3.0}, "snr_shift_scale"),
        ("DDIMScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type"),
        ("EulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("FlowMatchEulerDiscreteScheduler", {"prediction_type": "v_prediction"}, "prediction_type"),
        ("FlowMatchHeunDiscreteScheduler", {"invert_sigmas_": True}, "invert_sigmas_"),
        ("RePaintScheduler", {"prediction_type": "v_prediction"}, "prediction_type"),
        ("ScoreSdeVeScheduler", {"beta_schedule": "cosine"}, "beta_schedule"),
        ("DDIMScheduler", {"trained_betas": [0.01, 0.02, 0.03], "num_train_timesteps": 1000}, "num_train_timesteps"),
    ],
)
def test_a_key_that_is_not_read_is_a_doubt(kind, options, names):
    assert any(doubt.startswith(f"{names}: ") for doubt in said(kind, **options).unsure), said(kind, **options).unsure


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            "DDPMScheduler",
            {
                "clip_sample": True,
                "variance_type": "fixed_large",
                "timestep_values": None,
                "tensor_format": "pt",
                "timesteps": 1000,
            },
        ),
        ("DDIMScheduler", {"steps_offset": 1, "set_alpha_to_one": False, "thresholding": True, "skip_prk_steps": True}),
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 14.6, "interpolation_type": "linear"},
        ),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"shift": 3.0, "base_shift": 0.5, "max_shift": 1.15, "use_dynamic_shifting": True, "shift_terminal": 0.02},
        ),
        ("EDMDPMSolverMultistepScheduler", {"rho": 7.0, "solver_order": 2}),
        ("ScoreSdeVeScheduler", {"snr": 0.075, "sampling_eps": 1e-5, "correct_steps": 1}),
    ],
)
def test_keys_of_the_sampler_are_no_doubts(kind, options):
    assert said(kind, **options).unsure == []


def test_old_names_of_keys():
    assert said("DDPMScheduler", predict_epsilon=False).convention["output"] == "x0"
    assert said("DDPMScheduler", predict_epsilon=True).convention["output"] == "eps"
    assert said("DDPMScheduler", timesteps=300).convention["schedule"].t_max == 299
    assert [
        said("FlowMatchEulerDiscreteScheduler", num_train_timesteps=n).convention["time"] for n in (1, 1000, 2.5)
    ] == ["t", "1000t", "2.5t"]
    for wrong in (0, "x"):
        with pytest.raises(InputError, match="num_train_timesteps"):
            said("FlowMatchEulerDiscreteScheduler", num_train_timesteps=wrong)


def test_a_convention_is_all_that_is_said(plain, tmp_path):
    """What the files say of the input's scale, the range and the data's deviation does not leak into a convention given
    by name."""
    for scheduler in (diffusers.EDMEulerScheduler(), diffusers.ScoreSdeVeScheduler()):
        where = copy(plain, tmp_path / type(scheduler).__name__)
        scheduler.save_pretrained(where / "scheduler")
        prior = load_prior(where, convention="ddpm")
        assert (prior.scale_input, prior.sigma_data, prior.value_range, prior.time) == (False, 1.0, (-1.0, 1.0), "t")


REFUSED = {
    "LCMScheduler": {},
    "TCDScheduler": {},
    "CMStochasticIterativeScheduler": {},
    "FlowMatchLCMScheduler": {},
    "SCMScheduler": {},
    "FlowMapEulerDiscreteScheduler": {},
    "PiflowScheduler": {},
    "HeliosDMDScheduler": {},
    "HeliosScheduler": {},
    "IPNDMScheduler": {},
    "DDPMWuerstchenScheduler": {},
    "VQDiffusionScheduler": {"num_vec_classes": 5},
    "AmusedScheduler": {"mask_token_id": 0},
    "NoSuchScheduler": {},
    "EDMEulerScheduler": {"prediction_type": "v_prediction"},
    "DPMSolverMultistepScheduler": {"prediction_type": "flow_prediction"},
    "UniPCMultistepScheduler": {"prediction_type": "v_prediction", "use_flow_sigmas": True},
    "DDIMScheduler": {"prediction_type": "mystery"},
    "DDPMScheduler": {"beta_schedule": "mystery"},
    "PNDMScheduler": {"beta_start": "x"},
    "EulerDiscreteScheduler": {"trained_betas": "betas.npy"},
}


def unet(**options):
    torch.manual_seed(0)
    usual = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return diffusers.UNet2DModel(**(usual | options)).eval()


def vae(kind="AutoencoderKL", latent=2, **options):
    torch.manual_seed(1)
    usual = {
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": latent,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "mid_block_add_attention": False,
    }
    if kind == "VQModel":
        usual |= {"num_vq_embeddings": 16}
    return getattr(diffusers, kind)(**(usual | options)).eval()


def pipeline(where, parts, kind="DDPMPipeline", **index):
    for name, part in parts.items():
        part.save_pretrained(where / name)
    about = {"_class_name": kind, "_diffusers_version": "0.30.0"} | {
        k: ["diffusers", type(p).__name__] for k, p in parts.items()
    }
    (where / "model_index.json").write_text(json.dumps(about | index))
    return where


def edit(path, drop=(), **changes):
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in drop}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return pipeline(tmp_path_factory.mktemp("plain"), {"unet": unet(), "scheduler": diffusers.DDIMScheduler()})


@pytest.fixture(scope="module")
def latent(tmp_path_factory):
    parts = {"unet": unet(in_channels=2, out_channels=2), "vae": vae(), "scheduler": diffusers.DDIMScheduler()}
    return pipeline(tmp_path_factory.mktemp("latent"), parts, "LDMPipeline")


def copy(source, target):
    import shutil

    return shutil.copytree(source, target)


BY_HAND = {"output": "flow", "schedule": "flow", "time": "1000t"}


@pytest.mark.parametrize("kind", REFUSED)
def test_schedulers_that_cannot_be_read(kind, plain, tmp_path):
    """One line that says what to give by hand; and by hand, it works."""
    where = copy(plain, tmp_path / "p")
    (where / "scheduler/scheduler_config.json").write_text(json.dumps({"_class_name": kind, **REFUSED[kind]}))
    with pytest.raises(InputError) as error:
        load_prior(where)
    text = str(error.value)
    assert (
        "\n" not in text
        and ("by hand" in text or "discrete tokens" in text)
        and (kind in text or "prediction_type" in text)
    )
    if kind in scheduler_module.DISTILLED:
        assert "distilled" in text
    if not {"prediction_type"} & REFUSED[kind].keys():
        with pytest.raises(InputError):
            load_prior(where, output="flow")  # half of it is not enough
    prior = load_prior(where, **BY_HAND)
    assert isinstance(prior.schedule, RectifiedFlow) and prior.time == "1000t"
    assert {"prediction_type"} & REFUSED[kind].keys() or any("passed over" in doubt for doubt in prior.card["unsure"])


@pytest.mark.parametrize(
    "kind",
    [
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "DDPMScheduler",
    ],
)
def test_eps_at_zero_terminal_snr(kind):
    """x̂ = (x - sigma eps)/alpha has no answer at alpha = 0: the table is cut, and the doubt says so; with v it is
    whole."""
    found = said(kind, rescale_betas_zero_snr=True)
    schedule = found.convention["schedule"]
    assert float((-schedule.log_snr(torch.tensor(schedule.t_max)) / 2).exp()) <= 200
    assert any("zero terminal SNR" in doubt and "v" in doubt for doubt in found.unsure)
    assert (
        len(said(kind, rescale_betas_zero_snr=True, prediction_type="v_prediction").convention["schedule"].betas)
        == 1000
    )

    def eps(x, t):
        a = torch.exp(schedule.log_alpha(t.double())).to(x).reshape(-1, 1)
        s = (1 - a**2).sqrt()
        return 0.99 * (x - a * normal_mean(x, a, s)) / s

    for steps in (10, 50):
        x = sample(NetworkDenoiser(eps, event_shape=(4,), **found.convention), 400, steps=steps)
        assert abs(float(x.std()) / S - 1) < 0.3 and abs(float(x.mean()) - M) < 0.08


def test_the_kind_of_output_given_by_hand_decides(plain, tmp_path):
    where = copy(plain, tmp_path / "p")
    edit(where / "scheduler/scheduler_config.json", rescale_betas_zero_snr=True)
    assert len(load_prior(where).schedule.betas) < 1000
    prior = load_prior(where, output="v")
    assert len(prior.schedule.betas) == 1000 and not any("zero terminal" in doubt for doubt in prior.card["unsure"])


# Folders.


def flat(where, **options):
    """As the published google/ddpm-* are: every file beside the others."""
    net = unet(**options.pop("net", {}))
    net.save_pretrained(where, **options)
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large")
    scheduler.save_pretrained(where)
    (where / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "DDPMPipeline",
                "_diffusers_version": "0.0.4",
                "scheduler": ["diffusers", "DDPMScheduler"],
                "unet": ["diffusers", "UNet2DModel"],
            }
        )
    )
    return net


@pytest.mark.parametrize(
    "options", [{}, {"safe_serialization": False}, {"variant": "fp16"}], ids=["safetensors", "bin", "fp16"]
)
def test_flat_pipelines(tmp_path, options):
    net = flat(tmp_path, **options)
    prior = load_prior(tmp_path, **({"variant": "fp16"} if "variant" in options else {}))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            prior(x, torch.tensor(500.0)).eps,
            net(x, 500).sample,
            atol=2e-2 if "variant" in options else 1e-4,
            rtol=1e-2,
        )
    assert prior.card["scheduler"] == "DDPMScheduler"
    if "variant" in options:
        with pytest.raises(CheckpointError, match=r"fp16\.safetensors alone: give variant=fp16"):
            load_prior(tmp_path)


def test_flat_ve_and_flat_with_an_autoencoder(tmp_path):
    flat(tmp_path / "ve", net={"time_embedding_type": "fourier"})
    (tmp_path / "ve/scheduler_config.json").unlink()
    diffusers.ScoreSdeVeScheduler().save_pretrained(tmp_path / "ve")
    prior = load_prior(tmp_path / "ve")
    assert prior.output == "score" and prior.time == "sigma" and prior.value_range == (0.0, 1.0)
    flat(tmp_path / "ldm", net={"in_channels": 2, "out_channels": 2})
    vae().save_pretrained(tmp_path / "ldm/vqvae")
    assert load_prior(tmp_path / "ldm").data_shape == (1, 16, 16)


def test_flat_without_its_scheduler_or_weights(tmp_path):
    flat(tmp_path / "a")
    (tmp_path / "a/scheduler_config.json").unlink()
    with pytest.raises(InputError, match=r"no scheduler_config\.json.*by hand"):
        load_prior(tmp_path / "a")
    assert load_prior(tmp_path / "a", convention="ddpm").event_shape == (1, 8, 8)
    assert {"output: not given, eps is taken", "time: not given, the schedule's own t is taken"} <= set(
        load_prior(tmp_path / "a", schedule="vp-table").card["unsure"]
    )
    flat(tmp_path / "b")
    (tmp_path / "b/config.json").unlink()
    with pytest.raises(CheckpointError, match="the download is not complete"):
        load_prior(tmp_path / "b")
    flat(tmp_path / "c")
    (tmp_path / "c/diffusion_pytorch_model.safetensors").rename(tmp_path / "c/diffusion_flax_model.msgpack")
    with pytest.raises(CheckpointError, match=r"weights cannot be loaded.*diffusion_flax_model\.msgpack"):
        load_prior(tmp_path / "c")


def test_parts_under_other_names(tmp_path, plain):
    two = pipeline(tmp_path / "two", {"unet": unet(), "transformer": unet(), "scheduler": diffusers.DDIMScheduler()})
    with pytest.raises(InputError, match="holds several models"):
        load_prior(two)
    text = copy(plain, tmp_path / "text")
    edit(text / "model_index.json", tokenizer=["transformers", "T5Tokenizer"])
    with pytest.raises(InputError, match=r"text-conditional.*FILE\.py:FUNCTION"):
        load_prior(text)
    edit(text / "model_index.json", tokenizer=[None, None], text_encoder=[None, None])
    assert load_prior(text).event_shape == (1, 8, 8)
    averaged = copy(plain, tmp_path / "ema")
    unet().save_pretrained(averaged / "unet_ema")
    assert any("unet_ema/ is there as well" in doubt for doubt in load_prior(averaged).card["unsure"])
    (averaged / "model_index.json").unlink()  # a checkpoint of a training script
    assert load_prior(averaged).event_shape == (1, 8, 8)


@pytest.mark.parametrize(
    "name", ["vae", "vqvae", "movq", "vqgan", "first_stage", "first_stage_model", "autoencoder", "image_codec"]
)
def test_autoencoders_in_folders_of_any_name(tmp_path, latent, name):
    where = copy(latent, tmp_path / "p")
    (where / "vae").rename(where / name)
    edit(where / "model_index.json", drop=("vae",), **{name: ["diffusers", "AutoencoderKL"]})
    prior = load_prior(where)
    assert (prior.event_shape, prior.data_shape) == ((2, 8, 8), (1, 16, 16))


def test_a_model_of_latents_by_its_own_folder(latent):
    """Without its autoencoder its samples are latents, and that is said."""
    prior = load_prior(latent / "unet")
    assert prior.data_shape == (2, 8, 8) and any("its samples are latents" in doubt for doubt in prior.card["unsure"])


STATISTICS = {
    "factor": ({"scaling_factor": 0.5}, 0.5, 0.0, ""),
    "factor and shift": ({"scaling_factor": 0.5, "shift_factor": 0.2}, 0.5, 0.2, ""),
    "mean and std": (
        {"scaling_factor": 0.5, "latents_mean": [0.1, -0.2], "latents_std": [2.0, 4.0]},
        [0.25, 0.125],
        [0.1, -0.2],
        "latents_mean and latents_std",
    ),
    "std alone": (
        {"scaling_factor": 1.0, "latents_std": [2.0, 4.0]},
        [0.5, 0.25],
        [0.0, 0.0],
        "latents_mean and latents_std",
    ),
    "mean beside shift": (
        {"scaling_factor": 1.0, "latents_mean": [0.1, -0.2], "shift_factor": 0.5},
        [1.0, 1.0],
        [0.1, -0.2],
        "shift_factor",
    ),
    "one number": (
        {"scaling_factor": 0.5, "latents_mean": [0.1], "latents_std": [2.0]},
        [0.25, 0.25],
        [0.1, 0.1],
        "latents_mean",
    ),
    "nothing": ({}, 0.18215, 0.0, "states no scaling_factor; 0.18215 is taken"),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_latents(name, tmp_path, latent):
    stated, scale, shift, doubt = STATISTICS[name]
    where = copy(latent, tmp_path / "p")
    edit(where / "vae/config.json", drop=("scaling_factor", "latents_mean", "latents_std", "shift_factor"))
    edit(where / "vae/config.json", **stated)
    prior, model = load_prior(where), vae()
    scale, shift = (torch.tensor(v).reshape(1, -1, 1, 1) if isinstance(v, list) else v for v in (scale, shift))
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        z = (model.encode(x).latent_dist.mode() - shift) * scale
        torch.testing.assert_close(prior.encode(x), z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(prior.decode(z), model.decode(z / scale + shift).sample, atol=1e-5, rtol=1e-5)
    assert any(doubt in d for d in prior.card["unsure"]) if doubt else prior.card["unsure"] == []


def test_statistics_of_latents_are_overruled(tmp_path, latent):
    where = copy(latent, tmp_path / "p")
    edit(where / "vae/config.json", drop=("scaling_factor",))
    for scale, shift in ((2.0, 0.5), ((2.0, 3.0), (0.5, 0.1))):
        prior = load_prior(where, latent_scale=scale, latent_shift=shift)
        a, b = (torch.as_tensor(v).reshape(1, -1, 1, 1) for v in (scale, shift))
        x = torch.randn(2, 1, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(
                prior.encode(x), a * (vae().encode(x).latent_dist.mode() - b), atol=1e-5, rtol=1e-5
            )
        assert not any("scaling_factor" in doubt for doubt in prior.card["unsure"])
        assert prior.fingerprint() != load_prior(where).fingerprint()
    with pytest.raises(InputError, match="latent_scale has 3 numbers, the latents have 2 channels"):
        load_prior(where, latent_scale=(1, 2, 3))
    with pytest.raises(InputError, match="scale of the latents must be above 0"):
        load_prior(where, latent_scale=-1)


def test_statistics_that_make_no_sense(tmp_path, latent, plain):
    for change, says in (
        ({"latents_mean": [0.1, 0.2, 0.3]}, "latents_mean has 3 numbers"),
        ({"latents_std": [1.0, 0.0]}, "latents_std must be above 0"),
        ({"scaling_factor": 0}, "above 0"),
        ({"scaling_factor": "x"}, "scaling_factor is 'x'"),
    ):
        where = copy(latent, tmp_path / says[:12])
        edit(where / "vae/config.json", **change)
        with pytest.raises(DeftError, match=says):
            load_prior(where)
    with pytest.raises(InputError, match="has no autoencoder"):
        load_prior(plain, latent_scale=2.0)


def test_statistics_stated_elsewhere(tmp_path, latent):
    where = copy(latent, tmp_path / "p")
    edit(where / "vae/config.json", drop=("scaling_factor",))
    edit(where / "model_index.json", scaling_factor=0.25)
    prior = load_prior(where)
    assert prior.autoencoder.scale == 0.25 and any(
        "taken from" in doubt and "model_index.json" in doubt for doubt in prior.card["unsure"]
    )


def test_an_autoencoder_for_other_latents(tmp_path):
    parts = {"unet": unet(in_channels=3, out_channels=3), "vae": vae(), "scheduler": diffusers.DDIMScheduler()}
    with pytest.raises(CheckpointError, match=r"AutoencoderKL\) does not decode latents of shape \(3, 8, 8\)"):
        load_prior(pipeline(tmp_path, parts, "LDMPipeline"))


def test_a_quantised_autoencoder(tmp_path):
    parts = {
        "unet": unet(in_channels=2, out_channels=2),
        "vqvae": vae("VQModel", scaling_factor=0.5),
        "scheduler": diffusers.DDIMScheduler(),
    }
    prior = load_prior(pipeline(tmp_path, parts, "LDMPipeline"))
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(prior.encode(x), 0.5 * parts["vqvae"].encode(x).latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("half", [("unet", "vae"), ("unet",), ("vae",)], ids=str)
def test_variants(tmp_path, latent, half):
    """variant=fp16 is for every part that has such files; without it, the files that are there are named."""
    where = copy(latent, tmp_path / "p")
    for name, part in (("unet", unet(in_channels=2, out_channels=2)), ("vae", vae())):
        if name in half:
            (where / name / "diffusion_pytorch_model.safetensors").unlink()
            part.half().save_pretrained(where / name, variant="fp16")
    prior = load_prior(where, variant="fp16")
    z = prior.encode(torch.randn(2, 1, 16, 16))
    assert z.dtype == torch.float32 and prior.decode(z).shape == (2, 1, 16, 16)
    assert any("no files of the variant fp16" in doubt for doubt in prior.card["unsure"]) == (len(half) == 1)
    with pytest.raises(
        CheckpointError, match=r"holds diffusion_pytorch_model\.fp16\.safetensors alone: give variant=fp16"
    ):
        load_prior(where)


def test_averaged_files_beside_the_plain_ones(tmp_path, plain):
    where = copy(plain, tmp_path / "p")
    unet(sample_size=8).save_pretrained(where / "unet", variant="ema")
    assert any("variant ema" in doubt for doubt in load_prior(where).card["unsure"])
    assert not any("variant ema" in doubt for doubt in load_prior(where, variant="ema").card["unsure"])


# Networks that want more, and classes.


def dit(**options):
    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 1,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 10,
    }
    return diffusers.DiTTransformer2DModel(**(usual | options)).eval()


def line(**options):
    usual = {
        "sample_size": 64,
        "in_channels": 2,
        "out_channels": 2,
        "time_embedding_type": "positional",
        "use_timestep_embedding": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1.0,
        "down_block_types": ("DownResnetBlock1D", "DownResnetBlock1D"),
        "up_block_types": ("UpResnetBlock1D",),
        "mid_block_type": "MidResTemporalBlock1D",
        "out_block_type": "OutConv1DBlock",
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "act_fn": "mish",
    }
    return diffusers.UNet1DModel(**(usual | options)).eval()


WANT_MORE = {
    "6 channels in, 3 out": lambda: unet(in_channels=6, out_channels=3),
    "2 channels in, 1 out": lambda: unet(in_channels=2, out_channels=1),
    "SD3": lambda: diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=12,
        pooled_projection_dim=12,
        pos_embed_max_size=8,
    ),
    "PixArt": lambda: diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        cross_attention_dim=16,
        caption_channels=12,
    ),
    "classes that are vectors": lambda: unet(class_embed_type="identity"),
    "a UNet of volumes": lambda: diffusers.UNet3DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock3D",) * 2,
        up_block_types=("UpBlock3D",) * 2,
    ),
    "text in a UNet": lambda: diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ),
}


@pytest.mark.parametrize("name", WANT_MORE)
def test_networks_that_want_more(name, tmp_path):
    part = "transformer" if name in ("SD3", "PixArt") else "unet"
    where = pipeline(tmp_path, {part: WANT_MORE[name](), "scheduler": diffusers.DDIMScheduler()})
    with pytest.raises(InputError, match="wants more than x_t and t") as error:
        load_prior(where)
    assert "\n" not in str(error.value)


def test_shapes(tmp_path, plain):
    where = pipeline(tmp_path / "line", {"unet": line(), "scheduler": diffusers.DDPMScheduler()})
    assert load_prior(where).event_shape == (2, 64) and sample(
        load_prior(where, event_shape=(2, 32)), 2, steps=2
    ).shape == (2, 2, 32)
    assert load_prior(plain, event_shape=(1, 8, 16)).event_shape == (1, 8, 16)
    with pytest.raises(InputError, match=r"one trial pass on x_t of shape.*event_shape=C,H,W"):
        load_prior(plain, event_shape=(1, 8))
    with pytest.raises(InputError, match=r"has 1 channels, event_shape=3,8,8 has 3: give event_shape=1,8,8"):
        load_prior(plain, event_shape=(3, 8, 8))
    with pytest.raises(InputError, match="has 1 channels"):
        load_prior(plain, learned_variance=True, event_shape=(2, 8, 8))


def test_the_class_for_none(tmp_path):
    """DiT has a row more than classes; a table of 1001 has one, too; a table of 5 has none that anything says."""
    where = pipeline(tmp_path / "dit", {"transformer": dit(), "scheduler": diffusers.DDIMScheduler()}, "DiTPipeline")
    with pytest.raises(
        InputError, match=r"from 0 to 9 \(got None\); label=none \(class 10\) is the unconditional prior"
    ):
        load_prior(where)
    none = load_prior(where, label="none")
    assert none.fingerprint() == load_prior(where, label=10).fingerprint() != load_prior(where, label=3).fingerprint()
    assert any("stands for none" in doubt for doubt in none.card["unsure"]) and none.card["label"] == 10
    with pytest.raises(InputError, match="got 11"):
        load_prior(where, label=11)
    few = pipeline(tmp_path / "few", {"unet": unet(num_class_embeds=5), "scheduler": diffusers.DDIMScheduler()})
    with pytest.raises(InputError, match=r"nothing says that one of them stands for none.*give its number"):
        load_prior(few, label="none")
    with pytest.raises(InputError, match="from 0 to 4"):
        load_prior(few, label=5)
    many = pipeline(tmp_path / "many", {"unet": unet(num_class_embeds=1001), "scheduler": diffusers.DDIMScheduler()})
    assert load_prior(many, label="none").card["label"] == 1000


def test_a_label_for_a_model_without_classes(plain):
    for label in (0, 3, "none"):
        with pytest.raises(InputError, match="takes no class"):
            load_prior(plain, label=label)


# guided-diffusion's files.


TINY = ADMConfig(
    image_size=16, num_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions="8", num_heads=2
)


def adm(config=TINY, seed=0):
    torch.manual_seed(seed)
    net = ADMUNet(config).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    return net.state_dict()


W, RAW = adm(), adm(seed=1)


def prefixed(prefix, state=W):
    return {prefix + k: v for k, v in state.items()}


def inside(name, state=W):
    """A wrapper's name in the middle of every name."""
    return {k.replace(".", f".{name}", 1): v for k, v in state.items()}


LAYOUTS = {  # what is in the file, and the place that is taken
    "plain": (W, ""),
    "DataParallel": (prefixed("module."), ""),
    "compiled": (prefixed("_orig_mod."), ""),
    "FSDP": (prefixed("_fsdp_wrapped_module."), ""),
    "FSDP, every block": (prefixed("_fsdp_wrapped_module.", inside("_fsdp_wrapped_module.")), ""),
    "checkpointed blocks": (inside("_checkpoint_wrapped_module."), ""),
    "compiled in DataParallel": (prefixed("module._orig_mod."), ""),
    "ema beside model": ({"ema": W, "model": RAW}, "ema"),
    "model before ema": ({"model": RAW, "ema": W}, "ema"),
    "model_ema": ({"model": RAW, "model_ema": W, "step": 3}, "model_ema"),
    "ema of DataParallel": ({"model": RAW, "ema": prefixed("module.")}, "ema"),
    "ema with a shadow": ({"model": RAW, "ema": {"shadow": W, "decay": 0.999}}, "ema/shadow"),
    "ema as a list of tensors": (
        {"model": RAW, "ema": {"shadow_params": list(W.values()), "decay": 0.999}},
        "ema/shadow_params",
    ),
    "ema as a list of other tensors": ({"model": W, "ema": {"shadow_params": list(RAW.values())[1:]}}, "model"),
    "ema that is no network": ({"model": W, "ema": {"decay": 0.999}}, "model"),
    "ema of another network": ({"model": W, "ema": {"conv.weight": torch.zeros(3)}}, "model"),
    "model_state_dict": (
        {"model_state_dict": W, "optimizer_state_dict": {"state": {}}, "epoch": 2},
        "model_state_dict",
    ),
    "net": ({"net": W, "cur_nimg": 10}, "net"),
    "params_ema": ({"params": RAW, "params_ema": W}, "params_ema"),
    "swa": ({"module": RAW, "swa_model": prefixed("module.") | {"n_averaged": torch.tensor(4)}}, "swa_model"),
    "Lightning": ({"state_dict": prefixed("model."), "epoch": 1, "hyper_parameters": {}}, "state_dict"),
    "Lightning with ema_model": (
        {"state_dict": prefixed("model.", RAW) | prefixed("ema_model."), "epoch": 1},
        "state_dict/ema_model.",
    ),
    "Lightning, denoiser": (
        {"state_dict": prefixed("denoiser.unet.") | {"loss.scale": torch.ones(1)}},
        "state_dict/denoiser.unet.",
    ),
    "ema_pytorch": (
        {
            "step": 10,
            "model": prefixed("model.", RAW),
            "ema": {
                **prefixed("online_model.model.", RAW),
                **prefixed("ema_model.model."),
                "initted": torch.tensor(True),
            },
        },
        "ema/ema_model.model.",
    ),
    "state within state": ({"state": {"trainer": {"model": W}}}, "state/trainer/model"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_training_states(name, tmp_path):
    whole, place = LAYOUTS[name]
    torch.save(whole, tmp_path / "x.pt")
    found = read_states(tmp_path / "x.pt")
    assert found[0].where == place and found[0].state.keys() == W.keys()
    assert all(torch.equal(found[0].state[k], v) for k, v in W.items()), "another network was taken"
    prior = load_prior(tmp_path / "x.pt")
    assert prior.card.get("weights", "") == place
    several = len(found) > 1
    assert any(doubt.startswith("weights: ") and place in doubt for doubt in prior.card["unsure"]) == several


def test_which_of_several_networks(tmp_path):
    torch.save({"model": RAW, "ema": W}, tmp_path / "x.pt")
    raw = load_prior(tmp_path / "x.pt", weights="model")
    assert raw.card["weights"] == "model" and raw.fingerprint() != load_prior(tmp_path / "x.pt").fingerprint()
    with pytest.raises(InputError, match=r"unknown weights 'emma' in x\.pt: did you mean 'ema'"):
        load_prior(tmp_path / "x.pt", weights="emma")
    torch.save({"student": W, "teacher": RAW}, tmp_path / "y.pt")
    with pytest.raises(CheckpointError, match=r"several networks that differ \(student, teacher\).*weights=student"):
        load_prior(tmp_path / "y.pt")
    assert load_prior(tmp_path / "y.pt", weights="teacher").card["weights"] == "teacher"
    torch.save({"a": W, "b": W}, tmp_path / "z.pt")
    assert load_prior(tmp_path / "z.pt").card["weights"] == "a"


def test_a_table_of_betas_in_the_file_is_the_schedule(tmp_path):
    betas = torch.linspace(2e-4, 1e-2, 400).double()
    torch.save({"model": prefixed("model.") | {"betas": betas, "alphas_cumprod": betas}}, tmp_path / "x.pt")
    prior = load_prior(tmp_path / "x.pt")
    torch.testing.assert_close(prior.schedule.betas, betas)
    assert not any("noise schedule" in doubt for doubt in prior.card["unsure"])
    assert load_prior(tmp_path / "x.pt", schedule="vp-table").schedule.t_max == 999


@pytest.mark.parametrize(
    "state",
    [
        {
            "state_dict": (
                prefixed("model.diffusion_model.")
                | {
                    "betas": torch.rand(1000),
                    "first_stage_model.encoder.conv_in.weight": torch.rand(3, 3),
                }
            )
        },
        {"state_dict": {"first_stage_model.decoder.conv_out.weight": torch.rand(3)} | prefixed("unet.")},
        prefixed("model.diffusion_model."),
        {"module": prefixed("module.model.diffusion_model.")},
    ],
)
def test_latent_diffusions_own_files(state, tmp_path):
    torch.save(state, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"is of latent-diffusion.*FILE\.py:FUNCTION"):
        load_prior(tmp_path / "x.ckpt")


def test_weights_of_diffusers_by_their_file(tmp_path):
    torch.save(unet().state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(
        InputError,
        match=r"a model of diffusers .* in the file itself; it needs its config\.json and its scheduler",
    ):
        load_prior(tmp_path / "diffusion_pytorch_model.bin")


def test_safetensors_of_another_library(tmp_path):
    from safetensors.torch import save_file

    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(3, 3)}, tmp_path / "flux.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"of another library.*give the folder, with its config\.json; else give FILE\.py:FUNCTION",
    ):
        load_prior(tmp_path / "flux.safetensors")
    save_file(prefixed("model.diffusion_model."), tmp_path / "sd.safetensors")
    with pytest.raises(CheckpointError, match="is of latent-diffusion"):
        load_prior(tmp_path / "sd.safetensors")
    save_file(prefixed("ema_model."), tmp_path / "ema.safetensors")
    assert load_prior(tmp_path / "ema.safetensors").card["weights"] == "ema_model."


def test_sides_of_guided_diffusion(tmp_path):
    torch.save(W, tmp_path / "x.pt")
    prior = load_prior(tmp_path / "x.pt", sides=(16, 24))
    assert prior.event_shape == (3, 16, 24) and sample(prior, 1, steps=2).shape == (1, 3, 16, 24)
    assert prior.reread(output="v").event_shape == (3, 16, 24)
    assert load_prior(tmp_path / "x.pt", event_shape=(3, 16, 24)).fingerprint() == prior.fingerprint()
    with pytest.raises(InputError, match=r"multiples of 2, got 17.*sides=HEIGHT,WIDTH"):
        load_prior(tmp_path / "x.pt", image_size=17, attention_resolutions=(8,))
    with pytest.raises(InputError, match="sides=HEIGHT,WIDTH"):
        load_prior(tmp_path / "x.pt", image_size=(16, 24))


def test_the_class_for_none_of_guided_diffusion(tmp_path):
    from dataclasses import replace

    for rows, none in ((11, 10), (5, None)):
        path = tmp_path / f"{rows}.pt"
        torch.save(adm(replace(TINY, class_cond=True, num_classes=rows)), path)
        if none is None:
            with pytest.raises(InputError, match="do not say that one of them stands for none"):
                load_prior(path, label="none")
        else:
            assert load_prior(path, label="none").card["label"] == none
            with pytest.raises(InputError, match=r"or label=none for the unconditional prior \(class 10\)"):
                load_prior(path)


# Files of other kinds.


def onnx(path):
    path.write_bytes(b"\x08\x07\x12\x07pytorch")


def scripted(path):
    torch.jit.trace(Plain(), (torch.randn(2, 3, 16, 16), torch.rand(2))).save(str(path))


def exported(path):
    torch.export.save(program(), path)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t):
        return self.conv(x) * torch.cos(t / 1000).reshape(-1, 1, 1, 1)


@functools.cache
def program():
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=256)
    return torch.export.export(
        Plain().eval(), (torch.randn(2, 3, 16, 16), torch.rand(2)), dynamic_shapes=({0: batch}, {0: batch})
    )


def zipped(path):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("readme.txt", "no network")


NAMED = {
    "net.pt": (scripted, "TorchScript"),
    "net.ckpt": (scripted, "TorchScript"),
    "net.pth": (scripted, "TorchScript"),
    "traced.bin": (scripted, "TorchScript"),
    "net.pt2": (exported, "torch.export"),
    "graph.pt": (lambda p: exported(p.with_suffix(".pt2")) or p.with_suffix(".pt2").rename(p), "torch.export"),
    "net.onnx": (onnx, "ONNX"),
    "net.gguf": (lambda p: p.write_bytes(b"GGUF\x03\x00\x00\x00"), "GGUF"),
    "q4.bin": (lambda p: p.write_bytes(b"GGUF\x03\x00\x00\x00"), "GGUF"),
    "net.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5"),
    "net.keras": (zipped, "Keras"),
    "net.msgpack": (lambda p: p.write_bytes(b"\x82\xa6"), "Flax"),
    "net.tflite": (lambda p: p.write_bytes(b"\x1c\x00\x00\x00TFL3"), "TensorFlow"),
    "net.pkl": (lambda p: p.write_bytes(b"\x80\x04N."), "pickle"),
    "net.npz": (zipped, "arrays"),
    "net.zip": (zipped, "no prior that is known"),
}


@pytest.mark.parametrize("name", NAMED)
def test_files_are_named_for_what_they_are(name, tmp_path, capsys):
    make, what = NAMED[name]
    make(tmp_path / name)
    says = refused(capsys, "prior", "inspect", tmp_path / name)
    assert what in says and "FILE.py:FUNCTION" in says and "truncated" not in says


# Graphs, and EDM's networks.


GRAPHS = {
    "scripted": lambda: torch.jit.trace(Plain().eval(), (torch.randn(2, 3, 16, 16), torch.rand(2))),
    "exported": lambda: program().module(),
    "inside another module": lambda: Holder(program().module()),
    "in a function": lambda: lambda x, t: program().module()(x, t),
}


class Holder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.dropout = inner, nn.Dropout(0.5)

    def forward(self, x, t):
        return self.dropout(self.inner(x, t))


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_networks(name):
    """wrap, freeze, sample, fingerprint, reread, and an h without the prior's gradient: whatever docs/add-a-prior.md
    promises."""
    prior = wrap(GRAPHS[name](), (3, 16, 16), "ddpm")
    assert sample(prior, 3, steps=2).shape == (3, 3, 16, 16)
    assert freeze(prior.train()) is prior and not prior.training and not any(m.training for m in prior.modules())
    assert prior.reread(output="v").output == "v" and len(prior.fingerprint()) == 64
    obs = Observation(torch.zeros(2, 3, 16, 16), Gaussian(Identity(), 0.5))
    for h in (Zero(), DEFT((3, 16, 16), 1, 8)):
        assert sample(condition(prior, h, obs), 2, steps=2).shape == (2, 3, 16, 16)


def test_a_network_without_gradients_says_so():
    plain = Plain().eval()

    def remote(x, t):
        with torch.no_grad():
            return plain(x, t)

    obs = Observation(torch.zeros(2, 3, 16, 16), Gaussian(Identity(), 0.5))
    with pytest.raises(ContractError, match="cut off from x_t; use a method with needs_graph = False"):
        condition(wrap(remote, (3, 16, 16), "ddpm"), DPS(0.3), obs)


class Inner(nn.Module):
    """EDM's inner networks: F(x, noise_labels, class_labels, augment_labels=None), class_labels one-hot or None."""

    def __init__(self, classes=0):
        super().__init__()
        self.map_label = nn.Linear(classes, 4, bias=False) if classes else None
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, noise_labels, class_labels, augment_labels=None):
        if self.map_label is not None:
            assert class_labels.shape == (len(x), self.map_label.in_features)
            x = x + self.map_label(class_labels).sum(1).reshape(-1, 1, 1, 1)
        else:
            assert class_labels is None
        return self.scale * x * noise_labels.reshape(-1, 1, 1, 1)


class Precond(nn.Module):
    """EDM's preconditioned network: D(x, sigma, class_labels=None)."""

    def __init__(self, classes=0):
        super().__init__()
        self.label_dim, self.sigma_min, self.sigma_max, self.sigma_data, self.model = (
            classes,
            0,
            float("inf"),
            0.5,
            Inner(classes),
        )

    def forward(self, x, sigma, class_labels=None, force_fp32=False):
        sigma = sigma.reshape(-1, 1, 1, 1)
        if self.label_dim and class_labels is None:
            class_labels = torch.zeros(1, self.label_dim).expand(len(x), -1)
        c_skip, c_out, c_in = (
            0.25 / (sigma**2 + 0.25),
            sigma * 0.5 / (sigma**2 + 0.25).sqrt(),
            1 / (0.25 + sigma**2).sqrt(),
        )
        return c_skip * x + c_out * self.model(c_in * x, (sigma.log() / 4).flatten(), class_labels)

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)


@pytest.mark.parametrize(("classes", "label"), [(0, None), (4, None), (4, 2)])
def test_edms_networks(classes, label):
    """The whole and the inner network are the same prior, without a class and with one."""
    torch.manual_seed(0)
    net = Precond(classes).eval()
    whole, inner = wrap(net, (3, 8, 8), "edm-denoiser", label=label), wrap(net.model, (3, 8, 8), "edm", label=label)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor(1.7)
    code = None if label is None else nn.functional.one_hot(torch.tensor([label, label]), classes).float()
    with torch.no_grad():
        wanted = net(x, sigma.expand(2), code)
        torch.testing.assert_close(whole(x, sigma).mean, wanted)
        torch.testing.assert_close(inner(x, sigma).mean, wanted)
    assert bool(torch.isfinite(sample(inner, 2, steps=3)).all())


def test_edms_networks_read_wrongly():
    for convention in ("ddpm", "edm", "score-sde-ve"):
        with pytest.raises(InputError, match=r"has round_sigma.*'edm-denoiser'.*net\.model, is read as 'edm'"):
            wrap(Precond(), (3, 8, 8), convention)
    assert wrap(Precond(), (3, 8, 8), "edm", output="x0", time="sigma", scale_input=False).output == "x0"
    with pytest.raises(InputError, match="has none"):
        wrap(Precond(), (3, 8, 8), "edm-denoiser", label=1)
    with pytest.raises(InputError, match="this network has 4 classes, give 0 to 3"):
        wrap(Precond(4), (3, 8, 8), "edm-denoiser", label=4)
    with pytest.raises(InputError, match="has none"):
        wrap(Plain(), (3, 16, 16), "ddpm", label=1)


def test_a_function_whose_network_wants_more(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from deft.prior import wrap\n\n\ndef make():\n    return wrap(lambda x, t, prompt: x, (1, 8, 8), 'ddpm')\n\n\n"
        "def narrow():\n    return wrap(lambda x, t: x[:, :1], (3, 8, 8), 'edm-denoiser')\n"
    )
    assert "wants more than x_t and t" in refused(capsys, "prior", "inspect", f"{tmp_path}/mine.py:make")
    assert "returns (1, 1, 8, 8) for x_t of shape (1, 3, 8, 8)" in refused(
        capsys, "prior", "inspect", f"{tmp_path}/mine.py:narrow"
    )


# Velocities learned on a coupling.


def octave_field(side=16):
    f = torch.fft.fftfreq(side)
    power = 1 / (1 + ((f[:, None] ** 2 + f[None] ** 2).sqrt() / 0.08) ** 3)
    return power / power.mean() * 0.25


POWER = octave_field()


def filtered(x, h):
    return torch.fft.ifft2(torch.fft.fft2(x) * h).real


def pictures(n, seed=1):
    return M + filtered(torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed)), POWER.sqrt())


def on_coupling(x, t):
    """E[n - x_0 | x_t] where x_0 = m + C^(1/2) n, the optimal transport of noise to a Gaussian field; reflow of its own
    ODE is the same."""
    t = t.reshape(-1, 1, 1, 1)
    n = filtered(x - (1 - t) * M, 1 / ((1 - t) * POWER.sqrt() + t))
    return n - M - filtered(n, POWER.sqrt())


def on_independent_pairs(x, t):
    t = t.reshape(-1, 1, 1, 1)
    a, rest = 1 - t, x - (1 - t) * M
    spread = a**2 * POWER + t**2
    return filtered(rest, t / spread) - M - filtered(rest, a * POWER / spread)


def test_the_coupled_velocity_draws_the_data_and_denoises_badly():
    """What makes the case: its ODE is exact, its x̂ is not."""
    prior = wrap(on_coupling, (1, 16, 16), "rectified-flow")
    x = sample(prior, 200, sampler=DDIM(0.0), steps=20)
    assert float(x.mean()) == pytest.approx(M, abs=0.05) and float(x.std()) == pytest.approx(0.5, abs=0.05)
    assert (
        confirm(prior, pictures(64)).worst
        > 1.25
        > 1.1
        > confirm(wrap(on_independent_pairs, (1, 16, 16), "rectified-flow"), pictures(64)).worst
    )


@pytest.mark.parametrize("images", [8, 16, 48])
@pytest.mark.parametrize(
    ("velocity", "convention", "right"),
    [
        (on_coupling, "rectified-flow", True),
        (lambda x, t: -on_coupling(x, 1 - t), "flow-matching", True),
        (lambda x, t: on_coupling(x, t / 1000), "flow-1000", True),
        (lambda x, t: 0.6 * on_coupling(x, t) + 0.4 * on_independent_pairs(x, t), "rectified-flow", True),
        (on_independent_pairs, "rectified-flow", False),
        (lambda x, t: -on_independent_pairs(x, 1 - t), "flow-matching", False),
        (on_independent_pairs, "flow-matching", False),
        (on_coupling, "flow-1000", False),
        (lambda x, t: 0 * x, "rectified-flow", False),
        (lambda x, t: x, "rectified-flow", False),
    ],
)
def test_couplings_are_recognised(velocity, convention, right, images):
    prior = wrap(velocity, (1, 16, 16), convention)
    assert coupled(prior, pictures(images)) == confirm(prior, pictures(images)).coupled == right


def test_the_check_of_a_coupled_velocity_advises_no_other_convention():
    x = pictures(16)
    verdict = try_conventions(wrap(on_coupling, (1, 16, 16), "rectified-flow"), x, levels=(0.3, 1.5, 4.0))
    assert verdict.taken.coupled and verdict.best is verdict.taken and not verdict.confirmed
    assert "coupling" in verdict.text and "too narrow" in verdict.text and "--prior-option" not in verdict.text
    assert "coupling" in warning(wrap(on_coupling, (1, 16, 16), "rectified-flow"), x)
    wrong = try_conventions(wrap(on_coupling, (1, 16, 16), "flow-matching"), x, levels=(0.3, 1.5, 4.0))
    assert wrong.best.coupled and wrong.best.changes == {"convention": "rectified-flow"} and "coupling" in wrong.text
    fine = try_conventions(wrap(on_independent_pairs, (1, 16, 16), "rectified-flow"), x, levels=(0.3, 1.5, 4.0))
    assert fine.confirmed and not fine.best.coupled


def test_images_that_are_a_little_different_are_no_coupling():
    prior = wrap(on_independent_pairs, (1, 16, 16), "rectified-flow")
    assert not any(
        coupled(prior, x)
        for x in (pictures(16) + 0.3, pictures(16) * 1.5, pictures(16) * 0.6, pictures(2), pictures(16).flip(-1))
    )


def test_a_coupling_of_two_modes():
    """Data at -1 and 1 (deviation 0.1), coupled to noise by the monotone map: each number's own E[n - x_0 | x_t] is
    known on a grid."""
    n = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    cdf = (normal.cdf((grid + 1) / 0.1) + normal.cdf((grid - 1) / 0.1)) / 2
    image = torch.tensor([float(v) for v in _interpolate(normal.cdf(n), cdf, grid)], dtype=torch.float64)

    def velocity(x, t):
        t = float(t.reshape(-1)[0])
        at = (1 - t) * image + t * n
        found = _interpolate(x.double().flatten(), at, n).reshape(x.shape)
        return (found - (x - t * found) / (1 - t)).to(x)

    def exact(x, t):
        t = float(t.reshape(-1)[0])
        a = 1 - t
        spread = a**2 * 0.01 + t**2
        means = [c * 1.0 + a * 0.01 / spread * (x - a * c) for c in (-1, 1)]
        share = torch.sigmoid(2 * a * x / spread)
        mean = (1 - share) * means[0] + share * means[1]
        return (x - mean) / t

    x = torch.sign(torch.randn(16, 4)) + 0.1 * torch.randn(16, 4)
    assert coupled(wrap(velocity, (4,), "rectified-flow"), x) and not coupled(wrap(exact, (4,), "rectified-flow"), x)


def _interpolate(x, xs, ys):
    i = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    w = ((x - xs[i - 1]) / (xs[i] - xs[i - 1]).clamp_min(1e-12)).clamp(0, 1)
    return ys[i - 1] + w * (ys[i] - ys[i - 1])


def test_the_command_says_so(tmp_path, capsys):
    """White images of deviation 0.3, coupled by x_0 = 0.3 n."""
    import numpy as np

    (tmp_path / "mine.py").write_text(
        "from deft.prior import wrap\n\n\ndef velocity(x, t):\n    t = t.reshape(-1, 1, 1, 1)\n    return 0.7 * x /"
        " (0.3 * (1 - t) + t)\n\n\ndef make():\n    return wrap(velocity, (1, 16, 16), 'rectified-flow')\n"
    )
    np.savez(
        tmp_path / "x.npz", x=np.random.default_rng(0).normal(0, 0.3, (16, 1, 16, 16)).clip(-1, 1).astype("float32")
    )
    arguments = ("prior", "inspect", f"{tmp_path}/mine.py:make", "--images", tmp_path / "x.npz", "--range=-1,1")
    assert "learned on a coupling of data and noise" in run(capsys, *arguments)[1]
    found = result(capsys, *arguments)
    assert found["coupled"] and not found["confirmed"]


# Options.


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """An ADM file; the folder of diffusers is `plain`, that of latents `latent`."""
    folder = tmp_path_factory.mktemp("options")
    torch.save(W, folder / "adm.pt")
    return folder


BAD = {
    "plain": (
        "event_shape=16",
        "event_shape=3,16",
        "event_shape=3x16x16",
        "event_shape=1,8.5,8",
        "event_shape=1,-8,8",
        "event_shape=0,8,8",
        "event_shape=",
        "event_shape=big",
        "event_shape=1,2,3,4,5",
        "value_range=0",
        "value_range=1,0",
        "value_range=0,1,2",
        "value_range=a,b",
        "value_range=0,nan",
        "value_range=0,inf",
        "output=1",
        "output=epsilon",
        "output=",
        "schedule=3",
        "schedule=linear",
        "schedule=true",
        "time=7",
        "time=index2",
        "time=",
        "scale_input=1",
        "scale_input=yes",
        "learned_variance=maybe",
        "learned_variance=0",
        "sigma_data=abc",
        "sigma_data=0",
        "sigma_data=-1",
        "sigma_data=inf",
        "sigma_data=1,2",
        "sigma_data=true",
        "label=cat",
        "label=-1",
        "label=1.5",
        "label=3,4",
        "label=true",
        "convention=3",
        "convention=ddmp",
        "variant=",
        "gradient=both",
        "gradient=1",
        "colour=3",
        "latent_scale=2",
        "latent_scale=big",
        "latent_shift=true",
        "output",
    ),
    "adm": (
        "event_shape=1,32,48",
        "event_shape=3,32",
        "image_size=32,48",
        "image_size=x",
        "image_size=16.5",
        "image_size=0",
        "sides=16",
        "sides=16,24,3",
        "sides=a,b",
        "num_heads=x",
        "num_heads=0",
        "num_heads=1.5",
        "num_heads=7",
        "num_head_channels=big",
        "channel_mult=x",
        "channel_mult=1,0",
        "attention_resolutions=x",
        "use_new_attention_order=2",
        "class_cond=no",
        "diffusion_steps=0",
        "diffusion_steps=many",
        "noise_schedule=sigmoid",
        "noise_schedule=3",
        "dropout=-1",
        "sigma_data=abc",
        "learned_variance=maybe",
        "dtype=int8",
        "dtype=3",
        "config=ffhq256",
        "config=3",
        "label=3",
        "label=none",
        "weights=ema",
        "trust_pickle=perhaps",
        "num_head=3",
    ),
    "latent": (
        "latent_scale=0",
        "latent_scale=1,2,3",
        "latent_scale=x",
        "latent_shift=1,2,3",
        "latent_shift=nan",
        "gradient=both",
        "latent_scale=true",
    ),
}


@pytest.mark.parametrize(("whose", "option"), [(whose, option) for whose, options in BAD.items() for option in options])
def test_options_of_another_kind(whose, option, shop, plain, latent, capsys):
    where = {"plain": plain, "latent": latent, "adm": shop / "adm.pt"}[whose]
    says = refused(capsys, "prior", "inspect", where, "--prior-option", option)
    assert (
        option.partition("=")[0] in says
        or "trial pass" in says
        or option.partition("=")[2][:4] in says
        or "multiples" in says
        or "ADM config" in says
    )


GOOD = {
    "plain": (
        "event_shape=1,16,16",
        "value_range=0,1",
        "value_range=0,255",
        "output=v",
        "schedule=vp-cosine",
        "time=index",
        "time=500t",
        "time=1000(1-t)",
        "scale_input=true",
        "scale_input=False",
        "learned_variance=false",
        "sigma_data=0.5",
        "sigma_data=1",
        "convention=deft",
    ),
    "adm": (
        "image_size=32",
        "sides=16,32",
        "num_heads=4",
        "num_head_channels=16",
        "noise_schedule=cosine",
        "diffusion_steps=500",
        "use_new_attention_order=true",
        "attention_resolutions=16",
        "attention_resolutions=8",
        "channel_mult=1,2",
        "dropout=0",
        "dropout=0.1",
        "dtype=bfloat16",
        "value_range=0,1",
        "output=x0",
        "convention=ddpm-scaled-linear",
        "trust_pickle=false",
    ),
    "latent": ("latent_scale=2", "latent_scale=1,2", "latent_shift=0.5", "latent_shift=-1,1", "gradient=encoder"),
}


@pytest.mark.parametrize(
    ("whose", "option"), [(whose, option) for whose, options in GOOD.items() for option in options]
)
def test_options_of_their_kind(whose, option, shop, plain, latent):
    where = {"plain": plain, "latent": latent, "adm": shop / "adm.pt"}[whose]
    if option == "attention_resolutions=16":  # a level without weights of attention
        with pytest.raises(DeftError, match="does not fit the ADM network"):
            load_prior(where, **read_options([option]))
        return
    assert load_prior(where, **read_options([option])).schedule is not None


def test_an_option_twice(plain, capsys):
    assert "output is given twice" in refused(
        capsys, "prior", "inspect", plain, "--prior-option", "output=v", "--prior-option", "output=eps"
    )


def test_times_of_any_length():
    t = torch.tensor([0.25])
    assert float(time_map("500t")(t, t, t)) == 125 and float(time_map("40(1-t)")(t, t, t)) == 30
    for wrong in ("t500", "500", "-3t", "1000 t", "x"):
        with pytest.raises(InputError, match="unknown time"):
            time_map(wrong)
    with pytest.raises(InputError, match="time is a name"):
        time_map(7)


def test_the_loader_of_adm_from_python(tmp_path):
    torch.save(W, tmp_path / "x.pt")
    assert load_adm(tmp_path / "x.pt", sides=(16, 16)).fingerprint() == load_adm(tmp_path / "x.pt").fingerprint()
