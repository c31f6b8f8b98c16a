"""A file of embeddings from a pipeline's text encoders, without its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deft.errors import InputError
from deft.prior.embeddings import check_widths, write_embeddings
from deft.prior.families import class_name, text_family, title_of
from deft.prior.options import DIFFUSERS_KINDS, typed
from deft.prior.parts import config_of, look_at
from deft.prior.refused import refuse
from deft.prior.text import embed, home_of


def embed_to_file(
    name: str | Path, out: str | Path, prompt: str = "", negative_prompt: str = "", *,
    lora: str | Path | None = None, variant: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the embeddings of a prompt, and of the text that guidance leads away from, under a pipeline of diffusers.

    Args:
        name: the pipeline's folder. out: FILE.safetensors. lora: a file whose layers of the text encoders are merged.

    Returns the file's metadata, with the number of tokens and notes (what of a text was cut off).

    Raises:
        InputError: no folder of a text-conditional model, or a part of it is missing.
        CheckpointError: a part is damaged.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; give a pipeline of diffusers, with its text encoders")
    parts = look_at(folder)
    config = config_of(parts.model / "config.json")
    refuse(name, config_of(folder / "model_index.json"), config)
    family = text_family(config)
    if family is None:
        raise InputError(f"{name} has no text encoder: its network, a {class_name(config)}, takes no text")
    texts = typed(DIFFUSERS_KINDS, {"prompt": prompt, "negative_prompt": negative_prompt})
    home = home_of(folder, config, variant, lora=None if lora is None else Path(lora))
    made = embed(home, texts["prompt"], texts["negative_prompt"])
    check_widths(f"{name}: its text encoder", made, family.widths(config), title_of(config))
    about: dict[str, Any] = dict(write_embeddings(out, made))
    return about | {"tokens": made.prompt.tensors["prompt_embeds"].shape[1], "notes": made.notes}
