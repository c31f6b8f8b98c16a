"""The network of a blur-kernel space (Tran, Tran, Phung & Hoai 2021, "Explore image deblurring via encoded blur kernel
space").

Written from the layout of its published checkpoints (github.com/VinAIResearch/blur-kernel-space-exploring, Apache-2.0),
so that a file such as GOPRO_wVAE.pth loads name for name. An image u in [0, 1] and a code k of a blur give

    G(u, k) = u + decode(adapt(encode(u), k)).

The extractor, which reads a code off a sharp and a blurred picture, is here as well: it is part of the files, and a
strict load wants it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEPTH = 5
"""Halvings of the adapter, behind the encoder's two: the code of a picture has its sides over 2^7."""


class Residual(nn.Module):
    """x + conv(relu(conv(x))), with biases."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class Reflected(nn.Module):
    """x + conv(relu(conv(x))), edges mirrored, no biases."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, bias=False) for _ in range(2)]
        pads = [nn.ReflectionPad2d(1) for _ in range(2)]
        self.conv_block = nn.Sequential(pads[0], convs[0], nn.Identity(), nn.ReLU(), pads[1], convs[1], nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Level(nn.Module):
    """A level of the adapter: down, what lies below (or, at the bottom, the code beside it), and up again.

    inner levels put a leaky ReLU first and hand their input on beside what comes up. What they hand on has gone through
    that ReLU: the published code computes it in place, and the weights were trained so.
    """

    def __init__(self, outer: int, inner: int, below: Level | None = None, top: bool = False):
        super().__init__()
        self.top = top
        down = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        self.down = nn.Sequential(down) if top else nn.Sequential(nn.LeakyReLU(0.2), down)
        if below is not None:
            self.submodule = below
        rise = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=top)
        self.up = nn.Sequential(nn.ReLU(), rise, nn.Tanh() if top else nn.Identity())
        self.bottom = below is None

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        z = self.down(x)
        z = self.up(torch.cat([z, code], dim=1) if self.bottom else self.submodule(z, code))
        return z if self.top else torch.cat([z, F.leaky_relu(x, 0.2)], dim=1)


class Adapter(nn.Module):
    """Levels of widths w, w, 2w, 4w, 8w, 8w; the code has 8w channels."""

    def __init__(self, w: int):
        super().__init__()
        level = Level(8 * w, 8 * w)
        for outer, inner in ((4, 8), (2, 4), (1, 2)):
            level = Level(outer * w, inner * w, level)
        self.model = Level(w, w, level, top=True)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.model(x, code)


class Extractor(nn.Module):
    """(mean, logarithm of the variance) of the code, from the encodings of a sharp and a blurred picture."""

    def __init__(self, w: int, blocks: int):
        super().__init__()
        most = 2 * 8 * w
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(2 * w, w, 7, bias=False), nn.Identity(), nn.ReLU()]
        for i in range(DEPTH):
            layers += [
                nn.Conv2d(min(w * 2**i, most), min(w * 2 ** (i + 1), most), 3, stride=2, padding=1, bias=False),
                nn.Identity(),
                nn.ReLU(),
            ]
        self.model = nn.Sequential(*layers, *(Reflected(most) for _ in range(blocks)))

    def forward(self, sharp: Tensor, blurred: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.model(torch.cat([sharp, blurred], dim=1)).chunk(2, dim=1)
        return mean, log_variance


class BlurSpaceNet(nn.Module):
    """G(u, k) for u [B, channels, H, W] in [0, 1] and codes k [B, 8 width, H/128, W/128] (Tran et al. 2021).

    Args (defaults: those of the published files for the GoPro and REDS data):
        channels, width: of the images, of the features. front, back, blocks: residual blocks of encoder, decoder and
            extractor.
    """

    def __init__(self, channels: int = 3, width: int = 64, front: int = 10, back: int = 20, blocks: int = 4):
        super().__init__()
        leak = nn.LeakyReLU(0.1)

        def halve() -> nn.Module:
            return nn.Conv2d(width, width, 3, stride=2, padding=1)

        def grow(outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(width, 4 * outputs, 3, padding=1), nn.PixelShuffle(2), leak]

        first = nn.Conv2d(channels, width, 3, padding=1)
        self.feature_extractor = nn.Sequential(
            first, leak, halve(), leak, halve(), leak, *(Residual(width) for _ in range(front))
        )
        self.kernel_extractor = Extractor(width, blocks)
        self.adapter = Adapter(width)
        end = [nn.Conv2d(width, width, 3, padding=1), leak, nn.Conv2d(width, channels, 3, padding=1)]
        self.recon_trunk = nn.Sequential(*(Residual(width) for _ in range(back)), *grow(width), *grow(width), *end)
        self.channels, self.code_width, self.multiple_of = channels, 8 * width, 4 * 2**DEPTH

    def forward(self, u: Tensor, code: Tensor) -> Tensor:
        return u + self.recon_trunk(self.adapter(self.feature_extractor(u), code))

    def encode(self, sharp: Tensor, blurred: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, logarithm of the variance) of the code of the blur between two pictures."""
        return self.kernel_extractor(self.feature_extractor(sharp), self.feature_extractor(blurred))
