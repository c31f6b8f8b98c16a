"""deft prior inspect"""

from __future__ import annotations

from typing import Any

import click

from deft.cli import common
from deft.cli.common import DATA_HELP, Output, json_option
from deft.cli.numbers import Number
from deft.denoiser import NetworkDenoiser
from deft.kinds.stored import bounded
from deft.prior.check import LEVELS, WORSE, Candidate, confirm, describe, try_conventions
from deft.prior.latent import LatentPrior
from deft.recipe.card_text import card_lines
from deft.values import Count, Seed


@click.command()
@click.argument("path", metavar="PRIOR", type=common.SOURCE)
@click.option("--images", "data", type=common.SOURCE, help=DATA_HELP + " Of the kind the prior was trained on.")
@click.option("-n", "count", type=Number(Count), default=16, show_default=True, help="How many of them to try it on.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@common.prior_option_option
@common.reading_options
@common.device_option
@json_option
def inspect(
    path: str,
    data: str | None,
    count: int,
    seed: int,
    prior_options: tuple[str, ...],
    skip_bad: bool,
    resize: bool,
    convert: bool,
    value_range: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Say what a prior is, and test it on images.

    \b
    deft prior inspect unet.safetensors
    deft prior inspect my-pipeline --images photos/

    PRIOR is what --prior takes elsewhere. With --images its denoising error is compared with a Wiener filter's, as it
    is read and under every other convention in use: eps / v / x0 / score / flow / EDM, schedules, ranges, times.
    """
    output = Output(as_json)
    where = common.get_device(device)
    prior = common.find_prior(path, where, prior_options)
    about = describe(prior)
    output.say("\n".join(card_lines(about)))
    result: dict[str, Any] = {"prior": path, **about}
    if data is not None:
        options = common.reading(skip_bad, resize, convert, value_range)
        x = common.load_data(common.domain_for(prior), data, "test", prior.data_shape, options, output.say).x
        x = prior.encode(bounded(x, max(count, 256)))
        network = prior.prior if isinstance(prior, LatentPrior) else prior
        if isinstance(network, NetworkDenoiser):
            verdict = try_conventions(network, x, images=count, seed=seed)
            taken, best, text, confirmed = verdict.taken, verdict.best, verdict.text, verdict.confirmed
        else:
            taken = best = confirm(network, x, images=count, seed=seed)
            confirmed = taken.worst <= WORSE
            text = (
                f"its error is at most {taken.worst:.2f} of the Wiener filter's; what its numbers mean is its own"
                " code's business"
            )
        output.say("\nerror of E[x_0 | x_t], as a share of a Wiener filter's, at sigma/alpha =")
        output.say(f"  {'':40}" + "".join(f"{level:>9g}" for level in LEVELS))
        output.say(_row("as read", taken))
        if best is not taken:
            output.say(_row(", ".join(f"{k} {v}" for k, v in best.changes.items()), best))
        output.say(f"\n{text}")
        result |= {
            "confirmed": confirmed,
            "coupled": best.coupled,
            "verdict": text,
            "taken": _json(taken),
            "best": _json(best),
        }
    elif about["unsure"]:
        output.say("\nto test what is unsure: --images DIR")
    output.result(result)


def _row(name: str, reading: Candidate) -> str:
    return f"  {name:40}" + "".join(f"{r:9.2f}" for r in reading.ratios)


def _json(reading: Candidate) -> dict[str, Any]:
    return {"changes": reading.changes, "levels": list(LEVELS), "errors": reading.errors, "ratios": reading.ratios}
