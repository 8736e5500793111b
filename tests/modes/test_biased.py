"""Biased modes are not wrong: each equals a closed form, or a loop, of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.modes.loops import derivative, solve, stop, tensor
from tests.modes.products import MATRICES, TA, TB, TV, TY, fit, outer
from tests.modes.tools import TOLERANCE, error, gradients, scheduled, worst
from tests.zoo.compiled import compile_text, hypergradient, plan_text

GIVEN = {name: torch.tensor(part) for name, part in MATRICES.items()}
SOLVERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")

# ---- first order, windows ------------------------------------------------------------------------------------

LEARNED = """recipe truncated
use A : real[6, 3]
use b : real[6]
use V : real[5, 3]
use y : real[5]
level tune {
  r : real in positive from 0.03
  m : real in unit from 0.4
  x : real[3] from [0.2, -0.1, 0.4]
  level fit {
    w : real[3] from x
    minimize 0.5 * sqnorm(dot(A, w) - b) + 0.1 * sum(w^4) + 0.3 * dot(w, x)
    by BY for 8 steps
  }
  minimize 0.5 * sqnorm(dot(V, w) - y) + 0.1 * m^2 + 0.1 * r + sum(x^3)
  by sgd(lr = 0.1) for 2 steps
}"""
BY = {
    "sgd": "sgd(lr = r)",
    "momentum": "sgd(lr = r, momentum = m)",
    "adam": "adam(lr = r, beta1 = m)",
    "adamw": "adamw(lr = r, beta1 = m, weight_decay = 0.1)",
    "rmsprop": "rmsprop(lr = r, alpha = m)",
}
AT = {"r": math.log(0.03), "m": math.log(0.4 / 0.6), "x": [0.2, -0.1, 0.4]}


def truncated(solver: str, cut: tuple[int, ...] = (), held: bool = False) -> dict[str, Tensor]:
    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        def objective(w: Tensor, _: int) -> Tensor:
            return fit(w) + 0.1 * (w**4).sum() + 0.3 * w @ x

        hold = stop if held else lambda g: g
        w = solve(objective, x, 8, solver, r.exp(), m.sigmoid(), hold=hold, cut=cut)[-1]
        return outer(w) + 0.1 * m.sigmoid() ** 2 + 0.1 * r.exp() + (x**3).sum()

    return derivative(value, **AT)


@pytest.mark.parametrize("solver", SOLVERS)
def test_order_one_holds_the_gradient(solver: str) -> None:
    text = scheduled(LEARNED.replace("BY", BY[solver]), fit="rmd(order = 1)")
    assert plan_text(text).exactness == "biased"
    assert worst(gradients(text, GIVEN), truncated(solver, held=True)) < TOLERANCE


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("window", (1, 3, 7))
def test_a_window_cuts_before_its_first_step(solver: str, window: int) -> None:
    text = scheduled(LEARNED.replace("BY", BY[solver]), fit=f"rmd(window = {window})")
    assert plan_text(text).exactness == "biased"
    assert worst(gradients(text, GIVEN), truncated(solver, cut=(8 - window,))) < TOLERANCE


@pytest.mark.parametrize("solver", ("momentum", "adam"))
def test_a_window_of_first_order(solver: str) -> None:
    text = scheduled(LEARNED.replace("BY", BY[solver]), fit="rmd(window = 3, order = 1)")
    assert worst(gradients(text, GIVEN), truncated(solver, cut=(5,), held=True)) < TOLERANCE


def test_first_order_is_biased_here() -> None:
    """The tests above would pass for anything if the truth were the same."""
    exact = truncated("adam")
    for other in (truncated("adam", held=True), truncated("adam", cut=(5,)), truncated("adam", cut=(7,))):
        assert worst(other, exact) > 1e-2


# ---- linear systems that are not solved ----------------------------------------------------------------------

LAM = tensor([0.3, 0.2, 0.7])
H = TA.T @ TA + torch.diag(LAM)
UNTIL = "sgd(lr = 0.05) until stationary(1e-12) within 5000 steps"
RIDGE = f"""recipe approximated
use A : real[6, 3]
use b : real[6]
use V : real[5, 3]
use y : real[5]
level tune {{
  lam : real[3] in positive from [0.3, 0.2, 0.7]
  level fit {{
    w : real[3] from 0.1
    minimize 0.5 * sqnorm(dot(A, w) - b) + 0.5 * sum(lam * w^2)
    by {UNTIL}
  }}
  minimize 0.5 * sqnorm(dot(V, w) - y) + sum(lam^2)
  by sgd(lr = 0.1) for 2 steps
}}"""
SOLUTION = torch.linalg.solve(H, TA.T @ TB)
COTANGENT = TV.T @ (TV @ SOLUTION - TY)


def through(v: Tensor) -> Tensor:
    """The hypergradient in log lam when v stands for inv(H) c: the mixed derivative is diag(w)."""
    return LAM * (2 * LAM - SOLUTION * v)


def neumann(terms: int, scale: float) -> Tensor:
    """scale * sum over j < J of (I - scale H)^j c, as matrix powers (papers/002, eq. 2.27)."""
    M = torch.eye(3, dtype=torch.float64) - scale * H
    return (
        scale
        * sum((torch.linalg.matrix_power(M, j) for j in range(terms)), torch.zeros(3, 3, dtype=torch.float64))
        @ COTANGENT
    )


def approximated(linear: str) -> Tensor:
    text = scheduled(RIDGE, fit=f"ift(linear = {linear})")
    assert plan_text(text).exactness == "biased"
    return gradients(text, GIVEN)["lam"]


@pytest.mark.parametrize("terms", (1, 2, 5, 20))
@pytest.mark.parametrize("scale", (0.01, 0.06))
def test_neumann_of_some_terms(terms: int, scale: float) -> None:
    assert error(approximated(f"neumann(terms = {terms}, scale = {scale})"), through(neumann(terms, scale))) < TOLERANCE


def test_the_neumann_error_falls_with_the_number_of_terms() -> None:
    exact = through(torch.linalg.solve(H, COTANGENT))
    errors = [error(through(neumann(terms, 0.06)), exact) for terms in (1, 5, 20, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2 > errors[-1]


def conjugate_gradients(steps: int) -> Tensor:
    """As printed in any textbook, with names of its own."""
    x, r = torch.zeros(3, dtype=torch.float64), COTANGENT
    p = r
    for _ in range(steps):
        alpha = (r @ r) / (p @ H @ p)
        x, new = x + alpha * p, r - alpha * H @ p
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


@pytest.mark.parametrize("steps", (1, 2, 3))
def test_cg_of_some_steps(steps: int) -> None:
    assert error(approximated(f"cg(steps = {steps})"), through(conjugate_gradients(steps))) < TOLERANCE


def test_cg_is_exact_after_as_many_steps_as_unknowns() -> None:
    assert error(through(conjugate_gradients(3)), through(torch.linalg.solve(H, COTANGENT))) < TOLERANCE
    assert error(through(conjugate_gradients(2)), through(torch.linalg.solve(H, COTANGENT))) > 1e-4


@pytest.mark.parametrize("steps", (1, 2, 3))
def test_gmres_of_some_steps_has_the_least_residual(steps: int) -> None:
    krylov = torch.stack([torch.linalg.matrix_power(H, j) @ COTANGENT for j in range(steps)], -1)
    weights = torch.linalg.lstsq(H @ krylov, COTANGENT[:, None]).solution
    assert error(approximated(f"gmres(steps = {steps})"), through((krylov @ weights)[:, 0])) < 1e-8


@pytest.mark.parametrize(("rank", "places"), ((2, [0, 2]), (3, [0, 1, 2])))
def test_nystrom_of_some_rank(rank: int, places: list[int]) -> None:
    """(C inv(C_kk) C' + damping I)^-1 c with C the chosen columns of H."""
    columns = H[:, places]
    low = columns @ torch.linalg.inv(columns[places]) @ columns.T
    v = torch.linalg.solve(low + 0.05 * torch.eye(3, dtype=torch.float64), COTANGENT)
    assert error(approximated(f"nystrom(rank = {rank}, damping = 0.05)"), through(v)) < TOLERANCE


@pytest.mark.parametrize(
    "linear",
    (
        "exact(damping = 0.4)",
        "cg(tol = 1e-13, damping = 0.4)",
        "gmres(tol = 1e-13, damping = 0.4)",
        "neumann(tol = 1e-13, terms = 4000, scale = 0.06, damping = 0.4)",
    ),
)
def test_damping_is_added_to_the_system(linear: str) -> None:
    v = torch.linalg.solve(H + 0.4 * torch.eye(3, dtype=torch.float64), COTANGENT)
    assert error(approximated(linear), through(v)) < TOLERANCE
    assert error(through(v), through(torch.linalg.solve(H, COTANGENT))) > 1e-2


# ---- evolution strategies ------------------------------------------------------------------------------------

ES = """recipe perturbed
use A : real[6, 3]
use b : real[6]
use V : real[5, 3]
use y : real[5]
level tune {
  x : real[3] from [0.2, -0.1, 0.4]
  level fit {
    w : real[3] from x
    minimize 0.5 * sqnorm(dot(A, w) - b)
    by sgd(lr = 0.03) for 5 steps
  }
  minimize 0.5 * sqnorm(dot(V, w) - y) + DIRECT
  by sgd(lr = 0.1) for 2 steps
}
"""


def sampled(direct: str, seeds: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard error over seeds, and the exact hypergradient; the solution is affine in x: no bias."""
    compiled = compile_text(scheduled(ES.replace("DIRECT", direct), fit="es(samples = 8, sigma = 0.1)"), GIVEN)
    found = torch.stack([hypergradient(compiled, seed)[1]["x"] for seed in range(seeds)])
    exact = gradients(ES.replace("DIRECT", direct), GIVEN)["x"]
    return found.mean(0), found.std(0) / math.sqrt(seeds), exact


def test_es_is_unbiased_where_the_solution_is_affine() -> None:
    mean, deviation, exact = sampled("0 * sum(x)")
    assert ((mean - exact).abs() < 4 * deviation).all()
    assert (deviation < 0.5 * exact.abs().max()).all() and (deviation > 0).all()


def test_es_leaves_the_direct_path_alone() -> None:
    """The other paths have no noise: with and without them, the difference is their exact derivative."""
    mean, _, exact = sampled("sum(x^3)", 5)
    without, _, plain = sampled("0 * sum(x)", 5)
    assert error(mean - without, exact - plain) < TOLERANCE
    assert error(exact - plain, 3 * tensor([0.2, -0.1, 0.4]) ** 2) < TOLERANCE


def test_es_spreads_as_the_formula_says() -> None:
    """One pair gives (c . J d) d, of mean J'c and covariance |J'c|^2 I + (J'c)(J'c)'; n pairs 1 / n of it."""
    compiled = compile_text(scheduled(ES.replace("DIRECT", "0 * sum(x)"), fit="es(samples = 8, sigma = 0.1)"), GIVEN)
    found = torch.stack([hypergradient(compiled, seed)[1]["x"] for seed in range(150)])
    exact = gradients(ES.replace("DIRECT", "0 * sum(x)"), GIVEN)["x"]
    variance = ((exact @ exact) + exact**2) / 8
    assert torch.allclose(found.var(0), variance, rtol=0.5)
    assert np.isfinite(found.numpy()).all()
