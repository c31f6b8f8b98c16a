"""Exported graphs as networks: net(x_t [B, *E], time [B]), whatever numbers, rows and times the graph itself takes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deft.errors import CheckpointError, ContractError, InputError, required
from deft.io.graph_files import ONNX, SCRIPT, damaged, load_program, load_script, onnx_parts
from deft.io.torch_files import BY_FUNCTION

INSTALL = "'deft-diffusion[onnx]'"
TYPES = {
    "float": torch.float32, "float16": torch.float16, "double": torch.float64, "int64": torch.int64,
    "int32": torch.int32,
}  # fmt: skip
"""What ONNX calls the numbers that a graph may take, and returns."""
TIMES = ("t", "time", "timestep", "timesteps", "sigma", "sigmas", "noise_level", "noise", "log_snr")
"""Names of inputs that are a time, where shapes do not tell."""


@dataclass(frozen=True)
class Signature:
    """What a graph takes.

    shape: of x_t, with the rows first; None where any size will do (all of it, where the file does not say).
    x_type, time_type: of numbers; None for x: the network's own.
    time_axes: of the time. one_time: it is one for all rows. least, most: rows at once; 0 for as many as there are.
    names: of x_t, of the time, and of what is returned, where they have names.
    """

    shape: tuple[int | None, ...] | None = None
    x_type: torch.dtype | None = None
    time_type: torch.dtype = torch.float32
    time_axes: int = 1
    one_time: bool = False
    least: int = 1
    most: int = 0
    names: tuple[str, str, str] = ("", "", "")


Ask = Callable[[nn.Module, Tensor, Tensor], Any]
"""How a module is called with x_t and a time."""


class Graph(nn.Module, ABC):
    """net(x_t [B, *E], time [B]) of a graph that may take a fixed number of rows, one time for all rows, half
    precision, or whole numbers for a time.

    Rows are asked for in pieces of what the graph takes, the last one filled up with copies of its last row. Where the
    time is one number, rows of one time are asked for together.
    """

    differentiable = True

    def __init__(self, path: Path, signature: Signature, sha256: str, parameters: int):
        super().__init__()
        self.path, self.signature, self.sha256, self.parameter_total = path, signature, sha256, parameters

    @abstractmethod
    def call(self, x: Tensor, time: Tensor) -> Tensor:
        """The graph itself, on what it takes."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        s = self.signature
        given = x.to(s.x_type) if s.x_type is not None else x
        time = (time if s.time_type.is_floating_point else time.round()).to(s.time_type)
        if not s.one_time or len(x) < 2:
            return self._pieces(given, time).to(x.dtype)
        levels, which = time.unique(return_inverse=True)
        rows = [(which == i).nonzero().flatten() for i in range(len(levels))]
        parts = [self._pieces(given[r], time[r]) for r in rows]
        return torch.cat(parts)[torch.cat(rows).argsort()].to(x.dtype)

    def _pieces(self, x: Tensor, time: Tensor) -> Tensor:
        n = self.signature.most or max(1, len(x))
        out = [self._filled(x[i : i + n], time[i : i + n]) for i in range(0, max(1, len(x)), n)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _filled(self, x: Tensor, time: Tensor) -> Tensor:
        s, rows = self.signature, len(x)
        if 0 < rows < s.least:
            missing = s.least - rows
            x = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
            time = torch.cat([time, time[-1:].expand(missing)])
        time = time[:1] if s.one_time else time
        out = self.call(x, time.reshape(-1, *[1] * (s.time_axes - 1)) if s.time_axes else time[0])
        if not isinstance(out, Tensor) or out.ndim != x.ndim or len(out) != len(x):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ContractError(f"{self.path} returns {got} for x_t of shape {tuple(x.shape)}")
        return out[:rows]

    def extra_repr(self) -> str:
        return f"{str(self.path)!r}"


class OnnxGraph(Graph):
    """A graph that ONNX Runtime runs. It has no derivative, and holds no weights as tensors: x_t goes to the session
    and what it returns comes back, through the memory of the host."""

    differentiable = False

    def __init__(self, path: Path, signature: Signature, sha256: str, parameters: int, providers: tuple[Any, ...]):
        super().__init__(path, signature, sha256, parameters)
        self.providers, self._session = providers, None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}  # a session stays in its process

    @property
    def session(self) -> Any:
        """The session; a copy in another process opens the file again, which must be the same."""
        if self._session is None:
            if digest(_parts(self.path)[0]) != self.sha256:
                raise CheckpointError(f"{self.path} is another file than the one that this prior was loaded from")
            self._session = open_session(self.path, self.providers)
        return self._session

    @torch.no_grad()
    def call(self, x: Tensor, time: Tensor) -> Tensor:
        x_name, t_name, out_name = self.signature.names
        feeds = {x_name: x.detach().cpu().contiguous().numpy(), t_name: time.detach().cpu().contiguous().numpy()}
        try:
            out = self.session.run([out_name], feeds)[0]
        except Exception as error:  # ONNX Runtime's own kinds of errors
            said = " ".join(str(error).split())
            raise ContractError(f"{self.path} fails on x_t of shape {tuple(x.shape)} ({said[:200]})") from error
        return torch.from_numpy(out).to(x.device)


