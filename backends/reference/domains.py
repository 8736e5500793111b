"""Free coordinates of restricted variables, and back (language reference, section 10, maps of domains)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.reference.newton import newton
from bilevel.backends.reference.trees import Tree, leafwise, number

Map = Callable[..., Tensor]
Kept = tuple[str, tuple[float, ...]]
"""a domain and its numbers"""


# ---- maps whose free coordinates have another shape ----------------------------------------------------------


def simplex(free: Tensor) -> Tensor:
    """Log-ratios to the last entry, real[..., n - 1], as shares."""
    weights = torch.cat([torch.exp(free), torch.ones_like(free[..., :1])], -1)
    return weights / weights.sum(-1, keepdim=True)


def simplex_free(value: Tensor) -> Tensor:
    """Log-ratios to the last entry."""
    return torch.log(value[..., :-1] / value[..., -1:])


def psd(free: Tensor) -> Tensor:
    """L L' with L lower triangular, its entries row by row, exp on its diagonal."""
    lower = _triangle(free, _size(free, 1), 0)
    lower = torch.stack([torch.stack([torch.exp(v) if i == j else v for j, v in enumerate(row)]) for i, row in enumerate(lower)])  # fmt: skip
    return lower @ lower.T


def psd_free(value: Tensor) -> Tensor:
    """The triangle of Cholesky's factor, column by column as in any textbook; logarithms on its diagonal."""
    matrix, size = (value + value.T) / 2, len(value)
    lower: dict[tuple[int, int], Tensor] = {}
    for j in range(size):
        for i in range(j, size):
            left = matrix[i, j] - sum(
                (lower[i, k] * lower[j, k] for k in range(j)), torch.zeros((), dtype=torch.float64)
            )
            lower[i, j] = left**0.5 if i == j else left / lower[j, j]
    return torch.stack([torch.log(lower[i, i]) if i == j else lower[i, j] for i in range(size) for j in range(i + 1)])


def orthogonal(free: Tensor) -> Tensor:
    """exp(S) of the skew matrix with the free coordinates below its diagonal, by its series at S / 2^10."""
    lower = _triangle(free, _size(free, -1), -1)
    small = (lower - lower.T) / 1024
    term = total = torch.eye(len(lower), dtype=torch.float64)
    for order in range(1, 12):
        term = term @ small / order
        total = total + term
    for _ in range(10):
        total = total @ total
    return total


def orthogonal_free(value: Tensor) -> Tensor:
    """The root of exp(S)' V - I below the diagonal: scipy's logarithm, then Newton's method for its derivatives."""
    from scipy.linalg import logm

    rows, columns = torch.tril_indices(len(value), len(value), -1)
    near = torch.from_numpy(logm(value.detach().numpy()).real)[rows, columns]
    found: Tensor = near
    for _ in range(3):
        found = newton(lambda free: (orthogonal(free).T @ value)[rows, columns], found)
    return found


def _size(free: Tensor, step: int) -> int:
    """The n for which n (n + step) / 2 is the number of free coordinates."""
    return next(n for n in range(1, 100) if n * (n + step) // 2 == len(free))


def _triangle(free: Tensor, size: int, diagonal: int) -> Tensor:
    """The matrix with the free coordinates row by row up to a diagonal, zero above."""
    entries, zero = iter(free), torch.zeros((), dtype=torch.float64)
    return torch.stack(
        [torch.stack([next(entries) if j <= i + diagonal else zero for j in range(size)]) for i in range(size)]
    )


VALUES: dict[str, Map] = {
    "positive": torch.exp,
    "nonnegative": lambda u: torch.logaddexp(u, torch.zeros_like(u)),
    "unit": lambda u: 1 / (1 + torch.exp(-u)),
    "between": lambda u, low, high: low + (high - low) / (1 + torch.exp(-u)),
    "simplex": simplex,
    "psd": psd,
    "orthogonal": orthogonal,
}
FREE: dict[str, Map] = {
    "positive": torch.log,
    "nonnegative": lambda v: torch.log(torch.expm1(v)),
    "unit": lambda v: -torch.log(1 / v - 1),
    "between": lambda v, low, high: -torch.log((high - low) / (v - low) - 1),
    "simplex": simplex_free,
    "psd": psd_free,
    "orthogonal": orthogonal_free,
}


def to_value(free: Tree, domain: str | None, arguments: tuple[float, ...]) -> Tree:
    """The value that free coordinates stand for."""
    return free if domain is None else leafwise(lambda u: VALUES[domain](u, *arguments), free)


def to_free(value: Tree, domain: str | None, arguments: tuple[float, ...]) -> Tree:
    """The free coordinates of a value."""
    return value if domain is None else leafwise(lambda v: FREE[domain](number(v), *arguments), value)


# ---- domains that a solver keeps -----------------------------------------------------------------------------


def nearest(value: Tensor, kept: Kept | None) -> Tensor:
    """The point of a domain nearest to `value`; along the last axis for a simplex."""
    if kept is None:
        return value
    if kept[0] == "simplex":
        rows = [_nearest_shares(row) for row in value.reshape(-1, value.shape[-1])]
        return torch.stack(rows).reshape(value.shape)
    if kept[0] == "psd":
        values, vectors = torch.linalg.eigh((value + value.T) / 2)
        return (vectors * torch.relu(values)) @ vectors.T  # type: ignore[no-any-return]
    if kept[0] == "orthogonal":
        left, _, right = torch.linalg.svd(value)
        return left @ right  # type: ignore[no-any-return]
    low, high = _bounds(kept)
    below = torch.where(value < low, torch.full_like(value, low), value)
    return torch.where(below > high, torch.full_like(value, high), below)


def _nearest_shares(row: Tensor) -> Tensor:
    """Shares nearest to a row: the excess is spread, entries below zero are left out, again (Michelot 1986)."""
    stays = torch.ones_like(row, dtype=torch.bool)
    while True:
        moved = torch.where(stays, row - (row[stays].sum() - 1) / stays.sum(), torch.zeros_like(row))
        if bool((moved >= 0).all()):
            return moved
        stays = stays & (moved > 0)


def reweighed(value: Tensor, exponent: Tensor, kept: Kept | None) -> Tensor:
    """Entries times exp(exponent), in a simplex divided by their sum."""
    found = value * torch.exp(exponent)
    return found / found.sum(-1, keepdim=True) if kept is None or kept[0] == "simplex" else found


def lowest_corner(gradient: Tensor, kept: Kept | None) -> Tensor:
    """The corner of a domain with the least product with the gradient; of equal ones the first, or the upper."""
    if kept is None or kept[0] == "simplex":
        return torch.eye(gradient.shape[-1], dtype=torch.float64)[gradient.argmin(-1)]
    low, high = _bounds(kept)
    return torch.where(gradient > 0, torch.full_like(gradient, low), torch.full_like(gradient, high))


def _bounds(kept: Kept) -> tuple[float, float]:
    match kept[0]:
        case "between":
            return kept[1][0], kept[1][1]
        case "unit":
            return 0.0, 1.0
    return 0.0, float("inf")
