"""L-BFGS for stationary points, one problem for each copy, all copies evaluated together.

Written here because scipy's and torch's own take one problem at a time: thirty copies would be thirty runs, one
evaluation each where one batched evaluation does for all. Only forward: what it ends at is differentiated as an
implicit function, whatever the way there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.torch_func.linear import any_left, flat, unflat
from bilevel.backends.torch_func.tree import Tree

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
Pair = tuple[Tensor, Tensor, Tensor]


def lbfgs(
    evaluate: Callable[[Tree], tuple[Tensor, Tree]], x: Tree, depth: int, history: int, tol: float, steps: int
) -> Tree:
    """Where no entry of the gradient is above `tol` for any copy, or the point after `steps` steps.

    `evaluate` gives values real[*copies] and gradients; copies are the first `depth` axes of every leaf.
    Invariant: no copy's value rises (beyond rounding); a copy that has met `tol`, or cannot descend, stays as it is.
    Cost: about one evaluation a step, memory 2 * history vectors. Source: Nocedal and Wright 2006, algorithm 7.5.
    """

    def at(point: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = evaluate(unflat(point, x, depth))
        return value.detach(), flat(gradient, depth).detach()

    point = flat(x, depth).detach()
    value, gradient = at(point)
    pairs: list[Pair] = []
    stuck = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(steps):
        active = (gradient.abs().amax(-1) > tol) & ~stuck
        if not any_left(active):
            break
        direction = quasi_newton(gradient, pairs)
        length, moved, risen = line_search(at, point, value, gradient, direction, active)
        pairs = [*pairs, curvature_pair(moved - point, risen[1] - gradient)][-history:]
        stuck = stuck | (active & (length == 0))
        point, value, gradient = moved, *risen
    return unflat(point, x, depth)


def curvature_pair(step: Tensor, change: Tensor) -> Pair:
    """A step with the change of the gradient and one over their product; 0, not used, where that is no curvature."""
    product = (step * change).sum(-1)
    noise = torch.finfo(step.dtype).eps * step.norm(dim=-1) * change.norm(dim=-1)
    good = product > noise
    return step, change, torch.where(good, 1.0 / torch.where(good, product, torch.ones_like(product)), 0.0 * product)


def quasi_newton(gradient: Tensor, pairs: list[Pair]) -> Tensor:
    """Minus the inverse Hessian's estimate times the gradient, by the two loops (algorithm 7.4).

    Steepest descent, at most one long, for copies without a pair; and where the direction would not descend.
    """
    size = gradient.norm(dim=-1, keepdim=True)
    steepest = -gradient / torch.clamp(size, min=1.0)
    q, weights = gradient, []
    scale = torch.zeros_like(size)
    for step, change, inverse in reversed(pairs):
        weight = (inverse * (step * q).sum(-1))[..., None]
        q = q - weight * change
        weights.append(weight)
        newest = (inverse > 0)[..., None] & (scale == 0)
        squares = (change * change).sum(-1, keepdim=True) * inverse[..., None]
        scale = torch.where(newest, 1.0 / torch.where(newest, squares, torch.ones_like(squares)), scale)
    q = scale * q
    for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - (inverse * (change * q).sum(-1))[..., None]) * step
    descends = (scale > 0) & ((q * gradient).sum(-1, keepdim=True) > 1e-12 * q.norm(dim=-1, keepdim=True) * size)
    return torch.where(descends, -q, steepest)


def line_search(
    at: Evaluate, point: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, active: Tensor, rounds: int = 40
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Step lengths that meet the weak Wolfe conditions, with the points, values and gradients there.

    Bisection between the longest step known to be too short and the shortest known to be too long (Lewis and Overton
    2013, algorithm 4.6); near the minimum, where values are all rounding, a slope that has shrunk is enough (Hager and
    Zhang 2005, eq. 4.1). Length 0 where nothing was found, and for copies that are not active.
    """
    slope = (gradient * direction).sum(-1)
    low, high = torch.zeros_like(value), torch.full_like(value, float("inf"))
    length, done = torch.where(active, torch.ones_like(value), low), ~active
    noise = 10.0 * torch.finfo(value.dtype).eps * value.abs()
    for _ in range(rounds):
        moved = point + length[..., None] * direction
        new, slant = at(moved)
        tilt = (slant * direction).sum(-1)
        level = (new <= value + noise) & (tilt <= -0.9998 * slope)
        falls = (new <= value + 1e-4 * length * slope) | level
        done = done | (falls & (tilt >= 0.9 * slope))
        if not any_left(~done):
            return length, moved, (new, slant)
        high = torch.where(~done & ~falls, length, high)
        low = torch.where(~done & falls, length, low)
        middle = torch.where(torch.isfinite(high), 0.5 * (low + high), 2.0 * length)
        length = torch.where(done, length, middle)
    length = torch.where(done, length, low)
    moved = point + length[..., None] * direction
    return length, moved, at(moved)
