"""Arithmetic on trees: a tree is a tensor, or a dictionary, tuple or list of trees.

Every function here takes tensors and numbers as well, so that emitted code reads the same for one number and for a
million parameters. Trees of a binary operation have the same names; a number, or a tensor, goes with every leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import vmap

Tree: TypeAlias = Any
"""a tensor, or a dict, tuple, named tuple or list of trees; recursion is beyond what type checkers narrow well"""


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """`function` of the corresponding leaves; a number or tensor among `others` goes with every leaf of a part."""
    if isinstance(tree, dict):
        return {k: tree_map(function, v, *(part(o, k) for o in others)) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        items = [tree_map(function, v, *(part(o, i) for o in others)) for i, v in enumerate(tree)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return function(tree, *others)


def part(tree: Tree, key: Any) -> Tree:
    """The branch of a tree, or the leaf itself where it stands for all branches."""
    return tree[key] if isinstance(tree, (dict, tuple, list)) else tree


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in the order of its branches."""
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    if isinstance(tree, (tuple, list)):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree] if isinstance(tree, Tensor) else []


def combine(function: Callable[[Any, Any], Any], left: Tree, right: Tree) -> Tree:
    """`function` of corresponding leaves, where either side may be a single number."""
    if isinstance(left, (dict, tuple, list)):
        return tree_map(function, left, right)
    return tree_map(lambda b, a: function(a, b), right, left)


def add(left: Tree, right: Tree) -> Tree:
    """left + right, leaf by leaf."""
    return combine(lambda a, b: a + b, left, right)


def subtract(left: Tree, right: Tree) -> Tree:
    """left - right, leaf by leaf."""
    return combine(lambda a, b: a - b, left, right)


def multiply(left: Tree, right: Tree) -> Tree:
    """left * right, leaf by leaf."""
    return combine(lambda a, b: a * b, left, right)


def divide(left: Tree, right: Tree) -> Tree:
    """left / right, leaf by leaf."""
    return combine(lambda a, b: a / b, left, right)


def power(left: Tree, right: Tree) -> Tree:
    """left ** right, leaf by leaf."""
    return combine(lambda a, b: a**b, left, right)


def negative(tree: Tree) -> Tree:
    """-tree."""
    return tree_map(lambda a: -a, tree)


def zeros(tree: Tree) -> Tree:
    """Zeros shaped like the tree."""
    return tree_map(torch.zeros_like, tree)


def filled(tree: Tree, value: float) -> Tree:
    """The number `value` everywhere, shaped like the tree."""
    return tree_map(lambda a: torch.full_like(a, value), tree)


def each_listed(function: Callable[[Any], Any], values: Any, depth: int) -> Any:
    """`function` of every entry of lists in lists, `depth` deep."""
    return function(values) if depth == 0 else [each_listed(function, v, depth - 1) for v in values]


def all_listed(values: Any, depth: int) -> list[Any]:
    """The entries of lists in lists as one list."""
    return list(values) if depth == 1 else [entry for v in values for entry in all_listed(v, depth - 1)]


def joined(iterates: Any, place: int, more: Any, depth: int) -> Any:
    """Cotangents of iterates with more for one of them, for every entry of lists in lists `depth` deep."""
    if depth:
        return [joined(i, place, m, depth - 1) for i, m in zip(iterates, more, strict=True)]
    iterates[place] = add(iterates[place], more)
    return iterates


def contiguous(tree: Tree) -> Tree:
    """The tree with memory of its own for every copy; jvp refuses tensors whose copies share theirs."""
    return tree_map(lambda a: a.contiguous(), tree)


def tree_at(trees: Tree, *places: Any) -> Tree:
    """One of several trees that are stacked along their leading axes."""
    return tree_map(lambda leaf: leaf[places], trees)


def equal_trees(tree: Tree, *counts: int) -> Tree:
    """Equal trees side by side: every leaf with the leading axes `counts`."""
    return tree_map(lambda leaf: leaf.expand(*counts, *leaf.shape), tree)


def each_copy(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """`function` of every copy; copies are the first axis of all leaves. By vmap, or as it is where there is one copy.

    One copy would pay for the mapping and get no more: images with an axis in front of them, normalisation in parts.
    """

    def called(*values: Tree) -> Tree:
        if any(len(leaf) != 1 for leaf in leaves(values)):
            return vmap(function)(*values)
        found = function(*tree_map(lambda leaf: leaf.squeeze(0), values))
        return tree_map(lambda leaf: leaf.unsqueeze(0), found)

    return called


def merge(*groups: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameter groups as one; no name may be in two of them."""
    merged: dict[str, Tensor] = {}
    for group in groups:
        merged |= group
    return merged
