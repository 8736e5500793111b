"""One step of each solver for one variable of one copy, by its definition.

Every function takes the variable, its state, its gradient, the number of this step (1, 2, ...) and the solver's
arguments, and gives the new variable and state. Arguments may be numbers, or trees with one number per entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.reference.domains import lowest_corner, nearest, reweighed
from bilevel.backends.reference.masks import applied
from bilevel.backends.reference.matrices import solved
from bilevel.backends.reference.trees import Tree, leafwise, leaves, plain, rebuilt

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


def mirror(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """The smallest of <g, z> + B(z, x) / lr for the divergence of M: x - lr inv(M) g (papers/002, eq. 5.1)."""
    return leafwise(lambda a, r, d: a - r * d, x, given["lr"], solved(given["M"], gradient)), state


def pgd(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """The point of the domain nearest to x - lr g, with `sign` to x - lr sign(g)."""
    along = leafwise(lambda g: torch.sign(g.detach()), gradient) if given.get("sign", 0.0) else gradient
    return leafwise(lambda a, r, d: nearest(a - r * d, given["kept"]), x, given["lr"], along), state


def exponentiated(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """Entries times exp(-lr g), in a simplex divided by their sum (Kivinen and Warmuth 1997)."""
    return leafwise(lambda a, r, d: reweighed(a, -r * d, given["kept"]), x, given["lr"], gradient), state


def frank_wolfe(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """Next is (1 - s) x + s corner with s = 2 / (t + 1), t = 1, 2, ... (Jaggi 2013, algorithm 1, counted from 0)."""
    share = 2 / (count + 1)
    return leafwise(lambda a, d: (1 - share) * a + share * lowest_corner(d, given["kept"]), x, gradient), state


def learned(x: Tree, state: Any, gradient: Tree, count: int, given: Mapping[str, Any]) -> tuple[Tree, Any]:
    """Next is x - step, (step, state) from the network for one coordinate after the other (papers/004, eq. 3)."""
    moves, after = [], []
    for number, slope in enumerate(torch.cat([leaf.reshape(-1) for leaf in leaves(gradient)])):
        own = state[number] if state is not None else _begun(given["network"], slope)
        move, own = applied(given["network"], given["parameters"], [slope[None], own], None)
        moves.append(move)
        after.append(own)
    row, parts = torch.cat(moves), list[Tensor]()
    for leaf in leaves(x):
        parts.append(row[: leaf.numel()].reshape(leaf.shape))
        row = row[leaf.numel() :]
    return leafwise(lambda a, d: a - d, x, rebuilt(x, parts)), tuple(after)


def _begun(network: Any, slope: Tensor) -> Any:
    """The state of one coordinate before its first step; nothing where the network has none."""
    return network.begin(torch.zeros_like(slope.detach()[None])) if hasattr(network, "begin") else ()


STEPS: dict[str, Step] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "mirror": mirror,
    "pgd": pgd,
    "exponentiated": exponentiated,
    "frank_wolfe": frank_wolfe,
    "learned": learned,
}
RATES: dict[str, Callable[..., Any]] = {
    "linear": lambda rate, done, total: leafwise(lambda r: r * (total - done) / total, rate),
    "cosine": lambda rate, done, total: leafwise(lambda r: r * (1 + math.cos(math.pi * done / total)) / 2, rate),
    "steps": lambda rate, done, total, factor, *at: fallen(rate, factor, sum(done >= m for m in at)),
}
"""a rate when so many of all steps are done"""


def fallen(rate: Tree, factor: Tree, times: int) -> Tree:
    """The rate times a factor, once for each milestone that is behind."""
    for _ in range(times):
        rate = leafwise(lambda r, f: r * f, rate, factor)
    return rate


def first_state(name: str, x: Tree) -> Any:
    """The state before the first step: zeros, of a learned solver what its network begins with (None)."""
    if name == "learned":
        return None
    zero = leafwise(torch.zeros_like, x)
    return (zero, zero) if name in ("adam", "adamw") else zero


def clipped(gradient: Mapping[str, Tree], limit: Any) -> dict[str, Tree]:
    """The gradient of all variables that one solver moves, not longer than `limit`; 0 is no limit."""
    squares = torch.stack([(leaf**2).sum() for tree in gradient.values() for leaf in leaves(tree)]).sum()
    if plain(limit) == 0 or plain(squares) <= plain(limit) ** 2:
        return dict(gradient)
    length = squares**0.5
    return {name: leafwise(lambda g: g * (limit / length), tree) for name, tree in gradient.items()}
