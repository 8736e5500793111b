"""Random search and population-based training as functions of a population: trees with its members as their first axis.

Values are compared and nothing is differentiated; smaller is better, and a value that is no number is the worst.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, normal, uniform
from bilevel.backends.torch_func.tree import Tree, leaves, tree_map


def candidates(start: Callable[[Tensor], Tree], key: Tensor, count: int) -> Tree:
    """`count` draws of a start, each from a key of its own."""
    found = [start(fold(key, number)) for number in range(count)]
    return tree_map(lambda *parts: torch.stack(parts), *found)


def ranked(scores: Tensor) -> Tensor:
    """The members from the best to the worst; of equal ones the first is the better."""
    return torch.argsort(torch.where(torch.isfinite(scores), scores, torch.inf), dim=0, stable=True)


def keep_best(x: Tree, best: Tensor | None, members: Tree, scores: Tensor) -> tuple[Tree, Tensor]:
    """The best point so far and its value, after one more population (Bergstra and Bengio 2012, section 2).

    Shapes: scores real[members, *copies], best real[*copies], every copy by itself; best None is worse than anything.
    """
    place = ranked(scores)[:1]
    found = scores.gather(0, place)[0]
    better = torch.isfinite(found) if best is None else found < best

    def moved(old: Tensor, new: Tensor) -> Tensor:
        more = [1] * (old.dim() - better.dim())
        chosen = new.gather(0, place.reshape((*place.shape, *more)).expand(1, *old.shape))[0]
        return torch.where(better.reshape((*better.shape, *more)), chosen, old)

    worst = torch.full_like(found, torch.inf) if best is None else best
    return tree_map(moved, x, members), torch.where(better, found, worst)


def exploited(scores: Tensor, share: float, key: Tensor) -> Tensor:
    """The parent of every member, int64[members]: the last `share` of them are replaced by copies of some of the first.

    Source: Jaderberg et al. 2017, section 4.1.1, truncation selection. At least one member is replaced; the best never.
    """
    order = ranked(scores)
    count = max(1, int(share * len(scores)))
    chosen = order[(uniform(key, count, dtype=torch.float64) * count).long()]
    parents = torch.arange(len(scores), device=scores.device)
    parents[order[-count:]] = chosen
    return parents


def explored(members: Tree, moves: Tensor, sigma: float, key: Tensor) -> Tree:
    """The members, those in `moves` bool[members] with normal noise of deviation sigma added to every number."""
    numbered = iter(range(len(leaves(members))))

    def moved(leaf: Tensor) -> Tensor:
        noise = sigma * normal(fold(key, next(numbered)), *leaf.shape, dtype=leaf.dtype)
        return torch.where(moves.reshape(-1, *[1] * (leaf.dim() - 1)), leaf + noise, leaf)

    return tree_map(moved, members)


def first_members(start: Callable[[Tensor], Tree], key: Tensor, count: int, sigma: float) -> Tree:
    """The first population: draws of the start, each explored once, so that a start without spread has one too."""
    members = candidates(start, fold(key, "members"), count)
    every = torch.ones(count, dtype=torch.bool, device=key.device)
    return explored(members, every, sigma, fold(key, "explore"))


def trained(
    members: Tree, scores: Tensor, ends: dict[str, Any], share: float, sigma: float, key: Tensor
) -> tuple[Tree, tuple[Tree, Tensor], dict[str, Any]]:
    """One exploit and explore step (Jaderberg et al. 2017, algorithm 1): the best member, the next members, their ends.

    `ends` are states (iterate, solver's state, steps taken) of levels inside that go on warm; a copied member goes on
    from its parent's. Returns the point of the best member, (next members, its place among them), and the ends.
    Invariant: the best member stays what and where it is.
    """
    place = ranked(scores)[0]
    parents = exploited(scores, share, fold(key, "exploit"))
    copied = parents != torch.arange(len(scores), device=scores.device)
    following = explored(tree_map(lambda leaf: leaf[parents], members), copied, sigma, fold(key, "explore"))
    moved = {name: inherited(end, parents) for name, end in ends.items()}
    return tree_map(lambda leaf: leaf[place], members), (following, place), moved


def inherited(end: Any, members: Tensor) -> Any:
    """The ends of some members, members the first axis of every tensor; a count that is a number is that of all."""
    return tree_map(lambda leaf: leaf[members] if isinstance(leaf, Tensor) else leaf, end)


def one_end(end: Any, place: Tensor) -> Any:
    """The end of one member, as a population of one; nothing, (), before the first generation."""
    return inherited(end, place[None])
