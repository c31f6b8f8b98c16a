"""What is trained, as plain values: kept beside the state of a fit, and compared when the fit is resumed.

A state that is resumed with another prior, task, form of h, output or data would go on from weights that mean something
else, and the new card would vouch for the wrong thing. So each part of a fit says what it is (`identity()`), `fit`
keeps it in `state.pt`, and a difference is an error that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deft._renamed import new_settings
from deft.errors import CheckpointError
from deft.kinds.stored import Samples

LONG = 8
"""Lists longer than this are summed up in messages."""
WHOLE = ("module", "task")
"""Parts in which a setting that one side lacks is a difference: a task leaves out those that have their usual value."""
MAX_LISTED = 6
"""Differences that one message names."""


def digest(*tensors: Tensor) -> str:
    """The first 16 digits of a SHA-256 over shapes, kinds and values.

    >>> import torch
    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest(torch.zeros(2)) == digest(torch.zeros(1, 2))
    (True, False)
    """
    found = hashlib.sha256()
    for v in tensors:
        found.update(f"{tuple(v.shape)} {v.dtype}".encode())
        found.update(v.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if v.numel() else b"")
    return found.hexdigest()[:16]


def samples_digest(x: Samples) -> str:
    """`digest` of samples in memory; of stored ones their own fingerprint, which does not read them all."""
    return digest(x) if isinstance(x, Tensor) else x.fingerprint()


def module_identity(module: nn.Module) -> dict[str, Any]:
    """Class, settings and shapes of what is trained; of a module that holds an `h`, also those of the h."""
    about: dict[str, Any] = {"class": type(module).__name__}
    for name in ("config", "describe"):
        said = getattr(module, name, None)
        if callable(said):
            about |= said()
    inner = getattr(module, "h", None)
    if isinstance(inner, nn.Module):
        about["h"] = module_identity(inner)
    # buffers are left out: a later version may have further ones
    about["parameters"] = {k: "x".join(map(str, v.shape)) or "1" for k, v in module.named_parameters()}
    return plain(about)


def identity_of(part: object) -> dict[str, Any]:
    """What `part.identity()` says; nothing for a part that says nothing."""
    said = getattr(part, "identity", None)
    return plain(said()) if callable(said) else {}


def other_identity(kept: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What differs between two identities, in words, "" for nothing. What one of them does not know is not compared."""
    found: list[tuple[str, str, str]] = []
    for part in (k for k in kept if k in given):
        a, b = kept[part], given[part]
        if isinstance(a, dict) and isinstance(b, dict):
            # settings of two kinds have nothing in common
            if "class" in a and "class" in b and a["class"] != b["class"]:
                found.append((part, shown(a["class"]), shown(b["class"])))
                continue
            whole = part in WHOLE
            a = new_settings(a) if part == "module" else a
            a, b = {k: a[k] for k in sorted(a) if whole or k in b}, {k: b[k] for k in sorted(b) if whole or k in a}
        found += differences(a, b, part)
    settings = [d for d in found if not d[0].startswith("module.parameters")]
    found = settings or found  # shapes follow from settings
    return listed(found[:MAX_LISTED], ("was", "now")) + (
        f"; and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    )


def plain(value: Any) -> Any:
    """As it looks after a journey through JSON: tuples become lists.

    Raises `CheckpointError` for what JSON cannot hold: objects, NaN.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"a card holds text, finite numbers, lists and tables alone: {error}") from error


def differences(fitted: Any, given: Any, field: str = "") -> list[tuple[str, str, str]]:
    """(field, fitted, given) wherever two plain values differ; nested fields as a.b, the first of a list's entries as
    a[3].

    >>> differences({"output": "eps", "settings": {"bound": 10}}, {"output": "v", "settings": {"bound": 10}})
    [('output', "'eps'", "'v'")]
    """
    if isinstance(fitted, dict) and isinstance(given, dict):
        if "settings" in fitted and fitted.get("name") != given.get("name"):
            return [(field, schedule_text(fitted), schedule_text(given))]
        out = []
        for key in [*fitted, *(k for k in given if k not in fitted)]:
            out += differences(fitted.get(key), given.get(key), f"{field}.{key}" if field else str(key))
        return out
    if isinstance(fitted, list) and isinstance(given, list) and len(fitted) == len(given) > LONG:
        for i, (a, b) in enumerate(zip(fitted, given, strict=True)):
            if a != b:
                return differences(a, b, f"{field}[{i}]")
        return []
    return (
        []
        if (fitted == given and type(fitted) is type(given)) or _same_number(fitted, given)
        else [(field, shown(fitted), shown(given))]
    )


def _same_number(a: Any, b: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return numbers and a == b


def listed(found: list[tuple[str, str, str]], sides: tuple[str, str] = ("fitted", "given")) -> str:
    return "; ".join(f"{field}: {sides[0]} {a}, {sides[1]} {b}" for field, a, b in found)


def shown(value: Any) -> str:
    """A value in a message; long lists and texts summed up."""
    if value is None:
        return "nothing"
    if isinstance(value, list) and len(value) > LONG:
        return f"{len(value)} values from {shown(value[0])} to {shown(value[-1])}"
    if isinstance(value, dict) and "settings" in value:
        return schedule_text(value)
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def schedule_text(schedule: dict[str, Any]) -> str:
    """vp-linear(beta_0=0.1, beta_1=20.0)"""
    settings = schedule.get("settings")
    inside = ", ".join(f"{k}={shown(v)}" for k, v in settings.items()) if isinstance(settings, dict) else ""
    return f"{schedule.get('name')}({inside})"
