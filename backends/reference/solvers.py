"""One step of each solver for one variable of one copy, by its definition.

Every function takes the variable, its state, its gradient, the number of this step (1, 2, ...) and the solver's
arguments, and gives the new variable and state. Arguments may be numbers, or trees with one number per entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bilevel.backends.reference.trees import Tree, leafwise, leaves, plain

Step = Callable[[Tree, Any, Tree, int, Mapping[str, Any]], tuple[Tree, Any]]


def sgd(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """With v <- momentum v + g, x <- x - lr v; without momentum v is g."""
    velocity = leafwise(lambda m, v, g: m * v + g, given.get("momentum", 0.0), state, gradient)
    return leafwise(lambda a, r, v: a - r * v, x, given["lr"], velocity), velocity


def adam(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """Kingma and Ba 2015, algorithm 1, with epsilon inside the root: sqrt(v + epsilon^2)."""
    beta1, beta2 = given.get("beta1", 0.9), given.get("beta2", 0.999)
    first = leafwise(lambda b, m, g: b * m + (1 - b) * g, beta1, state[0], gradient)
    second = leafwise(lambda b, v, g: b * v + (1 - b) * g**2, beta2, state[1], gradient)
    one = leafwise(lambda b, m: m / (1 - b**count), beta1, first)
    two = leafwise(lambda b, v: v / (1 - b**count), beta2, second)
    epsilon = given.get("epsilon", 1e-8)
    moved = leafwise(lambda a, r, m, v: a - r * m / (v + epsilon**2) ** 0.5, x, given["lr"], one, two)
    return moved, (first, second)


def adamw(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """Adam's step from an x that was shrunk by lr * weight_decay (Loshchilov and Hutter 2019)."""
    decay = given.get("weight_decay", 0.01)
    return adam(leafwise(lambda a, r, d: (1 - r * d) * a, x, given["lr"], decay), state, gradient, count, given)


def rmsprop(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """With v <- alpha v + (1 - alpha) g^2, x <- x - lr g / sqrt(v + epsilon^2)."""
    second = leafwise(lambda a, v, g: a * v + (1 - a) * g**2, given.get("alpha", 0.99), state, gradient)
    epsilon = given.get("epsilon", 1e-8)
    moved = leafwise(lambda a, r, g, v: a - r * g / (v + epsilon**2) ** 0.5, x, given["lr"], gradient, second)
    return moved, second


STEPS: dict[str, Step] = {"sgd": sgd, "adam": adam, "adamw": adamw, "rmsprop": rmsprop}


def first_state(name: str, x: Tree) -> Any:
    """The state before the first step: zeros."""
    zero = leafwise(torch.zeros_like, x)
    return (zero, zero) if name in ("adam", "adamw") else zero


def clipped(gradient: Mapping[str, Tree], limit: Any) -> dict[str, Tree]:
    """The gradient of all variables that one solver moves, not longer than `limit`; 0 is no limit."""
    squares = torch.stack([(leaf**2).sum() for tree in gradient.values() for leaf in leaves(tree)]).sum()
    if plain(limit) == 0 or plain(squares) <= plain(limit) ** 2:
        return dict(gradient)
    length = squares**0.5
    return {name: leafwise(lambda g: g * (limit / length), tree) for name, tree in gradient.items()}
