"""deft sample"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from deft.cli import common
from deft.cli.common import Name, Output, json_option, out_option, overwrite_option
from deft.core.grid import SPACINGS
from deft.errors import InputError
from deft.io.arrays import save_arrays
from deft.io.files import open_folder, write_bytes, write_json
from deft.io.h_files import save_h
from deft.io.measurements import residual_rms, task_of
from deft.io.tasks import TASKS
from deft.kinds.draws import Draws
from deft.kinds.records import task_from
from deft.learned import DEFT, kind_of
from deft.likelihood.task import Tilt
from deft.methods import METHODS, plan
from deft.prior.check import warning_from
from deft.prior.measurement_check import sample_warnings, typical_noise
from deft.samplers import SAMPLERS, ChainDiagnostics, ParticleDiagnostics


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--measurement",
    type=click.Path(path_type=Path),
    help=(
        "A picture, .npz or .npy: the picture with a hole, the small picture (sr4), the noisy one; or a measurement"
        " file (.npz with y, `deft measure`)."
    ),
)
@common.reward_options
@click.option("--row", default=0, show_default=True, help="Which measurement of a measurement file.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    help="As large as the picture: white is seen, black is the hole (inpaint).",
)
@click.option(
    "--mask-hole",
    type=Name("mask colour", ("black", "white")),
    default="black",
    show_default=True,
    help="The colour of the hole in --mask.",
)
@click.option("-n", "--samples", default=8, show_default=True, help="How many samples to draw.")
@click.option(
    "--method", type=Name("method", METHODS), help="[default: deft with a run, pigdm without, tds for a reward without]"
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the method (`deft list` shows them), or of its sampler; may be repeated.",
)
@click.option(
    "--prior",
    "prior_option",
    help=(
        "A bundled prior, a file, a folder, FILE.py:FUNCTION or a URL, as in `deft fit`.  [default: the run's, or"
        " fashion]"
    ),
)
@common.prior_option_option
@common.trust_code_option
@click.option(
    "--task",
    type=Name("task", TASKS),
    help="Without a run: what the measurement is.  [default: what the measurement file says, else inpaint]",
)
@common.task_option_option
@click.option(
    "--sigma-y", type=float, help="Deviation of the measurement's noise, for images in [-1, 1].  [default: the task's]"
)
@click.option(
    "--sampler",
    type=Name("sampler", SAMPLERS),
    help="How the steps are made (docs/samplers.md).  [default: the method's; sde-dpmpp-2m for a fitted h]",
)
@click.option(
    "--eta",
    type=float,
    help=(
        "Noise of the samplers ddim and sde-dpmpp-2m: 0 none, 1 that of the reverse SDE.  [default: the method's; of"
        " training-free ones what was found for the task]"
    ),
)
@click.option(
    "--steps",
    type=int,
    help="Calls of the prior.  [default: the method's; of training-free ones what was found for the task]",
)
@click.option(
    "--spacing",
    type=Name("spacing", SPACINGS),
    help="Of the time grid.  [default: the method's; of training-free ones what was found for the task]",
)
@click.option(
    "--tuned",
    is_flag=True,
    help=(
        "A fitted h with the settings of deft/tuned.json, if it has any for its method. (Training-free methods have"
        " them always, where the task is in it.)"
    ),
)
@click.option(
    "--scale", default=1.0, show_default=True, help="Multiply h by this, on top of the method's own settings."
)
@click.option(
    "--refine",
    default=0,
    show_default=True,
    help=(
        "With a run: fit its h on for so many steps (10, say) to this very measurement, on paths (docs/control.md), and"
        " keep it as h.safetensors beside the samples."
    ),
)
@click.option("--seed", default=0, show_default=True)
@click.option("--batch", default=64, show_default=True, help="Samples drawn at once.")
@out_option("samples")
@click.option("--resize", is_flag=True, help="Bring the picture and the mask to the size that is needed.")
@click.option("--convert", is_flag=True, help="Bring the picture to the prior's channels (grey or RGB).")
@common.range_option
@common.array_option
@common.shard_option
@common.device_option
@overwrite_option
@json_option
def sample(
    run: Path | None,
    measurement: Path | None,
    reward: str | None,
    beta: float | None,
    label: int | None,
    row: int,
    mask: Path | None,
    mask_hole: str,
    samples: int,
    method: str | None,
    pairs: tuple[str, ...],
    prior_option: str | None,
    prior_options: tuple[str, ...],
    task: str | None,
    task_options: tuple[str, ...],
    sigma_y: float | None,
    sampler: str | None,
    eta: float | None,
    steps: int | None,
    spacing: str | None,
    tuned: bool,
    scale: float,
    refine: int,
    seed: int,
    batch: int,
    out: Path,
    resize: bool,
    convert: bool,
    value_range: str | None,
    shard_prior: bool,
    device: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw samples of what a measurement leaves open.

    \b
    deft sample run --measurement photo.png --mask mask.png -n 8 --out filled
    deft sample --prior fashion --task sr4 --method pigdm --measurement small.png --out large
    deft sample --reward fashion-classifier --label 7 --out sneakers

    RUN is a folder made by `deft fit`; without one, a training-free method is used. Writes sample-000.png, ...,
    mean.png, spread.png, sheet.png (all of them side by side), samples.npz and sample.json.
    """
    output = Output(as_json)
    where = common.get_device(device)
    # the whole of a prior that is spread out may not fit elsewhere
    first = torch.device("cpu") if shard_prior else where
    fitted = None
    card: dict[str, Any] = {}
    if (measurement is None) == (reward is None):
        raise InputError("give --measurement, what was seen, or --reward, what is preferred: one of the two")
    if reward is None and (beta is not None or label is not None):
        raise InputError("--beta and --label are for --reward")
    if reward is not None and (refine or mask is not None or task is not None or sigma_y is not None):
        raise InputError(
            "a --reward is no measurement: leave --task, --sigma-y, --mask and --refine out (deft fit --start-from fits"
            " an h on)"
        )
    if run is not None:
        found = common.load_run(run, prior_option, first, prior_options)
        fitted, chosen, card, prior = found.h.to(where), found.task, dict(found.card), found.prior
        name = prior.loaded_as
        if task is not None and task != chosen.name:
            raise InputError(
                f"{run} was fitted to the task {chosen.name}, not {task}: leave --task out, or fit one to {task}"
            )
        if isinstance(chosen, Tilt) != (reward is not None):
            want = f"--reward {chosen.source}" if isinstance(chosen, Tilt) else "--measurement"
            raise InputError(f"{run} was fitted to the task {chosen.name}: give {want}")
        if isinstance(chosen, Tilt) and reward is not None:
            made_of = common.make_tilt(
                reward,
                chosen.beta if beta is None else beta,
                label if label is not None or chosen.label < 0 else chosen.label,
            )
            if made_of != chosen:
                output.say(
                    f"warning: {run} was fitted to another reward ({described(chosen)}; this is {described(made_of)}):"
                    " its h knows nothing of this one"
                )
            chosen = made_of
        if task_options:
            raise InputError(f"{run} knows its task: leave --task-option out, or fit an h to that task")
        own = None if measurement is None or sigma_y is not None else measured_with(measurement, chosen.name)
        if own is not None and own != chosen.sigma_y:
            output.say(
                f"note: {measurement} was measured with sigma_y {own:g}, and h is told the {chosen.sigma_y:g} it was"
                f" fitted at: --sigma-y {own:g} tells it so"
            )
        if sigma_y is not None:
            output.say(f"note: h was fitted at sigma_y {chosen.sigma_y}; it is told the noise is {sigma_y}")
            chosen = task_from(type(chosen), chosen.config() | {"sigma_y": sigma_y})
        domain = common.domain_for(prior)
    else:
        name = prior_option or "fashion"
        prior = common.find_prior(name, first, prior_options)
        domain = common.domain_for(prior)
        chosen = (
            common.make_task(task, sigma_y, None, task_options, measurement, domain)
            if reward is None
            else common.make_tilt(reward, beta, label)
        )
    which = method or (("pigdm" if reward is None else "tds") if fitted is None else kind_of(fitted))
    made = plan(
        which,
        chosen.name if tuned or not METHODS[which].trained else None,
        settings=common.parse_settings(pairs),
        sampler=sampler,
        eta=eta,
        steps=steps,
        spacing=spacing,
    )
    if METHODS[which].sampler is not None and (eta is not None or sampler is not None):
        raise InputError(f"{which} has steps of its own: leave --sampler and --eta out")
    if refine < 0 or (refine and not isinstance(fitted, DEFT)):
        raise InputError(
            f"--refine takes a number of steps and a RUN whose h is a DEFT, got {refine}"
            + ("" if fitted is None else f" and a {kind_of(fitted)}")
        )
    made.make(prior, fitted)  # what cannot be made is said before anything is read
    if samples < 1:
        raise InputError(f"-n must be at least 1, got {samples}")
    prior = common.spread_out(prior, shard_prior)
    shape = prior.data_shape
    common.check_batch(min(batch, samples) if batch > 0 else batch, shape)
    if not scale >= 0:
        raise InputError(f"--scale must be 0 or more, got {scale}")

    if measurement is None:
        obs = chosen.check(shape)
        extra: dict[str, Any] = {}
        skipped: list[str] = []
    else:
        read = common.read_measured(
            measurement,
            chosen,
            domain,
            shape,
            row=row,
            mask=mask,
            mask_hole=mask_hole,
            resize=resize,
            convert=convert,
            value_range=value_range,
        )
        obs, extra, skipped = read.obs, dict(read.arrays), list(read.skipped)
    theirs = card.get("measurement")
    if isinstance(theirs, dict) and "sha256" in theirs and theirs["sha256"] != obs.fingerprint():
        output.say(
            f"warning: {run} was fitted to one measurement ({theirs.get('file')}), and this is another: its h knows"
            " nothing of it. Fit one to this measurement, or to pairs"
        )
    open_folder(out, overwrite=overwrite)
    doubt = None if measurement is None else warning_from(prior, obs.to(where))
    if doubt:
        output.say(doubt)

    if refine and fitted is not None:
        refined = replace(found, h=fitted, prior=prior, task=chosen).refine(
            obs, refine, seed=seed, source=str(measurement)
        )
        save_h(out / "h.safetensors", refined.h, prior, chosen, **refined.card)
        fitted = refined.h

    # samples
    started = time.perf_counter()
    draws = made.draw(
        prior, obs.to(where), samples, fitted=fitted, scale=scale, seed=seed, batch=batch, progress=common.bars()
    ).cpu()
    seconds = time.perf_counter() - started
    warnings = sample_warnings(
        prior, None if measurement is None else obs.to(where), draws.x[0].to(where), seed=seed, what=str(measurement)
    )

    # what is written
    x, mean = draws.x[0], draws.mean[0]
    bounded = x if domain.bounds is None else x.clamp(*domain.bounds)
    std = bounded.std(0) if samples > 1 else torch.zeros_like(mean)
    files = [path for i, one in enumerate(x) for path in domain.write(out, f"sample-{i:03d}", one)] + domain.write(
        out, "mean", mean
    )
    title = f"{chosen.title}: {made.method.title}, {made.calls(samples):.0f} calls of the prior"
    shown = domain.draw_pictures(x, std, None if measurement is None else obs, title)
    for file, png in shown.items():
        write_bytes(out / file, png)
    save_arrays(out / "samples.npz", samples=x, mean=mean, spread=std, y=obs.y[0], **extra)
    residual = (
        float(residual_rms(x, obs.repeat(samples)).mean())
        if obs.likelihood.residual(obs.y, x[:1]) is not None
        else None
    )
    liked = float(obs.repeat(samples).log_prob(x).mean()) * chosen.beta if isinstance(chosen, Tilt) else None
    about = {
        "out": str(out),
        "task": chosen.config(),
        "prior": name,
        "run": None if run is None else str(run),
        "plan": made.config(),
        "samples": samples,
        "seed": seed,
        "scale": scale,
        "seconds": round(seconds, 3),
        "calls": made.calls(samples),
        "residual": residual,
        "reward": liked,
        "warnings": warnings,
        "diagnosis": diagnosis(draws),
        "spread": float(std.mean()),
        "skipped": skipped,
    }
    write_json(out / "sample.json", about)
    noise = typical_noise(obs.repeat(samples), x)
    obeyed = "" if residual is None else f"; residual {residual:.4f} (the measurement's noise is {noise:.4g})"
    obeyed = obeyed if liked is None else f"; mean reward {liked:.4g}"
    output.say(f"{samples} samples in {seconds:.1f} s{obeyed}")
    if draws.diagnostics is not None:
        output.say(summary(draws))
    for line in warnings:
        output.say(line)
    singles = [f.name for f in files if "-" not in f.stem]
    output.say(
        "wrote"
        f" {', '.join(str(out / name) for name in [*sorted(shown), files[0].name + ' ...', *singles, 'samples.npz'])}"
    )
    output.result(about)


