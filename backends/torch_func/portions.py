"""Copies in chunks: parts of values along their first axis, and the mean of what was found for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.sampling import length
from bilevel.backends.torch_func.tree import Tree, tree_map


def numbers_from(first: int, count: int, like: Tensor) -> Tensor:
    """first, ..., first + count - 1: the numbers of some copies among all."""
    return torch.arange(first, first + count, device=like.device)


def portions(size: int, values: tuple[Tree, ...]) -> Iterator[tuple[int, float, tuple[Tree, ...]]]:
    """The copies `size` at a time: number of the first, share of all copies, and the values of these copies."""
    count = length(values[0])
    for first in range(0, count, size):
        some = min(size, count - first)
        cut = tuple(tree_map(lambda a, at=first, n=some: a[at : at + n], value) for value in values)
        yield first, some / count, cut


def with_portion(found: Any, share: float, portion: tuple[Tree, Tensor, Any, dict[str, Tensor]]) -> Any:
    """Gradient, value, ends and notes of some copies joined with those so far; notes are the worst of all copies."""
    gradient, value, ends, notes = portion
    mine = tree_map(lambda a: share * a, gradient), share * value, ends, notes
    if found is None:
        return mine
    return (
        tree_map(lambda a, b: a + b, found[0], mine[0]),
        found[1] + mine[1],
        ends,
        {name: torch.maximum(found[3][name], note) for name, note in notes.items()},
    )
