"""Bundled priors, and priors from files."""

from deft.prior.store import BUNDLED, ImagePrior, load_prior

__all__ = ["BUNDLED", "ImagePrior", "load_prior"]
