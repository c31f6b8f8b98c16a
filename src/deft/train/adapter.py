"""A fitted h as a file: its own weights alone, and a card naming the prior it belongs to by fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deft.denoise import Denoiser, fingerprint
from deft.errors import CheckpointError
from deft.htransform.learned import DEFT
from deft.tasks import ImageTask, make_task
from deft.train.checkpoint import load_weights, save_weights


def save_h(path: str | Path, h: DEFT, prior: Denoiser, task: ImageTask, /, **card: Any) -> dict[str, Any]:
    """Write h's weights and card; keywords are added to the card. Returns the card."""
    about = {
        "kind": "h-transform",
        "format": 1,
        "h": h.config(),
        "task": task.config(),
        "prior_sha256": fingerprint(prior),
    }
    about |= card
    save_weights(path, h.state_dict(), about)
    return about


def load_h(path: str | Path, prior: Denoiser) -> tuple[DEFT, ImageTask, dict[str, Any]]:
    """The h, its task and its card, from a file or a run folder.

    Raises `CheckpointError` if the file is no h-transform, is damaged, or was fitted to another prior.
    """
    path = Path(path)
    path = path / "h.safetensors" if path.is_dir() else path
    tensors, card = load_weights(path)
    if card.get("kind") != "h-transform":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not an h-transform")
    mine = fingerprint(prior)
    if card["prior_sha256"] != mine:
        raise CheckpointError(
            f"{path} was fitted to the prior {card.get('prior', '?')!r} (sha256 {card['prior_sha256'][:12]}…), "
            f"this prior is {mine[:12]}…: give the prior it was fitted to with --prior"
        )
    options = dict(card["h"])
    h = DEFT(tuple(options.pop("event_shape")), **options)
    try:
        h.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the h-transform its card describes: {str(error).splitlines()[-1].strip()}") from error
    return h.eval().requires_grad_(False), make_task(card["task"]), card
