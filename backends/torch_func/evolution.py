"""CMA-ES by the `cma` package, as a value that is told and gives the next one (papers/002, algorithm 5).

The strategy object changes when it is asked and told; here both work on a copy. What is saved is the list of values it
was told: asking and telling again gives the same object, because its random numbers come from a key.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import cma
import numpy
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, normal
from bilevel.backends.torch_func.tree import Tree, leaves, tree_map


class KeyedNormal:
    """Normal numbers for `cma`, in a sequence that a key decides; `randn(n, m)` as numpy's."""

    def __init__(self, key: Tensor) -> None:
        self.key, self.calls = key.cpu(), 0

    def __call__(self, *shape: int) -> Any:
        self.calls += 1
        return normal(fold(self.key, self.calls), *shape, dtype=torch.float64).numpy()


class Evolution:
    """A population search for a tree shaped like `like`.

    `told` holds the values of every generation so far, smaller is better. Invariant: two searches from the same key
    that were told the same are the same, bit for bit.
    """

    def __init__(self, like: Tree, sigma: float, population: int | None, key: Tensor) -> None:
        self.like, self.best = like, float("inf")
        self.told: list[Tensor] = []
        start = torch.cat([leaf.reshape(-1) for leaf in leaves(like)]).double().cpu().numpy()
        self.size = start.size
        # cma has no search in one dimension: a second coordinate is added, which no value depends on.
        start = numpy.append(start, 0.0) if self.size == 1 else start
        options: dict[str, Any] = {"verbose": -9, "seed": float("nan"), "randn": KeyedNormal(key)}
        options |= {} if population is None else {"popsize": population}
        self.strategy = cma.CMAEvolutionStrategy(start, sigma, options)

    def ask(self) -> Tree:
        """The next population, leaves real[members, *shape]."""
        rows = copy.deepcopy(self.strategy).ask()
        return self._trees(torch.as_tensor(numpy.stack(rows)))

    def tell(self, values: Tensor) -> Evolution:
        """The search after the values real[members] of the population that `ask` gave; not-a-number counts as worst."""
        moved = copy.copy(self)
        moved.strategy = copy.deepcopy(self.strategy)
        # The worst value is larger than what single precision holds.
        known = values.detach().double().cpu()
        kept = torch.where(torch.isfinite(known), known, torch.full_like(known, 1e300))
        moved.strategy.tell(moved.strategy.ask(), kept.tolist())
        moved.told = [*self.told, values.detach().cpu()]
        moved.best = min(self.best, float(kept.min()))
        return moved

    def mean(self) -> Tree:
        """The centre of the distribution, shaped like `like`: the solution of the level."""
        return tree_map(lambda leaf: leaf[0], self._trees(torch.as_tensor(self.strategy.mean)[None]))

    def plain(self) -> list[Tensor]:
        """What was told, as plain tensors."""
        return list(self.told)

    def replay(self, told: list[Tensor]) -> Evolution:
        """The search told these values, from the start."""
        search = self
        for values in told:
            search = search.tell(values)
        return search

    def _trees(self, rows: Tensor) -> Tree:
        done = 0

        def block(leaf: Tensor) -> Tensor:
            nonlocal done
            done += leaf.numel()
            piece = rows[:, done - leaf.numel() : done].reshape(len(rows), *leaf.shape)
            return piece.to(device=leaf.device, dtype=leaf.dtype)

        return tree_map(block, self.like)


class Evolutions:
    """One search for each copy, `like` with `depth` leading axes of copies, the first `members` of them populations.

    Members of the populations around share the random numbers of their searches; other copies have their own.
    """

    def __init__(self, like: Tree, depth: int, members: int, sigma: float, population: int | None, key: Tensor) -> None:
        first = leaves(like)[0]
        self.copies = first.shape[:depth]
        shared = math.prod(first.shape[members:depth])
        flat = tree_map(lambda leaf: leaf.reshape(-1, *leaf.shape[depth:]), like)
        every = range(math.prod(self.copies))
        rows = [tree_map(lambda leaf, i=i: leaf[i], flat) for i in every]
        self.searches = [
            Evolution(r, sigma, population, fold(key, i % shared)) for i, r in zip(every, rows, strict=True)
        ]

    def ask(self) -> Tree:
        """The next populations, leaves real[members, *copies, *shape]."""
        return self._joined([search.ask() for search in self.searches], 1)

    def tell(self, values: Tensor) -> Evolutions:
        """The searches after the values real[members, *copies]."""
        moved = copy.copy(self)
        rows = values.reshape(len(values), -1)
        moved.searches = [search.tell(rows[:, i]) for i, search in enumerate(self.searches)]
        return moved

    def mean(self) -> Tree:
        """The centres of the distributions, leaves real[*copies, *shape]."""
        return self._joined([search.mean() for search in self.searches], 0)

    def _joined(self, found: list[Tree], axis: int) -> Tree:
        """Trees of all copies as one; the first `axis` axes stay in front."""

        def joined(*parts: Tensor) -> Tensor:
            stacked = torch.stack(parts, axis)
            return stacked.reshape(*stacked.shape[:axis], *self.copies, *stacked.shape[axis + 1 :])

        return tree_map(joined, *found)


def spread(tree: Tree, count: int) -> Tree:
    """`count` copies of a tree along a new first axis."""
    return tree_map(lambda leaf: leaf.expand(count, *leaf.shape).contiguous(), tree)
