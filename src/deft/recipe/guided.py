"""How the latent prior of a fitted h is guided: the card says it, and holds what was measured for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deft.core.denoiser import Denoiser
from deft.io.h_files import load_h, read_h
from deft.learned import Learned
from deft.prior.latent import LatentPrior


def load_guided(file: Path, prior: Denoiser, *, trust_code: bool = False) -> tuple[Learned, Any, dict[str, Any]]:
    """`load_h`; a latent prior whose way of guidance nobody stated is guided as the card says, and one that is guided
    in the latents takes the card's surrogates, so that none is measured again."""
    if not isinstance(prior, LatentPrior):
        return load_h(file, prior, trust_code=trust_code)
    _, card = read_h(file)
    convention = card.get("prior_convention")
    prior.guided_as(convention.get("gradient") if isinstance(convention, dict) else None)
    found = load_h(file, prior, trust_code=trust_code)
    prior.restore(card.get("surrogates") or {})
    return found


def surrogates_of(prior: Denoiser) -> dict[str, Any]:
    """The field of a card with the surrogates of a latent prior; none for other priors."""
    found = prior.surrogates() if isinstance(prior, LatentPrior) else {}
    return {"surrogates": found} if found else {}
