"""Difference quotients of an outermost level's objective along directions in one of its variables.

Takes a level of an emitted module, a state and a key; draws are functions of the key, so that the objective is one
fixed function. Decides nothing about modes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, normal
from bilevel.backends.torch_func.tree import Tree, leaves, tree_map

DIFFERENCES = 1e-5
"""Largest relative error against difference quotients. Central differences of a smooth function in float64 reach
about 1e-10; a wrong term of any size shows."""
STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-3)
"""Step sizes, tried in this order; the best one counts. A network with many kinks needs the small ones: its inner
gradients jump there, and a large step crosses hundreds."""
NUMBERS = 200
"""Most entries of a variable for which a whole gradient is taken by differences, and most tangents of fmd."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Difference quotients of the objective of an outermost level, as the recipe writes it, for fixed draws."""

    phase: Any
    state: Any
    key: Tensor
    given: list[Any]

    def value(self, name: str, direction: Tree, step: float) -> float:
        """The objective a step along a direction in one variable."""
        x = by_name(self.phase, self.state.x)
        x[name] = tree_map(lambda a, d: a + step * d, x[name], direction)
        state = self.state._replace(x=packed_from(self.phase, x))
        return float(self.phase.hypergradient(state, self.key, *self.given)[1])

    def central(self, name: str, direction: Tree, step: float) -> float:
        """(f(x + h d) - f(x - h d)) / 2h; its error is of order h^2, and of rounding over h."""
        return (self.value(name, direction, step) - self.value(name, direction, -step)) / (2 * step)

    def along(self, name: str, gradient: Tree, count: int, key: Tensor) -> tuple[float, int]:
        """The relative error along the worst of `count` directions, and how many directions were replaced.

        At a kink (of relu, abs, max) two quotients of one direction are no derivative at any step size, but almost
        all directions avoid it: a direction that fails is replaced, at most three times for each that is asked for.
        A wrong gradient fails along all of them. The tolerance is the same for every one.
        """
        passed: list[float] = []
        failed: list[float] = []
        while len(passed) < count and len(failed) <= 3 * count:
            place = len(passed) + len(failed)
            error = self._error(name, gradient, random_direction(gradient, fold(key, place)))
            (passed if error <= DIFFERENCES else failed).append(error)
            if len(failed) > count and not passed:
                break
        return (max(passed) if len(passed) == count else max(failed)), len(failed)

    def _error(self, name: str, gradient: Tree, direction: Tree) -> float:
        """The relative error along one direction with the best of the step sizes."""
        product = sum(float((g * d).sum()) for g, d in zip(leaves(gradient), leaves(direction), strict=True))
        least = math.inf
        for step in STEPS:
            quotient = self.central(name, direction, step)
            size = max(abs(product), abs(quotient), 1e-3 * norm(gradient), 1e-10)
            error = abs(quotient - product) / size
            least = min(least, error if math.isfinite(error) else math.inf)
            if least <= DIFFERENCES:
                break
        return least

    def gradient(self, name: str) -> Tree | None:
        """The gradient in one variable, entry by entry; None where it has too many."""
        x = by_name(self.phase, self.state.x)[name]
        sizes = [leaf.numel() for leaf in leaves(x)]
        if sum(sizes) > NUMBERS:
            return None
        units = torch.eye(sum(sizes), dtype=torch.float64)
        return unflat(x, torch.tensor([self.central(name, unflat(x, unit), STEPS[0]) for unit in units]))


def random_direction(like: Tree, key: Tensor) -> Tree:
    """A random direction whose root mean square is 1."""
    count = iter(range(len(leaves(like))))
    drawn = tree_map(lambda leaf: noise(fold(key, next(count)), leaf), like)
    size = norm(drawn) / math.sqrt(sum(leaf.numel() for leaf in leaves(like)))
    return tree_map(lambda leaf: leaf / size, drawn)


def noise(key: Tensor, like: Tensor) -> Tensor:
    """Normal numbers in float64, shaped like a tensor."""
    return normal(fold(key, 0), like.numel(), dtype=torch.float64).reshape(like.shape)


def unflat(like: Tree, row: Tensor) -> Tree:
    """A row of numbers in the form of a tree."""
    parts = iter(torch.split(row, [leaf.numel() for leaf in leaves(like)]))
    return tree_map(lambda leaf: next(parts).reshape(leaf.shape), like)


def norm(tree: Tree) -> float:
    """The root of the summed squares of all entries."""
    return math.sqrt(sum(float((leaf * leaf).sum()) for leaf in leaves(tree)))


def by_name(phase: Any, packed: Any) -> dict[str, Tree]:
    """One value for one variable, a tuple for several."""
    return dict(zip(phase.variables, (packed,) if len(phase.variables) == 1 else packed, strict=True))


def packed_from(phase: Any, by_name: Mapping[str, Tree]) -> Any:
    """The inverse of `by_name`."""
    values = tuple(by_name[name] for name in phase.variables)
    return values[0] if len(values) == 1 else values
