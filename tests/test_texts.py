"""Texts of other people's files: a terminal, a table and a page show them, and obey none of them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

import deft
from deft.bench.figures import bars, curves
from deft.bench.report import Report
from deft.bench.table import Table
from deft.diagnose.figures import curves_in_band
from deft.domains.protein.metrics import Goal
from deft.domains.protein.view import Panel, page
from deft.errors import DeftError, InputError, visible
from deft.io.files import json_text, load_weights, save_weights
from deft.io.text import markdown, markdown_cell
from deft.kinds.domain import Metric
from deft.recipe.card_text import h_card_text
from deft.runtime.messages import log, show
from deft.workflow.model_card import readme
from toys import pictures, run, save_pictures, toy_prior

ESC = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eabc\u2028"


def harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prior, a run and pictures, each with escape sequences in its card or name."""
    here = tmp_path_factory.mktemp("texts")
    prior = toy_prior(here / "prior.safetensors")
    fitted = deft.fit_h(
        str(prior), "inpaint", width=8, steps=2, batch=4, prior_samples=4, cache=8, progress=False, device="cpu"
    )
    fitted.save(here / "run")
    tensors, card = load_weights(here / "run/h.safetensors")
    save_weights(here / "note.safetensors", tensors, card | {"note": ESC, "data": ESC})
    save_weights(here / "kind.safetensors", tensors, card | {"kind": ESC})
    save_weights(here / "task.safetensors", tensors, card | {"task": {"name": ESC}})
    tensors, card = load_weights(prior)
    save_weights(here / "named.safetensors", tensors, card | {"name": ESC, "licence": ESC})
    save_pictures(here / "good", pictures(2))
    (here / "bad").mkdir()
    (here / "bad" / (ESC + ".png")).write_bytes(b"no picture")
    np.savez(here / "arrays.npz", **{ESC: np.zeros((2, 2), np.complex64)})
    (here / "study.toml").write_text(f"title = {json.dumps(ESC)}\n", encoding="utf-8")
    return here


COMMANDS = {
    "info": ("info", "note.safetensors"),
    "info of a prior": ("info", "named.safetensors"),
    "a card's kind": ("sample", "kind.safetensors", "--measurement", "good/000.png"),
    "a card's task": ("sample", "task.safetensors", "--measurement", "good/000.png"),
    "inspect": ("prior", "inspect", "named.safetensors"),
    "a picture's name": ("fit", "--prior", "prior.safetensors", "--data", "bad", "--out", "o"),
    "an array's name": ("measure", "--task", "denoise", "--data", "arrays.npz", "--out", "o.npz"),
    "a title": ("compare", "study.toml", "--out", "o2"),
    "a command": (ESC,),
    "an option": ("info", f"--{ESC}"),
}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_sends_control_characters(name, as_json, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    code, out, err = run(capsys, *COMMANDS[name], *(["--json"] if as_json else []))
    assert code in (0, 2) and "Traceback" not in err
    assert harmless(out) and harmless(err), (out, err)
    if as_json and code == 0:
        assert ESC in str(list(values(json.loads(out))))[2:] or ESC in list(values(json.loads(out)))


def values(found):
    """Texts in a JSON value."""
    if isinstance(found, dict):
        found = [*found.values()]
    if isinstance(found, list):
        for one in found:
            yield from values(one)
    elif isinstance(found, str):
        yield found


def test_errors_and_messages(caplog):
    assert harmless(str(InputError(f"no such file: {ESC}"))) and harmless(str(DeftError(ESC)))
    heard: list[str] = []
    with show(heard.append):
        log.warning("read %s", ESC)
    assert heard and harmless(heard[0])
    assert logging.getLogger("deft") is log and visible("plain, ä, 1\u202f000\n") == "plain, ä, 1\u202f000\n"


def test_json_holds_the_text_and_shows_nothing():
    text = json_text({ESC: [ESC, "ä"]}, indent=1)
    assert harmless(text) and json.loads(text) == {ESC: [ESC, "ä"]} and "ä" in text


def test_markdown():
    bad = "<script>alert(1)</script> [here](javascript:alert(1)) a|b\nc " + ESC
    for shown in (markdown(bad), markdown_cell(bad)):
        assert harmless(shown) and "<script" not in shown and "](javascript" not in shown
    assert "\n" not in markdown_cell(bad) and markdown_cell("a|b") == r"a\|b" and markdown_cell("p < 1") == "p < 1"
    table = Table("", bad)
    table.add(bad, "1")
    report = Report(bad)
    report.table(table, bad)
    report.items([bad])
    whole = report.markdown()
    assert harmless(whole) and "<script" not in whole and "](javascript" not in whole
    assert {line.replace(r"\|", "").count("|") for line in table.markdown()} == {3}


def test_the_page_of_a_model(place):
    _, card = load_weights(place / "run/h.safetensors")
    bad = f"<img src=x> [a](b) {ESC}"
    text = readme(card | {"note": bad, "data": bad, "prior": bad})
    assert harmless(text) and "<img" not in text and "[a](b)" not in text


def test_names_in_figures_are_no_formulas(tmp_path):
    """A `$` in the name of an entry, or in a title; taken for a formula it is an error, and not of the user."""
    pytest.importorskip("matplotlib")
    bad = r"5 $ \nothing{ $"
    row = {"metric": "m", "method": bad, "title": bad, "calls": 4, "at_most": 4, "value": 1.0, "low": 0.5, "high": 2.0}
    metric = Metric("m", "a metric", "low")
    assert curves(tmp_path / "a.png", bad, [row, row | {"calls": 8, "at_most": 8, "value": 2.0}], metric)
    assert bars(tmp_path / "b.png", bad, {bad: (0.5, 0.4, 0.6)}, label="a label", footer=bad)
    x = np.linspace(0, 1, 4)
    assert curves_in_band(x, x[:, None], x, x, names=[bad], title=bad)


def test_a_page_of_chains_holds_titles_and_obeys_none(tmp_path):
    """Neither does a title end the script, nor does the name of a place in it pull in what belongs elsewhere."""
    bad = "@DATA@ <!--<script></script><img src=x>" + ESC
    x = np.random.default_rng(0).normal(size=(8, 3)).cumsum(0)
    goal = Goal(np.arange(4), x[:4])
    page(tmp_path / "v.html", [Panel(x, goal, bad, True)], title=bad, notes=[bad])
    text = (tmp_path / "v.html").read_text()
    plain = tmp_path / "w.html"
    page(plain, [Panel(x, goal, "t", True)], title="t", notes=["t"])
    assert harmless(text) and "<img" not in text and text.count('"motif":') == 1
    assert text.count("<script") == plain.read_text().count("<script") and "<!--<" not in text


def test_a_card_ends_no_block(place):
    """card.md shows a card between fences; a text of several lines is on one."""
    _, card = load_weights(place / "run/h.safetensors")
    lines = h_card_text(card | {"prior": f"a\n```\n<script>{ESC}", "b\n```\n": {"c": f"```\n{ESC}"}}).splitlines()
    assert sum(line.strip() == "```" for line in lines) == 2 and all(map(harmless, lines))
