"""Networks of diffusers as net(x, t): without conditions, or with a class held fixed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from deft.errors import InputError
from deft.prior.families import Given
from deft.prior.labels import NONE, null_class
from deft.prior.prompted import Prompted


class Sample(nn.Module):
    """model(x, t).sample, the calling convention of diffusers, as net(x, t)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.model(x, time, return_dict=False)[0]


def with_label(
    name: object, model: nn.Module, config: dict[str, Any], label: int | str | None, scale: float = 1.0
) -> tuple[nn.Module, int | None, list[str]]:
    """The model as net(x, t), with its class held fixed if it has classes, and what there is to say of the class.

    scale: of guidance, away from the class for none; 1: no guidance.
    """
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    classes = classes if classes and "class_labels" in inspect.signature(model.forward).parameters else None
    if not classes:
        if label is not None:
            raise InputError(
                f"{name} takes no class (a {type(model).__name__} without classes), got label={label}: give no label"
            )
        if scale > 1:
            raise InputError(
                f"{name} is neither text- nor class-conditional (a {type(model).__name__}), and guidance needs a"
                f" condition: leave guidance_scale={scale:g} out"
            )
        return Sample(model), None, []
    tables = [
        m.num_embeddings
        for m in model.modules()
        if isinstance(m, nn.Embedding) and m.num_embeddings in (classes, classes + 1)
    ]
    rows = max(tables, default=int(classes))
    none = null_class(rows, int(classes))
    if label == NONE:
        if none is None:
            raise InputError(
                f"{name} has {rows} classes, and nothing says that one of them stands for none: if it was trained with"
                f" one, give its number as label; else give label=0..{rows - 1}"
            )
        label = none
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < rows:
        also = f"; label={NONE} (class {none}) is the unconditional prior" if none is not None else ""
        last = rows - 1 if none is None else none - 1
        raise InputError(
            f"{name} is class-conditional: give label, a whole number from 0 to {last} (got {label}){also}"
        )
    if scale > 1 and (none is None or label == none):
        raise InputError(
            f"guidance_scale={scale:g} leads away from the class for none, and {name} has none such, or label is it:"
            " leave guidance_scale out"
        )
    if scale > 1:
        given, against = ({"class_labels": torch.tensor([k])} for k in (label, none))
        return (
            Prompted(model, _classed, given, against, scale, {"label": label, "guidance_scale": scale}),
            label,
            _note(label, classes),
        )
    if label == none:
        return (
            Labelled(model, label),
            label,
            [f"class {label} of {rows} is taken for the one that stands for none: this is the unconditional prior"],
        )
    return Labelled(model, label), label, _note(label, classes)


def _note(label: int, classes: int) -> list[str]:
    return [f"class {label} of {classes}: the card of an h fitted to this prior should say so"]


def _classed(model: nn.Module, x: Tensor, time: Tensor, given: Given) -> Tensor:
    return model(x, time, class_labels=given["class_labels"], return_dict=False)[0]


class Labelled(nn.Module):
    """A class-conditional model with its class held fixed."""

    def __init__(self, model: nn.Module, label: int):
        super().__init__()
        self.model = model
        self.label: Tensor
        self.register_buffer("label", torch.tensor([label]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.model(x, time, class_labels=self.label.expand(x.shape[0]), return_dict=False)[0]