def diagnosis(draws: Draws) -> dict[str, float]:
    """How drawing went for one measurement, as sample.json has it: of particles and of chains; nothing of samples drawn
    one by one."""
    how = draws.diagnostics
    if isinstance(how, ParticleDiagnostics) and draws.log_evidence is not None:
        return {
            "log_evidence": float(draws.log_evidence[0]),
            "effective": float(how.ess_fraction[0, -1]),
            "resampled": float(how.resampled[0]),
        }
    if isinstance(how, ChainDiagnostics):
        return {
            "accepted": float(how.accepted[0].mean()),
            "step": float(how.step_size[0]),
            "rise": float(how.rise[0].mean()),
        }
    return {}


def summary(draws: Draws) -> str:
    """The same in words."""
    found = diagnosis(draws)
    if "log_evidence" in found:
        return (
            f"particles: log p(y) about {found['log_evidence']:.1f}, {100 * found['effective']:.0f} % of them effective"
            f" at the end, resampled {found['resampled']:.0f} times"
        )
    return (
        f"chains: {100 * found['accepted']:.0f} % of their moves accepted; log w rose by {found['rise']:.1f} in the"
        " last quarter (while it rises by more than it wanders, give more --set iterations=)"
    )


def described(tilt: Tilt) -> str:
    return f"{tilt.source}, beta {tilt.beta:g}" + (f", label {tilt.label}" if tilt.label >= 0 else "")


def measured_with(path: Path, name: str) -> float | None:
    """sigma_y of a measurement file that says it is of this task."""
    try:
        task = task_of(path)
    except InputError:  # told when it is read, or of no concern to a run that knows its task
        return None
    return task.sigma_y if task is not None and task.name == name else None
