"""What a scheduler of diffusers says of the network it belongs to: schedule, output, and what the network is given.

Every key of its config that bears on these is read, or refused; what only moves a sampler's grid, clips or thresholds
is left out, as it is no part of the model. A key that is neither is named as a doubt.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deft.core.schedule import Schedule
from deft.errors import InputError
from deft.schedule import EDM, VE, RectifiedFlow, VPTable

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
"""diffusers' prediction_type -> our output kind."""

TABLE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "snr_shift_scale",
)
"""Keys that make the table of cumulative alphas."""

READ = {
    *TABLE,
    "prediction_type",
    "predict_epsilon",
    "timesteps",
    "timestep_type",
    "use_flow_sigmas",
    "invert_sigmas",
    "sigma_data",
}
"""Keys that change the schedule, the output or what the network is given; each is read where its class has it."""

HARMLESS = {
    # clipping and thresholding of x̂, which a posterior does without
    "clip_sample",
    "clip_sample_range",
    "clip_denoised",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    # the sampler's grid
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "set_alpha_to_zero",
    "interpolation_type",
    "final_sigmas_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "lambda_min_clipped",
    "rho",
    "sigma_schedule",
    "shift",
    "flow_shift",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "shift_terminal",
    "use_dynamic_shifting",
    "time_shift_type",
    "sampling_eps",
    "sigma_min",
    "sigma_max",
    # the sampler's steps
    "solver_order",
    "algorithm_type",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
    "predict_x0",
    "disable_corrector",
    "solver_p",
    "skip_prk_steps",
    "predictor_order",
    "corrector_order",
    "tau_func",
    "variance_type",
    "eta",
    "s_noise",
    "snr",
    "correct_steps",
    "stochastic_sampling",
    # of old versions
    "tensor_format",
    "timestep_values",
}
"""Keys that are known to change neither: they are a sampler's own."""

DISTILLED = {
    "LCMScheduler": "latent consistency models",
    "TCDScheduler": "trajectory consistency distillation",
    "CMStochasticIterativeScheduler": "consistency models",
    "FlowMatchLCMScheduler": "latent consistency models",
    "SCMScheduler": "consistency models (sCM)",
    "ConsistencyDecoderScheduler": "a consistency decoder",
    "HeliosDMDScheduler": "distribution matching distillation",
    "PiflowScheduler": "policy distillation",
    "FlowMapEulerDiscreteScheduler": "flow maps",
}
"""Scheduler -> what its networks are: they learned where a trajectory ends, not E[x_0 | x_t]."""

DISCRETE = (
    "AmusedScheduler",
    "VQDiffusionScheduler",
    "BlockRefinementScheduler",
    "DiscreteDDIMScheduler",
    "EntropyBoundScheduler",
)
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")

BY_HAND = (
    "give output and schedule by hand (and time, where it is not the schedule's own t): --prior-option output=...,"
    " schedule=..., time=..."
)

ZERO = 1e-12
"""alpha^2 that stands for 0 at the last index of a table with zero terminal SNR."""

FURTHEST = 200.0
"""sigma/alpha at which a table of zero terminal SNR is cut for a network that returns eps: x̂ = (x - sigma eps)/alpha
blows an error of eps up by it. The usual table of 1,000 linear betas ends at 157."""


class Said(NamedTuple):
    """convention: keywords of `NetworkDenoiser`. unsure: what the config leaves open, or what was passed over."""

    convention: dict[str, Any]
    unsure: list[str]


