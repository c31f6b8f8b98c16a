"""Derivatives of users' functions, inside graphs that may be differentiated again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def again(*values: Tensor) -> bool:
    """Whether what is made of these may be differentiated: gradients are recorded, and one of them belongs to a
    graph."""
    return torch.is_grad_enabled() and any(v.requires_grad for v in values)


def pullback(f: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """f'(x)^T r, of the shape of x.

    Where gradients are recorded and x or r belongs to a graph, so does the result, as far as f has second derivatives
    in PyTorch: an objective that differentiates an h made of it is differentiated whole, also inside a checkpoint
    (where `torch.func.vjp` cannot be used). Elsewhere nothing is kept.

    Raises:
        RuntimeError: PyTorch's, of an f that cannot be differentiated.
    """
    if not torch.is_grad_enabled():
        return torch.func.vjp(f, x)[1](r)[0]
    twice = again(x, r)
    at = x if twice and x.requires_grad else x.detach().requires_grad_()
    # of the attentions the plain one alone has a second derivative
    with sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
        value = f(at)
    return torch.autograd.grad(value, at, r, create_graph=twice, materialize_grads=True)[0]
