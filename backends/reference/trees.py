"""Values of one copy (numbers, tensors, dictionaries of tensors) and values of all copies, nested index by index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Tree: TypeAlias = Any
"""a tensor, or a dictionary of trees"""


@dataclass(frozen=True, slots=True)
class Copies:
    """One value for each copy along one index."""

    axis: str
    items: tuple[Any, ...]


def each_copy(value: Any, function: Callable[[Any], Any]) -> Any:
    """`function` of the value of every copy."""
    if isinstance(value, Copies):
        return Copies(value.axis, tuple(each_copy(item, function) for item in value.items))
    return function(value)


def of_copy(value: Any, at: Mapping[str, int]) -> Any:
    """The value of the copy that `at` says, as far as it says so."""
    while isinstance(value, Copies) and value.axis in at:
        value = value.items[at[value.axis]]
    return value


def number(value: Any) -> Tensor:
    """A Python number as a tensor of float64; tensors as they are."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def plain(value: Any) -> float:
    """A number without its graph."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def leafwise(function: Callable[..., Any], *trees: Tree) -> Tree:
    """`function` of corresponding leaves; what is no dictionary goes with every leaf."""
    for tree in trees:
        if isinstance(tree, dict):
            parts = {name: [t[name] if isinstance(t, dict) else t for t in trees] for name in tree}
            return {name: leafwise(function, *part) for name, part in parts.items()}
    return function(*trees)


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in the order of its names."""
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    return [number(tree)]


def rebuilt(tree: Tree, new: list[Tensor]) -> Tree:
    """A tree of the same form with other leaves; takes them from the front of the list."""
    if isinstance(tree, dict):
        return {name: rebuilt(branch, new) for name, branch in tree.items()}
    return new.pop(0)


def node(tree: Tree) -> Tree:
    """The same values as a node of the graph that is read by nobody else: what one differentiates with respect to.

    What the values depend on still gets its derivatives through the node.
    """
    return leafwise(_node, tree)


def _node(leaf: Tensor) -> Tensor:
    return leaf.clone() if leaf.requires_grad else leaf.detach().clone().requires_grad_()


def detached(tree: Tree) -> Tree:
    """The same values without a graph."""
    return leafwise(lambda leaf: leaf.detach(), tree)


def derivative(value: Tensor, tree: Tree, graph: bool = True) -> Tree:
    """The derivative of a number in every leaf of a tree of nodes; zero where it does not depend on one."""
    inputs = leaves(tree)
    if not value.requires_grad:
        return leafwise(torch.zeros_like, tree)
    found = torch.autograd.grad(value, inputs, create_graph=graph, retain_graph=True, allow_unused=True)
    return rebuilt(tree, [filled(d, i) for i, d in zip(inputs, found, strict=True)])


def filled(found: Tensor | None, like: Tensor) -> Tensor:
    """A derivative, zero where there is none (which torch's annotations do not say)."""
    return torch.zeros_like(like) if found is None else found


def flat(tree: Tree) -> Tensor:
    """All numbers of a tree in one row."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves(tree)])


def unflat(tree: Tree, row: Tensor) -> Tree:
    """A row of numbers in the form of a tree."""
    parts = torch.split(row, [leaf.numel() for leaf in leaves(tree)])
    return rebuilt(tree, [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves(tree), strict=True)])
