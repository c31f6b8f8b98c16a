"""Whether a prior is the one that something was fitted to."""

from __future__ import annotations

from deft.core.denoiser import Denoiser
from deft.denoiser.tiled import Tiled


def is_prior(prior: Denoiser, sha256: str) -> bool:
    """Whether what was fitted to the prior of this fingerprint belongs to `prior`: the fingerprint is its own, or one
    that its card says it stands for (the same weights before they were rounded). A card that came with other weights
    than the prior's says nothing. What was fitted to a prior belongs to larger samples made of its tiles, too."""
    if isinstance(prior, Tiled):
        return is_prior(prior.prior, sha256) or sha256 == prior.fingerprint()
    mine, known = prior.fingerprint(), prior.card.get("stands_for")
    stated = (prior.card.get("sha256"), prior.card.get("fingerprint"))
    return sha256 == mine or (mine in stated and isinstance(known, list) and sha256 in known)
