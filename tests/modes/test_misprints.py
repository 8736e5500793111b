"""Formulas that the papers print wrongly: what is computed is the corrected one, and the printed one is another number.

Papers are named as in the references: 002 is the thesis on learned losses and optimisers, 004 the learned fine-tuner.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func import linear
from tests.modes.loops import derivative, tensor
from tests.modes.products import TA, TB
from tests.modes.test_biased import COTANGENT, GIVEN, LAM, RIDGE, SOLUTION, H, neumann, through
from tests.modes.tools import TOLERANCE, error, gradients, scheduled
from tests.zoo.compiled import compile_text, hypergradient

FAR = 1e-2  # what is printed must not be the same within this

# ---- 002 algorithm 3: reverse mode ends at t = 1, not at t = 2 -----------------------------------------------

STEPS = """recipe stepwise
use A : real[6, 3]
use b : real[6]
use V : real[5, 3]
use y : real[5]
level tune {
  lam : real[3] from [0.3, 0.2, 0.7]
  level fit {
    w : real[3] from 0.1
    minimize 0.5 * sqnorm(dot(A, w) - b) + 0.5 * sum(lam * w^2)
    by sgd(lr = 0.05) for COUNT
  }
  minimize 0.5 * sqnorm(dot(V, w) - y)
  by sgd(lr = 0.1) for 2 steps
}"""
MODES = ("rmd", "fmd", "rmd(checkpoint = 2)", "rmd(checkpoint = binomial)", "rmd(store = residuals)")


def reverse(steps: int, last: int) -> Tensor:
    """H += h_t B_t, h_{t-1} = h_t A_t for t = steps..last, with A and B of a step of gradient descent by hand."""
    w = [tensor([0.1] * 3)]
    for _ in range(steps):
        w.append(w[-1] - 0.05 * (H @ w[-1] - TA.T @ TB))
    V, y = GIVEN["V"], GIVEN["y"]
    h, found = V.T @ (V @ w[-1] - y), torch.zeros(3, dtype=torch.float64)
    for t in range(steps, last - 1, -1):
        found = found + h * (-0.05 * w[t - 1])
        h = h - 0.05 * H @ h
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", (1, 2, 5))
def test_the_first_step_is_counted(steps: int, mode: str) -> None:
    count = f"{steps} step{'s' * (steps > 1)}"
    found = gradients(scheduled(STEPS.replace("COUNT", count), fit=mode), GIVEN)["lam"]
    assert error(found, reverse(steps, 1)) < TOLERANCE
    assert error(found, reverse(steps, 2)) > FAR


def test_as_printed_one_step_would_give_nothing() -> None:
    assert torch.equal(reverse(1, 2), torch.zeros(3, dtype=torch.float64))
    assert gradients(STEPS.replace("COUNT", "1 step"), GIVEN)["lam"].abs().min() > 0


# ---- 002 eq. 2.28, algorithm 8: the series is plus the inverse, with its scale -------------------------------


def test_the_series_has_the_sign_of_the_inverse() -> None:
    found = gradients(scheduled(RIDGE, fit="ift(linear = neumann(terms = 400, scale = 0.06))"), GIVEN)["lam"]
    v = torch.linalg.solve(H, COTANGENT)
    assert error(found, through(v)) < 1e-6
    assert error(found, through(-v)) > FAR


def test_the_series_has_its_factor() -> None:
    """Algorithm 8 returns the sum without alpha: with alpha = 0.01 a hundred times too much."""
    found = gradients(scheduled(RIDGE, fit="ift(linear = neumann(terms = 10, scale = 0.01))"), GIVEN)["lam"]
    assert error(found, through(neumann(10, 0.01))) < TOLERANCE
    assert error(found, through(neumann(10, 0.01) / 0.01)) > 1


# ---- 002 eq. 2.33: half the quadratic form -------------------------------------------------------------------


def test_conjugate_gradients_minimise_half_the_form() -> None:
    v, residual = linear.cg(lambda x: H @ x, COTANGENT, 0, 1e-13, 10)
    assert error(v, torch.linalg.solve(H, COTANGENT)) < TOLERANCE and residual < 1e-12
    assert error(v, torch.linalg.solve(2 * H, COTANGENT)) > FAR  # the minimiser of w'Aw - w'g


# ---- 002 eq. 5.1, 5.5, C.1, C.16: mirror descent -------------------------------------------------------------

MIRROR = """recipe mirrored
level top {
  m : real[3] in positive from [1, 0.6, 2]
  level descend {
    w : real[3] from [0.2, -0.1, 0.4]
    minimize 0.5 * sqnorm(w - 1) + 0.1 * sum(w^4)
    by mirror(m, lr = 0.3) for COUNT
  }
  minimize sqnorm(w - 0.5)
  by sgd(lr = 0.1) for 2 steps
}"""
PROXIMAL = """recipe proximal
level top {
  m : real[3] in positive from [1, 0.6, 2]
  level descend {
    w : real[3] from [0.2, -0.1, 0.4]
    level nearest {
      z : real[3] from w
      minimize dot(w - 1 + 0.4 * w^3, z) + 0.5 * sum(m * (z - w)^2) / ETA
      by closed_form
    }
    by next(z) for 4 steps
  }
  minimize sqnorm(w - 0.5)
  by sgd(lr = 0.1) for 2 steps
}"""


@pytest.mark.parametrize("mode", ("rmd", "fmd"))
def test_the_divergence_is_divided_by_eta(mode: str) -> None:
    """argmin of g'z + B(z, w) / eta is the mirror step; with B / (2 eta), as printed, it is a step of twice the size."""
    mirror = gradients(scheduled(MIRROR.replace("COUNT", "4 steps"), descend=mode))["m"]
    assert error(gradients(scheduled(PROXIMAL.replace("ETA", "0.3"), descend=mode))["m"], mirror) < TOLERANCE
    assert error(gradients(scheduled(PROXIMAL.replace("ETA", "0.6"), descend=mode))["m"], mirror) > FAR


