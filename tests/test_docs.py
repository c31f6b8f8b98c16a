"""README and docs: code, links, length of lines, and whether a reader finds every page.

A fence that starts with ```python is a program; all of a page's are run one after the other, in one namespace.
    ```python prior    run once the bundled prior's weights are there
    ```python notest   shown, never run
Budgets are cut: `max_seconds=60` in a page is run as 1 second, `seconds=90` of a fit as 8 steps, `n=8` samples as 2.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import click
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CUTS = {
    r"\bmax_seconds=\d+": "max_seconds=1",
    r"\bseconds=\d+": "steps=8, prior_samples=0, cache=64, evaluations=1, calibrate=False",
    r"\bn=[48]\b": "n=2",
}
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")
PROSE = 100
CODE = 120
DIALECT = ("bank", "banks", "doctor", "hears of", "unavailable", "comes on", "bank's")
"""Words of earlier versions that readers do not know; in code spans they may be names."""
TABLES = ("old-names",)
"""Pages that are made by a script, from names that can be as long as they are."""


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


def outside_code(page: Path) -> list[tuple[int, str]]:
    """(number, line) of what is no code: neither fenced nor indented by four blanks after an empty line."""
    found, fenced, indented, last = [], False, False, ""
    for i, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        indented = line.startswith("    ") and (indented or not last) and not re.match(r"\s*([-*|]|\d+\.) ", line)
        if not fenced and not indented:
            found.append((i, line))
        last = line.strip()
    return found


def anchors(page: Path) -> set[str]:
    """The addresses of a page's headings, as GitHub makes them."""
    heads = [re.sub(r"^#+ ", "", line) for _, line in outside_code(page) if re.match(r"#+ ", line)]
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head).replace("`", "") for head in heads]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


def targets(page: Path) -> list[tuple[Path, str]]:
    """(file, anchor or "") of the links of a page within the project."""
    links = LINK.findall("\n".join(line for _, line in outside_code(page)))
    parts = [link.partition("#") for link in links]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in parts]


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or a member (of a member ...) of one."""
    found: object = importlib.import_module("deft")
    for i, part in enumerate(parts := dotted.split(".")):
        if i and not hasattr(found, part):
            try:
                found = importlib.import_module(".".join(parts[: i + 1]))
            except ModuleNotFoundError:
                return part in getattr(found, "__annotations__", {})  # a field of a dataclass, without a default
        elif i:
            found = getattr(found, part)
    return True


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in TABLES], ids=name)
def test_the_names_of_a_page_exist(page: Path) -> None:
    """Every dotted name of the package in a code span of the text; fences are run."""
    for i, line in outside_code(page):
        for span in re.findall(r"`([^`]*)`", line):
            for found in re.findall(r"(?<![\w./:-])deft(?:\.[A-Za-z_]\w*)+", span):
                assert exists(found), f"{name(page)}:{i}: there is no {found}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for path, anchor in targets(page):
        assert path.exists(), f"{name(page)} links to {path}: not there"
        if anchor:
            found = sorted(anchors(path))
            assert anchor in found, f"{name(page)} links to #{anchor} of {path.name}: it has {found}"


def test_every_page_is_found_from_the_readme_and_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {path for path, _ in targets(index)}
    missing = [name(page) for page in PAGES[1:] if page != index and page not in linked]
    assert not missing, f"docs/README.md does not list {missing}"
    assert index in {path for path, _ in targets(PAGES[0])}, "README.md does not link to the index of pages"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_opens_with_its_title_and_closes_its_fences(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# "), f"{name(page)} does not start with a title"
    assert sum(1 for _, line in outside_code(page) if line.startswith("# ")) == 1, f"{name(page)} has several titles"
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, f"{name(page)} has an open code fence"


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in TABLES], ids=name)
def test_lines_can_be_read_without_scrolling(page: Path) -> None:
    """Prose to 100 characters, code to 120; tables, pictures and what cannot be broken are as long as they are."""
    prose = [(i, line) for i, line in outside_code(page) if not line.lstrip().startswith(("|", "!["))]
    long = [i for i, line in prose if len(line) > PROSE and " " in line.strip("- >")]
    assert not long, f"{name(page)}: lines {long} have more than {PROSE} characters"
    shown = {i for i, _ in outside_code(page)}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    long = [i for i, line in lines if i not in shown and len(line) > CODE]
    assert not long, f"{name(page)}: lines of code {long} have more than {CODE} characters"


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in TABLES], ids=name)
def test_a_page_uses_the_words_of_the_field(page: Path) -> None:
    for i, line in outside_code(page):
        for word in DIALECT:
            plain = re.sub(r"`[^`]*`", "", line)
            assert not re.search(rf"\b{word}\b", plain), f"{name(page)}:{i}: {word!r} is a word of this project alone"


def test_the_readme_is_short_and_its_first_screen_shows_how() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    first = text[: text.index("\n## ")]
    for part in ("docs/images/demo.png", "pip install", "make demo", "make test", "import deft"):
        assert part in first, f"README.md does not show {part} before its first section"
    (program,) = blocks(ROOT / "README.md")
    assert [line for line in program.code.splitlines() if "import" in line] == ["import deft"]
    assert len([line for line in program.code.splitlines() if line]) <= 12


def test_the_page_of_commands_has_all_of_them_and_no_other() -> None:
    from deft.cli import cli

    def leaves(command: click.Command, path: str) -> set[str]:
        if not isinstance(command, click.Group):
            return {path}
        context = click.Context(command)
        below = {k: command.get_command(context, k) for k in command.list_commands(context)}
        found = {leaf for k, v in below.items() if v is not None for leaf in leaves(v, f"{path} {k}")}
        return found | ({path} if command.invoke_without_command else set())

    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(deft [a-z -]+?)(?: [A-Z]+)?` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(leaves(cli, "deft"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_options_of_commands_exist(page: Path) -> None:
    """Of every `deft ...` in the text and in fences, and of options named beside a command in a row of a table."""
    from deft.cli import cli

    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    spans = re.findall(r"`(deft [^`]*)`", text)
    spans += re.findall(r"^(?: {4})?(?:.* -m )?(deft [^`]*?)(?:  #.*)?$", text, re.MULTILINE)
    if page.stem == "commands":
        rows = re.findall(r"^\| `(deft [^`]*)` \|(.*)$", text, re.MULTILINE)
        spans += [" ".join([first, *re.findall(r"`(--[^`]*)`", rest)]) for first, rest in rows]
    for span in spans:
        command: click.Command | None = cli
        words = span.split()[1:]
        while isinstance(command, click.Group) and words and words[0] in command.list_commands(click.Context(command)):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None
        known = {option for p in command.get_params(click.Context(command)) for option in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(words)):
            assert option in known, f"{name(page)}: `{span}`: {option} is no option of it"


def test_the_pages_that_readers_are_promised() -> None:
    promised = {
        "start", "nouns", "maths", "choose", "commands", "limits", "cost", "results", "add-a-sampler", "add-a-method",
        "add-an-operator", "add-a-prior",
    }  # fmt: skip
    assert promised <= {p.stem for p in PAGES}