class TorchGraph(Graph):
    """A graph that PyTorch runs: of TorchScript, or the module of an `ExportedProgram`."""

    def __init__(
        self, path: Path, signature: Signature, sha256: str, kind: str, net: nn.Module, ask: Ask | None = None
    ):
        super().__init__(path, signature, sha256, sum(p.numel() for p in net.parameters()))
        self.kind, self.net, self.ask = kind, net, ask

    def call(self, x: Tensor, time: Tensor) -> Tensor:
        out = self.net(x, time) if self.ask is None else self.ask(self.net, x, time)
        if isinstance(out, dict):
            out = list(out.values())
        only = out[0] if isinstance(out, (list, tuple)) and len(out) == 1 else out
        if not isinstance(only, Tensor):
            raise ContractError(f"{self.path} returns {type(out).__name__}, expected one tensor of the shape of x_t")
        return only

    def __reduce__(self) -> tuple[Any, ...]:
        where = next((p.device for p in self.net.parameters()), torch.device("cpu"))
        return _again, (self.kind, self.path, self.sha256, self.signature, where)


def _again(kind: str, path: Path, sha256: str, signature: Signature, where: torch.device) -> TorchGraph:
    """A graph of PyTorch's from its file, as copies and pickles know it."""
    made = open_torch(path, kind, where)
    if made.sha256 != sha256:
        raise CheckpointError(f"{path} is another file than the one that this prior was loaded from")
    made.signature = signature
    made.requires_grad_(False)
    return made.to(where)


def digest(parts: list[Path]) -> str:
    """SHA-256 of files, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        with part.open("rb") as f:
            while block := f.read(2**20):
                found.update(block)
    return found.hexdigest()


# ONNX.


def _parts(path: Path) -> tuple[list[Path], Any]:
    """(the files of a model, the model without the tensors that lie beside it)."""
    onnx = required("onnx", INSTALL, "an ONNX graph")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise damaged(path, ONNX, error) from error
    return onnx_parts(path, model), model


def providers_for(device: torch.device, asked: tuple[str, ...] | None) -> tuple[Any, ...]:
    """What runs a session: as asked, else CUDA on a GPU where ONNX Runtime has it, else the CPU."""
    runtime = required("onnxruntime", INSTALL, "an ONNX graph")
    there = list(runtime.get_available_providers())
    for name in asked or ():
        if name not in there:
            raise InputError(f"providers: {name} is not among those of this ONNX Runtime: {', '.join(there)}")
    if asked:
        return tuple((name, {"device_id": device.index or 0}) if name.startswith("CUDA") else name for name in asked)
    if device.type == "cuda" and "CUDAExecutionProvider" in there:
        return (("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider")
    return ("CPUExecutionProvider",)


def open_session(path: Path, providers: tuple[Any, ...]) -> Any:
    """A session of ONNX Runtime, as quiet as it can be, on as many threads as PyTorch takes."""
    runtime = required("onnxruntime", INSTALL, "an ONNX graph")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own kinds of errors
        raise damaged(path, ONNX, _reason(error)) from error


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without the places in its source."""
    said = " ".join(str(error).split())
    for mark in ("Current official support", "failed:", "Exception during"):
        if mark in said:
            said = said[said.index(mark) :]
            break
    return said.removeprefix("failed:").strip() or said


def open_onnx(path: Path, providers: tuple[Any, ...]) -> OnnxGraph:
    """An ONNX graph of two inputs, x_t and a time, and one output."""
    parts, model = _parts(path)
    for entry in model.opset_import:
        newest = required("onnx", INSTALL, "an ONNX graph").defs.onnx_opset_version()
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise CheckpointError(
                f"{path} is of ONNX's operator set {entry.version}, and what is installed reads up to {newest}: export"
                " it with an older opset, or install a newer onnx and onnxruntime"
            )
    session = open_session(path, providers)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    check_count(path, [i.name for i in inputs], [o.name for o in outputs])
    shapes = [_dims(i.shape) for i in inputs]
    which = _state_of([i.name for i in inputs], shapes)
    x, t = inputs[which], inputs[1 - which]
    types = [v.type.removeprefix("tensor(").removesuffix(")") for v in (x, t, outputs[0])]
    for value, kind in zip((x, t, outputs[0]), types, strict=True):
        if kind not in TYPES:
            raise InputError(f"{path}: {value.name} holds {kind}, expected one of {', '.join(TYPES)}; {BY_FUNCTION}")
    if not TYPES[types[0]].is_floating_point:
        raise InputError(f"{path}: x_t ({x.name}) holds {types[0]}, expected floating-point numbers; {BY_FUNCTION}")
    shape, time_shape = shapes[which], shapes[1 - which]
    rows = shape[0] if shape else None
    parameters = sum(_size(v.dims) for v in model.graph.initializer if v.data_type in (1, 10, 11, 16))
    made = OnnxGraph(
        path,
        Signature(
            shape or None, TYPES[types[0]], TYPES[types[1]], len(time_shape), _one_time(shape, time_shape), rows or 1,
            rows or 0, (x.name, t.name, outputs[0].name),
        ),
        digest(parts), parameters, providers,
    )  # fmt: skip
    made._session = session
    return made


