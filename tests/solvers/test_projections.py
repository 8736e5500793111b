"""Projected steps in matrix domains: the closest matrices, their derivatives to higher order, and hypergradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from bilevel.backends.torch_func.keepers import onto_orthogonal, onto_psd
from tests.solvers.agreement import check_modes
from tests.zoo.compiled import compile_text, run

PROJECTIONS = (onto_psd, onto_orthogonal)
A = torch.tensor([[2.0, 0.5, 0.1], [0.5, -1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)
MATRICES = """recipe matrices
use A : real[3, 3]
level meta {{
  c : real[3] from [0.3, -0.2, 0.5]
  lr : real in positive from 0.1
  each s ~ normal(0, 1)[2]
  level fit {{
    P : real[3, 3] in {domain} from eye(3)
    minimize s * quad(P, c) + sum((P - A)^2) + 0.1 * sum(dot(P, c)^3)
    by pgd(lr = lr) for 4 steps
  }}
  minimize mean[s] (sum(dot(P, c)^3) + quad(P, c - s))
  by adam(lr = 0.05) for 3 steps
}}
"""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quotients(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """The Jacobian by central differences."""
    moves = step * torch.eye(at.numel(), dtype=at.dtype).reshape(at.numel(), *at.shape)
    columns = torch.stack([(function(at + m) - function(at - m)) / (2 * step) for m in moves], -1)
    return columns.reshape(*columns.shape[:-1], *at.shape)


def test_the_closest_matrices_are_those_of_their_decompositions() -> None:
    points = random(5, 4, 4)
    symmetric = 0.5 * (points + points.mT)
    eigenvalues, basis = torch.linalg.eigh(symmetric)
    cut = basis @ torch.diag_embed(eigenvalues.clamp(min=0)) @ basis.mT
    assert torch.allclose(onto_psd(points), cut, atol=1e-14)
    left, _, right = torch.linalg.svd(points)
    assert torch.allclose(onto_orthogonal(points), left @ right, atol=1e-13)


def test_they_are_at_rest_on_the_domain() -> None:
    inside = onto_psd(random(3, 3))
    assert torch.allclose(onto_psd(inside), inside, atol=1e-14)
    assert bool(torch.isfinite(jacrev(onto_psd)(inside)).all())
    turn = onto_orthogonal(random(3, 3, seed=1))
    assert torch.allclose(onto_orthogonal(turn), turn, atol=1e-14)
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.equal(onto_psd(zero), zero) and torch.equal(jacrev(onto_psd)(zero), zero.new_zeros(3, 3, 3, 3))


@pytest.mark.parametrize("project", PROJECTIONS)
def test_derivatives_of_three_orders(project: Callable[[Tensor], Tensor]) -> None:
    point = random(3, 3, seed=2)
    first, second = jacrev(project), jacfwd(jacrev(project))
    assert torch.allclose(first(point), quotients(project, point), atol=1e-8)
    assert torch.allclose(jacfwd(project)(point), first(point), atol=1e-13)
    assert torch.allclose(second(point), quotients(first, point), atol=1e-7)
    third = jacrev(jacfwd(jacrev(project)))
    assert torch.allclose(third(point), quotients(second, point), rtol=1e-6, atol=1e-6)
    points = random(4, 3, 3, seed=3)
    assert torch.allclose(vmap(first)(points)[1], first(points[1]), atol=1e-13)


@pytest.mark.parametrize("project", PROJECTIONS)
def test_equal_eigenvalues_have_a_derivative(project: Callable[[Tensor], Tensor]) -> None:
    """Where eigenvectors have none; derivatives of eigh and svd would be not-a-number here."""
    point = torch.diag(torch.tensor([1.0, 1.0, -2.0, -2.0], dtype=torch.float64))
    assert torch.allclose(jacrev(project)(point), quotients(project, point), atol=1e-8)


@pytest.mark.parametrize("domain", ["psd", "orthogonal"])
def test_modes_agree(domain: str) -> None:
    found = check_modes(MATRICES.format(domain=domain), "fit", {"A": A})
    assert float(found.abs().min()) > 1e-6


def test_two_differentiated_levels_need_the_second_derivative() -> None:
    """The adjoint of a projected step is itself differentiated: a projection without curvature would be found out."""
    text = """recipe deep
use A : real[3, 3]
level meta {
  c : real[3] from [0.3, -0.2, 0.5]
  level middle {
    d : real[3] from c
    level fit {
      P : real[3, 3] in psd from eye(3)
      minimize sum((P - A)^2) + quad(P, d)
      by pgd(lr = 0.2) for 3 steps
    }
    minimize sum(dot(P, d)^2) + sqnorm(d - c)
    by sgd(lr = 0.05) for 2 steps
  }
  minimize sum(d^3) + sum(d)
  by adam(lr = 0.05) for 3 steps
}
"""
    check_modes(text, "middle", {"A": A}, ("rmd", "fmd", "rmd(store = residuals)"))
    check_modes(text, "fit", {"A": A}, ("rmd", "fmd", "rmd(checkpoint = 2)"))


def test_an_outer_solver_keeps_them() -> None:
    text = """recipe nearest
use A : real[3, 3]
level fit {
  P : real[3, 3] in psd from eye(3)
  Q : real[3, 3] in orthogonal from eye(3)
  minimize sum((P - A)^2) + sum((Q - A)^2)
  by pgd(lr = 0.1) for 200 steps
}
"""
    compiled = compile_text(text, {"A": A})
    values = compiled.phase.values(run(compiled.phase, compiled.key()))
    assert torch.allclose(values["P"], onto_psd(A), atol=1e-9)
    turn = values["Q"]
    assert torch.allclose(turn @ turn.mT, torch.eye(3, dtype=torch.float64), atol=1e-13)
    # The steps keep the determinant's sign, here that of the start: the best turn, not the best reflection.
    left, _, right = torch.linalg.svd(A)
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(left @ right).sign())], dtype=torch.float64))
    assert float(torch.linalg.det(turn)) == pytest.approx(1)
    assert torch.allclose(turn, left @ flip @ right, atol=1e-6)


def test_each_of_several_variables_keeps_its_own_domain() -> None:
    text = """recipe several
level meta {
  c : real[2] from [0.7, -0.4]
  level fit {
    a : real[2] in unit from 0.5
    b : real[2] from 0
    d : real[2] in between(-0.2, 0.1) from 0
    minimize sqnorm(a - 2 * c) + sqnorm(b - 3 * c) + sqnorm(d - c)
    by pgd(lr = 0.5) for 2 steps
  }
  minimize sum(a) + sum(b * c) + sum(d * c)
  by adam(lr = 0.05) for 3 steps
}
"""
    compiled = compile_text(text)
    key = compiled.key()
    _, value = compiled.phase.hypergradient(compiled.phase.begin(key), key)
    assert float(value) == pytest.approx(1 + 3 * (0.49 + 0.16) + 0.1 * 0.7 + 0.2 * 0.4)
