"""deft calibrate"""

from __future__ import annotations

from pathlib import Path

import click

from deft.cli import common
from deft.cli.common import DATA_HELP, Output, json_option
from deft.cli.numbers import Number
from deft.errors import InputError
from deft.io.claims import claimed
from deft.recipe.data import held_out_samples
from deft.recipe.intervals import LEVEL
from deft.values import Count, Samples, Seed, Steps


@click.command()
@click.argument("run", type=common.FilePath())
@click.option(
    "--data",
    type=common.SOURCE,
    help=DATA_HELP + " h must not have been fitted to it. Without --data, samples of the prior.",
)
@click.option(
    "--images", type=Number(Count), default=128, show_default=True, help="How many samples of the data, the first ones."
)
@click.option("--samples", type=Number(Samples), default=8, show_default=True, help="Samples drawn for each.")
@click.option("--steps", type=Number(Steps), help="Calls of the prior for a sample.  [default: those of deft sample]")
@click.option(
    "--seed", type=Number(Seed), default=0, show_default=True, help="Of masks, measurement noise and samples."
)
@click.option(
    "--prior",
    "prior_option",
    type=common.SOURCE,
    help="A bundled prior, a file, a folder, FILE.py:FUNCTION or a URL, as in `deft fit`.  [default: the run's]",
)
@common.prior_option_option
@common.trust_code_option
@common.reading_options
@common.network_options
@common.device_option
@json_option
def calibrate(
    run: Path,
    data: str | None,
    images: int,
    samples: int,
    steps: int | None,
    seed: int,
    prior_option: str | None,
    prior_options: tuple[str, ...],
    skip_bad: bool,
    resize: bool,
    convert: bool,
    value_range: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Check the intervals of a fitted h, and make them hold.

    \b
    deft calibrate run --data held-out/

    Measures the data as the task does, draws samples of each, and finds the factor under which the interval about
    their mean holds the truth as often as it says. The factor, and what samples are like where h works, go into the
    card of RUN; `deft sample` and `draws.interval(0.9)` use them. `deft fit` does this on fewer of them.
    """
    output = Output(as_json)
    where = common.get_device(device)
    fitted = common.load_run(run, prior_option, where, prior_options)
    if run.is_file() and run.name != "h.safetensors":
        raise InputError(
            f"{run} is not the h.safetensors of a run, whose card this writes: give a folder of `deft fit`"
        )
    if samples < 2:
        raise InputError(f"--samples must be at least 2, got {samples}: an interval needs a spread")
    x = None
    if data is not None:
        domain, reading = common.domain_for(fitted.prior), common.reading(skip_bad, resize, convert, value_range)
        found = common.load_data(domain, data, "validation", fitted.prior.data_shape, reading, output.say)
        x = held_out_samples(fitted.prior, found)
    folder = run if run.is_dir() else run.parent
    with claimed(folder, what="calibrate"):
        done = fitted.calibrate_intervals(x, count=images, n=samples, steps=steps, seed=seed)
        done.save(folder)
    checked = done.checked_intervals
    assert checked is not None
    factor = checked.factors.at(LEVEL, samples)
    output.say(
        f"checked on {checked.source}, {samples} samples each: of the entries, the raw {100 * LEVEL:.0f} % interval"
        f" holds {100 * checked.raw:.0f} %"
    )
    output.say(
        f"factor {factor:.2f} of a Gaussian's interval for {samples} samples; on data like these it holds"
        f" {100 * LEVEL:.0f} ± {200 * checked.error:.0f} %"
    )
    output.say(f"wrote {folder}/h.safetensors")
    output.result({"out": str(folder), "intervals": checked.config()})
