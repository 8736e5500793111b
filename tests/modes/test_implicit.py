"""Implicit differentiation against closed forms, solved at 1e-11; the same for fixed points and closed-form levels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.modes.loops import derivative, tensor
from tests.modes.tools import TOLERANCE, error, gradients, notes, scheduled, worst
from tests.zoo.compiled import compile_text, hypergradient
from tests.zoo.problem import points
from tests.zoo.quadratics import MATRICES, A, B, V, Y

TA, TB, TV, TY = tensor(A.tolist()), tensor(B.tolist()), tensor(V.tolist()), tensor(Y.tolist())
GIVEN = {name: torch.tensor(part) for name, part in MATRICES.items()}
USES = "use A : real[6, 3]\nuse b : real[6]\nuse V : real[5, 3]\nuse y : real[5]"
LINEAR = (
    "cg(tol = 1e-12, steps = 60)",
    "gmres(tol = 1e-12, steps = 20)",
    "neumann(tol = 1e-12, terms = 5000)",
    "neumann(tol = 1e-12, terms = 5000, scale = 0.05)",
    "exact",
)


# ---- one level -----------------------------------------------------------------------------------------------


def ridge(by: str, direct: str = "") -> str:
    return f"""recipe ridge
{USES}
level tune {{
  lam : real[3] in positive from [0.3, 0.2, 0.7]
  level fit {{
    w : real[3] from 0.1
    minimize 0.5 * sqnorm(dot(A, w) - b) + 0.5 * sum(lam * w^2)
    by {by}
  }}
  minimize 0.5 * sqnorm(dot(V, w) - y){direct}
  by sgd(lr = 0.1) for 2 steps
}}"""


def ridge_value(lam: Tensor) -> Tensor:
    w = torch.linalg.solve(TA.T @ TA + torch.diag(lam.exp()), TA.T @ TB)
    return 0.5 * ((TV @ w - TY) ** 2).sum()


RIDGE = derivative(ridge_value, lam=np.log([0.3, 0.2, 0.7]))
UNTIL = "until stationary(1e-11) within 5000 steps"


@pytest.mark.parametrize("linear", LINEAR)
def test_ridge_is_its_closed_form(linear: str) -> None:
    text = scheduled(ridge(f"sgd(lr = 0.05) {UNTIL}"), fit=f"ift(linear = {linear})")
    assert worst(gradients(text, GIVEN), RIDGE) < TOLERANCE


def test_a_direct_path_is_added() -> None:
    text = scheduled(ridge(f"sgd(lr = 0.05) {UNTIL}", " + sum(lam^2)"), fit="ift(linear = exact)")
    expected = RIDGE["lam"] + 2 * tensor([0.3, 0.2, 0.7]) ** 2
    assert error(gradients(text, GIVEN)["lam"], expected) < TOLERANCE


@pytest.mark.parametrize(
    "by",
    (
        "sgd(lr = 0.03, momentum = 0.6)",
        "adam(lr = 0.02, beta1 = 0.5, beta2 = 0.9)",
        "rmsprop(lr = 0.0002)",
    ),
)
def test_the_answer_does_not_depend_on_the_solver_of_the_level(by: str) -> None:
    """Only on the point it ends at: Adam's direction is no gradient, and its rate is in no formula."""
    tol = "1e-11" if "sgd" in by else "1e-2"
    text = scheduled(ridge(f"{by} until stationary({tol}) within 8000 steps"), fit="ift(linear = exact)")
    compiled = compile_text(text, GIVEN)
    assert notes(compiled)["fit.stationarity"] <= float(tol)
    _, found = hypergradient(compiled)
    assert error(found["lam"], RIDGE["lam"]) < (TOLERANCE if tol == "1e-11" else 1e-2)


