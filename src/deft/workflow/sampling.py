"""From a measurement, or a reward, to a folder of samples of what it leaves open: what `deft sample` does.

    prior = deft.load_prior("fashion")
    work = Sampling(prior, get_task("sr4"), plan("pigdm", "sr4"), samples=4)
    work.run("filled", "small.png")

What there is to know meanwhile goes to the logger `deft`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.io.arrays import save_arrays
from deft.io.claims import names_in
from deft.io.drawn import CHUNKS, MAPPED, VALUES, drawn_so_far, read_chunks
from deft.io.files import on_disk_together, write_bytes, write_json
from deft.io.folders import Outputs, own_folder
from deft.io.h_files import SAID, load_h, needed_h, save_h
from deft.io.measurements import is_measurement, limits, read_measurement
from deft.kinds.domain import Domain, Measured, domain_for, known_options
from deft.kinds.draws import Draws
from deft.learned import Learned, LearnedCovariance
from deft.likelihood.gaussian import requires
from deft.likelihood.paste import paste_measured
from deft.likelihood.task import Tilt
from deft.methods import Plan
from deft.prior.measurement_check import sample_warnings, typical_noise, warning_from
from deft.recipe.fitted import FittedH
from deft.recipe.intervals import LEVEL, CheckedIntervals, judged
from deft.runtime.compiled import is_compiled
from deft.runtime.distributed import get_world
from deft.runtime.messages import log, shown
from deft.runtime.precision import precision_of
from deft.samplers import ChainDiagnostics, ParticleDiagnostics
from deft.workflow.drawing import KeptSamples, run_identity


def _files(about: dict[str, Any]) -> list[Any]:
    """The samples that sample.json lists; 0.1 wrote how many alone."""
    n = about.get("samples")
    if about.get("files") or not isinstance(n, int) or not 0 < n < 10**6:
        return list(about.get("files") or ())
    return [*(f"sample-{i:03d}.png" for i in range(n)), "mean.png", "spread.png"]


OUTPUTS = Outputs(
    "sample", (CHUNKS, VALUES, "samples.npz", "sample.json", "sheet.png"), "sample.json", _files,
    r"(sample-\d{3,}|mean|spread|quantiles|summary)(\W[^/\\]*)?|h\.safetensors",
)  # fmt: skip


def read_measured(
    path: str | Path,
    task: Any,
    domain: Domain,
    event_shape: tuple[int, ...],
    *,
    row: int | None = 0,
    mask: Path | None = None,
    mask_hole: str = "black",
    **reading: Any,
) -> Measured:
    """One measurement of a measurement file or of what else the kind of data reads, such as a picture.

    row: of a measurement file; None: all of them. mask, mask_hole: of a picture with a hole. reading: how other files
    are read, as far as the kind of data knows it (resize, convert, value_range, recursive, array).

    Raises:
        InputError: nothing there, a measurement of another task, or an option that is not for this file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such measurement: {path} does not exist")
    task.check(event_shape)
    if is_measurement(path):
        _only_for_pictures(path, mask, reading)
        every = read_measurement(path, task, event_shape, limits(reading.get("value_range")))
        if row is None:
            return Measured(every)
        if not 0 <= row < len(every):
            raise InputError(f"--row {row}: {path} holds {len(every)} measurements, give 0 to {len(every) - 1}")
        return Measured(every[row])
    if row is None:
        raise InputError(f"{path} is no file of many measurements: give an .npz with y (`deft measure` makes one)")
    if row:
        raise InputError(f"--row {row}: {path} is one measurement, and no file of many: leave --row out")
    given = ({} if mask is None else {"mask": mask, "mask_hole": mask_hole}) | reading
    with known_options(domain, given):
        found = domain.read_measured(path, task, event_shape, **given)
    for note in found.notes:
        log.info(note)
    return found


def _only_for_pictures(path: Path, mask: Path | None, reading: Mapping[str, Any]) -> None:
    """Refuse what says how a picture is read, of a measurement file."""
    if reading.get("array") or reading.get("recursive"):
        raise InputError(f"{path} is a measurement file, whose array is y: leave --array and --recursive out")
    if mask is not None:
        raise InputError(f"{path} is a measurement file, which holds its own mask: leave --mask out")
    for name in reading.keys() - {"array", "recursive", "resize", "convert", "value_range"}:
        raise InputError(f"{path} is a measurement file, which is taken as it is: leave --data-option {name} out")
    for name in ("resize", "convert"):
        if reading.get(name):
            raise InputError(
                f"{path} is a measurement file, and --{name} is for pictures: what was measured is not resized; leave"
                f" --{name} out"
            )


