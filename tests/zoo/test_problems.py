"""Every hypergradient of the zoo against its closed form, to 1e-9 in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.zoo.compiled import Compiled, Edit, compile_text, hypergradient
from tests.zoo.problem import Problem
from tests.zoo.problems import PROBLEMS

TOLERANCE = 1e-9


def compiled(problem: Problem, edit: Edit = str) -> Compiled:
    return compile_text(problem.text, {name: torch.tensor(part) for name, part in problem.parts.items()}, edit)


def error(found: object, expected: object) -> float:
    """The largest difference, relative to the largest entry expected."""
    a, b = np.asarray(found), np.asarray(expected)
    assert a.shape == b.shape
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_hypergradient_is_the_closed_form(problem: Problem) -> None:
    value, found = hypergradient(compiled(problem))
    assert error(value, problem.value(**problem.start)) < TOLERANCE
    expected = problem.gradient(**problem.start) if problem.gradient is not None else problem.complex_step()
    assert found.keys() == problem.start.keys()
    for name in found:
        assert error(found[name].numpy(), expected[name]) < TOLERANCE, name


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.gradient], ids=lambda problem: problem.name)
def test_formulas_by_hand_agree_with_the_complex_step(problem: Problem) -> None:
    """Two derivations of every closed form: were one wrong, the compiler might be wrong alike."""
    assert problem.gradient is not None
    by_hand = problem.gradient(**problem.start)
    for name, expected in problem.complex_step().items():
        assert error(by_hand[name], expected) < 1e-12, name


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_plan_chose_this_adjoint(problem: Problem) -> None:
    choices = compiled(problem).plan.choices
    found = {n: f"{c.adjoint.product} {c.adjoint.gradient}" for n, c in choices.items() if c.adjoint is not None}
    assert found == problem.adjoints
    held = {n for n, words in found.items() if words.startswith("none")}
    assert {n: choices[n].exactness for n in found} == {n: "biased" if n in held else "exact" for n in found}


def test_every_adjoint_is_met_by_some_problem() -> None:
    met = {words for problem in PROBLEMS for words in problem.adjoints.values()}
    assert met == {"mixed unused", "mixed again", "reverse unused", "reverse again", "none unused", "none kept"}


@pytest.mark.parametrize(("goal", "down"), (("minimize w^2", 0.1), ("maximize -w^2", -0.1)))
def test_one_step_moves_along_the_hypergradient(goal: str, down: float) -> None:
    """`step` and `hypergradient` are two functions; what is checked must be what is followed, in the recipe's sense."""
    phase = compile_text(
        """recipe follows
level top {
  x : real from 0.7
  level fit {
    w : real from 2
    minimize 0.5 * (w - x^2)^2
    by sgd(lr = 0.2) for 3 steps
  }
  GOAL
  by sgd(lr = 0.1) for 5 steps
}""".replace("GOAL", goal)
    ).phase
    key = torch.tensor(0)
    state = phase.begin(key)
    for _ in range(3):
        gradient, before = phase.hypergradient(state, key)
        moved, value = phase.step(state, key)
        assert torch.equal(value, before)
        assert (value > 0) == (down > 0)
        assert torch.equal(moved.x, state.x - down * gradient)
        assert moved.step == state.step + 1
        state = moved


def test_a_report_may_replace_the_number_of_counted_steps() -> None:
    compiled = compile_text(
        """recipe replaced
level top {
  x : real from 0.7
  level fit {
    w : real from 2
    minimize 0.5 * k * (w - x)^2
    by sgd(lr = 0.1) for k in 3..5 steps
  }
  minimize w
  by sgd(lr = 0.1) for 5 steps
  report two = w with fit.steps = 2
  report none = w with fit.steps = 0
  report four = w with fit.steps = 4
  report same = w
}"""
    )
    key, state = compiled.key(), compiled.phase.begin(compiled.key())
    found = {name: report(state, key).item() for name, (_, report) in compiled.phase.reports.items()}
    factors = np.cumprod([1.0, 0.7, 0.6, 0.5, 0.4])
    assert found == pytest.approx(
        {"two": 0.7 + 1.3 * factors[2], "none": 2.0, "four": 0.7 + 1.3 * factors[4], "same": 0.7 + 1.3 * factors[3]},
        rel=1e-12,
    )


@pytest.mark.parametrize("domain_name", ["between", "unit", "nonnegative", "positive"])
def test_starts_are_values_not_free_coordinates(domain_name: str) -> None:
    domain = "between(-1, 2)" if domain_name == "between" else domain_name
    compiled = compile_text(
        f"""recipe started
level top {{
  x : real[2] in {domain} from [0.3, 0.6]
  minimize sqnorm(x)
  by sgd(lr = 0.1) for 2 steps
}}"""
    )
    found = compiled.phase.values(compiled.phase.begin(compiled.key()))["x"]
    assert found.tolist() == pytest.approx([0.3, 0.6], rel=1e-12)


@pytest.mark.parametrize(
    "solver",
    [
        "sgd(lr = RATE)",
        "sgd(lr = 0.1, momentum = RATE)",
        "adam(lr = 0.1, beta1 = RATE, beta2 = RATE)",
        "adamw(lr = 0.1, weight_decay = RATE)",
        "rmsprop(lr = 0.1, alpha = RATE)",
    ],
)
def test_an_argument_for_every_weight_is_that_argument_where_all_are_equal(solver: str) -> None:
    """The derivative in one number is the sum over a tree of equal ones."""
    text = """recipe each_weight
use net = mlp(2, 2, 1)
level top {
  a : TYPE from 0.3
  level fit {
    w : params(net) from 0.5
    minimize sqnorm(w^2 - 1)
    by SOLVER for 3 steps
  }
  minimize sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}""".replace("SOLVER", solver.replace("RATE", "a"))
    one = hypergradient(compile_text(text.replace("TYPE", "real")))
    every = hypergradient(compile_text(text.replace("TYPE", "params(net)")))
    assert error(every[0], one[0]) < 1e-12
    assert error(sum(leaf.sum() for leaf in every[1]["a"].values()), one[1]["a"]) < 1e-12
