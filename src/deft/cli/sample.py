"""deft sample"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import click
import torch

from deft.cli import common
from deft.cli.bundled import bundled_for
from deft.cli.common import Name, Output, json_option, out_option, overwrite_option
from deft.cli.numbers import Number, Real
from deft.core.denoiser import Denoiser
from deft.core.grid import SPACINGS
from deft.errors import InputError
from deft.io.h_files import load_covariance, needed_h
from deft.io.measurements import task_of
from deft.io.tasks import TASKS
from deft.io.text import count
from deft.kinds.records import task_from
from deft.learned import DEFT, LearnedCovariance, kind_of
from deft.likelihood.paste import BORDER
from deft.likelihood.task import Tilt
from deft.likelihood.unknown import UnknownTask
from deft.methods import METHODS, Plan, no_gradient, plan, takes_eta
from deft.recipe.fitted import FittedH
from deft.samplers import SAMPLERS
from deft.values import Deviation, Index, Range, Rows, Samples, Seed, Share, Steps
from deft.workflow.sampling import Sampled, Sampling


@click.command()
@click.argument("run", required=False, type=common.FilePath())
@click.option(
    "--measurement",
    type=common.FilePath(),
    help=(
        "A picture, .npz or .npy: the picture with a hole, the small picture (sr4), the noisy one; or a measurement"
        " file (.npz with y, `deft measure`)."
    ),
)
@common.reward_options
@click.option(
    "--row", type=Number(Index), default=0, show_default=True, help="Which measurement of a measurement file."
)
@click.option(
    "--mask",
    type=common.FilePath(),
    help="As large as the picture: white is seen, black is the hole (inpaint).",
)
@click.option(
    "--mask-hole",
    type=Name("mask colour", ("black", "white")),
    default="black",
    show_default=True,
    help="The colour of the hole in --mask.",
)
@click.option("-n", "--samples", type=Number(Samples), default=8, show_default=True, help="How many samples to draw.")
@click.option(
    "--method",
    type=Name("method", METHODS),
    help="[default: that of the run's h; pigdm without a run, tds for a reward without]",
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
    type=common.SOURCE,
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
    "--sigma-y",
    type=Number(Deviation),
    help=(
        "Deviation of the measurement's noise, in units of the prior's samples (images: [-1, 1])."
        "  [default: the task's]"
    ),
)
@click.option(
    "--sampler",
    type=Name("sampler", SAMPLERS),
    help="How the steps are made (docs/samplers.md).  [default: the method's; sde-dpmpp-2m for a fitted h]",
)
@click.option(
    "--eta",
    type=Number(Share),
    help=(
        "Noise of the samplers ddim and sde-dpmpp-2m: 0 none, 1 that of the reverse SDE.  [default: the method's; of"
        " training-free ones what was found for the task]"
    ),
)
@click.option(
    "--steps",
    type=Number(Steps),
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
    "--scale",
    type=Number(Real),
    default=1.0,
    show_default=True,
    help="Multiply h by this, on top of the method's own settings.",
)
@click.option(
    "--refine",
    type=Number(Annotated[int, Range(0, 1_000_000)]),
    default=0,
    show_default=True,
    help=(
        "With a run: fit its h on for so many steps (10, say) to this very measurement, on paths (docs/control.md), and"
        " keep it as h.safetensors beside the samples."
    ),
)
@click.option(
    "--covariance",
    type=common.FilePath(exists=True),
    help="For --method deft-covariance: a run of `deft fit --method covariance`.  [default: the prior's own, bundled]",
)
@click.option(
    "--paste",
    is_flag=True,
    help=(
        f"Put the measured pixels back into the pictures, blended over {BORDER} pixels at the hole's edge; for masks"
        " alone. What is written then is no sample of the posterior (docs/latent.md)."
    ),
)
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@click.option("--batch", type=Number(Rows), default=64, show_default=True, help="Samples drawn at once.")
@out_option("samples")
@click.option("--resize", is_flag=True, help="Bring the picture and the mask to the size that is needed.")
@click.option("--convert", is_flag=True, help="Bring the picture to the prior's channels (grey or RGB).")
@common.range_option
@common.array_option
@common.data_option_option
@common.shard_option
@common.network_options
@common.device_option
@overwrite_option
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the samples of the same command that was stopped: those that are there are not drawn again.",
)
@json_option
def sample(**asked: Any) -> None:
    """Draw samples of what a measurement leaves open.

    \b
    deft sample run --measurement photo.png --mask mask.png -n 8 --out filled
    deft sample --prior fashion --task sr4 --method pigdm --measurement small.png --out large
    deft sample --reward fashion-classifier --label 7 --out sneakers

    RUN is a folder made by `deft fit`. Without one, a training-free method is used; or --method deft, for bundled
    priors and the tasks whose h comes with the library; or --method covariance, which comes with the prior `fashion`
    and takes any linear task. Writes sample-000.png, ...,
    mean.png, spread.png, sheet.png (all of them side by side), samples.npz and sample.json. Of more samples than
    --batch, those that are drawn are written while the others are, and --resume goes on where it was stopped.
    """
    given = Asked(**asked)
    given.check()
    given.draw(Output(given.as_json))


@dataclass(frozen=True)
class Asked:
    """What the options say; field by field as above."""

    run: Path | None
    measurement: Path | None
    reward: str | None
    beta: float | None
    label: int | None
    row: int
    mask: Path | None
    mask_hole: str
    samples: int
    method: str | None
    pairs: tuple[str, ...]
    prior_option: str | None
    prior_options: tuple[str, ...]
    task: str | None
    task_options: tuple[str, ...]
    sigma_y: float | None
    sampler: str | None
    eta: float | None
    steps: int | None
    spacing: str | None
    tuned: bool
    scale: float
    refine: int
    covariance: Path | None
    paste: bool
    seed: int
    batch: int
    out: Path
    resize: bool
    convert: bool
    value_range: str | None
    shard_prior: bool
    device: str | None
    overwrite: bool
    resume: bool
    as_json: bool

    def check(self) -> None:
        """Options that do not go together."""
        if (self.measurement is None) == (self.reward is None):
            raise InputError("give --measurement, what was seen, or --reward, what is preferred: one of the two")
        if self.reward is None and (self.beta is not None or self.label is not None):
            raise InputError("--beta and --label are for --reward")
        if self.reward is not None and (
            self.refine or self.paste or self.mask is not None or self.task is not None or self.sigma_y is not None
        ):
            raise InputError(
                "a --reward is no measurement: leave --task, --sigma-y, --mask, --paste and --refine out (deft fit"
                " --start-from fits an h on)"
            )

    def draw(self, output: Output) -> None:
        """Read, draw, write."""
        where = common.get_device(self.device)
        work = self.resolve(output, where)
        done = work.run(
            self.out,
            self.measurement,
            overwrite=self.overwrite,
            resume=self.resume,
            progress=common.bars(),
            row=self.row,
            mask=self.mask,
            mask_hole=self.mask_hole,
            **common.reading(False, self.resize, self.convert, self.value_range),
        )
        self.report(output, done)

    def resolve(self, output: Output, where: torch.device) -> Sampling:
        """The prior, the task, h and the plan; what cannot be made is said before anything is read."""
        # the whole of a prior that is spread out may not fit elsewhere
        first = torch.device("cpu") if self.shard_prior else where
        if self.run is None:
            prior, task = self._training_free(first)
            name = self.prior_option or "fashion"
            known = self.method is not None and not self.prior_options
            needs = METHODS.get(self.method or "")
            if needs and needs.learned and self.measurement is not None and not self.measurement.exists():
                raise InputError(f"no such measurement: {self.measurement} does not exist")
            fitted = bundled_for(self.method or "", prior, name, task, output) if known else None
            fitted = None if fitted is None else replace(fitted, h=fitted.h.to(where))
        else:
            fitted = common.load_run(self.run, self.prior_option, first, self.prior_options)
            prior, task = fitted.prior, self._of_run(self.run, fitted, output)
            fitted = replace(fitted, h=fitted.h.to(where))
        made = self.plan(task, fitted)
        if isinstance(task, UnknownTask) and (
            reason := made.method.why_unsupported(task.check(prior.data_shape).likelihood)
        ):
            raise InputError(reason)
        if not prior.differentiable and (
            reason := no_gradient(made.method, prior, task.check(prior.data_shape).likelihood)
        ):
            raise InputError(reason)
        covariance = self._covariance(prior, made, first)
        made.make(prior, needed_h(made.method, prior, None if fitted is None else fitted.h, covariance))
        if self.samples < 1:
            raise InputError(f"-n must be at least 1, got {self.samples}")
        prior = common.spread_out(prior, self.shard_prior)
        common.check_samples(
            self.samples, prior.data_shape, self.out, kept=self.samples > self.batch and not made.joint
        )
        common.check_batch(min(self.batch, self.samples) if self.batch > 0 else self.batch, prior.data_shape)
        return Sampling(
            prior,
            task,
            made,
            fitted,
            samples=self.samples,
            seed=self.seed,
            scale=self.scale,
            batch=self.batch,
            refine=self.refine,
            paste=BORDER if self.paste else None,
            covariance=covariance,
            device=where,
            prior_name=(self.prior_option or "fashion") if fitted is None else prior.loaded_as,
            run_name=str(self.run) if self.run is not None else None if fitted is None else "bundled",
        )

    def _training_free(self, device: torch.device) -> tuple[Denoiser, Any]:
        """(prior, task) without a run."""
        prior = common.find_prior(self.prior_option or "fashion", device, self.prior_options)
        return prior, self._any_task(prior)

    def _any_task(self, prior: Denoiser) -> Any:
        """The task that the options and the measurement name."""
        domain = common.domain_for(prior)
        if self.reward is not None:
            return common.make_tilt(self.reward, self.beta, self.label)
        return common.make_task(self.task, self.sigma_y, None, self.task_options, self.measurement, domain)

    def _covariance(self, prior: Denoiser, made: Plan, device: torch.device) -> LearnedCovariance | None:
        """The learned covariance that --covariance names."""
        if self.covariance is None:
            return None
        if not made.method.beside:
            raise InputError(
                f"--covariance is for the method deft-covariance, got {made.method.name}: give that run in the place of"
                " RUN to draw with the covariance alone"
            )
        found = load_covariance(prior, self.covariance, trust_code=common.trusts_code())
        return common.lowered(found.to(device))

    def _of_run(self, run: Path, fitted: FittedH, output: Output) -> Any:
        """The task of a run: the reward, or the noise, that is asked for may be another."""
        task = fitted.task
        if fitted.h.of_prior:
            named = self.task or self.reward or (self.measurement and task_of(self.measurement))
            if not named:
                raise InputError(
                    f"{run} serves every linear task, and {self.measurement} does not say which it is of: name it with"
                    " --task"
                )
            return self._any_task(fitted.prior)
        if self.task is not None and self.task != task.name:
            raise InputError(
                f"{run} was fitted to the task {task.name}, not {self.task}: leave --task out, or fit one to"
                f" {self.task}"
            )
        if isinstance(task, Tilt) != (self.reward is not None):
            want = f"--reward {task.source}" if isinstance(task, Tilt) else "--measurement"
            raise InputError(f"{run} was fitted to the task {task.name}: give {want}")
        if isinstance(task, Tilt) and self.reward is not None:
            task = self._reward_of_run(run, task, self.reward, output)
        if self.task_options:
            raise InputError(f"{run} knows its task: leave --task-option out, or fit an h to that task")
        if isinstance(task, UnknownTask) and self.sigma_y is not None:
            raise InputError(f"{run} was fitted to pairs alone, which know no noise: leave --sigma-y out")
        told = self.measurement is None or self.sigma_y is not None
        own = None if told or self.measurement is None else measured_with(self.measurement, task.name)
        if own is not None and own != task.sigma_y:
            output.say(
                f"note: {self.measurement} was measured with sigma_y {own:g}, and h is told the {task.sigma_y:g} it was"
                f" fitted at: --sigma-y {own:g} tells it so"
            )
        if self.sigma_y is not None:
            output.say(f"note: h was fitted at sigma_y {task.sigma_y}; it is told the noise is {self.sigma_y}")
            task = task_from(type(task), task.config() | {"sigma_y": self.sigma_y})
        return task

    def _reward_of_run(self, run: Path, task: Tilt, reward: str, output: Output) -> Tilt:
        """The reward that is asked for; what is not said of it is the run's."""
        label = self.label if self.label is not None or task.label < 0 else task.label
        made_of = common.make_tilt(reward, task.beta if self.beta is None else self.beta, label)
        if made_of != task:
            output.say(
                f"warning: {run} was fitted to another reward ({described(task)}; this is {described(made_of)}):"
                " its h knows nothing of this one"
            )
        return made_of

    def plan(self, task: Any, fitted: FittedH | None) -> Plan:
        """The method with its settings."""
        usual = ("pigdm" if self.reward is None else "tds") if fitted is None else kind_of(fitted.h)
        which = self.method or usual
        made = plan(
            which,
            task.name if self.tuned or not METHODS[which].trained else None,
            settings=common.parse_settings(self.pairs),
            sampler=self.sampler,
            eta=self.eta,
            steps=self.steps,
            spacing=self.spacing,
        )
        if METHODS[which].sampler is not None and (self.eta is not None or self.sampler is not None):
            raise InputError(f"{which} has steps of its own: leave --sampler and --eta out")
        if self.eta is not None and not takes_eta(made.sampler):
            raise InputError(
                f"--eta is the noise of a sampler that has a choice, and {made.sampler} has none: leave it out"
            )
        if self.refine < 0 or (self.refine and not (fitted is not None and isinstance(fitted.h, DEFT))):
            raise InputError(
                f"--refine takes a number of steps and a RUN whose h is a DEFT, got {self.refine}"
                + ("" if fitted is None else f" and a {kind_of(fitted.h)}")
            )
        if self.refine and isinstance(task, UnknownTask):
            raise InputError(
                "--refine follows log p(y | x), and this h was fitted to pairs alone, which know none: leave it out"
            )
        return made

    def report(self, output: Output, done: Sampled) -> None:
        """How it went, in words."""
        about, residual, liked = done.about, done.about["residual"], done.about["reward"]
        obeyed = "" if residual is None else f"; residual {residual:.4f} (the measurement's noise is {done.noise:.4g})"
        obeyed = obeyed if liked is None else f"; mean reward {liked:.4g}"
        output.say(f"{count(self.samples, 'sample')} in {done.seconds:.1f} s{obeyed}")
        for line in [*summary(about["diagnosis"]), *about["warnings"], *trust_lines(about)]:
            output.say(line)
        if self.paste:
            output.say("what was measured was put back: what is written is no sample of the posterior any more")
        output.say(f"wrote {', '.join(str(self.out / name) for name in done.written)}")
        output.result(about)


