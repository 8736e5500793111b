"""Equations solved by a dense Jacobian: the derivative of a solution, linear systems, and minima."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.reference.trees import Tree, detached, filled, flat, node, unflat


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


def minimum(both: Callable[[Tree], tuple[Tensor, Tree]], x: Tree, steps: int = 200) -> Tree:
    """Where the gradient vanishes to rounding, downhill from `x`; without derivatives.

    `both` gives value and gradient. Newton's method with the Hessian shifted until it is positive definite, and the
    step halved until the value falls (Nocedal and Wright 2006, algorithm 3.2). Cost: one dense Hessian a step.
    """
    x = detached(x)
    for _ in range(steps):
        at = node(flat(x))
        value, gradient = both(unflat(x, at))
        row = flat(gradient)
        if float(row.detach().abs().max()) < 1e-14:
            break
        moved = _fallen(both, x, _downhill(jacobian(row, at).detach(), row.detach()), float(value.detach()), row)
        if moved is None:
            break
        x = moved
    return x


def _downhill(hessian: Tensor, row: Tensor) -> Tensor:
    """Newton's direction of the Hessian, shifted where it has a direction that does not curve up."""
    least = float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[0])
    shift = max(0.0, 1e-3 - least) if least <= 0 else 0.0
    direction: Tensor = -torch.linalg.solve(hessian + shift * torch.eye(len(row), dtype=torch.float64), row)
    return direction


def _fallen(
    both: Callable[[Tree], tuple[Tensor, Tree]], x: Tree, direction: Tensor, value: float, row: Tensor
) -> Tree | None:
    """The longest of steps 1, 1/2, 1/4, ... that goes down; None where there is none.

    Down: the value falls, or near the minimum, where values are all rounding, the gradient is halved.
    """
    for halvings in range(40):
        moved = unflat(x, flat(x) + direction / 2**halvings)
        new, slope = both(moved)
        if float(new.detach()) < value or 2 * flat(slope).detach().abs().max() < row.detach().abs().max():
            return moved
    return None
