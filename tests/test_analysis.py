"""Estimates beside measurements: bytes agree exactly, times add up, calibrations explain what was measured."""

from __future__ import annotations

import pytest
import torch

import bilevel
from bilevel.analysis import Analysis, Row, analyze
from bilevel.analysis_text import analysis_text
from bilevel.calibrating import fitted
from bilevel.costs import Calibration, Work, reference
from bilevel.measuring import Clock, Recorder, cells, watching
from bilevel.program import Program

TEXT = """recipe tiny
use net = mlp(1, 8, 1)
use tasks = sine(shots = 4, queries = 4)
level meta {
  theta : params(net)
  each task ~ tasks.train[3]
  level adapt {
    w : params(net) from theta
    minimize mean(mse(net[w](task.support.x), task.support.y)) + 0.1 * sqnorm(w - theta)
    by sgd(lr = 0.01) for 9 steps
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by adam(lr = 1e-3) for 4 steps
}
"""
NESTED = TEXT.replace(
    "    minimize mean(mse(net[w](task.support.x), task.support.y)) + 0.1 * sqnorm(w - theta)",
    """    level deep {
      v : params(net) from w
      minimize mean(mse(net[v](task.support.x), task.support.y))
      by sgd(lr = 0.02) for 2 steps
    }
    minimize mean(mse(net[v](task.support.x), task.support.y)) + 0.1 * sqnorm(w - theta)""",
).replace("for 9 steps", "for 2 steps")
TWO = """recipe two
use net = mlp(1, 4, 1)
use tasks = sine(shots = 3, queries = 3)
level first {
  a : params(net)
  each task ~ tasks.train[2]
  minimize mean[task] mean(mse(net[a](task.support.x), task.support.y))
  by sgd(lr = 0.01) for 3 steps
}
level second {
  b : params(net) from a
  each task ~ tasks.train[2]
  minimize mean[task] mean(mse(net[b](task.query.x), task.query.y))
  by sgd(lr = 0.01) for 3 steps
}
"""


def made(text: str) -> Program:
    return bilevel.compile(bilevel.parse(text), calibration=reference())


def by_step(found: Analysis) -> dict[str, Row]:
    return {row.step: row for row in found.rows}


@pytest.mark.parametrize(
    "mode",
    ["rmd(store = residuals)", "rmd(checkpoint = 3)", "rmd(window = 3)", "leap(gamma = 0.9)"],
)
def test_bytes_of_every_function_are_those_of_the_estimate(mode: str) -> None:
    found = analyze(made(f"{TEXT}schedule {{ adapt : {mode} }}"), steps=2, check=False)
    rows = by_step(found)
    assert [row.step for row in found.rows if row.step != "all else"] == [
        "one step of meta",
        "draw task",
        "adapt forward, 9 steps",
        "outer value and its gradient",
        f"adapt backward, {mode}",
        "adam",
    ]
    for name, row in rows.items():
        if name not in ("one step of meta", "adam", "all else"):
            assert row.peak_estimated == row.peak, name
            assert (row.calls, row.seconds > 0) == (2, True)
    assert rows["adam"].seconds_estimated is None


@pytest.mark.parametrize("text", [TEXT, TWO])
def test_times_of_the_functions_add_up_to_the_step(text: str) -> None:
    found = analyze(made(text), steps=1, check=False)
    depth = 0.0
    for row in found.rows:
        if row.depth == 0:
            whole, depth = row.seconds, 0.0
        elif row.depth == 1:
            depth += row.seconds
            assert depth <= whole * (1 + 1e-9)
    assert depth >= 0.5 * whole  # what is left is outside all functions


def test_levels_inside_levels_and_several_outermost_ones() -> None:
    nested = analyze(made(NESTED), steps=1, check=False)
    places = {(row.step.partition(",")[0], row.depth) for row in nested.rows}
    assert {("adapt forward", 1), ("deep forward", 2), ("adapt backward", 1)} <= places
    two = analyze(made(TWO), steps=2, check=False)
    assert two.steps == {"first": 2, "second": 2}
    assert [row.step for row in two.rows if row.depth == 0] == ["one step of first", "one step of second"]


