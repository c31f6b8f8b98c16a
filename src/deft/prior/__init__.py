"""Priors: bundled, from files of ours and of other libraries, from functions, from behind a URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deft._old_names import moved
from deft.io.prior_files import BUNDLED, load_own
from deft.prior.conventions import CONVENTIONS, wrap
from deft.prior.load import FAMILIES, load_prior

if not TYPE_CHECKING:
    __getattr__ = moved(__name__)

__all__ = ["BUNDLED", "CONVENTIONS", "FAMILIES", "load_own", "load_prior", "wrap"]
