"""Exported graphs (ONNX, TorchScript, torch.export) as files: which kind one is, and what of it is refused.

PyTorch's two kinds are programs. What loads them unpickles, evaluates texts and looks functions up by name, so their
parts are looked at first: operators of PyTorch on tensors pass, and anything else is refused before it runs. This is a
list of what is known to run code, not a sandbox: docs/safety.md.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deft.errors import CheckpointError
from deft.runtime.untrusted import check_tensors, check_zip
from deft.values import quoted

ONNX, SCRIPT, PROGRAM = "ONNX", "TorchScript", "torch.export"

FILES = {"aten::save", "aten::from_file"}
"""Operators of PyTorch that write or read files."""
ESCAPES = ("prim::rpc", "prim::PythonOp", "prim::Call", "prim::Load", "prim::Store")
"""Beginnings of the names of nodes that reach code outside the graph, or call what cannot be looked into."""

_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|prim)\.(?!from_file|save)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|torch\.sym_(float|int|not|max|min|ite|sqrt|sum)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
_EXPRESSION = re.compile(r"[\w\s+\-*/(),.<>=!&|~]*")
_DOUBTFUL = re.compile(r"__|[A-Za-z_)]\s*\.|\d{16}|\*\*\s*(\D|\d\d)")
"""Attributes, and powers whose value would not end."""
_FUNCTIONS = frozenset({
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
    "PowByNatural", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "ToFloat", "Identity",
    "Max", "Min", "Eq", "Ne", "Integer", "Float", "Rational", "True", "False", "evaluate",
})  # fmt: skip
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict"})
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|models/model\.json|extra/.*"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|weight_\d+|tensor_\d+|model\.pt)"
    r"|data/sample_inputs/model\.pt"
)


def graph_kind(path: Path) -> str | None:
    """`ONNX`, `SCRIPT` or `PROGRAM` for a file that is such a graph, None for others (also for damaged ones)."""
    if not path.is_file():
        return None
    if path.suffix.lower() == ".onnx":
        return ONNX
    try:
        with path.open("rb") as f:
            head = f.read(2)
        names = [m.filename for m in check_zip(path)] if head == b"PK" else []
    except Exception:  # damaged, or larger than it may be: whoever reads it says so
        names = []
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return SCRIPT
    if path.suffix == ".pt2" or "serialized_exported_program.json" in inside | set(names):
        return PROGRAM
    return PROGRAM if {"archive_format", "models/model.json"} & inside else None


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} {why}, and loading it would run code from the file: export the network again, or give FILE.py:FUNCTION"
    )


def damaged(path: Path, kind: str, reason: object) -> CheckpointError:
    """What is said of a graph that cannot be read."""
    said = " ".join(str(reason).split())[:200] or type(reason).__name__
    return CheckpointError(f"{path} is truncated or no graph of {kind} that is read here ({said}): export it again")


# TorchScript.


def load_script(path: Path) -> Any:
    """The module of a TorchScript file, on the CPU.

    Its pickles are read by PyTorch's own reader, which makes tensors and TorchScript's own classes alone. A class with
    a `__setstate__` (which runs when it is loaded) is refused before, operators on files or on other programs after
    loading, when nothing of the graph has run yet.

    Raises:
        CheckpointError: it is damaged, or holds more than operators on tensors.
    """
    try:
        members = check_zip(path)
        with zipfile.ZipFile(path) as archive:
            code = b"\n".join(archive.read(m) for m in members if "/code/" in m.filename and m.filename.endswith(".py"))
    except Exception as error:
        raise damaged(path, SCRIPT, error) from error
    for word in (b"__setstate__", b"__forward_", b"torch.classes"):
        if word in code:
            raise _refused(path, f"has a class with {word.decode()}")
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # what a broken archive raises is anything
        if "Unknown type name" in str(error) or "Unsupported" in str(error) or "unpickle" in str(error).lower():
            name = re.search(r"type name '([^']*)'", str(error))
            raise _refused(path, f"names {name[1] if name else 'what is no tensor'}") from error
        raise damaged(path, SCRIPT, error) from error
    for kind in _nodes_of(module):
        if kind in FILES or not kind.startswith(("aten::", "prim::")) or kind.startswith(ESCAPES):
            raise _refused(path, f"uses {kind}, which is no operator on tensors")
    return module


def _nodes_of(module: Any) -> Iterator[str]:
    """The kinds of all nodes that calling the module may reach."""
    if not hasattr(module, "inlined_graph"):
        raise CheckpointError("this TorchScript file has no forward(x, time): give FILE.py:FUNCTION")
    yield from _kinds(module.inlined_graph)


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
        for name in node.attributeNames():
            if node.kindOf(name) == "g":
                yield from _kinds(node.g(name))
            elif node.kindOf(name) == "gs":
                for graph in node.gs(name):
                    yield from _kinds(graph)


# torch.export.


def load_program(path: Path) -> Any:
    """The `ExportedProgram` of a file of torch.export.

    Every text of it that PyTorch would evaluate, look up or unpickle is looked at first: names of operators, sizes as
    expressions, structures of arguments, pickles (tensors and plain values alone). Its guards, which are code, are
    dropped.

    Raises:
        CheckpointError: it is damaged, of an old version, or holds more than operators on tensors.
    """
    try:
        members = {m.filename.partition("/")[2]: m for m in check_zip(path, stored=True)}
    except Exception as error:
        raise damaged(path, PROGRAM, error) from error
    if "models/model.json" not in members:
        raise CheckpointError(
            f"{path} is a graph of torch.export in a form that is not read here (it has no models/model.json): save it"
            " again with torch.export.save of PyTorch 2.8 or later, or give FILE.py:FUNCTION"
        )
    with zipfile.ZipFile(path) as archive:
        for name, member in members.items():
            if not _MEMBERS.fullmatch(name):
                raise _refused(path, f"holds {name}")
            if name.endswith(".json"):
                try:
                    table = json.loads(archive.read(member))
                except (ValueError, RecursionError) as error:
                    raise damaged(path, PROGRAM, error) from error
                _check_program(path, table)
            if name.endswith(".pt") and member.file_size:
                _check_pickle(path, name, archive.read(member))
    try:
        program = torch.export.load(str(path) if path.suffix == ".pt2" else io.BytesIO(path.read_bytes()))
    except Exception as error:  # what a broken archive raises is anything
        raise damaged(path, PROGRAM, error) from error
    program._guards_code = []
    return program


def _check_pickle(path: Path, name: str, data: bytes) -> None:
    try:
        check_tensors(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:
        raise _refused(path, f"holds a pickle ({name}) with more than tensors in it") from error


def _check_program(path: Path, value: Any) -> None:
    """Look at everything in a table of a program that PyTorch takes for more than data."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        if not isinstance(one, dict):
            continue
        for key, part in one.items():
            if key == "metadata" and isinstance(part, dict):
                if part.keys() & {"source_fn_stack"} and not _plain_sources(part["source_fn_stack"]):
                    raise _refused(path, "names a function that is no operator of PyTorch's in its metadata")
                continue
            if key in ("target", "as_operator") and isinstance(part, str) and not _OPERATORS.fullmatch(part):
                if "inputs" in one or key == "as_operator":
                    raise _refused(path, f"uses {part[:80]}, which is no operator on tensors")
            elif key == "expr_str" and not _plain_expression(part):
                raise _refused(path, f"has a size {str(part)[:80]!r}, which is no sum of sizes")
            elif key in ("in_spec", "out_spec") and not _plain_tree(part):
                raise _refused(path, "takes or returns more than tensors in tuples, lists and tables")
            elif key == "use_pickle" and part:
                raise _refused(path, "keeps a tensor as a pickle")
            elif key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(part)):
                raise _refused(path, f"keeps {str(part)[:80]}, which is no tensor")
            elif key == "as_custom_obj" and part is not None:
                raise _refused(path, "uses an object that is no tensor")
            stack.append(part)