@pytest.mark.parametrize("mode", ("rmd", "fmd"))
def test_the_derivative_of_one_mirror_step(mode: str) -> None:
    """d/dM (w - eta g / M) = eta g / M^2; C.16 prints twice that."""
    found = gradients(scheduled(MIRROR.replace("COUNT", "1 step"), descend=mode))["m"]
    w, m = tensor([0.2, -0.1, 0.4]), tensor([1.0, 0.6, 2.0])
    g = w - 1 + 0.4 * w**3
    one = w - 0.3 * g / m
    expected = 2 * (one - 0.5) * (0.3 * g / m**2) * m  # in log m
    assert error(found, expected) < TOLERANCE
    assert error(found, 2 * expected) > FAR


# ---- 002 eq. 5.28: the rephrased problem ---------------------------------------------------------------------

INTERPOLATING = """recipe interpolating
level top {
  m : real[3] in positive from [1, 0.6, 2]
  level descend {
    w : real[3] from [0.2, -0.1, 0.4]
    minimize 0.5 * (sum(w * [1, 2, -1]) - 1.5)^2
    by mirror(m, lr = 0.1) DURATION
  }
  minimize 0.5 * sum(m * (w - w@0)^2)
  by sgd(lr = 0.1) for 2 steps
}"""


def nearest_divergence(m: Tensor) -> Tensor:
    """B of the interpolating point nearest to the start: (t - a'w0)^2 / (2 a' inv(M) a)."""
    a, start = tensor([1.0, 2.0, -1.0]), tensor([0.2, -0.1, 0.4])
    return 0.5 * (1.5 - a @ start) ** 2 / (a**2 / m.exp()).sum()


TRUTH = derivative(nearest_divergence, m=[0.0, math.log(0.6), math.log(2.0)])["m"]
LONG = "for 400 steps"


@pytest.mark.parametrize("mode", ("rmd(checkpoint = sqrt)", "fmd"))
def test_mirror_descent_ends_at_the_nearest_point(mode: str) -> None:
    assert error(gradients(scheduled(INTERPOLATING.replace("DURATION", LONG), descend=mode))["m"], TRUTH) < TOLERANCE


@pytest.mark.parametrize(("sign", "ratio"), (("", -1.0), (", sign = printed", 3.0)))
@pytest.mark.parametrize("duration", (LONG, "until stationary(1e-12) within 2000 steps"))
def test_the_rephrased_problem_has_the_constants_of_its_derivation(sign: str, ratio: float, duration: str) -> None:
    """The direct part is the truth (the point is a minimiser of B), the path through it -2 or +2 times that."""
    mode = f"ift(through = 0.5 * sum(m * (w - w@0)^2), linear = exact{sign})"
    found = gradients(scheduled(INTERPOLATING.replace("DURATION", duration), descend=mode))["m"]
    assert error(found, ratio * TRUTH) < 1e-8


