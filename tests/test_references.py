"""docs/references.md: every paper that a docstring or a page cites by authors and year, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "references.md"

NAME = r"(?:[A-Z]\. )*(?:Del |Dai )?[A-ZÀ-Þ][\w’-]+"  # initials, a name's first part, the name
AUTHORS = rf"{NAME} et al\.|{NAME}(?:, {NAME})+,? & {NAME}|{NAME} & {NAME}|{NAME}"
CITATION = re.compile(rf"(?<![\w.])({AUTHORS}) \(?((?:18|19|20)\d\d[a-z]?)\b(?![-.]\d)")
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
