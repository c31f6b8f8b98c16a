"""LoRA weights (Hu et al. 2022, https://arxiv.org/abs/2106.09685) merged into a network as it is loaded.

W becomes W + scale (alpha / r) B A, with A [r, in], B [out, r], and alpha = r where the file states none. The product
is added one rank after the other in float64, so that the merged weights, and so the prior's fingerprint, are the same
bits on every machine. Three layouts of names are read: diffusers and peft (`unet.….to_q.lora_A.weight`), older
diffusers (`….lora.down.weight`, `….processor.to_q_lora.down.weight`), kohya (`lora_unet_….lora_down.weight`,
with `….alpha`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deft.errors import CheckpointError, InputError
from deft.io.files import check_header

_SIDE = re.compile(
    r"(?P<module>.+?)(?:\.lora_(?P<peft>[AB])(?:\.\w+)?|[._]lora(?:_linear_layer)?[._](?P<side>down|up))\.weight"
)
OTHERS = {
    "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "oft_blocks": "OFT",
    ".diff": "differences of whole weights", "lora_mid": "LoRA in three factors", "lora_B.bias": "LoRA with biases",
}  # fmt: skip
"""Part of a name -> another kind of adapter, that is not read."""
TEXT = {"text_encoder.": "", "text_encoder_2.": "_2", "lora_te_": "", "lora_te1_": "", "lora_te2_": "_2"}
"""Prefix -> ending of the text encoder that it is for."""
NETWORK = ("unet.", "transformer.", "base_model.model.", "lora_unet_", "lora_transformer_")


class Pair(NamedTuple):
    """A and B of one layer, alpha, and the layer's name in the file."""

    down: Tensor
    up: Tensor
    alpha: float
    name: str


class Read(NamedTuple):
    """What a file holds: layers of the network, layers of the text encoders by the ending of their folder, each by its
    name, and the names of tensors that are of no layer."""

    network: dict[str, Pair]
    texts: dict[str, dict[str, Pair]]
    left: list[str]


def merge_network(network: nn.Module, path: Path, scale: float) -> list[str]:
    """Merge a file's layers of the network into it; returns what there is to say.

    Raises:
        InputError: it is the LoRA of another model, or no LoRA.
    """
    pairs, texts, left = read_lora(path)
    if not pairs and not texts:
        raise InputError(f"{path} holds no LoRA: expected tensors named lora_A and lora_B, or lora_down and lora_up")
    _merge(network, pairs, path, scale)
    parts = [f"text_encoder{k}" for k in sorted(texts)]
    said = [] if not parts else [f"LoRA: {path.name} has layers for {', '.join(parts)} as well"]
    if left:
        more = "" if len(left) <= 3 else f" and {len(left) - 3} more"
        said.append(f"LoRA: {path.name} holds tensors of no layer, which are left out: {', '.join(left[:3])}{more}")
    return said


def merge_text(encoder: nn.Module, ending: str, path: Path, scale: float) -> list[str]:
    """Merge a file's layers of one text encoder into it; returns what there is to say."""
    pairs = read_lora(path).texts.get(ending, {})
    _merge(encoder, pairs, path, scale)
    return [f"LoRA: {len(pairs)} layers of text_encoder{ending} were merged"] if pairs else []


