"""A network of your own that a card can name: the function or class that makes it, and its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from deft.runtime.importable import name_of


class Factory:
    """function(inputs, outputs, width, **options) -> a network (features [B, inputs, ...], time [B]) -> [B, outputs,
    ...].

    A card keeps its importable name ("package.module:function") and the options (JSON), and not its code: what was
    saved with it loads where that can be imported, for callers who trust it.

    >>> from deft.nn import MLP
    >>> Factory(MLP).config()
    {'factory': 'deft.nn.mlp:MLP', 'options': {}}
    """

    def __init__(self, function: Callable[..., nn.Module], **options: Any):
        self.function, self.options = function, options

    def __call__(self, inputs: int, outputs: int, width: int) -> nn.Module:
        return self.function(inputs, outputs, width, **self.options)

    def __repr__(self) -> str:
        return f"Factory({', '.join([name_of(self.function), *(f'{k}={v!r}' for k, v in self.options.items())])})"

    def config(self) -> dict[str, Any]:
        return {"factory": name_of(self.function), "options": self.options}


def is_named(value: Any) -> bool:
    """Whether a part of a card is a factory's `config()`."""
    return (
        isinstance(value, dict)
        and value.keys() == {"factory", "options"}
        and isinstance(value["factory"], str)
        and isinstance(value["options"], dict)
    )
