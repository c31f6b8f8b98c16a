"""Train the classifier whose features the reports use (about two minutes on two cores).

apt-get install dataset-fashion-mnist
python examples/fashion/train_classifier.py src/deft/evaluate/weights/fashion-classifier.safetensors
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from fashion_mnist import DEBIAN, read

from deft.domains.image.classifier import accuracy, labels_from, save_classifier, to_range, train_classifier
from deft.domains.image.features import calibrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of the four .gz files")
    parser.add_argument("--epochs", type=float, default=6)
    options = parser.parse_args()

    (train, train_labels), (test, test_labels) = read("train", options.source), read("t10k", options.source)
    started = time.monotonic()
    net = train_classifier(torch.from_numpy(train.copy()), labels_from(train_labels), epochs=options.epochs)
    seconds = time.monotonic() - started
    held_out = to_range(torch.from_numpy(test.copy()))
    calibrate(net, held_out)
    score = accuracy(net, held_out, labels_from(test_labels))
    noise = 0.1 * torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0))
    noisy = accuracy(net, held_out + noise, labels_from(test_labels))
    save_classifier(
        options.out,
        net,
        name="fashion-classifier",
        data="Fashion-MNIST train split, 60,000 images padded to 32 x 32 (Zalando SE, MIT licence)",
        licence="Apache-2.0",
        recipe=(
            f"{options.epochs:g} epochs of 128, AdamW, lr 3e-3, cosine, label smoothing 0.05, shift 2, mirror, noise"
            " <= 0.1"
        ),
        parameters=sum(p.numel() for p in net.parameters()),
        test_accuracy=round(score, 4),
        test_accuracy_noise_01=round(noisy, 4),
        unit="mean distance between two random test images",
    )
    print(
        f"accuracy {score:.4f} on 10,000 test images, {noisy:.4f} under noise of 0.1; unit {float(net.unit):.3f};"
        f" {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
