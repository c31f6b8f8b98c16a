"""A linear map of the channels at each place of a grid: what a measurement says of each latent, once it is made one of
the latents (`deft.prior.latent_surrogate`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Operator, Spectrum
from deft.errors import ContractError
from deft.printing import short


class ChannelMap(LinearOperator):
    """y[:, i, j] = A_k x[:, i, j] with k the kind of the place (i, j): one c x c matrix for each kind.

    A_k = 0 for places where nothing was measured. All solves are closed forms, by the singular values of A_k.

    Args:
        matrices: A_k, [B or 1, K, c, c].
        kinds: of each place, [B or 1, h, w], whole numbers below K.
        views: what `features` shows a network, [B or 1, F c, h, w].
        operator: what the measurement was made by, and so belongs to; it measures nothing here.

    >>> import deft
    >>> A = torch.stack([torch.zeros(2, 2), torch.eye(2)])[None]
    >>> some = ChannelMap(A, torch.tensor([[[0, 1]]]), torch.ones(1, 2, 1, 2))
    >>> deft.testing.check_operator(some, (2, 1, 2))
    >>> some(torch.ones(1, 2, 1, 2))[0, :, 0]
    tensor([[0., 1.],
            [0., 1.]])
    """

    per_sample = ("matrices", "kinds", "views", "_left", "_values", "_right")
    sample_axes = measured_axes = "B, c, h, w"

    def __init__(self, matrices: Tensor, kinds: Tensor, views: Tensor, operator: Operator | None = None):
        if matrices.ndim != 4 or matrices.shape[2] != matrices.shape[3] or not bool(torch.isfinite(matrices).all()):
            raise ContractError(f"ChannelMap needs finite matrices [B or 1, K, c, c], got {short(matrices)}")
        if kinds.ndim != 3 or kinds.is_floating_point() or not bool(((kinds >= 0) & (kinds < matrices.shape[1])).all()):
            raise ContractError(f"ChannelMap needs kinds [B or 1, h, w] from 0 to {matrices.shape[1] - 1}, got {kinds}")
        self.matrices, self.kinds, self.views, self.operator = matrices, kinds, views, operator
        left, values, right = torch.linalg.svd(matrices.double())
        self._left, self._values, self._right = (v.to(matrices.dtype) for v in (left, values, right.mT.contiguous()))
        self.feature_channels = views.shape[1] // matrices.shape[2]

    def _with(self, out: ChannelMap, operator: Operator | None) -> ChannelMap:
        out.operator = operator
        return out

    def __getitem__(self, index: Any) -> ChannelMap:
        return self._with(super().__getitem__(index), None if self.operator is None else self.operator[index])

    def repeat(self, n: int) -> ChannelMap:
        return self._with(super().repeat(n), None if self.operator is None else self.operator.repeat(n))

    def to(self, device: torch.device | str) -> ChannelMap:
        return self._with(super().to(device), None if self.operator is None else self.operator.to(device))

    def _at(self, table: Tensor, like: Tensor) -> Tensor:
        """A table [B or 1, K, ...] at each place, [B or 1, h, w, ...]."""
        table = table.to(like.dtype)
        if table.shape[0] == 1:
            return table[0][self.kinds]
        return table[torch.arange(table.shape[0], device=table.device)[:, None, None], self.kinds]

    def _apply(self, table: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("bhwij,bjhw->bihw", self._at(table, x), x)

    def _singular(self, x: Tensor) -> Tensor:
        return self._at(self._values, x).movedim(-1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(self.matrices, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._apply(self.matrices.mT, y)

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        inside = self._apply(self._left.mT, r) / (noise + gram * self._singular(r).square())
        return self._apply(self._left, inside)

    def _seen(self, y: Tensor) -> Tensor:
        return (self._singular(y).amax(1, keepdim=True) > 0).to(y.dtype)

    def measured_part(self, y: Tensor) -> Tensor:
        return self._seen(y) * y

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self._seen(y).expand_as(y).flatten(1).sum(1)

    def _inverse(self, y: Tensor) -> Tensor:
        """S^+ U^T y."""
        s = self._singular(y)
        keep = s > 1e-6 * s.amax(1, keepdim=True)
        return torch.where(keep, self._apply(self._left.mT, y) / s.clamp_min(1e-30), 0.0)

    def pinv(self, y: Tensor) -> Tensor:
        return self._apply(self._right, self._inverse(y))

    def features(self, y: Tensor) -> Tensor:
        return self.views.to(y.dtype).expand(len(y), -1, -1, -1)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """The basis is that of each place: K = (c, h, w)."""
        values = self._singular(like)
        return Spectrum(
            values,
            lambda x: self._apply(self._right.mT, x),
            lambda c: self._apply(self._right, c),
            self._inverse,
        )