def test_one_number_is_solved_in_one_iteration() -> None:
    text = """recipe one
level tune {
  x : real from 0.7
  level fit {
    w : real from 0
    minimize 1.5 * (w - x^2)^2
    by sgd(lr = 0.2) until stationary(1e-12) within 500 steps
  }
  minimize w^2
  by sgd(lr = 0.1) for 2 steps
}"""
    for linear in ("cg(steps = 1)", *LINEAR):
        found = gradients(scheduled(text, fit=f"ift(linear = {linear})"))
        assert error(found["x"], tensor(4 * 0.7**3)) < TOLERANCE, linear


# ---- copies --------------------------------------------------------------------------------------------------

COPIES = """recipe copied
use d = points(count = 4)
level tune {
  lam : real[3] from [0.3, -0.2, 0.5]
  each t ~ d.all[4]
  level fit {
    w : real[3] from lam
    minimize 0.5 * t.y^2 * sqnorm(w - t.x) + 0.05 * sqnorm(w - lam) + 0.1 * sum((w - lam)^4)
    by sgd(lr = 0.1) until stationary(TOL) within 3000 steps
  }
  minimize mean[t] sqnorm(w - 1) * (1 + t.y^2)
  by sgd(lr = 0.1) for 2 steps
}"""


def copied_gradient(w: Tensor, lam: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return y**2 * (w - x) + 0.1 * (w - lam) + 0.4 * (w - lam) ** 3


def descended(tol: float) -> tuple[list[Tensor], list[int]]:
    """Where each copy ends, and after how many steps, by a loop of its own."""
    ends, counts = [], []
    lam = tensor([0.3, -0.2, 0.5])
    for x, y in zip(*map(torch.tensor, points(4)), strict=True):
        w, count = lam, 0
        while (g := copied_gradient(w, lam, x, y)).abs().max() > tol:
            w, count = w - 0.1 * g, count + 1
        ends.append(w)
        counts.append(count)
    return ends, counts


def copied_hypergradient() -> Tensor:
    """At the stationary point of each copy, with its Hessian and mixed derivative (both diagonal) by hand."""
    lam, total = tensor([0.3, -0.2, 0.5]), torch.zeros(3, dtype=torch.float64)
    for x, y in zip(*map(torch.tensor, points(4)), strict=True):
        w = lam
        for _ in range(60):  # Newton, to the last digit
            hessian = y**2 + 0.1 + 1.2 * (w - lam) ** 2
            w = w - copied_gradient(w, lam, x, y) / hessian
        hessian, mixed = y**2 + 0.1 + 1.2 * (w - lam) ** 2, -(0.1 + 1.2 * (w - lam) ** 2)
        total += -mixed / hessian * 2 * (w - 1) * (1 + y**2) / 4
    return total


@pytest.mark.parametrize("linear", LINEAR[:3] + LINEAR[4:])
def test_copies_are_solved_each_for_itself(linear: str) -> None:
    text = scheduled(COPIES.replace("TOL", "1e-11"), fit=f"ift(linear = {linear})")
    assert error(gradients(text)["lam"], copied_hypergradient()) < TOLERANCE


def test_copies_stop_each_at_its_own_step() -> None:
    """With a loose test the end of a copy shows when it stopped: after different numbers of steps."""
    text = COPIES.replace("TOL", "1e-2").replace(
        "minimize mean[t] sqnorm(w - 1) * (1 + t.y^2)", "minimize sum[t] dot(c[t.index], w) + 0 * sum(lam)"
    )
    text = text.replace("  each t", "  c : real[4, 3] from 0\n  each t")
    _, found = hypergradient(compile_text(text))
    ends, counts = descended(1e-2)
    assert len(set(counts)) > 2
    assert torch.allclose(found["c"], torch.stack(ends), rtol=1e-12, atol=0)


# ---- several variables ---------------------------------------------------------------------------------------

SEVERAL = """recipe joint
level tune {
  x : real[2] from [0.7, -0.3]
  level fit {
    a : real[2] from 0
    b : real in positive from 1
    minimize 0.5 * sqnorm(a - x) + 0.5 * (b - 2)^2 + 0.2 * b * sum(a) + 0.1 * sum(a^4)
    by a : sgd(lr = 0.2), b : sgd(lr = 0.1) until stationary(1e-12) within 3000 steps
  }
  minimize sqnorm(a - 1) * b + sum(x)
  by sgd(lr = 0.1) for 2 steps
}"""


def newton(gradient: Callable[[Tensor], Tensor], start: Tensor, rounds: int = 60) -> Tensor:
    """A zero of a gradient, to the last digit."""
    u = start
    for _ in range(rounds):
        u = u - torch.linalg.solve(torch.autograd.functional.jacobian(gradient, u), gradient(u))
    return u.detach()


def implicit(
    gradient: Callable[[Tensor, Tensor], Tensor], outer: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor
) -> Tensor:
    """outer_x - mixed' inv(J)' outer_u at the zero of `gradient`, all dense."""
    u = newton(lambda z: gradient(z, x), start)
    J_u, J_x = torch.autograd.functional.jacobian(gradient, (u, x))
    d_u, d_x = torch.autograd.functional.jacobian(outer, (u, x))
    return d_x - J_x.T @ torch.linalg.solve(J_u.T, d_u)  # type: ignore[no-any-return]


def joint_gradient(u: Tensor, x: Tensor) -> Tensor:
    """In a and in b itself: where its derivative is zero does not depend on the coordinates."""
    a, b = u[:2], u[2]
    return torch.cat([a - x + 0.2 * b + 0.4 * a**3, (b - 2 + 0.2 * a.sum())[None]])


@pytest.mark.parametrize("linear", LINEAR)
def test_several_variables_and_a_domain(linear: str) -> None:
    expected = implicit(
        joint_gradient,
        lambda u, x: ((u[:2] - 1) ** 2).sum() * u[2] + x.sum(),
        tensor([0.7, -0.3]),
        tensor([0.0, 0.0, 1.0]),
    )
    found = gradients(scheduled(SEVERAL, fit=f"ift(linear = {linear})"))
    assert error(found["x"], expected) < TOLERANCE


# ---- fixed points --------------------------------------------------------------------------------------------

C = tensor([[0.2, 0.5, -0.1], [-0.3, 0.1, 0.4], [0.25, -0.6, 0.05]])  # not symmetric
FIXED = """recipe fixed
use C : real[3, 3]
level tune {
  x : real[3] from [0.3, -0.5, 0.8]
  level fit {
    w : real[3] from 0
    by next(tanh(dot(C, w) + x)) until stationary(1e-13) within 3000 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}"""


@pytest.mark.parametrize(
    "linear", ("", "gmres(tol = 1e-12, steps = 10)", "exact", "neumann(tol = 1e-13, terms = 500, scale = 1)")
)
def test_a_fixed_point_is_differentiated_through_its_transpose(linear: str) -> None:
    text = scheduled(FIXED, fit=f"ift(linear = {linear})") if linear else FIXED
    expected = implicit(
        lambda w, x: w - torch.tanh(C @ w + x),
        lambda w, x: ((w - 1) ** 2).sum(),
        tensor([0.3, -0.5, 0.8]),
        torch.zeros(3, dtype=torch.float64),
    )
    assert error(gradients(text, {"C": C})["x"], expected) < TOLERANCE


def test_two_variables_move_from_their_old_values() -> None:
    text = """recipe paired
level tune {
  x : real from 0.3
  level fit {
    a : real from 0
    b : real from 0.5
    by next(a = 0.5 * cos(b) + x, b = 0.4 * a + 0.1 * b * x) until stationary(1e-13) within 500 steps
  }
  minimize a^2 * b
  by sgd(lr = 0.1) for 2 steps
}"""

    def residual(u: Tensor, x: Tensor) -> Tensor:
        return torch.stack([u[0] - 0.5 * torch.cos(u[1]) - x[0], u[1] - 0.4 * u[0] - 0.1 * u[1] * x[0]])

    expected = implicit(residual, lambda u, _: u[0] ** 2 * u[1], tensor([0.3]), tensor([0.5, 0.5]))
    assert error(gradients(text)["x"], expected[0]) < TOLERANCE


# ---- three levels --------------------------------------------------------------------------------------------

NESTED = """recipe nested
level top {
  x : real[2] from [0.7, 1.1]
  level middle {
    y : real[2] from x
    level low {
      z : real[2] from y
      minimize sqnorm(z - x * y) + 0.3 * sum(z^4)
      by LOW
    }
    minimize sqnorm(z - 1) + 0.1 * sqnorm(y - x)
    by MIDDLE
  }
  minimize sqnorm(y - 2) + sqnorm(x)
  by sgd(lr = 0.1) for 2 steps
}"""
LOW_UNTIL = "sgd(lr = 0.1) until stationary(1e-13) within 500 steps"
MIDDLE_UNTIL = "sgd(lr = 0.3) until stationary(1e-12) within 500 steps"


def low_point(x: Tensor, y: Tensor) -> Tensor:
    """The root of 2 (z - x y) + 1.2 z^3 with derivatives of all orders: Newton steps from the root itself."""
    z = (x * y).detach()
    for _ in range(60):
        z = z - (2 * (z - x.detach() * y.detach()) + 1.2 * z**3) / (2 + 3.6 * z**2)
    for _ in range(4):
        z = z - (2 * (z - x * y) + 1.2 * z**3) / (2 + 3.6 * z**2)
    return z


def middle_gradient(y: Tensor, x: Tensor) -> Tensor:
    """By hand: dz/dy = 2 x / (2 + 3.6 z^2)."""
    z = low_point(x, y)
    return 2 * (z - 1) * 2 * x / (2 + 3.6 * z**2) + 0.2 * (y - x)


@pytest.mark.parametrize("linear", ("exact", "cg(tol = 1e-13, steps = 20)", "gmres(tol = 1e-13, steps = 4)"))
def test_implicit_levels_inside_one_another(linear: str) -> None:
    text = NESTED.replace("LOW", LOW_UNTIL).replace("MIDDLE", MIDDLE_UNTIL)
    text = scheduled(text, low=f"ift(linear = {linear})", middle=f"ift(linear = {linear})")
    x = tensor([0.7, 1.1])
    expected = implicit(middle_gradient, lambda y, x: ((y - 2) ** 2).sum() + (x**2).sum(), x, x)
    assert error(gradients(text)["x"], expected) < TOLERANCE


def unrolled_middle(x: Tensor) -> Tensor:
    """The middle level by eight steps of momentum, the low level at its stationary point."""
    y, v = x + 0, torch.zeros(2, dtype=torch.float64)
    for _ in range(8):
        v = 0.5 * v + middle_gradient(y, x)
        y = y - 0.1 * v
    return ((y - 2) ** 2).sum() + (x**2).sum()


@pytest.mark.parametrize(
    "mode", ("rmd", "rmd(checkpoint = 3)", "rmd(checkpoint = binomial)", "rmd(store = residuals)", "fmd")
)
@pytest.mark.parametrize("linear", ("exact", "cg(tol = 1e-13, steps = 20)"))
def test_steps_around_an_implicit_level(mode: str, linear: str) -> None:
    """The second derivative passes through the stationary point: where it is dropped, this is wrong."""
    text = NESTED.replace("LOW", LOW_UNTIL).replace("MIDDLE", "sgd(lr = 0.1, momentum = 0.5) for 8 steps")
    text = scheduled(text, low=f"ift(linear = {linear})", middle=mode)
    assert worst(gradients(text), derivative(unrolled_middle, x=[0.7, 1.1])) < TOLERANCE


def stationary_middle(y: Tensor, x: Tensor) -> Tensor:
    """The gradient of the middle level where the low one makes four steps, z@4 by its recursion."""
    y = y if y.requires_grad else y.detach().requires_grad_()
    z = y
    for _ in range(4):
        z = z - 0.1 * (2 * (z - x * y) + 1.2 * z**3)
    value = ((z - 1) ** 2).sum() + 0.1 * ((y - x) ** 2).sum()
    return torch.autograd.grad(value, y, create_graph=True)[0]


@pytest.mark.parametrize("mode", ("rmd", "fmd", "rmd(checkpoint = sqrt)", "rmd(store = residuals)"))
def test_an_implicit_level_around_steps(mode: str) -> None:
    text = NESTED.replace("LOW", "sgd(lr = 0.1) for 4 steps").replace("MIDDLE", MIDDLE_UNTIL)
    text = scheduled(text, low=mode, middle="ift(linear = exact)")
    x = tensor([0.7, 1.1])
    expected = implicit(stationary_middle, lambda y, x: ((y - 2) ** 2).sum() + (x**2).sum(), x, x)
    assert error(gradients(text)["x"], expected) < TOLERANCE


# ---- closed forms --------------------------------------------------------------------------------------------


def test_a_closed_form_is_the_ridge_solution() -> None:
    assert worst(gradients(ridge("closed_form"), GIVEN), RIDGE) < TOLERANCE


def test_a_closed_form_of_several_variables_and_copies() -> None:
    text = """recipe affine
use d = points(count = 3)
level tune {
  x : real[3] from [0.3, -0.2, 0.5]
  each t ~ d.all[3]
  level fit {
    w : real[3] from 0
    c : real from 0
    minimize 0.5 * (dot(w, t.x) + c - t.y)^2 + 0.5 * sum(x^2 * w^2) + 0.1 * c^2
    by closed_form
  }
  minimize mean[t] (sqnorm(w - 1) + c^2)
  by sgd(lr = 0.1) for 2 steps
}"""

    def value(x: Tensor) -> Tensor:
        total = tensor(0.0)
        for features, target in zip(*map(torch.tensor, points(3)), strict=True):
            row = torch.cat([features, tensor([1.0])])
            matrix = torch.outer(row, row) + torch.diag(torch.cat([x**2, tensor([0.2])]))
            u = torch.linalg.solve(matrix, row * target)
            total = total + (((u[:3] - 1) ** 2).sum() + u[3] ** 2) / 3
        return total

    assert worst(gradients(text), derivative(value, x=[0.3, -0.2, 0.5])) < TOLERANCE


MIRROR = """recipe mirrored
use Q : real[2, 2]
level meta {
  m : real[2] in positive from [1, 0.6]
  let breg(u, v) = 0.5 * sum(m * (u - v)^2)
  each q ~ normal(0, 1)[3]
  let f(x) = 0.5 * quad(Q, x - q)
  level descend {
    x : real[2] from 1
    level mirror {
      z : real[2] from x
      minimize 0.1 * dot(grad(f)(x), z) + breg(z, x)
      by closed_form
    }
    by next(z) for 12 steps
  }
  minimize mean[q] breg(x, 1.0) + 0.1 * sum(1 / m)
  by sgd(lr = 0.01) for 2 steps
}"""


@pytest.mark.parametrize(
    "mode", ("rmd", "fmd", "rmd(checkpoint = 3)", "rmd(checkpoint = binomial)", "rmd(store = residuals)")
)
def test_mirror_descent_by_a_closed_form_inside_next(mode: str) -> None:
    """z = x - 0.1 grad f(x) / m, so that x@12 - q is a matrix power (papers/002, appendix C.2)."""
    from bilevel.backends.torch_func.keyed import fold, make_key, normal

    Q = tensor([[4.0, 0.5], [0.5, 0.2]])
    centres = normal(fold(fold(fold(make_key(0), "meta"), 0), "q"), 3, dtype=torch.float64)

    def value(m: Tensor) -> Tensor:
        m = m.exp()
        step = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - 0.1 * Q / m[:, None], 12)
        ends = [q + step @ (1 - q).expand(2) for q in centres]
        return sum((0.5 * (m * (x - 1) ** 2).sum() for x in ends), tensor(0.0)) / 3 + 0.1 * (1 / m).sum()

    found = gradients(scheduled(MIRROR, descend=mode), {"Q": Q})
    assert worst(found, derivative(value, m=np.log([1, 0.6]))) < TOLERANCE
