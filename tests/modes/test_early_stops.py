"""Solves that end before their residual is met: counted, and the class of the run is demoted."""

from __future__ import annotations

import pytest

import bilevel
from bilevel.residuals import Residuals
from tests.modes.test_defects import IMPLICIT_MIDDLE
from tests.modes.tools import notes, scheduled
from tests.zoo.compiled import compile_text, plan_text

SHORT = """recipe early
level tune {
  x : real from 0.7
  level fit {
    w : real from 0
    minimize 0.5 * (w - x^2)^2
    by sgd(lr = 0.1) until stationary(TOL) within CAP steps
  }
  minimize (w - 1)^2
  by sgd(lr = 0.1) for 3 steps
}"""


def test_a_solve_that_ends_early_is_counted_and_demotes_the_class() -> None:
    text = SHORT.replace("TOL", "1e-9").replace("CAP", "20")
    assert plan_text(text).exactness == "exact"
    run = bilevel.compile(bilevel.parse(text, "early.bl")).run()
    assert run.exactness == "biased (residuals missed in 3 of 3 steps)"
    (warning,) = run.residuals.warnings()
    assert warning.code == "B702" and warning.severity == "warning"
    assert "did not become stationary" in warning.message and "missed in 3 of 3 steps" in warning.label
    assert run.residuals.worst["fit.stationarity"] > 1e-2


def test_a_solve_that_arrives_is_exact() -> None:
    run = bilevel.compile(bilevel.parse(SHORT.replace("TOL", "1e-4").replace("CAP", "2000"), "early.bl")).run()
    assert run.exactness == "exact" and run.residuals.warnings() == [] and run.residuals.steps == 3
    assert set(run.residuals.worst) == {"fit.stationarity", "fit.residual"}


def test_a_linear_system_that_is_not_solved_is_counted_as_well() -> None:
    text = (
        IMPLICIT_MIDDLE.partition("  level b {")[0]
        + """  level fit {
    w : real[6] from 0
    minimize 0.5 * sum([1, 10, 100, 1_000, 10_000, 3] * w^2) - dot(w, x^2)
    by sgd(lr = 1e-4) until stationary(1e9) within 1 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 1e-9) for 2 steps
}"""
    )
    mode = "ift(linear = cg(tol = 1e-10, steps = 2))"
    text = scheduled(text, fit=mode)
    assert plan_text(text).exactness == "exact"
    run = bilevel.compile(bilevel.parse(text, "implicit_middle.bl")).run()
    assert run.exactness == "biased (residuals missed in 2 of 2 steps)"
    assert [w.code for w in run.residuals.warnings()] == ["B704"]


def test_only_the_steps_that_missed_are_counted() -> None:
    residuals = Residuals(plan_text(SHORT.replace("TOL", "1e-3").replace("CAP", "20")))
    for value in (1e-4, 2e-3, 1e-3, 5e-3):
        residuals.observe({"fit.stationarity": value, "fit.residual": 0.0})
    assert (residuals.steps, residuals.biased_steps) == (4, 2)
    assert residuals.exactness == "biased (residuals missed in 2 of 4 steps)"
    assert residuals.worst["fit.stationarity"] == 5e-3


def test_the_size_of_the_residual_is_that_of_the_solve() -> None:
    compiled = compile_text(SHORT.replace("TOL", "1e-9").replace("CAP", "20"))
    assert notes(compiled)["fit.stationarity"] == pytest.approx(0.9**20 * 0.49, rel=1e-9)
