"""Random quadratic functions: made from keys, exact, nothing stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, normal
from bilevel.dsl.datatypes import Unknown, real, record, stream
from bilevel.recipes.records import bad_argument, require_positive
from bilevel.registry import tasks


class Quadratic(NamedTuple):
    """f(x) = x'Qx - b'x; a value itself, so that torch.func takes it apart."""

    Q: Tensor
    b: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """f at x real[..., dim], real[...]; papers/002, section 5.6.1."""
        return ((self.Q @ x[..., None])[..., 0] * x - self.b * x).sum(-1)


class Problem(NamedTuple):
    """A quadratic, a place to start from, and its minimum."""

    start: Tensor
    f: Quadratic
    minimum: Tensor


@dataclass(frozen=True, slots=True)
class QuadraticProblems:
    """One family; two splits share no problem because the split's name is folded into every key."""

    mean: tuple[float, ...]
    spread: float
    split: str
    device: torch.device
    dtype: torch.dtype

    def sample(self, keys: Tensor) -> Problem:
        """One problem per key: start, b and minimum real[..., dim], Q real[..., dim, dim]."""
        keys, dim = fold(keys.to(self.device), "quadratics", self.split), len(self.mean)
        factor = self._factor(keys)
        Q = factor @ factor.mT
        b = normal(fold(keys, "b"), dim, mean=1.0, dtype=torch.float64)
        start = normal(fold(keys, "start"), dim, dtype=torch.float64)
        minimum = torch.cholesky_solve(0.5 * b[..., None], factor)[..., 0]
        return Problem(start.to(self.dtype), Quadratic(Q.to(self.dtype), b.to(self.dtype)), minimum.to(self.dtype))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> QuadraticProblems:
        """The same problems on `device`, in `dtype`."""
        return replace(self, device=torch.device(device), dtype=dtype)

    def _factor(self, keys: Tensor) -> Tensor:
        """The lower triangular C: row i has scale k_i with k_i^2 (1 + (1 + i) spread^2) = mean_i = E[Q_ii]."""
        dim = len(self.mean)
        noise = normal(fold(keys, "C"), dim, dim, deviation=self.spread, dtype=torch.float64).tril()
        scales = [math.sqrt(m / (1.0 + (1 + i) * self.spread**2)) for i, m in enumerate(self.mean)]
        scale = torch.tensor(scales, dtype=torch.float64, device=keys.device)
        return scale[:, None] * (torch.eye(dim, dtype=torch.float64, device=keys.device) + noise)


@tasks(yields=stream(record(start=real("dim"), f=Unknown(), minimum=real("dim"))))
def random_quadratics(
    dim: int = 2, mean: Sequence[float] = (4.0, 0.1), spread: float = 0.1, split: str = "train"
) -> QuadraticProblems:
    """Problems min x'Qx - b'x with Q = CC', C lower triangular, E[Q_ii] = mean_i, b ~ N(1, I); papers/002, 5.6.1.

    The paper does not say how C is drawn: here its entries are normal, the diagonal's around a mean, with deviation
    `spread` of the row's scale. `start` ~ N(0, I). `split` "val" or "test" gives other problems of the family.
    """
    require_positive("random_quadratics", {"dim": dim})
    if len(mean) != dim or min(mean) <= 0.0:
        raise bad_argument("random_quadratics", "mean", f"{dim} positive numbers, E[Q_ii]", list(mean))
    if spread < 0.0:
        raise bad_argument("random_quadratics", "spread", "0 or more", spread)
    if split not in ("train", "val", "test"):
        raise bad_argument("random_quadratics", "split", '"train", "val" or "test"', split)
    means = tuple(float(m) for m in mean)
    return QuadraticProblems(means, float(spread), split, torch.device("cpu"), torch.get_default_dtype())
