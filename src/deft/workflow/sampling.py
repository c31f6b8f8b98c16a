"""From a measurement, or a reward, to a folder of samples of what it leaves open: what `deft sample` does.

    prior = deft.load_prior("fashion")
    work = Sampling(prior, get_task("sr4"), plan("pigdm", "sr4"), samples=4)
    work.run("filled", "small.png")

What there is to know meanwhile goes to the logger `deft`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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
from deft.io.files import on_disk_together, write_bytes, write_json
from deft.io.folders import Outputs, own_folder
from deft.io.h_files import SAID, needed_h, save_h
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
from deft.runtime.messages import log, shown
from deft.runtime.precision import precision_of
from deft.samplers import ChainDiagnostics, ParticleDiagnostics


def _files(about: dict[str, Any]) -> list[Any]:
    """The samples that sample.json lists; 0.1 wrote how many alone."""
    n = about.get("samples")
    if about.get("files") or not isinstance(n, int) or not 0 < n < 10**6:
        return list(about.get("files") or ())
    return [*(f"sample-{i:03d}.png" for i in range(n)), "mean.png", "spread.png"]


OUTPUTS = Outputs(
    "sample", ("samples.npz", "sample.json", "sheet.png"), "sample.json", _files,
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
        progress: bool | None = None,
        **reading: Any,
    ) -> Sampled:
        """Read the measurement, draw, and write samples, their mean and deviation, pictures and sample.json.

        reading: as `read_measured` takes it.
        """
        folder, shape = Path(out), tuple(self.prior.data_shape)
        if measurement is None:
            seen = Measured(self.task.check(shape))
        else:
            seen = read_measured(measurement, self.task, self.domain, shape, **reading)
            self._doubt_h(seen.obs)
        if self.paste is not None:
            requires(seen.obs, "mask", "--paste")
        with own_folder(folder, OUTPUTS, overwrite=overwrite, inputs=(measurement, reading.get("mask"))):
            return self._draw(folder, seen, measurement, progress)

    def _draw(self, folder: Path, seen: Measured, measurement: str | Path | None, progress: bool | None) -> Sampled:
        """Draw, and write."""
        on_device = seen.obs.to(self.where)
        if measurement is not None and (doubt := warning_from(self.prior, on_device)):
            log.warning(doubt)
        h = self._refined(seen.obs, folder, str(measurement))
        started = time.perf_counter()
        draws = self.plan.draw(
            self.prior,
            on_device,
            self.samples,
            fitted=needed_h(self.plan.method, self.prior, h, self.covariance),
            scale=self.scale,
            seed=self.seed,
            batch=self.batch,
            progress=shown(progress),
        ).cpu()
        seconds = time.perf_counter() - started
        warnings = sample_warnings(
            self.prior,
            None if measurement is None else on_device,
            draws.x[0].to(self.where),
            seed=self.seed,
            what=str(measurement),
        )
        trust = self._trust(draws, on_device) if measurement is not None else None
        if trust is not None and trust["within"] is not None:
            draws = replace(draws, factors=self._checked.factors if self._checked else None)
        shown_as = draws if self.paste is None else paste_measured(draws, seen.obs, self.paste)
        with on_disk_together():
            written = self.write(folder, shown_as, seen, pictured=measurement is not None)
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
            "files": names_in(folder),
        }
        write_json(folder / "sample.json", about)
        return Sampled(about, noise, seconds, written)

    def spread(self, draws: Draws) -> torch.Tensor:
        """Standard deviation of each entry over samples that are brought into their range, [*E]."""
        bounds = self.domain.bounds
        return Draws(draws.x if bounds is None else draws.x.clamp(*bounds)).std[0]

    def write(self, folder: Path, draws: Draws, seen: Measured, *, pictured: bool = True) -> list[str]:
        """Write samples of one measurement, with all that belongs to them; returns what to look at.

        pictured: show the measurement beside them. Draws with checked intervals have low and high in samples.npz.
        """
        x, mean, std = draws.x[0], draws.mean[0], self.spread(draws)
        domain: Domain = seen.domain or self.domain
        files = [path for i, one in enumerate(x) for path in domain.write(folder, f"sample-{i:03d}", one)]
        files += domain.write(folder, "mean", mean)
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
        x, rows = draws.x[0], obs.repeat(self.samples)
        left = rows.residual_rms(x)
        liked = float(rows.log_prob(x).mean()) * self.task.beta if isinstance(self.task, Tilt) else None
        return typical_noise(rows, x), {
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
        return judged(checked, self.prior, obs, draws.to(self.where), self.seed)

    def _doubt_h(self, obs: Observation) -> None:
        """Say so if h was fitted to one measurement, and this is another."""
        theirs = {} if self.fitted is None else self.fitted.card.get("measurement")
        if isinstance(theirs, dict) and "sha256" in theirs and theirs["sha256"] != obs.fingerprint():
            log.warning(
                f"warning: {self.run_name or 'this h'} was fitted to one measurement ({theirs.get('file')}), and this"
                " is another: its h knows nothing of it. Fit one to this measurement, or to pairs"
            )

    def _refined(self, obs: Observation, folder: Path, source: str) -> Learned | None:
        """h as it is, or fitted on and kept beside the samples."""
        if self.fitted is None or not self.refine:
            return None if self.fitted is None else self.fitted.h
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
