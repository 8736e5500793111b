"""The shared suite: what every backend declares, and the same numbers from both on every problem, to 1e-9."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from bilevel import ir, support
from bilevel.backends import reference
from bilevel.backends.reference.support import RATES as RATE_WORDS
from bilevel.backends.reference.support import SUPPORTED, reasons
from bilevel.dsl.functions import DOMAINS, FUNCTIONS
from bilevel.dsl.solvers import MODES, RATES, SOLVERS
from bilevel.errors import RecipeError
from tests.backends.agreement import compared, windows_error
from tests.backends.recipes import BROKEN, OVER_TWO_LISTS, RECIPES
from tests.zoo.compiled import Compiled, compile_text
from tests.zoo.problem import Problem
from tests.zoo.problems import PROBLEMS
from tests.zoo.test_problems import compiled

TOLERANCE = 1e-9
Q = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.3, -0.2, 1.5]], dtype=torch.float64)
WRONG = {
    "stationary_under_three": "the attached solution has a first derivative only, and this needs its second",
}
CUT_SHORT = """recipe cut_short
level top {
  x : real from 0.7
  level fit {
    w : real from x
    minimize (w - 2 * x)^2
    by sgd(lr = 0.1) until stationary(1e-9) within 400 steps
  }
  minimize w^2
  by sgd(lr = 0.1) for 1 step
}
schedule { fit : ift(linear = LINEAR) }"""


@cache
def made(name: str) -> Compiled:
    text = RECIPES[name]
    return compile_text(text, {"Q": Q} if "use Q" in text else {})


def agree(program: Compiled, steps: int = 2) -> None:
    assert reasons(program.plan) == []
    for both in compared(program, steps):
        assert both.error < TOLERANCE, both


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_both_backends_agree_on_the_zoo(problem: Problem) -> None:
    agree(compiled(problem))


def marked() -> Iterator[object]:
    for name in RECIPES:
        yield pytest.param(name, marks=[pytest.mark.xfail(reason=WRONG[name], strict=True)] if name in WRONG else [])


@pytest.mark.parametrize("name", list(marked()))
def test_both_backends_agree_on_every_construct(name: str) -> None:
    agree(made(name), 3 if name == "continued" else 2)


def test_functions_take_plain_numbers() -> None:
    agree(compile_text(BROKEN["function_of_a_number"]))


def test_a_distribution_whose_argument_is_copied_is_refused() -> None:
    with pytest.raises(RecipeError, match="B507"):
        compile_text(BROKEN["spread_of_a_copy"])


def test_a_solution_over_other_lists_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"B507.*a solution over other lists"):
        compile_text(OVER_TWO_LISTS)


# ---- declarations --------------------------------------------------------------------------------------------


def test_everything_the_language_names_is_declared() -> None:
    assert SUPPORTED["solvers"].keys() == SOLVERS.keys()
    assert SUPPORTED["modes"].keys() == MODES.keys()
    assert SUPPORTED["domains"].keys() == DOMAINS.keys()
    assert SUPPORTED["functions"].keys() == FUNCTIONS.keys()
    assert SUPPORTED["options"].keys() >= {f"{mode}.{option}" for mode in MODES for option in MODES[mode]}
    assert RATE_WORDS.keys() == set(RATES)


def test_what_is_not_yet_there_is_not_in_the_product_either() -> None:
    """An answer that the product has overtaken is out of date."""
    for kind, names in (("solvers", support.SOLVERS), ("domains", support.DOMAINS), ("modes", support.MODES)):
        later = {name for name, answer in SUPPORTED[kind].items() if answer.answer == "notyet"}
        assert not later & set(names)
    assert all(answer.answer != "notyet" for answer in SUPPORTED["functions"].values())


def test_no_answer_goes_without_a_reason() -> None:
    for table in SUPPORTED.values():
        for name, answer in table.items():
            assert bool(answer.reason) or answer.answer == "yes", name


def test_what_is_declared_is_met_by_some_problem() -> None:
    """A `yes` that no problem backs is a guess."""
    programs = [compiled(p).plan.program for p in PROBLEMS] + [made(n).plan.program for n in RECIPES if n not in WRONG]
    met = {
        kind: {name for p in programs for name in _named(p, kind)}
        for kind in ("solvers", "domains", "reducers", "functions")
    }
    for kind, names in met.items():
        assert {n for n, s in SUPPORTED[kind].items() if s.answer == "yes"} <= names, kind


def _named(program: ir.Program, kind: str) -> Iterator[str]:
    for level in program.walk_levels():
        if kind == "solvers":
            yield from (s.name for p in level.phases for s in p.solvers)
        if kind == "domains":
            yield from (v.domain for v in level.variables if v.domain is not None)
        for expr in _expressions(level):
            for part in ir.walk(expr):
                if kind == "reducers" and isinstance(part, ir.Reduced):
                    yield part.kind
                if kind == "functions" and isinstance(part, ir.Builtin):
                    yield part.function


def _expressions(level: ir.Level) -> Iterator[ir.Expr]:
    yield from (v.start for v in level.variables if v.start is not None)
    yield from (source.source for source in (*level.indices, *level.draws))
    if level.objective is not None:
        yield level.objective.value
    yield from (a for p in level.phases for s in p.solvers for a in s.arguments.values())


@pytest.mark.parametrize("linear", ("neumann(terms = 3)", "cg(steps = 1)", "nystrom(rank = 1)"))
def test_what_is_not_carried_out_is_refused(linear: str) -> None:
    program = compile_text(CUT_SHORT.replace("LINEAR", linear))
    assert reasons(program.plan) and reasons(program.plan)[0].startswith("ift.linear.")
    assert ": never, " in reasons(program.plan)[0]
    with pytest.raises(reference.Unsupported, match="exact solve"):
        compared(program)


@pytest.mark.parametrize("name", [n for n, text in RECIPES.items() if "update = each" in text])
def test_windows_move_the_outer_level_alike(name: str) -> None:
    """Three updates in each of two outer steps: a state that is carried wrongly would show in the second window."""
    assert windows_error(made(name), 2, 0.1) < TOLERANCE
