"""Meta mirror descent on quadratic problems (papers/002, section 5.6.1): appendix C.2 against its closed form.

For f(x) = x'Qx - b'x the iterates are x@t = c + (I - 2 eta inv(M) Q)^t (x@0 - c) with c the minimum, so the
hypergradient of the mean divergence B(x@T, x@0) in M is the derivative of a matrix power. The thesis computes it by
forward mode, Z@t = A Z@(t-1) + B with A and B by hand (eq. C.15-C.17). Both, and the product's modes, are one number.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.modes.loops import derivative, tensor
from tests.modes.tools import STORES, TOLERANCE, error, gradients, scheduled
from tests.zoo.sources import quadratics

ETA, KAPPA, START = 0.1, 0.1, tensor([1.5, 0.8])
BY = {
    "mirror": "minimize f(x)\n    by mirror(m, lr = 0.1) for COUNT steps",
    "argmin": """level nearest {
      z : real[2] from x
      minimize 0.1 * dot(grad(f)(x), z) + breg(z, x)
      by closed_form
    }
    by next(z) for COUNT steps""",
}
TEXT = """recipe meta_mirror
use quads = quadratics(count = 3)
level meta {
  m : real[2] in positive from [1.5, 0.8]
  let breg(u, v) = 0.5 * sum(m * (u - v)^2)
  each q ~ quads.all[3]
  let f(x) = quad(q.Q, x) - dot(q.b, x)
  level descend {
    x : real[2] from q.start
    BY
  }
  minimize mean[q] breg(x, q.start) + 0.1 / min_eig(m)
  by sgd(lr = 0.01) for 2 steps
}"""


def problems() -> list[tuple[Tensor, Tensor, Tensor]]:
    return list(zip(*quadratics(3).all, strict=True))


def regular(m: Tensor) -> Tensor:
    """The derivative of kappa / min(m)."""
    return torch.where(m == m.min(), -KAPPA / m.min() ** 2, torch.zeros_like(m))


def by_recursion(count: int, factor: float = 1.0) -> Tensor:
    """Eq. C.13-C.17 in log m, with B = eta grad / M^2; `factor` 2 is B as C.16 prints it."""
    m, total = START, torch.zeros(2, dtype=torch.float64)
    for Q, b, start in problems():
        x, Z = start, torch.zeros(2, 2, dtype=torch.float64)
        for _ in range(count):
            slope = 2 * Q @ x - b
            A = torch.eye(2, dtype=torch.float64) - ETA * 2 * Q / m[:, None]
            Z = A @ Z + factor * torch.diag(ETA * slope / m**2)
            x = x - ETA * slope / m
        total = total + (0.5 * (x - start) ** 2 + Z.T @ (m * (x - start))) / 3
    return m * (total + regular(m))


def by_products(count: int) -> Tensor:
    """Eq. C.14: the sum over t of the product of all later A times B@t, written out."""
    m, total = START, torch.zeros(2, dtype=torch.float64)
    for Q, b, start in problems():
        A = torch.eye(2, dtype=torch.float64) - ETA * 2 * Q / m[:, None]
        x, parts = start, []
        for t in range(1, count + 1):
            slope = 2 * Q @ x - b
            parts.append(torch.linalg.matrix_power(A, count - t) @ torch.diag(ETA * slope / m**2))
            x = x - ETA * slope / m
        indirect = torch.stack(parts).sum(0).T @ (m * (x - start))
        total = total + (0.5 * (x - start) ** 2 + indirect) / 3
    return m * (total + regular(m))


def closed_form(count: int) -> Tensor:
    """The derivative of the matrix power."""

    def value(free: Tensor) -> Tensor:
        m, total = free.exp(), tensor(0.0)
        for Q, b, start in problems():
            c = torch.linalg.solve(2 * Q, b)
            factor = torch.eye(2, dtype=torch.float64) - ETA * 2 * Q / m[:, None]
            x = c + torch.linalg.matrix_power(factor, count) @ (start - c)
            total = total + 0.5 * (m * (x - start) ** 2).sum() / 3
        return total + KAPPA / m.min()

    return derivative(value, free=START.log())["free"]


@pytest.mark.parametrize("count", (1, 7, 40))
def test_the_recursion_of_the_appendix_is_its_closed_form(count: int) -> None:
    assert error(by_recursion(count), closed_form(count)) < TOLERANCE
    assert error(by_products(count), closed_form(count)) < TOLERANCE
    assert error(by_recursion(count, 2.0), closed_form(count)) > 1e-2  # as printed


@pytest.mark.parametrize("form", BY)
@pytest.mark.parametrize("mode", STORES)
def test_forward_and_reverse_mode_are_the_recursion(form: str, mode: str) -> None:
    text = scheduled(TEXT.replace("BY", BY[form]).replace("COUNT", "40"), descend=mode)
    assert error(gradients(text)["m"], by_recursion(40)) < TOLERANCE


def test_at_the_minimum_only_the_direct_gradient_is_left() -> None:
    """Eq. C.12: with T large the end is the minimum, which no M moves."""
    direct = torch.zeros(2, dtype=torch.float64)
    for Q, b, start in problems():
        direct = direct + 0.5 * (torch.linalg.solve(2 * Q, b) - start) ** 2 / 3
    expected = START * (direct + regular(START))
    text = scheduled(TEXT.replace("BY", BY["mirror"]).replace("COUNT", "3_000"), descend="fmd")
    assert error(gradients(text)["m"], expected) < TOLERANCE
    assert error(by_recursion(40), expected) > 1e-2
