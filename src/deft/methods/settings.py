"""Settings of a method: typed dataclasses that read what commands and files give, and write what cards hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from deft.errors import InputError, unknown
from deft.values import Range, check, check_fields, field_kinds

S = TypeVar("S", bound="Settings")

FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "1.0": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
    "0.0": False,
}


def setting(default: Any, about: str, *, key: str = "", range: Range | None = None) -> Any:
    """A field of `Settings`. about: for people. key: what commands and files call it, where that is not the field's
    name (`lambda` is none in Python). range: of a number; without one any but NaN."""
    return field(default=default, metadata={"about": about, "key": key, "range": range or Range(infinite=True)})


@dataclass(frozen=True)
class Settings(Mapping[str, "float | str"]):
    """What can be set of a method. Subclass it as a frozen dataclass, with a default and a type (bool, int, float, or
    Literal of names) for each field:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Example(Settings):
    ...     strength: float = setting(1.0, "of the pull", key="lambda")
    ...     repeats: int = setting(3, "of a step")
    ...     fresh: bool = setting(True, "new noise at each step")
    >>> Example.read({"lambda": "0.5", "fresh": "false"}, "example")
    Example(strength=0.5, repeats=3, fresh=False)

    As a mapping it is what cards and tables hold, keys and numbers: a flag is 1.0 or 0.0, a number that was given keeps
    its form.

    >>> dict(Example.read({"repeats": 4.0}, "example"))
    {'lambda': 1.0, 'repeats': 4.0, 'fresh': 1.0}
    """

    _given: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        """Refuse a value of another kind, or out of its range."""
        check_fields(self, "setting ")

    @classmethod
    def read(cls: type[S], values: Mapping[str, Any], of: str) -> S:
        """Settings from numbers, truth values and texts, such as a command line's KEY=VALUE or a TOML table has them;
        `of`: whose, for messages.

        Raises:
            InputError: no such setting, or a value of another kind.
        """
        names = cls.names()
        typed, given = {}, {}
        for key, value in values.items():
            if key not in names and key not in names.values():
                if not names:
                    raise InputError(f"{of} has no settings of its own, got {key!r}")
                raise unknown(f"setting of {of}", key, names)
            name = names.get(key, key)
            what = f"setting {key} of {of}"
            typed[name] = check(field_kinds(cls)[name], read_value(value, _types(cls)[name], what), what)
            given[name] = value
        made = cls(**typed)
        object.__setattr__(made, "_given", given)
        return made

    @classmethod
    def names(cls) -> dict[str, str]:
        """Key -> name of the field."""
        return {f.metadata.get("key") or f.name: f.name for f in fields(cls)}

    @classmethod
    def about(cls) -> dict[str, str]:
        """Key -> what it is, for people."""
        return {f.metadata.get("key") or f.name: f.metadata.get("about", "") for f in fields(cls)}

    def __getitem__(self, key: str) -> float | str:
        name = self.names()[key]
        value = getattr(self, name)
        plain: float | str = float(value) if isinstance(value, bool) else value
        given = self._given.get(name)  # 4 and 4.0 are the same setting, but not the same text in a hash
        return given if isinstance(given, int | float) and not isinstance(given, bool) and given == plain else plain

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())


@cache
def _types(cls: type[Settings]) -> dict[str, Any]:
    return get_type_hints(cls)


def read_value(value: Any, kind: Any, what: str) -> Any:
    """A value of a setting's type: bool, int, float, str, or Literal of names.

    >>> read_value("yes", bool, "fresh"), read_value(3.0, int, "repeats"), read_value("inf", float, "data_std")
    (True, 3, inf)
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown(what, str(value), [str(v) for v in get_args(kind)])
        return value
    if kind is str:
        return str(value)
    if kind is bool:
        flag = FLAGS.get(str(value).lower())
        if flag is None:
            raise InputError(f"{what} is yes or no (true or false, 1 or 0), got {value!r}")
        return flag
    whole = kind is int
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if (
        isinstance(value, bool)
        or math.isnan(number)
        or (whole and not (math.isfinite(number) and number == int(number)))
    ):
        raise InputError(f"{what} is a {'whole ' * whole}number, got {value!r}")
    if whole:
        return int(number)
    return value if isinstance(value, int) else number


@dataclass(frozen=True)
class NoSettings(Settings):
    """Of a method that has none."""
