"""Directions made of values or of several gradients: zeroth order, evolution strategies, gradient surgery."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.reference.trees import Tree, flat, leaves, rebuilt, unflat
from bilevel.backends.torch_func.keyed import fold, normal, permutation


def zeroth(value: Callable[[Tree], Tensor], x: Tree, key: Tensor, samples: int, radius: float) -> tuple[Tree, Tensor]:
    """The mean of u (f(x + r u) - f(x)) / r over normal directions u, and f(x) (papers/004, eq. 6)."""
    at_x, found = value(x), torch.zeros_like(flat(x))
    drawn = [
        normal(fold(key, "zeroth", n), samples, *leaf.shape, dtype=torch.float64) for n, leaf in enumerate(leaves(x))
    ]
    for number in range(samples):
        u = torch.cat([rows[number].reshape(-1) for rows in drawn])
        found = found + u * (value(unflat(x, flat(x) + radius * u)) - at_x) / radius / samples
    return unflat(x, found), at_x


def direction(tree: Tree, key: Tensor) -> Tree:
    """Normal numbers in the form of a tree, leaf by leaf."""
    drawn = [normal(fold(key, n), *leaf.shape, dtype=torch.float64) for n, leaf in enumerate(leaves(tree))]
    return rebuilt(tree, drawn)


def without_conflicts(gradients: list[Tensor], key: Tensor) -> Tensor:
    """The mean of gradients, each made orthogonal to those against it (Yu et al. 2020, algorithm 1)."""
    changed = []
    for i, own in enumerate(gradients):
        gradient = own
        for j in permutation(fold(key, i), len(gradients)).tolist():
            other = gradients[j]
            if j != i and float((gradient @ other).detach()) < 0:
                gradient = gradient - (gradient @ other) / (other @ other) * other
        changed.append(gradient)
    return torch.stack(changed).sum(0) / len(changed)
