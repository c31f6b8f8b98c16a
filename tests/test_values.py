"""Values have a kind and a range in one place: every option of every command, every field of a comparison's file, of a
recipe, of a fit and of the settings of methods."""

from __future__ import annotations

import datetime
import math
import sys
from typing import Annotated, get_args, get_origin

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deft
from deft.bench.run import run_study
from deft.bench.studies import Curve, Entry, FitSettings, Setting, Study, Tuning, make_study, read_study
from deft.cli import cli
from deft.cli.numbers import Line, Number, Numbers
from deft.errors import CheckpointError, DeftError, InputError
from deft.io.files import load_weights, save_weights
from deft.io.h_files import bundled_h, save_h
from deft.learned.factory import Factory
from deft.methods import METHODS, plan
from deft.methods.settings import Settings
from deft.recipe.fitted import prior_of
from deft.train.fit import FitConfig
from deft.values import Range, check, field_kinds
from toys import pictures, refused, run, save_pictures, toy_prior

NAN, INF, HUGE = math.nan, math.inf, 10**23

# ---------------------------------------------------------------- every option of every command


def commands(command=cli, path=()):
    """(words, command) of all commands; those of a group that is a command as well, too."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.get_command(click.Context(command), name), (*path, name))
        if not command.invoke_without_command:
            return
    yield path, command


COMMANDS = dict(commands())
OPTIONS = [(path, option) for path, command in COMMANDS.items() for option in command.params]
NUMERIC = [(path, option) for path, option in OPTIONS if isinstance(option.type, (Number, Numbers))]
GIVEN = ("-1", "0", "nan", "inf", "-inf", "1e308", str(HUGE), "9" * 5000, "x", "", "²", "1e-310", "0.5", "-0.5")


def called(path, option):
    return f"{' '.join(path)} {option.opts[0]}"


def inside(kind, text):
    """Whether a text is a number of the kind: by its range alone, apart from the code that refuses it."""
    base, bounds = get_args(kind)[0], next(m for m in get_args(kind)[1:] if isinstance(m, Range))
    try:
        value = base(text) if len(text) < 100 else None
    except ValueError:
        return False
    if value is None or not -(2.0**1023) < value < 2.0**1023 or (base is int and abs(value) >= 2**63):
        return False
    low, high = bounds.min, bounds.max
    return (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (bounds.above is None or value > bounds.above)
        and (bounds.below is None or value < bounds.below)
    )


def test_every_number_has_a_declared_kind_and_range():
    """No option is a bare integer or float, nor has a number for a default without being one."""
    bare = [
        called(path, o)
        for path, o in OPTIONS
        if isinstance(o.type, (type(click.INT), type(click.FLOAT)))
        or (isinstance(o.default, (int, float)) and not isinstance(o.default, bool) and not isinstance(o.type, Number))
    ]
    assert not bare and len(NUMERIC) > 100
    for path, option in NUMERIC:
        kind = option.type.kind
        assert get_origin(kind) is Annotated, called(path, option)
        bounds = next(m for m in get_args(kind)[1:] if isinstance(m, Range))
        assert not bounds.infinite and (bounds.min, bounds.above) != (None, None), called(path, option)
        assert (bounds.max, bounds.below) != (None, None), called(path, option)


@pytest.mark.parametrize("path", COMMANDS, ids="-".join)
def test_numbers_out_of_range_are_refused_while_they_are_read(path):
    """Before any work: while the command line is parsed, in one line that names the option."""
    tried = 0
    for option in COMMANDS[path].params:
        if not isinstance(option.type, (Number, Numbers)):
            continue
        for text in GIVEN:
            argument = max(option.opts, key=len)
            line = [f"{argument}={text}"] if argument.startswith("--") else [argument, text]
            if isinstance(option.type, Numbers) and inside(option.type.kind, text) and option.type.min == 2:
                continue
            tried += 1
            try:
                COMMANDS[path].make_context("deft", line)
                said = None
            except click.MissingParameter:
                said = None
            except (InputError, click.UsageError) as error:
                said = error.format_message() if isinstance(error, click.ClickException) else str(error)
            if inside(option.type.kind, text):
                assert said is None, (argument, text, said)
            else:
                assert said is not None and argument in said and "\n" not in said, (argument, text, said)
                assert len(said) < 400, said
    assert tried % len(GIVEN) == 0 or path == ("measure", "convert")


@pytest.mark.parametrize(("path", "option"), NUMERIC, ids=[called(*one).replace(" ", "-") for one in NUMERIC])
def test_the_command_line_refuses_it_in_one_line(path, option, capsys, monkeypatch):
    """The whole way, from `main`: no command runs."""

    def ran(self, ctx):
        raise AssertionError("the command was run")

    monkeypatch.setattr(COMMANDS[path], "invoke", ran.__get__(COMMANDS[path]))
    argument = max(option.opts, key=len)
    assert f"{argument} = " in refused(capsys, *path, argument, "inf")


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "a\rb", "\ud800", "x" * 5000])
def test_lines_of_text_are_lines(text):
    """A name that ends up in cards, reports and terminals."""
    lines = [(path, o) for path, o in OPTIONS if isinstance(o.type, Line)]
    assert len(lines) >= 6
    for path, option in lines:
        with pytest.raises(InputError, match="expected a text of one line"):
            COMMANDS[path].make_context("deft", [max(option.opts, key=len), text])


FIT = ("fit", "--data", "fashion", "--out", "o")
PIGDM = ("sample", "--prior", "fashion", "--task", "denoise", "--method", "pigdm", "--measurement", "y.npz")
TDS = (*PIGDM[:6], "tds", *PIGDM[7:])
REFUSED = {
    (*FIT, "--seed", HUGE): "--seed = 99",
    (*FIT, "--size", "1e9"): "--size = 1000000000.0: expected a number above 0 and of at most 1,000",
    (*FIT, "--size", "inf"): "expected a finite number",
    (*FIT, "--ema", "nan"): "--ema = nan",
    (*FIT, "--warmup", -5): "--warmup = -5: expected a whole number of at least 0",
    (*FIT, "--seconds", "1e-310"): "--seconds = 1e-310",
    (*FIT, "--n2-start", "1e308"): "--n2-start",
    (*FIT, "--width", "4096"): "does not fit in memory",
    (*FIT, "--cache", "999999999"): "does not fit in memory",
    (*FIT, "--batch", "999999999"): "does not fit in memory",
    (
        "prior",
        "train",
        "--data",
        "fashion",
        "--widths",
        "4096,4096,4096",
        "--blocks",
        60,
        "--out",
        "o",
    ): "does not fit in memory",
    ("prior", "train", "--data", "fashion", "--weight-decay", -1): "--weight-decay = -1.0",
    ("prior", "inspect", "fashion", "--images", "fashion", "-n", 0): "at least 1",
    ("prior", "inspect", "fashion", "--prior-option", "name=x"): "the name of a prior is no option of it",
    ("prior", "inspect", "fashion", "--prior-option", "device=cpu"): "--device",
    ("measure", "--task", "denoise", "--task-option", "name=x", "--data", "fashion"): "give --task",
    ("measure", "--task", "denoise", "--task-option", "sigma_y=inf", "--data", "fashion"): "sigma_y",
    ("measure", "--task", "ct", "--task-option", f"angles={HUGE}", "--data", "fashion"): "angles",
    ("measure", "--task", "denoise", "--task-option", "sigma_y=1", "--task-option", "sigma_y=2", "--data", "fashion"): (
        "given twice"
    ),
    ("compare", "quick", "--part", "²/3"): "--part takes I/N",
    (*PIGDM, "--set", "data_std=-1"): "setting data_std of pigdm = -1.0: expected a number above 0",
    (*PIGDM, "--set", "data_std=0"): "expected a number above 0",
    (*PIGDM, "--set", "data_std=inf"): "expected a finite number",
    (*PIGDM, "--sampler", "heun", "--eta", 1): "heun has none: leave it out",
    (*TDS, "--set", "particles=2.5"): "is a whole number, got 2.5",
    (*TDS, "--set", "particles=nan"): "is a whole number, got nan",
    (*TDS, "--set", f"particles={HUGE}"): "setting particles of tds",
    ("serve", "fashion", "--port", 0, "--merge-ms", "inf"): "--merge-ms = inf: expected a finite number",
}


@pytest.mark.parametrize("line", REFUSED, ids=lambda line: " ".join(map(str, line))[-40:])
def test_what_was_taken_in_silence_or_ended_in_a_traceback(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = REFUSED[line].replace("99", str(HUGE)) if line[-1] == HUGE else REFUSED[line]
    assert wanted in refused(capsys, *line)
    assert not list(tmp_path.rglob("*.safetensors"))


# ---------------------------------------------------------------- every field of a comparison's file

STUDY = {
    "title": "a title",
    "images": 4,
    "samples": 2,
    "seeds": [0, 1],
    "batch": 8,
    "versus": "mine",
    "fit": {
        "seconds": 5.0,
        "steps": 10,
        "images": 20,
        "size": 0.1,
        "prior_samples": 8,
        "cache": 16,
        "fresh": 0.1,
        "batch": 4,
        "lr": 1e-3,
        "warmup": 1,
        "ema": 0.9,
        "patience": 2,
        "weights": "ema",
        "weighting": "between",
        "focus": 2.0,
        "even": 0.5,
        "calibrate": True,
        "fitted": "",
        "seeds": [0, 1],
        "options": {"units": "v"},
    },
    "tune": {
        "images": 3,
        "samples": 2,
        "budget": 50,
        "points": 2,
        "steps": [5, 10],
        "calls": 0,
        "metric": "energy_score",
        "seed": 7,
    },
    "curve": {"calls": [5, 10], "images": 3, "samples": 2, "points": 1, "methods": ["mine"]},
    "on": [
        {
            "prior": "fashion",
            "tasks": ["inpaint", "sr4"],
            "entries": ["deft", "mine"],
            "data": "fashion",
            "features": "none",
            "curve": ["sr4"],
            "prior_options": {},
        }
    ],
    "entries": {
        "mine": {
            "method": "deft",
            "settings": {"scale": 1.0},
            "steps": 10,
            "eta": 1.0,
            "spacing": "angle",
            "sampler": "ddim",
            "tune": False,
            "tuned_as": "deft",
            "title": "mine",
            "fit": {"seconds": 3.5},
        },
        "deft": {},
    },
    "tasks": {"inpaint": {"sigma_y": 0.1, "smallest": 0.3}, "sr4": {"factor": 2}},
}
CLASSES = {"fit": FitSettings, "tune": Tuning, "curve": Curve, "on": Setting, "mine": Entry}
NOT_THERE = {"start_from", "name", "task_options"}
"""Fields that are not among the keys above: one that needs a file, and what is no key."""


def places(value, path=()):
    """Where each value of the study is."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


