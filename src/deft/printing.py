"""What objects print: the class with its constructor's arguments, each of which is an attribute of that name.

Gaussian(operator=Mask(mask=float32[1, 1, 28, 28] from 0 to 1), sigma_y=[0.05], surrogate=0.02)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deft.arguments import check_constructor

SHOWN = 4
"""Numbers of a tensor, and entries of a sequence, up to which all of them are printed."""


class Printed:
    """Mixin: `repr` is the class with its constructor's arguments, taken from the attributes of the same names; the
    arguments are checked when an object is made (`deft.arguments`).

    kept_as: argument -> attribute, for the few whose own name is that of a method.
    """

    kept_as: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_constructor(cls)

    def __repr__(self) -> str:
        return summary(self)


class PrintedModule(nn.Module):
    """The same for a module: one line with its settings and its number of parameters, not the tree of its layers."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        check_constructor(cls)

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.parameters())
        return summary(self, *([f"{n:,} parameters"] if n else []))


def arguments(thing: Any) -> dict[str, Any]:
    """Constructor argument -> the attribute of that name (or in `kept_as`). Those that a class does not keep are left
    out."""
    kept_as = getattr(thing, "kept_as", {})
    found = {}
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        try:
            found[name] = attrgetter(kept_as.get(name, name))(thing)
        except AttributeError:
            continue
    return found


def summary(thing: Any, *more: str) -> str:
    """`Class(name=value, ...)`; more: further words inside the brackets.

    >>> from deft.printing import Printed
    >>> class Shift(Printed):
    ...     def __init__(self, by, over=(1, 2)):
    ...         self.by, self.over = by, over
    >>> Shift(torch.arange(6.0))
    Shift(by=float32[6] from 0 to 5, over=(1, 2))
    """
    kinds = {name: p.kind for name, p in inspect.signature(type(thing)).parameters.items()}
    many = inspect.Parameter.VAR_POSITIONAL
    before_many = [*kinds][: [*kinds.values()].index(many)] if many in kinds.values() else []
    parts = []
    for name, value in arguments(thing).items():
        if kinds[name] is many:
            parts += [short(v) for v in value]
        else:
            parts.append(short(value) if name in before_many else f"{name}={short(value)}")
    return f"{type(thing).__name__}({', '.join([*parts, *more])})"


def short(value: Any) -> str:
    """One value on part of a line: small tensors as numbers, others as shape, type and range; functions by name;
    modules by size."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, (Printed, PrintedModule)):
        return repr(value)
    if isinstance(value, nn.Module):
        return f"{type(value).__name__}({sum(p.numel() for p in value.parameters()):,} parameters)"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (
            f"{type(value).__name__}({', '.join(f'{k}={short(v)}' for k, v in zip(value._fields, value, strict=True))})"
        )
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{short(k)}: {short(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        inside = [short(v) for v in (value if len(value) <= 2 * SHOWN else [*value[:SHOWN], ..., value[-1]])]
        text = ", ".join("..." if v == "Ellipsis" else v for v in inside)
        return f"[{text}]" if isinstance(value, list) else f"({text},)" if len(value) == 1 else f"({text})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} {list(value.shape)} {value.dtype}"
    if inspect.isroutine(value):
        return str(value.__name__)
    if type(value).__repr__ is object.__repr__:  # its address says nothing
        return type(value).__name__
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:110]}...{text[-5:]}"


def _tensor(value: Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    if 0 < value.numel() <= SHOWN and value.device.type != "meta":
        return str(
            [round(v, 6) if isinstance(v, float) else v for v in value.tolist()] if value.ndim == 1 else value.tolist()
        )
    text = f"{dtype}{list(value.shape)}"
    if value.is_complex() or value.device.type == "meta" or not value.numel():
        return text
    low, high = torch.aminmax(value.detach())
    return f"{text} from {float(low):.4g} to {float(high):.4g}"


def singular(title: str) -> str:
    """One of what a title names several of.

    >>> singular("images"), singular("series")
    ('image', 'series')
    """
    return title if title.endswith("series") else title.removesuffix("s")
