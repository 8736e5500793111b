"""Gradients that are estimated or combined: perturbed solves, and projections of conflicting gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, normal, permutation
from bilevel.backends.torch_func.tree import Tree, add, leaves, multiply, subtract, tree_map


def perturbed(
    solve: Callable[..., Tree], targets: tuple[Tree, ...], cotangent: Tree, key: Tensor, samples: int, sigma: float
) -> tuple[Tree, ...]:
    """Cotangents of the targets by antithetic pairs: the mean of (c . (x+ - x-)) / (2 sigma) times the direction.

    Invariant: unbiased for the solution smoothed by normal noise of deviation sigma. Cost: 2 * samples solves.
    """
    total: tuple[Tree, ...] = tree_map(torch.zeros_like, targets)
    for number in range(samples):
        direction = normal_like(targets, fold(key, number))
        step = multiply(sigma, direction)
        difference = subtract(solve(*add(targets, step)), solve(*subtract(targets, step)))
        pairs = zip(leaves(cotangent), leaves(difference), strict=True)
        slope = sum((c * d).sum() for c, d in pairs) / (2.0 * sigma * samples)
        total = add(total, multiply(slope, direction))
    return total


def normal_like(tree: Tree, key: Tensor) -> Tree:
    """Normal numbers shaped like a tree; every leaf has a key of its own."""
    numbered = iter(range(len(leaves(tree))))

    def make(leaf: Tensor) -> Tensor:
        return normal(fold(key, next(numbered)), *leaf.shape, dtype=leaf.dtype)

    return tree_map(make, tree)


def project_conflicts(gradients: list[Tree], key: Tensor) -> Tree:
    """The mean of gradients, each freed of its components against the others (Yu et al. 2020, algorithm 1).

    The order in which one gradient meets the others is drawn. Cost: n^2 inner products.
    """
    rows = torch.stack([torch.cat([leaf.reshape(-1) for leaf in leaves(g)]) for g in gradients])
    projected: list[Tensor] = []
    for place in range(len(gradients)):
        row = rows[place]
        for other in permutation(fold(key, place), len(gradients)).tolist():
            along = (row * rows[other]).sum()
            if other != place and bool(along < 0):
                row = row - along / (rows[other] * rows[other]).sum() * rows[other]
        projected.append(row)
    mean = torch.stack(projected).mean(0)
    done = 0

    def block(leaf: Tensor) -> Tensor:
        nonlocal done
        done += leaf.numel()
        return mean[done - leaf.numel() : done].reshape(leaf.shape)

    made: Any = tree_map(block, gradients[0])
    return made
