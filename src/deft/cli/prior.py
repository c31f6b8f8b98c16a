"""deft prior train, and the group of its commands"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from click.core import ParameterSource
from torch import Tensor

from deft.cli import common
from deft.cli.common import DATA_HELP, Name, Output, json_option, out_option, overwrite_option
from deft.cli.embed import embed
from deft.cli.export import export_network as export
from deft.cli.group import NearestGroup
from deft.cli.inspect import inspect
from deft.cli.numbers import Depth, Line, Number, Numbers
from deft.core.denoiser import fingerprint, freeze
from deft.core.schedule import Schedule
from deft.denoiser.parametrisation import OUTPUTS
from deft.errors import InputError, NonFiniteError
from deft.io.files import write_bytes, write_json, write_text
from deft.io.folders import STATE_FIRST, Outputs, own_folder
from deft.io.prior_files import BUNDLED, OwnPrior, load_own
from deft.io.text import markdown
from deft.kinds.domain import Domain, Table, find_domain
from deft.kinds.stored import Samples, bounded, subset
from deft.recipe.card_text import card_lines
from deft.recipe.data import hold_out
from deft.runtime.distributed import get_world
from deft.runtime.memory import check_memory
from deft.schedule import SCHEDULES
from deft.train.augment import Flipped
from deft.train.compiled import compiled
from deft.train.data import Clean
from deft.train.denoising import PriorObjective
from deft.train.fit import FitConfig, FitResult, fit, launched_config
from deft.train.levels import level_table
from deft.train.prior_quality import denoising_errors, draw
from deft.train.protocols import Batches
from deft.values import Count, CountOrNone, FitSteps, NotNegative, Part, Rate, Rows, Seconds, Seed, Width

KEPT_ON_DEVICE = 2**31
"""Training images of at most so many bytes are kept on the GPU."""

TRAINABLE = tuple(k for k in SCHEDULES if k != "vp-table")


TRAIN_OUTPUTS = Outputs("prior train", ("prior.safetensors", "card.md", "samples.png", "log.json", *STATE_FIRST))


@click.group(cls=NearestGroup)
def prior() -> None:
    """Priors: what a file is, and training your own."""


prior.add_command(inspect)
prior.add_command(export)
prior.add_command(embed)


def make_schedule(name: str) -> Schedule:
    return SCHEDULES[name]()


@prior.command()
@click.option("--data", type=common.SOURCE, required=True, help=DATA_HELP)
@click.option(
    "--kind",
    type=Name("kind of data", Table(lambda domain: {domain.name: domain})),
    default="image",
    show_default=True,
    help="What the data are.",
)
@click.option(
    "--held-out", type=common.SOURCE, help="Data for the held-out loss, like --data (default: a tenth of the data)."
)
@out_option()
@click.option(
    "--widths",
    type=Numbers(Width, 1, 8),
    default="64,96,128",
    show_default=True,
    help="Channels at each level of the UNet; each level halves the sides.",
)
@click.option("--blocks", type=Number(Depth), default=1, show_default=True, help="Residual blocks a level.")
@click.option(
    "--patch",
    type=Number(Depth),
    default=2,
    show_default=True,
    help="Fold patches of so many entries a side into channels first.",
)
@click.option("--schedule", type=Name("schedule", TRAINABLE), default="vp-cosine", show_default=True)
@click.option(
    "--output",
    "output_kind",
    type=Name("output", OUTPUTS),
    default="v",
    show_default=True,
    help="What the network is trained to output.",
)
@click.option("--steps", type=Number(FitSteps), default=11_000, show_default=True)
@click.option("--batch", type=Number(Rows), default=64, show_default=True)
@click.option("--lr", type=Number(Rate), default=1.5e-3, show_default=True)
@click.option("--warmup", type=Number(CountOrNone), default=300, show_default=True)
@click.option("--ema", type=Number(Part), default=0.9995, show_default=True)
@click.option("--weight-decay", type=Number(NotNegative), default=0.0, show_default=True)
@click.option("--evaluations", type=Number(Count), default=20, show_default=True, help="Looks at the held-out loss.")
@click.option(
    "--seconds", type=Number(Seconds), help="Stop after this long, with the learning rate brought down in time."
)
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@click.option("--bf16", is_flag=True, help="Autocast to bfloat16.")
@click.option(
    "--flip",
    is_flag=True,
    help=(
        "Show each image in a random flip or quarter turn: for pictures that have no upright, such as those from above."
    ),
)
@click.option(
    "--start-from",
    "start",
    type=common.SOURCE,
    help="Begin with the weights of another prior of the same shape: a folder, a file or a bundled prior.",
)
@click.option(
    "--compile",
    "compile_blocks",
    is_flag=True,
    help="Compile the network's blocks with torch.compile first; without it if that fails.",
)
@click.option("--half", is_flag=True, help="Round the weights to half precision in prior.safetensors: half the size.")
@common.accumulate_option
@common.streams_option
@click.option("--name", type=Line(), help="For the card.  [default: the output folder's]")
@click.option("--about-data", type=Line(), help="For the card: what the data are.")
@click.option("--licence", type=Line(), help="For the card: the licence of the data.")
@click.option(
    "--features",
    type=Name("features", ("none", "fashion")),
    default="none",
    show_default=True,
    help="A classifier in whose features samples are compared with held-out data.",
)
@click.option("--resume", is_flag=True, help="Go on with a training that was stopped, with the same settings.")
@common.length_option
@common.reading_options
@common.device_option
@overwrite_option
@json_option
def train(**asked: Any) -> None:
    """Train an unconditional prior from a folder or an npz of images, all of one size, or from other kinds of data.

    \b
    deft prior train --data photos/ --out my-prior --seconds 3600
    deft prior train --kind series --data air.csv --length 96 --out air

    Writes prior.safetensors, card.md, samples.png, log.json and state.pt (for --resume).
    """
    given = Training(**asked)
    given.check()
    given.run(Output(given.as_json))


@dataclass(frozen=True)
class Training:
    """What the options say; field by field as above."""

    data: str
    kind: str
    held_out: str | None
    out: Path
    widths: tuple[int, ...]
    blocks: int
    patch: int
    schedule: str
    output_kind: str
    steps: int
    batch: int
    lr: float
    warmup: int
    ema: float
    weight_decay: float
    evaluations: int
    seconds: float | None
    seed: int
    bf16: bool
    flip: bool
    start: str | None
    compile_blocks: bool
    half: bool
    accumulate: int
    streams: bool
    name: str | None
    about_data: str | None
    licence: str | None
    features: str
    resume: bool
    skip_bad: bool
    resize: bool
    convert: bool
    value_range: str | None
    device: str | None
    overwrite: bool
    as_json: bool

    def check(self) -> None:
        """Options that are not for a new prior."""
        if self.resize or self.convert:
            raise InputError(
                "a new prior takes its size and channels from the data: bring them to one size first, without"
                " --resize or --convert"
            )

    def run(self, output: Output) -> None:
        """Read, train, measure, write."""
        where = common.get_device(self.device)
        config = self.config()
        data = self.read(find_domain(self.kind), output)
        shape = tuple(data.x.shape[1:])
        if self.features != "none" and len(data.x_out) < 4:
            raise InputError(
                f"--features compares samples with two halves of the held-out {data.domain.title}, and there are"
                f" {len(data.x_out)}: give at least 4 with --held-out, or more data, or leave --features out"
            )
        made = self.build(data.domain, shape)
        with own_folder(
            self.out, TRAIN_OUTPUTS, overwrite=self.overwrite, resume=self.resume,
            inputs=(self.start, self.data, self.held_out),
        ):  # fmt: skip
            self.fill(output, made, data, config, where)

    def fill(self, output: Output, made: Any, data: Read, config: FitConfig, where: torch.device) -> None:
        """Train, measure and write, in the folder --out."""
        shape = tuple(data.x.shape[1:])
        count = sum(p.numel() for p in made.parameters())
        output.say(
            f"prior: {count:,} parameters, {len(data.x):,} {data.domain.title} of {'x'.join(map(str, shape))},"
            f" {len(data.x_out):,} held out"
        )
        made, result = self.train(made, data, config, where)
        if not get_world().main:  # what is left to do is one process's work
            return
        about = self.about(result, config, f"{self.data} ({data.n} {data.domain.title})") | dict(data.card)
        card = finish_prior(
            made, data.domain, data.x_out, self.out, about, features=self.features, seed=self.seed, half=self.half,
            seen=data.seen_out,
        )  # fmt: skip
        write_json(self.out / "log.json", {"history": result.history, "card": card})
        output.say(
            f"{result.steps} steps in {result.seconds:.0f} s; held-out loss {result.held_out[result.weights]:.4f}"
            f" ({result.weights} weights)"
        )
        output.say("\nheld-out mean squared error of E[x_0 | x_t]:\n" + level_table(card["levels"]))
        output.say(
            f"\nwrote {common.written(self.out, TRAIN_OUTPUTS.names[:3])}; next: deft fit --prior {named(self.out)}"
            " --help"
        )
        output.result({"out": str(self.out), "card": card, "history": result.history})

    def config(self) -> FitConfig:
        return launched_config(FitConfig(
            steps=self.steps, batch=self.batch, lr=self.lr, warmup=self.warmup, weight_decay=self.weight_decay,
            ema=self.ema, seed=self.seed, bf16=self.bf16, max_seconds=self.seconds, evaluations=self.evaluations,
            held_out_batches=8, accumulate=self.accumulate, streams=self.streams,
        ))  # fmt: skip

    def read(self, domain: Domain, output: Output) -> Read:
        """Data to train on, and held-out data, by what the first say of their units."""
        options = common.reading(self.skip_bad, False, False, self.value_range)
        found = common.load_data(domain, self.data, "fit", None, options, output.say, gaps=True)
        shape, bound = tuple(found.x.shape[1:]), domain.with_card(found.card)
        common.check_batch(common.own_part(self.batch, self.accumulate), shape)
        if self.held_out:
            out = common.load_data(
                bound, self.held_out, "validation", shape, options, output.say, held_out=True, gaps=True
            )
            x_out = bounded(out.x, 1000)
            seen_out = None if out.seen is None else out.seen[: len(x_out)]
            return Read(bound, found.card, len(found), found.x, x_out, found.seen, seen_out)
        rows, rest = hold_out(len(found), self.seed, found.x, found.last)
        seen = (None, None) if found.seen is None else (found.seen[rows], found.seen[rest])
        return Read(bound, found.card, len(found), subset(found.x, rows), found.x[rest], *seen)

    def build(self, domain: Domain, shape: tuple[int, ...]) -> Any:
        """The prior as it is before training."""
        torch.manual_seed(self.seed)
        context = click.get_current_context()
        network = {
            k: context.params[k]
            for k in ("widths", "blocks", "patch")
            if context.get_parameter_source(k) is ParameterSource.COMMANDLINE
        }
        # two 3x3 convolutions a block at the least, and each weight five times in training
        least = 20 * 18 * self.blocks * sum(w**2 for w in self.widths)
        check_memory(least, f"a network of --widths {','.join(map(str, self.widths))}", "give smaller ones")
        made = common.ask(domain.new_prior, domain, shape, make_schedule(self.schedule), self.output_kind, **network)
        if self.start is not None:
            start_weights(made, self.start)
        return made

    def train(self, made: Any, data: Read, config: FitConfig, where: torch.device) -> tuple[Any, FitResult]:
        """(the trained prior, how it went)."""
        fast_kernels(where)
        objective, batches = PriorObjective(), clean_batches(data.x, where, self.flip, data.seen)
        held_out = Clean(data.x_out, seen=data.seen_out)
        if self.compile_blocks:
            made = compiled(made, objective, batches, config=config, device=where)
        try:
            return made, fit(
                made, objective, batches, held_out, config=config, folder=self.out, resume=self.resume, device=where,
                progress=common.bars(), callback=common.show_evaluation,
            )  # fmt: skip
        except NonFiniteError as error:
            state = self.out / "state.pt"
            kept = f" (the last good state is kept: {state})" if state.exists() else ""
            raise NonFiniteError(f"{error}{kept}") from error

    def about(self, result: FitResult, config: FitConfig, data: str) -> dict[str, Any]:
        """What the card says of the training."""
        return {
            "name": self.name or self.out.resolve().name,
            "data": self.about_data or data,
            "licence": self.licence or "not stated",
            "recipe": {k: v for k, v in asdict(config).items() if k not in ("saves",)}
            | {"flip": self.flip, "start_from": self.start},
            "steps": result.steps,
            "seconds": round(result.seconds),
            "weights": result.weights,
            "held_out_loss": result.held_out,
        }


class Read(NamedTuple):
    """What a prior is trained on, in the units that `domain` knows. card: what its card says of them. n: samples of
    --data. seen: which entries somebody measured, of data and of held-out data; None for all."""

    domain: Domain
    card: Mapping[str, Any]
    n: int
    x: Samples
    x_out: Tensor
    seen: Tensor | None = None
    seen_out: Tensor | None = None


def clean_batches(x: Samples, device: torch.device, flip: bool = False, seen: Tensor | None = None) -> Batches:
    """Batches of the samples x [N, *E], which are kept on a GPU if they fit there easily; flip: see `Flipped`; seen:
    see `Clean`."""
    near = isinstance(x, Tensor) and device.type == "cuda" and x.numel() * x.element_size() <= KEPT_ON_DEVICE
    batches = Clean(x.to(device) if near and isinstance(x, Tensor) else x, seen=seen)
    return Flipped(batches) if flip else batches


def fast_kernels(device: torch.device) -> None:
    """On a GPU: TF32 for products in float32, and the fastest convolution of each shape. Elsewhere nothing."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def start_weights(made: OwnPrior, source: str) -> None:
    """Give `made` the weights of the prior in `source`: a folder, a file or a bundled prior's name.

    Raises:
        InputError: that prior's network, image shape, schedule or output is another.
        CheckpointError: no prior can be read there.
    """
    other = load_own(source)
    mine, theirs = ({"images": p.event_shape, **getattr(p.net, "config", {}), **p.describe()} for p in (made, other))
    unequal = [
        f"{k} {theirs.get(k)} there, {mine.get(k)} here" for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)
    ]
    if unequal:
        raise InputError(
            f"--start-from {source} is a prior of another kind ({'; '.join(unequal)}): give the options it was trained"
            " with"
        )
    made.load_state_dict(other.state_dict())


