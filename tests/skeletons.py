"""The skeletons of the pages "Add a ...", written into a copy of the package.

A block of code that opens with "# src/deft/FILE" is a new file; one that opens with "# src/deft/FILE, WHERE" is added
to a file that is there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import deft

DOCS = Path(__file__).parents[1] / "docs"
LIBRARY = Path(deft.__file__).parent


def parts(page: str) -> dict[str, str]:
    """What a page's blocks open with ("FILE" or "FILE, WHERE") -> their code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^```python(?: notest)?\n# src/deft/([^\n]*)\n(.*?)^```", text, re.M | re.S))


def package(folder: Path) -> Path:
    """The library in a folder, as links: `add` puts real folders and files where it writes."""
    copy = folder / "deft"
    _link_children(LIBRARY, copy)
    return copy


def _link_children(source: Path, copy: Path) -> None:
    copy.mkdir()
    for child in source.iterdir():
        if child.name != "__pycache__":
            (copy / child.name).symlink_to(child)


def _own(copy: Path, name: str) -> Path:
    """The path of a file of the copy; no folder on the way to it, nor the file itself, is a link any more."""
    path = copy
    for part in Path(name).parts:
        path = path / part
        if not path.is_symlink():
            continue
        source = path.resolve()
        path.unlink()
        if source.is_dir():
            _link_children(source, path)
        else:
            path.write_bytes(source.read_bytes())
    return path


def add(copy: Path, page: str, after: Mapping[str, str]) -> set[str]:
    """Write the blocks of a page into their files, those with a WHERE after the line that `after` has for it; returns
    the files that were touched."""
    files = set()
    for where, code in parts(page).items():
        name, _, place = where.partition(", ")
        path = _own(copy, name)
        files.add(name)
        if not place:
            assert not path.exists(), f"{page}: {name} is there already"
            path.write_text(code, encoding="utf-8")
            continue
        text, line = path.read_text(encoding="utf-8"), after[place]
        assert text.count(line) == 1, f"{page}: {name} has not exactly one {line!r}"
        path.write_text(text.replace(line, f"{line}{code}"), encoding="utf-8")
    return files


PREAMBLE = """\
import torch
import deft
from deft.cli import main
from deft.testing import check_htransform, check_likelihood, check_operator, check_sampler, half_seen

def command(line):
    assert main(line.split()) == 0, line
"""


def runs(copy: Path, code: str) -> str:
    """What a program prints that imports the copy; it runs in the folder of the copy, after `PREAMBLE`."""
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], env=environment, cwd=copy.parent, capture_output=True, text=True
    )
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    return found.stdout
