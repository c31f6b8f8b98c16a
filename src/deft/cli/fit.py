"""deft fit"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource
from torch import Tensor

from deft.cli import common
from deft.cli.common import DATA_HELP, Name, Numbers, Output, json_option, out_option, overwrite_option
from deft.cli.control import fit_by_importance, fit_on_paths, make_objective
from deft.cli.info import h_card_text
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.random import generator
from deft.errors import InputError, NonFiniteError
from deft.io.files import open_folder, write_json, write_text
from deft.io.h_files import KINDS, save_h, start_from
from deft.io.tasks import TASKS
from deft.learned import Learned
from deft.learned.base import count_parameters
from deft.learned.deft import DEFT, GUIDES, UNITS
from deft.methods import METHODS
from deft.prior.check import warning
from deft.train.data import Pairs
from deft.train.denoising import WEIGHTINGS, DenoisingObjective
from deft.train.fit import FitConfig, launched_config
from deft.train.fit import fit as fit_module
from deft.train.levels import level_table
from deft.train.path import OBJECTIVES
from deft.train.prior_samples import draw_prior_samples
from deft.workflow import Recipe, fit_h, weigh_levels
from deft.workflow.measurement_check import check_pairs
from deft.workflow.recipe import LEVEL_IMAGES

DEFAULTS = Recipe()
PATHS: dict[str, Any] = {"steps": 300, "batch": 16, "warmup": 20, "ema": 0.98, "lr": 2e-3}
"""Defaults for objectives on paths, where a batch costs batch x chain calls of the prior."""
IMPORTANCE: dict[str, Any] = {"steps": 300, "warmup": 100, "ema": 0.999, "lr": 2e-3}
"""Defaults for importance, where a round is a fit of its own."""


def hold_out(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(rows to fit, rows held out): a tenth at random, at least 1 and at most 256."""
    if n < 2:
        raise InputError(f"{n} image is too few to fit to and to hold one out: give more, or --held-out")
    order = torch.randperm(n, generator=generator(seed, 7))
    few = max(1, min(256, n // 10))
    return order[few:].sort().values, order[:few].sort().values


@click.command()
@click.option("--prior", "prior_option", default="fashion", show_default=True, help="A bundled prior, a file or folder (ours, diffusers', guided-diffusion's), FILE.py:FUNCTION, or the URL of `deft serve`.")
@common.prior_option_option
@common.trust_code_option
@click.option("--task", type=Name("task", TASKS), help="What is measured.  [default: what a --measurement file says, else inpaint]")
@click.option("--data", help=DATA_HELP + " Masks and noise are drawn afresh at every step. Without --data h is fitted to samples of the prior alone.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Instead of --data: an .npz of your own pairs, x and y (and mask).")
@click.option("--objective", type=Name("objective", [*OBJECTIVES, "importance"]), help="Learn h without data (docs/control.md): vargrad, tb, kl or adjoint from one --measurement and its likelihood; importance from all those of a file, for their like.")
@click.option("--measurement", type=click.Path(path_type=Path), help="With --objective, instead of --data: the measurement, as in `deft sample`.")
@click.option("--row", default=0, show_default=True, help="Which measurement of a measurement file.")
@click.option("--mask", type=click.Path(path_type=Path), help="With --measurement: white is seen, black is the hole (inpaint).")
@click.option("--mask-hole", type=Name("mask colour", ("black", "white")), default="black", show_default=True, help="The colour of the hole in --mask.")
@common.reward_options
@click.option("--chain", default=50, show_default=True, help="With --objective: steps of a path.")
@click.option("--subset", type=int, help="With --objective: differentiate so many steps of a path, drawn at random and weighed, instead of all.")
@click.option("--drawn-by", type=Name("method", METHODS), help="With vargrad or tb: the method that draws the paths, instead of h.")
@click.option("--rounds", default=4, show_default=True, help="With importance: rounds of drawing paths and fitting to the weighed ones; --steps are each round's.")
@click.option("--paths", default=8, show_default=True, help="With importance: paths of each measurement.")
@click.option("--warm", default=0, show_default=True, help="With --objective: the likelihood comes on over so many steps, from a thousandth.")
@click.option("--log-z-rate", default=0.05, show_default=True, help="With tb: step size of log Z.")
@click.option("--held-out", help="Images for the held-out loss, like --data (default: a tenth of the data).")
@out_option("run")
@click.option("--method", type=Name("method", KINDS), default="deft", show_default=True, help="What is fitted: deft, or one of the alternatives it is compared with (docs/methods.md).")
@click.option("--size", default=0.09, show_default=True, help="Most parameters h may have, as a share of the prior's.")
@click.option("--width", type=int, help="Channels of h, instead of --size: for a prior that does not say how large it is.")
@click.option("--start-from", "start", help="Begin with the weights of another h of this prior, of the same task or another: a run folder, or `inpaint` for the bundled one. Its size and form are kept.")
@click.option("--steps", default=DEFAULTS.steps, show_default=f"{DEFAULTS.steps}; with --objective {PATHS['steps']}")
@click.option("--batch", default=DEFAULTS.batch, show_default=f"{DEFAULTS.batch}; with --objective {PATHS['batch']} paths")
@click.option("--lr", default=DEFAULTS.lr, show_default=True)
@click.option("--warmup", default=DEFAULTS.warmup, show_default=f"{DEFAULTS.warmup}; with --objective {PATHS['warmup']}", help="Steps in which the learning rate rises.")
@click.option("--ema", default=DEFAULTS.ema, show_default=f"{DEFAULTS.ema}; with --objective {PATHS['ema']}", help="Decay of the averaged weights.")
@click.option("--seconds", type=float, help="Stop after this long, with the learning rate brought down in time.")
@click.option("--seed", default=0, show_default=True)
@click.option("--units", type=Name("units", UNITS), default="v", show_default=True, help="What the network's output means (eps: the paper's).")
@click.option("--weighting", type=Name("weighting", WEIGHTINGS), default="between", show_default=True, help="Of the loss over noise levels (eps: the paper's).")
@click.option("--focus", default=3.0, show_default=True, help="Draw noise levels with density u^(focus - 1): 1 is even, more looks more at high noise.")
@click.option("--even", default=0.5, show_default=True, help="Share of the draws spread evenly over the logarithm of the noise instead.")
@click.option("--gate/--no-gate", default=True, show_default=True, help="Let the network weigh the guide pixel by pixel (no: the paper's).")
@click.option("--guide", type=Name("guide", GUIDES), default="pull", show_default=True, help="The likelihood's gradient, preconditioned (pull) or raw (score: the paper's).")
@click.option("--n2-start", type=float, default=None, help="Weight of the guide at the start.  [default: the library's]")
@click.option("--sigma-y", type=float, help="Deviation of the measurement noise, for images in [-1, 1].  [default: the task's]")
@common.task_option_option
@click.option("--hole", type=Numbers(), help="Smallest and largest side of a hole, as fractions of the image's (inpaint).")
@click.option("--prior-samples", type=int, help="Add so many samples of the prior to the images; 0 for none.  [default: as many as keep an image from being seen too often (docs/fit.md)]")
@click.option("--samples-folder", type=click.Path(path_type=Path), help="Where samples of the prior are kept; fits of other tasks may share it.  [default: prior-samples in --out]")
@click.option("--cache", "--bank", "cache", type=int, help="Compute the prior's predictions once, on this many draws, and fit to those; 0 draws afresh at every step.  [default: follows steps and memory (docs/cache.md)]")
@click.option("--fresh", type=float, help="Share of each batch that is drawn afresh beside the cache.  [default: 0, or 1/8 where memory cuts the cache short]")
@click.option("--patience", default=DEFAULTS.patience, show_default=True, help="End early after so many evaluations (of 20) without a lower held-out loss; 0 never does.")
@click.option("--bf16", is_flag=True, help="Autocast to bfloat16.")
@common.accumulate_option
@common.streams_option
@common.shard_option
@click.option("--resume", is_flag=True, help="Go on with a fit that was stopped, with the same settings.")
@common.reading_options
@common.device_option
@overwrite_option
@json_option
def fit(
    prior_option: str, prior_options: tuple[str, ...], task: str | None, data: str | None, pairs: Path | None, objective: str | None, measurement: Path | None, row: int,
    reward: str | None, beta: float | None, label: int | None,
    mask: Path | None, mask_hole: str, chain: int, subset: int | None, drawn_by: str | None, rounds: int, paths: int, warm: int, log_z_rate: float, held_out: str | None, out: Path, method: str, size: float, width: int | None, start: str | None,
    steps: int, batch: int, lr: float, warmup: int, ema: float, seconds: float | None, seed: int, units: str, weighting: str, focus: float, even: float,
    gate: bool, guide: str, n2_start: float | None, sigma_y: float | None, task_options: tuple[str, ...], hole: tuple[float, ...] | None,
    prior_samples: int | None, samples_folder: Path | None, cache: int | None, fresh: float | None, patience: int, bf16: bool,
    accumulate: int, streams: bool, shard_prior: bool, resume: bool,
    skip_bad: bool, resize: bool, convert: bool, value_range: str | None, device: str | None, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fit an h-transform to a frozen prior.

    \b
    deft fit --data fashion --task inpaint --out run
    deft fit --prior my-prior --data photos/ --task sr4 --seconds 300 --out run
    deft fit --prior my-prior --task sr4 --out run
    deft fit --objective vargrad --measurement small.png --task sr4 --out run
    deft fit --objective vargrad --reward taste.py:brightness --beta 0.1 --out run

    Samples of the prior are added to the images, so that a long fit does not learn a few images by heart; without --data they
    are all there is. Writes h.safetensors, card.md, log.json and state.pt (for --resume) into the folder --out. Ctrl-C saves.
    """
    output = Output(as_json)
    if (cache or 0) < 0 or (cache and pairs is not None):
        raise InputError(f"--cache takes a number of draws (at least 1, or 0 for none), and is not for --pairs; got {cache}")
    if (prior_samples or 0) < 0 or (prior_samples and (pairs is not None or objective is not None)):
        raise InputError(f"--prior-samples takes a number (at least 1, or 0 for none), and is not for --pairs or --objective; got {prior_samples}")
    if (fresh is not None or samples_folder is not None) and (pairs is not None or objective is not None):
        raise InputError("--fresh and --samples-folder belong to the cache and the samples of the prior, which --pairs and --objective have not: leave them out")
    if measurement is not None and reward is not None:
        raise InputError("give --measurement or --reward, one of the two")
    if (objective is None) != (measurement is None and reward is None):
        raise InputError("--objective goes together with --measurement or --reward: an h for one condition, learned on paths without data")
    if reward is None and (beta is not None or label is not None):
        raise InputError("--beta and --label are for --reward")
    if reward is not None and (objective == "importance" or mask is not None or not _by_default("task") or task_options or sigma_y is not None or hole is not None):
        raise InputError("a --reward is no task and measures nothing: leave --task, --task-option, --sigma-y, --hole and --mask out, and take vargrad, tb, kl or adjoint")
    if objective is not None and (data or pairs or held_out or method != "deft" or cache):
        raise InputError("--objective learns a deft h from --measurement alone: leave --data, --pairs, --held-out, --cache and --method out")
    if objective == "importance" and (subset is not None or drawn_by is not None or warm):
        raise InputError("importance draws its own paths, round by round: leave --subset, --drawn-by and --warm out")
    if objective is None and (mask is not None or subset is not None or drawn_by is not None or warm):
        raise InputError("--mask, --subset, --drawn-by and --warm are for a fit to one --measurement with --objective")
    if objective is None and data is not None and pairs is not None:
        raise InputError("give --data (images, measured afresh at every step) or --pairs (your own x and y), one of the two")
    if objective is None and data is None and pairs is None and prior_samples == 0:
        raise InputError("nothing to fit to: give --data, --pairs, or a --prior-samples above 0")
    if data is None and pairs is None and measurement is None and not all(map(_by_default, ("skip_bad", "resize", "convert", "value_range", "recursive", "array"))):
        raise InputError("--skip-bad, --resize, --convert, --range, --recursive and --array say how files are read, and none is given: leave them out")
    if objective is not None:
        own: dict[str, Any] = {"steps": steps, "batch": batch, "warmup": warmup, "ema": ema, "lr": lr}
        own |= {k: v for k, v in (IMPORTANCE if objective == "importance" else PATHS).items() if _by_default(k)}
        if _by_default("warmup"):
            own["warmup"] = min(own["warmup"], max(1, own["steps"] // 4))  # a few batches of kl are a whole fit
        steps, batch, warmup, ema, lr = own["steps"], own["batch"], own["warmup"], own["ema"], own["lr"]
    recipe = Recipe(
        steps=steps, seconds=seconds, batch=batch, lr=lr, warmup=warmup, ema=ema, prior_samples=prior_samples, cache=cache, fresh=fresh, patience=patience,
        weighting=weighting, focus=focus, even=even, seed=seed, bf16=bf16, accumulate=accumulate, streams=streams,
    )  # fmt: skip
    config = launched_config(FitConfig(
        steps=steps, batch=batch, lr=lr, warmup=warmup, ema=ema, max_seconds=seconds, seed=seed, bf16=bf16, accumulate=accumulate, streams=streams,
        patience=0 if _by_default("patience") else patience,
    ) if objective is not None else recipe.fit_config(steps, seconds))  # fmt: skip
    recipe = replace(recipe, bf16=config.bf16)
    where = common.get_device(device)
    prior = common.spread_out(common.find_prior(prior_option, "cpu" if shard_prior else where, prior_options), shard_prior)
    domain, shape = common.domain_for(prior), prior.data_shape
    common.check_batch(common.own_part(batch, accumulate), shape)
    chosen = common.make_task(task, sigma_y, hole, task_options, measurement, domain) if reward is None else common.make_tilt(reward, beta, label)
    tried = chosen.check(shape)
    reading = common.reading(skip_bad, resize, convert, value_range)

    if objective is not None:
        many = objective == "importance"
        if measurement is not None:
            tried, _, _ = common.read_measured(measurement, chosen, domain, shape, row=None if many else row, mask=mask, mask_hole=mask_hole, resize=resize, convert=convert, value_range=value_range)
        if not many:
            make_objective(objective, prior, chain, subset, drawn_by)  # what cannot be made is said before anything is written
        open_folder(out, overwrite=overwrite or resume)
        torch.manual_seed(seed)
        one = build(prior, chosen, method, size, width, start, {"units": units, "guide": guide, "gate": gate, **({} if n2_start is None else {"n2_start": n2_start})}, output)
        one.calibrate(prior, draw_prior_samples(prior, 128, seed=seed, progress=common.bars()).x.to(prior.state_like()))
        if many:
            fit_by_importance(
                output, one, prior, common.prior_name(prior_option), prior_options, chosen, tried, str(measurement), out, config, rounds=rounds, paths=paths,
                chain=chain, resume=resume, device=where, objective={"weighting": weighting, "focus": focus, "even": even},
            )  # fmt: skip
            return
        fit_on_paths(
            output, one, prior, common.prior_name(prior_option), prior_options, chosen, tried, None if measurement is None else str(measurement), out, objective, config, chain=chain,
            subset=subset, drawn_by=drawn_by, warm=warm, rate=log_z_rate, resume=resume, device=where,
        )  # fmt: skip
        return

    # data
    obs: Observation | None = None
    obs_out: Observation | None = None
    x: Tensor | None = None
    x_out: Tensor | None = None
    if pairs is not None:
        x, obs = common.read_pairs(pairs, chosen, domain, shape, reading)
        rows, rest = hold_out(len(x), seed)
        if held_out:
            rows, (x_out, obs_out) = torch.arange(len(x)), common.read_pairs(Path(held_out), chosen, domain, shape, reading)
        else:
            x_out, obs_out = x[rest], obs[rest]
        doubtful = check_pairs(obs, x, str(pairs))
        if doubtful:
            output.say(doubtful)
        x, obs, obs_out = prior.encode(x[rows]), prior.inside(obs[rows]), prior.inside(obs_out)
    elif data is not None:
        x = common.load_data(domain, str(data), "fit", shape, reading, output.say).x
        if held_out is None and common.is_bundled(domain, str(data)):
            held_out = f"{str(data).partition(':')[0]}:validation"
        if held_out is None:
            rows, rest = hold_out(len(x), seed)
            x, x_out = x[rows], x[rest]
        x = prior.encode(x)
    if held_out and pairs is None:
        x_out = common.load_data(domain, held_out, "validation", shape, reading, output.say, held_out=True).x
    x_out = None if x_out is None else prior.encode(x_out)
    open_folder(out, overwrite=overwrite or resume)
    doubt = warning(prior, x) if x is not None and len(x) > 1 else None
    if doubt:
        output.say(doubt)

    # h
    torch.manual_seed(seed)
    extra = {} if n2_start is None else {"n2_start": n2_start}
    options: dict[str, Any] = {"units": units, "guide": guide, "gate": gate, **extra}
    h = build(prior, chosen, method, size, width, start, options, output)
    n = 0 if x is None else len(x)
    output.say(f"fitting to {n} {domain.title}, {0 if x_out is None else len(x_out)} held out" if n else "no --data: fitting to samples of the prior alone")
    try:
        if pairs is not None:
            assert x is not None and obs is not None and x_out is not None and obs_out is not None
            h.calibrate(prior, x)
            paired, paired_out = Pairs(x, obs), Pairs(x_out, obs_out)
            its = DenoisingObjective(prior, weighting, focus, even)
            result = fit_module(
                h, its, paired, paired_out, config=config, folder=out, resume=resume, device=where, progress=common.bars(),
                on_evaluation=common.show_evaluation,
            )
            levels, worse = weigh_levels(h, its, paired_out, config, x_out[:LEVEL_IMAGES], obs_out[:LEVEL_IMAGES])
            made: dict[str, Any] = {
                "steps": result.steps, "seconds": round(result.seconds, 1), "weights": result.weights, "best_step": result.best_step,
                "held_out_loss": result.held_out, "ended": result.ended, "levels": levels, "warnings": worse,
            }  # fmt: skip
            for line in (result.ended, *worse):
                if line:
                    output.say(line)
        else:
            fitted = fit_h(
                h, prior, chosen, x, x_out, recipe, folder=out, samples_folder=samples_folder, resume=resume, device=where, progress=common.bars(),
                say=output.say, on_evaluation=common.show_evaluation,
            )
            result, levels, made = fitted.result, fitted.levels, fitted.card()
    except NonFiniteError as error:
        kept = f" (the last good state is kept: {out / 'state.pt'})" if (out / "state.pt").exists() else ""
        raise NonFiniteError(f"{error}{kept}") from error

    # what it leaves
    source = f"{data or pairs} ({n} {domain.title})" if n else "samples of the prior alone"
    about: dict[str, Any] = {
        "prior": common.prior_name(prior_option), "prior_options": [o for o in prior_options if not o.startswith("token=")], "data": source,
        "recipe": {**asdict(recipe), **asdict(config)}, **made, "parameters": count_parameters(h), **({"started_from": start} if start else {}),
        "share": None if width is not None else round(count_parameters(h) / prior.parameter_count(), 5), "torch": torch.__version__,
    }  # fmt: skip
    card = save_h(out / "h.safetensors", h, prior, chosen, **about)
    write_json(out / "log.json", {"history": result.history, "held_out": result.held_out, "levels": levels, "card": card})
    write_text(out / "card.md", h_card_text(card))
    output.say(
        f"{result.steps} steps in {made['seconds']:.0f} s; held-out loss {result.held_out[result.weights]:.4f} at step {result.best_step} "
        f"({result.weights} weights; raw {result.held_out['raw']:.4f}, averaged {result.held_out['ema']:.4f})"
    )
    output.say(f"\nmean squared error of E[x_0 | x_t, y] on held-out {domain.title}:\n" + level_table(levels))
    output.say(f"\nwrote {out}/h.safetensors; next: deft sample {out} --help, or deft evaluate {out} --help")
    output.result({"out": str(out), "card": card, "history": result.history})


def _by_default(name: str) -> bool:
    """Whether an option of this command was left to its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.DEFAULT


def build(
    prior: Denoiser, task: Any, method: str, size: float, width: int | None, start: str | None, options: dict[str, Any], output: Output
) -> Learned:
    """The h that is fitted, as --method, --size, --width and --start-from ask for it."""
    if start is not None:
        if method != "deft" or width is not None:
            raise InputError("--start-from is for deft, and takes the width of the h it starts from: leave --method and --width out")
        begun = start_from(start, prior, task.lift_channels, trust_code=common.trusts_code())
        output.say(f"h: {count_parameters(begun):,} parameters, starting from {start}")
        return begun
    if method != "deft":
        if width is not None:
            raise InputError(f"--width is for deft; {method} takes --size")
        return KINDS[method].sized(prior, size, task.lift_channels, log=output.say)
    if width is None:
        return DEFT.sized(prior, size, task.lift_channels, log=output.say, **options)
    if width < 2:
        raise InputError(f"--width must be at least 2, got {width}")
    h = DEFT(prior.event_shape, task.lift_channels, width, **options)
    output.say(f"h: {count_parameters(h):,} parameters")
    return h

