"""What a user says of the condition of a prior of diffusers (a prompt, guidance, a LoRA), and the network under it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deft.errors import InputError
from deft.prior.embeddings import Embeddings, check_texts, check_widths, identity, read_embeddings
from deft.prior.families import Config, text_family, title_of
from deft.prior.labelled import with_label
from deft.prior.lora import merge_network, sha256_of
from deft.prior.parts import Parts, config_of
from deft.prior.prompted import Prompted
from deft.prior.text import embed, folder_of, home_of
from deft.values import quoted

OPTIONS = ("prompt", "negative_prompt", "guidance_scale", "embeddings")
"""Options of a prior that are for a text."""


@dataclass(frozen=True)
class Condition:
    """prompt: a text; "" for none. negative_prompt: what guidance leads away from; "" for none. guidance_scale: 1 for
    none. embeddings: a file in place of the text encoders. label: a class. lora: a file, merged lora_scale times."""

    prompt: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    embeddings: str | None = None
    label: int | str | None = None
    lora: str | None = None
    lora_scale: float = 1.0

    @property
    def lora_file(self) -> Path | None:
        return None if self.lora is None else Path(self.lora)


@dataclass
class Conditioned:
    """net: as net(x, t). card: what a card says of it. unsure: doubts."""

    net: nn.Module
    card: dict[str, Any]
    unsure: list[str]


def condition_network(
    name: object, model: nn.Module, config: Config, parts: Parts, asked: Condition, shape: tuple[int, ...],
    variant: str | None = None, states: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Conditioned:  # fmt: skip
    """A network of diffusers as net(x, t), under what was asked for.

    Raises:
        InputError: a text for a network without one, embeddings of another model, a class that is none of its own, ...
    """
    family, unsure, card = text_family(config), list[str](), dict[str, Any]()
    if asked.lora_file is not None:
        unsure += merge_network(model, asked.lora_file, asked.lora_scale)
        card["lora"] = {"file": asked.lora_file.name, "scale": asked.lora_scale, "sha256": sha256_of(asked.lora_file)}
    elif asked.lora_scale != 1:
        raise InputError("lora_scale is given without a LoRA: give lora as well")
    if family is None:
        net, label, notes = with_label(name, model, dict(config), asked.label, asked.guidance_scale)
        card |= {} if label is None else {"label": label}
        return Conditioned(net, card | guidance_card(net), unsure + notes)
    if asked.label is not None:
        raise InputError(f"{name} takes a text and no class, got label={asked.label}: give a prompt")
    made = find_embeddings(name, parts, config, asked, variant, states)
    embedded = family.embedded(config)
    guided = asked.guidance_scale > 1 and not embedded
    _check_guidance(name, asked, made, guided, embedded)
    size = image_size(parts, shape)
    extra = family.extra(config, size)
    if embedded:
        extra["guidance"] = torch.tensor([asked.guidance_scale], dtype=torch.float32)
        unsure.append("guidance_scale: an input of this network, which is distilled from one with guidance")
    stated = identity(made, asked.guidance_scale, guided) | (
        {"image_size": list(size)} if extra.keys() - {"guidance"} else {}
    )
    against = {**_kept(made.negative.tensors, family.widths(config)), **extra} if guided and made.negative else None
    given = {**_kept(made.prompt.tensors, family.widths(config)), **extra}
    net = Prompted(model, family.call, given, against, asked.guidance_scale, stated)
    card |= {k: v for k, v in stated.items() if k in ("prompt", "negative_prompt", "prompt_sha256", "guidance_scale")}
    unsure += made.prompt.notes if not guided else made.notes
    return Conditioned(net, card | guidance_card(net), unsure)


def find_embeddings(
    name: object, parts: Parts, config: Config, asked: Condition, variant: str | None = None,
    states: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Embeddings:  # fmt: skip
    """From the file that was given, or from the pipeline's own text encoders."""
    family = text_family(config)
    assert family is not None
    if asked.embeddings is None:
        more = {"lora": asked.lora_file, "lora_scale": asked.lora_scale, "states": states or {}}
        made = embed(home_of(parts.home, config, variant, **more), asked.prompt, asked.negative_prompt)
        check_widths(f"{name}: its text encoder", made, family.widths(config), title_of(config))
        return made
    made = read_embeddings(asked.embeddings)
    check_widths(str(asked.embeddings), made, family.widths(config), title_of(config))
    check_texts(str(asked.embeddings), made, asked.prompt, asked.negative_prompt)
    return made


def check_encoders(parts: Parts, config: Config, elsewhere: Collection[str] = ()) -> None:
    """Raise `InputError` where a text needs a tokenizer and a text encoder that are not there, before the weights
    of the network are read."""
    home = home_of(parts.home, config)
    for part in ("tokenizer", "text_encoder"):
        if part not in elsewhere and home.parts.get(part, [""])[0] is not None:
            folder_of(home, part)


def _check_guidance(name: object, asked: Condition, made: Embeddings, guided: bool, embedded: bool) -> None:
    if asked.negative_prompt and not guided:
        why = "guidance is an input of its network, which has no such side" if embedded else "it works by guidance"
        do = "leave it out" if embedded else "give guidance_scale above 1"
        raise InputError(f"negative_prompt={quoted(asked.negative_prompt)} changes nothing of {name}: {why}; {do}")
    if not guided:
        return
    if made.negative is None:
        raise InputError(
            f"{asked.embeddings} has no embeddings of a negative prompt, which guidance_scale={asked.guidance_scale:g}"
            " needs: make it with `deft prior embed`"
        )
    if made.prompt.sha256 == made.negative.sha256:
        raise InputError(
            f"guidance_scale={asked.guidance_scale:g} leads from the negative prompt to the prompt, and they are the"
            " same: give prompt, or leave guidance_scale out"
        )


def guidance_card(net: nn.Module) -> dict[str, Any]:
    """What a card says of guidance: that every call of the prior is two of the network."""
    rows = getattr(net, "rows_per_call", 1)
    return {"guidance": "classifier-free: two rows of the network for each row of a call"} if rows == 2 else {}


def image_size(parts: Parts, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in pixels of the images of latents of a shape, by the autoencoder's own factor (8 without)."""
    where = parts.autoencoder or next((p for k in ("vae",) if (p := parts.model.parent / k).is_dir()), None)
    levels = config_of(where / "config.json").get("block_out_channels") if where is not None else None
    factor = 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else 8
    return shape[-2] * factor, shape[-1] * factor


def _kept(tensors: Mapping[str, Tensor], widths: Mapping[str, int]) -> dict[str, Tensor]:
    return {k: tensors[k] for k in widths}


def refuse_text(name: object, kind: str, asked: Condition) -> None:
    """Raise `InputError` where a text is given for a network that takes none."""
    for key in ("prompt", "negative_prompt", "embeddings"):
        value = getattr(asked, key)
        if value:
            raise InputError(f"{name} has no text encoder: its network, a {kind}, takes no text; leave {key} out")
