"""Classes of class-conditional models, and the one that stands for none."""

from __future__ import annotations

NONE = "none"
"""The label of the class that stands for none: with it a class-conditional model is the unconditional prior."""

COUNTS = (10, 100, 1000)
"""Numbers of classes after which one row more is the class for none (CIFAR, ImageNet)."""


def null_class(rows: int, classes: int | None) -> int | None:
    """The class for none among `rows` rows of a table of embeddings: the row after the last class, if there is one.

    classes: how many classes the files state; None where nothing does, and only the usual counts tell.

    >>> null_class(1001, 1000), null_class(1000, 1000), null_class(1001, None), null_class(1000, None)
    (1000, None, 1000, None)
    """
    stated = classes if classes is not None and rows != classes else None
    if stated is None:
        stated = rows - 1 if rows - 1 in COUNTS else rows
    return stated if rows > stated else None