PLACES = list(places(STUDY))


def changed(path, value):
    """The study with another value in a place."""

    def copy(inside, rest):
        if not rest:
            return value
        out = dict(inside) if isinstance(inside, dict) else list(inside)
        out[rest[0]] = copy(inside[rest[0]], rest[1:])
        return out

    return copy(STUDY, path)


def key_of(path):
    """The last name in a place."""
    return next(str(k) for k in reversed(path) if isinstance(k, str))


WRONG = {
    bool: ["no", "true", 0, 1, [], {}, 0.0],
    int: ["x", "5", 2.5, True, NAN, INF, 2**63, HUGE, -1, -HUGE, [1], {"a": 1}, datetime.date(2020, 1, 1)],
    float: ["x", "0.5", True, NAN, INF, -INF, HUGE, -1.0, [0.5], {"a": 1}, datetime.time(1, 2)],
    str: [1, 0.5, True, [], ["x"], {}, {"a": "b"}, "two\nlines", "\x1b[2J", "nowhere, none", datetime.date(2020, 1, 1)],
    list: ["abc", 1, True, {"a": 1}, [[]], [{}], [True], [NAN], [2**64], ["two\nlines"], 0.5],
    dict: ["abc", 1, True, [], [1], 0.5, {"no such key": 1}, {"two\nlines": 1}],
}
FREE = {("title",), ("entries", "mine", "title")}
"""Texts that may be any line."""
OPEN = {("entries", "mine", "settings", "scale")}
"""A setting of a method: numbers as texts are read as on a command line, and it may be below 0."""


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_a_comparison_is_checked(path):
    here = STUDY
    for key in path:
        here = here[key]
    tried = 0
    for wrong in WRONG[type(here)]:
        if (path in FREE and wrong == "nowhere, none") or (path in OPEN and wrong in ("0.5", -1.0)):
            continue
        tried += 1
        with pytest.raises(InputError) as error:
            made = make_study(changed(path, wrong))
            raise AssertionError(f"{path} = {wrong!r} was taken for {made}")
        said = str(error.value)
        assert "\n" not in said and len(said) < 1500
        named = {key_of(path), *map(str, path)} - {"0"}
        assert any(name.rstrip("s") in said for name in named), said
    assert tried > 4


