"""Deep nestings: what a derivative of higher order needs of the levels that are differentiated implicitly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.modes.loops import derivative, tensor
from tests.modes.tools import TOLERANCE, gradients, scheduled, worst

DEEP = """recipe deep
level a {
  x : real from 0.7
  level b {
    y : real from x
    level c {
      z : real from 0.5 * y
      level d {
        u : real from z
        minimize 0.5 * (u - x * z * y)^2 + 0.1 * u^4
        by sgd(lr = 0.3) until stationary(1e-13) within 500 steps
      }
      minimize 0.5 * (u - 1)^2 + 0.1 * (z - y)^2
      by sgd(lr = 0.3) for 2 steps
    }
    minimize (z - 0.3)^2 + 0.2 * (y - x)^2
    by sgd(lr = 0.2) for 2 steps
  }
  minimize (y - 2)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}"""


def root(target: Tensor) -> Tensor:
    """Where u + 0.4 u^3 = target, with all its derivatives."""
    u = target.detach()
    for _ in range(60):
        u = u - (u + 0.4 * u**3 - target.detach()) / (1 + 1.2 * u**2)
    for _ in range(5):
        u = u - (u + 0.4 * u**3 - target) / (1 + 1.2 * u**2)
    return u


def deep(x: Tensor) -> Tensor:
    def third(y: Tensor) -> Tensor:
        z = 0.5 * y
        for _ in range(2):
            u = root(x * z * y)
            z = z - 0.3 * ((u - 1) * x * y / (1 + 1.2 * u**2) + 0.2 * (z - y))
        return (z - 0.3) ** 2 + 0.2 * (y - x) ** 2

    y = x + 0
    for _ in range(2):
        y = y - 0.2 * torch.autograd.grad(third(y), y, create_graph=True)[0]
    return (y - 2) ** 2 + x**2


@pytest.mark.parametrize("linear", ("exact", "cg(tol = 1e-13, steps = 5)"))

def test_an_implicit_level_under_three_others(linear: str) -> None:
    found = gradients(scheduled(DEEP, d=f"ift(linear = {linear})"))
    assert worst(found, derivative(deep, x=tensor(0.7))) < TOLERANCE