def summary(found: dict[str, float]) -> list[str]:
    """How drawing went, in words: of particles and of chains; nothing of samples drawn one by one."""
    if "log_evidence" in found:
        return [
            f"particles: log p(y) about {found['log_evidence']:.1f}, {100 * found['effective']:.0f} % of them effective"
            f" at the end, resampled {found['resampled']:.0f} times"
        ]
    if "accepted" in found:
        return [
            f"chains: {100 * found['accepted']:.0f} % of their moves accepted; log w rose by {found['rise']:.1f} in the"
            " last quarter (while it rises by more than it wanders, give more --set iterations=)"
        ]
    return []


def trust_lines(about: dict[str, Any]) -> list[str]:
    """Whether the intervals hold for this measurement, in words; nothing without a fitted h, and of one sample."""
    if about["trust"] is not None:
        bad = about["trust"]["within"] is False
        return [("warning: " if bad else "") + about["trust"]["line"]]
    method = METHODS[about["plan"]["method"]]
    if about["run"] is None or about["samples"] < 2 or about["reward"] is not None or method.learned == "covariance":
        return []
    return [f"intervals of this h were never checked: deft calibrate {about['run']} --data DATA does (docs/trust.md)"]


def described(tilt: Tilt) -> str:
    return f"{tilt.source}, beta {tilt.beta:g}" + (f", label {tilt.label}" if tilt.label >= 0 else "")


def measured_with(path: Path, name: str) -> float | None:
    """sigma_y of a measurement file that says it is of this task."""
    try:
        task = task_of(path)
    except InputError:  # told when it is read, or of no concern to a run that knows its task
        return None
    return task.sigma_y if task is not None and task.name == name else None
