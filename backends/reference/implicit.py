"""Equations solved by a dense Jacobian: the derivative of a solution, and linear systems."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.reference.scope import Scope
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import Tree, filled, flat, node, unflat
from bilevel.dsl.datatypes import Array, Type


def jacobian(row: Tensor, at: Tensor) -> Tensor:
    """The derivative of every entry of `row` in every entry of the node `at`, entry by entry; differentiable."""
    found = [torch.autograd.grad(entry, at, create_graph=True, allow_unused=True)[0] for entry in row]
    return torch.stack([filled(d, at) for d in found])


def newton(residual: Callable[[Tree], Tree], x: Tree) -> Tree:
    """One step of Newton's method: x - (dr/dx)^-1 r, differentiable in all that the residual reads.

    At a root the value stays, and the result has the derivative of the root (implicit function theorem). A second
    step from there has the second and third derivative as well: the error of Newton's method is squared, in the
    parameters too. For a linear residual one step from anywhere is the root with all derivatives.
    """
    at = node(flat(x))
    row = flat(residual(unflat(x, at)))
    return unflat(x, at - torch.linalg.solve(jacobian(row, at), row))


def zeros_of(type_: Type, scope: Scope) -> Tensor:
    """Zeros in the shape of an array type."""
    if not isinstance(type_, Array):
        raise Unsupported("closed forms of trees")
    return torch.zeros(tuple(scope.whole(s) for s in type_.shape), dtype=torch.float64)
