"""What is given to a function or to a constructor, checked against its annotations before anything is computed.

Without it a text in the place of a number, or a class in the place of an object, is an error of torch from deep inside.

    @checks_arguments
    def draw(prior: Denoiser, n: Samples = 1, steps: Steps = 50): ...

The constructors of `Printed` and `PrintedModule` of this library are checked so without a decorator.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from deft.errors import InputError
from deft.values import Range, check, words

P = ParamSpec("P")
R = TypeVar("R")


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with an `InputError` for an argument of another kind than its annotation, or out of the range there
    (`deft.values.Range`).

    Numbers are never NaN, and truth values are none. What an annotation says beyond that (the items of a list, a
    class that is imported for types alone) is not checked, and defaults are taken as they are.

    >>> @checks_arguments
    ... def root(x: Annotated[float, Range(0)], n: int = 2) -> float:
    ...     return x ** (1 / n)
    >>> root(9)
    3.0
    >>> root(9, n="2")
    Traceback (most recent call last):
    deft.errors.InputError: root: n = '2': expected a whole number
    """
    name = function.__qualname__.removesuffix(".__init__").removesuffix(".__new__")

    @functools.wraps(function)
    def checked(*args: P.args, **named: P.kwargs) -> R:
        signature, several = _signature(function)
        try:
            given = signature.bind(*args, **named).arguments
        except TypeError:  # missing or unknown: Python says so itself
            return function(*args, **named)
        for argument, kind in _kinds(function).items():
            if argument in several and argument in given:
                for i, value in enumerate(given[argument]):
                    _check(name, f"{argument}[{i}]", kind, value)
            elif argument in given:
                _check(name, argument, kind, given[argument])
        return function(*args, **named)

    return checked


def check_constructor(cls: type) -> None:
    """Let a class's own `__init__` check its arguments, if the class is this library's: what others mean by their
    annotations is theirs."""
    own = vars(cls).get("__init__")
    if inspect.isfunction(own) and cls.__module__.partition(".")[0] == "deft":
        cls.__init__ = checks_arguments(own)  # type: ignore[misc]


def _check(where: str, name: str, kind: Any, value: Any) -> None:
    if value is None and _takes_nothing(kind):
        return
    if isinstance(value, Tensor) and value.ndim == 0:  # as good as a number
        return
    try:
        check(kind, value, name)
    except InputError as error:
        if isinstance(value, type) and any(k in value.__mro__ for k in _options(kind)):
            raise InputError(
                f"{where}: {name} is the class {value.__name__}: give an object, {value.__name__}(...)"
            ) from None
        if isinstance(value, BUILT_IN):
            ours = any(isinstance(k, type) and k.__module__.startswith("deft.") for k in _options(kind))
            named = isinstance(value, str) and ours and not any(k in (_Text, _Listed) for k in _options(kind))
            raise InputError(f"{where}: {error}{', an object and not its name' if named else ''}") from None
        found = f"a {type(value).__name__}" if not isinstance(value, type) else f"the class {value.__name__}"
        raise InputError(f"{where}: {name} is {found}, expected {words(kind)}") from None


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _takes_nothing(kind: Any) -> bool:
    return type(None) in _options(kind)


@functools.cache  # at the first call, not when the library is imported
def _signature(function: Callable[..., Any]) -> tuple[inspect.Signature, frozenset[str]]:
    """The signature, and the name of its *arguments if it has such."""
    found = inspect.signature(function)
    return found, frozenset(n for n, p in found.parameters.items() if p.kind is p.VAR_POSITIONAL)


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Argument -> kind, of those whose annotation can be looked up."""
    code = inspect.signature(function)
    names = [n for n, p in code.parameters.items() if p.annotation is not p.empty and p.kind is not p.VAR_KEYWORD]
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # a class that is imported for types alone: the others one by one
        hints = {n: h for n in names if (h := _alone(function, n)) is not None}
    return {n: kind for n in names if n in hints and (kind := _plain(hints[n])) is not Any}


def _alone(function: Callable[..., Any], name: str) -> Any:
    text = function.__annotations__[name]
    try:
        return eval(text, function.__globals__) if isinstance(text, str) else text
    except NameError:
        return None


def _plain(kind: Any) -> Any:
    """The part of a kind that is looked at: items of containers are not."""
    origin = get_origin(kind)
    if kind is float:
        return Annotated[float, Range(infinite=True)]
    if kind is str:
        return _Text
    if origin in (Union, types.UnionType):
        parts = [_plain(k) for k in get_args(kind)]
        return Any if Any in parts else Union[tuple(parts)]  # noqa: UP007 (made from a tuple)
    if isinstance(kind, TypeVar) or kind is Any:
        return Any
    if inspect.isclass(kind) and kind.__module__.startswith("deft.") and not inspect.isabstract(kind):
        return _like(kind)
    if getattr(kind, "_is_protocol", False):
        return _like(kind)
    if isinstance(origin, type) and origin not in (Annotated, tuple, list, collections.abc.Sequence, type):
        return origin
    if origin in (tuple, list, collections.abc.Sequence):
        return _Listed
    return kind if origin is not type else Any


BUILT_IN = (str, bytes, int, float, bool, list, tuple, collections.abc.Mapping, type(None))
"""Values that a message shows as they are; and none of them acts like an object of this library."""


def _like(kind: type) -> type:
    """What may stand for a protocol, or for a class of which nothing is abstract (a source of noise, say): any object
    that is no plain value."""

    class Like(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return type(value) is kind or not isinstance(value, (*BUILT_IN, Tensor, np.ndarray, type))

    return Like(kind.__name__, (), {})


class _HasItems(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


class _Listed(metaclass=_HasItems):
    """A list, a tuple, an array: what has items and is no text."""


class _AnyText(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, str)


class _Text(metaclass=_AnyText):
    """A text, of other people's too: what may be in it is checked where it is written to a file."""


_Listed.__name__, _Text.__name__ = "list", "text"
