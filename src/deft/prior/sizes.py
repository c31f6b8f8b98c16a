"""Published networks at another size of images than they were trained on.

A network of convolutions takes any size, a multiple of what it halves. For other sizes the image is padded and the
output cropped (`deft.nn.padding`); no author of the network decided that, so it is part of the prior's `describe`, and
with it of its fingerprint. A table of positions has one size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from deft.errors import InputError
from deft.io.sizes import say_size
from deft.nn.padding import PADDING, Padded

TABLES = ("DiTTransformer2DModel", "Transformer2DModel")
"""Classes of diffusers whose positions are a table."""


def padding_of(sides: Sequence[int], multiple: int) -> dict[str, Any]:
    """What a prior says of its padding: nothing, where there is none.

    >>> padding_of((32, 48), 8), padding_of((33, 48), 8)
    ({}, {'padding': 'mirror'})
    """
    return {"padding": PADDING} if any(side % multiple for side in sides) else {}


def model_at_size(
    name: object, net: nn.Module, config: Mapping[str, Any], stated: Sequence[int] | None, shape: Sequence[int]
) -> nn.Module:
    """A network of diffusers for samples of a shape, padded where it must be.

    Args:
        stated: the shape of which its config speaks, if it does.

    Raises:
        InputError: another one, of a network with a table of positions.
    """
    kind = str(config.get("_class_name"))
    other = stated is not None and tuple(stated) != tuple(shape)
    if other and kind in TABLES and stated is not None:
        raise InputError(
            f"{name} ({kind}) has a table of positions for {'x'.join(map(str, stated[1:]))}, and was not trained for"
            f" {'x'.join(map(str, shape[1:]))}: leave event_shape out"
        )
    if stated is not None and other and len(stated) == len(shape) and stated[0] == shape[0]:
        say_size(str(name), stated, shape)
    multiple = 2 ** (len(config.get("block_out_channels") or (1,)) - 1) if kind == "UNet2DModel" else 1
    return Padded(net, multiple) if len(shape) == 3 and padding_of(shape[1:], multiple) else net