def read_scheduler(config: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `NetworkDenoiser` that a scheduler_config.json stands for."""
    return examine(config).convention


def examine(config: dict[str, Any], output: str | None = None) -> Said:
    """What a scheduler_config.json says of the network.

    output: the kind of output where the config is overruled.

    Raises:
        InputError: a scheduler of no diffusion model that is read here; a combination of keys whose meaning is not
            known. The message says what to give by hand.
    """
    import diffusers

    kind = str(config.get("_class_name"))
    if kind in DISTILLED:
        raise InputError(
            f"{kind} is the scheduler of distilled networks ({DISTILLED[kind]}), which learned where a trajectory ends"
            " and not E[x_0 | x_t]: take the model they were distilled from; or, if this network is a diffusion model"
            f" all the same, {BY_HAND}"
        )
    if kind in DISCRETE:
        raise InputError(
            f"{kind} is the scheduler of a model of discrete tokens: this library takes models of numbers under"
            " Gaussian noise"
        )
    made = getattr(diffusers, kind, None)
    if made is None:
        raise InputError(f"diffusers {diffusers.__version__} has no scheduler {kind!r}: {BY_HAND}")
    takes = set(inspect.signature(made.__init__).parameters)
    unsure = _passed_over(kind, config, made)
    if kind == "ScoreSdeVeScheduler":
        ve = VE(config.get("sigma_min", 0.01), config.get("sigma_max", 1348.0))
        return Said({"schedule": ve, "output": output or "score", "time": "sigma", "value_range": (0.0, 1.0)}, unsure)
    if kind in FLOWS:
        return _flow(config, output, unsure)
    prediction = _prediction(kind, config)
    if kind.startswith("EDM"):
        if prediction != "epsilon" and output is None:
            raise InputError(f"{kind} with prediction_type {prediction!r} is not known here: {BY_HAND}")
        edm = EDM(config.get("sigma_min", 0.002), config.get("sigma_max", 80.0))
        said = {
            "schedule": edm,
            "output": output or "edm",
            "time": "log-sigma/4",
            "scale_input": True,
            "sigma_data": config.get("sigma_data", 0.5),
        }
        return Said(said, unsure)
    if "stages" in takes:
        raise InputError(
            f"{kind} goes through images of several sizes in one run, which this library does not: {BY_HAND}"
        )
    if config.get("use_flow_sigmas") and "use_flow_sigmas" in takes:
        if prediction == "v_prediction" and output is None:
            raise InputError(
                f"{kind} reads prediction_type 'v_prediction' with use_flow_sigmas by a formula for other paths than"
                f" these: {BY_HAND}"
            )
        return _flow(config, output or PREDICTIONS[prediction], unsure)
    if prediction == "flow_prediction" and output is None:
        raise InputError(
            f"{kind} with prediction_type 'flow_prediction' and without use_flow_sigmas has no meaning of its own:"
            f" {BY_HAND}"
        )
    abar = _alphas_cumprod(kind, made, takes, config)
    betas = config.get("trained_betas")
    if betas is not None and "trained_betas" in takes and config.get("num_train_timesteps", len(betas)) != len(betas):
        unsure.append(
            f"num_train_timesteps: {config['num_train_timesteps']} is stated with {len(betas)} trained_betas; the"
            f" network is given 0 to {len(betas) - 1}"
        )
    schedule: Schedule = table(
        abar, zero=bool(config.get("rescale_betas_zero_snr")) and "rescale_betas_zero_snr" in takes
    )
    said = {"schedule": schedule, "output": output or PREDICTIONS[prediction], "time": "t"}
    if config.get("timestep_type") == "continuous" and "timestep_type" in takes:
        if prediction == "v_prediction":
            said |= {"schedule": _continuous(config, schedule), "time": "log-sigma/4"}
        else:
            unsure.append(
                f"timestep_type: 'continuous' changes nothing in diffusers with prediction_type {prediction!r}: the"
                " network is given the index of the table"
            )
    return Said(*_cut(said, unsure, bool(config.get("rescale_betas_zero_snr"))))


def _prediction(kind: str, config: dict[str, Any]) -> str:
    usual = "sample" if config.get("predict_epsilon") is False else "epsilon"
    prediction = str(config.get("prediction_type", usual))
    if prediction not in PREDICTIONS:
        raise InputError(
            f"{kind} has prediction_type {prediction!r}, which is none of {', '.join(PREDICTIONS)}: {BY_HAND}"
        )
    return prediction


def _flow(config: dict[str, Any], output: str | None, unsure: list[str]) -> Said:
    """Straight paths: alpha = 1 - t, sigma = t. Shifts of t move the sampler's grid, not what the network was trained
    on."""
    n = config.get("num_train_timesteps", 1000)
    if not isinstance(n, (int, float)) or n <= 0:
        raise InputError(f"num_train_timesteps is {n!r}: expected a number above 0")
    if config.get("invert_sigmas"):  # time runs from noise (0) to data (n), and the velocity with it
        if output not in (None, "flow"):
            raise InputError(f"invert_sigmas with output {output!r} is not known here: {BY_HAND}")
        return Said(
            {"schedule": RectifiedFlow(), "output": "reverse-flow", "time": "1-t" if n == 1 else f"{n:g}(1-t)"}, unsure
        )
    return Said({"schedule": RectifiedFlow(), "output": output or "flow", "time": "t" if n == 1 else f"{n:g}t"}, unsure)


def _alphas_cumprod(kind: str, made: Any, takes: set[str], config: dict[str, Any]) -> Tensor:
    options = {k: config[k] for k in TABLE if k in config and k in takes}
    if (
        "num_train_timesteps" not in options
        and isinstance(config.get("timesteps"), int)
        and "num_train_timesteps" in takes
    ):
        options["num_train_timesteps"] = config["timesteps"]
    try:
        abar = getattr(made(**options), "alphas_cumprod", None)
    except Exception as error:  # what a class makes of a config that is not its own is anything
        raise InputError(
            f"diffusers cannot make the scheduler {kind} ({' '.join(str(error).split())[:160]}): {BY_HAND}"
        ) from error
    if not isinstance(abar, Tensor) or abar.ndim != 1:
        raise InputError(f"the scheduler {kind} states no table of betas: {BY_HAND}")
    return abar


def table(alphas_cumprod: Tensor, zero: bool = False) -> VPTable:
    """A table of cumulative alphas as a schedule; a last entry of 0 (zero terminal SNR, Lin et al. 2024a) becomes
    1e-12.

    zero: the last entry stands for 0, whatever diffusers put there (2^-24 in some of its schedulers, more than the
        entry before).
    """
    abar = alphas_cumprod.double().clone()
    if float(abar[-1]) < ZERO or (zero and float(abar[-1]) >= float(abar[-2]) > ZERO):
        abar[-1] = ZERO
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return VPTable((1 - abar / before).tolist())


def _continuous(config: dict[str, Any], schedule: Schedule) -> VPTable:
    """The variance-preserving process over the sigmas of a scheduler that tells log(sigma)/4: sigma/alpha even in its
    logarithm."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    low, high = (-schedule.log_snr(ends) / 2).exp().tolist()
    if any(
        config.get(k) for k in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    ):  # without, diffusers does not look at them
        low, high = config.get("sigma_min") or low, config.get("sigma_max") or high
    if not 0 < low < high:
        raise InputError(f"sigma_min and sigma_max must be above 0 and rising, got {low} and {high}")
    sigma = torch.linspace(math.log(low), math.log(high), 1000, dtype=torch.float64).exp()
    return table(1 / (1 + sigma**2))


def _cut(said: dict[str, Any], unsure: list[str], zero: bool) -> tuple[dict[str, Any], list[str]]:
    """Without the end of a table of zero terminal SNR, where the network returns eps or the score."""
    schedule = said["schedule"]
    zero = zero or float(schedule.log_alpha(torch.tensor(schedule.t_max).double())) < math.log(1e-5)
    if said["output"] not in ("eps", "score") or not zero:
        return said, unsure
    ratios = (-schedule.log_snr(torch.arange(len(schedule.betas), dtype=torch.float64)) / 2).exp()
    kept = int((ratios <= FURTHEST).sum())
    if kept < 2:
        raise InputError(
            "zero terminal SNR (rescale_betas_zero_snr) with a table that has no other end, for a network that returns"
            f" {said['output']}: {BY_HAND}"
        )
    note = (
        f"zero terminal SNR (rescale_betas_zero_snr) with a network that returns {said['output']}: at alpha = 0 that"
        f" says nothing of x_0. Indices {kept} to {len(ratios) - 1} of the table are left out (sigma/alpha above"
        f" {FURTHEST:g}); if it was trained to return v, give output=v"
    )
    return said | {"schedule": VPTable(schedule.betas[:kept].tolist())}, [*unsure, note]


def _passed_over(kind: str, config: dict[str, Any], made: Any) -> list[str]:
    """A doubt for each key that is set to something and that neither this nor the scheduler's own class reads."""
    usual = {
        k: p.default
        for k, p in inspect.signature(made.__init__).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    doubts = []
    for key, value in config.items():
        if key.startswith("_") or key in HARMLESS or value is None or value is False:
            continue
        if key in READ and (key in usual or key in ("predict_epsilon", "timesteps", "num_train_timesteps")):
            continue
        if key in usual and _same(usual[key], value):
            continue
        if key == "prediction_type" and kind not in (*FLOWS, "ScoreSdeVeScheduler"):
            if value != "epsilon":
                doubts.append(f"{key}: {_short(value)} is stated, which {kind} does not read; it was taken")
        elif key in READ:
            if (key, value) not in (("prediction_type", "epsilon"), ("prediction_type", "flow_prediction")):
                doubts.append(f"{key}: {_short(value)} is stated, but {kind} does not read it, and it was passed over")
        else:
            doubts.append(f"{key}: {_short(value)} of {kind} is not known here, and was passed over")
    return doubts


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and list(a) == list(b))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


__all__ = ["PREDICTIONS", "Said", "examine", "read_scheduler", "table"]