def test_every_field_has_been_tried():
    """A field that is added to one of the dataclasses is added to the study above."""
    for name, kind in CLASSES.items():
        table = STUDY["entries"]["mine"] if name == "mine" else STUDY["on"][0] if name == "on" else STUDY[name]
        assert set(field_kinds(kind)) - NOT_THERE <= {*table}, name
    assert set(field_kinds(Study)) - NOT_THERE <= {*STUDY}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["deft", "mine", "inpaint", "sr4", "fashion", "none", "angle", "ddim", "prior", "os:system"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_anywhere_is_a_study_or_one_line(path, value):
    try:
        assert isinstance(make_study(changed(path, value)), Study)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


def test_the_study_itself_is_right():
    study = make_study(STUDY)
    assert study.seeds == (0, 1) and study.entries["mine"].fit.seconds == 3.5 and study.tune.steps == (5, 10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 20_000, "TOML"),
        ("images = 2020-13-45", "no TOML"),
        ("images = 99999999999999999999999", "images"),
        ("a = 1\n" * 2, "no TOML"),
        ('"\\u001b" = 1', "on one line"),
        ("title = '" + "x" * 5000 + "'", "title"),
        ("tune.images = 'x'", "tune.images = 'x': expected a whole number of at least 1"),
        ("fit.calibrate = 'no'", "fit.calibrate = 'no': expected true or false"),
        ("on = 'abc'", "expected tables, each under [[on]]"),
        ("[on]\nprior = 'fashion'", "expected tables, each under [[on]]"),
        ("entries = ['a']", "expected tables, each under [entries.NAME]"),
        ("[entries]\na = 1", "expected a table, under [entries.a]"),
        ("[tasks.inpaint]\nname = 'sr4'", "on"),
        ("[[on]]\nprior = 'fashion'\ntasks = 'inpaint'\nentries = ['pigdm']", "tasks = 'inpaint': expected a list"),
    ],
)
def test_files_that_are_refused(text, said, tmp_path):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError) as error:
        read_study(tmp_path / "s.toml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xff\xfe\x00title")
    with pytest.raises(InputError):
        read_study(tmp_path / "s.toml")
    with (tmp_path / "s.toml").open("wb") as f:
        f.truncate(2**34)  # a file of 16 GiB, with nothing in it
    with pytest.raises(InputError, match="bytes"):
        read_study(tmp_path / "s.toml")


