"""Domains of another shape in their free coordinates: inverses, what values satisfy, and hypergradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev

from bilevel.backends.torch_func import domains
from tests.solvers.agreement import check_modes
from tests.zoo.compiled import compile_text, run

A = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)

ALL = """recipe domains
use A : real[3, 3]
level meta {
  p : real[3] in simplex from 0.2
  P : real[3, 3] in psd from A
  O : real[3, 3] in orthogonal from eye(3)
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] in simplex from p
    Q : real[3, 3] in psd from 0.5 * P + eye(3)
    R : real[3, 3] in orthogonal from O
    minimize quad(P, w - p * s) + s * sum(dot(Q, p)^3) + sum(exp(dot(R, w))) + sqnorm(Q - A * s) + trace(dot(R, A))
    by sgd(lr = 0.05, momentum = 0.3) for 4 steps
  }
  minimize mean[s] (quad(P, w) + sqnorm(Q - eye(3)) + sum(dot(R, w)^3)) + sum(dot(O, p)^2)
  by adam(lr = 0.05) for 3 steps
}
"""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("simplex", (2, 4)), ("psd", (2, 6)), ("psd", (1,)), ("orthogonal", (2, 3)), ("orthogonal", (6,))],
)
def test_free_coordinates_and_values_are_inverse(name: str, shape: tuple[int, ...]) -> None:
    free = 0.7 * random(*shape)
    value = getattr(domains, name)(free)
    assert torch.allclose(getattr(domains, f"{name}_free")(value), free, atol=1e-12)


def test_values_satisfy_their_domain() -> None:
    free = 3 * random(5, 6)
    simplex = domains.simplex(free)
    assert simplex.shape == (5, 7) and float((simplex.sum(-1) - 1).abs().max()) < 1e-14 and float(simplex.min()) > 0
    psd = domains.psd(free)
    assert psd.shape == (5, 3, 3) and torch.equal(psd, psd.mT) and float(torch.linalg.eigvalsh(psd).min()) > 0
    turn = domains.orthogonal(free)
    assert turn.shape == (5, 4, 4)
    assert float((turn @ turn.mT - torch.eye(4)).abs().max()) < 1e-13
    assert torch.allclose(torch.linalg.det(turn), torch.ones(5).double())


def test_a_start_need_not_be_scaled() -> None:
    assert torch.allclose(domains.simplex(domains.simplex_free(torch.tensor([2.0, 6.0]))), torch.tensor([0.25, 0.75]))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1.0, -2.5, 3.1])
def test_the_logarithm_of_a_turn_is_its_angle(angle: float) -> None:
    a = torch.tensor(angle, dtype=torch.float64)
    turn = torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
    log = domains.rotation_log(turn)
    assert float(log[1, 0]) == pytest.approx(angle, abs=1e-12)
    assert float((log + log.T).abs().max()) < 1e-12


def test_the_logarithm_has_derivatives_where_eigenvectors_have_none() -> None:
    """At the identity the map and its inverse are the identity to first order, in both modes."""
    zero = torch.zeros(3, dtype=torch.float64)
    through = lambda free: domains.orthogonal_free(domains.orthogonal(free))  # noqa: E731
    for jacobian in (jacfwd, jacrev):
        assert torch.allclose(jacobian(through)(zero), torch.eye(3).double(), atol=1e-12)
        assert torch.allclose(jacobian(through)(random(3)), torch.eye(3).double(), atol=1e-10)


def test_modes_agree_on_all_of_them() -> None:
    check_modes(ALL, "fit", {"A": A}, ("rmd", "rmd(checkpoint = 2)", "rmd(checkpoint = binomial)",
                "rmd(store = residuals)", "fmd"))  # fmt: skip


def test_the_outer_solver_keeps_them() -> None:
    compiled = compile_text(ALL, {"A": A})
    values = compiled.phase.values(run(compiled.phase, compiled.key()))
    assert float(values["p"].sum()) == pytest.approx(1)
    assert float(torch.linalg.eigvalsh(values["P"]).min()) > 0
    assert float((values["O"] @ values["O"].T - torch.eye(3)).abs().max()) < 1e-13
    assert float((values["P"] - A).abs().max()) > 1e-3


def test_iterates_and_implicit_solutions_are_values() -> None:
    text = """recipe iterates
use A : real[3, 3]
level meta {
  c : real[3] from 0.3
  level fit {
    w : real[3] in simplex from 0.2
    minimize quad(A, w - c)
    by sgd(lr = 0.3) for 4 steps
  }
  minimize sum[k in 0..4] sum(w@k * c) * k
  by adam(lr = 0.05) for 3 steps
}
"""
    check_modes(text, "fit", {"A": A}, ("rmd", "rmd(store = residuals)"))
    ended = text.replace("for 4 steps", "until stationary(1e-12) within 3000 steps")
    ended = ended.replace("sum[k in 0..4] sum(w@k * c) * k", "sum(w * c) + sum(w^3)")
    check_modes(ended, "fit", {"A": A}, ("ift(linear = exact)", "ift(linear = cg(tol = 1e-12, steps = 9))"))