class Sampled(NamedTuple):
    """How it went. about: what sample.json says. noise: the measurement's, in units of y. seconds: of drawing.
    written: names of files, for people."""

    about: dict[str, Any]
    noise: float
    seconds: float
    written: list[str]


@dataclass(frozen=True)
class Sampling:
    """What is drawn of a measurement, and how; `run` does it.

    task: what the measurement is, or a `Tilt`, which is sampled without one. plan: the method.
    fitted: an h, for methods that need one, with this prior and task. refine: fit it on for so many steps, to the very
        measurement.
    paste: put the measured pixels back into what is written, blended over so many (`deft.likelihood.paste`); residual,
        spread and the like in sample.json are those of the samples as they were drawn.
    covariance: for the methods that take one beside h; None: that which comes with the library for the prior.
    scale: of h. samples, seed, batch: as in `Plan.draw`. device: where samples are drawn; None: where the
        prior is.
    prior_name, run_name: of the prior and of the folder of h, for sample.json.

    Raises:
        InputError: the plan cannot be made with this prior and h, or a number is out of range.
    """

    prior: Denoiser
    task: Any
    plan: Plan
    fitted: FittedH | None = None
    samples: int = 8
    seed: int = 0
    scale: float = 1.0
    batch: int = 64
    refine: int = 0
    paste: int | None = None
    covariance: LearnedCovariance | None = None
    device: torch.device | str | None = None
    prior_name: str = ""
    run_name: str | None = None
    domain: Domain = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"-n must be at least 1, got {self.samples}")
        if not self.scale >= 0:
            raise InputError(f"--scale must be 0 or more, got {self.scale}")
        object.__setattr__(self, "domain", domain_for(self.prior))

    @property
    def where(self) -> torch.device | str:
        return self.prior.state_like().device if self.device is None else self.device

    def run(
        self,
        out: str | Path,
        measurement: str | Path | None = None,
        *,
        overwrite: bool = False,
        resume: bool = False,
        progress: bool | None = None,
        **reading: Any,
    ) -> Sampled:
        """Read the measurement, draw, and write samples, their mean and deviation, pictures and sample.json.

        More samples than one batch has are written batch by batch. Of a run that was stopped, `resume` draws what is
        missing. reading: as `read_measured` takes it.
        """
        folder, shape = Path(out), tuple(self.prior.data_shape)
        self._check_resume(folder, resume, overwrite)
        if measurement is None:
            seen = Measured(self.task.check(shape))
        else:
            seen = read_measured(measurement, self.task, self.domain, shape, **reading)
            self._doubt_h(seen.obs)
        if self.paste is not None:
            requires(seen.obs, "mask", "--paste")
        inputs = (measurement, reading.get("mask"))
        with own_folder(folder, OUTPUTS, overwrite=overwrite, resume=resume, inputs=inputs):
            done, kept = self._draw(folder, seen, measurement, resume, progress)
        if kept is not None:
            kept.remove()
        return done

    def _check_resume(self, folder: Path, resume: bool, overwrite: bool) -> None:
        """Refuse to go on where nothing was left, and to begin where something was."""
        if resume and overwrite:
            raise InputError("--resume goes on with what is there, --overwrite removes it: give one of them")
        if resume and self.plan.joint:
            raise InputError(
                f"{self.plan.method.title} draws all samples of a measurement together, and keeps nothing before all"
                " are there: leave --resume out, and give --overwrite if files are there"
            )
        if not get_world().main:
            return
        if resume:
            read_chunks(folder)
        elif not overwrite and (done := drawn_so_far(folder)) is not None:
            raise InputError(
                f"{folder} holds {done:,} samples of a run that was stopped: go on with --resume, or give another"
                " --out, or --overwrite"
            )

    def _draw(
        self, folder: Path, seen: Measured, measurement: str | Path | None, resume: bool, progress: bool | None
    ) -> tuple[Sampled, KeptSamples | None]:
        """Draw, and write. Also what was kept meanwhile."""
        on_device = seen.obs.to(self.where)
        if measurement is not None and (doubt := warning_from(self.prior, on_device)):
            log.warning(doubt)
        h = self._refined(seen.obs, folder, str(measurement), resume)
        draws, seconds, kept = self._samples(folder, seen, on_device, h, resume, shown(progress))
        warnings = sample_warnings(
            self.prior, None if measurement is None else on_device, draws.x[0], seed=self.seed, what=str(measurement)
        )
        trust = self._trust(draws, on_device) if measurement is not None else None
        if trust is not None and trust["within"] is not None:
            draws = replace(draws, factors=self._checked.factors if self._checked else None)
        shown_as = draws if self.paste is None else paste_measured(draws, seen.obs, self.paste)
        with on_disk_together():
            written = self.write(
                folder, shown_as, seen, pictured=measurement is not None, names=None if kept is None else kept.files
            )
        noise, found = self._numbers(draws, seen.obs)
        about = {
            "out": str(folder),
            "task": self.task.config(),
            "prior": self.prior_name or self.prior.loaded_as,
            **_said(self.prior),
            "run": self.run_name,
            "plan": self.plan.config(),
            "samples": self.samples,
            "seed": self.seed,
            "scale": self.scale,
            **({} if (precision := precision_of(self.prior)) == "fp32" else {"precision": precision}),
            **({"compiled": True} if is_compiled(self.prior) else {}),
            **({} if self.paste is None else {"pasted": self.paste}),
            "seconds": round(seconds, 3),
            "calls": self.plan.calls(self.samples),
            "network_rows_per_call": getattr(self.prior, "rows_per_call", 1),
            "residual": found["residual"],
            "reward": found["reward"],
            "warnings": warnings,
            "diagnosis": diagnosis(draws),
            "spread": found["spread"],
            "trust": trust,
            "skipped": list(seen.skipped),
            "files": [name for name in names_in(folder) if name not in (CHUNKS, VALUES)],
        }
        write_json(folder / "sample.json", about)
        return Sampled(about, noise, seconds, written), kept

    def _samples(
        self, folder: Path, seen: Measured, obs: Observation, h: Learned | None, resume: bool, progress: bool
    ) -> tuple[Draws, float, KeptSamples | None]:
        """(the samples, seconds of drawing, what keeps them): those of more than one batch are written as they are
        drawn. obs: the measurement where it is sampled."""
        fitted = needed_h(self.plan.method, self.prior, h, self.covariance)
        how: dict[str, Any] = {"fitted": fitted, "scale": self.scale, "seed": self.seed, "batch": self.batch}
        if self.plan.joint or (self.samples <= self.batch and not resume):
            if self.samples > self.batch:
                log.info(
                    f"{self.plan.method.title} draws all {self.samples:,} samples together: none is written before all"
                    " are there"
                )
            started = time.perf_counter()
            draws = self.plan.draw(self.prior, obs, self.samples, progress=progress, **how).cpu()
            return draws, time.perf_counter() - started, None

        def write(x: torch.Tensor, first: int) -> list[str]:
            shown_as = x if self.paste is None else paste_measured(x[None], seen.obs, self.paste)[0]
            with on_disk_together():
                return [p.name for p in self._write_each(folder, shown_as, seen.domain, first)]

        settings = {
            "samples": self.samples,
            "seed": self.seed,
            "scale": self.scale,
            "refine": self.refine,
            "pasted": self.paste,
            "precision": precision_of(self.prior),
        }
        about = run_identity(self.prior, self.task, self.plan, seen.obs, fitted, settings)
        kept = KeptSamples(folder, about, resume, re.compile(OUTPUTS.form))
        draws = kept.draw(self.plan, self.prior, obs, self.samples, write, progress=progress, **how)
        return draws, kept.seconds, kept

    def spread(self, draws: Draws) -> torch.Tensor:
        """Standard deviation of each entry over samples that are brought into their range, [*E]."""
        return spread_of(draws, self.domain.bounds)

    def _write_each(self, folder: Path, x: torch.Tensor, domain: Domain | None, first: int = 0) -> list[Path]:
        """Write samples, of which the first has this number. domain: what the measurement's own kind of data knows."""
        write = (domain or self.domain).write
        return [path for i, one in enumerate(x) for path in write(folder, f"sample-{first + i:03d}", one)]

    def write(
        self, folder: Path, draws: Draws, seen: Measured, *, pictured: bool = True, names: Sequence[str] | None = None
    ) -> list[str]:
        """Write samples of one measurement, with all that belongs to them; returns what to look at.

        pictured: show the measurement beside them. names: of the files of single samples, which are there already.
        Draws with checked intervals have low and high in samples.npz.
        """
        x, mean, std = draws.x[0], draws.mean[0], self.spread(draws)
        domain: Domain = seen.domain or self.domain
        files = self._write_each(folder, x, seen.domain) if names is None else [folder / name for name in names]
        files += domain.write_mean(folder, draws)
        files += domain.write_draws(folder, draws)
        rows = getattr(self.prior, "rows_per_call", 1)
        many = f", each {'two' if rows == 2 else rows} of its network" if rows > 1 else ""
        calls = f"{self.plan.calls(self.samples):.0f} calls of the prior{many}"
        title = f"{self.task.title}: {self.plan.method.title}, {calls}"
        shows = domain.draw_pictures(x, std, seen.obs if pictured else None, title)
        for file, png in shows.items():
            write_bytes(folder / file, png)
        ends = (
            {k: v[0] for k, v in zip(("low", "high"), draws.interval(LEVEL), strict=True)} if draws.calibrated else {}
        )
        save_arrays(folder / "samples.npz", samples=x, mean=mean, spread=std, y=seen.obs.y[0], **ends, **seen.arrays)
        singles = [f.name for f in files if "-" not in f.stem]
        return [*sorted(shows), files[0].name + " ...", *singles, "samples.npz"]

    def _numbers(self, draws: Draws, obs: Observation) -> tuple[float, dict[str, float | None]]:
        """(the measurement's noise, residual, reward and spread of the samples), each a mean."""
        x, tilt = draws.x[0], isinstance(self.task, Tilt)
        left = by_blocks(lambda rows, part: rows.residual_rms(part), obs, x)
        density = by_blocks(lambda rows, part: rows.log_prob(part), obs, x) if tilt else None
        liked = None if density is None else float(density.mean()) * self.task.beta
        few = x[:BLOCK]  # of one measurement it hardly varies
        return typical_noise(obs.repeat(len(few)), few), {
            "residual": None if left is None else float(left.mean()),
            "reward": liked,
            "spread": float(self.spread(draws).mean()),
        }

    @cached_property
    def _checked(self) -> CheckedIntervals | None:
        return None if self.fitted is None else self.fitted.checked_intervals

    def _trust(self, draws: Draws, obs: Observation) -> dict[str, Any] | None:
        """Whether the samples are as where h's intervals were checked; None where they never were."""
        checked = self._checked
        if checked is None or self.fitted is None:
            return None
        other = self.task.config() != self.fitted.task.config()
        if other or self.scale != 1 or self.refine or not checked.applies(self.plan):
            what = "another task or noise" if other else "another method, sampler, scale or number of steps"
            return {"within": None, "line": f"intervals were checked for {what}: nothing is known of these"}
        return judged(checked, self.prior, obs, draws, self.seed)

    def _doubt_h(self, obs: Observation) -> None:
        """Say so if h was fitted to one measurement, and this is another."""
        theirs = {} if self.fitted is None else self.fitted.card.get("measurement")
        if isinstance(theirs, dict) and "sha256" in theirs and theirs["sha256"] != obs.fingerprint():
            log.warning(
                f"warning: {self.run_name or 'this h'} was fitted to one measurement ({theirs.get('file')}), and this"
                " is another: its h knows nothing of it. Fit one to this measurement, or to pairs"
            )

    def _refined(self, obs: Observation, folder: Path, source: str, resume: bool) -> Learned | None:
        """h as it is, or fitted on and kept beside the samples."""
        if self.fitted is None or not self.refine:
            return None if self.fitted is None else self.fitted.h
        if resume:  # that of the samples which are there
            return load_h(folder / "h.safetensors", self.prior, self.task)[0].to(self.where)
        whole = replace(self.fitted, prior=self.prior, task=self.task)
        refined = whole.refine(obs, self.refine, seed=self.seed, source=source)
        save_h(folder / "h.safetensors", refined.h, self.prior, self.task, **refined.card)
        return refined.h


