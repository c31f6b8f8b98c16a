"""Priors: bundled, from files of ours and of other libraries, from functions, from behind a URL."""

from deft.prior.conventions import CONVENTIONS, wrap
from deft.prior.load import FAMILIES, load_prior
from deft.prior.store import BUNDLED, ImagePrior, load_own

__all__ = ["BUNDLED", "CONVENTIONS", "FAMILIES", "ImagePrior", "load_own", "load_prior", "wrap"]
