"""Priors that are exported graphs: ONNX, TorchScript, torch.export.

A graph says what it takes; it does not say what it returns. That is given as for any network (`CONVENTIONS`, or output,
schedule and time), or stands in a JSON file beside it, NAME.json or NAME.SUFFIX.json, under `convention`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, freeze
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, ContractError, InputError
from deft.io.graph_files import ONNX, graph_kind
from deft.io.reading import read_json
from deft.io.torch_files import BY_FUNCTION
from deft.prior.graphs import Graph, OnnxGraph, open_onnx, open_torch, providers_for
from deft.prior.options import CONVENTION_KINDS, EXPORTED_KINDS, typed
from deft.runtime.messages import log
from deft.schedule import make_schedule
from deft.tensors import as_device

CLOSE = 0.02
"""How far one row's output may be from the same row's in a batch, as a share of its size: more is a graph in which the
number of rows was fixed when it was traced."""


class ExportedPrior(NetworkDenoiser):
    """A graph with a stated convention. Its fingerprint is of the file and of the convention; its size is that of the
    weights in the file."""

    net: Graph

    def __init__(self, net: Graph, **convention: Any):
        super().__init__(net, **convention)
        self.differentiable = net.differentiable

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.describe(), self.net.sha256], sort_keys=True).encode()).hexdigest()

    def parameter_count(self) -> int:
        return self.net.parameter_total

    def reread(self, **changes: Any) -> ExportedPrior:
        out = ExportedPrior(self.net, event_shape=self.event_shape, **(self.convention() | changes))
        out.card = dict(self.card)
        return out.train(self.training)


def is_exported(name: str) -> bool:
    """Whether a name is a file that is a graph."""
    return graph_kind(Path(name)) is not None


def load_exported(
    name: str,
    device: torch.device | str = "cpu",
    *,
    event_shape: tuple[int, ...] | None = None,
    providers: tuple[str, ...] | None = None,
    batch: int | None = None,
    scalar_time: bool | None = None,
    time_dtype: torch.dtype | None = None,
    **convention: Any,
) -> Denoiser:
    """A graph as a prior.

    Args:
        event_shape: *E, where the file leaves it open.
        providers: of ONNX Runtime; default: CUDA on a GPU where there is that provider, else the CPU.
        batch: most rows at once.
        scalar_time: the time is one number for all rows (TorchScript does not say).
        time_dtype: of the time (TorchScript does not say).
        convention: output, schedule, time, ... as `NetworkDenoiser` takes them.

    Raises:
        CheckpointError: the file is damaged, of a newer format, or holds code.
        InputError: another number of inputs, a shape that does not fit, no convention, no ONNX Runtime.
    """
    path, where = Path(name), as_device(device)
    kind = graph_kind(path)
    said = _beside(path)
    convention = {**said, **convention}
    shape = event_shape or said.get("event_shape")
    convention.pop("event_shape", None)
    if not {"output", "schedule"} <= convention.keys():
        raise InputError(
            f"{path} is a graph of {kind}, and does not say what it returns: give --prior-option convention=ddpm, or"
            " another of docs/priors.md (`deft prior inspect FILE --images DIR` then tests it), or output= and"
            f" schedule=; or {BY_FUNCTION}"
        )
    if kind != ONNX and providers is not None:
        raise InputError(f"providers are for ONNX Runtime, and {path} is a graph of {kind}: leave the option out")
    graph: Graph = (
        open_onnx(path, providers_for(where, providers)) if kind == ONNX else open_torch(path, str(kind), where)
    )
    _adjust(graph, batch, scalar_time, time_dtype)
    prior = ExportedPrior(graph, event_shape=_event_shape(graph, shape), **convention)
    freeze(prior)
    prior.card = {"family": "exported", "name": path.stem, "format": kind, **_runs(graph, where)}
    if not prior.differentiable:
        prior.card["derivative"] = "none"
    prior = prior.to(where)
    _try(prior, free=batch is None and not graph.signature.most)
    return prior


def _beside(path: Path) -> dict[str, Any]:
    """The convention in the JSON file beside a graph; nothing where there is none."""
    for file in (path.with_name(path.name + ".json"), path.with_suffix(".json")):
        if not file.is_file():
            continue
        found = read_json(file, "the description of a graph")
        said = found.get("convention") if isinstance(found, dict) else None
        if said is None:
            return {}
        if not isinstance(said, dict):
            raise CheckpointError(f"{file}: convention is {type(said).__name__}, expected a table of options")
        kinds = {**CONVENTION_KINDS, "event_shape": EXPORTED_KINDS["event_shape"]}
        for key in said:
            if key not in kinds:
                raise CheckpointError(f"{file}: convention has {key[:80]!r}, expected some of {', '.join(kinds)}")
        schedule = said.get("schedule")
        try:
            if isinstance(schedule, dict):
                said = said | {"schedule": make_schedule(schedule)}
            return typed(kinds, said)
        except Exception as error:  # arguments of any type
            raise CheckpointError(f"{file}: {' '.join(str(error).split())[:200]}") from error
    return {}


def _adjust(graph: Graph, batch: int | None, scalar_time: bool | None, time_dtype: torch.dtype | None) -> None:
    s = graph.signature
    fixed = isinstance(graph, OnnxGraph) or s.shape is not None
    if fixed and (scalar_time is not None or time_dtype is not None):
        raise InputError(f"{graph.path} says what its time is: leave scalar_time and time_dtype out")
    if batch is not None and s.most and s.least == s.most != batch:
        raise InputError(f"{graph.path} takes {s.most} rows at once, whatever batch says: leave batch={batch} out")
    if batch is not None:
        s = replace(s, most=min(batch, s.most or batch), least=min(s.least, batch))
    if scalar_time:
        s = replace(s, time_axes=0, one_time=True)
    graph.signature = replace(s, time_type=time_dtype or s.time_type)


def _event_shape(graph: Graph, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    """*E, of the graph and of what was asked for."""
    own = None if graph.signature.shape is None else graph.signature.shape[1:]
    shown = "nothing" if own is None else f"[B, {', '.join('?' if n is None else str(n) for n in own)}]"
    if asked is None:
        if own is None or None in own:
            raise InputError(
                f"{graph.path} does not say how large its x_t is ({shown}): give --prior-option event_shape=3,64,64"
                f" (channels first); or {BY_FUNCTION}"
            )
        return tuple(n for n in own if n is not None)
    if own is not None and (len(own) != len(asked) or any(n not in (None, m) for n, m in zip(own, asked, strict=True))):
        raise InputError(
            f"event_shape={','.join(map(str, asked))} does not go with x_t of {graph.path}, {shown}: leave it out, or"
            " give the graph's own"
        )
    return tuple(asked)


def _runs(graph: Graph, where: torch.device) -> dict[str, Any]:
    """Where a graph runs, for the card."""
    if not isinstance(graph, OnnxGraph):
        return {}
    names = [p if isinstance(p, str) else p[0] for p in graph.providers]
    if where.type != "cpu" and names == ["CPUExecutionProvider"]:
        log.info(
            f"note: this ONNX Runtime has no provider for {where.type}, so {graph.path.name} runs on the CPU (pip"
            " install onnxruntime-gpu)"
        )
    return {"providers": names}


def _try(prior: ExportedPrior, free: bool) -> None:
    """Run the graph on two rows of different times and on one of them alone.

    free: it may be asked for rows one by one, where it gives them something else together (a number of rows that was
    fixed when it was traced, though the file says it is free).
    """
    one, both = _outputs(prior, slice(1, 2)), None
    try:
        both = _outputs(prior, slice(0, 2))
    except InputError:
        if not free:
            raise
    far = both is None or float((both[1:] - one).abs().max()) > CLOSE * max(1e-6, float(one.abs().max()))
    if far and free:
        prior.net.signature = replace(prior.net.signature, most=1)
        prior.card["batch"] = "1 (its number of rows was fixed when it was traced)"
    elif prior.net.signature.most:
        prior.card["batch"] = prior.net.signature.most


def _outputs(prior: ExportedPrior, rows: slice) -> Tensor:
    like, schedule, name = prior.state_like(), prior.schedule, prior.net.path
    x = torch.randn((2, *prior.event_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    x, t = x.to(like)[rows], schedule.time_of(torch.tensor([0.0, 2.0], dtype=torch.float64))[rows]
    t, alpha, sigma = prior.coefficients(t, x)
    try:
        with torch.no_grad():
            return prior.raw(x, t, alpha, sigma)
    except (torch.OutOfMemoryError, MemoryError, CheckpointError):
        raise
    except ContractError as error:
        twice = f"({len(x)}, {2 * x.shape[1]}, " in str(error)
        hint = (
            "with twice the channels, of which the second half is a variance, give --prior-option learned_variance=true"
            if twice
            else f"another size is given as --prior-option event_shape=C,H,W; or {BY_FUNCTION}"
        )
        raise InputError(f"{name}: one trial pass: {str(error).removeprefix(f'{name} ')}; {hint}") from error
    except Exception as error:  # whatever a graph raises that is called in a way it does not know
        first = " ".join(str(error).split())[-200:] or "no message"
        raise InputError(
            f"{name} fails on x_t of shape {tuple(x.shape)} and a time of shape {tuple(t.shape)}"
            f" ({type(error).__name__}: {first}): give --prior-option event_shape=C,H,W, scalar_time=true or"
            f" time_dtype=int64 for a graph that takes these; or {BY_FUNCTION}"
        ) from error