def read_lora(path: Path) -> Read:
    """The layers of a file.

    Raises:
        InputError: no such file, or another kind of adapter.
        CheckpointError: it is damaged.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise InputError(f"no such file of a LoRA: {path}")
    check_header(path)
    try:
        with safe_open(str(path), framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  it is no dictionary
            metadata = f.metadata() or {}
    except Exception as error:  # of safetensors, on whatever a file holds
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({' '.join(str(error).split())[:120]})"
        ) from None
    for key in tensors:
        other = next((kind for part, kind in OTHERS.items() if part in key), None)
        if other:
            raise InputError(f"{path} is no plain LoRA: {key} belongs to {other}, which is not read; give a LoRA")
    pairs = _pairs(path, tensors, _alphas(metadata))
    alphas = {f"{pair.name}.alpha" for pair in pairs}
    return Read(*_sorted(pairs), sorted(k for k in tensors if k not in alphas and not _SIDE.fullmatch(k)))


def _alphas(metadata: Mapping[str, str]) -> dict[str, Any]:
    """lora_alpha of each part of a pipeline, from the metadata that diffusers writes."""
    try:
        found = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _pairs(path: Path, tensors: Mapping[str, Tensor], stated: Mapping[str, Any]) -> list[Pair]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _SIDE.fullmatch(key)
        if match:
            down = match["peft"] == "A" or match["side"] == "down"
            sides.setdefault(match["module"], {})["down" if down else "up"] = value
    out = []
    for name, pair in sides.items():
        if pair.keys() != {"down", "up"}:
            raise CheckpointError(f"{path} is not complete: {name} has no {'up' if 'down' in pair else 'down'} weight")
        own, rank = tensors.get(f"{name}.alpha"), pair["down"].shape[0]
        if pair["up"].ndim < 2 or pair["down"].ndim < 2 or pair["up"].shape[1] != rank or rank < 1:
            raise CheckpointError(f"{path}: the two weights of {name} have different ranks, or none")
        if any(v.is_complex() for v in pair.values()) or (own is not None and (own.numel() != 1 or own.is_complex())):
            raise CheckpointError(f"{path}: {name} has complex weights, or more than one number for alpha")
        alpha = _stated_alpha(name, stated) if own is None else float(own)
        if alpha is not None and not math.isfinite(alpha):
            raise CheckpointError(f"{path}: alpha of {name} is {alpha}: expected a finite number")
        out.append(Pair(pair["down"], pair["up"], float(rank) if alpha is None else alpha, name))
    return out


def _stated_alpha(name: str, stated: Mapping[str, Any]) -> float | None:
    part, _, layer = name.partition(".")
    pattern = stated.get(f"{part}.alpha_pattern")
    found = pattern.get(layer) if isinstance(pattern, dict) else None
    found = stated.get(f"{part}.lora_alpha") if found is None else found
    return float(found) if isinstance(found, (int, float)) else None


def _sorted(pairs: list[Pair]) -> tuple[dict[str, Pair], dict[str, dict[str, Pair]]]:
    network, texts = dict[str, Pair](), dict[str, dict[str, Pair]]()
    for pair in pairs:
        text = next((p for p in TEXT if pair.name.startswith(p)), None)
        if text is not None:
            texts.setdefault(TEXT[text], {})[pair.name.removeprefix(text)] = pair
            continue
        first = next((p for p in NETWORK if pair.name.startswith(p)), "")
        network[pair.name.removeprefix(first)] = pair
    return network, texts


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer and convolution, by every name that a LoRA may call it."""
    out: dict[str, nn.Module] = {}
    per_block = getattr(getattr(network, "config", None), "layers_per_block", 2)
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            for also in (name, name.removeprefix("text_model."), f"text_model.{name.removeprefix('text_model.')}"):
                out |= {also: layer, also.replace(".", "_"): layer}
            if isinstance(per_block, int) and (theirs := community_name(name, per_block)):
                out[theirs.replace(".", "_")] = layer
    return out


def community_name(name: str, per_block: int) -> str | None:
    """What the original code of Stable Diffusion calls a layer of attention, after which kohya's files for XL name it.

    >>> community_name("up_blocks.0.attentions.1.proj_in", 2)
    'output_blocks.1.1.proj_in'
    """
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)", name)
    if match:
        block, layer = int(match[2]), int(match[3])
        if match[1] == "down":
            return f"input_blocks.{1 + block * (per_block + 1) + layer}.1.{match[4]}"
        return f"output_blocks.{block * (per_block + 1) + layer}.1.{match[4]}"
    middle = re.fullmatch(r"mid_block\.attentions\.(\d+)\.(.*)", name)
    return f"middle_block.{1 + int(middle[1])}.{middle[2]}" if middle else None


def plain_name(name: str) -> str:
    """A layer's name in older files of diffusers, as it is now.

    >>> plain_name("attn1.processor.to_out"), plain_name("self_attn.to_q")
    ('attn1.to_out.0', 'self_attn.q_proj')
    """
    name = name.replace(".processor.", ".")
    if ".self_attn.to_" in f".{name}":
        return re.sub(r"to_(q|k|v|out)$", r"\1_proj", name)
    return re.sub(r"to_out$", "to_out.0", name)


@torch.no_grad()
def _merge(network: nn.Module, pairs: Mapping[str, Pair], path: Path, scale: float) -> None:
    known = layers_of(network) if pairs else {}
    for name, pair in pairs.items():
        layer = known.get(name) or known.get(plain_name(name))
        kind = type(network).__name__
        if layer is None:
            raise InputError(f"{path} is the LoRA of another model: its layer {pair.name} is none of this {kind}'s")
        weight: Tensor = layer.weight  # type: ignore[assignment]
        rank = pair.down.shape[0]
        if (pair.up.shape[0], pair.down.shape[1:].numel()) != (weight.shape[0], weight.shape[1:].numel()):
            raise InputError(
                f"{path} is the LoRA of another model: its layer {pair.name} is {pair.up.shape[0]} x"
                f" {pair.down.shape[1:].numel()}, this {kind}'s is {weight.shape[0]} x {weight.shape[1:].numel()}"
            )
        down, up = pair.down.double().reshape(rank, -1), pair.up.double().reshape(-1, rank)
        change = torch.zeros(up.shape[0], down.shape[1], dtype=torch.float64)
        for k in range(rank):
            change += up[:, k : k + 1] * down[k]
        if not bool(torch.isfinite(change).all()):
            raise CheckpointError(f"{path}: the layer {pair.name} holds numbers that are not finite")
        merged = (weight.double() + change.reshape(weight.shape) * (scale * pair.alpha / rank)).to(weight.dtype)
        if not bool(torch.isfinite(merged).all()):
            kind = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"{path}: the layer {pair.name} makes weights too large for {kind}: lower lora_scale ({scale:g})"
            )
        weight.copy_(merged)


def sha256_of(path: Path) -> str:
    """Of the file."""
    whole = hashlib.sha256()
    with path.open("rb") as f:
        while part := f.read(2**20):
            whole.update(part)
    return whole.hexdigest()
