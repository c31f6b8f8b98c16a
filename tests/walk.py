"""Which modules a measurement goes through in `deft sample`: `python -m tests.walk [--against OLD_SRC]`.

The command runs in a process of its own, under a tracer that follows the data from photo.png to the files it writes.
Data are the arrays, pictures and observations that functions return which were handed data, the first of them the path
of photo.png, and the arrays that such functions hand on. Counted are

- modules with a function that is handed data, be it the path alone (`named`);
- of these, the modules whose functions are handed the contents, or get them back from another (`handled`);
- of these, the ones that are no noun: not in core, likelihood or operator, which are what the data are made of
  (`stations`).

An array is followed as the object that it is; a view of it, or the NumPy array of a tensor, is another object, and
whoever is handed that alone is missed. So there is a second count (`followed`) of modules beside the nouns, in which
all arrays on the memory of known ones are data, too.

A function that is handed the prior together with data is the mathematics (drawing, checks): it counts, and what it
calls does not, for there the data meet the network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SRC = Path(__file__).resolve().parents[1] / "src"
NOUNS = ("core", "kinds", "likelihood", "operator")


class Tracer:
    """Follows data through the functions of a package by identity. steps: (module, function) of each call that was
    handed data, in turn. views: follow the memory of arrays, too."""

    def __init__(self, seeds: set[str], package: str = "deft", views: bool = False):
        import numpy
        import torch
        from PIL import Image

        self.package, self.seeds, self.steps = package, seeds, []
        self.arrays = (torch.Tensor, numpy.ndarray, Image.Image)
        self.networks = torch.nn.Module
        self.known: dict[int, Any] = {}
        """id -> the object, kept so that no other gets its id."""
        self.views, self.memory = views, set[int]()
        self.handed: dict[int, Any] = {}
        self.mathematics: Any = None
        self.contents: dict[str, None] = {}
        """Modules that had more of the data than its name, in the order in which they got it."""

    def members(self, value: Any) -> list[Any]:
        if isinstance(value, dict):
            return list(value.values())
        if isinstance(value, (list, tuple)):
            return list(value)
        if isinstance(value, (self.networks, type)):
            return []
        slots = [getattr(value, s, None) for s in getattr(type(value), "__slots__", ()) if isinstance(s, str)]
        return (
            slots + list(getattr(value, "__dict__", {}).values())
            if type(value).__module__.startswith(self.package)
            else []
        )

    def is_data(self, value: Any, names: bool = True, depth: int = 3) -> bool:
        """Whether a value is or holds data. names: the path of the measurement, too."""
        if isinstance(value, (str, Path)):
            return names and str(value) in self.seeds
        if self.views and isinstance(value, self.arrays) and place(value) in self.memory:
            return True
        return id(value) in self.known or (
            depth > 0 and any(self.is_data(v, names, depth - 1) for v in self.members(value))
        )

    def mark(self, value: Any, depth: int = 3) -> None:
        if isinstance(value, self.arrays):
            self.known[id(value)] = value
            if self.views and (at := place(value)) is not None:
                self.memory.add(at)
        elif depth:
            for v in self.members(value):
                self.mark(v, depth - 1)

    def caller(self, frame: Any) -> Any:
        """The nearest function of the package that called this one."""
        frame = frame.f_back
        while frame is not None and not frame.f_globals.get("__name__", "").startswith(f"{self.package}."):
            frame = frame.f_back
        return frame

    def had(self, frame: Any) -> None:
        if frame is not None:
            self.contents[frame.f_globals["__name__"].removeprefix(f"{self.package}.")] = None

    def __call__(self, frame: Any, event: str, value: Any) -> None:
        if event == "call":
            module = frame.f_globals.get("__name__", "")
            if self.mathematics is not None or not module.startswith(f"{self.package}."):
                return
            code = frame.f_code
            names = code.co_varnames[
                : code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
            ]
            given = [frame.f_locals[n] for n in names if n in frame.f_locals]
            passed_on = (
                [v for v in given if isinstance(v, self.arrays)] if id(self.caller(frame)) in self.handed else []
            )
            if not passed_on and not any(self.is_data(v) for v in given):
                return
            if passed_on or any(self.is_data(v, names=False) for v in given):
                self.had(frame)
            self.handed[id(frame)] = frame
            self.steps.append((module.removeprefix(f"{self.package}."), code.co_name))
            if any(isinstance(v, self.networks) for v in given):
                self.mathematics = frame
        elif event == "return" and id(frame) in self.handed:
            del self.handed[id(frame)]
            if frame is self.mathematics:
                self.mathematics = None
            self.mark(value)
            if self.is_data(value, names=False):
                self.had(self.caller(frame))


def place(array: Any) -> int | None:
    """The address of the memory that an array is a view of; None for pictures."""
    if hasattr(array, "untyped_storage"):
        return array.untyped_storage().data_ptr() or None
    while isinstance(getattr(array, "base", None), type(array)):
        array = array.base
    return array.__array_interface__["data"][0] if hasattr(array, "ctypes") else None


def trace(arguments: list[str], seeds: set[str]) -> dict[str, Any]:
    """Run a command line and say where the data went."""
    from deft.cli import main

    tracer, further = Tracer(seeds), Tracer(seeds, views=True)

    def both(*event: Any) -> None:
        tracer(*event)
        further(*event)

    sys.setprofile(both)
    try:
        code = main(arguments)
    finally:
        sys.setprofile(None)
    steps = [s for i, s in enumerate(tracer.steps) if i == 0 or s[0] != tracer.steps[i - 1][0]]
    handled = list(tracer.contents)
    stations = [[m for m in t.contents if m.split(".")[0] not in NOUNS] for t in (tracer, further)]
    return {
        "code": code,
        "calls": len(tracer.steps),
        "named": list(dict.fromkeys(m for m, _ in tracer.steps)),
        "handled": handled,
        "stations": stations[0],
        "followed": stations[1],
        "walk": steps,
    }


def example(folder: Path) -> tuple[list[str], set[str]]:
    """A photo with a hole, and the command that fills it."""
    import numpy
    from PIL import Image

    x = numpy.add.outer(numpy.linspace(0, 200, 32), numpy.linspace(0, 55, 32)).astype("uint8")
    mask = numpy.full((32, 32), 255, "uint8")
    mask[8:20, 10:22] = 0
    photo = folder / "photo.png"
    Image.fromarray(x).save(photo)
    Image.fromarray(mask).save(folder / "mask.png")
    command = [
        "sample",
        "--prior",
        "fashion",
        "--task",
        "inpaint",
        "--measurement",
        str(photo),
        "--mask",
        str(folder / "mask.png"),
        "--method",
        "pigdm",
    ]
    return [*command, "--steps", "3", "-n", "2", "--device", "cpu", "--out", str(folder / "filled")], {str(photo)}


def of_source(src: Path) -> dict[str, Any]:
    """`trace` of the example with the package in a folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--here", folder],
            env={**os.environ, "PYTHONPATH": str(src)},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


