"""A camera in motion: blur that varies over the picture, then an exposure that saturates and a tone curve."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.operator import Operator
from deft.core.random import generator
from deft.errors import ContractError, InputError


class Camera(Operator):
    """y = 2 f(min(e, 1)) - 1, e = exposure B u, u = (x + 1)/2: non-linear deblurring with known optics.

    B u (p) = sum_k w_k(p) (kernel_k * u)(p): `kernels` blurs, each the path of a shaken camera through a disc of
    defocus, mixed by smooth weights with sum_k w_k = 1; edges are repeated outwards. Light above e = 1 saturates the
    sensor, whose tone curve is f(e) = asinh(curve e) / asinh(curve). For images [B, C, H, W] in [-1, 1]; y has the same
    shape.

    Everything is drawn once from `seed` and kept in the operator: the same arguments are the same camera.

    Args:
        side: width of the kernels in pixels, odd; at most the image's sides.
        kernels: how many.
        exposure: above 1, the brightest parts saturate.
        curve: how far the tone curve bends; its slope falls from curve / asinh(curve) at black to about 1 /
            asinh(curve).

    Raises (when called): ContractError for images that are smaller than the kernels.
    """

    feature_channels = 2
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, side: int = 9, kernels: int = 4, exposure: float = 1.4, curve: float = 8.0, seed: int = 0):
        if side < 3 or side % 2 == 0 or kernels < 1:
            raise InputError(f"Camera needs an odd side of at least 3 and 1 kernel or more, got {side} and {kernels}")
        if not (0 < exposure < math.inf and 0 < curve < math.inf):
            raise InputError(f"Camera needs a finite exposure and curve above 0, got {exposure} and {curve}")
        self.side, self.exposure, self.curve, self.seed = side, exposure, curve, seed
        self.kernels = torch.stack([shake(side, seed, k) for k in range(kernels)])
        self.anchors = torch.rand((kernels, 2), generator=generator(seed, kernels), dtype=torch.float32) * 2 - 1
        self._known: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """w [1, K, H, W], and what B^T makes of a white image, [1, 1, H, W]."""
        height, width = x.shape[-2:]
        key = (height, width, x.dtype, x.device)
        if key not in self._known:
            if x.ndim != 4 or min(height, width) < self.side:
                raise ContractError(
                    f"Camera with kernels of {self.side} needs images [B, C, H, W] of at least that size, got"
                    f" {tuple(x.shape)}"
                )
            rows, columns = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width))
            places = self.anchors.double().cpu()
            far = (rows[:, None] - places[:, 0, None, None]) ** 2 + (columns - places[:, 1, None, None]) ** 2
            w = torch.softmax(-4 * far, dim=0)[None].to(x)
            self._known[key] = w, self._spread(torch.ones(1, 1, height, width, dtype=x.dtype, device=x.device), w)
        return self._known[key]

    def blur(self, u: Tensor) -> Tensor:
        """B u."""
        w, _ = self._weights(u)
        padded = F.pad(u.flatten(0, 1)[:, None], (self.side // 2,) * 4, mode="replicate")
        return (w * F.conv2d(padded, self.kernels.to(u)[:, None])).sum(1).unflatten(0, u.shape[:2])

    def blur_adjoint(self, v: Tensor) -> Tensor:
        """B^T v."""
        return self._spread(v, self._weights(v)[0])

    def _spread(self, v: Tensor, w: Tensor) -> Tensor:
        p = self.side // 2
        out = F.conv2d(w * v.flatten(0, 1)[:, None], self.kernels.to(v).flip((-2, -1))[None], padding=self.side - 1)
        for dim in (-2, -1):  # what fell outside belongs to the edge that was repeated there
            first, middle, last = out.split([p, out.shape[dim] - 2 * p, p], dim)
            n = middle.shape[dim]
            head = middle.narrow(dim, 0, 1) + first.sum(dim, keepdim=True)
            tail = middle.narrow(dim, n - 1, 1) + last.sum(dim, keepdim=True)
            out = torch.cat([head, middle.narrow(dim, 1, n - 2), tail], dim)
        return out[:, 0].unflatten(0, v.shape[:2])

    def _light(self, x: Tensor) -> Tensor:
        return self.exposure * self.blur((x + 1) / 2)

    def _tone(self, e: Tensor) -> Tensor:
        return 2 * torch.asinh(self.curve * e) / math.asinh(self.curve) - 1

    def _slope(self, e: Tensor) -> Tensor:
        return 2 * self.curve / math.asinh(self.curve) * (1 + (self.curve * e).square()).rsqrt()

    def _untone(self, y: Tensor) -> Tensor:
        """The light e of a sensor that read y; at most 1."""
        return torch.sinh((y.clamp_max(1) + 1) / 2 * math.asinh(self.curve)) / self.curve

    def __call__(self, x: Tensor) -> Tensor:
        return self._tone(self._light(x).clamp_max(1))

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """A'(x)^T r; 0 from pixels that are saturated."""
        e = self._light(x)
        return self.blur_adjoint(torch.where(e <= 1, self._slope(e) * r, 0.0)) * self.exposure / 2

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 C^-1 B^T [s q / (noise + rho2 s^2)], q = y - A(x): a guidance map, no gradient.

        s is the slope of the tone curve's chord between the light that was seen and the light that x sends, both at
        most 1, in place of the derivative: a saturated pixel that should not be comes down, and one that should be
        saturated rises to the limit. C = B^T 1 bounds B: no eigenvalue of B C^-1 B^T exceeds 1. So the move stays
        bounded for noise -> 0, where it is one step of the simultaneous reconstruction technique (SIRT) on the inverted
        curve.
        """
        _, c = self._weights(x)
        here = self._light(x).clamp_max(1)
        seen = self._untone(r + self._tone(here))
        q, gap = self._tone(seen) - self._tone(here), seen - here
        flat = gap.abs() < 1e-4
        s = torch.where(flat, self._slope(here), q / torch.where(flat, 1.0, gap)) * self.exposure / 2
        return rho2 / c * self.blur_adjoint(s * q / (noise + rho2 * s**2))

    def pinv(self, y: Tensor) -> Tensor:
        """The picture with its tone curve undone, still blurred; what was saturated is at the limit."""
        return 2 * self._untone(y) / self.exposure - 1

    def picture(self, y: Tensor) -> Tensor:
        return y

    def features(self, y: Tensor) -> Tensor:
        """`pinv(y)`, and a sharper picture after ten such steps from there that take y for almost free of noise: [B,
        2C, H, W]."""
        x = start = self.pinv(y)
        noise, rho2 = y.new_tensor(1e-2), y.new_tensor(1.0)
        for _ in range(10):
            x = x + self.approx_mean_update(x, y - self(x), noise, rho2)
        return torch.cat([start, x], dim=1)


def shake(side: int, *key: int) -> Tensor:
    """A kernel [side, side] of sum 1: a smooth random path, centred, through a disc of random radius."""
    g = generator(*key)
    p, n = side // 2, 64
    turn = torch.cumsum(torch.randn(n, generator=g, dtype=torch.float32) * 0.25, 0) + 2 * math.pi * torch.rand(
        1, generator=g, dtype=torch.float32
    )
    path = torch.cumsum(torch.stack([turn.cos(), turn.sin()], 1), 0)
    path = path - path.mean(0)
    disc, length = torch.rand(2, generator=g, dtype=torch.float32).tolist()
    radius = 0.5 + disc * p / 4
    reach = (0.6 + 0.4 * length) * (p - radius)
    path = path * (reach / path.norm(dim=1).max())
    i = torch.arange(-p, p + 1.0)
    far = ((i[:, None, None] - path[:, 0]) ** 2 + (i[None, :, None] - path[:, 1]) ** 2).sqrt()
    kernel = (radius + 0.5 - far).clamp(0, 1).sum(-1)
    return kernel / kernel.sum()
