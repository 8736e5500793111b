"""Forward mode: tangents of a state in many directions at once.

A direction is a tree shaped like the targets; directions are stacked along a new leading axis, one for each number.
Cost of a push: one jvp of the step for each direction, batched; memory one state for each direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

from bilevel.backends.torch_func.tree import Tree, contiguous, leaves, tree_map, zeros


def along(function: Callable[..., Tree], point: tuple[Tree, ...], direction: tuple[Tree, ...]) -> Tree:
    """The derivative of a function at a point along a direction: one jvp, in the shapes and dtypes of the value.

    torch (seen in 2.11 and 2.13) makes a tangent of float64 of a scalar times a Python number, whatever the scalar's own
    dtype is; all that was computed with it would be float64 from there on.
    """
    value, tangent = jvp(function, point, direction)[:2]
    return tree_map(lambda there, moved: moved.to(there.dtype), value, tangent)


def basis(targets: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """One direction for each number of the targets, stacked: leaves have shape [n, *shape of the target]."""
    sizes = [leaf.numel() for leaf in leaves(targets)]
    total, done = sum(sizes), 0

    def block(leaf: Tensor) -> Tensor:
        nonlocal done
        columns = torch.zeros(total, leaf.numel(), dtype=leaf.dtype, device=leaf.device)
        columns[done : done + leaf.numel()] = torch.eye(leaf.numel(), dtype=leaf.dtype, device=leaf.device)
        done += leaf.numel()
        return columns.reshape(total, *leaf.shape)

    made: tuple[Tree, ...] = tree_map(block, targets)
    return made


def push_into(
    start: Callable[..., Tree], targets: tuple[Tree, ...], directions: tuple[Tree, ...], solver: Tree
) -> Tree:
    """Tangents of the first state: those of the start, and zeros for the solver's state."""
    begun = vmap(lambda direction: along(start, targets, direction))(directions)
    count = leaves(directions)[0].shape[0]
    still = tree_map(lambda leaf: torch.zeros(count, *leaf.shape, dtype=leaf.dtype, device=leaf.device), solver)
    return contiguous(begun), still


def push(
    step: Callable[..., Any], state: tuple[Tree, Tree], tangents: Tree, targets: tuple[Tree, ...], directions: Tree
) -> Tree:
    """Tangents of the next state, from those of this one and of the targets."""

    def one(tangent: Tree, direction: tuple[Tree, ...]) -> Tree:
        return along(step, (*state, *targets), (*tangent, *direction))

    return contiguous(vmap(one)(tangents, directions))


def contract(tangents: Tree, cotangent: Tree, targets: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """The products of a cotangent with all tangents, as trees shaped like the targets."""
    pairs = zip(leaves(tangents), leaves(cotangent), strict=True)
    products = sum((t * c).reshape(len(t), -1).sum(1) for t, c in pairs)
    done = 0

    def block(leaf: Tensor) -> Tensor:
        nonlocal done
        done += leaf.numel()
        return products[done - leaf.numel() : done].reshape(leaf.shape)  # type: ignore[index]

    made: tuple[Tree, ...] = tree_map(block, targets)
    return made if leaves(targets) else zeros(targets)
