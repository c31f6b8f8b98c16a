"""A fitted h as a graph for other runtimes: a file, compared with PyTorch before it is written, and what it takes.

    export(deft.load("run"), "conditioned.onnx", with_prior=True)

writes conditioned.onnx, whose one output is E[x_0 | x_t, y], and conditioned.json, which says what goes in.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deft.arguments import checks_arguments
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.errors import ContractError, DeftError, InputError, required, unknown
from deft.io.files import json_text, on_disk_together, write_bytes, write_text
from deft.io.folders import own_file
from deft.learned import kind_of
from deft.prior.graphs import INSTALL
from deft.recipe.fitted import FittedH, load
from deft.values import Steps
from deft.version import __version__
from deft.workflow.graphs import PLACES, Export, check_network, conditioned, network

FORMATS = {".onnx": "onnx", ".pt2": "pt2"}
"""Suffix -> format."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a share of the output's size (of 1, where that is smaller)."""
TABLE = 257
"""Rows of the schedule's table, even steps of its time."""
LARGEST = 2**31 - 2**20
"""Bytes of an ONNX graph: what protobuf holds in one message."""
OPSET = 18


@checks_arguments
def export(
    fitted: FittedH | str | Path,
    path: str | Path,
    *,
    with_prior: bool = False,
    format: str | None = None,
    steps: Steps | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a fitted h as a graph of E[x_0 | x_t, y] = x_hat + (sigma^2 / alpha) h, and a JSON file beside it.

    Args:
        fitted: an h, or the folder of one.
        path: NAME.onnx or NAME.pt2; NAME.json is written beside it, and says what goes in and out, on which levels.
        with_prior: the prior is in the graph, with inputs x_t [B, *E], t [B], alpha [B], sigma [B] and y [B, *M];
            without it x_hat [B, *E], the prior's mean at x_t, takes the place of t. A task with a mask or a kernel has
            that, too. All are float32, B is free.
        format: "onnx" or "pt2" (torch.export); default: by the suffix.
        steps: of the levels in the JSON file, on the spacing of the method; default: the method's.
        overwrite: replace files that are there.

    Returns:
        What the JSON file says.

    Raises:
        InputError: an operator, a network or a prior that cannot be written as a graph, which is named; a file that is
            there; no ONNX.
        ContractError: the graph differs from PyTorch by more than `TOLERANCE`: nothing is written.

    >>> import tempfile, deft
    >>> prior = deft.MeanDenoiser(lambda x, alpha, sigma: alpha * x, deft.VPCosine(), (1, 8, 8))
    >>> h = deft.DEFT((1, 8, 8), 1, 8).eval().requires_grad_(False)  # not fitted
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted = deft.FittedH(h, prior, deft.tasks.SuperResolution(factor=2))
    ...     about = deft.export(fitted, f"{folder}/h.pt2", steps=20)
    >>> list(about["inputs"]), about["output"]["name"], len(about["levels"]), about["largest_difference"] < 1e-4
    (['x_t', 'x_hat', 'alpha', 'sigma', 'y'], 'denoised', 21, True)
    """
    file, kind = _target(path, format)
    found = fitted if isinstance(fitted, FittedH) else load(fitted)
    plan = found.plan(steps=steps)
    grid = times(found.prior.schedule, plan.steps, plan.spacing)
    made = conditioned(found, with_prior)
    about = {
        "task": found.task.config(),
        "schedule": _schedule(found.prior.schedule),
        "levels": [level._asdict() for level in grid],
        "spacing": plan.spacing,
        "prior": {"name": found.prior.loaded_as, "sha256": found.prior.fingerprint(), "in_the_graph": with_prior},
        "h": {"class": kind_of(found.h), "sha256": _hash(found.h.state_dict())},
    }
    return _write(made, file, kind, about, overwrite)


@checks_arguments
def export_prior(
    prior: Denoiser, path: str | Path, *, format: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write the network of a prior as a graph, with its convention in the JSON file beside it: `--prior` takes it.

    Raises:
        InputError: a prior without a network, or one that cannot be written as a graph; a convention that has no name.
    """
    file, kind = _target(path, format)
    check_network(prior, (NetworkDenoiser,), "give the prior that it was made of")
    assert isinstance(prior, NetworkDenoiser)
    if not isinstance(prior.time, str):
        raise InputError("the time of this prior is a function, and a file can say a name alone: see docs/priors.md")
    convention = prior.convention() | {
        "event_shape": list(prior.event_shape),
        "schedule": _config(prior.inner_schedule),
    }
    about = {"convention": convention, "prior": {"name": prior.loaded_as, "sha256": prior.fingerprint()}}
    return _write(network(prior), file, kind, about, overwrite)


def _target(path: str | Path, format: str | None) -> tuple[Path, str]:
    """(the file, its format)."""
    file = Path(path)
    if format is not None and format not in FORMATS.values():
        raise unknown("format", format, FORMATS.values())
    kind = format or FORMATS.get(file.suffix.lower())
    if file.suffix.lower() not in FORMATS or FORMATS[file.suffix.lower()] != kind:
        raise InputError(f"a graph is written to NAME.onnx or NAME.pt2 (format {kind or 'onnx'}), got {file}")
    return file, str(kind)


def _write(made: Export, file: Path, kind: str, about: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """Make the graph, compare it, and write both files."""
    side = file.with_suffix(".json")
    with own_file(file, "export", overwrite=overwrite):
        if side.exists() and not overwrite:
            raise InputError(f"{side} is there already: give another --out, or --overwrite")
        data = build(made, kind)
        far = compare(made, data, kind)
        first = made.cases[0]
        whole = {
            "format": 1,
            "deft": __version__,
            "graph": file.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "inputs": {k: _tensor(first.inputs[k], text) for k, text in made.inputs.items()},
            "output": {"name": made.output, **_tensor(first.want, made.about)},
            **about,
            "largest_difference": far,
            "compared_at": {"rows": sorted({len(c.want) for c in made.cases}), "times": list(PLACES)},
        }
        with on_disk_together():
            write_bytes(file, data)
            write_text(side, json_text(whole, indent=1) + "\n")
    return whole


def _tensor(value: Tensor, about: str) -> dict[str, Any]:
    return {"shape": ["batch", *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch."), "about": about}


def _config(schedule: Schedule) -> dict[str, Any]:
    return {"name": schedule.name, **schedule.config()}


def _schedule(schedule: Schedule) -> dict[str, Any]:
    """A schedule by name, and as a table."""
    t = torch.linspace(schedule.t_min, schedule.t_max, TABLE, dtype=torch.float64)
    rows = {"t": t, "alpha": schedule.log_alpha(t).exp(), "sigma": schedule.log_sigma(t).exp()}
    return {**_config(schedule), "table": {k: v.tolist() for k, v in rows.items()}}


def _hash(state: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# The graph.


def build(made: Export, kind: str) -> bytes:
    """The file of a graph.

    Raises:
        InputError: a part of it cannot be written; the message names the part.
    """
    if kind == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            required(module, INSTALL, "a graph of ONNX")
    first = tuple(made.cases[0].inputs.values())
    try:
        return _traced(made.module, first, kind, list(made.inputs), made.output)
    except DeftError:
        raise
    except Exception as error:  # whatever the tracers raise of code that they cannot follow
        name, reason = "this h", error
        for words, part, inputs in made.blame:
            try:
                _traced(part, inputs, kind)
            except Exception as other:
                name, reason = words, other
                break
        raise InputError(
            f"{name} cannot be written as a graph of {kind} ({_reason(reason)}): a loop that ends when it has"
            " converged, say; use deft for this task, or another --format (docs/export.md)"
        ) from error


def _reason(error: BaseException) -> str:
    """The last cause of an error, in few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[0].split())[:150]


def _traced(
    module: nn.Module, inputs: tuple[Tensor, ...], kind: str, names: list[str] | None = None, output: str | None = None
) -> bytes:
    batch = torch.export.Dim("batch")
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            module.eval(), inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs)), strict=False
        )
        if kind == "pt2":
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            return buffer.getvalue()
        made = torch.onnx.export(
            program, dynamo=True, input_names=names, output_names=output and [output], opset_version=OPSET,
            verbose=False, external_data=False,
        )  # fmt: skip
        assert made is not None
        model = made.model_proto
    if model.ByteSize() > LARGEST:
        raise InputError(
            f"this graph has {model.ByteSize():,} bytes, and ONNX holds {LARGEST:,} in one file: export it as .pt2, or"
            " h alone, without --with-prior"
        )
    return bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """What the tracers say of their own progress is not shown."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def compare(made: Export, data: bytes, kind: str) -> float:
    """The largest difference between the graph and PyTorch over all cases, as a share of the output's size.

    Raises:
        ContractError: it is above `TOLERANCE`, or the graph does not run on some number of rows.
    """
    run = _runner(made, data, kind)
    worst = 0.0
    for case in made.cases:
        rows = len(case.want)
        try:
            got = run(case.inputs)
        except Exception as error:
            raise ContractError(
                f"the graph does not run on {rows} rows ({_reason(error)}): it is not written"
            ) from error
        far = float((got.to(case.want) - case.want).abs().max()) / max(1.0, float(case.want.abs().max()))
        if not far <= TOLERANCE:
            raise ContractError(
                f"the graph differs from PyTorch by {far:.2g} on {rows} rows at t = {case.level.t:.3g}, and at most"
                f" {TOLERANCE:g} is let pass: not written"
            )
        worst = max(worst, far)
    return worst


def _runner(made: Export, data: bytes, kind: str) -> Any:
    """The graph as a function of its inputs by name."""
    if kind == "pt2":
        with _quiet():
            net = torch.export.load(io.BytesIO(data)).module()

        def with_torch(inputs: Mapping[str, Tensor]) -> Tensor:
            with torch.no_grad():
                out: Tensor = net(*inputs.values())
            return out

        return with_torch
    runtime = required("onnxruntime", INSTALL, "a graph of ONNX")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    taken = {i.name for i in session.get_inputs()}

    def with_onnx(inputs: Mapping[str, Tensor]) -> Tensor:
        feeds = {k: v.cpu().numpy() for k, v in inputs.items() if k in taken}
        return torch.from_numpy(session.run([made.output], feeds)[0])

    return with_onnx
