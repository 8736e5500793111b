"""Gradient checks find what is wrong, pass what is right, and measure what is not exact."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from bilevel import gradcheck as checking
from bilevel import pipeline
from bilevel.command import main
from bilevel.errors import RecipeError
from bilevel.gradcheck import DIFFERENCES, MODES, Gradcheck, format_gradcheck
from bilevel.program import Program
from bilevel.program import compile as build
from bilevel.recipe import parse

SMOOTH = """recipe smooth
level top {
  x : real[2] from [0.7, -0.3]
  r : real in positive from 0.1
  each s ~ normal(0, 1)[6]
  level fit {
    w : real[2] from x
    e ~ normal(0, 1)[2]
    minimize 0.5 * sqnorm(w - x * s) + 0.1 * sum(w^4) + 0.1 * dot(e, w)
    by adam(lr = r) for 9 steps
  }
  minimize mean[s] sqnorm(w - 1) + 0.1 * sum(x^4)
  by sgd(lr = 0.1) for 2 steps
}"""
THREE = """recipe three
level top {
  x : real from 0.7
  level middle {
    y : real from x
    level low {
      z : real from y
      minimize (z - x * y)^2
      by sgd(lr = 0.1) for 3 steps
    }
    minimize (z - 1)^2 + 0.1 * (y - x)^2
    by sgd(lr = 0.05) for 4 steps
  }
  minimize (y - 2)^2 + x^2
  by sgd(lr = 0.1) for 5 steps
}"""
STATIONARY = """recipe stationary
level top {
  x : real in positive from 0.7
  level fit {
    w : real[2] from 0.1
    minimize 0.5 * sqnorm(w - 1) + 0.1 * sum(w^4) + 0.5 * x * sqnorm(w)
    by sgd(lr = 0.2) until stationary(1e-3) within 100 steps
  }
  minimize sqnorm(w - [0.3, 0.6])
  by sgd(lr = 0.1) for 2 steps
}"""


def checked(text: str, schedule: str = "", **options: Any) -> Gradcheck:
    """A recipe compiled as a user would, in float32."""
    return build(parse(f"{text}\nschedule {{ {schedule} }}" if schedule else text)).gradcheck(**options)


def test_exact_modes_pass() -> None:
    result = checked(SMOOTH)
    assert result.ok
    assert [row.variable for row in result.rows] == ["x", "r"]
    for row in result.rows:
        assert row.ok is True and row.exactness == "exact" and row.mode.startswith("fit: rmd")
        assert row.differences is not None and row.differences < DIFFERENCES
        assert "fit: fmd" in row.modes and max(row.modes.values()) < MODES


def test_the_problem_is_made_small_and_the_table_says_so() -> None:
    result = checked(SMOOTH)
    assert result.changes == ("s.count: 6 -> 2", "fit.steps: 9 -> 3")
    text = format_gradcheck(result)
    assert all(change in text for change in result.changes)
    assert text.splitlines()[-1].startswith("passed")


@pytest.mark.parametrize("mode", ["fmd", "rmd(checkpoint = 2)", "rmd(checkpoint = binomial)", "rmd(store = residuals)"])
def test_every_exact_mode_may_be_the_chosen_one(mode: str) -> None:
    result = checked(SMOOTH, f"fit : {mode}", directions=1)
    assert result.ok and all("fit: rmd" in row.modes for row in result.rows)


def test_each_level_is_varied_in_turn() -> None:
    (row,) = checked(THREE).rows
    assert {"low: fmd", "middle: fmd", "middle: rmd"} <= row.modes.keys()
    (row,) = checked(THREE, level="low").rows
    assert row.modes and all(title.startswith("low:") for title in row.modes)


def test_a_level_and_a_mode_can_be_chosen() -> None:
    (row,) = checked(THREE, level="low", against="fmd").rows
    assert list(row.modes) == ["low: fmd"] and row.differences is None
    (row,) = checked(THREE, against="fd").rows
    assert not row.modes and row.differences is not None


def test_stationary_points_are_met_sharply() -> None:
    result = checked(STATIONARY)
    assert result.ok
    assert "fit.until.tol: 1e-3 -> 1e-12" in result.changes


# ---- bias ----------------------------------------------------------------------------------------------------


def test_linear_systems_are_met_sharply_on_both_sides() -> None:
    """Here conjugate gradients need more than a hundred steps, at which they stop without a number."""
    text = """recipe stiff
    level top {
      x : real[150] from 0.7
      level fit {
        w : real[150] from 0
        minimize 0.5 * sum(exp(arange(150) / 22 - 5) * (w - x)^2)
        by lbfgs until stationary(1e-3) within 100 steps
      }
      minimize sum((w - 1)^4)
      by sgd(lr = 0.1) for 2 steps
    }
    schedule { fit : ift(linear = cg(steps = 5, tol = 1e-4)) }"""
    found = checked(text, against="ift")
    assert found.ok and max(found.rows[0].modes.values()) < 1e-11
    assert set(found.rows[0].modes) == {"fit: ift(linear = exact)"}, "`ift` is the same mode once it is as sharp"


@pytest.mark.parametrize("mode", ["rmd(order = 1)", "rmd(window = 2)", "leap(gamma = 0.9)"])
def test_the_bias_of_a_mode_is_measured(mode: str) -> None:
    text = SMOOTH.replace("r : real in positive from 0.1\n", "").replace("lr = r", "lr = 0.1")
    result = checked(text, f"fit : {mode}")
    (row,) = result.rows
    assert row.ok is None and row.exactness in ("biased", "surrogate")
    assert row.bias is not None and row.bias.against == "fit: rmd"
    assert 0 < row.bias.angle < 90 and row.bias.ratio > 0
    assert result.ok and "not exact" in str(result)


def test_a_bias_has_the_angle_and_ratio_of_its_closed_form() -> None:
    """With one quadratic step w = x - r (w - a)|x the exact derivative is (1 - r) times the one held constant."""
    text = """recipe short