# ---------------------------------------------------------------- a comparison's file runs nothing

RUNS = """
images = 2
[tune]
images = 2
budget = 4
steps = [4]
[[on]]
prior = {prior}
prior_options = {options}
data = "fashion"
tasks = ["denoise"]
entries = ["pigdm"]
"""


@pytest.fixture
def code(tmp_path):
    """A file of somebody's that leaves a mark when it is imported."""
    path = tmp_path / "theirs.py"
    path.write_text(
        f"from pathlib import Path\nimport deft\nPath({str(tmp_path / 'ran')!r}).write_text('')\n"
        "def prior(**options):\n    return deft.load_prior('fashion')\n"
    )
    return path


def written(folder, prior, options="{}"):
    (folder / "s.toml").write_text(RUNS.format(prior=f'"{prior}"', options=options))
    return folder / "s.toml"


@pytest.mark.parametrize("more", [(), ("--report",), ("--part", "1/2"), ("--json",)])
def test_a_comparison_runs_no_function(code, tmp_path, capsys, more):
    file = written(tmp_path, f"{code}:prior", "{ a = 1 }")
    said = refused(capsys, "compare", file, "--out", tmp_path / "o", *more)
    assert "calls the function" in said and "theirs.py:prior" in said and "--trust-code" in said
    assert not (tmp_path / "ran").exists() and not (tmp_path / "o").exists()


def test_a_module_is_not_imported_either(tmp_path, capsys):
    options = f'{{ args = ["touch", "{tmp_path}/ran"] }}'
    said = refused(capsys, "compare", written(tmp_path, "subprocess:call", options), "--out", tmp_path / "o")
    assert "subprocess:call" in said and "touch" in said and not (tmp_path / "ran").exists()


