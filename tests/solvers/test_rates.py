"""`lr = steps(rate, at = [...], factor = ...)`: the numbers, hypergradients in rate and factor, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends.torch_func.rates import steps_rate
from bilevel.errors import RecipeError
from tests.modes.tools import codes
from tests.solvers.agreement import check_modes, gradient, scheduled
from tests.zoo.compiled import compile_text, plan_text, run

TEXT = """recipe falling
param drop = 3
level meta {{
  lr : real in positive from 0.2
  f : real in unit from 0.5
  level fit {{
    w : real from 3
    minimize 0.5 * w^2
    by {solver} for 5 steps
  }}
  minimize {value}
  by sgd(lr = {outer}) for 4 steps
}}
"""


def text(
    solver: str = "sgd(lr = steps(lr, at = [1, drop], factor = f))",
    value: str = "w",
    outer: str = "steps(0.1, at = [2])",
) -> str:
    return TEXT.format(solver=solver, value=value, outer=outer)


def expected(free: Tensor) -> Tensor:
    """Five steps: one at the rate, two at f times it, two at f^2 times it."""
    rate, factor = free[0].exp(), torch.sigmoid(free[1])
    return 3 * (1 - rate) * (1 - rate * factor) ** 2 * (1 - rate * factor**2) ** 2


def test_the_rate_falls_at_its_milestones() -> None:
    assert [steps_rate(2.0, t, 5, 0.5, (1, 3)) for t in range(7)] == [2.0, 1.0, 1.0, 0.5, 0.5, 2.0, 1.0]
    layers = steps_rate({"a": torch.tensor(2.0)}, 3, 5, {"a": torch.tensor(0.5)}, (1, 3))
    assert float(layers["a"]) == 0.5


@pytest.mark.parametrize("mode", ["rmd", "rmd(checkpoint = 2)", "rmd(store = residuals)", "fmd"])
def test_rate_and_factor_have_exact_derivatives(mode: str) -> None:
    free = torch.tensor([math.log(0.2), 0.0], dtype=torch.float64)
    found = gradient(scheduled(text(), "fit", mode))
    assert float((found - torch.func.grad(expected)(free)).abs().max()) < 1e-14


@pytest.mark.parametrize(
    "solver",
    [
        "sgd(lr = RATE, momentum = 0.5)",
        "adam(lr = RATE)",
        "adamw(lr = RATE)",
        "rmsprop(lr = RATE)",
        "mirror(2, lr = RATE)",
        "pgd(lr = RATE)",
    ],
)
def test_every_gradient_solver_takes_it(solver: str) -> None:
    check_modes(text(solver.replace("RATE", "steps(lr, at = [2], factor = f)"), "w + lr * f"), "fit")


def test_the_outer_rate_falls_as_well() -> None:
    compiled = compile_text(text())
    state = run(compiled.phase, compiled.key(), steps=4)
    free = torch.tensor([math.log(0.2), 0.0], dtype=torch.float64)
    for rate in (0.1, 0.1, 0.01, 0.01):
        free = free - rate * torch.func.grad(expected)(free)
    assert torch.allclose(torch.stack(list(state.x)), free, atol=1e-14)


def test_a_path_replaces_it() -> None:
    plan = plan_text(text(value="w + lr + f"), ["fit.by.lr=steps(0.3, at = [2])"])
    rate = plan.program.level("fit").phases[0].solvers[0].arguments["lr"]
    assert isinstance(rate, ir.Builtin)
    assert [e.value for e in rate.arguments if isinstance(e, ir.Constant)] == [0.3, 0.1, 2]
    other = plan_text(text(value="w + f"), ["fit.by.lr.factor=0.25"])
    rate = other.program.level("fit").phases[0].solvers[0].arguments["lr"]
    assert isinstance(rate, ir.Builtin) and [e.span.text for e in rate.arguments] == ["lr", "0.25", "1", "drop"]


@pytest.mark.parametrize(
    "rate",
    [
        "steps(0.1)",
        "steps(0.1, at = 3)",
        "steps(0.1, at = [])",
        "steps(0.1, at = [2, 2])",
        "steps(0.1, at = [0, 2])",
        "steps(0.1, at = [1.5])",
        "steps(at = [2])",
        "steps(0.1, 0.2, at = [2])",
        "steps(0.1, at = [2], gamma = 0.1)",
        "linear(0.1, at = [2])",
        "cosine()",
    ],
)
def test_what_is_no_schedule_is_refused(rate: str) -> None:
    assert "B309" in codes(text(outer=rate))


def test_steps_is_a_name_nowhere_else() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_text(text(solver="sgd(lr = 0.1, momentum = steps(0.1, at = [2]))", value="w + lr + f"))
    assert caught.value.diagnostics[0].code == "B109"
