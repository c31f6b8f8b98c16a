"""Short-time spectra of sounds: what metrics, pictures and the classifier of digits look at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIZE, HOP = 256, 64
"""Samples of a frame and from frame to frame: 32 and 8 ms at 8 kHz."""


def power(x: Tensor, size: int = SIZE, hop: int = HOP) -> Tensor:
    """|STFT|^2 of sounds [B, 1, L]: [B, size/2 + 1, frames], each frame under a Hann window of unit energy.

        P(f, t) = |sum_n w(n) x(t hop + n - size/2) exp(-2 pi i f n / size)|^2,    sum_n w(n)^2 = 1,

    so that white noise of variance 1 has P = 1 on average. There is silence outside of a sound; frame t is centred on
    sample t hop. Sounds shorter than half a frame have frames as well.

    >>> power(torch.ones(1, 1, 512)).shape
    torch.Size([1, 129, 9])
    """
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    window = window / window.square().sum().sqrt()
    padded = torch.nn.functional.pad(x.flatten(1), (size // 2, size // 2))
    frames = padded.unfold(1, size, hop) * window
    return torch.fft.rfft(frames).abs().square().mT


def mel_bands(bands: int, size: int, rate: int, like: Tensor) -> Tensor:
    """Weights [bands, size/2 + 1] of triangular bands, equally wide on the mel scale m = 2595 log10(1 + f / 700) from
    60 Hz to half the rate."""
    low, high = (2595 * math.log10(1 + f / 700) for f in (60.0, rate / 2))
    edges = 700 * (10 ** (torch.linspace(low, high, bands + 2, dtype=torch.float64) / 2595) - 1)
    f = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    up = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp_min(0).to(like)