def test_it_runs_when_it_is_trusted(code, tmp_path, capsys):
    file = written(tmp_path, f"{code}:prior")
    assert read_study(file, trust_code=True).on[0].prior == f"{code}:prior" and not (tmp_path / "ran").exists()
    said = refused(capsys, "compare", file, "--out", tmp_path / "o", "--report", "--trust-code")
    assert "holds no results" in said and (tmp_path / "ran").exists()
    found = run_study(read_study(file, trust_code=True), tmp_path / "o", only_read=True, progress=False)
    assert found.cells == []


NET = """
from pathlib import Path
import torch
Path({ran!r}).write_text("")
class Net(torch.nn.Conv2d):
    def __init__(self, inputs, outputs, width):
        super().__init__(inputs, outputs, 1)
    def forward(self, x, *more):
        return super().forward(x)
"""
HELD = """
images = 2
samples = 2
[fit]
{key} = "{h}"
steps = 2
[tune]
images = 2
budget = 4
steps = [2]
[[on]]
prior = "{prior}"
data = "{data}"
tasks = ["denoise"]
entries = ["deft"]
"""


@pytest.mark.parametrize("key", ["fitted", "start_from"])
def test_code_in_the_card_of_an_h_that_a_comparison_names(key, tmp_path, capsys, monkeypatch):
    """Nothing of it runs, nor is imported, without --trust-code; with it the comparison is done."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "their_net.py").write_text(NET.format(ran=str(ran)))
    net = __import__("their_net").Net
    prior = deft.load_prior(str(toy_prior(tmp_path / "prior.safetensors")))
    task = deft.io.tasks.get_task("denoise")
    h = deft.DEFT((1, 16, 16), task.feature_channels, 4, net=Factory(net))
    save_h(tmp_path / "h.safetensors", h, prior, task)
    save_pictures(tmp_path / "good", pictures(40))
    text = HELD.format(key=key, h="h.safetensors", prior="prior.safetensors", data="good")
    (tmp_path / "s.toml").write_text(text)

    def forgotten() -> None:
        sys.modules.pop("their_net", None)
        ran.unlink(missing_ok=True)

    forgotten()
    code, out, err = run(capsys, "compare", "s.toml", "--out", "o")
    said = out + err + "".join(p.read_text() for p in (tmp_path / "o").rglob("*.error.txt"))
    assert code == 2 and "names code of its own, the network their_net:Net" in said and "--trust-code" in said
    assert not ran.exists() and "their_net" not in sys.modules
    code, out, err = run(capsys, "compare", "s.toml", "--out", "o", "--trust-code")
    assert code == 0 and ran.exists(), (out, err)
    forgotten()


@pytest.mark.parametrize("value", ["true", "1", '"true"', '"yes"'])
def test_a_pickle_is_not_run_on_a_files_word(value, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"")
    file = written(tmp_path, tmp_path / "x.pt", f"{{ trust_pickle = {value} }}")
    with pytest.raises(InputError, match=r"pickle .*--trust-code"):
        read_study(file)
    if "true" in value:
        assert read_study(file, trust_code=True)


def test_no_server_is_asked_on_a_files_word(tmp_path):
    file = written(tmp_path, "http://somewhere.invalid:1")
    with pytest.raises(InputError, match=r"asks the server .*--trust-code"):
        read_study(file)


@pytest.mark.parametrize("key", ["name", "device"])
def test_arguments_of_load_prior_are_no_options(key, tmp_path):
    with pytest.raises(InputError, match=f"prior_options.{key}"):
        read_study(written(tmp_path, "fashion", f'{{ {key} = "x" }}'))


def with_card(folder, **changes):
    """A run that names another prior in its card."""
    tensors, card = load_weights(bundled_h("inpaint", "fashion"))
    folder.mkdir()
    save_weights(folder / "h.safetensors", tensors, {**card, **changes})
    return folder


def test_the_card_of_a_run_runs_no_function(code, tmp_path, capsys):
    run = with_card(tmp_path / "run", prior=f"{code}:prior")
    line = ("sample", run, "--measurement", tmp_path / "y.npz", "--out", tmp_path / "o")
    said = refused(capsys, *line)
    assert "not trusted to load" in said and "--trust-code" in said and not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="not trusted"):
        deft.load(run)
    assert not (tmp_path / "ran").exists()
    assert prior_of(run, trust_code=True) == (f"{code}:prior", [])
    assert deft.load(run, trust_code=True).prior.data_shape == (1, 32, 32) and (tmp_path / "ran").exists()


def test_a_card_does_not_ask_for_pickles_nor_servers(tmp_path):
    run = with_card(tmp_path / "run", prior="fashion", prior_options=["trust_pickle=true", "name=x", "label=3"])
    assert prior_of(run) == ("fashion", ["label=3"])
    for i, name in enumerate(("http://somewhere.invalid:1", "some/where")):
        with pytest.raises(CheckpointError, match="not trusted to load"):
            prior_of(with_card(tmp_path / f"r{i}", prior=name), trust_code=True)
    with pytest.raises(CheckpointError, match="expected a list of texts"):
        prior_of(with_card(tmp_path / "r9", prior="fashion", prior_options="abc"))


# ---------------------------------------------------------------- the same from Python


def wrong_for(kind):
    """Values that are of another kind than a field's, or out of any range."""
    text = str(kind)
    if "Literal" in text:
        return ["x", [1], True]
    base = next((b for b in (bool, int, float, str) if f"'{b.__name__}'" in text or f"{b.__name__}" in text), None)
    return {bool: ["no", 1], int: ["x", 2.5, True, HUGE, -1], float: ["x", True, NAN, INF, -1.0], str: [1, "a\nb"]}.get(
        base, []
    )


