"""deft evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from deft.bench.compare import TensorCases, compare
from deft.bench.methods_report import captions, terminal, write_methods
from deft.bench.report import machine
from deft.bench.stein import add_stein, check_stein
from deft.cli import common
from deft.cli.bundled import bundled_for
from deft.cli.common import DATA_HELP, Name, Output, json_option, out_option, overwrite_option
from deft.cli.numbers import Number
from deft.core.denoiser import Denoiser
from deft.core.random import Noise
from deft.errors import InputError
from deft.io.folders import REPORT_FILES, Outputs, own_folder
from deft.io.tasks import TASKS
from deft.kinds.domain import Domain
from deft.kinds.stored import Stored
from deft.learned import Learned, kind_of
from deft.likelihood.unknown import UnknownTask
from deft.methods import METHODS, Plan, no_gradient, plan
from deft.recipe.data import read_unknown
from deft.runtime.memory import check_memory
from deft.values import Count, Rows, Samples, Seed, Share, Steps

OUTPUTS = Outputs("evaluate", REPORT_FILES)


@click.command()
@click.argument("run", required=False, type=common.FilePath())
@click.option("--data", type=common.SOURCE, required=True, help=DATA_HELP + " An array `labels` gives top-1.")
@click.option(
    "--pairs",
    is_flag=True,
    help="--data is an .npz of x and y (and mask), or as `deft fit --pairs` takes it: use these measurements.",
)
@click.option(
    "--degraded",
    type=common.FilePath(),
    help="For a run that was fitted to pairs without a task: --data is a folder, and this the folder of its y.",
)
@click.option(
    "--methods", help="Names, separated by commas.  [default: deft,dps,pigdm,prior; without a run: all but deft]"
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
    "--task", type=Name("task", TASKS), help="Without a run: what is measured.  [default: the usual one of the data]"
)
@common.task_option_option
@click.option("--images", type=Number(Count), help="How many samples of the data, the first ones.  [default: all]")
@click.option(
    "--samples", type=Number(Samples), default=4, show_default=True, help="Samples drawn for each measurement."
)
@click.option("--steps", type=Number(Steps), help="Calls of the prior for every method.  [default: each method's]")
@click.option(
    "--eta", type=Number(Share), help="Noise of the sampler for every method, 0 to 1.  [default: each method's]"
)
@click.option(
    "--seed", type=Number(Seed), default=0, show_default=True, help="Of masks, measurement noise and samples."
)
@click.option("--batch", type=Number(Rows), default=64, show_default=True, help="Samples drawn at once.")
@click.option(
    "--stein",
    is_flag=True,
    help=(
        "Add the kernel Stein discrepancy of the samples against prior and likelihood. Costs a call of the prior with"
        " up to 11 backward passes for each sample of each method."
    ),
)
@out_option("report")
@common.reading_options
@common.shard_option
@common.network_options
@common.device_option
@overwrite_option
@json_option
def evaluate(
    run: Path | None,
    data: str,
    pairs: bool,
    degraded: Path | None,
    methods: str | None,
    prior_option: str | None,
    prior_options: tuple[str, ...],
    task: str | None,
    task_options: tuple[str, ...],
    images: int | None,
    samples: int,
    steps: int | None,
    eta: float | None,
    seed: int,
    batch: int,
    stein: bool,
    out: Path,
    skip_bad: bool,
    resize: bool,
    convert: bool,
    value_range: str | None,
    shard_prior: bool,
    device: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compare methods on the same held-out measurements.

    \b
    deft evaluate run --data held-out/ --out report
    deft evaluate --task sr4 --data fashion --methods dps,pigdm --out report

    Masks, measurement noise and seeds are the same for every method. Writes report.md, report.json, samples.png and
    samples.npz.

    The energy score comes first: it is lowest for the true posterior. For images it is computed in pixels, and in
    features of a network for CT slices and for clothes (the bundled images, or labelled 1x32x32 images with the fashion
    prior, which also have top-1). It needs at least two samples of each measurement.
    """
    output = Output(as_json)
    where = common.get_device(device)
    # the whole of a prior that is spread out may not fit elsewhere
    first = torch.device("cpu") if shard_prior else where
    fitted, chosen, prior, name = _who(run, task, task_options, prior_option, prior_options, first)
    if run is None and not prior_options:
        fitted = _bundled(methods or "", prior, name, chosen, output)
    fitted = None if fitted is None else fitted.to(where)
    plans = _plans(methods, chosen, prior, fitted, steps, eta)
    prior = common.spread_out(prior, shard_prior)
    domain, shape = common.domain_for(prior), prior.data_shape
    _check_methods(plans, chosen, prior)
    if samples < 1:
        raise InputError(f"--samples must be at least 1, got {samples}")
    common.check_batch(batch, shape)
    reading = common.reading(skip_bad, resize, convert, value_range)
    known = (data.partition(":")[0], name)
    _check_pairs(chosen, pairs, degraded, run)
    cases = _cases(data, (pairs, degraded), images, chosen, seed, domain, shape, known, reading, output)
    if stein:
        check_stein(prior, cases, samples)
    options: dict[str, Any] = {"seed": seed, "batch": batch, "device": prior.state_like().device}
    settings = {
        "stein": stein,
        "task": chosen.config(),
        "prior": name,
        "run": str(run) if run is not None else None if fitted is None else "bundled",
        "data": data,
        "seed": seed,
        "images": len(cases),
        "samples": samples,
        "plans": [p.config() for p in plans.values()],
        "machine": machine(),
    }
    title = f"{chosen.title}: {len(cases)} {domain.title}, {samples} samples each"
    with own_folder(
        out, Outputs("evaluate", REPORT_FILES), overwrite=overwrite, inputs=(run, data, degraded, prior_option)
    ):
        _note_few(output, samples)
        results = compare(plans, prior, cases, samples, fitted=fitted, progress=common.bars(), **options)
        if stein:
            add_stein(results, prior, cases, **options)
        report = write_methods(out, title, results, cases, settings, task=chosen.name, caption=chosen.title)
    output.say("\n" + terminal(domain, title, report["rows"]))
    output.say(f"\nwrote {common.written(out, REPORT_FILES)}")
    output.result(report | {"out": str(out)})


