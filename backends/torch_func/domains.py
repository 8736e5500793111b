"""Domains by free coordinates: `NAME(free)` is the value, `NAME_free(value)` its inverse.

Solvers, stationarity and hypergradients live in the free coordinates; starts, reports and other levels see values.
"""

from __future__ import annotations

import torch

from bilevel.backends.torch_func.tree import Tree, tree_map


def positive(free: Tree) -> Tree:
    """exp(free), above 0."""
    return tree_map(torch.exp, free)


def positive_free(value: Tree) -> Tree:
    """log(value)."""
    return tree_map(torch.log, value)


def nonnegative(free: Tree) -> Tree:
    """softplus(free), 0 or above."""
    return tree_map(torch.nn.functional.softplus, free)


def nonnegative_free(value: Tree) -> Tree:
    """The inverse of softplus: value + log(1 - exp(-value))."""
    return tree_map(lambda a: a + torch.log(-torch.expm1(-a)), value)


def unit(free: Tree) -> Tree:
    """The logistic function, between 0 and 1."""
    return tree_map(torch.sigmoid, free)


def unit_free(value: Tree) -> Tree:
    """log(value / (1 - value))."""
    return tree_map(torch.logit, value)


def between(free: Tree, low: float, high: float) -> Tree:
    """The logistic function scaled to (low, high)."""
    return tree_map(lambda a: low + (high - low) * torch.sigmoid(a), free)


def between_free(value: Tree, low: float, high: float) -> Tree:
    """The inverse of `between`."""
    return tree_map(lambda a: torch.logit((a - low) / (high - low)), value)
