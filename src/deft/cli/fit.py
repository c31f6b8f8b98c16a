"""deft fit"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import click
from click.core import ParameterSource

from deft.cli import common
from deft.cli.common import DATA_HELP, Name, Output, json_option, out_option, overwrite_option
from deft.cli.control import OFF_POLICY, fit_by_importance, fit_on_paths, listed, make_objective
from deft.cli.numbers import Number, Numbers
from deft.cli.sections import Sections, section
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.io.arrays import array_headers
from deft.io.folders import FIT_FILES, Outputs, own_folder
from deft.io.h_files import KINDS
from deft.io.tasks import TASKS
from deft.kinds.domain import Data, Domain
from deft.learned.deft import GUIDES, OLD_GUIDES, UNITS
from deft.methods import METHODS
from deft.recipe import Recipe, fit_h
from deft.recipe.data import TrainingData, drawn_arrays, read_unknown, training_data, unknown_pairs, unknown_task
from deft.recipe.fit import build_h
from deft.runtime.messages import log
from deft.train.augment import FLIPS
from deft.train.data import Pairs
from deft.train.denoising import WEIGHTINGS
from deft.train.fit import FitConfig, launched_config
from deft.train.levels import level_table
from deft.train.objectives import OBJECTIVES
from deft.train.prior_samples import draw_prior_samples
from deft.values import (
    CountOrNone,
    Deviation,
    FitSteps,
    Focus,
    Index,
    Part,
    Range,
    Rate,
    Rows,
    Seconds,
    Seed,
    Share,
    Steps,
    Width,
)
from deft.workflow.sampling import read_measured

DEFAULTS = Recipe()
PATHS: dict[str, Any] = {"steps": 300, "batch": 16, "warmup": 20, "ema": 0.98, "lr": 2e-3}
"""Defaults for objectives on paths, where a batch costs batch x chain calls of the prior."""
IMPORTANCE: dict[str, Any] = {"steps": 300, "warmup": 100, "ema": 0.999, "lr": 2e-3}
"""Defaults for importance, where a round is a fit of its own."""


OUTPUTS = Outputs(
    "fit", (*FIT_FILES, r"round-\d+/state\.pt", r"prior-samples/prior-samples-[0-9a-f]{12}-\d{7,}\.safetensors")
)


@click.command(cls=Sections)
@click.option(
    "--prior",
    "prior_option",
    type=common.SOURCE,
    default="fashion",
    show_default=True,
    help=(
        "A bundled prior, a file or folder (ours, diffusers', guided-diffusion's), FILE.py:FUNCTION, or the URL of"
        " `deft serve`."
    ),
)
@click.option(
    "--task",
    type=Name("task", TASKS),
    help=(
        "What is measured; A+B: A, and then B of it.  [default: what a --measurement file says, else inpaint; with"
        " --pairs unknown]"
    ),
)
@click.option(
    "--data",
    type=common.SOURCE,
    help=DATA_HELP
    + " Every step draws new masks and new noise. Without --data, h is fitted to samples of the prior alone.",
)
@click.option(
    "--pairs",
    type=common.FilePath(),
    help=(
        "Instead of --data: an .npz of your own pairs, x and y (and mask). Without --task nobody needs to know how y"
        " was made (docs/pairs.md); then also a folder that holds the folders x and y, or one of x with --degraded."
    ),
)
@click.option(
    "--held-out",
    type=common.SOURCE,
    help="Data for the held-out loss, read like --data, or pairs, read like --pairs.  [default: a tenth of the data]",
)
@out_option("run")
@common.size_option
@click.option(
    "--steps",
    type=Number(FitSteps),
    default=DEFAULTS.steps,
    show_default=f"{DEFAULTS.steps}; with --objective {PATHS['steps']}",
    help="Training steps.",
)
@click.option(
    "--seconds", type=Number(Seconds), help="Time limit of the fit. The learning rate falls to its end within it."
)
@click.option("--seed", type=Number(Seed), default=0, show_default=True, help="Of all random numbers.")
@click.option("--resume", is_flag=True, help="Resume a fit that was stopped, with the same settings.")
@section(
    "Task and measurement",
    click.option(
        "--sigma-y",
        type=Number(Deviation),
        help=(
            "Standard deviation of the measurement noise, in units of the prior's samples (images: [-1, 1])."
            "  [default: the task's]"
        ),
    ),
    common.task_option_option,
    click.option(
        "--hole",
        type=Numbers(Part, 1, 2),
        help="Smallest and largest side of a hole, as fractions of the image's side (inpaint).",
    ),
    click.option(
        "--measurement",
        type=common.FilePath(),
        help="With --objective, instead of --data: the measurement, as in `deft sample`.",
    ),
    click.option(
        "--row",
        type=Number(Index),
        default=0,
        show_default=True,
        help="Which measurement of a measurement file, from 0.",
    ),
    click.option(
        "--mask",
        type=common.FilePath(),
        help="With --measurement: white is seen, black is the hole (inpaint).",
    ),
    click.option(
        "--mask-hole",
        type=Name("mask colour", ("black", "white")),
        default="black",
        show_default=True,
        help="The colour of the hole in --mask.",
    ),
)
@section(
    "Reading the prior and the data",
    click.option(
        "--degraded",
        type=common.FilePath(),
        help="With --pairs CLEAN, a folder, and no --task: the folder of y, files of the same names.",
    ),
    common.prior_option_option,
    common.trust_code_option,
    common.reading_options,
)
@section(
    "Form of h",
    click.option(
        "--method",
        type=Name("method", KINDS),
        default="deft",
        show_default=True,
        help="What is fitted: deft, or one of its baselines (docs/methods.md).",
    ),
    click.option(
        "--width",
        type=Number(Width),
        help="Channels of h, instead of --size: for a prior whose number of parameters is unknown.",
    ),
    click.option(
        "--start-from",
        "start",
        type=common.SOURCE,
        help=(
            "Initialise from another h of this prior, of the same task or another one: a run folder, or a task such as"
            " `inpaint` for the bundled h. Its size and form are kept."
        ),
    ),
    click.option(
        "--units",
        type=Name("units", UNITS),
        default="v",
        show_default=True,
        help="Units of the network's output (eps: as in the paper).",
    ),
    click.option(
        "--gate/--no-gate",
        default=True,
        show_default=True,
        help="A learned weight of the guide for each entry (--no-gate: as in the paper).",
    ),
    click.option(
        "--guide",
        type=Name("guide", GUIDES, old=OLD_GUIDES),
        default="preconditioned",
        show_default=True,
        help="The likelihood's gradient: preconditioned by its curvature, or score, without it as in the paper.",
    ),
    click.option(
        "--n2-start",
        type=Number(Annotated[float, Range(-1000, 1000)]),
        default=None,
        help="Initial weight of the guide.  [default: the library's]",
    ),
)
@section(
    "How it is fitted",
    click.option(
        "--batch",
        type=Number(Rows),
        default=DEFAULTS.batch,
        show_default=f"{DEFAULTS.batch}; with --objective {PATHS['batch']} paths",
        help="Rows of a training step.",
    ),
    click.option("--lr", type=Number(Rate), default=DEFAULTS.lr, show_default=True, help="Learning rate."),
    click.option(
        "--warmup",
        type=Number(CountOrNone),
        default=DEFAULTS.warmup,
        show_default=f"{DEFAULTS.warmup}; with --objective {PATHS['warmup']}",
        help="Steps in which the learning rate rises.",
    ),
    click.option(
        "--ema",
        type=Number(Part),
        default=DEFAULTS.ema,
        show_default=f"{DEFAULTS.ema}; with --objective {PATHS['ema']}",
        help="Decay of the averaged weights.",
    ),
    click.option(
        "--weighting",
        type=Name("weighting", WEIGHTINGS),
        default="between",
        show_default=True,
        help="Weighting of the loss over noise levels (eps: as in the paper).",
    ),
    click.option(
        "--focus",
        type=Number(Focus),
        default=3.0,
        show_default=True,
        help="Noise levels are drawn with density u^(focus - 1): 1 is uniform, larger values draw more high noise.",
    ),
    click.option(
        "--even",
        type=Number(Share),
        default=0.5,
        show_default=True,
        help="Share of the noise levels that are drawn uniformly in log noise instead.",
    ),
    click.option(
        "--prior-samples",
        type=Number(CountOrNone),
        help=(
            "Number of samples of the prior that are added to the data; 0 for none.  [default: enough that no sample"
            " is seen too often (docs/fit.md)]"
        ),
    ),
    click.option(
        "--samples-folder",
        type=common.FilePath(),
        help=("Folder for samples of the prior; fits of other tasks can share it.  [default: prior-samples in --out]"),
    ),
    click.option(
        "--cache",
        "--bank",
        "cache",
        type=Number(CountOrNone),
        help=(
            "Size of the prediction cache: the prior runs once on this many noisy draws, which the fit uses again and"
            " again; 0 for none.  [default: by steps and memory (docs/cache.md)]"
        ),
    ),
    click.option(
        "--fresh",
        type=Number(Part),
        help=(
            "Share of each batch that is new draws instead of cached ones.  [default: 0, or 1/8 where memory limits"
            " the cache]"
        ),
    ),
    click.option(
        "--flips",
        type=Name("flips", FLIPS),
        help=(
            "With --pairs without --task, y of x's size: x and y of a pair flipped alike, left and right (mirror) or in"
            " all ways (all). Only where flipped pairs are pairs, too.  [default: none]"
        ),
    ),
    click.option(
        "--patience",
        type=Number(CountOrNone),
        default=DEFAULTS.patience,
        show_default=True,
        help="End early after this many evaluations (of 20) without a lower held-out loss; 0 for never.",
    ),
    click.option(
        "--interval-images",
        type=Number(CountOrNone),
        default=DEFAULTS.interval_images,
        show_default=f"{DEFAULTS.interval_images}, fewer where the fit is short",
        help="Held-out samples that intervals are checked on after the fit (docs/trust.md); 0 for none.",
    ),
)
@section(
    "Without data: an h for one measurement or reward",
    click.option(
        "--objective",
        type=Name("objective", [*OBJECTIVES, "importance"]),
        help=(
            f"Learn h without data (docs/control.md): {listed([*OBJECTIVES])} from one --measurement and its"
            " likelihood; importance from all measurements of a file, for these and similar ones."
        ),
    ),
    common.reward_options,
    click.option(
        "--chain", type=Number(Steps), default=50, show_default=True, help="With --objective: sampler steps of a path."
    ),
    click.option(
        "--subset",
        type=Number(Steps),
        help="With --objective: differentiate this many random steps of a path instead of all (unbiased).",
    ),
    click.option(
        "--drawn-by",
        type=Name("method", METHODS),
        help=f"With {listed(OFF_POLICY)}: the method that draws the paths, instead of h.",
    ),
    click.option(
        "--rounds",
        type=Number(Annotated[int, Range(1, 10_000)]),
        default=4,
        show_default=True,
        help="With importance: rounds of drawing paths and fitting to the weighted ones; each has --steps steps.",
    ),
    click.option(
        "--paths",
        type=Number(Annotated[int, Range(1, 10_000)]),
        default=8,
        show_default=True,
        help="With importance: paths of each measurement.",
    ),
    click.option(
        "--warm",
        type=Number(CountOrNone),
        default=0,
        show_default=True,
        help="With --objective: anneal the log-likelihood over this many steps, from a thousandth of it.",
    ),
    click.option(
        "--log-z-rate", type=Number(Rate), default=0.05, show_default=True, help="With tb: step size of log Z."
    ),
)
@section(
    "Machine and output",
    common.device_option,
    click.option("--bf16", is_flag=True, help="Autocast to bfloat16."),
    common.accumulate_option,
    common.streams_option,
    common.shard_option,
    overwrite_option,
    json_option,
)
def fit(**asked: Any) -> None:
    """Fit an h-transform to a frozen prior.

    \b
    deft fit --data fashion --task inpaint --out run
    deft fit --prior my-prior --data photos/ --task sr4 --seconds 300 --out run
    deft fit --prior my-prior --task sr4 --out run
    deft fit --pairs clean/ --degraded damaged/ --out run
    deft fit --objective kl --measurement small.png --task sr4 --out run
    deft fit --objective kl --reward taste.py:brightness --beta 0.1 --out run

    Samples of the prior are added to the data, so that a long fit does not overfit a few samples. Without --data, h is
    fitted to these samples alone. Writes h.safetensors, card.md, log.json and state.pt (for --resume) into the folder
    --out. Ctrl-C saves the fit.
    """
    given = Asked(**asked)
    given.check()
    given.run(Output(given.as_json))


@dataclass(frozen=True)
class Asked:
    """What the options say; field by field as above."""

    prior_option: str
    prior_options: tuple[str, ...]
    task: str | None
    data: str | None
    pairs: Path | None
    degraded: Path | None
    held_out: str | None
    out: Path
    size: float
    steps: int
    seconds: float | None
    seed: int
    resume: bool
    sigma_y: float | None
    task_options: tuple[str, ...]
    hole: tuple[float, ...] | None
    measurement: Path | None
    row: int
    mask: Path | None
    mask_hole: str
    skip_bad: bool
    resize: bool
    convert: bool
    value_range: str | None
    method: str
    width: int | None
    start: str | None
    units: str
    gate: bool
    guide: str
    n2_start: float | None
    batch: int
    lr: float
    warmup: int
    ema: float
    weighting: str
    focus: float
    even: float
    prior_samples: int | None
    samples_folder: Path | None
    cache: int | None
    fresh: float | None
    flips: str | None
    patience: int
    interval_images: int
    objective: str | None
    reward: str | None
    beta: float | None
    label: int | None
    chain: int
    subset: int | None
    drawn_by: str | None
    rounds: int
    paths: int
    warm: int
    log_z_rate: float
    device: str | None
    bf16: bool
    accumulate: int
    streams: bool
    shard_prior: bool
    overwrite: bool
    as_json: bool

    def check(self) -> None:
        """Options that do not go together."""
        self._check_unknown()
        alone, paired, paths = self.objective is None, self.pairs is not None, self.objective is not None
        fixed = paired and not self.unknown
        if (self.cache or 0) < 0 or (self.cache and fixed):
            raise InputError(
                "--cache takes a number of draws (at least 1, or 0 for none), and is not for --pairs with a --task; got"
                f" {self.cache}"
            )
        if self.unknown and self.prior_samples:
            raise InputError(
                "samples of the prior cannot be further pairs: nobody knows how to make a y of them. Leave"
                " --prior-samples out"
            )
        if (self.prior_samples or 0) < 0 or (self.prior_samples and (paired or paths)):
            raise InputError(
                "--prior-samples takes a number (at least 1, or 0 for none), and is not for --pairs or --objective;"
                f" got {self.prior_samples}"
            )
        if (self.fresh is not None and (fixed or paths)) or (self.samples_folder is not None and (paired or paths)):
            raise InputError(
                "--fresh and --samples-folder belong to the cache and the samples of the prior, which --pairs and"
                " --objective do not have: leave them out"
            )
        if alone and (self.mask is not None or self.subset is not None or self.drawn_by is not None or self.warm):
            raise InputError(
                "--mask, --subset, --drawn-by and --warm are for a fit to one --measurement with --objective"
            )
        if alone and self.data is not None and paired:
            raise InputError(
                "give --data (samples, with new measurements at every step) or --pairs (your own x and y), not both"
            )
        if alone and self.data is None and not paired and self.prior_samples == 0:
            raise InputError("nothing to fit to: give --data, --pairs, or a --prior-samples above 0")
        reading = ("skip_bad", "resize", "convert", "value_range", "recursive", "array")
        if self.data is None and not paired and self.measurement is None and not all(map(_by_default, reading)):
            raise InputError(
                "--skip-bad, --resize, --convert, --range, --recursive and --array say how files are read, and none is"
                " given: leave them out"
            )
        self._check_objective()

    @cached_property
    def unknown(self) -> bool:
        """Pairs alone: nobody says how y was made. A file that holds what only an operator needs (a mask) is of the
        usual task, as it was before there were such pairs."""
        if self.pairs is None or not _by_default("task"):
            return False
        return not (self.pairs.is_file() and drawn_arrays() & set(array_headers(self.pairs)))

    def _check_unknown(self) -> None:
        """Options of a fit to pairs without a task."""
        if self.unknown and (self.task_options or self.sigma_y is not None or self.hole is not None):
            raise InputError(
                "--task-option, --sigma-y and --hole are settings of a task: name it with --task, or leave them out"
                " (pairs alone know no operator and no noise)"
            )
        if not self.unknown and (self.degraded is not None or self.flips is not None):
            raise InputError(
                "--degraded and --flips are for --pairs without --task: with a task pairs are an .npz of x, y and what"
                " is drawn for each"
            )

    def _check_objective(self) -> None:
        """Options of a fit without data."""
        if self.measurement is not None and self.reward is not None:
            raise InputError("give --measurement or --reward, one of the two")
        if (self.objective is None) != (self.measurement is None and self.reward is None):
            raise InputError(
                "--objective goes together with --measurement or --reward: an h for one condition, learned on paths"
                " without data"
            )
        if self.reward is None and (self.beta is not None or self.label is not None):
            raise InputError("--beta and --label are for --reward")
        named = not _by_default("task") or self.task_options or self.sigma_y is not None or self.hole is not None
        if self.reward is not None and (self.objective == "importance" or self.mask is not None or named):
            raise InputError(
                "a --reward is no task: leave --task, --task-option, --sigma-y, --hole and --mask"
                f" out, and give {listed([*OBJECTIVES])}"
            )
        if self.objective is not None and (
            self.data or self.pairs or self.held_out or self.method != "deft" or self.cache
        ):
            raise InputError(
                "--objective learns a deft h from --measurement alone: leave --data, --pairs, --held-out, --cache and"
                " --method out"
            )
        if self.objective == "importance" and (self.subset is not None or self.drawn_by is not None or self.warm):
            raise InputError(
                "importance draws its own paths, round by round: leave --subset, --drawn-by and --warm out"
            )

    def recipe(self) -> Recipe:
        """How h is built and fitted; objectives on paths have other defaults."""
        given: dict[str, Any] = {
            "steps": self.steps,
            "batch": self.batch,
            "warmup": self.warmup,
            "ema": self.ema,
            "lr": self.lr,
        }
        if self.objective is not None:
            given |= {
                k: v for k, v in (IMPORTANCE if self.objective == "importance" else PATHS).items() if _by_default(k)
            }
            if _by_default("warmup"):
                # a few batches of kl are a whole fit
                given["warmup"] = min(given["warmup"], max(1, given["steps"] // 4))
        if self.start is not None and (self.method != "deft" or self.width is not None):
            raise InputError(
                "--start-from is for deft, and takes the width of the h it starts from: leave --method and --width out"
            )
        if self.width is not None and self.method != "deft":
            raise InputError(f"--width is for deft; {self.method} takes --size")
        if self.width is not None and self.width < 2:
            raise InputError(f"--width must be at least 2, got {self.width}")
        form = {k: getattr(self, k) for k in ("units", "guide", "gate", "n2_start") if not _by_default(k)}
        if form and (self.start is not None or self.method != "deft"):
            raise InputError(
                "--units, --gate, --guide and --n2-start say what form a new deft has: leave them out with --start-from"
                " and other methods"
            )
        patience = 0 if self.objective is not None and _by_default("patience") else self.patience
        return Recipe(
            method=self.method,
            size=self.size,
            width=self.width,
            options=form,
            start_from=self.start or "",
            seconds=self.seconds,
            prior_samples=self.prior_samples,
            cache=self.cache,
            fresh=self.fresh,
            flips=self.flips or "",
            patience=patience,
            interval_images=self.interval_images,
            weighting=self.weighting,
            focus=self.focus,
            even=self.even,
            seed=self.seed,
            bf16=self.bf16,
            accumulate=self.accumulate,
            streams=self.streams,
            **given,
        )

    def run(self, output: Output) -> None:
        """Read, fit, write."""
        recipe = self.recipe()
        # what the launcher and the options say otherwise is said before anything is read
        launched_config(recipe.fit_config(recipe.steps, recipe.seconds))
        where = common.get_device(self.device)
        prior = common.spread_out(
            common.find_prior(self.prior_option, "cpu" if self.shard_prior else where, self.prior_options),
            self.shard_prior,
        )
        shape = prior.data_shape
        common.check_batch(common.own_part(recipe.batch, self.accumulate), shape)
        task, data = self._of_pairs(prior) if self.unknown else (self._task(common.domain_for(prior)), None)
        task.check(shape)
        if self.objective is not None:
            self._on_paths(output, prior, task, recipe, where)
            return
        data = self._read(prior, task) if data is None else data
        with self._folder():
            self._fit(output, prior, task, data, recipe, where)

    def _folder(self) -> AbstractContextManager[Path]:
        """--out, held by this process alone."""
        read = (self.start, self.data, self.pairs, self.degraded, self.held_out, self.measurement, self.mask)
        return own_folder(
            self.out, OUTPUTS, overwrite=self.overwrite, resume=self.resume, inputs=(self.prior_option, *read)
        )

    def _fit(self, output: Output, prior: Denoiser, task: Any, data: TrainingData, recipe: Recipe, where: Any) -> None:
        """Fit to data, write, and say how it went."""
        domain = common.domain_for(prior)
        fitted = fit_h(
            prior,
            task,
            data,
            recipe=recipe,
            folder=self.out,
            samples_folder=self.samples_folder,
            resume=self.resume,
            device=where,
            callback=common.show_evaluation,
            trust_code=common.trusts_code(),
        )
        card = fitted.save(self.out)
        result = fitted.result
        assert result is not None
        output.say(
            f"{result.steps} steps in {fitted.seconds:.0f} s; held-out loss {result.held_out[result.weights]:.4f} at"
            f" step {result.best_step} ({result.weights} weights; raw {result.held_out['raw']:.4f}, averaged"
            f" {result.held_out['ema']:.4f})"
        )
        output.say(
            f"\nmean squared error of E[x_0 | x_t, y] on held-out {domain.title}:\n" + level_table(fitted.levels)
        )
        output.say(
            f"\nwrote {self.out}/h.safetensors; next: deft sample {self.out} --help, or deft evaluate {self.out} --help"
        )
        output.result({"out": str(self.out), "card": card, "history": result.history})

    def _task(self, domain: Domain) -> Any:
        if self.reward is not None:
            return common.make_tilt(self.reward, self.beta, self.label)
        return common.make_task(self.task, self.sigma_y, self.hole, self.task_options, self.measurement, domain)

    def _of_pairs(self, prior: Denoiser) -> tuple[Any, TrainingData]:
        """The task and the data of --pairs without --task, and of --held-out."""
        assert self.pairs is not None
        domain, shape = common.domain_for(prior), prior.data_shape
        reading = common.reading(self.skip_bad, self.resize, self.convert, self.value_range)
        found = read_unknown(self.pairs, self.degraded, domain, shape, reading)
        for note in found.notes:
            log.info(note)
        task = unknown_task(prior, (found.x, found.y), pictures=found.pictures)
        pairs = unknown_pairs(prior, task, (found.x, found.y))
        held = None
        if self.held_out is not None:
            other = read_unknown(Path(self.held_out), None, domain, shape, reading)
            held = unknown_pairs(prior, task, (other.x, other.y))
        return task, training_data(prior, pairs, held, self.seed, str(self.pairs))

    def _read(self, prior: Denoiser, task: Any) -> TrainingData:
        """--data or --pairs, and --held-out."""
        domain, shape = common.domain_for(prior), prior.data_shape
        reading = common.reading(self.skip_bad, self.resize, self.convert, self.value_range)

        def samples(source: str | None, split: str) -> Data | None:
            return (
                common.load_data(domain, source, split, shape, reading, held_out=split == "validation")
                if source
                else None
            )

        def pairs(path: Path) -> Pairs:
            return Pairs(*common.read_pairs(path, task, domain, shape, reading))

        if self.pairs is not None:
            return training_data(
                prior,
                pairs(self.pairs),
                pairs(Path(self.held_out)) if self.held_out else None,
                self.seed,
                str(self.pairs),
            )
        held_out = self.held_out
        if held_out is None and self.data is not None and common.is_bundled(domain, self.data):
            held_out = f"{self.data.partition(':')[0]}:validation"
        return training_data(
            prior, samples(self.data, "fit"), samples(held_out, "validation"), self.seed, str(self.data)
        )

    def _condition(self, prior: Denoiser, task: Any, row: int | None) -> Observation:
        """--measurement (row None: all of the file's), or what stands for a reward."""
        obs: Observation = task.check(prior.data_shape)
        if self.measurement is None:
            return obs
        reading = common.reading(False, self.resize, self.convert, self.value_range)
        reading |= {"row": row, "mask": self.mask, "mask_hole": self.mask_hole}
        return read_measured(self.measurement, task, common.domain_for(prior), prior.data_shape, **reading).obs

    def _path_config(self, recipe: Recipe) -> FitConfig:
        return launched_config(
            FitConfig(
                steps=recipe.steps,
                batch=recipe.batch,
                lr=recipe.lr,
                warmup=recipe.warmup,
                ema=recipe.ema,
                max_seconds=self.seconds,
                seed=self.seed,
                bf16=self.bf16,
                accumulate=self.accumulate,
                streams=self.streams,
                patience=recipe.patience,
            )
        )

    def _on_paths(self, output: Output, prior: Denoiser, task: Any, recipe: Recipe, where: Any) -> None:
        """--objective: an h for one measurement or reward, or for those of a file, without data."""
        assert self.objective is not None
        many = self.objective == "importance"
        obs = self._condition(prior, task, None if many else self.row)
        if not many:
            # what cannot be made is said before anything is written
            make_objective(self.objective, prior, self.chain, self.subset, self.drawn_by)
        with self._folder():
            self._fit_on_paths(output, prior, task, obs, recipe, where)

    def _fit_on_paths(
        self, output: Output, prior: Denoiser, task: Any, obs: Observation, recipe: Recipe, where: Any
    ) -> None:
        """The fit itself."""
        assert self.objective is not None
        many = self.objective == "importance"
        h = build_h(prior, task, recipe, common.trusts_code())
        h.calibrate(
            prior, draw_prior_samples(prior, 128, seed=self.seed, progress=common.bars()).x.to(prior.state_like())
        )
        config = self._path_config(recipe)
        if many:
            fit_by_importance(
                output,
                h,
                prior,
                task,
                obs,
                str(self.measurement),
                self.out,
                config,
                rounds=self.rounds,
                paths=self.paths,
                chain=self.chain,
                resume=self.resume,
                device=where,
                objective={"weighting": self.weighting, "focus": self.focus, "even": self.even},
            )
            return
        fit_on_paths(
            output,
            h,
            prior,
            task,
            obs,
            None if self.measurement is None else str(self.measurement),
            self.out,
            self.objective,
            config,
            chain=self.chain,
            subset=self.subset,
            drawn_by=self.drawn_by,
            warm=self.warm,
            rate=self.log_z_rate,
            resume=self.resume,
            device=where,
        )


def _by_default(name: str) -> bool:
    """Whether an option of this command was left to its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.DEFAULT