def round_to_half(made: OwnPrior) -> None:
    """Round the weights to float16, which stays float32 in memory.

    Raises `InputError` if a weight is too large for float16.
    """
    with torch.no_grad():
        for p in made.parameters():
            rounded = p.half().to(p.dtype)
            if not bool(torch.isfinite(rounded).all()):
                raise InputError(
                    f"a weight of {float(p.abs().max()):.3g} is too large for half precision: train again without"
                    " --half"
                )
            p.copy_(rounded)


def finish_prior(
    made: OwnPrior,
    domain: Domain,
    held_out: Tensor,
    out: Path,
    about: dict[str, Any],
    *,
    features: str = "none",
    seed: int = 0,
    grid: int = 80,
    half: bool = False,
    seen: Tensor | None = None,
) -> dict[str, Any]:
    """Measure a trained prior where it is, and write prior.safetensors with its card, card.md and samples.png.

    seen: which entries of the held-out samples are known.

    half: weights are rounded to float16 first, so that what is measured is what is written; the card then says by
    which fraction the held-out error changed at most, over the levels (`rounding`).
    """
    made = copy.deepcopy(made)  # not compiled
    freeze(made)
    known = None if seen is None else seen[:1000]
    levels = denoising_errors(made, held_out[:1000], seed=seed, seen=known)
    if half:
        round_to_half(made)
        before, levels = levels, denoising_errors(made, held_out[:1000], seed=seed, seen=known)
        about = about | {
            "precision": "float16",
            "rounding": max(abs(a["prior"] / b["prior"] - 1) for a, b in zip(levels, before, strict=True)),
        }
    about = about | {
        "parameters": sum(p.numel() for p in made.parameters()),
        "sha256": fingerprint(made),
        "levels": levels,
    }
    many = grid if features == "none" else 1000
    samples = draw(made, many, seed=seed, progress=False)
    if features != "none":
        about["distance"] = domain.set_distance(features, samples, held_out)
    made.save(out / "prior.safetensors", torch.float16 if half else None, **about, torch=torch.__version__)
    png = domain.picture(samples[:grid], (), f"samples of {about['name']}, 100 steps, none left out")
    if png is not None:
        write_bytes(out / "samples.png", png)
    write_text(out / "card.md", prior_card_text(made.card, png is not None))
    return made.card


def named(folder: Path) -> str:
    """A folder as --prior takes it: a bundled prior comes before a folder of its name."""
    return f"./{folder}" if str(folder) in BUNDLED else str(folder)


def prior_card_text(card: dict[str, Any], picture: bool = True) -> str:
    """card.md of a prior."""
    kept = {k: v for k, v in card.items() if k != "levels"}
    text = [
        f"# Prior: {markdown(str(card['name']))}",
        "",
        "```",
        *card_lines(kept),
        "```",
        "",
        "Held-out mean squared error of E[x_0 | x_t], by noise level:",
    ]
    return "\n".join(
        [*text, "", level_table(card["levels"]), "", *(["![samples](samples.png)", ""] if picture else [])]
    )
