"""Data and a solver that the test recipes name: small, fixed, without anything random.

The only file of these tests that knows how types are spelt in a registration.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.dsl.datatypes import ListType, Unknown, integer, real, record, records
from bilevel.registry import data, solver

__all__ = ["framed", "heaps", "heavy", "labelled", "points", "quadratics"]


class Points(NamedTuple):
    x: Tensor
    y: Tensor


class Split(NamedTuple):
    all: Points


@data(yields=record(all=records("count", x=real(3), y=real())))
def points(count: int = 2) -> Split:
    """Points x real[3] with targets y, from whole numbers."""
    number = torch.arange(count * 3, dtype=torch.float64).reshape(count, 3)
    x = ((7 * number + 3) % 11 - 5) / 5
    return Split(Points(x, ((5 * number[:, 0] + 2) % 7 - 3) / 3))


@solver(begin=torch.zeros_like)
def heavy(
    x: Tensor, state: Tensor, gradient: Tensor, count: int, lr: Tensor, momentum: Tensor, power: Tensor
) -> tuple[Tensor, Tensor]:
    """A step that is smooth in all it reads, and linear in none: each gradient enters with a power of its length."""
    velocity = momentum * state + gradient * (1 + gradient * gradient) ** (0.5 * (power - 1))
    return x - lr * velocity / (count + 1), velocity


@data(yields=record(all=records(2, x=real(3), y=integer())))
def labelled() -> Split:
    """Two points x real[3] with labels y from 0 to 2."""
    return Split(Points(torch.tensor([[0.2, -1.0, 0.5], [1.1, 0.4, -0.6]]), torch.tensor([0, 2])))


@data(yields=ListType((records("size", x=real(3), y=real()),), "count"))
def heaps(count: int = 3, size: int = 4) -> list[Points]:
    """Several sources of points, each moved by its number."""
    return [Points(p.x + 0.2 * number, p.y - 0.1 * number) for number, p in enumerate([points(size).all] * count)]


class Quadratic(NamedTuple):
    Q: Tensor
    b: Tensor
    start: Tensor


class Quadratics(NamedTuple):
    all: Quadratic


@data(yields=record(all=records("count", Q=real(2, 2), b=real(2), start=real(2))))
def quadratics(count: int = 3) -> Quadratics:
    """Problems x'Qx - b'x with Q = CC', C lower triangular: one stiff direction, one flat (papers/002, section 5.6.1)."""
    number = torch.arange(count, dtype=torch.float64)
    zero = torch.zeros_like(number)
    rows = [torch.stack([1.8 + 0.2 * number, zero], -1), torch.stack([0.3 - 0.2 * number, 0.5 + 0.1 * number], -1)]
    C = torch.stack(rows, -2)
    b = torch.stack([1 + 0.3 * number, 1 - 0.4 * number], -1)
    return Quadratics(Quadratic(C @ C.mT, b, torch.stack([0.5 - number, 2 + 0.5 * number], -1)))


class Framed(NamedTuple):
    x: Tensor
    shape: tuple[int, ...]
    rows: int
    columns: int


@data(yields=record(x=real("rows", "columns"), shape=Unknown(), rows=Unknown(), columns=Unknown()))
def framed(rows: int = 2, columns: int = 3) -> Framed:
    """Numbers x real[rows, columns], from whole ones, whose shape the part says."""
    number = torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns)
    return Framed(((7 * number + 3) % 11 - 5) / 5, (rows, columns), rows, columns)