@pytest.mark.parametrize("cls", [FitConfig, deft.Recipe, FitSettings, Tuning, Curve])
def test_dataclasses_check_themselves(cls):
    tried = 0
    for name, kind in field_kinds(cls).items():
        for wrong in [] if name in ("options",) else wrong_for(kind):
            tried += 1
            with pytest.raises(InputError, match=name):
                cls(**{name: wrong})
    assert tried > 15


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_methods_have_ranges(name):
    """A number below, above and beside the range of every setting is refused, and named."""
    own = METHODS[name].settings
    for key, field in own.names().items():
        kind = field_kinds(type(own))[field]
        base, bounds = get_args(kind)[:2] if get_origin(kind) is Annotated else (kind, None)
        if base not in (int, float):
            continue
        assert bounds is not None and (bounds.min, bounds.above) != (None, None), (name, key)
        wrong = [NAN, "x", True, *([] if bounds.infinite else [INF]), -INF, HUGE if base is int else -1e300]
        for value in wrong:
            with pytest.raises(InputError, match=key):
                plan(name, settings={key: value})
        with pytest.raises(InputError, match=field):
            type(own)(**{field: NAN})
    with pytest.raises(InputError, match="steps = 0"):
        plan(name, steps=0)
    for wrong in ({"eta": NAN}, {"eta": 2.0}, {"steps": 2.5}, {"steps": HUGE}, {"spacing": "no"}, {"steps": True}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            plan(name, **wrong)


@pytest.mark.parametrize("task", sorted(deft.io.tasks.TASKS))
def test_settings_of_tasks_have_ranges(task):
    made = deft.io.tasks.get_task(task)
    for name, kind in field_kinds(type(made)).items():
        base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        for wrong in {int: ["x", 2.5, True, HUGE], float: ["x", True, NAN, INF]}.get(base, []):
            with pytest.raises(InputError, match=name):
                deft.io.tasks.get_task(task, **{name: wrong})


def test_kinds():
    """What the checks are made of."""
    assert check(int, 3, "x") == 3 and check(float, 3, "x") == 3 and check(tuple[int, ...], [1], "x") == (1,)
    for kind, value, said in (
        (int, True, "x = true: expected a whole number"),
        (bool, 1, "x = 1: expected true or false"),
        (str, "a\nb", r"x = 'a\nb': expected a text of one line"),
        (float, NAN, "x = nan: expected a finite number"),
        (tuple[int, ...], "abc", "x = 'abc': expected a list, each a whole number"),
        (tuple[int, ...], [1, "b"], "x[2] = 'b': expected a whole number"),
        (dict[str, float], {"a": "b"}, "x.a = 'b': expected a number"),
        (int | None, "y", "x = 'y': expected a whole number"),
        (Annotated[int, Range(1, 5)], 6, "x = 6: expected a whole number from 1 to 5"),
    ):
        with pytest.raises(InputError) as error:
            check(kind, value, "x")
        assert str(error.value) == said
    assert issubclass(InputError, DeftError) and issubclass(Settings, object)