level top {
  x : real[2] from [0.7, -0.3]
  level fit {
    w : real[2] from x
    minimize 0.5 * sqnorm(w - 3)
    by sgd(lr = 0.2) for 1 step
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 1 step
}"""
    (row,) = checked(text, "fit : rmd(order = 1)").rows
    assert row.bias is not None
    assert row.bias.angle == pytest.approx(0, abs=1e-5) and row.bias.ratio == pytest.approx(1 / 0.8, rel=1e-12)


# ---- what is wrong is found ----------------------------------------------------------------------------------


def broken(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """The emitted text with a mistake in it."""
    emit = pipeline.emit

    def edited(plan: Any) -> str:
        text = emit(plan)
        assert old in text
        return text.replace(old, new)

    monkeypatch.setattr(checking.pipeline, "emit", edited)


@pytest.mark.parametrize("schedule", ["", "fit : fmd"])
def test_a_wrong_solver_derivative_is_found(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    """A detached second moment changes no value, and one part of the derivative."""
    broken(monkeypatch, "torch.sqrt(v", "torch.sqrt(v.detach()")
    result = checked(SMOOTH, schedule)
    assert not result.ok and "WRONG" in str(result) and "FAILED" in str(result)


def test_a_slightly_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rebuild = checking.build

    def off(plan: Any, parts: Any) -> Any:
        return tuple(phase._replace(hypergradient=_scaled(phase.hypergradient)) for phase in rebuild(plan, parts))

    monkeypatch.setattr(checking, "build", off)
    result = checked(THREE, against="fd")
    assert not result.ok and result.rows[0].differences == pytest.approx(1e-4, rel=0.1)


def _scaled(function: Any) -> Any:
    def call(*given: Any) -> Any:
        gradient, value = function(*given)
        return gradient * (1 + 1e-4), value

    return call


# ---- what cannot be compared ---------------------------------------------------------------------------------


def test_kinks_do_not_count() -> None:
    """The objective has a kink in every direction but few; its derivative is right wherever it has one."""
    text = SMOOTH.replace("0.1 * sum(w^4)", "0.3 * sum(abs(w)) + 0.2 * sum(relu(w - e))")
    assert checked(text).ok


def test_differences_do_not_see_a_stopped_path() -> None:
    result = checked(THREE.replace("(y - 2)^2 + x^2", "(y - 2)^2 + stop(x) * x"))
    assert result.ok and result.rows[0].differences is None and result.rows[0].modes
    assert any("stop(x)" in reason for reason in result.skipped)


def test_forward_mode_with_very_many_tangents_is_left_out() -> None:
    text = (
        SMOOTH.replace("real[2] from [0.7, -0.3]", "real[300] from 0.7")
        .replace("real[2]", "real[300]")
        .replace("[2]\n", "[300]\n")
    )
    result = checked(text, directions=1)
    assert result.ok and any("tangents" in reason for reason in result.skipped)


def test_the_program_itself_is_left_as_it_was() -> None:
    program = build("maml_sine")
    before = [p.dtype for p in program.parts.objects["net"].parameters()]
    assert program.gradcheck(directions=1, against="fd").ok
    assert [p.dtype for p in program.parts.objects["net"].parameters()] == before == [torch.float32] * len(before)


@pytest.mark.parametrize(("option", "value", "code"), [("level", "nosuch", "B204"), ("against", "ift", "B506")])
def test_what_is_not_there_is_refused(option: str, value: str, code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        checked(THREE, **{option: value})
    assert caught.value.diagnostics[0].code == code


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Any) -> str:
    path = tmp_path / "three.bl"
    path.write_text(THREE)
    return str(path)


def test_the_command_prints_a_table(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", file, "--directions", "1"]) == 0
    assert "passed" in capsys.readouterr().out


def test_the_command_prints_json(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcheck", file, "low.steps=2", "--level", "low", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["bilevel_gradcheck"] == 1 and data["ok"] is True
    assert data["rows"][0]["variable"] == "x" and math.isfinite(data["rows"][0]["differences"])


def test_a_failed_check_has_its_own_exit_code(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "gradcheck", lambda *_: checked_wrong)
    checked_wrong = Gradcheck("three", (checking.Row("top", "x", "rmd", "exact", 1.0, ok=False),), (), (), 3, 0)
    assert main(["gradcheck", file]) == 5
    assert "FAILED" in capsys.readouterr().out