COUNTS = {
    "named": "modules that get the data, or its path",
    "handled": "modules that handle its contents",
    "stations": "of these, no nouns",
    "followed": "no nouns, with views of arrays",
}


def report(runs: dict[str, dict[str, Any]], walk: bool = False) -> str:
    lines = ["| | " + " | ".join(runs) + " |", "|---" * (len(runs) + 1) + "|"]
    lines += [
        "| " + " | ".join([text, *(str(len(r[key])) for r in runs.values())]) + " |" for key, text in COUNTS.items()
    ]
    lines.append(
        "| " + " | ".join(["passages from one module to another", *(str(len(r["walk"])) for r in runs.values())]) + " |"
    )
    for title, found in runs.items():
        more = [m for m in found["followed"] if m not in found["stations"]]
        lines += ["", f"{title}: {', '.join(found['stations'])}; with views {', '.join(more)}"]
        if walk:
            lines += [f"{i:>3}  {module}.{function}" for i, (module, function) in enumerate(found["walk"], 1)]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="src of an earlier version: both are shown")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--walk", action="store_true", help="every passage")
    given = parser.parse_args()
    if given.here:
        print(json.dumps(trace(*example(given.here))))
    else:
        earlier = {"before": of_source(given.against)} if given.against else {}
        print(report({**earlier, "now": of_source(SRC)}, given.walk))
