"""Free coordinates of restricted variables, and back (language reference, section 10, maps of domains)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.reference.trees import Tree, leafwise, number

Map = Callable[..., Tensor]

VALUES: dict[str, Map] = {
    "positive": torch.exp,
    "nonnegative": lambda u: torch.logaddexp(u, torch.zeros_like(u)),
    "unit": lambda u: 1 / (1 + torch.exp(-u)),
    "between": lambda u, low, high: low + (high - low) / (1 + torch.exp(-u)),
}
FREE: dict[str, Map] = {
    "positive": torch.log,
    "nonnegative": lambda v: torch.log(torch.expm1(v)),
    "unit": lambda v: -torch.log(1 / v - 1),
    "between": lambda v, low, high: -torch.log((high - low) / (v - low) - 1),
}


def to_value(free: Tree, domain: str | None, arguments: tuple[float, ...]) -> Tree:
    """The value that free coordinates stand for."""
    return free if domain is None else leafwise(lambda u: VALUES[domain](u, *arguments), free)


def to_free(value: Tree, domain: str | None, arguments: tuple[float, ...]) -> Tree:
    """The free coordinates of a value."""
    return value if domain is None else leafwise(lambda v: FREE[domain](number(v), *arguments), value)