def test_a_search_has_no_estimates_and_says_why() -> None:
    text = TEXT.replace("adam(lr = 1e-3) for 4 steps", "cmaes(sigma = 0.1, population = 4) for 3 generations")
    found = analyze(made(text), steps=1)
    assert found.gradcheck is None
    assert all(row.seconds_estimated is None for row in found.rows)
    assert "no estimates: " in analysis_text(found)


def test_a_program_is_as_it_was_afterwards() -> None:
    program = made(TEXT)
    before = {name: cell.cell_contents for name, cell in cells(program.phases[0].step).items()}
    weights = [p.clone() for p in program.parts.objects["net"].parameters()]
    one = program.run(seed=1).losses
    analyze(program, steps=2, check=False)
    assert {name: cell.cell_contents for name, cell in cells(program.phases[0].step).items()} == before
    assert all(map(torch.equal, weights, program.parts.objects["net"].parameters()))
    assert program.run(seed=1).losses == one


def test_functions_are_given_back_when_one_fails() -> None:
    program = made(TEXT)
    before = {name: cell.cell_contents for name, cell in cells(program.phases[0].step).items()}
    recorder = Recorder(Clock(torch.device("cpu")))
    with pytest.raises(AttributeError), watching(program.plan.program, recorder, program.phases[0].step):
        program.phases[0].step(None, torch.tensor(0))
    assert {name: cell.cell_contents for name, cell in cells(program.phases[0].step).items()} == before


def test_the_gradient_check_is_its_last_line() -> None:
    text = analysis_text(analyze(made(TEXT), steps=1))
    last = text.splitlines()[-1]
    assert last.startswith("gradient check: ") and last.endswith("relative (float64, 3 directions)")
    assert float(last.split()[2]) < 1e-5
    biased = analysis_text(analyze(made(TEXT + "schedule { adapt : rmd(order = 1) }"), steps=1))
    assert "gradient check: not exact, " in biased.splitlines()[-1]


# ---- calibration ---------------------------------------------------------------------------------------------

TRUE = Calibration("true", 2e-5, 5e-6, 3e-6, 4e-5, 2e-7, 5e-5, 4e10, 3e10, 1e10, 8e9, 2e9)
WORKS = [
    Work(products=2e10, moved=1e8, operators=500, views=100),
    Work(products=1e7, moved=5e8, operators=900, views=4000),
    Work(products=5e6, moved=1e6, operators=9000, views=300),
    Work(products=2e9, moved=3e9, operators=20, views=20),
    Work(moved=1e6, operators=50, views=9000),
]


def test_a_calibration_is_found_again_from_exact_times() -> None:
    """Where each number has a share of the time that counts; what has none is held to the others."""
    found = fitted(reference(), "here", [[(work, TRUE.seconds(work)) for work in WORKS]])
    whole = sum(map(TRUE.seconds, WORKS))
    assert sum(map(found.seconds, WORKS)) == pytest.approx(whole, rel=0.01)
    again = fitted(found, "here", [[(work, TRUE.seconds(work)) for work in WORKS]])
    assert again.products == pytest.approx(TRUE.products, rel=0.3)
    assert again.moved == pytest.approx(TRUE.moved, rel=0.3)


def test_what_a_recipe_does_not_do_moves_with_the_rest() -> None:
    slow = [(work, 3 * reference().seconds(work)) for work in WORKS]
    found = fitted(reference(), "here", [slow])
    assert found.convolutions == pytest.approx(reference().convolutions / 3, rel=0.01)
    assert found.operator == pytest.approx(reference().operator * 3, rel=0.01)
    assert fitted(reference(), "here", []) == Calibration("here", *list(reference().to_json().values())[2:])  # type: ignore[arg-type]


def test_only_ratios_beyond_the_limit_are_flagged() -> None:
    row = Row("f", "adapt", 1, 1, 1.0, 100.0, 0.7, 100.0)
    assert row.flags == ()
    assert Row("f", "adapt", 1, 1, 1.0, 100.0, 0.6, 160.0).flags == ("time", "memory")
    assert Row("f", "adapt", 1, 1, 1.0, 100.0, 1.6, 60.0).flags == ("time", "memory")
    assert Row("f", "adapt", 1, 1, 1.0, 100.0).flags == ()
