"""Learned solvers: a network that turns the gradient of every coordinate into its step, the same for all.

The network maps (gradient real[n], state) to (step real[n], state); leaves of the state have a leading axis of
coordinates. Here the state of a tree is kept leaf by leaf, shaped [*shape of the leaf, ...], so that copies stay the
leading axes of everything.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bilevel.backends.torch_func.tree import Tree, leaves, tree_map


@runtime_checkable
class Remembers(Protocol):
    """A learned solver with a state; one without gets `()` and returns `()`."""

    def begin(self, gradient: Tensor) -> Any:
        """The state of coordinates real[n] before the first step; it must not depend on parameters."""


def learned_state(x: Tree, network: Any) -> Tree:
    """The state of every leaf of x before the first step."""
    if not isinstance(network.module, Remembers):
        return ()
    flat = torch.cat([leaf.reshape(-1) for leaf in leaves(x)])
    return split_state(network.module.begin(torch.zeros_like(flat)), x)


def learned(
    x: Tree, state: Tree, gradient: Tree, count: int, network: Any, parameters: dict[str, Tensor]
) -> tuple[Tree, Tree]:
    """Next is x - step, with (step, state) from the network (papers/004, eq. 3).

    Shapes: all coordinates of all leaves (and copies) go through the network side by side, in one call.
    Invariant: a coordinate's step depends on its own gradients only, if the network treats rows alike.
    """
    flat = torch.cat([leaf.reshape(-1) for leaf in leaves(gradient)])
    joined = join_state(state, x)
    step, joined = network(parameters, [flat, joined])
    done = 0

    def moved(leaf: Tensor) -> Any:
        nonlocal done
        done += leaf.numel()
        return leaf - step[done - leaf.numel() : done].reshape(leaf.shape)

    return tree_map(moved, x), split_state(joined, x)


def join_state(state: Tree, x: Tree) -> Tree:
    """States of leaves, side by side along the axis of coordinates."""
    if not leaves(state):
        return ()
    pairs = list(zip(state, leaves(x), strict=True))
    rows = [tree_map(lambda s, leaf: s.reshape(leaf.numel(), *s.shape[leaf.dim() :]), own, leaf) for own, leaf in pairs]
    return tree_map(lambda *parts: torch.cat(parts), *rows)


def split_state(state: Tree, x: Tree) -> Tree:
    """The inverse of `join_state`."""
    if not leaves(state):
        return ()
    found, done = [], 0
    for leaf in leaves(x):
        end = done + leaf.numel()
        found.append(tree_map(lambda s, a=done, b=end, w=leaf.shape: s[a:b].reshape(*w, *s.shape[1:]), state))
        done = end
    return tuple(found)