def _plain_sources(text: object) -> bool:
    """Whether what a node was made from names functions of PyTorch alone, which are looked up and not called."""
    return isinstance(text, str) and len(text) < 10_000 and re.fullmatch(r"[\w.,;:<> -]*", text) is not None


def _plain_expression(text: object) -> bool:
    """Whether a size is made of symbols, whole numbers and known functions: sympy evaluates it as Python."""
    if not isinstance(text, str) or len(text) > 2000:
        return False
    left = _SYMBOL.sub("s0", text)
    if not _EXPRESSION.fullmatch(left) or _DOUBTFUL.search(left):
        return False
    names = re.findall(r"[A-Za-z_]\w*", left)
    return all(n in _FUNCTIONS or re.fullmatch(r"(s|u|zuf|z)\d+", n) for n in names)


def _plain_tree(text: object) -> bool:
    """Whether a structure of arguments, a JSON text, holds tuples, lists and tables alone."""
    if text in (None, ""):
        return True
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return False
    stack = [found]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            if one.get("type") not in (None, *_TREES) or "__enum__" in str(one.get("context")):
                return False
            stack += one.get("children_spec") or []
        elif not isinstance(one, int):
            return False
    return True


# ONNX.


def onnx_parts(path: Path, model: Any) -> list[Path]:
    """The file of an ONNX model and those with its tensors that lie beside it.

    Raises:
        CheckpointError: it names a file outside its folder, or one that is not there.
    """
    home, names = path.parent.resolve(), set()
    for tensor in _tensors(model.graph):
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    for function in model.functions:
        for node in function.node:
            names |= {e.value for t in _of_node(node) for e in t.external_data if e.key == "location"}
    found = [path]
    for name in sorted(names):
        part, shown = path.parent / name, quoted(name)
        try:
            inside = not Path(name).is_absolute() and part.resolve().is_relative_to(home)
            there = inside and part.is_file()
        except (OSError, ValueError):  # a name that no file can have
            inside, there = True, False
        if not inside:
            raise CheckpointError(f"{path} names a file outside its folder ({shown}): export it again")
        if not there:
            raise CheckpointError(f"{path} keeps its weights in {shown}, which is not beside it: copy that file, too")
        found.append(part)
    return found


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)
