"""The words of refusals: each row is a kind of slip, and what its one line must say (and not say)."""

from __future__ import annotations

import re

import numpy as np
import pytest

import deft
from deft.errors import InputError, unknown
from toys import pictures, refused, save_pictures, toy_prior


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Priors, pictures, and code of a user's that has faults."""
    here = tmp_path_factory.mktemp("refusals")
    prior = toy_prior(here / "toy.safetensors")
    deft.fit_h(
        str(prior), "inpaint", width=8, steps=2, batch=4, prior_samples=4, cache=8, progress=False, device="cpu"
    ).save(here / "run")
    save_pictures(here / "four", pictures(4))
    save_pictures(here / "forty", pictures(40))
    (here / "empty").mkdir()
    (here / "text.txt").write_text("hello")
    (here / "syntax.py").write_text("def (:\n")
    (here / "raises.py").write_text("import json\n\nx = json.loads('{')\n")
    (here / "code.py").write_text("def none(x=None): return None\ndef boom():\n    raise KeyError('weights')\n")
    np.savez(here / "y.npz", y=np.zeros((3, 1, 16, 16), np.float32))
    return here


SAMPLE = "sample --prior toy.safetensors --task denoise --measurement four/000.png -n 1 --steps 2 --out o"
REFUSALS = [
    (f"{SAMPLE} --task sr4+", "the task 'sr4+' lacks one of its two parts: expected A+B"),
    (f"{SAMPLE} --task +", "the task '+' lacks one of its two parts"),
    (f"{SAMPLE} --task=", "the name of a task is empty: give one of bandwidth"),
    (f"{SAMPLE} --task SR4", "unknown task 'SR4': did you mean 'sr4'?"),
    (f"{SAMPLE} --method pigdm --set foo=1", "unknown setting 'foo' of pigdm: give one of alpha_s, "),
    (f"{SAMPLE} --row 5", "--row 5: four/000.png is one measurement, and no file of many: leave --row out"),
    (f"{SAMPLE} --scale nan", "--scale = nan: expected a finite number\n"),
    (f"{SAMPLE} --device=", "no such device: ''"),
    (f"{SAMPLE} --device meta", "no such device: 'meta'; give cpu or cuda"),
    (f"{SAMPLE} --out text.txt/o", "text.txt/o: there is a file of that name"),
    (f"{SAMPLE} --prior-option foo", "--prior-option takes KEY=VALUE, got 'foo'"),
    (f"{SAMPLE} --prior ftp://a.b/c", "a service is asked by http:// or https://, got 'ftp://a.b/c'"),
    (f"{SAMPLE} --prior nothing", "give one of …; or the path of a file or folder that is there"),
    (f"{SAMPLE} --prior syntax.py:f", "syntax.py cannot be run: SyntaxError: invalid syntax …line 1"),
    (f"{SAMPLE} --prior raises.py:f", "raises.py cannot be run: JSONDecodeError in line 3: "),
    (f"{SAMPLE} --prior code.py:boom", "code.py cannot be run: KeyError in line 3: 'weights'"),
    (f"{SAMPLE} --prior code.py:none", "code.py:none returned nothing, expected a deft.Denoiser"),
    ("sample --prior toy.safetensors --reward raises.py:f --out o", "raises.py cannot be run: JSONDecodeError"),
    ("sample --prior toy.safetensors --reward code.py:none --out o", "code.py:none returned nothing, expected a ten"),
    ("sample run --measurement four/000.png --method lora --out o", "this h is of the kind deft, not lora"),
    ("fit --no-such-thing", "o such option…; see deft fit --help-all"),
    ("evaluate", "issing option '--data'; see deft evaluate --help"),
    ("compare quik --out o", "unknown file or bundled comparison 'quik': did you mean 'quick'?"),
    ("compare quick --report --out empty", "empty holds no results of this comparison: run it first, without --report"),
    ("demo --quick --task motif --out o", "there is no demo of chains: give a task of images"),
    ("prior train --data four --features fashion --steps 1 --out o", "there are 1: give at least 4 with --held-out"),
    ("calibrate run --data forty --images 1 --samples 2", "intervals need at least 8 measurements, got 1\n"),
    ("serve toy.safetensors --token-file empty", "(Is a directory"),
    ("info nothing", "nothing"),
]


@pytest.mark.parametrize("line, words", REFUSALS, ids=[line[-40:] for line, _ in REFUSALS])
def test_a_refusal_says_what_was_given_and_what_is_expected(line, words, here, capsys, monkeypatch):
    monkeypatch.chdir(here)
    said = refused(capsys, *line.split())
    assert all(part in f"{said}\n" for part in words.split("…")), said
    assert not re.search(r"Errno|<class|object at 0x|NoneType|fault of deft", said), said


def test_an_unknown_name_in_a_table_with_nothing_in_it():
    assert str(unknown("feature network", "x", [])) == "unknown feature network 'x': there is none"
    assert str(unknown("array in a.npz", "c", ["x"])) == "unknown array 'c' in a.npz: give one of x"
    assert str(unknown("kind of data", "c", ["x"])) == "unknown kind of data 'c': give one of x"


def test_the_numbers_of_system_errors_are_left_out():
    assert str(InputError("no way ([Errno 2] No such file) to x[Errno]")) == "no way (No such file) to x[Errno]"


def test_a_task_of_two_may_have_spaces():
    assert deft.io.tasks.get_task("sr4 + denoise").name == "sr4+denoise"


def test_the_shortest_time_there_is(here, tmp_path):
    """A billionth of a second, which is one step, is in the range of --seconds."""
    found = deft.fit_h(
        str(here / "toy.safetensors"), "denoise", width=4, seconds=1e-9, batch=2, prior_samples=4, cache=4,
        calibrate=False, progress=False, device="cpu",
    )  # fmt: skip
    assert found.summary()["steps"] <= 1
