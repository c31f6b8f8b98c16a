"""Code that a card names: "package.module:Class". Naming it is free; importing it runs it, so that loading asks for
trust."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deft.errors as deft_errors
from deft.errors import CheckpointError, DeftError, InputError


def name_of(thing: Any) -> str:
    """What a class or a function is imported as, whether that is possible or not.

    >>> name_of(Path)
    'pathlib:Path'
    """
    return f"{getattr(thing, '__module__', '?')}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def check_name(name: str) -> None:
    """Refuse a name that cannot be imported by another program: a lambda, what is defined inside a function or in the
    script that runs.

    Raises:
        InputError: what to do about it.
    """
    module, _, path = name.partition(":")
    what = (
        "a lambda"
        if "<lambda>" in path
        else (
            "defined inside a function"
            if "<locals>" in path
            else "defined in the script or notebook that runs (__main__)"
            if module == "__main__"
            else ""
        )
    )
    if what:
        raise InputError(
            f"{path.rpartition('.')[2]} is {what}, which no file can name: put it into a module of its own (a .py file)"
            " and import it from there"
        )
    find_name(name)


def find_name(name: str) -> Any:
    """The class or function that "package.module:name" stands for; importing the module runs it.

    Raises:
        InputError: there is no such module, or nothing of that name in it.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{name} cannot be imported ({error}): install its package, or put its folder on PYTHONPATH"
        ) from error
    except Exception as error:
        raise cannot_run(module, error) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise InputError(f"{module} has no class or function {path!r}: use the version of it that wrote the file")
    return found


def find_trusted(name: str, what: str, where: object, trust: bool) -> Any:
    """`find_name` for a name that a card gives, if the caller trusts it. what: "the task", for messages; where: the
    file.

    Raises:
        CheckpointError: it is not trusted, or cannot be imported.
    """
    if not trust:
        raise CheckpointError(
            f"{where} names code of its own, {what} {name}, which runs when it is loaded: if you trust it, say so with"
            " --trust-code (load_h(..., trust_code=True))"
        )
    try:
        return find_name(name)
    except InputError as error:
        raise CheckpointError(f"{where} names {what} {name}: {error}") from error


def find_function(name: str, gives: str) -> Callable[..., Any]:
    """What 'package.module:function' or 'file.py:function' names; importing it runs the code. gives: what it should be,
    for messages."""
    module, _, function = name.rpartition(":")
    try:
        if module.endswith(".py"):
            path = Path(module).resolve()
            if not path.is_file():
                raise InputError(f"no such file: {module}")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, loaded)
            spec.loader.exec_module(loaded)
        else:
            loaded = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{name}: cannot import {module} ({error})") from error
    except Exception as error:
        if isinstance(error, DeftError):
            raise
        raise cannot_run(module, error) from error
    found = getattr(loaded, function, None)
    if not callable(found):
        raise InputError(f"{module} has no function {function!r}: give FILE.py:FUNCTION, {gives}")
    return found


def cannot_run(name: str, error: Exception) -> InputError:
    """What is said of code of the user's that raises, and where in it; its traceback would be ours, in the main."""
    ours = str(Path(deft_errors.__file__).parent)
    theirs = [
        f for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith((ours, "<frozen ")) and "importlib" not in Path(f.filename).parts
    ]  # fmt: skip
    lines = [f.lineno for f in theirs if f.filename == theirs[0].filename]
    where = f" in line {lines[-1]}" if lines else ""
    said = " ".join(str(error).split())[:300]
    return InputError(f"{name} cannot be run: {type(error).__name__}{where}{': ' if said else ''}{said}")
