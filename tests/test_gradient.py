"""`pullback`: a derivative that can be differentiated again, and keeps nothing where it need not."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from deft.core.autodiff import pullback
from deft.likelihood import Reward
from deft.operator import Linear

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


def test_a_function_that_cannot_be_differentiated_is_an_error_and_no_zero():
    x, r = given()
    for cut in (lambda v: torch.ones(4, 2, dtype=F64), lambda v: f(v.detach())):
        with pytest.raises(RuntimeError, match="grad"):
            pullback(cut, x, r)
    with pytest.raises(RuntimeError, match="grad"):
        Reward(torch.no_grad()(lambda v: v.sum(1)), 1.0, (3,)).score(torch.zeros(4, 1), x)


def test_without_gradients_it_is_as_composable_as_the_function():
    x, r = given()
    with torch.inference_mode():
        torch.testing.assert_close(pullback(f, x, r), pullback(f, x.clone(), r))
        torch.testing.assert_close(
            Linear(lambda v: v @ torch.eye(3, 2, dtype=F64), (3,)).adjoint(r), r @ torch.eye(2, 3, dtype=F64)
        )
    with torch.no_grad():
        torch.testing.assert_close(
            torch.func.vmap(lambda a, b: pullback(f, a[None], b[None])[0])(x, r), pullback(f, x, r)
        )


def test_attention_has_a_second_derivative():
    """The fast ones have none."""

    def attend(v):
        z = v.reshape(1, 1, 4, 3)
        return torch.nn.functional.scaled_dot_product_attention(z, 2 * z, z.sin()).reshape(4, 3)

    x, _ = given()
    assert torch.autograd.gradcheck(
        lambda a: pullback(attend, a.tanh(), torch.ones(4, 3, dtype=F64)), (x.requires_grad_(),)
    )


def test_a_part_of_x_may_be_looked_at():
    x, r = given()
    half = pullback(lambda v: torch.stack([v[:, 0], 2 * v[:, 0]], 1), x, r)
    torch.testing.assert_close(half, torch.stack([r[:, 0] + 2 * r[:, 1], 0 * r[:, 0], 0 * r[:, 0]], 1))
