"""What the commands share: names with a nearest match, output, the reading of runs, priors and data."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click
import torch
from torch import Tensor
from tqdm import tqdm

from deft.cli.numbers import Number
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import InputError, unknown, visible
from deft.io.arrays import read_arrays
from deft.io.files import free_space, json_text, shortened
from deft.io.measurements import limits, observation, task_of
from deft.io.settings import as_range
from deft.io.tasks import TASKS, get_task
from deft.kinds.domain import Data, Domain, Table, domains, known_options
from deft.kinds.domain import domain_for as domain_for  # asked for with the rest
from deft.likelihood.task import OperatorTask, Tilt
from deft.prior import load_prior
from deft.prior.load import absolute_name, read_options
from deft.recipe.data import complete
from deft.recipe.fitted import FittedH, family_or_none, prior_of, with_recorded
from deft.recipe.fitted import load as load_fitted
from deft.runtime.compiled import compile_networks
from deft.runtime.distributed import get_world
from deft.runtime.importable import find_function
from deft.runtime.memory import check_memory
from deft.runtime.messages import log, show
from deft.runtime.precision import PRECISIONS, at_precision, networks
from deft.runtime.shard import shard
from deft.train.fit import pick_device
from deft.values import Count, Positive, Range, Size, printable, quoted

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=torch.nn.Module)


def one_line(text: object) -> str:
    return " ".join(str(text).split())


class Name(click.ParamType):
    """A name out of a table, which is looked at when it is asked for; an unknown one is an error with the nearest
    offered."""

    def __init__(self, kind: str, table: Collection[str], old: Mapping[str, str] | None = None):
        self.name, self._table, self._old = kind, table, old or {}

    @property
    def known(self) -> list[str]:
        return sorted(self._table)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.known)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        value = self._old.get(value, value)  # by its name of the version before
        if value not in self._table:
            raise unknown(self.name, str(value), self.known)
        return str(value)


class FilePath(click.Path):
    """A path, which the system can look for: not too long, and not in a folder that may not be entered."""

    def __init__(self, exists: bool = False):
        super().__init__(exists=exists, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if doubt := path_doubt(value):
            self.fail(doubt, param, ctx)
        return super().convert(value, param, ctx)


class Source(click.ParamType):
    """A path, or something else that is told by its form: a bundled name, a URL, FILE.py:FUNCTION, FILE.npz:NAME."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        unset = not str(value) and param is not None and param.default == ""  # a default that stands for none
        if not unset and "://" not in str(value) and (doubt := path_doubt(value)):
            self.fail(doubt, param, ctx)
        return str(value)


SOURCE = Source()


def path_doubt(value: Any) -> str | None:
    """Why the system cannot even look for a path, or None; that there is nothing is no doubt."""
    if not str(value):
        return "is empty: give a path"
    try:
        os.stat(value)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{shortened(str(value).replace(chr(0), '?'))}: {reason}"
    return None


class ValueRange(click.ParamType):
    """LOW,HIGH or "window"."""

    name = "range"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return as_range(value)


class Output:
    """Text for people on standard output; with --json one object there, and the text on standard error."""

    def __init__(self, as_json: bool):
        self.as_json = as_json
        context = click.get_current_context(silent=True)
        # what the library logs is said until the command ends
        if context is not None and "deft.shows" not in context.meta:
            context.meta["deft.shows"] = True
            context.with_resource(show(self.say))

    def say(self, text: str = "") -> None:
        click.echo(visible(text), err=self.as_json)

    def result(self, value: dict[str, Any]) -> None:
        if self.as_json:
            click.echo(json_text(value))


def bars() -> bool:
    """Whether progress bars make sense: not in a log file. (`fit` and its like show them on the main process alone.)"""
    return sys.stderr is not None and sys.stderr.isatty()


def show_evaluation(row: Mapping[str, Any]) -> None:
    """One line of a fit's history, on standard error, above the progress bar if there is one."""
    tqdm.write(
        f"step {row['step']:>6}  {row['seconds']:6.0f} s  loss {row['loss']:.4f}  held out: raw {row['raw']:.4f},"
        f" averaged {row['ema']:.4f}",
        file=sys.stderr,
    )


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several click options as one decorator, in the order given."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on standard output, all else on standard error."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Use the output folder even if it holds files.")


