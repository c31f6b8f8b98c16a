"""A fitted h-transform with its prior and its task: what `deft.fit_h` returns and `deft.load` reads."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.arguments import checks_arguments
from deft.core.condition import fitted_to
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.random import Noise
from deft.core.sampler import Sampler
from deft.errors import CheckpointError, DeftError, InputError
from deft.io.files import load_weights, write_json, write_text
from deft.io.h_files import needed_h, save_h
from deft.io.measurements import observation, read_measurement
from deft.kinds.domain import domain_of
from deft.kinds.draws import Draws
from deft.learned import DEFT, Learned, kind_of
from deft.learned.base import count_parameters
from deft.likelihood.task import Tilt
from deft.likelihood.unknown import NO_OPERATOR, UnknownTask
from deft.methods import Plan, plan
from deft.prior import load_prior
from deft.prior.load import family_of, read_options
from deft.recipe.card_text import h_card_text
from deft.recipe.data import Source, held_out_samples, title_of, unknown_pairs
from deft.recipe.evaluation import Evaluation
from deft.recipe.guided import load_guided, surrogates_of
from deft.recipe.intervals import PRIOR_SAMPLES, CheckedIntervals, check_intervals
from deft.recipe.settings import Recipe, Sizes
from deft.runtime.distributed import get_world
from deft.runtime.messages import log, shown
from deft.samplers import sample_posterior
from deft.train.control import learn
from deft.train.fit import FitConfig, FitResult, launched_config
from deft.train.path import LogVariance, PathObjective, RelativeEntropy, has_derivative
from deft.train.prior_samples import draw_prior_samples
from deft.values import Rows, Samples, Seed, Steps, printable, quoted

Measured = Observation | Tensor | np.ndarray | str | Path
"""A measurement: an observation, y in model space as the task makes it (one, or a batch), or a measurement file
(`deft measure`)."""

CHAIN = 50
"""Steps of the paths that `refine` learns on."""


@dataclass(frozen=True)
class FittedH:
    """An h-transform fitted to a prior and a task.

    h: with the best weights, frozen. prior, task: what it was fitted to. recipe: how; None for an h from a file.
        result: of `fit`; sizes: what
    was drawn; spent: seconds of each part, and `seconds` of all. levels: squared errors on held-out samples by noise
    level, of the prior alone and with h (`deft.train.levels.level_errors`). warnings: what to know before using it.
    source: what it was fitted to, for people.
    card: what its file says, for an h from a file; `refine` and `save` add to it.
    """

    h: Learned
    prior: Denoiser
    task: Any
    recipe: Recipe | None = None
    sizes: Sizes | None = None
    result: FitResult | None = None
    levels: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    source: str = ""
    seconds: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.h.prior_sha256:
            self.h.belongs_to(self.prior, self.task)

    def __repr__(self) -> str:
        share = count_parameters(self.h) / self.prior.parameter_count() if self.prior.parameter_count() else math.nan
        about = (
            f"{kind_of(self.h)} of {count_parameters(self.h):,} parameters ({100 * share:.1f} % of the prior's), task"
            f" {getattr(self.task, 'name', '?')}"
        )
        if self.result is not None:
            about += f", {self.result.steps} steps, held-out loss {self.result.held_out[self.result.weights]:.4g}"
        return f"FittedH({about}{'; ' + self.warnings[0] if self.warnings else ''})"

    def observe(self, y: Measured, **drawn: Any) -> Observation:
        """A measurement as the task's observation. drawn: what differs from image to image, by name (mask=, kernel=),
        where the task has such.

        Raises:
            InputError: y of another shape than the task makes, a mask that is missing, values that look like another
                range.
        """
        unknown_names = [name for name in drawn if name != getattr(self.task, "drawn", "")]
        if unknown_names:
            takes = getattr(self.task, "drawn", "")
            raise InputError(
                f"a measurement of {getattr(self.task, 'name', 'this task')} has no {unknown_names[0]!r}:"
                + (f" it takes {takes}=" if takes else " it takes nothing beside y")
            )
        if isinstance(y, Observation):
            return fitted_to(self.prior, y)
        if y is None:
            raise InputError("y is None: give a measurement, as a tensor, an array, an Observation or a file's name")
        if isinstance(y, (str, Path)):
            return read_measurement(y, self.task, self.prior.data_shape)
        arrays = {name: np.asarray(torch.as_tensor(value).cpu()) for name, value in {"y": y, **drawn}.items()}
        obs = observation("the measurement", arrays, self.task, self.prior.data_shape)
        most = float(obs.y.abs().max())
        if getattr(self.task, "pictures", False) and most > 1.5 + 6 * self.task.sigma_y:
            raise InputError(
                f"y holds values up to {most:.4g}, images are in [-1, 1]: bring them there (bytes: y / 127.5 - 1)"
            )
        return obs

    def plan(
        self,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Plan:
        """How `sample` draws: the defaults of this kind of h, with some of them changed."""
        return plan(kind_of(self.h), settings=settings, sampler=sampler, steps=steps, spacing=spacing)

    @checks_arguments
    def sample(
        self,
        y: Measured,
        n: Samples = 4,
        *,
        sampler: str | Sampler | None = None,
        steps: Steps | None = None,
        spacing: str | None = None,
        seed: Seed = 0,
        batch: Rows = 64,
        settings: Mapping[str, Any] | None = None,
        progress: bool | None = None,
        **drawn: Any,
    ) -> Draws:
        """n samples of what each measurement leaves open, as `deft sample` draws them.

        Args:
            y, drawn: see `observe`. sampler, steps, spacing: of the reverse process (docs/samplers.md); a sampler of
                your own is given as an object. settings: of the method.
            seed: sample j of measurement i is the same in every batch.
        """
        name = None if isinstance(sampler, Sampler) else sampler
        chosen = self.plan(sampler=name, steps=steps, spacing=spacing, settings=settings)
        checked = self.checked_intervals
        obs = self.observe(y, **drawn).to(self.prior.state_like().device)
        if isinstance(sampler, Sampler):
            h, _, _ = chosen.make(self.prior, needed_h(chosen.method, self.prior, self.h))
            return sample_posterior(
                self.prior,
                h,
                obs,
                n,
                sampler=sampler,
                steps=chosen.steps,
                spacing=chosen.spacing,
                seed=seed,
                batch=batch,
                progress=shown(progress),
            )
        whole = needed_h(chosen.method, self.prior, self.h)
        draws = chosen.draw(self.prior, obs, n, fitted=whole, seed=seed, batch=batch, progress=shown(progress))
        return draws if checked is None or not checked.applies(chosen) else replace(draws, factors=checked.factors)

    @property
    def checked_intervals(self) -> CheckedIntervals | None:
        """What is known of the intervals of its samples; None if they were never checked."""
        about = self.card.get("intervals")
        return None if about is None else CheckedIntervals.from_config(about)

    def calibrate_intervals(
        self, data: Source = None, *, count: int = 128, n: int = 8, steps: int | None = None, seed: int = 0
    ) -> FittedH:
        """The same h, whose intervals are checked: on samples that it was not fitted to, what the factors are that make
        `draws.interval(0.9)` hold nine in ten entries of the truth (docs/trust.md).

        Args:
            data: as in `evaluate`, but that a bundled set means its split `validation`; None takes samples of the
                prior, under which the intervals are right as far as the prior is. count: so many of them. n: samples of
                each. steps: of samples; default the method's. Samples of as many have the factors.

        Raises:
            InputError: fewer than eight samples, or of another shape; an h of one measurement or of a reward.
        """
        if self.h.of_prior:
            raise InputError(
                f"a {self.h.title} serves many tasks, and intervals are checked on one: there is nothing to keep in its"
                " card. Check those of an h that was fitted to the task"
            )
        if isinstance(self.task, Tilt) or "measurement" in self.card:
            raise InputError(
                "this h was fitted to one measurement or to a reward: there are no others like it to check intervals on"
            )
        if isinstance(self.task, UnknownTask):
            if not isinstance(data, tuple):
                raise InputError(f"intervals are checked on pairs, data=(x, y): {NO_OPERATOR}")
            pairs = unknown_pairs(self.prior, self.task, data)
            x, obs, source = self.prior.decode(pairs.x[:count]), pairs.observation[:count], "held-out pairs"
        elif data is None:
            x, source = self.prior.decode(draw_prior_samples(self.prior, count, seed=seed + 77).x), PRIOR_SAMPLES
            obs = self.task.observe(x, Noise(seed + 78, len(x)))
        else:
            x = held_out_samples(self.prior, data, split="validation")[:count]
            source = f"held-out {title_of(self.prior)}"
            obs = self.task.observe(x, Noise(seed + 78, len(x)))
        obs = obs.to(self.prior.state_like().device)
        checked = check_intervals(
            self.h, self.prior, x, obs, self.plan(steps=steps), n=n, source=f"{len(x)} {source}", seed=seed
        )
        return replace(self, card={**self.card, "intervals": checked.config()})

    def evaluate(
        self,
        data: Source,
        n: int = 4,
        *,
        count: int | None = 64,
        seed: int = 0,
        batch: int = 64,
        sampler: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        progress: bool | None = None,
    ) -> Evaluation:
        """Measure the samples on held-out data: the first `count` of them are measured as the task does, and n samples
        of each are compared with the truth.

        Args:
            data: samples [N, *data_shape] in model space, a file, a folder, or the name of a bundled set (its split
                `test`); of an h fitted to an unknown degradation pairs (x, y). count: None for all.
            n: samples of each; proper scores, coverage and spread need two at least. seed: of the measurements and the
                samples.

        `deft evaluate` does this for several methods side by side, with intervals and pictures.

        Raises:
            InputError: there are no data, or of another shape; metrics of this kind of data are not known.
        """
        domain = domain_of(self.prior)
        if domain is None or not domain.metrics():
            raise InputError(
                f"no metrics are known for samples of shape {tuple(self.prior.data_shape)}: take draws = h.sample(...)"
                " and your own"
            )
        if isinstance(self.task, UnknownTask) and isinstance(data, tuple):
            pairs = unknown_pairs(self.prior, self.task, data)
            x, obs = pairs.x[:count], pairs.observation[:count]
        else:
            x = held_out_samples(self.prior, data)[:count]
            obs = self.task.observe(x, Noise(seed, len(x)))
        draws = self.sample(
            obs, n, sampler=sampler, steps=steps, spacing=spacing, seed=seed, batch=batch, progress=progress
        ).cpu()
        return Evaluation(domain.measure(draws.x, x.cpu(), obs.to("cpu")), domain.metrics(), draws, x, obs)

    def refine(
        self,
        y: Measured,
        steps: int = 10,
        *,
        seed: int = 0,
        progress: bool | None = None,
        source: str = "",
        **drawn: Any,
    ) -> FittedH:
        """Fit h on, to one very measurement, on paths and without data (docs/control.md); this one stays as it is.

        By the relative entropy, which needs a tenth of the batches that VarGrad does, where the prior can be
        differentiated.
        source: what the measurement is called in the card.

        Raises:
            InputError: h is no DEFT, or there are several measurements.
        """
        if steps < 1 or not isinstance(self.h, DEFT):
            raise InputError(
                f"refine takes at least one step and an h that is a DEFT, got {steps} and a {kind_of(self.h)}"
            )
        if isinstance(self.task, UnknownTask):
            raise InputError(f"refine follows log p(y | x): {NO_OPERATOR}")
        obs = self.observe(y, **drawn)
        if len(obs) != 1:
            raise InputError(f"an h is refined for one measurement, got {len(obs)}: give y[i:i + 1]")
        through = has_derivative(self.prior)
        objective: PathObjective = (
            RelativeEntropy(self.prior, CHAIN) if through else LogVariance(self.prior, CHAIN, subset=min(10, CHAIN))
        )
        if not through:
            log.info(
                "note: this prior cannot be differentiated: refining by VarGrad, which takes ten times the steps or"
                " more"
            )
        config = FitConfig(
            steps=steps,
            batch=16,
            lr=1e-3 if through else 3e-4,
            warmup=min(20, max(1, steps // 4)),
            ema=0.9,
            evaluations=min(3, steps),
            held_out_batches=1,
            seed=seed,
        )
        h, device = copy.deepcopy(self.h).requires_grad_(True), self.prior.state_like().device
        learned = learn(
            h,
            self.prior,
            self.prior.to_latent(obs).to(device),
            objective,
            config,
            device=device,
            progress=shown(progress),
            chain=CHAIN,
        )
        h.eval().requires_grad_(False)
        card = {
            "prior": self.prior.loaded_as,
            "prior_options": list(self.prior.loaded_with),
            "measurement": {"file": source, "sha256": obs.fingerprint()},
            "refined": steps,
            "diagnosis": learned.end,
        }
        return FittedH(h, self.prior, self.task, source=source or "one measurement", card=card)

    def card_now(self) -> dict[str, Any]:
        """What a card keeps of the fit and of what it was fitted to; `save` writes it."""
        if self.result is None or self.sizes is None or self.recipe is None:
            return dict(self.card)
        trained, whole, recipe = count_parameters(self.h), self.prior.parameter_count(), self.recipe
        config = launched_config(recipe.fit_config(recipe.steps, recipe.seconds))
        return {
            "prior": self.prior.loaded_as,
            "prior_options": list(self.prior.loaded_with),
            "data": self.source,
            "recipe": {**asdict(recipe), **asdict(config)},
            **self.summary(),
            "parameters": trained,
            **({"started_from": recipe.start_from} if recipe.start_from else {}),
            "share": None if recipe.width is not None or not whole else round(trained / whole, 5),
            "torch": torch.__version__,
            **self.card,
            **surrogates_of(self.prior),
        }

    def summary(self) -> dict[str, Any]:
        """The numbers of the fit, for reports: steps, seconds and what they were spent on, losses, sizes, errors by
        noise level, warnings."""
        r, sizes = self.result, self.sizes
        if r is None or sizes is None:
            return {}
        return {
            "steps": r.steps,
            "seconds": round(self.seconds, 1),
            "seconds_of": {k: round(v, 1) for k, v in self.spent.items()},
            "weights": r.weights,
            "best_step": r.best_step,
            "held_out_loss": r.held_out,
            "ended": r.ended,
            "prior_samples": sizes.prior_samples,
            "cache": sizes.cache,
            "fresh": sizes.fresh,
            "levels": self.levels,
            "warnings": self.warnings,
        }

    def save(self, folder: str | Path, *, half: bool = False) -> dict[str, Any]:
        """Write h.safetensors (h alone, with a card that names its task, and its prior by hash), card.md and log.json;
        returns the card.

        half: weights in float16, half the size. `deft.load(folder)` reads it, as do `deft sample`, `deft evaluate` and
            `deft hub`.
        """
        folder = Path(folder)
        if not get_world().main:
            return self.card_now()
        card = save_h(folder / "h.safetensors", self.h, self.prior, self.task, half=half, **self.card_now())
        if self.result is not None:
            write_json(
                folder / "log.json",
                {"history": self.result.history, "held_out": self.result.held_out, "levels": self.levels, "card": card},
            )
        write_text(folder / "card.md", h_card_text(card))
        return card


@checks_arguments
def load(
    path: str | Path,
    prior: Denoiser | str | None = None,
    *,
    device: torch.device | str | None = None,
    prior_options: Iterable[str] = (),
    trust_code: bool = False,
) -> FittedH:
    """A fitted h from a folder (or its h.safetensors), with its task, and its prior.

    Args:
        prior: the prior it was fitted to, or its name. Default: what the card names, if that runs no code and calls
            nobody.
        device: where h and a prior that is loaded here go. Default: where the given prior is, else the CPU.
        prior_options: KEY=VALUE texts, as --prior-option takes them. Default: the card's. event_shape=C,H,W alone goes
            beside the card's: images of another size than h was fitted to, which a line warns of.
        trust_code: the card may name a network, a task, a class or a prior's function of somebody's own, whose code
            then runs.

    Raises:
        CheckpointError: there is none, it is damaged, it was fitted to another prior, or its prior is one that a card
            alone does not load.
    """
    given = list(prior_options)
    if not isinstance(prior, Denoiser):
        name, recorded = (prior, []) if prior is not None else prior_of(path, trust_code=trust_code)
        prior = load_prior(name, device or "cpu", **read_options(with_recorded(given, recorded)))
    h, task, card = load_guided(_file(path), prior, trust_code=trust_code)
    kept = {
        k: v
        for k, v in card.items()
        if k not in ("kind", "format", "class", "h", "task", "prior_sha256", "prior_convention", "weights_stored")
    }
    if given and "prior_options" in kept:
        kept["prior_options"] = list(prior.loaded_with)
    return FittedH(
        h.to(device or prior.state_like().device),
        prior,
        task,
        levels=card.get("levels", []),
        warnings=card.get("warnings", []),
        source=str(card.get("data", "")),
        seconds=float(card.get("seconds", 0.0)),
        card=kept,
    )


def _file(path: str | Path) -> Path:
    """h.safetensors of a run folder."""
    file = Path(path) / "h.safetensors" if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise CheckpointError(f"no such run: {file} does not exist; give a folder made by `deft fit`")
    return file


def prior_of(path: str | Path, *, trust_code: bool = False) -> tuple[str, list[str]]:
    """(name, options) of the prior that the card of a fitted h names. A card may not run code, nor call anybody.

    Args:
        trust_code: the card may name a function that makes the prior, which then runs.

    Raises:
        CheckpointError: it is no h, or its prior is one that a card alone does not load.
    """
    file = _file(path)
    _, card = load_weights(file)
    if card.get("kind") != "h-transform":
        raise CheckpointError(
            f"{file} holds a {card.get('kind', 'something else')}, not an h-transform made by `deft fit`"
        )
    name = str(card.get("prior") or "fashion")
    family = family_or_none(name)
    if (family in ("python", "remote", "hub") and not (family == "python" and trust_code)) or (
        family is None and "/" in name
    ):
        gone = "which is not there any more" if family is None else "which a card alone is not trusted to load"
        or_trust = " (or --trust-code, which runs the function that the card names)" if family == "python" else ""
        raise CheckpointError(f"{file} was fitted to the prior {quoted(name)}, {gone}: give it with --prior{or_trust}")
    return name, recorded_options(card)


def with_recorded(given: Iterable[str], recorded: list[str]) -> list[str]:
    """The options of a prior where some are given and a card has others: those given, in the place of all of the
    card's; but a size alone goes beside them.

    >>> with_recorded(["event_shape=1,28,40"], ["label=3", "sides=28,28"]), with_recorded(["label=2"], ["label=3"])
    (['label=3', 'event_shape=1,28,40'], ['label=2'])
    """
    options = list(given)
    sizes = ("event_shape", "sides", "tiled", "overlap")
    if options and all(p.partition("=")[0] in sizes for p in options):
        return [p for p in recorded if p.partition("=")[0] not in sizes] + options
    return options or recorded


def family_or_none(name: str) -> str | None:
    """The family of a prior's name, None if it is of none."""
    try:
        return family_of(name)
    except DeftError:
        return None


def recorded_options(card: Mapping[str, Any]) -> list[str]:
    """The --prior-option texts of a card, but those that a stranger's card must not decide."""
    # functions, URLs and hub ids are not loaded on a card's word at all (`_named_prior`): what is left to forbid is
    # running a pickle
    given = card.get("prior_options", [])
    if not isinstance(given, list) or not all(isinstance(p, str) and printable(p) for p in given):
        raise CheckpointError(f"prior_options in the card = {quoted(given)}: expected a list of texts KEY=VALUE")
    return [p for p in given if p.partition("=")[0].strip() not in ("trust_pickle", "token", "name", "device")]
