"""The leap of lazy meta-learning for one copy: candidates, and which one is taken (papers/001, algorithms 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends.reference.trees import Tree, detached, leafwise


@dataclass(frozen=True, slots=True)
class Leap:
    """`teacher` steps carry a derivative; of the others the last `keep` iterates span the hull, with `weights`."""

    teacher: int
    keep: int
    gammas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    sense: str
    choose: ir.Expr | None


def read_leap(words: str, choose: ir.Expr | None) -> Leap:
    """A leap from what the schedule says: `leap(teacher = 1, gamma = grid(0.1, 0.9, 0.2), choose = max(e))`."""
    keep = int(_found(r"keep *= *(\d+)", words) or 1)
    return Leap(
        int(_found(r"teacher *= *(\d+)", words) or 0),
        keep,
        _gammas(words),
        _weights(words, keep),
        _found(r"choose *= *(max|min)\b", words) or "",
        choose,
    )


def _found(pattern: str, words: str) -> str | None:
    match = re.search(pattern, words)
    return match[1] if match else None


def _gammas(words: str) -> tuple[float, ...]:
    """One number, or lowest, lowest + step, ..., highest."""
    grid = re.search(r"gamma *= *grid\(([^)]*)\)", words)
    if grid is None:
        return (float(_found(r"gamma *= *([\d.eE+-]+)", words) or "nan"),)
    low, high, step = (float(part.rpartition("=")[2]) for part in grid[1].split(","))
    return tuple(round(low + number * step, 12) for number in range(round((high - low) / step) + 1))


def _weights(words: str, keep: int) -> tuple[tuple[float, ...], ...]:
    """The last iterate alone, all alike, or all shares in multiples of a step; older iterates first."""
    step = _found(r"hull *= *grid\( *simplex *, *([\d.]+) *\)", words)
    if step is not None:
        parts = round(1 / float(step))
        return tuple(
            tuple(share / parts for share in shares)
            for shares in product(range(parts + 1), repeat=keep)
            if sum(shares) == parts
        )
    return ((1 / keep,) * keep,)


def landed(leap: Leap, path: list[Tree], score: Callable[[Tree], Tensor], tie: Callable[[Tree], Tensor]) -> Tree:
    """Where the leap lands: gamma teacher + (1 - gamma) hull, the hull without a derivative.

    `score` and `tie` are to be small: the candidate with the least score, of those with the least tie, of those with
    the least gamma. Both are asked for only where there are several candidates.
    """
    teacher, student = path[leap.teacher], detached_all(path[-leap.keep :])
    points = [(gamma, _between(gamma, teacher, student, shares)) for gamma in leap.gammas for shares in leap.weights]
    if len(points) == 1:
        return points[0][1]
    numbers = [(float(score(p).detach()), float(tie(p).detach()), gamma) for gamma, p in points]
    return points[numbers.index(min(numbers))][1]


def detached_all(path: list[Tree]) -> list[Tree]:
    """The same iterates without a graph."""
    return [detached(tree) for tree in path]


def _between(gamma: float, teacher: Tree, student: list[Tree], shares: tuple[float, ...]) -> Tree:
    def point(own: Tensor, *others: Tensor) -> Tensor:
        weights = torch.tensor(shares, dtype=torch.float64).reshape(-1, *(1,) * own.dim())
        return gamma * own + (1 - gamma) * (weights * torch.stack(others)).sum(0)

    return leafwise(point, teacher, *student)
