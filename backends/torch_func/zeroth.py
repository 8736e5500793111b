"""Gradients estimated from values along random directions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import vmap

from bilevel.backends.torch_func.keyed import fold, normal
from bilevel.backends.torch_func.tree import Tree, add, leaves, multiply, tree_map


def zeroth(losses: Callable[[Tree], Tensor], x: Tree, keys: Tensor, samples: int, radius: float) -> tuple[Tree, Tensor]:
    """The mean over directions u of u (f(x + r u) - f(x)) / r, and f(x) (papers/004, eq. 6).

    Shapes: `losses` maps x to one number for each copy, real[*copies], as keys are int64[*copies].
    Invariant: unbiased for the gradient of f smoothed by normal noise of deviation r; the same keys give the same
    directions. The estimate is an ordinary function of x and of what `losses` reads, and is differentiated as such:
    its derivative has only first derivatives of f. Cost: samples + 1 values of f, in one batch.
    """
    directions = directions_like(x, keys, samples)
    base = losses(x)
    moved = vmap(lambda u: losses(add(x, multiply(radius, u))))(directions)
    slopes = (moved - base) / (radius * samples)

    def weighed(u: Tensor) -> Tensor:
        return (slopes.reshape(slopes.shape + (1,) * (u.dim() - slopes.dim())) * u).sum(0)

    return tree_map(weighed, directions), base


def directions_like(x: Tree, keys: Tensor, samples: int) -> Tree:
    """Standard normal numbers shaped like x with a leading axis of samples; every leaf has keys of its own."""
    numbered = iter(range(len(leaves(x))))

    def make(leaf: Tensor) -> Tensor:
        own = fold(keys, "zeroth", next(numbered))
        return normal(own, samples, *leaf.shape[keys.dim() :], dtype=leaf.dtype).movedim(keys.dim(), 0)

    return tree_map(make, x)
