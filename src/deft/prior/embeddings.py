"""Embeddings of a prompt: what a text-conditional network is given of a text; and files of them.

A file is safetensors, with diffusers' own names of the tensors, so that one that was made there is read, too:
prompt_embeds [1, L, D], pooled_prompt_embeds [1, P], prompt_attention_mask [1, L], and the same three with negative_
before them (for the text that guidance leads away from). Its metadata say of which texts they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.errors import CheckpointError, InputError
from deft.io.files import check_header, write_atomic
from deft.values import quoted

NAMES = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
NEGATIVE = "negative_"
FORMAT = "deft prompt embeddings 1"


@dataclass(frozen=True)
class Embedded:
    """A text as a network is given it.

    tensors: by their names in `NAMES`, each with one row. sha256: of what they were made from (the tokens, and the text
    encoder), so that it is the same on every machine, though the last digits of the tensors are not; of the tensors
    themselves, where nothing says what they were made from. text: None where nobody said.
    """

    tensors: dict[str, Tensor]
    sha256: str
    text: str | None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Embeddings:
    """Of a prompt, and of the text that guidance leads away from (None: there is none in the file)."""

    prompt: Embedded
    negative: Embedded | None
    family: str | None = None

    @property
    def notes(self) -> list[str]:
        """What there is to say of the texts: of the negative one only what is not said of the prompt."""
        return list(dict.fromkeys([*self.prompt.notes, *(self.negative.notes if self.negative else ())]))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, by name, shape and value in float32 (masks: as they are)."""
    out = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().to(torch.float32).contiguous()
        out.update(f"{name}{tuple(plain.shape)}".encode())
        out.update(plain.numpy().tobytes())
    return out.hexdigest()


def write_embeddings(path: str | Path, made: Embeddings) -> dict[str, str]:
    """Write a file of embeddings; returns its metadata."""
    from safetensors.torch import save_file

    tensors = dict(made.prompt.tensors)
    about = {"format": FORMAT, "family": made.family or "", "prompt": made.prompt.text or ""}
    about |= {"sha256": made.prompt.sha256, "tensors": digest(made.prompt.tensors)}
    if made.negative is not None:
        tensors |= {NEGATIVE + k: v for k, v in made.negative.tensors.items()}
        about |= {f"{NEGATIVE}prompt": made.negative.text or "", f"{NEGATIVE}sha256": made.negative.sha256}
        about |= {f"{NEGATIVE}tensors": digest(made.negative.tensors)}
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomic(Path(path), lambda p: save_file(kept, str(p), metadata={"deft": json.dumps(about, sort_keys=True)}))
    return about


def read_embeddings(path: str | Path) -> Embeddings:
    """The embeddings in a file of `deft prior embed`, or of diffusers' `encode_prompt`.

    Raises:
        InputError: no such file.
        CheckpointError: it is no safetensors file, holds no embeddings, or other ones than its metadata say.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file of embeddings: {path}; `deft prior embed MODEL --prompt TEXT --out {path}`")
    check_header(path)
    try:
        with safe_open(str(path), framework="pt") as f:
            names, metadata = set(f.keys()), f.metadata() or {}
            found = {k: f.get_tensor(k) for k in (*NAMES, *(NEGATIVE + n for n in NAMES)) if k in names}
    except Exception as error:  # of safetensors, on whatever a file holds
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({' '.join(str(error).split())[:120]})"
        ) from None
    if "prompt_embeds" not in found:
        inside = ", ".join(sorted(names)[:3]) or "nothing"
        raise CheckpointError(
            f"{path} holds no embeddings of a prompt (it holds {inside}): expected prompt_embeds, as `deft prior embed`"
            " writes it"
        )
    for name, value in found.items():
        axes = 3 if name.endswith("prompt_embeds") and "pooled" not in name else 2
        if value.ndim != axes or len(value) != 1 or not bool(torch.isfinite(value.float()).all()):
            raise CheckpointError(
                f"{path}: {name} has the shape {tuple(value.shape)}, expected {axes} axes with one row of finite"
                " numbers: one prompt a file"
            )
    about = _about(metadata)
    prompt = _part(path, {k: v for k, v in found.items() if k in NAMES}, about, "")
    against = {k.removeprefix(NEGATIVE): v for k, v in found.items() if k.startswith(NEGATIVE)}
    negative = _part(path, against, about, NEGATIVE) if "prompt_embeds" in against else None
    return Embeddings(prompt, negative, about.get("family") or None)


def _about(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        value = json.loads(metadata.get("deft", "{}"))
    except ValueError:
        value = {}
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}


def _part(path: Path, tensors: dict[str, Tensor], about: Mapping[str, str], which: str) -> Embedded:
    own = digest(tensors)
    stated = about.get(f"{which}tensors")
    if stated is not None and stated != own:
        raise CheckpointError(f"{path} is damaged: its tensors are not those that its metadata name")
    if stated is None:
        return Embedded(tensors, own, None)
    return Embedded(tensors, about.get(f"{which}sha256", own), about.get(f"{which}prompt"))


def check_widths(where: str, made: Embeddings, widths: Mapping[str, int], family: str) -> None:
    """Refuse embeddings that the network cannot take.

    widths: name -> last axis of each tensor that it wants, 0 where any length will do.

    Raises:
        InputError: those of another model.
    """
    if made.family is not None and made.family != family:
        raise InputError(
            f"{where} holds embeddings for {made.family}, and this model is {family}: make them with `deft prior embed`"
            " from its own folder"
        )
    for part, which in ((made.prompt, ""), (made.negative, NEGATIVE)):
        if part is None:
            continue
        for name, width in widths.items():
            found = part.tensors.get(name)
            if found is None or (width and found.shape[-1] != width):
                got = "has none" if found is None else f"has {found.shape[-1]} numbers a token"
                wants = f"this model ({family}) takes {width or name}"
                raise InputError(f"{where} holds embeddings of another model: {which}{name} {got}, {wants}")
        if (
            made.negative is not None
            and part.tensors["prompt_embeds"].shape != made.prompt.tensors["prompt_embeds"].shape
        ):
            raise InputError(f"{where}: the embeddings of the prompt and of the negative prompt differ in length")


def check_texts(where: str, made: Embeddings, prompt: str, negative: str) -> None:
    """Refuse a text beside embeddings of another text."""
    for what, given, stated in (
        ("prompt", prompt, made.prompt.text),
        ("negative_prompt", negative, made.negative.text if made.negative else None),
    ):
        if given and given != stated:
            holds = "does not say of which text it is" if stated is None else f"is of the text {quoted(stated)}"
            raise InputError(
                f"{what}={quoted(given)} is given with embeddings, and {where} {holds}: give one of the two"
            )


def identity(made: Embeddings, scale: float, guided: bool) -> dict[str, Any]:
    """What of the text makes a prior the one it is: part of its fingerprint."""
    about: dict[str, Any] = {"prompt": made.prompt.text, "prompt_sha256": made.prompt.sha256}
    if guided and made.negative is not None:
        about |= {"negative_prompt": made.negative.text, "negative_sha256": made.negative.sha256}
    return about | {"guidance_scale": scale}
