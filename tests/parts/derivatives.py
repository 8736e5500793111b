"""First and second derivatives of a function of one array against finite differences, in both modes and batched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from bilevel.backends.torch_func.keyed import make_key, normal

Scalar = Callable[[Tensor], Tensor]


def check_derivatives(f: Scalar, at: Tensor, step: float = 1e-6, tolerance: float = 1e-6) -> None:
    """`f` gives one number; `at` is float64. Every entry of the gradient, two directions of the Hessian."""
    found = grad(f)(at)
    for place in range(at.numel()):
        move = torch.zeros_like(at).view(-1)
        move[place] = step
        move = move.view_as(at)
        expected = (f(at + move) - f(at - move)) / (2 * step)
        torch.testing.assert_close(found.reshape(-1)[place], expected, rtol=tolerance, atol=tolerance)
    directions = normal(make_key(7), 2, *at.shape, dtype=torch.float64)
    products = vmap(lambda d: jvp(grad(f), (at,), (d,))[1])(directions)
    for direction, product in zip(directions, products, strict=True):
        expected = (grad(f)(at + step * direction) - grad(f)(at - step * direction)) / (2 * step)
        torch.testing.assert_close(product, expected, rtol=10 * tolerance, atol=10 * tolerance)
        torch.testing.assert_close(product, grad(lambda x, d=direction: (grad(f)(x) * d).sum())(at))


def check_finite(f: Scalar, at: Tensor) -> None:
    """Value, gradient and curvature are finite, and so is what two jvps of a gradient give under vmap."""
    assert bool(torch.isfinite(f(at)).all())
    assert bool(torch.isfinite(grad(f)(at)).all())
    direction = normal(make_key(3), *at.shape, dtype=at.dtype)
    assert bool(torch.isfinite(jvp(grad(f), (at,), (direction,))[1]).all())
