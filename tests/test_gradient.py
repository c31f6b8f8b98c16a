"""`pullback`: a derivative that can be differentiated again, and keeps nothing where it need not."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from deft.gradient import pullback

F64 = torch.float64


def f(x):
    return torch.stack([x.sin().sum(1), (x**3).prod(1)], 1)


def given():
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, generator=g, dtype=F64), torch.randn(4, 2, generator=g, dtype=F64)


def test_it_is_the_derivative_times_r():
    x, r = given()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: f(v[None])[0]))(x)
    found = pullback(f, x, r)
    torch.testing.assert_close(found, torch.einsum("bmd,bm->bd", jacobian, r))
    assert not found.requires_grad and not x.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(pullback(f, x, r), found)


def test_it_is_differentiated_in_both_where_they_belong_to_a_graph():
    x, r = given()
    assert torch.autograd.gradcheck(lambda a, b: pullback(f, a.tanh(), b), (x.requires_grad_(), r.requires_grad_()))
    assert torch.autograd.gradcheck(lambda b: pullback(f, x.detach(), b), (r,))
    with torch.no_grad():
        assert not pullback(f, x, r).requires_grad


def test_it_works_inside_a_checkpoint():
    """Where `torch.func.vjp` does not."""
    x, r = given()
    x.requires_grad_()

    def loss(v):
        return pullback(f, v.tanh(), r).square().sum()

    plain = torch.autograd.grad(loss(x), x)[0]
    torch.testing.assert_close(torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)[0], plain)


def test_a_function_that_does_not_look_at_x():
    x, r = given()
    assert pullback(lambda v: torch.ones(4, 2, dtype=F64), x, r).abs().sum() == 0
    half = pullback(lambda v: torch.stack([v[:, 0], 2 * v[:, 0]], 1), x, r)
    torch.testing.assert_close(half, torch.stack([r[:, 0] + 2 * r[:, 1], 0 * r[:, 0], 0 * r[:, 0]], 1))
