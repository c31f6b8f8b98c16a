"""Cards as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deft.errors import visible
from deft.train.levels import level_table


def card_lines(card: Mapping[str, Any], indent: str = "") -> list[str]:
    """A card as `key: value` lines; nested ones are indented, long lists shortened."""
    lines = []
    for name, value in card.items():
        key = visible(" ".join(name.split()))
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *card_lines(value, indent + "  ")]
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text = visible(" ".join(text.split()))  # on one line, so that it ends no block of a page
            lines.append(f"{indent}{key}: {text if len(text) <= 200 else text[:197] + '...'}")
    return lines


def h_card_text(card: Mapping[str, Any]) -> str:
    """card.md of a fitted h."""
    text = [
        "# A fitted h-transform",
        "",
        "```",
        *card_lines({k: v for k, v in card.items() if k != "levels"}),
        "```",
        "",
    ]
    if card.get("levels"):  # an h that was fitted without data has none
        text += [
            "Mean squared error of E[x_0 | x_t, y] on held-out samples, by noise level:",
            "",
            level_table(card["levels"]),
            "",
        ]
    return "\n".join(text)
