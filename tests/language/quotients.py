"""The hypergradient of a compiled recipe against central differences of its objective, in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.zoo.compiled import Compiled

RADIUS = 1e-5


def quotient_error(compiled: Compiled, seed: int = 0, directions: int = 2) -> float:
    """The largest difference along random directions of length 1, relative to the gradient's size."""
    phase, key = compiled.phase, compiled.key(seed)
    state = phase.begin(key)
    gradient, _ = phase.hypergradient(state, key)
    size = _dot(gradient, gradient) ** 0.5
    assert size > 1e-8, "a gradient of zero proves nothing"
    generator, worst = torch.Generator().manual_seed(seed), 0.0
    for _ in range(directions):
        way = _map(lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype), state.x)
        length = _dot(way, way) ** 0.5
        ends = [_map(partial(_moved, by=sign * RADIUS / length), state.x, way) for sign in (1, -1)]
        up, down = (phase.hypergradient(state._replace(x=end), key)[1] for end in ends)
        slope = (up - down).item() / (2 * RADIUS)
        worst = max(worst, abs(slope - _dot(gradient, way) / length) / size)
    return worst


def _moved(x: Tensor, way: Tensor, by: float) -> Tensor:
    return x + by * way


def _map(function: Any, tree: Any, *others: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(function, branch, *(o[name] for o in others)) for name, branch in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_map(function, branch, *(o[i] for o in others)) for i, branch in enumerate(tree))
    return function(tree, *others)


def _flat(tree: Any) -> list[Tensor]:
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else None
    return [tree] if branches is None else [leaf for branch in branches for leaf in _flat(branch)]


def _dot(left: Any, right: Any) -> float:
    return sum((a * b).sum().item() for a, b in zip(_flat(left), _flat(right), strict=True))
