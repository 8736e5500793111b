"""`by closed_form` for elementwise formulas, which sympy solves: against closed forms and difference quotients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from bilevel.errors import RecipeError
from bilevel.explain import plan_text as explained
from tests.backends.agreement import compared
from tests.modes.loops import derivative, tensor
from tests.modes.tools import TOLERANCE, codes, error, gradients, plan_of, scheduled
from tests.zoo.compiled import Compiled, compile_text, hypergradient

ONE = """recipe one
level tune {{
  a : real from 1.7
  level fit {{
    x : real from 1
    {objective}
    by closed_form
  }}
  minimize (x - 0.3)^2 * x + a^2
  by sgd(lr = 0.1) for 2 steps
}}"""


def outer(x: Tensor, a: Tensor) -> Tensor:
    return (x - 0.3) ** 2 * x + a**2


def quotient(compiled: Compiled, name: str, step: float = 1e-6) -> Tensor:
    """The derivative of the outer objective in its only variable, by central differences."""
    key = compiled.key()
    state = compiled.phase.begin(key)
    found = torch.zeros_like(state.x).reshape(-1)
    for place in range(len(found)):
        moved = torch.zeros_like(found)
        moved[place] = step
        ahead, behind = (
            compiled.phase.hypergradient(state._replace(x=state.x + s * moved.reshape(state.x.shape)), key)[1]
            for s in (1, -1)
        )
        found[place] = (ahead - behind) / (2 * step)
    assert compiled.phase.variables == (name,)
    return found.reshape(state.x.shape)


SOLVED = {
    "x - a * log(x)": ("a", lambda a: a),
    "exp(x) - a * x": ("log(a)", torch.log),
    "exp(x) - a * x + 2": ("log(a)", torch.log),
    "x^3 / 3 - a * x": ("sqrt(a)", torch.sqrt),
    "exp(a) * x + 1 / x": ("1/sqrt(exp(a))", lambda a: torch.exp(-a / 2)),
    "softplus(x) - sigmoid(a) * x": ("log(-sigmoid(a)/(sigmoid(a) - 1))", lambda a: a),
    "exp(x - a^2) - 0.5 * x": ("a^2 - log(2)", lambda a: a**2 - torch.log(tensor(2.0))),
    "sqnorm(x^2 - a * x) * 0 + exp(x) - a * x": ("log(a)", torch.log),
}


@pytest.mark.parametrize("objective", SOLVED)
def test_a_formula_is_its_solution(objective: str) -> None:
    _, solution = SOLVED[objective]
    compiled = compile_text(ONE.format(objective=f"minimize {objective}"))
    value, found = hypergradient(compiled)
    assert value == pytest.approx(float(outer(solution(tensor(1.7)), tensor(1.7))), abs=1e-12)
    expected = derivative(lambda a: outer(solution(a), a), a=1.7)
    assert error(found["a"], expected["a"]) < TOLERANCE
    assert error(found["a"], quotient(compiled, "a")) < 1e-7


def test_what_is_maximised_is_solved_too() -> None:
    made = ONE.format(objective="maximize a * x - exp(x)")
    assert error(gradients(made)["a"], gradients(ONE.format(objective="minimize exp(x) - a * x"))["a"]) < TOLERANCE


def test_a_formula_of_lets_and_params() -> None:
    made = ONE.format(objective="minimize f(x, a) - p * x").replace(
        "level tune", "param p = 2\nlet f(u, c) = exp(c * u)\nlevel tune", 1
    )
    expected = derivative(lambda a: outer(torch.log(2 / a) / a, a), a=1.7)
    assert error(gradients(made)["a"], expected["a"]) < TOLERANCE


@pytest.mark.parametrize("objective", [o for o in SOLVED if not o.startswith("sqnorm")])
def test_the_plan_prints_the_formula(objective: str) -> None:
    plan = plan_of(ONE.format(objective=f"minimize {objective}"))
    assert plan.choices["fit"].exactness == "exact"
    assert f"x = {SOLVED[objective][0]} " in explained(plan)


def test_an_objective_of_degree_two_stays_a_linear_system() -> None:
    compiled = compile_text(ONE.format(objective="minimize (x - a)^2 + 0.1 * x^2"))
    assert "stationary_point(" in compiled.text and "formula_point(" not in compiled.text
    assert "one linear system > x" in explained(compiled.plan)


# ---- arrays, copies, levels around ---------------------------------------------------------------------------

ARRAY = """recipe array
use b : real[3]
level tune {
  a : real[3] in positive from [0.5, 1.5, 2.5]
  level fit {
    x : real[3] from 1
    minimize OBJECTIVE
    by closed_form
  }
  minimize sqnorm(x - b) + sum(a)
  by sgd(lr = 0.1) for 2 steps
}"""
B = tensor([0.4, 0.9, 1.1])


@pytest.mark.parametrize(
    "objective",
    (
        "sum(exp(x) - a * b * x)",
        "mean(exp(x) - a * b * x)",
        "2 * (sum(exp(x)) - dot(a * b, x)) / 3 + mean(b)",
        "mean(exp(x)) - dot(a * b, x) / 3",
    ),
)
def test_every_entry_is_solved_by_itself(objective: str) -> None:
    compiled = compile_text(ARRAY.replace("OBJECTIVE", objective), {"b": B})
    expected = derivative(
        lambda a: ((torch.log(a.exp() * B) - B) ** 2).sum() + a.exp().sum(),
        a=[float(v) for v in tensor([0.5, 1.5, 2.5]).log()],
    )
    _, found = hypergradient(compiled)
    assert error(found["a"], expected["a"]) < TOLERANCE
    assert error(found["a"], quotient(compiled, "a")) < 1e-7


def test_a_number_is_the_solution_for_every_entry() -> None:
    compiled = compile_text(ARRAY.replace("OBJECTIVE", "sum(exp(x) - sqnorm(a) * x)"), {"b": B})
    assert error(hypergradient(compiled)[1]["a"], quotient(compiled, "a")) < 1e-7


COPIES = """recipe copied
level tune {
  a : real[2] in positive from [0.7, 1.2]
  each s ~ uniform(1, 2)[4]
  level fit {
    x : real[2] from 1
    e ~ uniform(1, 2)
    minimize sum(exp(x) - a * s * e * x)
    by closed_form
  }
  minimize mean[s] sqnorm(x - s)
  by sgd(lr = 0.1) for 2 steps
}"""


def test_copies_and_draws() -> None:
    compiled = compile_text(COPIES)
    assert error(hypergradient(compiled)[1]["a"], quotient(compiled, "a")) < 1e-7


NEXT = """recipe moved
level meta {
  m : real in positive from 0.8
  level descend {
    x : real[2] from [0.5, 0.7]
    level mirror {
      z : real[2] from x
      minimize sum(m * x * z + 0.1 * z - x * log(z))
      by closed_form
    }
    by next(z) for 6 steps
  }
  minimize sqnorm(x - 2)
  by sgd(lr = 0.01) for 2 steps
}"""


@pytest.mark.parametrize("mode", ("rmd", "fmd", "rmd(checkpoint = 2)", "rmd(store = residuals)"))
def test_inside_next(mode: str) -> None:
    def value(m: Tensor) -> Tensor:
        x = tensor([0.5, 0.7])
        for _ in range(6):
            x = x / (m.exp() * x + 0.1)
        return ((x - 2) ** 2).sum()

    expected = derivative(value, m=float(tensor(0.8).log()))
    found = gradients(scheduled(NEXT, descend=mode))
    assert error(found["m"], expected["m"]) < TOLERANCE


# ---- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    (
        "x^4 - a^2 * x^2",  # two minima
        "exp(x) + exp(a) * x",  # no stationary point
        "(x - a)^3",  # no minimum
        "a * x + exp(x) + x^2",  # a function the language lacks
        "x^2 + cos(x) * a",  # periodic
        "abs(x - a) + x^2",  # not smooth
        "exp(stop(x)) - a * x",
    ),
)
def test_what_sympy_does_not_solve_is_refused(objective: str) -> None:
    assert codes(ONE.format(objective=f"minimize {objective}")) == ["B408"]


@pytest.mark.parametrize(
    "objective",
    (
        "sum(exp(x)) * sqnorm(x)",
        "log(sum(exp(x))) - dot(a, x)",
        "sum(exp(x)) - x[0]",
        "sum(exp(x)) - dot(a, x) + quad(b, x) * 2 + max(x)",
    ),
)
def test_entries_that_hang_together_are_refused(objective: str) -> None:
    assert codes(ARRAY.replace("OBJECTIVE", objective)) == ["B408"]


def test_a_domain_and_a_second_variable_are_refused() -> None:
    made = ONE.format(objective="minimize x - a * log(x)")
    assert codes(made.replace("x : real from 1", "x : real in positive from 1")) == ["B408"]
    assert codes(
        made.replace("x : real from 1", "x : real from 1\n    y : real from 1").replace("log(x)", "log(x) + exp(y)")
    ) == ["B408"]


def test_a_level_inside_is_refused() -> None:
    inside = "level low { y : real from 0  minimize (y - x)^2  by sgd(lr = 0.1) for 2 steps }\n    minimize"
    assert codes(ONE.format(objective=f"{inside} exp(x) - a * y")) == ["B408"]


@pytest.mark.parametrize("start", ("-1.7", "0"))
def test_numbers_for_which_the_formula_is_no_minimum_are_b705(start: str) -> None:
    for objective in ("exp(x) - a * x", "x - a * log(x)"):
        compiled = compile_text(ONE.format(objective=f"minimize {objective}").replace("from 1.7", f"from {start}"))
        with pytest.raises(ArithmeticError) as caught:
            hypergradient(compiled)
        assert caught.value.code == "B705"  # type: ignore[attr-defined]


def test_sympy_is_imported_for_formulas_only() -> None:
    script = (
        "import sys; from bilevel import pipeline\n"
        "for name in ('hpo', 'maml_sine'): str(pipeline.plan(pipeline.check(pipeline.read(name), pipeline.Options())))\n"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    with pytest.raises(RecipeError):
        plan_of(ONE.format(objective="minimize x^4 - a * x"))


@pytest.mark.parametrize("text", (ONE.format(objective="minimize exp(x) - a * x"), COPIES, NEXT))
def test_the_reference_backend_agrees(text: str) -> None:
    assert compared(compile_text(text))[0].error < TOLERANCE
