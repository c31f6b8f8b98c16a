"""Members of classes by the names that they had in version 0.1, for one more release: `MEMBERS` says which.

    class Operator(Renamed): ...

A call by the old name warns and does what the new one does. A subclass that still defines a method, or a class or
instance attribute, by its old name has it by the new name as well, so that the library finds it; it is told so once,
where it is defined.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

MEMBERS: dict[str, dict[str, str]] = {
    "core.operator.Operator": {
        "lift": "features",
        "lift_channels": "feature_channels",
        "pull": "approx_mean_update",
        "restrict": "measured_part",
        "count": "number_of_measurements",
    },
    "core.likelihood.Likelihood": {
        "lift": "features",
        "lift_channels": "feature_channels",
        "pull": "approx_mean_update",
    },
    "core.likelihood.Observation": {"lift": "features"},
    "core.denoiser.Denoiser": {"inside": "to_latent"},
    "likelihood.task.OperatorTask": {"lift_channels": "feature_channels"},
    "learned.base.Learned": {"lift_channels": "feature_channels"},
    "guidance.combine.Clipped": {"most": "limit"},
    "learned.deft.DEFT": {"begin": "initialise", "adopt": "initialise_from", "like": "init_like"},
    "domains.protein.baselines.ChainAmortised": {"begin": "initialise"},
}
"""Class, without the leading "deft." -> its old names and the new ones."""

ARGUMENTS: dict[str, dict[str, str]] = {
    "learned.base.Learned": {"lift_channels": "feature_channels", "most": "max_samples"},
    "guidance.combine.Clipped": {"most": "limit"},
}
"""The same of arguments of the constructor, of `sized` and of `calibrate`."""

VALUES: dict[tuple[str, str], str] = {("guide", "pull"): "preconditioned"}
"""Setting and value of an h, as cards of 0.1 have them -> the value now."""


class Renamed:
    """A class with a row in `MEMBERS`, and its subclasses."""

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for old, new in _rows(cls, MEMBERS).items():
            _pair(cls, old, new)
        for old, new in _rows(cls, ARGUMENTS).items():
            for name in ("__init__", "sized", "calibrate"):
                _take_old_argument(cls, name, old, new)


def _rows(cls: type, table: dict[str, dict[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in cls.__mro__:
        found |= table.get(f"{base.__module__.removeprefix('deft.')}.{base.__qualname__}", {})
    return found


def _pair(cls: type, old: str, new: str) -> None:
    own = vars(cls)
    if old in own and new not in own:
        _warn(f"{cls.__qualname__}.{old}", new)
        setattr(cls, new, own[old])
        if callable(getattr(own[old], "__func__", own[old])):
            return
    elif new in own and callable(getattr(own[new], "__func__", own[new])):
        setattr(cls, old, _OldMethod(old, new, own[new]))
        return
    if new in own or not hasattr(cls, new):  # of the class, or of its objects alone
        setattr(cls, new, _NewAttribute(old, new, vars(cls).get(new, MISSING)))
        setattr(cls, old, _OldAttribute(old, new))


MISSING = object()


class _OldMethod:
    """A method by its old name: that of the class it was defined in, so that `super()` finds what it asks for."""

    def __init__(self, old: str, new: str, value: Any):
        self.old, self.new, self.value = old, new, value

    def __get__(self, thing: Any, owner: type) -> Any:
        _warn(f"{owner.__qualname__}.{self.old}", self.new)
        return self.value.__get__(thing, owner) if hasattr(self.value, "__get__") else self.value


class _OldAttribute:
    """An attribute by its old name."""

    def __init__(self, old: str, new: str):
        self.old, self.new = old, new

    def __get__(self, thing: Any, owner: type) -> Any:
        found = getattr(owner if thing is None else thing, self.new)
        _warn(f"{owner.__qualname__}.{self.old}", self.new)
        return found


class _NewAttribute:
    """An attribute of a class: of an object that sets the old name, that; else the class's own value, if it has one. An
    object may hide it."""

    def __init__(self, old: str, new: str, value: Any):
        self.old, self.new, self.value = old, new, value

    def __get__(self, thing: Any, owner: type) -> Any:
        if self.old in getattr(thing, "__dict__", ()):
            _warn(f"{owner.__qualname__}.{self.old}", self.new)
            return vars(thing)[self.old]
        if self.value is MISSING:
            raise AttributeError(f"{owner.__name__!r} has no attribute {self.new!r}")
        return self.value.__get__(thing, owner) if hasattr(type(self.value), "__get__") else self.value


def _take_old_argument(cls: type, name: str, old: str, new: str) -> None:
    given = vars(cls).get(name)
    function: Callable[..., Any] | None = given.__func__ if isinstance(given, classmethod) else given
    if (
        function is None
        or getattr(function, "__isabstractmethod__", False)
        or new not in inspect.signature(function).parameters
    ):
        return

    run = old_arguments(**{old: new})(function)
    setattr(cls, name, classmethod(run) if isinstance(given, classmethod) else run)


def old_arguments(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that still takes keywords by their old names: `old_arguments(lift="features")`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            for old in [name for name in names if name in options]:
                _warn(f"the argument {old} of {function.__qualname__}", names[old])
                options[names[old]] = options.pop(old)
            return function(*args, **options)

        return run

    return decorate


def new_settings(settings: Mapping[str, Any], kind: type | None = None) -> dict[str, Any]:
    """Settings of an h that 0.1 wrote into a card or a state, by today's names; those of an h inside (`h`) too. kind:
    leave what its constructor takes."""
    taken = inspect.signature(kind).parameters if kind is not None else {}
    names = {old: new for old, new in ARGUMENTS["learned.base.Learned"].items() if old not in taken}
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "h" and isinstance(value, dict):
            value = new_settings(value, None)
        found[names.get(key, key)] = VALUES.get((key, value), value) if isinstance(value, str) else value
    return found


def _warn(old: str, new: str) -> None:
    """At the line outside the library that used the old name."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("deft", "abc"):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=level)
