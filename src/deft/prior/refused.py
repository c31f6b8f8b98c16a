"""Pipelines of diffusers whose network wants more than a noisy picture, a time and a text: what they are, and what to
take instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deft.errors import InputError
from deft.prior.families import TEXT_FAMILIES, Config, class_name, text_family
from deft.prior.parts import text_parts

BASE = "the text-to-image pipeline that it was made from"

PIPELINES: dict[str, tuple[str, str]] = {
    "ControlNet": (
        "is steered by a picture through a ControlNet",
        f"{BASE}, and the task that measures such a picture",
    ),
    "Adapter": ("is steered by a picture through an adapter", f"{BASE}, and the task that measures such a picture"),
    "GLIGEN": ("takes boxes with a text for each", BASE),
    "UnCLIP": ("turns the embedding of a picture into a picture", "a text-to-image pipeline (Stable Diffusion 2.1)"),
    "ImageVariation": ("is shown a picture in place of a text", "a text-to-image pipeline (Stable Diffusion 1.5)"),
    "ImageEmbed": ("is shown a picture in place of a text", "a text-to-image pipeline"),
    "Upscale": ("makes a large picture of a small one", f"{BASE} or any prior of large pictures, and --task sr4"),
    "InstructPix2Pix": (
        "is shown the picture that it edits",
        f"{BASE}, and a task or pairs of your own (docs/pairs.md)",
    ),
    "Depth2Img": ("is shown a map of depths", BASE),
    "Kontext": ("is shown the picture that it edits", "FLUX.1-dev"),
    "FluxFill": ("is shown the picture that it fills, and a mask", "FLUX.1-dev, and --task inpaint"),
    "FluxControl": ("is shown a map of edges or depths", "FLUX.1-dev"),
    "Redux": ("makes embeddings of a picture and no picture", "FLUX.1-dev"),
    "Kandinsky": ("is given the embedding of a picture, made by a model of its own", "a Stable Diffusion pipeline"),
    "IFPipeline": ("is DeepFloyd IF, whose stages this adapter does not read", "a Stable Diffusion pipeline"),
    "IFImg2Img": ("is DeepFloyd IF, whose stages this adapter does not read", "a Stable Diffusion pipeline"),
    "IFSuperResolution": ("is a stage of DeepFloyd IF, which is shown a small picture", "a prior, and --task sr4"),
    "SanaSprint": ("is a distilled model, which learned where a trajectory ends", "the Sana that it was made from"),
    "LatentConsistency": ("is a distilled model, which learned where a trajectory ends", BASE),
    "Video": ("makes films", "a pipeline for pictures"),
    "AnimateDiff": ("makes films", "a pipeline for pictures"),
}
"""Part of a pipeline's class -> why it is no prior here, what to take instead; the first that fits is said."""

CHANNELS: dict[int, tuple[str, str]] = {
    5: ("a depth model: it is shown a map of depths", BASE),
    7: ("an upscaler: it is shown a small picture", f"{BASE}, and --task sr4"),
    8: ("an editing model (instruct-pix2pix): it is shown the picture that it edits", f"{BASE}, and pairs of your own"),
    9: ("an inpainting model: it is shown a mask and the picture around it", f"{BASE}, and --task inpaint"),
}
"""Channels that a network of four latent channels takes -> what it is, what to take instead."""


def refuse(name: object, index: Mapping[str, Any], config: Config) -> None:
    """Raise `InputError` for a pipeline, or a network, that wants more than x_t, t and a text; says what it is, why,
    and what to take instead.

    index: its model_index.json. config: its network's config.json.
    """
    pipeline = str(index.get("_class_name", ""))
    for part, (why, instead) in PIPELINES.items():
        if part in pipeline:
            raise InputError(f"{name} is no prior of pictures alone: its {pipeline} {why}; take {instead}")
    kind, family = class_name(config), text_family(config)
    if family is None:
        text = text_parts(dict(index))
        if text and config:
            raise InputError(
                f"{name} is a text-conditional pipeline ({pipeline}, with {text[0]}) of a {kind}, and with a text these"
                f" are read: {', '.join(TEXT_FAMILIES)}, DiTTransformer2DModel; wrap others in FILE.py:FUNCTION, with"
                " the text held fixed in it"
            )
        return
    _refuse_channels(name, config, family.channels)
    if kind == "UNet2DConditionModel":
        _refuse_unet(name, config)


def _refuse_channels(name: object, config: Config, channels: Any) -> None:
    taken, out = channels(config) if channels is not None else (config.get("in_channels"), config.get("out_channels"))
    if not isinstance(taken, int) or not isinstance(out, int) or out in (taken, 2 * taken):
        return
    what, instead = "a model that is shown a further picture", BASE
    if out == 4:
        what, instead = CHANNELS.get(taken, (what, instead))
    raise InputError(f"{name} is {what} (it takes {taken} channels and returns {out}); take {instead}")


def _refuse_unet(name: object, config: Config) -> None:
    added, hidden = config.get("addition_embed_type"), config.get("encoder_hid_dim_type")
    classes = config.get("class_embed_type")
    sizes, whole = config.get("addition_time_embed_dim"), config.get("projection_class_embeddings_input_dim")
    if added not in (None, "text_time") or hidden not in (None, "text_proj"):
        what = f"is given an embedding of its own kind ({added or hidden}), as Kandinsky and DeepFloyd IF are"
    elif classes in ("projection", "simple_projection"):
        what = "is given the embedding of a picture as a class (unCLIP)"
    elif classes is not None or config.get("num_class_embeds"):
        what = "is given a class or a noise level beside the text, as upscalers are"
    elif config.get("time_cond_proj_dim"):
        what = "is given the guidance scale as a vector: it is a distilled model (latent consistency)"
    elif config.get("attention_type") == "gated":
        what = "takes boxes with a text for each (GLIGEN)"
    elif added == "text_time" and isinstance(sizes, int) and whole == 1280 + 5 * sizes:
        what = "is the refiner of Stable Diffusion XL, trained at low noise alone"
    else:
        return
    raise InputError(f"{name} is no prior of pictures and a text alone: its network {what}; take {BASE}")
