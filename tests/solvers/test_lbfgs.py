"""L-BFGS: where it ends, copy by copy, and the implicit derivative there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from bilevel.backends.torch_func.lbfgs import curvature_pair, lbfgs, quasi_newton
from bilevel.backends.torch_func.tree import Tree
from bilevel.errors import RecipeError
from tests.solvers.agreement import check_modes, gradient, scheduled
from tests.zoo.compiled import compile_text

A = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EXACT = ("ift(linear = exact)", "ift(linear = cg(tol = 1e-13, steps = 50))")

COPIES = """recipe copies
use A : real[6, 3]
level meta {
  lam : real[3] from 0.4
  each s ~ normal(0, 1)[4]
  level fit {
    w : real[3] in positive from 0.5
    v : real from s
    minimize 0.5 * sqnorm(dot(A, w - 1) - 0.1 * s) + 0.05 * sum(exp(lam) * w^2) + sqnorm(lam) * (v - s * sum(w))^2 + v^4
    by lbfgs() until stationary(1e-11) within 200 steps
  }
  minimize mean[s] (sqnorm(w) * s^2 + v)
  by adam(lr = 0.01) for 2 steps
}
"""
RIDGE = """recipe ridge
use A : real[6, 3]
level meta {
  lam : real[3] in positive from 0.3
  level fit {
    w : real[3] from 0.1
    minimize 0.5 * sqnorm(dot(A, w) - 1) + 0.5 * sum(lam * w^2)
    by lbfgs(history = 5) until stationary(1e-12) within 100 steps
  }
  minimize sum(w^3)
  by adam(lr = 0.01) for 2 steps
}
"""


def test_ridge_regression_has_its_closed_form() -> None:
    free = torch.full((3,), 0.3, dtype=torch.float64).log()

    def value(lam: Tensor) -> Tensor:
        return (torch.linalg.solve(A.T @ A + torch.diag(lam.exp()), A.sum(0)) ** 3).sum()

    for mode in EXACT:
        found = gradient(scheduled(RIDGE, "fit", mode, {"A": A}))
        assert float((found - grad(value)(free)).abs().max()) < 1e-10


def test_copies_variables_and_domains() -> None:
    check_modes(COPIES, "fit", {"A": A}, EXACT)


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(checkpoint = 3)"])
def test_the_way_there_has_no_derivative(mode: str) -> None:
    with pytest.raises(RecipeError) as caught:
        scheduled(RIDGE, "fit", mode, {"A": A})
    assert "step lengths that `lbfgs` searches for have no derivative" in str(caught.value)


def test_maximising_is_minimising_the_negative() -> None:
    turned = RIDGE.replace("minimize 0.5 * sqnorm(dot(A, w) - 1) +", "maximize -0.5 * sqnorm(dot(A, w) - 1) -")
    one, other = (gradient(compile_text(text, {"A": A})) for text in (RIDGE, turned))
    assert torch.allclose(one, other, atol=1e-9)


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[..., 1] - x[..., 0] ** 2) ** 2 + (1 - x[..., 0]) ** 2


def both(function: object, depth: int) -> object:
    def at(x: Tree) -> tuple[Tensor, Tensor]:
        each = grad(function)  # type: ignore[arg-type]
        for _ in range(depth):
            each = vmap(each)
        return function(x), each(x)  # type: ignore[operator]

    return at


def test_a_curved_valley_from_many_starts_at_once() -> None:
    starts = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -4.0], [1.0, 1.0]], dtype=torch.float64)
    found = lbfgs(both(rosenbrock, 1), starts, 1, 8, 1e-10, 200)  # type: ignore[arg-type]
    assert float((found - 1).abs().max()) < 1e-8
    assert torch.equal(found[3], starts[3])  # stationary at the start: stays to the bit
    alone = lbfgs(both(rosenbrock, 0), starts[0], 0, 8, 1e-10, 200)  # type: ignore[arg-type]
    assert float((alone - found[0]).abs().max()) < 1e-8


def test_values_that_cannot_be_computed_are_stepped_back_from() -> None:
    def barrier(x: Tensor) -> Tensor:
        return x.sum(-1) * 3 - torch.log(x).sum(-1)

    start = torch.tensor([[5.0, 0.1], [1e-3, 40.0]], dtype=torch.float64)
    found = lbfgs(both(barrier, 1), start, 1, 5, 1e-9, 100)  # type: ignore[arg-type]
    assert float((found - 1 / 3).abs().max()) < 1e-8


def test_a_function_without_a_minimum_stops_at_the_cap() -> None:
    found = lbfgs(both(lambda x: -x.sum(-1), 0), torch.zeros(2).double(), 0, 5, 1e-9, 3)  # type: ignore[arg-type]
    assert bool(torch.isfinite(found).all()) and float(found.min()) > 1


def test_negative_curvature_is_left_out() -> None:
    step = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    change = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]).double()
    *_, inverse = curvature_pair(step, change)
    assert inverse.tolist() == [0.5, 0.0]
    direction = quasi_newton(torch.tensor([[4.0, 1.0], [4.0, 1.0]]).double(), [(step, change, inverse)])
    assert direction[0].tolist() == [-2.0, -0.5]  # the secant equation along the step, its scale beside it
    assert float(direction[1].norm()) == pytest.approx(1.0)


def test_history_is_the_inverse_of_a_quadratic() -> None:
    """After n exact steps along conjugate directions the estimate is the inverse itself (on their span)."""
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double()
    first = torch.tensor([1.0, 0.0]).double()
    second = torch.tensor([-1.0, 3.0]).double()  # conjugate to the first
    assert float(first @ matrix @ second) == 0.0
    pairs = [curvature_pair(s, matrix @ s) for s in (first, second)]
    g = torch.tensor([0.7, -1.3]).double()
    assert torch.allclose(quasi_newton(g, pairs), -torch.linalg.solve(matrix, g), atol=1e-12)