def _said(prior: Denoiser) -> dict[str, Any]:
    """What the prior was told as it was loaded (prompt, guidance, class): under another it is another prior."""
    about = prior.describe()
    said = {key: about[key] for key in SAID if about.get(key) not in (None, "")}
    return {"prior_settings": said} if said else {}


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


# of more samples than there is memory for

BLOCK = 256
"""Samples that numbers are worked out of at once."""


def by_blocks(
    number: Callable[[Observation, torch.Tensor], torch.Tensor | None], obs: Observation, x: torch.Tensor
) -> torch.Tensor | None:
    """number(the measurement repeated, samples) of samples [n, *data_shape] of one measurement, [n], `BLOCK` at a
    time."""
    found = [number(obs.repeat(len(part)), part) for part in x.split(BLOCK)]
    return None if any(v is None for v in found) else torch.cat([v for v in found if v is not None])


def spread_of(draws: Draws, bounds: tuple[float, float] | None) -> torch.Tensor:
    """Standard deviation of each entry over samples of one measurement that are brought into their range, [*E]."""
    x = draws.x
    if x.numel() * x.element_size() <= MAPPED:
        return Draws(x if bounds is None else x.clamp(*bounds)).std[0]

    def each() -> Iterator[torch.Tensor]:
        for part in x[0].split(BLOCK):
            yield (part if bounds is None else part.clamp(*bounds)).double()

    mean, square = torch.zeros(x.shape[2:], dtype=torch.float64), torch.zeros(x.shape[2:], dtype=torch.float64)
    for part in each():
        mean += part.sum(0) / draws.n
    for part in each():
        square += (part - mean).square().sum(0) / max(draws.n - 1, 1)
    return square.sqrt().to(x.dtype)
