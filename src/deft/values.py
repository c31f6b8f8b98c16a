"""What a value may be: its kind and its range, written once beside the field of a dataclass and checked wherever a
value comes in: from Python, from a file, or from an option of the command line.

    @dataclass(frozen=True)
    class Draw:
        steps: Steps = 50                                     # Annotated[int, Range(1, 100_000)]
        noise: Annotated[float, Range(min=0)] = 0.05
        name: str = ""                                        # one line, without control characters

        def __post_init__(self) -> None:
            check_fields(self)

A truth value is no number, a text is no list, and numbers are finite unless their range says otherwise.
"""

from __future__ import annotations

import math
import numbers
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from deft.errors import InputError, unknown

T = TypeVar("T")

LARGEST = 2**63 - 1
"""The largest whole number that torch and files hold."""
FAR = 100_000
"""Upper ends from here on are there for slips of the keyboard."""
MAX_LINE = 4096
"""Letters of a text that is no file of its own."""


@dataclass(frozen=True)
class Range:
    """Of a number. min, max: at least and at most. above, below: not the ends themselves. infinite: infinity is one,
    too.

    >>> Range(1).words(int), Range(0, below=1).words(float), Range(0, 1).words(float), Range(above=0).words(float)
    ('a whole number of at least 1', 'a number of at least 0 and below 1', 'a number from 0 to 1', 'a number above 0')
    """

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False

    def words(self, kind: type[int] | type[float], value: Any = None) -> str:
        """The numbers in it, for people. value: the one that is not, which may be too large: an upper end far above any
        use is not said otherwise."""
        noun, max = "a whole number" if kind is int else "a number", self.max
        if kind is float and not self.infinite and _is_number(value, float) and not math.isfinite(value):
            noun = "a finite number"
        if max is not None and max >= FAR and not (_is_number(value, float) and value > max):
            max = None
        if self.min is not None and self.min <= -FAR and max is None:
            return noun
        if self.min is not None and max is not None:
            return f"{noun} from {_show(self.min)} to {_show(max)}"
        parts = [
            f"{word} {_show(end)}"
            for word, end in (
                ("of at least", self.min),
                ("above", self.above),
                ("below", self.below),
                ("of at most", max),
            )
            if end is not None
        ]
        return " ".join([noun, " and ".join(parts)]) if parts else noun

    def has(self, value: float) -> bool:
        """Whether a number lies in it; NaN never does."""
        return (
            (self.infinite or -math.inf < value < math.inf)
            and value == value
            and (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Items:
    """Of a list: how many it holds. different: each only once."""

    min: int = 0
    max: int = 100_000
    different: bool = False


@dataclass(frozen=True)
class Words:
    """What to call a kind, in place of the words made of it."""

    words: str


def _show(end: float) -> str:
    if end == LARGEST:
        return "2^63 - 1"
    return f"{int(end):,}" if end == int(end) and abs(end) < 1e15 else f"{end:g}"


ANY_WHOLE, ANY_REAL = Range(-LARGEST - 1, LARGEST), Range()

# Kinds that several commands and files share. The upper ends are far above any use; they keep a slip of the keyboard
# from taking a machine's memory, or a day.
Seed = Annotated[int, Range(0, LARGEST)]
Count = Annotated[int, Range(1, 1_000_000_000)]
Index = Annotated[int, Range(0, 1_000_000_000)]
"""A number that counts from 0."""
CountOrNone = Annotated[int, Range(0, 1_000_000_000)]
"""Zero for none."""
Steps = Annotated[int, Range(1, 100_000)]
"""Of a sampler."""
FitSteps = Annotated[int, Range(1, 10_000_000)]
Samples = Annotated[int, Range(1, 1_000_000)]
"""Of one measurement."""
Rows = Annotated[int, Range(1, 1_000_000_000)]
"""Of a batch; how many fit is a matter of memory (`deft.runtime.memory.check_memory`)."""
Positive = Annotated[float, Range(above=0, max=1e12)]
NotNegative = Annotated[float, Range(0, 1e12)]
Share = Annotated[float, Range(0, 1)]
"""The whole of it, too."""
Part = Annotated[float, Range(0, below=1)]
Seconds = Annotated[float, Range(1e-9, 1e8)]
"""From a billionth of a second, which is one step, to three years."""
Deviation = Annotated[float, Range(0, 1e6)]
"""A deviation; 0 for none."""
Size = Annotated[float, Range(above=0, max=1000)]
"""Of h, as a share of the prior's parameters."""
Width = Annotated[int, Range(2, 4096)]
Focus = Annotated[float, Range(above=0, max=1000)]
"""Of the noise levels of a fit, see `DenoisingObjective`."""
Rate = Annotated[float, Range(above=0, max=10)]
"""Of learning."""


def printable(text: str) -> bool:
    r"""Whether a text is one line that can be shown: no control characters, no line breaks, no lone surrogates.

    >>> printable("ä b"), printable("a\nb"), printable("\x1b[2J")
    (True, False, False)
    """
    return all(c.isprintable() or c == " " for c in text)


def check(kind: Any, value: Any, name: str) -> Any:
    """The value, if it is of a kind; lists become tuples where the kind is one.

    Args:
        kind: int, float, bool, str, `Literal`, `Annotated` with a `Range` or `Items`, a union, a tuple, list or mapping
            of such, `Any`, or a class. name: of what it is for, as the user wrote it.

    Raises:
        InputError: it is of another kind, or out of range.

    >>> check(Annotated[int, Range(1)], "x", "tune.images")
    Traceback (most recent call last):
    deft.errors.InputError: tune.images = 'x': expected a whole number of at least 1
    >>> check(tuple[int, ...], [1, 2], "seeds"), check(float | None, None, "seconds")
    ((1, 2), None)
    """
    try:
        return _read(kind, value, name)
    except _Refused as refused:
        raise InputError(f"{refused.name} = {quoted(refused.value)}: expected {refused.expected}") from None


class _Refused(Exception):
    def __init__(self, name: str, value: Any, expected: str):
        self.name, self.value, self.expected = name, value, expected


def quoted(value: Any) -> str:
    r"""A value as a message has it: short, on one line.

    >>> quoted("a\nb"), quoted(True), quoted(None)
    ("'a\\nb'", 'true', 'nothing')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "nothing"
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {len(f'{abs(value):x}') * 4} bits"
    if isinstance(value, str):
        value = value if len(value) <= 80 else f"{value[:40]}…{value[-39:]}"  # the end of a path tells most
    elif isinstance(value, (list, tuple)):
        return f"[{', '.join(quoted(v) for v in value[:6])}{', ...' if len(value) > 6 else ''}]"[:100]
    elif isinstance(value, Mapping):
        return f"a table of {', '.join(str(k)[:20] for k in list(value)[:6]) or 'nothing'}".encode(
            "ascii", "backslashreplace"
        ).decode()[:100]
    return " ".join(repr(value)[:100].split())


def words(kind: Any, value: Any = None) -> str:
    """What a kind is, for people. value: the one that is none.

    >>> words(Annotated[int, Range(0)] | Literal["prior"]), words(tuple[int, ...])
    ("a whole number of at least 0 or 'prior'", 'a list, each a whole number')
    """
    origin = get_origin(kind)
    marks: tuple[Any, ...] = ()
    if origin is Annotated:
        kind, *more = get_args(kind)
        marks, origin = tuple(more), get_origin(kind)
    for mark in marks:
        if isinstance(mark, Words):
            return mark.words
    if origin is Literal:
        return " or ".join(repr(v) for v in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(words(k, value) for k in get_args(kind) if k is not type(None))
    if kind is int or kind is float:
        return next((m for m in marks if isinstance(m, Range)), Range()).words(kind, value)
    if kind is bool:
        return "true or false"
    if kind is str:
        return "a text of one line"
    if origin in (tuple, list, Sequence) or kind in (tuple, list):
        inner, items = get_args(kind), next((m for m in marks if isinstance(m, Items)), Items())
        noun = (
            f"a list of {'different values, ' if items.different else ''}at least {items.min}"
            if items.min
            else ("a list of different values" if items.different else "a list")
        )
        return f"{noun}, each {words(inner[0])}" if inner and inner[0] is not Any else noun
    if _is_mapping(kind):
        inner = get_args(kind)
        return "a table" + (f", each value {words(inner[1])}" if inner and inner[1] is not Any else "")
    name = getattr(kind, "__name__", str(kind))
    return {"Tensor": "a tensor", "ndarray": "a NumPy array"}.get(name, f"a {name}")


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _read(kind: Any, value: Any, name: str) -> Any:
    if kind is Any or isinstance(kind, TypeVar):
        return value
    whole = kind
    marks: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        marks = tuple(more)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _one_of(whole, kind, value, name)
    if origin is Literal:
        if not any(type(value) is type(v) and value == v for v in get_args(kind)):
            raise _Refused(name, value, words(whole, value))
        return value
    if kind is bool:
        good = isinstance(value, bool)
    elif kind is int or kind is float:
        usual = ANY_WHOLE if kind is int else ANY_REAL
        good = _is_number(value, kind) and next((m for m in marks if isinstance(m, Range)), usual).has(value)
        good = good and (kind is float or ANY_WHOLE.has(value))
    elif kind is str:
        good = isinstance(value, str) and len(value) <= MAX_LINE and printable(value)
    elif origin in (tuple, list, Sequence) or kind in (tuple, list):
        return _list(whole, kind, marks, value, name)
    elif _is_mapping(kind):
        if not isinstance(value, Mapping) or not all(isinstance(k, str) and printable(k) for k in value):
            raise _Refused(name, value, words(whole, value))
        inner = get_args(kind)
        return value if not inner else {k: _read(inner[1], v, f"{name}.{k}") for k, v in value.items()}
    else:
        good = not isinstance(kind, type) or isinstance(value, kind)
    if not good:
        raise _Refused(name, value, words(whole, value))
    return value


def _is_number(value: Any, kind: type) -> bool:
    wanted = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, wanted) and not isinstance(value, bool)


def _one_of(whole: Any, kind: Any, value: Any, name: str) -> Any:
    inside = None
    for one in get_args(kind):
        if one is type(None):
            if value is None:
                return None
            continue
        try:
            return _read(one, value, name)
        except _Refused as refused:
            if refused.name != name:  # it is of this kind, and something in it is not
                inside = refused
    raise inside or _Refused(name, value, words(whole, value))


def _list(whole: Any, kind: Any, marks: tuple[Any, ...], value: Any, name: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _Refused(name, value, words(whole, value))
    items = next((m for m in marks if isinstance(m, Items)), Items())
    inner = get_args(kind)
    fixed = inner and inner[-1] is not Ellipsis and get_origin(kind) is tuple
    if fixed and len(inner) != len(value):
        raise _Refused(name, value, words(whole, value))
    kinds = inner if fixed else [inner[0] if inner else Any] * len(value)
    if not items.min <= len(value) <= items.max:
        raise _Refused(name, value, words(whole, value))
    found = [_read(k, v, f"{name}[{i + 1}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))]
    if items.different and len(set(map(repr, found))) != len(found):
        raise _Refused(name, value, words(whole, value))
    return found if (get_origin(kind) or kind) is list else tuple(found)


def field_kinds(cls: Any) -> dict[str, Any]:
    """Field -> kind, with its range, of a dataclass; those that cannot be looked up (a class inside a function) are
    left out."""
    return _field_kinds(cls)


@cache
def _field_kinds(cls: Any) -> dict[str, Any]:
    try:
        hints: dict[str, Any] = get_type_hints(cls, include_extras=True)
    except NameError:
        plain = {"int": int, "float": float, "str": str, "bool": bool}
        hints = {f.name: plain.get(str(f.type), f.type) for f in fields(cls) if str(f.type) in plain}
    found = {}
    for f in fields(cls):
        if f.name in hints:
            mark = f.metadata.get("range")
            found[f.name] = hints[f.name] if mark is None else Annotated[hints[f.name], mark]
    return found


def check_fields(thing: Any, where: str = "", only: Sequence[str] | None = None) -> None:
    """Refuse an instance of a dataclass, a field of which holds a value of another kind or out of range.

    Args:
        where: what stands before a field's name in the message. only: these fields.
    """
    for name, kind in field_kinds(type(thing)).items():
        if only is None or name in only:
            check(kind, getattr(thing, name), f"{where}{name}")


def check_numbers(thing: Any, where: str = "") -> None:
    """`check_fields` of those fields alone that are numbers: for dataclasses of other people, whose further fields may
    hold anything."""
    numeric = [name for name, kind in field_kinds(type(thing)).items() if base_kind(kind) in (int, float)]
    check_fields(thing, where, numeric)


def base_kind(kind: Any) -> Any:
    """A kind without its range."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def read_table(kind: type[T], table: Any, where: str, prefix: str, **more: Any) -> dict[str, Any]:
    """The arguments for a dataclass that a table of a file gives: known, of their kind and in their range, and none
    missing.

    Args:
        where: the table, for messages. prefix: what stands before the name of a key. more: fields that are given
            otherwise, which the table may not name.

    Raises:
        InputError: no table, an unknown key (with the nearest offered), a value that is none, or a key that is missing.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{where} = {quoted(table)}: expected a table of names and values")
    known = {name: k for name, k in field_kinds(kind).items() if name not in more}
    for key in table:
        if key not in known:
            raise unknown(f"key in {where}", str(key), known)
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name in known and f.name not in table and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where} lacks {f.name}: expected {words(known[f.name])}")
    return {key: check(known[key], value, f"{prefix}{key}") for key, value in table.items()} | more


def check_plain(value: Any, name: str) -> None:
    """Refuse what no table of this library's holds, however deep: dates, NaN, whole numbers beyond 64 bits, and texts
    with control characters, in keys as well.

    >>> check_plain({"a": [1, 2**70]}, "")
    Traceback (most recent call last):
    deft.errors.InputError: a[2] = 1180591620717411303424: expected a whole number below 2^63
    """
    waiting = [(name, value)]
    while waiting:
        where, one = waiting.pop()
        if isinstance(one, Mapping):
            for key, inside in one.items():
                if not printable(str(key)):
                    raise InputError(f"the key {quoted(str(key))} in {where or 'it'}: expected a name on one line")
                waiting.append((f"{where}.{key}" if where else str(key), inside))
        elif isinstance(one, list):
            waiting += [(f"{where}[{i + 1}]", inside) for i, inside in enumerate(one)]
        elif isinstance(one, str):
            check(str, one, where)
        elif isinstance(one, bool):
            continue
        elif isinstance(one, int):
            if not ANY_WHOLE.has(one):
                raise InputError(f"{where} = {quoted(one)}: expected a whole number below 2^63")
        elif not isinstance(one, float) or math.isnan(one):
            raise InputError(f"{where} = {quoted(one)}: expected a number, a text, true or false, a list or a table")