def _trust(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[f"deft.{param.name}"] = value


trust_code_option = click.option(
    "--trust-code",
    is_flag=True,
    expose_value=False,
    callback=_trust,
    help=(
        "Run the code that a file names: a card's network, class of h or of task, or prior; the prior of a comparison."
    ),
)


def _text(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.meta.setdefault("deft.text", {})[param.name] = value


text_options = options(
    click.option(
        "--prompt", metavar="TEXT", expose_value=False, callback=_text,
        help="Of a text-conditional prior: its text (docs/prior-text.md).  [default: none]",
    ),
    click.option(
        "--negative-prompt", metavar="TEXT", expose_value=False, callback=_text,
        help="The text that guidance leads away from.",
    ),
    click.option(
        "--guidance-scale", metavar="NUMBER", expose_value=False, callback=_text,
        help="Classifier-free guidance, from 1 (none); above 1 each call of the prior is two of its network.",
    ),
    click.option(
        "--embeddings", metavar="FILE", expose_value=False, callback=_text,
        help="The prompt's embeddings, of `deft prior embed`: no text encoder is loaded.",
    ),
    click.option(
        "--lora", metavar="FILE", expose_value=False, callback=_text,
        help="LoRA weights, merged into a model of diffusers as it is loaded.",
    ),
)  # fmt: skip
"""What a prior is conditioned on, as options of their own; `find_prior` reads them."""
prior_option_option = options(
    text_options,
    click.option(
        "--trust-pickle",
        is_flag=True,
        expose_value=False,
        callback=_trust,
        help="Read a prior's .pt file even if it holds more than tensors: that runs code from it.",
    ),
    click.option(
        "--prior-option",
        "prior_options",
        multiple=True,
        metavar="KEY=VALUE",
        help=(
            "How to read the prior, where its files do not say or are wrong: convention=edm, output=v, value_range=0,1,"
            " label=3, ... (`deft prior inspect` tells). May be repeated."
        ),
    ),
)


def _precision(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    ctx.meta["deft.precision"] = value


def _compile(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["deft.compile"] = value


network_options = options(
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        expose_value=False,
        callback=_precision,
        help=(
            "Of the networks of prior and h while they run; all else stays float32 (docs/cost.md).  [default: as"
            " stored]"
        ),
    ),
    click.option(
        "--compile",
        "compiled",
        is_flag=True,
        expose_value=False,
        callback=_compile,
        help="Compile the networks of prior and h with torch.compile: minutes at first, for long runs on a GPU.",
    ),
)
"""How networks run while samples are drawn; `lowered` reads them."""
size_option = click.option(
    "--size",
    type=Number(Size),
    default=0.09,
    show_default=True,
    help="Upper limit of h's parameters, as a share of the prior's.",
)
accumulate_option = click.option(
    "--accumulate",
    type=Number(Count),
    default=1,
    show_default=True,
    help="Go through a batch in so many parts, to save memory.",
)
streams_option = click.option(
    "--streams",
    is_flag=True,
    help="For many processes: each draws the random numbers of its own rows alone (docs/distributed.md).",
)
shard_option = click.option(
    "--shard-prior",
    is_flag=True,
    help="With several processes: each holds a part of the prior, for one that does not fit.",
)
device_option = click.option("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda if there is one).")


def _part(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.meta[f"deft.reading.{param.name}"] = value


def _kind_options(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    for key, text in key_values("--data-option", value).items():
        ctx.meta[f"deft.reading.{key}"] = _number(text)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


data_option_option = click.option(
    "--data-option",
    multiple=True,
    metavar="KEY=VALUE",
    expose_value=False,
    callback=_kind_options,
    help=(
        "How data are read, for kinds of data that have settings of their own: stride=24 of series, say (the page of"
        " each names them). May be repeated."
    ),
)
length_option = click.option(
    "--length",
    type=Number(Count),
    expose_value=False,
    callback=_part,
    help="Of kinds of data that are cut into pieces (series, sound): entries of a piece.",
)
range_option = click.option(
    "--range",
    "value_range",
    type=ValueRange(),
    help=(
        "The two numbers that are black and white: 0,1  0,255  0,4095  -1000,1000; or window, that of DICOM files"
        " (docs/images.md)."
    ),
)
array_option = click.option(
    "--array",
    metavar="NAME",
    expose_value=False,
    callback=_part,
    help="Which array of an .npz holds the data, as in FILE.npz:NAME; of sound, where the window starts (0.5s).",
)
reading_options = options(
    click.option("--skip-bad", is_flag=True, help="Leave out samples that cannot be used, and name them."),
    click.option("--resize", is_flag=True, help="Bring data to the prior's size (of sound: to its rate)."),
    click.option("--convert", is_flag=True, help="Bring data to the prior's channels (grey or RGB; mono)."),
    range_option,
    click.option(
        "--recursive", is_flag=True, expose_value=False, callback=_part, help="Take the pictures in subfolders too."
    ),
    array_option,
    data_option_option,
)


def out_option(default: str | None = None) -> Callable[[F], F]:
    # a default of None is a value to some versions of click
    kept: dict[str, Any] = {"required": True} if default is None else {"default": default, "show_default": True}
    return click.option("--out", type=FilePath(), help="Output folder.", **kept)


def written(out: Path, names: Iterable[str]) -> str:
    """Those files of a folder that are there, for people: a kind of data may have no picture."""
    return ", ".join(str(out / name) for name in names if (out / name).exists())


def get_device(name: str | None) -> torch.device:
    try:
        device = pick_device(name)
        if device.type == "meta":
            raise RuntimeError("it keeps no numbers")
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no such device: {name!r}; give cpu or cuda ({one_line(error)[:120]})") from error


def known_failure(error: BaseException) -> str | None:
    """What to say if this is a lack of memory or of a second derivative, else None."""
    text = str(error).lower()
    if "does not currently support double backward" in text:
        return "this differentiates the network twice, which a compiled one cannot: leave --compile out"
    if "derivative for" in text and "not implemented" in text:
        what = str(error).split("derivative for ")[-1].split(" is not")[0]
        return (
            "this differentiates the likelihood twice, and an operation in it has no second derivative in PyTorch"
            f" ({what}): take vargrad, tb or adjoint (fit --objective), or particles (sample --method deft-smc)"
        )
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "alloc" in text or "out of memory" in text:
        return "a batch does not fit in memory: lower --batch (half of it, to begin with)"
    return None


def check_batch(batch: int, event_shape: tuple[int, ...]) -> None:
    """Refuse a batch whose states alone exceed the machine's memory, before the system starts to swap."""
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    # forty copies of a sample in float32, far below any real use, and the generator of its noise
    each = 4 * 40 * torch.Size(event_shape).numel() + 5000
    check_memory(batch * each, f"a batch of {batch}", "lower --batch")


def check_samples(samples: int, event_shape: tuple[int, ...], out: Path, kept: bool) -> None:
    """The same for samples that are kept until they are written: in memory, or on the disk (`kept`)."""
    size, what = 8 * samples * torch.Size(event_shape).numel(), f"all of {samples:,} samples"
    if not kept:
        check_memory(size, what, "draw fewer")
        return
    free = free_space(out)
    if free is not None and size > free:
        raise InputError(
            f"{what} do not fit on the disk of {shortened(out)} ({size / 2**30:,.0f} GiB at least, {free / 2**30:,.0f}"
            " are free): draw fewer, or give another --out"
        )


def own_part(batch: int, accumulate: int) -> int:
    """How many samples of a batch this process has in memory at once."""
    return max(len(rows) for rows in get_world().parts(batch, accumulate))


def find_prior(
    name: str, device: torch.device | str = "cpu", options: Iterable[str] = (), recorded: Iterable[str] = ()
) -> Denoiser:
    """The prior that --prior, --prior-option, --prompt and its like, and --trust-pickle ask for.

    recorded: the options of a run, which hold where no --prior-option is given, but for what --prompt and its like say.
    """
    given, context = list(options), click.get_current_context(silent=True)
    texts = {} if context is None else dict(context.meta.get("deft.text", {}))
    for key in texts.keys() & {p.partition("=")[0] for p in given}:
        raise InputError(f"{key} is given twice: as --{key.replace('_', '-')} and as --prior-option {key}=...")
    kept = with_recorded(given, [p for p in recorded if p.partition("=")[0] not in texts])
    asked = read_options([*kept, *(f"{k}={v}" for k, v in texts.items())])
    if context is not None and context.meta.get("deft.trust_pickle") and family_or_none(name) == "adm":
        asked["trust_pickle"] = True
    return lowered(load_prior(name, device, **asked))


def load_run(run: Path, prior: str | None, device: torch.device, options: Iterable[str] = ()) -> FittedH:
    """The h, its task and its prior, of a folder made by `deft fit`, or of its h.safetensors."""
    trust = trusts_code()
    name, recorded = (prior, []) if prior is not None else prior_of(run, trust_code=trust)
    fitted = load_fitted(run, find_prior(name, device, options, recorded), device=device, trust_code=trust)
    lowered(fitted.h)
    return fitted


def lowered(module: M) -> M:
    """A prior or an h in the precision that --precision asks for, compiled if --compile does."""
    context = click.get_current_context(silent=True)
    about = {} if context is None else context.meta
    precision, compiling = about.get("deft.precision"), about.get("deft.compile", False)
    asked = [*([f"--precision {precision}"] if precision not in (None, "fp32") else []), *["--compile"] * compiling]
    if asked and not networks(module):
        log.warning(
            f"warning: {' and '.join(asked)} {'does' if len(asked) == 1 else 'do'} nothing to {type(module).__name__},"
            " whose network is not in PyTorch here; of a service, give it to `deft serve`"
        )
    module = module if precision is None else at_precision(module, precision)
    return compile_networks(module) if compiling else module


def trusts_code() -> bool:
    """Whether --trust-code was given."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get("deft.trust_code"))


def spread_out(prior: Denoiser, yes: bool) -> Denoiser:
    """The prior, sharded over the processes if --shard-prior says so."""
    return shard(prior) if yes else prior


def ask(method: Callable[..., Any], domain: Domain, *args: Any, **given: Any) -> Any:
    """A method of a domain with those options that were given; one that it does not know is refused by its name on the
    command line."""
    with known_options(domain, given):
        return method(*args, **given)


def is_bundled(domain: Domain, source: str) -> bool:
    """Whether --data names a bundled data set rather than a file."""
    return source.partition(":")[0] in domain.datasets() and not Path(source).exists()


def reading(skip_bad: bool, resize: bool, convert: bool, value_range: object) -> dict[str, Any]:
    """The options of `reading_options` that were given, as `Domain.read` takes them."""
    said = {"skip_bad": skip_bad, "resize": resize, "convert": convert, "value_range": value_range, **_asked_parts()}
    return {k: v for k, v in said.items() if v is not None and v is not False}


def _asked_parts() -> dict[str, Any]:
    """What --recursive and --array say."""
    context = click.get_current_context(silent=True)
    return (
        {}
        if context is None
        else {key.rpartition(".")[2]: v for key, v in context.meta.items() if key.startswith("deft.reading.")}
    )


def load_data(
    domain: Domain,
    source: str,
    split: str,
    event_shape: tuple[int, ...] | None,
    options: Mapping[str, Any],
    say: Callable[[str], None] | None = None,
    *,
    held_out: bool = False,
    stream: bool = True,
    gaps: bool = False,
) -> Data:
    """Samples of a kind of data from files, or a split of a bundled set; says what was left out, cropped or clipped.

    options: of `reading`. held_out: they were said of other data, and count where they can. stream: of much data x may
    be a `deft.kinds.stored.Stored`, of which rows are tensors. gaps: samples with entries that nobody measured are
    wanted too.
    """
    strict = {"strict": False} if held_out and options.keys() & {"value_range", "recursive", "array"} else {}
    streamed = {"stream": True} if stream and domain.streams else {}
    found: Data = ask(domain.read, domain, source, event_shape, split=split, **options, **strict, **streamed)
    if not gaps:
        found = complete(found, source)
    for note in found.notes:
        (say or log.info)(note)
    return found


DATA_HELP = (
    "A folder of pictures (PNG, JPEG, TIFF, ..., DICOM, NIfTI), an .npz (array x or images, or FILE.npz:NAME), or"
    " `fashion`, `ct` for bundled images (`fashion:fit`, `fashion:validation`, `fashion:test`); for series a CSV"
    " (docs/series.md), for sound WAV files (docs/sound.md)."
)


task_option_option = click.option(
    "--task-option", "task_options", multiple=True, metavar="KEY=VALUE",
    help="A setting of the task: angles=30, low=0.1, quality=10, ... (`deft list` names them). May be repeated.",
)  # fmt: skip


def make_task(
    name: str | None,
    sigma_y: float | None,
    hole: tuple[float, ...] | None = None,
    options: Iterable[str] = (),
    measurement: Path | None = None,
    domain: Domain | None = None,
) -> Any:
    """The task that --task, --sigma-y, --hole and --task-option ask for; without --task the measurement file's own, and
    for want of one the first of the prior's kind of data."""
    if domain is not None and name is not None and name not in domain.tasks():
        others = next((d.title for d in domains().values() if name in d.tasks()), "others")
        raise InputError(
            f"the task {name} is for {others}, and the prior makes {domain.title}, which have"
            f" {', '.join(domain.tasks())}: give one of these, or another prior"
        )
    own = None if name is not None or measurement is None else task_of(measurement, domain)
    usual = own or get_task(name or next(iter((domain.tasks() if domain else {}) or TASKS)), domain)
    if not isinstance(usual, OperatorTask):
        raise InputError(
            f"the task {usual.name} is no deft.likelihood.task.OperatorTask, which the commands need: use it in Python"
            " (deft.fit_h)"
        )
    changes: dict[str, Any] = dict(key_values("--task-option", options))
    if "name" in changes:
        raise InputError(f"--task-option name={changes['name']}: the name is no setting of a task, give --task")
    if sigma_y is not None:
        changes["sigma_y"] = sigma_y
    if hole is not None:
        if not hasattr(usual, "smallest"):
            raise InputError(f"--hole is for the task inpaint, not for {usual.name}")
        if len(hole) not in (1, 2):
            raise InputError(f"--hole takes one or two fractions of the image's side, got {len(hole)}")
        changes |= {"smallest": hole[0], "largest": hole[-1]}
    plain = get_task(usual.name, domain)
    for key, value in changes.items():
        kind = type(getattr(plain, key, value))
        try:
            changes[key] = kind(value)
        except (ValueError, OverflowError):
            raise InputError(
                f"{key} of the task {usual.name} is {'a whole number' if kind is int else 'a number'}, got {value!r}"
            ) from None
    return get_task(usual.name, domain, **{k: v for k, v in usual.config().items() if k != "name"} | changes)


reward_options = options(
    click.option(
        "--reward",
        type=SOURCE,
        help=(
            "Instead of a measurement: FILE.py:FUNCTION, images [B, C, H, W] in [-1, 1] -> their reward [B],"
            " differentiable; or fashion-classifier, with --label."
        ),
    ),
    click.option(
        "--beta",
        type=Number(Positive),
        help="With --reward: samples are of p(x) exp(reward / beta); small is greedy.  [default: 1]",
    ),
    click.option(
        "--label",
        type=Number(Annotated[int, Range(0, 1_000_000)]),
        help="With --reward: the function returns logits [B, classes], and the reward is log p(label | x).",
    ),
)
REWARDS = Table(lambda domain: domain.rewards())
"""Name -> (what makes a bundled classifier, the names of its classes), of every kind of data."""


def make_tilt(source: str, beta: float | None, label: int | None) -> Tilt:
    """What --reward, --beta and --label ask for."""
    beta = 1.0 if beta is None else beta
    if not 0 < beta < math.inf:
        raise InputError(f"--beta must be a number above 0, got {beta}")
    if label is not None and label < 0:
        raise InputError(f"--label is a class from 0, got {label}")
    function: Callable[[Tensor], Tensor]
    if source in REWARDS:
        make, classes = REWARDS[source]
        if label is None:
            raise InputError(
                f"{source} knows {len(classes)} classes (0 {classes[0]} ... {len(classes) - 1} {classes[-1]}): say"
                " which class with --label"
            )
        function = make()
    elif ":" not in source:
        raise InputError(f"--reward takes FILE.py:FUNCTION, or {', '.join(REWARDS)}; got {source}")
    else:
        function, source = (
            find_function(source, "a function of images [B, C, H, W] that returns [B]"),
            absolute_name(source),
        )
    return Tilt(source=source, beta=beta, label=-1 if label is None else label, function=function)


def read_pairs(
    path: Path, task: Any, domain: Domain, event_shape: tuple[int, ...], options: Mapping[str, Any]
) -> tuple[Tensor, Observation]:
    """The user's own pairs: an .npz with x, y and, where the task draws one for each sample, mask or kernel. options:
    of `reading`."""
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if options.keys() & {"skip_bad", "array", "recursive"}:
        raise InputError("--pairs are x and y of one file, all of them: leave --skip-bad, --array and --recursive out")
    arrays = read_arrays(path)
    wanted = {"x", "y"} | ({task.drawn} if task.drawn else set())
    if wanted - set(arrays):
        raise InputError(
            f"{path} lacks {', '.join(sorted(wanted - set(arrays)))}: pairs for {task.name} are the arrays"
            f" {', '.join(sorted(wanted))}"
        )
    x, arrays = ask(domain.pairs, domain, arrays, str(path), task, event_shape, **options)
    given = None if getattr(task, "pictures", False) else limits(options.get("value_range"))
    return x, observation(str(path), arrays, task, event_shape, given)


def key_values(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE texts, each key once. option: which has them, for messages."""
    out: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not printable(pair):
            raise InputError(f"{option} takes KEY=VALUE, got {quoted(pair)}")
        if key in out:
            raise InputError(f"{option} {key} is given twice: {out[key]} and {value}")
        out[key] = value
    return out


def parse_settings(pairs: Iterable[str]) -> dict[str, float | str]:
    """KEY=VALUE options of a method: numbers where they are, else texts (`deft.methods.plan` knows their types)."""
    out: dict[str, float | str] = {}
    for key, value in key_values("--set", pairs).items():
        try:
            out[key] = float(value)
        except ValueError:
            out[key] = value
    return out
