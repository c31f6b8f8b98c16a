"""What imports what in src/deft: `python -m tests.structure [--against OLD_SRC] [--markdown]`.

A room is a folder of src/deft, or a module beside them. Every import counts, also those inside functions and under
TYPE_CHECKING: that an import is late does not make a module less in need of another.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SRC = Path(__file__).resolve().parents[1] / "src" / "deft"

ORDER = (
    ("errors", "version"),
    ("values",),
    ("arguments", "tensors", "philox"),
    ("_old_names", "_renamed", "printing"),
    ("nn", "importable"),
    ("core",),
    ("kinds",),
    ("schedule", "denoiser", "tasks"),
    ("runtime",),
    ("operator",),
    ("likelihood",),
    ("guidance",),
    ("learned",),
    ("samplers",),
    ("testing",),
    ("methods",),
    ("io",),
    ("train",),
    ("remote",),
    ("prior",),
    ("diagnose",),
    ("domains", "domains.*"),
    ("recipe",),
    ("bench",),
    ("workflow",),
    ("diffusers",),
    ("cli",),
    ("__main__",),
    ("deft",),
)
"""A module imports from its own room and from those in lines above it. `deft` is the package's own face: whatever it
shows lies above it."""


class Arrow(NamedTuple):
    """module imports other."""

    module: str
    other: str


class Code(NamedTuple):
    """lines: of each module, by its name without "deft." ("deft" for the package itself). arrows: all imports, each
    pair once."""

    lines: dict[str, int]
    arrows: list[Arrow]


def read(src: Path = SRC) -> Code:
    """All modules of a package `deft` and their imports of each other."""
    files = {_name(path.relative_to(src)): path for path in sorted(src.rglob("*.py"))}
    lines = {name: len(path.read_text().splitlines()) for name, path in files.items()}
    found = {
        Arrow(name, other)
        for name, path in files.items()
        for other in _imports(ast.parse(path.read_text()), name, path.name == "__init__.py", set(files))
    }
    return Code(lines, sorted(found))


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "deft"


def _imports(tree: ast.AST, own: str, package: bool, known: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "deft":
                    yield alias.name.removeprefix("deft.")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = [] if own == "deft" else own.split(".")
                here = here[: len(here) - node.level + package]
                base = ".".join(["deft", *here, *([base] if base else [])])
            if base.split(".")[0] != "deft":
                continue
            base = base.removeprefix("deft").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in known else base or "deft"


def room(module: str) -> str:
    """The folder a module is in; each kind of data is a room of its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "domains" and len(parts) > 1 else parts[0]


def rank(name: str) -> int | None:
    """The place of a room in `ORDER`; None if it has none."""
    wanted = "domains.*" if name.startswith("domains.") else name
    return next((i for i, rooms in enumerate(ORDER) if wanted in rooms), None)


def rooms(code: Code) -> dict[str, tuple[int, int]]:
    """Room -> (modules, lines)."""
    out: dict[str, tuple[int, int]] = {}
    for module, lines in code.lines.items():
        files, total = out.get(room(module), (0, 0))
        out[room(module)] = files + 1, total + lines
    return out


def between_rooms(code: Code) -> Counter[tuple[str, str]]:
    """(room, other room) -> how many pairs of modules import across."""
    return Counter((room(a.module), room(a.other)) for a in code.arrows if room(a.module) != room(a.other))


def unranked(code: Code) -> list[str]:
    return sorted(name for name in rooms(code) if rank(name) is None)


def upwards(code: Code) -> list[Arrow]:
    """Imports against the order; two rooms of one line do not import each other either."""
    out = []
    for arrow in code.arrows:
        own, other = room(arrow.module), room(arrow.other)
        here, there = rank(own), rank(other)
        if (
            own != other
            and here is not None
            and there is not None
            and there >= here
            and (own, other) != ("domains", other)
        ):
            out.append(arrow)
    return out


def strangers(code: Code) -> list[Arrow]:
    """Imports of one kind of data from outside its folder; the others ask the registry of `kinds.domain`."""
    return [a for a in code.arrows if room(a.other).startswith("domains.") and room(a.module) != room(a.other)]


def circles(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes each of which leads to all others (strongly connected; Tarjan 1972), largest first."""
    graph: dict[str, set[str]] = {}
    for a, b in arrows:
        graph.setdefault(a, set()).add(b)
        graph.setdefault(b, set())
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            i = stack.index(node)
            group = sorted(stack[i:])
            del stack[i:]
            if len(group) > 1 or node in graph[node]:
                found.append(group)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found, key=lambda g: (-len(g), g))


def _summary(code: Code) -> dict[str, str]:
    across = between_rooms(code)
    core = rooms(code).get("core")
    return {
        "modules": str(len(code.lines)),
        "lines": f"{sum(code.lines.values()):,}",
        "lines of core/": f"{core[1]:,}" if core else "no such room",
        "rooms": str(len(rooms(code))),
        "arrows between rooms": str(len(across)),
        "imports between rooms": str(sum(across.values())),
        "circles of modules": _sizes(circles(code.arrows)),
        "circles of rooms": _sizes(circles(across)),
    }


def _sizes(groups: list[list[str]]) -> str:
    return f"{len(groups)} (of {', '.join(str(len(g)) for g in groups)})" if groups else "0"


def report(code: Code, old: Code | None = None) -> str:
    """The tables as markdown: the sums (old and new), then rooms, arrows against the order and circles of the new
    one."""
    new = _summary(code)
    before = None if old is None else _summary(old)
    out = ["| | before | after |", "|---|---|---|"] if before else ["| | |", "|---|---|"]
    out += [f"| {k} | {before[k]} | {v} |" if before else f"| {k} | {v} |" for k, v in new.items()]
    if old is None:
        out.append(f"| imports against the order | {len(upwards(code))} |")
        out.append(f"| imports of a kind of data from outside | {len(strangers(code))} |")
    for title, each in (("before", old), ("after", code)):
        if each is None:
            continue
        across = between_rooms(each)
        out += [
            "",
            f"Rooms{' ' + title if old else ''}:",
            "",
            "| room | modules | lines | imports from |",
            "|---|---|---|---|",
        ]
        for name, (files, lines) in sorted(
            rooms(each).items(), key=lambda kv: (rank(kv[0]) if rank(kv[0]) is not None else 99, kv[0])
        ):
            wanted = sorted(
                (n for own, n in across if own == name), key=lambda n: (99 if rank(n) is None else rank(n), n)
            )
            out.append(f"| `{name}` | {files} | {lines:,} | {', '.join(f'{n} {across[name, n]}' for n in wanted)} |")
        for group in circles(each.arrows):
            out += ["", f"circle of {len(group)}: {', '.join(group)}"]
        if each is code:
            out += [f"\nagainst the order: {a.module} -> {a.other}" for a in upwards(each)]
            out += [f"\nfrom outside: {a.module} -> {a.other}" for a in strangers(each)]
            out += [f"\nwithout a rank: {name}" for name in unranked(each)]
    return "\n".join(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", type=Path, default=SRC, help="the package's folder")
    parser.add_argument("--against", type=Path, help="the same folder of an earlier version: both are shown")
    given = parser.parse_args()
    print(report(read(given.src), None if given.against is None else read(given.against)))
