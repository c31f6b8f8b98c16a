"""Priors: bundled, from files of ours and of other libraries, from functions, from behind a URL."""

from deft.io.prior_files import BUNDLED, ImagePrior, load_own
from deft.prior.conventions import CONVENTIONS, wrap
from deft.prior.load import FAMILIES, load_prior

__all__ = ["BUNDLED", "CONVENTIONS", "FAMILIES", "ImagePrior", "load_own", "load_prior", "wrap"]
