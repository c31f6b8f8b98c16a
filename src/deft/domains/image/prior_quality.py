"""How far samples of a prior are from real images, in a classifier's features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deft.domains.image.classifier import Classifier
from deft.domains.image.features import in_batches
from deft.domains.image.metrics import frechet_distance


def feature_report(classifier: Classifier, samples: Tensor, real: Tensor) -> dict[str, Any]:
    """Fréchet distance of samples to real images, next to that of two halves of the real ones."""
    n = min(len(samples), len(real) // 2)
    a, b = (in_batches(classifier.features, real[i * n : (i + 1) * n]) for i in (0, 1))
    c = in_batches(classifier.features, samples[:n].clamp(-1, 1))
    return {
        "features": str(classifier.card.get("name", "classifier")),
        "images": n,
        "samples_to_real": round((frechet_distance(c, a) + frechet_distance(c, b)) / 2, 5),
        "real_to_real": round(frechet_distance(a, b), 5),
    }
