"""Files of draws: one safetensors file, whose card says what they are of."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from deft.errors import CheckpointError, ContractError, unknown
from deft.io.files import load_weights, save_weights
from deft.io.reading import parsing
from deft.kinds.draws import Diagnostics, Draws
from deft.kinds.intervals import IntervalFactors
from deft.samplers.diagnostics import ChainDiagnostics, ParticleDiagnostics, PathDiagnostics

NAME = "draws.safetensors"
"""In a folder."""
FORMAT = 1
DIAGNOSTICS: dict[str, type[Diagnostics]] = {
    k.__name__: k for k in (ParticleDiagnostics, ChainDiagnostics, PathDiagnostics)
}
"""As cards name them. A package with diagnostics of its own adds them here."""


def save_draws(path: str | Path, draws: Draws) -> Path:
    """Write draws to a file (named .safetensors) or into a folder, atomically; returns the file."""
    file = _file(path)
    tensors: dict[str, Tensor] = {"x": draws.x}
    for name in ("log_weight", "log_evidence"):
        if getattr(draws, name) is not None:
            tensors[name] = getattr(draws, name)
    card: dict[str, Any] = {
        "kind": "draws",
        "format": FORMAT,
        "measurements": len(draws),
        "samples": draws.n,
        "data_shape": list(draws.x.shape[2:]),
    }
    if draws.domain:
        card["domain"] = draws.domain
    if draws.factors is not None:
        card["interval_factors"] = draws.factors.config()
    if draws.diagnostics is not None:
        card["diagnostics"] = type(draws.diagnostics).__name__
        tensors |= {f"diagnostics.{f.name}": getattr(draws.diagnostics, f.name) for f in fields(draws.diagnostics)}
    save_weights(file, tensors, card)
    return file


def load_draws(path: str | Path) -> Draws:
    """Draws from a file of `save_draws`, or from its folder.

    Raises:
        CheckpointError: no such file, a damaged one, one of something else, or of a later version.
    """
    file = _file(path)
    tensors, card = load_weights(file)
    if card.get("kind") != "draws" or "x" not in tensors:
        raise CheckpointError(f"{file} holds {card.get('kind', 'something else')}, not draws (Draws.save writes them)")
    diagnostics = None
    if name := card.get("diagnostics"):
        if name not in DIAGNOSTICS:
            raise unknown(f"kind of diagnostics in {file}", name, DIAGNOSTICS)
        kind = DIAGNOSTICS[name]
        with parsing(file, "draws"):
            diagnostics = kind(**{f.name: tensors[f"diagnostics.{f.name}"] for f in fields(kind)})
    factors = card.get("interval_factors")
    for key, found in (("measurements", tensors["x"].shape[:1]), ("samples", tensors["x"].shape[1:2])):
        if key in card and [card[key]] != list(found):
            raise CheckpointError(f"{file} is damaged: {card[key]!r:.40} {key} in its card, {list(found)} in the file")
    try:
        return Draws(
            tensors["x"],
            tensors.get("log_weight"),
            tensors.get("log_evidence"),
            diagnostics,
            card.get("domain") or "",
            None if factors is None else IntervalFactors.from_config(factors),
        )
    except ContractError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / NAME
