"""These tests can fail: every mutation of an emitted module is told from the right one by its closed form."""

from __future__ import annotations

import pytest

from tests.zoo import quadratics, recursions, structures
from tests.zoo.compiled import hypergradient
from tests.zoo.problem import Problem
from tests.zoo.test_problems import TOLERANCE, compiled, error

MUTATIONS: tuple[tuple[str, Problem, str, str], ...] = (
    (
        "sign of the curvature",
        quadratics.LEARNED_START,
        "add(d_w, curvature)",
        "add(d_w, tree_map(lambda a: -a, curvature))",
    ),
    ("no curvature", structures.TWO_TASKS, "add(d_w, curvature)", "d_w"),
    (
        "one step fewer",
        quadratics.RIDGE_ONE,
        'reversed(kernels.runs("fit", 0, len(states) - 1))',
        'reversed(kernels.runs("fit", 1, len(states) - 1))',
    ),
    (
        "steps in the wrong order",
        quadratics.RIDGE_MANY,
        'reversed(kernels.runs("fit", 0, len(states) - 1))',
        'kernels.runs("fit", 0, len(states) - 1)',
    ),
    ("the state after the step", quadratics.RATE, "within(states, steps)", "within(states[1:], steps)"),
    ("sum instead of mean", structures.TWO_TASKS, ".mean(0)", ".sum(0)"),
    ("last instead of sum", quadratics.RIDGE_ONE, "add(d_lam, more_lam)", "more_lam"),
    ("values instead of free coordinates", quadratics.RIDGE_ONE, "lam_back(d_lam)", "(d_lam,)"),
    ("the velocity forgotten", quadratics.MOMENTUM_FIXED, "d_w, d_solver, d_grad = pull", "d_w, _, d_grad = pull"),
    (
        "no gradient where one is needed",
        quadratics.RATE,
        "            gradient = fit_gradient(w)\n            _, pull",
        "            gradient = zeros(w)\n            _, pull",
    ),
    ("one iterate's cotangent dropped", structures.SUM_OF_ITERATES, "moved = given_w", "moved = zeros(given_w)"),
    ("an earlier level beside it forgotten", structures.SIDE_BY_SIDE, "d_w = add(d_w, more_w)", "d_w = more_w"),
    ("a level inside held constant", structures.THREE_LEVELS, "d_y = add(d_y, more_y)", "d_y = d_y"),
    ("the counter of Adam off by one", recursions.ADAM, "solver, gradient, step, ", "solver, gradient, step + 1, "),
    (
        "second moments not differentiated",
        recursions.ADAM,
        "pull((d_w, d_solver))",
        "pull((d_w, (d_solver[0], zeros(w))))",
    ),
    (
        "second order where first was asked",
        structures.FIRST_ORDER_TASKS,
        "pull((d_w, d_solver))",
        "pull((0.9 * d_w, d_solver))",
    ),
)


def worst(problem: Problem, old: str = "", new: str = "") -> float:
    """The largest relative error of objective and hypergradient in a module whose text was changed."""

    def edit(text: str) -> str:
        head, mark, recipe = text.partition("# ---- the recipe")
        assert old in recipe, f"the mutation no longer fits: {old}"
        return head + mark + recipe.replace(old, new)

    value, found = hypergradient(compiled(problem, edit))
    expected = problem.complex_step()
    errors = [error(found[name].numpy(), expected[name]) for name in expected]
    return max(error(value, problem.value(**problem.start)), *errors)


@pytest.mark.parametrize(("what", "problem", "old", "new"), MUTATIONS, ids=[m[0] for m in MUTATIONS])
def test_a_mutation_is_noticed(what: str, problem: Problem, old: str, new: str) -> None:
    assert worst(problem) < TOLERANCE
    assert worst(problem, old, new) > 1e3 * TOLERANCE, what
