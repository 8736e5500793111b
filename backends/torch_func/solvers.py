"""One step of each inner solver, as pure differentiable functions of trees.

`NAME(x, state, gradient, count, ...)` gives the next x and state; `count` is the number of steps taken before this
one. Every argument may be a number, a tensor, or a tree shaped like x (one rate per weight). Copies in leading axes
need nothing: all is elementwise, except `clip`, which limits the norm over the whole tree it is given.
Outermost levels are moved by torch.optim itself (`torch_optimize`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.functions import sqnorm
from bilevel.backends.torch_func.tree import Tree, add, leaves, multiply, tree_map, zeros


def sgd_state(x: Tree, momentum: Tree = 0.0) -> Tree:
    """The velocity, zero; nothing where there is no momentum."""
    return zeros(x) if isinstance(momentum, Tensor) or momentum else ()


def sgd(
    x: Tree, state: Tree, gradient: Tree, count: int, lr: Tree, momentum: Tree = 0.0, clip: Tree = 0.0
) -> tuple[Tree, Tree]:
    """x - lr v with v = momentum v + gradient, as torch.optim.SGD (the first velocity is the gradient)."""
    gradient = clipped(gradient, clip)
    if leaves(state):
        state = gradient = add(multiply(momentum, state), gradient)
    return tree_map(lambda a, d, r: a - r * d, x, gradient, lr), state


def adam_state(x: Tree) -> Tree:
    """First and second moment, zero."""
    return zeros(x), zeros(x)


def adam(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    beta1: Tree = 0.9,
    beta2: Tree = 0.999,
    epsilon: float = 1e-8,
    clip: Tree = 0.0,
) -> tuple[Tree, Tree]:
    """Adam (Kingma and Ba 2015, algorithm 1) with epsilon inside the root as well.

    sqrt has no derivative at 0, so that a zero gradient would give a NaN in the hypergradient; epsilon**2 inside
    the root keeps the size of the step within epsilon of Adam's.
    """
    gradient = clipped(gradient, clip)
    first = tree_map(lambda m, d, b: b * m + (1 - b) * d, state[0], gradient, beta1)
    second = tree_map(lambda v, d, b: b * v + (1 - b) * (d * d), state[1], gradient, beta2)
    one = tree_map(lambda m, b: unbiased(m, b, count), first, beta1)
    two = tree_map(lambda v, b: unbiased(v, b, count), second, beta2)
    moved = tree_map(lambda a, m, v, r: a - r * m / torch.sqrt(v + epsilon * epsilon), x, one, two, lr)
    return moved, (first, second)


def unbiased(moment: Tensor, decay: Tree, count: Any) -> Tensor:
    """A moment over 1 - decay^(count + 1); a count that is a tensor is raised in float64, where 0.999 keeps its digits."""
    if not isinstance(count, Tensor):
        return moment / (1 - decay ** (count + 1))
    return moment / (1 - decay ** (count.double() + 1)).to(moment.dtype)


def adamw_state(x: Tree) -> Tree:
    """First and second moment, zero."""
    return adam_state(x)


def adamw(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    beta1: Tree = 0.9,
    beta2: Tree = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Tree = 0.01,
    clip: Tree = 0.0,
) -> tuple[Tree, Tree]:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): x shrinks by lr * weight_decay first."""
    shrunk = tree_map(lambda a, r, d: a - r * d * a, x, lr, weight_decay)
    return adam(shrunk, state, gradient, count, lr, beta1, beta2, epsilon, clip)


def rmsprop_state(x: Tree) -> Tree:
    """Mean square, zero."""
    return zeros(x)


def rmsprop(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    alpha: Tree = 0.99,
    epsilon: float = 1e-8,
    clip: Tree = 0.0,
) -> tuple[Tree, Tree]:
    """x - lr g / sqrt(v) with v the running mean of g**2; epsilon inside the root, as in `adam`."""
    gradient = clipped(gradient, clip)
    mean = tree_map(lambda v, d, a: a * v + (1 - a) * (d * d), state, gradient, alpha)
    return tree_map(lambda a, d, v, r: a - r * d / torch.sqrt(v + epsilon * epsilon), x, gradient, mean, lr), mean


def clipped(gradient: Tree, limit: Tree) -> Tree:
    """The gradient, shortened to norm `limit` where it is longer; 0 is no limit."""
    if not isinstance(limit, Tensor) and not limit:
        return gradient
    norm = torch.sqrt(sqnorm(gradient) + 1e-30)
    return multiply(torch.clamp(limit / norm, max=1.0), gradient)


def torch_optimize(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], x: Tree, state: Tree, gradient: Tree, clip: float = 0.0
) -> tuple[Tree, Tree]:
    """One step of a torch.optim optimiser as a pure function: x and state are copied, not changed.

    `state` is what the optimiser keeps for each tensor, () before the first step.
    """
    parameters = [leaf.detach().clone() for leaf in leaves(x)]
    optimizer = kind([torch.nn.Parameter(p) for p in parameters], **options)
    given = optimizer.param_groups[0]["params"]
    for parameter, direction in zip(given, leaves(clipped(gradient, clip)), strict=True):
        parameter.grad = direction.detach()
    for parameter, kept in zip(given, state, strict=bool(state)):
        optimizer.state[parameter] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
    optimizer.step()
    moved = iter([p.detach() for p in given])
    return tree_map(lambda _: next(moved), x), [dict(optimizer.state[p]) for p in given]