PARTED = """recipe parted
level top {
  p : real in positive from 1
  q : real[2] in positive from [0.6, 2]
  level descend {
    u : real from 0.2
    v : real[2] from [-0.1, 0.4]
    minimize 0.5 * (u + sum(v * [2, -1]) - 1.5)^2
    by u : sgd(lr = 0.1 / p), v : mirror(q, lr = 0.1) until stationary(1e-12) within 2000 steps
  }
  minimize 0.5 * p * (u - u@0)^2 + 0.5 * sum(q * (v - v@0)^2)
  by sgd(lr = 0.1) for 2 steps
}"""


def test_the_rephrased_problem_of_two_variables() -> None:
    """The same with the coordinates in two variables, each with a start of its own."""
    mode = "ift(through = 0.5 * p * (u - u@0)^2 + 0.5 * sum(q * (v - v@0)^2), linear = exact)"
    found = gradients(scheduled(PARTED, descend=mode))
    assert error(torch.cat([found["p"][None], found["q"]]), -TRUTH) < 1e-8


# ---- 002 eq. 5.32, section 5.4.2: factored matrices ----------------------------------------------------------

FACTORS = """recipe factors
use net = mlp(2, 3)
level top {
  M : kron(net) from START
  minimize identity_gap(M)
  by sgd(lr = 0.1) for 2 steps
}"""


def test_the_regulariser_squares_the_singular_values() -> None:
    compiled = compile_text(FACTORS.replace("START", "normal(0, 0.7)"))
    state = compiled.phase.begin(compiled.key())
    value, _ = hypergradient(compiled)
    gap = printed = 0.0
    names = {name.rpartition(".")[0] for name in state.x}
    for layer in names:
        a, b = (state.x[f"{layer}.{n}" if layer else n] for n in "ab")
        A, B = (torch.outer(v, v) + torch.eye(len(v), dtype=v.dtype) for v in (a, b))
        n = len(a) * len(b)
        traces = float(torch.trace(A) * torch.trace(B))
        gap += float((torch.kron(A, B) - torch.eye(n, dtype=a.dtype)).square().sum())
        sigma, tau = torch.linalg.svdvals(A), torch.linalg.svdvals(B)
        assert gap == pytest.approx(float(torch.outer(sigma**2, tau**2).sum()) + n - 2 * traces)
        printed += float(torch.outer(sigma, tau).sum()) + n - 2 * traces
    assert value == pytest.approx(gap, rel=1e-9)
    assert abs(value - printed) > FAR


def test_factors_of_zero_do_not_move() -> None:
    """The least eigenvalue of a a' + I is 1 for every a, and at a = 0 no derivative tells where to go."""
    _, found = hypergradient(compile_text(FACTORS.replace("START", "0")))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in found["M"].values())
    _, moved = hypergradient(compile_text(FACTORS.replace("START", "normal(0, 0.1)")))
    assert all(g.abs().max() > 0 for g in moved["M"].values())


# ---- 004 eq. 9: the Hessian at the iterate that the step starts from -----------------------------------------

QUARTIC = """recipe quartic
level top {
  r : real from 0.05
  level fit {
    w : real[2] from [1.5, -1]
    minimize sum(w^4) + 0.5 * w[0] * w[1]
    by sgd(lr = r) for 5 steps
  }
  minimize sqnorm(w - 0.3)
  by sgd(lr = 0.1) for 2 steps
}"""


def forward(late: int) -> Tensor:
    """dw@(k+1) = dw@k - r H^(k - late) dw@k - g@k: eq. 9 of the paper prints late = 1."""
    w = [tensor([1.5, -1.0])]
    tangent = torch.zeros(2, dtype=torch.float64)
    mixed = tensor([[0.0, 0.5], [0.5, 0.0]])
    for k in range(5):
        g = 4 * w[k] ** 3 + mixed @ w[k]
        hessian = torch.diag(12 * w[max(k - late, 0)] ** 2) + mixed
        tangent = tangent - 0.05 * hessian @ tangent - g
        w.append(w[k] - 0.05 * g)
    return 2 * (w[-1] - 0.3) @ tangent


@pytest.mark.parametrize("mode", MODES)
def test_the_hessian_is_that_of_its_own_step(mode: str) -> None:
    found = gradients(scheduled(QUARTIC, fit=mode))["r"]
    assert error(found, forward(0)) < TOLERANCE
    assert error(found, forward(1)) > FAR


def test_the_numbers_used_above_are_those_of_the_problem() -> None:
    assert error(H @ SOLUTION, TA.T @ TB) < 1e-12 and torch.allclose(torch.diag(H - TA.T @ TA), LAM)
