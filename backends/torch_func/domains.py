"""Domains by free coordinates: `NAME(free)` is the value, `NAME_free(value)` its inverse.

Solvers, stationarity and hypergradients live in the free coordinates; starts, reports and other levels see values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bilevel.backends.torch_func.functions import softplus_of, solved
from bilevel.backends.torch_func.tree import Tree, tree_map


def positive(free: Tree) -> Tree:
    """exp(free), above 0."""
    return tree_map(torch.exp, free)


def positive_free(value: Tree) -> Tree:
    """log(value)."""
    return tree_map(torch.log, value)


def nonnegative(free: Tree) -> Tree:
    """softplus(free), 0 or above."""
    return tree_map(softplus_of, free)


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


# ---- domains whose free coordinates have another shape -------------------------------------------------------


def simplex(free: Tree) -> Tree:
    """Positive numbers that sum to one along the last axis, real[..., n] from real[..., n - 1]: log-ratios to the last."""
    return tree_map(lambda a: torch.softmax(torch.cat([a, torch.zeros_like(a[..., :1])], -1), -1), free)


def simplex_free(value: Tree) -> Tree:
    """log(value) less that of the last entry; values need not be scaled to sum to one."""
    return tree_map(lambda a: torch.log(a[..., :-1]) - torch.log(a[..., -1:]), value)


def psd(free: Tensor) -> Tensor:
    """L L' with L lower triangular, exp on its diagonal: real[..., n, n] from real[..., n (n + 1) / 2]."""
    size = triangle_size(free.shape[-1], 1)
    lower = from_triangle(free, size, 0)
    diagonal = torch.eye(size, dtype=free.dtype, device=free.device)
    factor = lower * (1 - diagonal) + diagonal * torch.exp(lower * diagonal)
    return factor @ factor.transpose(-2, -1)


def psd_free(value: Tensor) -> Tensor:
    """The Cholesky factor of a positive definite matrix (its symmetric part), the logarithm on its diagonal."""
    factor = torch.linalg.cholesky(0.5 * (value + value.transpose(-2, -1)))
    size = value.shape[-1]
    diagonal = torch.eye(size, dtype=value.dtype, device=value.device)
    logs = torch.log(factor * diagonal + (1 - diagonal))
    return to_triangle(factor * (1 - diagonal) + logs, size, 0)


def orthogonal(free: Tensor) -> Tensor:
    """exp(S) with S skew, a rotation: real[..., n, n] from real[..., n (n - 1) / 2]."""
    lower = from_triangle(free, triangle_size(free.shape[-1], -1), -1)
    turn: Tensor = torch.linalg.matrix_exp(lower - lower.transpose(-2, -1))
    return turn


def orthogonal_free(value: Tensor) -> Tensor:
    """The logarithm of a rotation, below its diagonal; see `rotation_log`."""
    return to_triangle(rotation_log(value), value.shape[-1], -1)


def rotation_log(value: Tensor, halvings: int = 5) -> Tensor:
    """The skew S with exp(S) = value, its angles between -pi and pi; real[..., n, n].

    Square roots halve the angles (Denman and Beavers 1976), then log Y = 2 artanh((Y - I) / (Y + I)) as a series.
    Differentiable also at the identity, where the eigenvectors are not. Reflections (determinant -1) and turns by
    pi have no such S; the result is then not finite or not skew.
    """
    unit_matrix = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device).expand_as(value)
    root = value
    for _ in range(halvings):
        other = unit_matrix
        for _ in range(16):
            root, other = 0.5 * (root + torch.linalg.inv(other)), 0.5 * (other + torch.linalg.inv(root))
    ratio = solved(root + unit_matrix, root - unit_matrix)
    square = ratio @ ratio
    series = unit_matrix / 15.0
    for order in (13, 11, 9, 7, 5, 3, 1):
        series = unit_matrix / order + square @ series
    log: Tensor = 2.0 ** (halvings + 1) * (ratio @ series)
    return log


def triangle_size(count: int, step: int) -> int:
    """The n for which n (n + step) / 2 = count."""
    return (math.isqrt(1 + 8 * count) - step) // 2


def from_triangle(entries: Tensor, size: int, diagonal: int) -> Tensor:
    """A lower triangular matrix from its entries row by row, up to a diagonal (0: the main one, -1: that below)."""
    places = torch.tril_indices(size, size, diagonal, device=entries.device)
    spread = torch.zeros(entries.shape[-1], size * size, dtype=entries.dtype, device=entries.device)
    spread[torch.arange(entries.shape[-1], device=entries.device), places[0] * size + places[1]] = 1.0
    return (entries @ spread).reshape(*entries.shape[:-1], size, size)


def to_triangle(matrix: Tensor, size: int, diagonal: int) -> Tensor:
    """The inverse of `from_triangle`."""
    places = torch.tril_indices(size, size, diagonal, device=matrix.device)
    return matrix[..., places[0], places[1]]
