"""docs/references.md: every paper that a docstring or a page cites by authors and year, and no other; classes that
implement a published method name it; and the public classes have an example in their docstring."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import deft
from deft import guidance, samplers
from deft.core.sampler import Sampler
from deft.learned.baselines import LEARNED
from deft.schedule import SCHEDULES
from deft.train.denoising import DenoisingObjective
from deft.train.path import PathObjective
from deft.train.value import SubTrajectoryBalance

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "references.md"

NAME = r"(?:[A-Z]\. )*(?:Del |Dai )?[A-ZÀ-Þ][\w’-]+"  # initials, a name's first part, the name
AUTHORS = rf"{NAME} et al\.|{NAME}(?:, {NAME})+,? & {NAME}|{NAME} & {NAME}|{NAME}"
CITATION = re.compile(rf"(?<![\w.])({AUTHORS}) \(?((?:18|19|20)\d\d[a-z]?)\b(?![-.]\d)")
LINK = re.compile(r"\[([^]]+)\]\((https://[^()\s]+)\)")
NO_CITATION = {"NeurIPS 2024", "JPEG 2000"}  # a conference, a file format


def key(authors: str, year: str) -> str:
    """The key of a citation: no initials, and "First et al." for three authors or more.

    >>> key("A. One, B. Two & C. Three", "2020a"), key("One & B. Two", "2020"), key("One et al.", "2020")
    ('One et al. 2020a', 'One & Two 2020', 'One et al. 2020')
    """
    names = re.sub(r"\b[A-Z]\. ", "", authors)
    return f"{names.split(',')[0]} et al. {year}" if "," in names else f"{names} {year}"


def citations(text: str) -> set[str]:
    """
    >>> sorted(citations("It is that of One et al.  (2020, eq. 1); P. Two & Three 2021a, and of Four 1999."))
    ['Four 1999', 'One et al. 2020', 'Two & Three 2021a']
    >>> citations("2 x 1024 Pixels; JPEG 2000")
    set()
    """
    found = {key(*match.groups()) for match in CITATION.finditer(" ".join(text.split()))}
    return found - NO_CITATION


def docstrings(path: Path) -> Iterator[str]:
    """Every string that stands alone: of modules, classes and functions, and under constants and fields."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@cache
def cited() -> dict[str, set[str]]:
    """Key -> the files that cite it."""
    where: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src" / "deft").rglob("*.py")):
        for text in docstrings(path):
            for found in citations(text):
                where.setdefault(found, set()).add(str(path.relative_to(ROOT)))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if path != TABLE:
            for found in citations(path.read_text(encoding="utf-8")):
                where.setdefault(found, set()).add(str(path.relative_to(ROOT)))
    return where


def number(name: str) -> str:
    """The number in the text of a link: what follows "arXiv", "doi", ..."""
    return unescape(name.split(" ", 1)[1])


def rows(text: str) -> list[list[str]]:
    """[key, title, link] of each row of the table."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return [c for c in cells if c[0] != "key"]


def faults(table: list[list[str]], where: dict[str, set[str]]) -> list[str]:
    """What is wrong with the table, a line each.

    >>> table = [["Two 2000", "A title", "[arXiv 1](https://arxiv.org/abs/2)"], ["One 1999", "A title", "a journal"]]
    >>> for fault in faults(table + table[1:], {"One 1999": {"a.py"}, "Three 2001": {"b.py"}}):
    ...     print(fault)
    Three 2001 has no row: b.py
    Two 2000 is cited nowhere
    Two 2000: the text and the link are of two numbers
    One 1999 has 2 rows
    A title has 3 rows
    the rows are not sorted
    """
    keys = [key for key, *_ in table]
    found = [f"{key} has no row: {', '.join(sorted(where[key]))}" for key in sorted(where.keys() - set(keys))]
    found += [f"{key} is cited nowhere" for key in dict.fromkeys(keys) if key not in where]
    for key, _, link in table:
        whole = LINK.fullmatch(link)
        if whole is None and "http" in link:
            found.append(f"{key}: {link} is no link")
        if whole is not None and number(whole[1]) not in unquote(whole[2]):
            found.append(f"{key}: the text and the link are of two numbers")
    for column in (0, 1):
        cells = [row[column] for row in table]
        found += [f"{c} has {cells.count(c)} rows" for c in dict.fromkeys(cells) if cells.count(c) > 1]
    if keys != sorted(keys, key=str.casefold):
        found.append("the rows are not sorted")
    return found


def test_the_table_has_every_paper_that_is_cited_and_no_other():
    assert faults(rows(TABLE.read_text(encoding="utf-8")), cited()) == []


def test_a_citation_of_each_form_is_found():
    """By hand, so that a regular expression that finds nothing does not pass."""
    where = cited()
    for key, file in {
        "Denker et al. 2024": "src/deft/learned/deft.py",  # et al.
        "Song et al. 2021a": "src/deft/samplers/ode.py",  # three names
        "Chung et al. 2023": "src/deft/guidance/through_prior.py",  # five names with initials
        "Dhariwal & Nichol 2021": "src/deft/learned/classifier.py",  # two
        "Dai Pra 1991": "src/deft/train/path.py",  # one name of two words
        "Bińkowski et al. 2018": "src/deft/domains/image/metrics.py",
        "Gneiting & Raftery 2007": "docs/compare.md",
        "Liu et al. 2023": "docs/priors.md",  # the year on another line
    }.items():
        assert file in where[key], key


OWN = {
    "ExactInside": "a closed form, of the paper's appendix C.2",
    "ExactMixture": "Bayes' rule",
    "Mixture": "data",
    "Pulled": "base of GradientAtMean and DiffPIR",
    "ScoreAtMean": "ReconstructionGuidance without a factor",
    "Sampler": "base",
    "KernelSampler": "base",
    "ManyDraws": "base",
    "FullTuning": "no algorithm of one paper",
}
"""Name -> why its docstring cites nobody."""

WITHOUT_EXAMPLE = {
    "FitResult": "what `fit` returns: its example has one",
    "FittedH": "what `fit_h` returns: its example has one",
}
"""Public class -> why its docstring has no example."""


def own_doc(cls: type) -> str:
    """The docstring of the class itself, not that of a base."""
    return vars(cls).get("__doc__") or ""


def subclasses(cls: type) -> list[type]:
    return [c for one in cls.__subclasses__() for c in (one, *subclasses(one))]


def test_classes_of_published_methods_name_their_source():
    shown = [vars(guidance)[name] for name in guidance.__all__]
    shown += [c for name in samplers.__all__ if inspect.isclass(c := vars(samplers)[name]) and issubclass(c, Sampler)]
    objectives = [c for c in subclasses(PathObjective) if not inspect.isabstract(c)]
    classes = {*SCHEDULES.values(), *shown, *LEARNED.values(), *objectives, SubTrajectoryBalance, DenoisingObjective}
    silent = {c.__name__ for c in classes if not citations(own_doc(c))}
    assert len(classes) > 35
    assert silent == OWN.keys()


def test_public_classes_have_an_example():
    """`pytest --doctest-modules` runs them."""
    classes = {name: getattr(deft, name) for name in deft.__all__ if inspect.isclass(getattr(deft, name))}
    silent = {name for name, cls in classes.items() if ">>> " not in own_doc(cls)}
    assert len(classes) > 45
    assert silent == WITHOUT_EXAMPLE.keys()
