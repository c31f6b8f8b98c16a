"""Text-conditional networks of diffusers, a row for each family: what it is called with, and how wide that is.

Every row was compared with the family's own pipeline: the same states from the same start (`tests/test_text_*.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Given = Mapping[str, Tensor]
Call = Callable[[nn.Module, Tensor, Tensor, Given], Tensor]
Config = Mapping[str, Any]


class TextFamily(NamedTuple):
    """title: for people. call: the network's output for x [B, *E], its time [B], and what it is given [B, ...] by name.
    widths: of the embeddings it takes, from its config (0: any). extra: further conditions, from its config and the
    size of the images in pixels. channels: those of the latents it takes and returns. side: of the latents, where the
    config states none. embedded: whether the guidance scale is an input of the network."""

    title: str
    call: Call
    widths: Callable[[Config], dict[str, int]]
    extra: Callable[[Config, tuple[int, int]], dict[str, Tensor]] = lambda config, size: {}
    channels: Callable[[Config], tuple[int, int]] | None = None
    side: int | None = None
    embedded: Callable[[Config], bool] = lambda config: False


def _unet(model: nn.Module, x: Tensor, time: Tensor, given: Given) -> Tensor:
    more = (
        {"text_embeds": given["pooled_prompt_embeds"], "time_ids": given["time_ids"]} if "time_ids" in given else None
    )
    return model(x, time, encoder_hidden_states=given["prompt_embeds"], added_cond_kwargs=more, return_dict=False)[0]


def _is_xl(config: Config) -> bool:
    return config.get("addition_embed_type") == "text_time"


def _pooled_width(config: Config) -> int:
    """Of Stable Diffusion XL: what is left of the input of the added embedding beside six numbers of sizes."""
    whole, each = config.get("projection_class_embeddings_input_dim"), config.get("addition_time_embed_dim")
    return whole - 6 * each if isinstance(whole, int) and isinstance(each, int) else 0


def _unet_widths(config: Config) -> dict[str, int]:
    width = config.get("encoder_hid_dim") or config.get("cross_attention_dim", 1280)
    width = max(width) if isinstance(width, (list, tuple)) else width
    return {"prompt_embeds": int(width)} | ({"pooled_prompt_embeds": _pooled_width(config)} if _is_xl(config) else {})


def _unet_extra(config: Config, size: tuple[int, int]) -> dict[str, Tensor]:
    """time_ids: height and width of the original, upper left corner of the crop, height and width of the picture."""
    return {"time_ids": torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32)} if _is_xl(config) else {}


def _pixart(model: nn.Module, x: Tensor, time: Tensor, given: Given) -> Tensor:
    more = {k: given.get(k) for k in ("resolution", "aspect_ratio")}
    return model(
        x, encoder_hidden_states=given["prompt_embeds"], timestep=time, added_cond_kwargs=more,
        encoder_attention_mask=given["prompt_attention_mask"], return_dict=False,
    )[0]  # fmt: skip


def _pixart_extra(config: Config, size: tuple[int, int]) -> dict[str, Tensor]:
    stated = config.get("use_additional_conditions")
    if not (config.get("sample_size") == 128 if stated is None else stated):
        return {}
    height, width = size
    return {
        "resolution": torch.tensor([[float(height), float(width)]]),
        "aspect_ratio": torch.tensor([[height / width]]),
    }


def _sd3(model: nn.Module, x: Tensor, time: Tensor, given: Given) -> Tensor:
    return model(
        hidden_states=x, timestep=time, encoder_hidden_states=given["prompt_embeds"],
        pooled_projections=given["pooled_prompt_embeds"], return_dict=False,
    )[0]  # fmt: skip


def _sana(model: nn.Module, x: Tensor, time: Tensor, given: Given) -> Tensor:
    scale = float(getattr(model.config, "timestep_scale", 1.0))
    return model(
        x, encoder_hidden_states=given["prompt_embeds"], timestep=time * scale,
        encoder_attention_mask=given["prompt_attention_mask"], return_dict=False,
    )[0]  # fmt: skip


def _flux(model: nn.Module, x: Tensor, time: Tensor, given: Given) -> Tensor:
    """On patches of 2 x 2 latents in a row [B, H W / 4, 4 C], with the place of each; time from 0 to 1."""
    rows, channels, height, width = x.shape
    cells = x.reshape(rows, channels, height // 2, 2, width // 2, 2)
    packed = cells.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, 4 * channels)
    places = torch.zeros(height // 2, width // 2, 3, device=x.device, dtype=x.dtype)
    places[..., 1] = torch.arange(height // 2, device=x.device)[:, None]
    places[..., 2] = torch.arange(width // 2, device=x.device)
    text = given["prompt_embeds"]
    out = model(
        hidden_states=packed, timestep=time / 1000, guidance=given.get("guidance"),
        pooled_projections=given["pooled_prompt_embeds"], encoder_hidden_states=text,
        txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype), img_ids=places.reshape(-1, 3),
        return_dict=False,
    )[0]  # fmt: skip
    cells = out.reshape(rows, height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(rows, -1, height, width)


def _flux_channels(config: Config) -> tuple[int, int]:
    inside = int(config.get("in_channels", 64))
    return inside // 4, int(config.get("out_channels") or inside) // 4


def _of_joint(config: Config) -> dict[str, int]:
    return {
        "prompt_embeds": int(config.get("joint_attention_dim", 4096)),
        "pooled_prompt_embeds": int(config.get("pooled_projection_dim", 2048)),
    }


def _of_caption(config: Config) -> dict[str, int]:
    return {"prompt_embeds": int(config.get("caption_channels") or 0), "prompt_attention_mask": 0}


TEXT_FAMILIES: dict[str, TextFamily] = {
    "UNet2DConditionModel": TextFamily("Stable Diffusion", _unet, _unet_widths, _unet_extra),
    "PixArtTransformer2DModel": TextFamily("PixArt", _pixart, _of_caption, _pixart_extra),
    "SD3Transformer2DModel": TextFamily("Stable Diffusion 3", _sd3, _of_joint),
    "FluxTransformer2DModel": TextFamily(
        "FLUX.1", _flux, _of_joint, channels=_flux_channels, side=128,
        embedded=lambda config: bool(config.get("guidance_embeds")),
    ),
    "SanaTransformer2DModel": TextFamily("Sana", _sana, _of_caption),
}  # fmt: skip
"""Class of the network in diffusers -> its family."""

OLD = {"ada_norm_single": "PixArtTransformer2DModel", "ada_norm_zero": "DiTTransformer2DModel"}
"""norm_type of a Transformer2DModel -> what such a network is called today."""


def class_name(config: Config) -> str:
    """The class that a config names, by its name of today."""
    kind = str(config.get("_class_name"))
    return OLD.get(str(config.get("norm_type")), kind) if kind == "Transformer2DModel" else kind


def text_family(config: Config) -> TextFamily | None:
    """The family of a network's config; None for one that takes no text."""
    return TEXT_FAMILIES.get(class_name(config))


def title_of(config: Config) -> str:
    """What a family is called, with its own name of Stable Diffusion XL.

    >>> title_of({"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"})
    'Stable Diffusion XL'
    """
    found = text_family(config)
    return "" if found is None else found.title + (" XL" if found.call is _unet and _is_xl(config) else "")