def _one_time(shape: tuple[int | None, ...], time_shape: tuple[int | None, ...]) -> bool:
    """Whether the time is one number, or [1], for all rows of x_t."""
    return not time_shape or (time_shape[0] == 1 and bool(shape) and shape[0] != 1)


def _size(dims: Any) -> int:
    n = 1
    for d in dims:
        n *= d
    return n


def _dims(shape: Any) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) and d > 0 else None for d in shape or ())


def _state_of(names: list[str], shapes: list[tuple[int | None, ...]]) -> int:
    """Which of two inputs is x_t: the one of more axes; where both have as many, the one that is not called a time."""
    a, b = (len(s) for s in shapes)
    if a != b and max(a, b) >= 2:
        return 0 if a > b else 1
    return 1 if names[0].lower() in TIMES and names[1].lower() not in TIMES else 0


def check_count(path: Path, inputs: list[str], outputs: list[str]) -> None:
    """Two inputs and one output, or one line."""
    if len(inputs) != 2:
        raise InputError(
            f"{path} takes {len(inputs)} input{'s' * (len(inputs) != 1)} ({', '.join(inputs)[:120]}), expected two, x_t"
            f" and a time: export it with the rest held fixed; or {BY_FUNCTION}"
        )
    if len(outputs) != 1:
        raise InputError(
            f"{path} returns {len(outputs)} arrays ({', '.join(outputs)[:120]}), expected one, of the shape of x_t:"
            f" export it so; or {BY_FUNCTION}"
        )


# PyTorch.


def open_torch(path: Path, kind: str, device: torch.device) -> TorchGraph:
    """A graph of TorchScript or of torch.export."""
    sha256 = digest([path])
    if kind == SCRIPT:
        return TorchGraph(path, Signature(), sha256, kind, load_script(path))
    program = _on(load_program(path), device)
    signature, ask = _signature_of(path, program)
    return TorchGraph(path, signature, sha256, kind, program.module(check_guards=False), ask)


def _on(program: Any, device: torch.device) -> Any:
    """The program for a device: tensors that it makes are made there, too, wherever it was exported."""
    tensors = [*program.state_dict.values(), *(v for v in program.constants.values() if isinstance(v, Tensor))]
    if {v.device.type for v in tensors} | {"cpu"} == {device.type}:
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


def _signature_of(path: Path, program: Any) -> tuple[Signature, Ask]:
    """What an `ExportedProgram` takes, and how it is called where an argument has to be named."""
    inputs, outputs = list(program.graph_signature.user_inputs), list(program.graph_signature.user_outputs)
    check_count(path, [str(i) for i in inputs], [str(o) for o in outputs])
    nodes = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    values = [nodes.get(i) for i in inputs]
    if not all(isinstance(v, Tensor) for v in values):
        raise InputError(f"{path} takes a number that was fixed when it was exported: give both inputs as tensors then")
    shapes = [tuple(d if isinstance(d, int) else None for d in v.shape) for v in values]  # type: ignore[union-attr]
    which = _state_of([str(i) for i in inputs], shapes)
    x, t = values[which], values[1 - which]
    assert isinstance(x, Tensor) and isinstance(t, Tensor)
    shape, time_shape = shapes[which], shapes[1 - which]
    least, most = shape[0] or 1, shape[0] or 0
    if shape and shape[0] is None:
        bounds = program.range_constraints.get(x.shape[0].node.expr)  # type: ignore[attr-defined]
        if bounds is not None:
            least = max(1, int(bounds.lower)) if bounds.lower < 10**9 else 1
            most = int(bounds.upper) if bounds.upper < 10**9 else 0
    found = Signature(shape, x.dtype, t.dtype, len(time_shape), _one_time(shape, time_shape), least, most)
    spec = program.call_spec.in_spec
    args, named = spec.children() if callable(getattr(spec, "children", None)) else spec.children_specs
    names = list(named.context or ())
    count = args.num_leaves

    def call(net: nn.Module, x: Tensor, time: Tensor) -> Any:
        values = [x, time] if which == 0 else [time, x]
        return net(*values[:count], **dict(zip(names, values[count:], strict=True)))

    return found, call
