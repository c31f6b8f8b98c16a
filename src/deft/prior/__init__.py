"""Priors: bundled, from files of ours and of other libraries, from functions, from behind a URL."""

from __future__ import annotations

import warnings
from typing import Any

from deft.io.prior_files import BUNDLED, KINDS, load_own
from deft.prior.conventions import CONVENTIONS, wrap
from deft.prior.load import FAMILIES, load_prior


def __getattr__(name: str) -> Any:
    """Classes of priors that moved into their kind of data: one release under their old name."""
    kind = None if name.startswith("_") else next((k for k in KINDS.values() if k.__name__ == name), None)
    if kind is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"deft.prior.{name} is {kind.__module__}.{name}", DeprecationWarning, stacklevel=2)
    return kind


__all__ = ["BUNDLED", "CONVENTIONS", "FAMILIES", "load_own", "load_prior", "wrap"]
