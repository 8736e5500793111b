"""Defects that other packages have, each with the right answer here.

| the defect, where it was read | here |
|---|---|
| conjugate gradients that end early give the iterate before the last, zeros after one step (hypertorch, BOAT) | `test_cg_that_converges_in_its_first_step_keeps_it`, `test_cg_on_a_multiple_of_the_identity_in_a_recipe` |
| a step length and a residual of two different systems (Betty) | `test_scaled_systems_have_scaled_solutions`, `test_two_steps_solve_two_equations_whatever_the_damping` |
| the same, and directions from the old residual (approx_hypergrad) | `test_two_steps_solve_two_equations_whatever_the_damping` |
| defaults of one iteration, which say nothing (Betty) | `test_defaults_are_solved_to_their_tolerance`, `test_a_default_that_falls_short_says_so`, `test_the_default_is_no_first_order_answer` |
| an optimiser built again from its defaults: one rate for all groups, its state lost (Betty) | `test_every_variable_keeps_its_own_rate`, `test_the_state_of_every_outer_solver_is_kept` |
| a backward pass that is not differentiable itself (TorchOpt) | `test_meta_meta_gradients_are_not_cut`, `test_third_order_passes_through_an_implicit_level` |
| an indefinite system taken for a definite one, no residual reported (TorchOpt) | `test_negative_curvature_is_a_message_not_a_number`, `test_a_solve_that_ends_early_is_counted_and_demotes_the_class` in `test_early_stops.py` |
| steps of gradient descent assumed where Adam stepped (BOAT) | `test_adam_inside_is_not_taken_for_gradient_descent` |
| a parameter that the loss does not use ends in another error (learn2learn) | `test_a_parameter_that_the_loss_does_not_use` |
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel.backends.torch_func import linear
from tests.backends.agreement import compared
from tests.modes.loops import derivative, tensor
from tests.modes.test_implicit import implicit
from tests.modes.tools import TOLERANCE, error, gradients, notes, scheduled, worst
from tests.zoo.compiled import compile_text, plan_text

# ---- conjugate gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", (1.0, 0.1, 37.0))
@pytest.mark.parametrize("size", (1, 4))
def test_cg_that_converges_in_its_first_step_keeps_it(curvature: float, size: int) -> None:
    """Elsewhere the early end gives the iterate before the last one: zeros, and with them half a hypergradient."""
    b = torch.arange(1, size + 1, dtype=torch.float64)
    v, residual = linear.cg(lambda x: curvature * x, b, 0, 1e-10, 50)
    assert error(v, b / curvature) < 1e-12 and residual < 1e-12


def test_cg_on_a_multiple_of_the_identity_in_a_recipe() -> None:
    text = """recipe isotropic