def _note_few(output: Output, samples: int) -> None:
    """What cannot be measured of one sample."""
    if samples == 1:
        output.say(
            "one sample of each measurement: no energy score, coverage or spread. The other metrics reward samples that"
            " vary too little. Give --samples 2 or more"
        )


def _who(
    run: Path | None,
    task: str | None,
    task_options: tuple[str, ...],
    prior_option: str | None,
    prior_options: tuple[str, ...],
    device: torch.device,
) -> tuple[Learned | None, Any, Denoiser, str]:
    """(h or None, the task, the prior, the prior's name): of a run, or of the options."""
    if run is None:
        name = prior_option or "fashion"
        prior = common.find_prior(name, device, prior_options)
        return None, common.make_task(task, None, None, task_options, domain=common.domain_for(prior)), prior, name
    found = common.load_run(run, prior_option, device, prior_options)
    if task_options:
        raise InputError(f"{run} has a task: leave --task-option out, or fit an h to that task")
    if task is not None and task != found.task.name:
        raise InputError(
            f"{run} was fitted to the task {found.task.name}, not {task}: leave --task out, or fit one to {task}"
        )
    return found.h, found.task, found.prior, found.prior.loaded_as


def _bundled(methods: str, prior: Denoiser, name: str, task: Any, output: Output) -> Learned | None:
    """The h that comes with the library, where one of these methods needs it."""
    found = (bundled_for(m.strip(), prior, name, task, output) for m in methods.split(","))
    return next((b.h for b in found if b is not None), None)


def _plans(
    methods: str | None, task: Any, prior: Denoiser, fitted: Learned | None, steps: int | None, eta: float | None
) -> dict[str, Plan]:
    """Name -> plan of --methods; what cannot be made is said before anything is read."""
    known = ["prior"] if isinstance(task, UnknownTask) else ["dps", "pigdm", "prior"]
    free = [name for name in known if not no_gradient(METHODS[name], prior)]
    names = methods.split(",") if methods else [*([kind_of(fitted)] if fitted is not None else []), *free]
    plans = {p.method.name: p for p in (plan(m.strip(), task.name, steps=steps, eta=eta) for m in names)}
    for p in plans.values():
        p.make(prior, fitted)
    return plans


def _check_methods(plans: dict[str, Plan], task: Any, prior: Denoiser) -> None:
    """Refuse methods that cannot be used with the task, or with the prior."""
    likelihood = task.check(prior.data_shape).likelihood
    for p in plans.values():
        if reason := p.method.why_unsupported(likelihood) or no_gradient(p.method, prior, likelihood):
            raise InputError(f"{reason} (the task {task.name}): leave {p.method.name} out of --methods")


def _check_pairs(task: Any, pairs: bool, degraded: Path | None, run: Path | None) -> None:
    """Whether --pairs and --degraded go with the task."""
    if isinstance(task, UnknownTask):
        if not pairs and degraded is None:
            raise InputError(
                f"{run} was fitted to pairs of an unknown degradation, which cannot be applied to other data: give"
                " pairs that were held out (--data PAIRS --pairs, or --data CLEAN --degraded FOLDER)"
            )
    elif degraded is not None:
        raise InputError(f"--degraded is for a run that was fitted to pairs without a task; this one knows {task.name}")


def _cases(
    data: str,
    pairs: tuple[bool, Path | None],
    count: int | None,
    task: Any,
    seed: int,
    domain: Domain,
    shape: tuple[int, ...],
    known: tuple[str, str],
    reading: dict[str, Any],
    output: Output,
) -> TensorCases:
    """The samples with their measurements. known: the names of the data and of the prior, by which a feature network is
    found."""
    labels, obs = None, None
    if isinstance(task, UnknownTask):
        given = read_unknown(Path(data), pairs[1], domain, shape, reading)
        for note in given.notes:
            output.say(note)
        x, obs = given.x, task.observation(task.arranged(given.y.numpy(), f"{data}[y]"))
    elif pairs[0]:
        x, obs = common.read_pairs(Path(data), task, domain, shape, reading)
    else:
        found = common.load_data(domain, data, "test", shape, reading, output.say)
        x, labels = found.x, found.labels
    if count is not None and not 1 <= count <= len(x):
        raise InputError(f"--images {count}: there are {len(x)}, give 1 to {len(x)}")
    n = count or len(x)
    if isinstance(x, Stored):
        check_memory(4 * n * x.numel() // len(x), f"all of {n:,} {domain.title}", "give --images, how many of them")
    x, labels = x[:n], None if labels is None else labels[:n]
    obs = task.observe(x, Noise(seed, n)) if obs is None else obs[:n]
    name = domain.feature_network_for(known, tuple(shape), labels is not None)
    if not name:
        return TensorCases(domain, x, obs)
    return TensorCases(
        domain, x, obs, labels=labels, network=domain.feature_network(name, x), names=captions(domain, labels, known)
    )
