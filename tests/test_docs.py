"""The documentation's Python runs: the blocks of a page in order, in one namespace, in an empty folder.

A block is fenced as
    ```python          always run
    ```python prior    run once the bundled prior's weights are there
    ```python notest   shown, never run
Budgets are cut: `seconds=90` or `max_seconds=90` in a page is run as 1 second, `samples=4` as 2, a data set is 64 of its images.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CUTS = {r"\b(max_)?seconds=\d+": r"\1seconds=1", r"\bsamples=4\b": "samples=2", r'(fashion\("(?:fit|validation)"\)\.x)(?!\[)': r"\1[:64]"}
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


class Block(NamedTuple):
    line: int
    mode: str
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(text[: m.start()].count("\n") + 2, m[1].strip(), m[2]) for m in FENCE.finditer(text)]


def have_prior() -> bool:
    from deft.prior import load_prior

    try:
        load_prior("fashion")
    except ValueError:
        return False
    return True


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")  # a real one, for dataclasses and pickles
    monkeypatch.setitem(sys.modules, "page", module)
    prior = None
    for block in blocks(page):
        assert block.mode in ("", "prior", "notest"), f"{name(page)}:{block.line}: unknown fence {block.mode!r}"
        if block.mode == "notest":
            continue
        if block.mode == "prior":
            prior = have_prior() if prior is None else prior
            if not prior:
                continue
        code = block.code
        for usual, cut in CUTS.items():
            code = re.sub(usual, cut, code)
        # blank lines first, so that a traceback names the page's own line
        exec(compile("\n" * (block.line - 1) + code, str(page), "exec", dont_inherit=True), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        assert path.exists(), f"{name(page)} links to {target}: not there"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_opens_with_its_title_and_closes_its_fences(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# "), f"{name(page)} does not start with a title"
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, f"{name(page)} has an open code fence"


def test_the_pages_that_readers_are_promised() -> None:
    promised = {"start", "nouns", "maths", "add-a-sampler", "add-a-method", "add-an-operator", "add-a-prior"}
    assert promised <= {p.stem for p in PAGES}
