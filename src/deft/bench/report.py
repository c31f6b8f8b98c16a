"""The one writer of reports: report.md out of paragraphs, tables and pictures, and report.json beside it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from deft.bench.table import Table
from deft.io.files import write_json, write_text
from deft.io.text import markdown
from deft.kinds.domain import Metric


class Report:
    """A report, part by part, in the order of reading.

    >>> report = Report("A title")
    >>> report.text("A paragraph.")
    >>> report.markdown()
    '# A title\\n\\nA paragraph.\\n'
    """

    def __init__(self, title: str):
        self.title = title
        self.blocks = [f"# {markdown(title)}"]

    def heading(self, text: str) -> None:
        self.blocks.append(f"## {markdown(text)}")

    def text(self, text: str) -> None:
        """A paragraph; nothing, if it is empty."""
        if text:
            self.blocks.append(markdown(text))

    def table(self, table: Table | None, title: str = "") -> None:
        """A table, with a line above it; nothing, if there are no rows."""
        if table:
            self.text(title)
            self.blocks.append("\n".join(table.markdown()))

    def items(self, items: Sequence[str]) -> None:
        if items:
            self.blocks.append("\n".join(f"- {markdown(item)}" for item in items))

    def picture(self, path: Path | None, about: str) -> None:
        """A picture that lies beside the report; nothing, if there is none."""
        if path is not None:
            self.blocks.append(f"![{markdown(about)}]({path.name})")

    def measured(self, metrics: Sequence[Metric]) -> None:
        """What each metric is, in words."""
        self.heading("What is measured")
        self.items([f"{m.title}: {m.about}" for m in metrics])

    def settings(self, settings: Mapping[str, Any]) -> None:
        self.heading("Settings")
        self.blocks.append("```json\n" + json.dumps(settings, indent=2, ensure_ascii=False) + "\n```")

    def markdown(self) -> str:
        return "\n\n".join(self.blocks) + "\n"

    def write(self, folder: Path, data: Mapping[str, Any]) -> None:
        """report.md, and the data as report.json."""
        write_json(folder / "report.json", data)
        write_text(folder / "report.md", self.markdown())


def machine() -> dict[str, Any]:
    """What the seconds were measured on. device: the graphics card, if there is one that can be used."""
    out: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    out["cpu"] = platform.machine()
    out["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return out
