"""Derivatives of users' functions, inside graphs that may be differentiated again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pullback(f: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """f'(x)^T r, of the shape of x.

    Where gradients are recorded and x or r belongs to a graph, so does the result: an objective that differentiates an h made of it is differentiated whole, also
    inside a checkpoint (`torch.func.vjp` cannot be used there). Elsewhere nothing is kept.
    """
    again = torch.is_grad_enabled() and (x.requires_grad or r.requires_grad)
    with torch.enable_grad():
        at = x if again and x.requires_grad else x.detach().requires_grad_()
        value = f(at)
        if not value.requires_grad:  # f does not depend on x
            return torch.zeros_like(x)
        return torch.autograd.grad(value, at, r, create_graph=again, materialize_grads=True)[0]