level top {
  x : real[3] from [0.7, -0.2, 1.3]
  level fit {
    w : real[3] from 0
    minimize 2.5 * sqnorm(w - x^2)
    by sgd(lr = 0.1) until stationary(1e-12) within 500 steps
  }
  minimize sqnorm(w - 1) + sum(x)
  by sgd(lr = 0.1) for 2 steps
}"""
    x = tensor([0.7, -0.2, 1.3])
    for tolerance in ("tol = 1e-6, steps = 50", "steps = 1", "tol = 0.5"):
        found = gradients(scheduled(text, fit=f"ift(linear = cg({tolerance}))"))["x"]
        assert error(found, 2 * (x**2 - 1) * 2 * x + 1) < TOLERANCE, tolerance


@pytest.mark.parametrize("damping", (0.0, 0.1, 3.0))
def test_two_steps_solve_two_equations_whatever_the_damping(damping: float) -> None:
    """A damped product is damped in the step length and in the residual alike, or the answer is meaningless."""
    H = tensor([[2.0, 1.0], [1.0, 3.0]]) + damping * torch.eye(2, dtype=torch.float64)
    b = tensor([1.0, -1.0])
    v, residual = linear.cg(lambda x: H @ x, b, 0, 0.0, 2)
    assert error(v, torch.linalg.solve(H, b)) < 1e-12 and residual < 1e-12


def test_scaled_systems_have_scaled_solutions() -> None:
    """The pair (0.6, -0.8) of the two-by-two system, for every scale of the system; elsewhere 21.98, -51.5."""
    H, b = tensor([[2.0, 1.0], [1.0, 2.0]]), tensor([0.4, -1.0])
    for scale in (1.0, 0.5, 0.1):
        v, _ = linear.cg(lambda x, s=scale: s * (H @ x), scale * b, 0, 1e-12, 10)  # type: ignore[misc]
        assert error(v, tensor([0.6, -0.8])) < 1e-12


def test_copies_converge_each_for_itself() -> None:
    """One copy ends after one step, one has nothing to solve, one needs three."""
    H = torch.stack([2 * torch.eye(3), torch.eye(3), torch.diag(torch.tensor([1.0, 2.0, 5.0]))]).double()
    b = tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    v, residual = linear.cg(lambda x: (H @ x[..., None])[..., 0], b, 1, 1e-12, 3)
    assert torch.allclose(v, torch.linalg.solve(H, b[..., None])[..., 0], rtol=1e-12)
    assert (residual < 1e-12).all()


SADDLE = """recipe saddle
level top {
  x : real[2] from [0.4, 0.3]
  level fit {
    w : real[2] from x
    minimize 0.5 * w[0]^2 - 0.5 * w[1]^2 + dot(w, x)
    by sgd(lr = 0) until stationary(10) within 2 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}"""


def test_negative_curvature_is_a_message_not_a_number() -> None:
    compiled = compile_text(scheduled(SADDLE, fit="ift(linear = cg)"))
    with pytest.raises(ArithmeticError) as met:
        compiled.phase.hypergradient(compiled.phase.begin(compiled.key()), compiled.key())
    assert getattr(met.value, "code", None) == "B706"


def test_other_solvers_take_an_indefinite_system() -> None:
    w = tensor([0.4, 0.3])
    expected = 2 * (w - 1) / tensor([-1.0, 1.0])  # -inv(H)' c with H = diag(1, -1)
    for solver in ("gmres(tol = 1e-10, steps = 5)", "exact"):
        found = gradients(scheduled(SADDLE, fit=f"ift(linear = {solver})"))["x"]
        assert error(found, expected) < TOLERANCE, solver


def test_a_run_stops_with_the_message_and_its_place() -> None:
    program = bilevel.compile(bilevel.parse(scheduled(SADDLE, fit="ift(linear = cg)"), "saddle.bl"))
    with pytest.raises(bilevel.RecipeError) as met:
        program.run()
    (found,) = met.value.diagnostics
    assert found.code == "B706" and found.span is not None and "step 0 of top" in found.message and found.fix


def test_a_series_that_diverges_is_a_message() -> None:
    b = tensor([1.0, 2.0])
    with pytest.raises(linear.Failure) as met:
        linear.neumann(lambda x: 3.0 * x, b, 0, 0.0, 50, 1.0)
    assert met.value.code == "B701"
    v, _ = linear.neumann(lambda x: 3.0 * x, b, 0, 1e-12, 500, None)  # scale = auto
    assert error(v, b / 3) < TOLERANCE


def test_a_singular_system_is_a_message_where_all_of_it_is_needed() -> None:
    H, b = torch.diag(tensor([1.0, 0.0])), tensor([1.0, 0.0])
    with pytest.raises(linear.Failure) as met:
        linear.exact(lambda x: H @ x, b, 0)
    assert met.value.code == "B705"
    v, residual = linear.gmres(lambda x: H @ x, b, 0, 1e-12, 5)  # consistent: solved
    assert error(v, b) < 1e-12 and residual < 1e-12


# ---- defaults, one solver for each variable ------------------------------------------------------------------

STRETCHED = """recipe stretched
level tune {
  x : real[4] from [0.7, -0.3, 0.5, 1.1]
  level fit {
    w : real[4] from 0
    minimize 0.5 * sum([1, 3, 10, 30] * (w - x^2)^2) + 0.2 * sum(w)^2
    by sgd(lr = 0.03) DURATION
  }
  minimize sum((w - 1)^3)
  by sgd(lr = 0.01) for 2 steps
}"""


def stretched(x: Tensor, steps: int | None) -> Tensor:
    """The outer objective after some steps of gradient descent, or at the minimum."""
    scale = tensor([1.0, 3.0, 10.0, 30.0])
    H = torch.diag(scale) + 0.4 * torch.ones(4, 4, dtype=torch.float64)
    w = torch.linalg.solve(H, scale * x**2) if steps is None else torch.zeros(4, dtype=torch.float64)
    for _ in range(steps or 0):
        w = w - 0.03 * (H @ w - scale * x**2)
    return ((w - 1) ** 3).sum()


@pytest.mark.parametrize("mode", ("", "ift", "ift(linear = cg)", "ift(linear = gmres)"))
def test_defaults_are_solved_to_their_tolerance(mode: str) -> None:
    """Where nothing is said about iterations, as many are made as the tolerance asks for."""
    text = STRETCHED.replace("DURATION", "until stationary(1e-9) within 4_000 steps")
    expected = derivative(lambda x: stretched(x, None), x=[0.7, -0.3, 0.5, 1.1])
    assert worst(gradients(scheduled(text, fit=mode) if mode else text), expected) < 1e-5


def test_a_default_that_falls_short_says_so() -> None:
    """A hundred terms of the series are too few here: the run says that its hypergradient is biased."""
    text = STRETCHED.replace("DURATION", "until stationary(1e-9) within 4_000 steps")
    text = scheduled(text, fit="ift(linear = neumann)")
    assert plan_text(text).exactness == "exact" and notes(compile_text(text))["fit.residual"] > 1e-3
    run = bilevel.compile(bilevel.parse(text, "stretched.bl"), dtype=torch.float64).run()
    assert run.exactness == "biased (residuals missed in 2 of 2 steps)"


@pytest.mark.parametrize("mode", ("", "rmd", "fmd"))
def test_the_default_is_no_first_order_answer(mode: str) -> None:
    text = STRETCHED.replace("DURATION", "for 6 steps")
    expected = derivative(lambda x: stretched(x, 6), x=[0.7, -0.3, 0.5, 1.1])
    assert worst(gradients(scheduled(text, fit=mode) if mode else text), expected) < TOLERANCE
    assert worst(expected, derivative(lambda x: stretched(x, None), x=[0.7, -0.3, 0.5, 1.1])) > 1e-2


GROUPS = """recipe groups
level tune {
  x : real from 0.7
  y : real from -0.4
  level fit {
    a : real from x
    b : real from y
    minimize 0.5 * (a - x * b)^2 + 0.25 * b^4 + 0.1 * a * y
    by a : sgd(lr = 0.3), b : sgd(lr = 0.05, momentum = 0.5) for 5 steps
  }
  minimize (a - 1)^2 + (b + 1)^2 * x
  by x : sgd(lr = 0.02), y : adam(lr = 0.1) for 4 steps
}"""


def groups(x: Tensor, y: Tensor) -> Tensor:
    a, b, v = x + 0, y + 0, tensor(0.0)
    for _ in range(5):
        d_a, d_b = (a - x * b) + 0.1 * y, -x * (a - x * b) + b**3
        v = 0.5 * v + d_b
        a, b = a - 0.3 * d_a, b - 0.05 * v
    return (a - 1) ** 2 + (b + 1) ** 2 * x


@pytest.mark.parametrize("mode", ("rmd", "fmd", "rmd(store = residuals)", "rmd(checkpoint = 2)"))
def test_every_variable_keeps_its_own_rate(mode: str) -> None:
    assert worst(gradients(scheduled(GROUPS, fit=mode)), derivative(groups, x=0.7, y=-0.4)) < TOLERANCE


def test_the_state_of_every_outer_solver_is_kept() -> None:
    """Four outer steps by hand, one rate for each variable; moments that were lost would show from the second on."""
    compiled = compile_text(GROUPS)
    state, key = compiled.phase.begin(compiled.key()), compiled.key()
    x, y, first, second = tensor(0.7), tensor(-0.4), tensor(0.0), tensor(0.0)
    for step in range(1, 5):
        found = derivative(groups, x=x, y=y)
        first, second = 0.9 * first + 0.1 * found["y"], 0.999 * second + 0.001 * found["y"] ** 2
        x = x - 0.02 * found["x"]
        y = y - 0.1 * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        state, _ = compiled.phase.step(state, key)
        assert error(torch.stack(state.x), torch.stack([x, y])) < TOLERANCE, step


# ---- derivatives of derivatives ------------------------------------------------------------------------------


def test_meta_meta_gradients_are_not_cut() -> None:
    """Four unrolled levels: the outermost derivative passes three backward passes that stood inside one another."""
    text = """recipe four
level a {
  x : real from 0.7
  level b {
    y : real from x
    level c {
      z : real from 0.5 * y
      level d {
        u : real from z
        minimize 0.5 * (u - x * z * y)^2 + 0.1 * u^4
        by sgd(lr = 0.2) for 2 steps
      }
      minimize 0.5 * (u - 1)^2 + 0.1 * (z - y)^2
      by sgd(lr = 0.3) for 2 steps
    }
    minimize (z - 0.3)^2 + 0.2 * (y - x)^2
    by sgd(lr = 0.2, momentum = 0.5) for 2 steps
  }
  minimize (y - 2)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}"""
    expected = derivative(four_levels, x=0.7)
    for modes in (
        {},
        {"d": "fmd", "c": "rmd(checkpoint = 1)", "b": "rmd(store = residuals)"},
        {"d": "rmd(store = residuals)", "b": "fmd"},
    ):
        found = gradients(scheduled(text, **modes) if modes else text)
        assert worst(found, expected) < TOLERANCE, modes


def four_levels(x: Tensor) -> Tensor:
    def lowest(z: Tensor, y: Tensor) -> Tensor:
        u = z
        for _ in range(2):
            u = u - 0.2 * (u - x * z * y + 0.4 * u**3)
        return 0.5 * (u - 1) ** 2 + 0.1 * (z - y) ** 2

    def third(y: Tensor) -> Tensor:
        z = 0.5 * y
        for _ in range(2):
            z = z + 0
            z = z - 0.3 * torch.autograd.grad(lowest(z, y), z, create_graph=True)[0]
        return (z - 0.3) ** 2 + 0.2 * (y - x) ** 2

    y, v = x + 0, tensor(0.0)
    for _ in range(2):
        y = y + 0
        v = 0.5 * v + torch.autograd.grad(third(y), y, create_graph=True)[0]
        y = y - 0.2 * v
    return (y - 2) ** 2 + x**2


IMPLICIT_MIDDLE = """recipe implicit_middle
level a {
  x : real[6] from [0.7, 1.1, 0.9, 1.3, 0.8, 1.2]
  level b {
    y : real[6] from x
    level c {
      z : real[6] from y
      minimize sqnorm(z - x * y) + 0.3 * sum(z^4) + 0.1 * sum(z)^2
      by sgd(lr = 0.1) until stationary(1e-13) within 800 steps
    }
    minimize sqnorm(z - 1) + 0.1 * sqnorm(y - x)
    by sgd(lr = 0.1) for 3 steps
  }
  minimize sqnorm(y - 2) + sqnorm(x)
  by sgd(lr = 0.1) for 2 steps
}"""


def low_gradient(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return 2 * (z - x * y) + 1.2 * z**3 + 0.2 * z.sum()


def low_hessian(z: Tensor) -> Tensor:
    return torch.diag(2 + 3.6 * z**2) + 0.2 * torch.ones(6, 6, dtype=torch.float64)


def low_point(y: Tensor, x: Tensor) -> Tensor:
    """The root, with all its derivatives: Newton steps from the root."""
    z = (x * y).detach()
    for _ in range(40):
        z = z - torch.linalg.solve(low_hessian(z), low_gradient(z, y.detach(), x.detach()))
    for _ in range(4):
        z = z - torch.linalg.solve(low_hessian(z), low_gradient(z, y, x))
    return z


def implicit_middle(x: Tensor) -> Tensor:
    y = x + 0
    for _ in range(3):
        z = low_point(y, x)
        direction = 2 * x * torch.linalg.solve(low_hessian(z), 2 * (z - 1)) + 0.2 * (y - x)
        y = y - 0.1 * direction
    return ((y - 2) ** 2).sum() + (x**2).sum()


@pytest.mark.parametrize(
    "solver",
    (
        "",
        "linear = exact",
        "linear = cg(tol = 1e-13, steps = 60)",
        "linear = gmres(tol = 1e-13, steps = 6)",
        "linear = neumann(tol = 1e-13, terms = 900)",
    ),
)
def test_third_order_passes_through_an_implicit_level(solver: str) -> None:
    """Nothing here may depend on how the linear system was solved; the default is solved to 1e-6."""
    text = scheduled(IMPLICIT_MIDDLE, c=f"ift({solver})") if solver else IMPLICIT_MIDDLE
    expected = derivative(implicit_middle, x=[0.7, 1.1, 0.9, 1.3, 0.8, 1.2])
    assert worst(gradients(text), expected) < (TOLERANCE if solver else 1e-6)


METRIC = """recipe metric
level top {
  G : real[2, 2] in psd from 0.8 * eye(2) + 0.1
  level middle {
    y : real[2] from [0.7, -0.4]
    level low {
      w : real[2] from y
      minimize 0.5 * sqnorm(w - 0.3) + 0.1 * sum(w^4 * y)
      by mirror(G, lr = 0.2) for 2 steps
    }
    minimize sqnorm(w - 1) + 0.1 * sum(y^4)
    by mirror(G, lr = 0.1) for 2 steps
  }
  minimize sqnorm(y - 2)
  by sgd(lr = 0.1) for 2 steps
}"""


@pytest.mark.parametrize("low", ("fmd", "rmd(store = residuals)"))
@pytest.mark.parametrize("middle", ("fmd", "rmd"))
def test_a_linear_system_inside_forward_mode_has_its_second_derivative(low: str, middle: str) -> None:
    """torch 2.13: the derivative of the jvp of `torch.linalg.solve` is another number than that of the inverse."""
    expected = gradients(scheduled(METRIC, low="rmd", middle="rmd"))
    assert worst(gradients(scheduled(METRIC, low=low, middle=middle)), expected) < TOLERANCE
    for both in compared(compile_text(scheduled(METRIC, low=low, middle=middle)), 1):
        assert both.error < TOLERANCE


# ---- solvers of the level, unused parameters -----------------------------------------------------------------


def test_adam_inside_is_not_taken_for_gradient_descent() -> None:
    """Other packages differentiate a step of gradient descent with Adam's rate; the answer is that of the point."""
    text = """recipe adaptive
level top {
  x : real[2] from [0.7, -0.2]
  level fit {
    w : real[2] from 0
    minimize 2 * (w[0] - x[0]^2)^2 + 0.5 * (w[1] - x[1] * x[0])^2 + 0.1 * w[0]^4
    by SOLVER until stationary(1e-9) within 20_000 steps
  }
  minimize sqnorm(w - 1) + sum(x)
  by sgd(lr = 0.1) for 2 steps
}"""

    def slope(w: Tensor, x: Tensor) -> Tensor:
        return torch.stack([4 * (w[0] - x[0] ** 2) + 0.4 * w[0] ** 3, w[1] - x[1] * x[0]])

    x = tensor([0.7, -0.2])
    expected = implicit(slope, lambda w, x: ((w - 1) ** 2).sum() + x.sum(), x, torch.zeros(2, dtype=torch.float64))
    for solver in ("adam(lr = 0.003, beta1 = 0.9)", "sgd(lr = 0.1, momentum = 0.8)"):
        compiled = compile_text(text.replace("SOLVER", solver))
        assert notes(compiled)["fit.stationarity"] < 1e-9
        found, _ = compiled.phase.hypergradient(compiled.phase.begin(compiled.key()), compiled.key())
        assert error(found, expected) < 1e-8, solver


@pytest.mark.parametrize(
    "mode",
    ("rmd", "fmd", "rmd(checkpoint = 2)", "rmd(store = residuals)", "rmd(order = 1)", "leap(teacher = 1, gamma = 0.5)"),
)
def test_a_parameter_that_the_loss_does_not_use(mode: str) -> None:
    """A second output that nothing reads: its weights get a zero, not a crash, and stay where they are."""
    text = """recipe unused
use net = mlp(3, 2)
use d = points(count = 4)
level top {
  theta : params(net)
  each t ~ d.all[2]
  level fit {
    w : params(net) from theta
    minimize mean((dot(net[w](d.all.x), [1, 0]) - t.y)^2)
    by sgd(lr = 0.1, momentum = 0.5) for 4 steps
  }
  minimize mean[t] mean((dot(net[w](d.all.x), [1, 0]) - 2 * t.y)^2)
  by sgd(lr = 0.1) for 2 steps
}"""
    found = gradients(scheduled(text, fit=mode))["theta"]
    assert isinstance(found, dict)
    for name, value in found.items():
        assert torch.equal(value[1], torch.zeros_like(value[1])), name
        assert value[0].abs().max() > 0, name
