"""What tests share: tiny priors with random weights, pictures, `run` of the command line, and a world of three
numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deft import Gaussian, Matrix, Noise, Observation, VPCosine
from deft.cli import main
from deft.core.schedule import Schedule
from deft.domains.image.prior import ImagePrior
from deft.guidance.exact import Mixture
from deft.nn import UNet
from deft.testing import MixtureWorld


def toy_prior(path: Path, side: int = 16, channels: int = 1, seed: int = 0, schedule: Schedule | None = None) -> Path:
    """An untrained prior of 0.15 M parameters as a file."""
    torch.manual_seed(seed)
    net = UNet(channels, channels, (24, 32), patch=4)
    torch.nn.init.normal_(net.outlet.weight, std=0.05)
    ImagePrior(net, schedule or VPCosine(), (channels, side, side)).save(path, name=path.stem)
    return path


def pictures(n: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """uint8 [n, side, side] smooth random pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (n, 4, 4))
    return np.kron(coarse, np.ones((side // 4, side // 4))).astype(np.uint8)


def save_pictures(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command line."""
    capsys.readouterr()
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments: object) -> str:
    """The one line a command that cannot go on prints."""
    code, _, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("step ")]
    assert code == 2, (code, err)
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err
    return lines[0]


def result(capsys, *arguments: object) -> dict:
    """What a command prints with --json; nothing else may be on standard output."""
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    assert len(out.strip().splitlines()) == 1
    return json.loads(out)


F64 = torch.float64


def tensor(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=F64)


THREE = MixtureWorld(
    Mixture(tensor(1.0), tensor([0.3, -0.2, 0.1]), 0.25 * tensor([[1.0, 0.5, 0.2], [0.5, 0.8, 0.3], [0.2, 0.3, 0.6]]))
)
"""Three correlated numbers; `THREE_PRIOR` under a cosine schedule, `THREE_SEEN` two measurements of them in one."""
THREE_PRIOR = THREE.prior(VPCosine())
THREE_SEEN = Observation(
    tensor([0.9, -0.6]), Gaussian(Matrix(tensor([1.0, 0.5, 0.0], [0.0, -0.5, 1.0])), torch.tensor(0.2, dtype=F64))
)


class DoubleNoise(Noise):
    """The numbers of `Noise`, which are float32, as float64: for formulas that are written out in float64."""

    def normal(self, shape, *, device="cpu"):
        return super().normal(shape, device=device).double()

    def uniform(self, shape=(), *, device="cpu"):
        return super().uniform(shape, device=device).double()
