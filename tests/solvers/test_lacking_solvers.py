"""Solvers and estimators of the caller's whose operators lack a derivative: refused by name where a mode would take it."""

from __future__ import annotations

import pytest
import torch

import bilevel
from bilevel.errors import RecipeError
from tests.modes import lacking

ONE = """recipe stepping
level outer {
  theta : real[3] from 0.3
  level inner {
    w : real[3] from START
    minimize 0.5 * sqnorm(w - theta) + sum(w^3)
    by SOLVER DURATION
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}
"""
TWO = """recipe stepping
level top {
  a : real[3] from 0.4
  level outer {
    theta : real[3] from 0.3 * a
    level inner {
      w : real[3] from theta
      minimize 0.5 * sqnorm(w - theta) + sum(w^3)
      by SOLVER for 3 steps
    }
    minimize sqnorm(w - 1) + sqnorm(theta - a)
    by sgd(lr = 0.1) for 2 steps
  }
  minimize sum(theta^2)
  by sgd(lr = 0.1) for 1 step
}
"""
COPIES = ONE.replace("level inner", "each s ~ normal(0, 1)[2]\n  level inner").replace("- theta)", "- s * theta)")
COPIES = COPIES.replace("minimize sqnorm(w - 1)", "minimize mean[s] sqnorm(w - 1)")


def compiled(text: str, solver: str, mode: str = "", start: str = "0.1", until: str = "for 3 steps") -> bilevel.Program:
    text = text.replace("SOLVER", solver).replace("START", start).replace("DURATION", until)
    text += f"schedule {{ inner : {mode} }}\n" if mode else ""
    return bilevel.compile(
        bilevel.parse(text, "stepping.bl"), registry=[lacking], dtype=torch.float64, limit="memory=1GB"
    )


def refusal(
    text: str, solver: str, mode: str = "", start: str = "0.1", until: str = "for 3 steps"
) -> bilevel.Diagnostic:
    with pytest.raises(RecipeError) as caught:
        compiled(text, solver, mode, start, until)
    return caught.value.diagnostics[0]


def gradient(program: bilevel.Program) -> torch.Tensor:
    return next(iter(program.hypergradient().values()))  # type: ignore[no-any-return]


MODES = ["rmd", "rmd(store = residuals)", "rmd(checkpoint = sqrt)", "fmd"]


@pytest.mark.parametrize("mode", MODES)
def test_a_step_without_a_forward_derivative_is_refused_by_fmd_alone(mode: str) -> None:
    expected = gradient(compiled(ONE, "step_whole(lr = 0.1)", mode))
    assert compiled(ONE, "step_whole(lr = 0.1)", mode).gradcheck(directions=1).ok
    if mode == "fmd":
        found = refusal(ONE, "step_no_forward(lr = 0.1)", mode)
        assert found.code == "B513" and "`NoForward` (lacking.py:" in found.message and "it has no `jvp`" in found.why
        assert [r.span.text for r in found.related] == ["step_no_forward(lr = 0.1)"]
        return
    assert torch.equal(gradient(compiled(ONE, "step_no_forward(lr = 0.1)", mode)), expected)


def test_the_plan_names_what_a_step_lacks() -> None:
    program = compiled(ONE, "step_no_forward(lr = 0.1)")
    assert "has no forward derivative, and is in `step_no_forward(lr = 0.1)`" in program.explain()


def test_a_step_that_is_once_differentiable_is_right_in_one_level_and_refused_in_two() -> None:
    """In two levels torch takes the derivative of its backward for zero, without a word."""
    expected = gradient(compiled(ONE, "step_whole(lr = 0.1)", "rmd"))
    assert torch.allclose(gradient(compiled(ONE, "step_once(lr = 0.1)", "rmd")), expected, rtol=1e-12)
    assert gradient(compiled(TWO, "step_whole(lr = 0.1)")).isfinite().all()
    found = refusal(TWO, "step_once(lr = 0.1)")
    assert found.code == "B513" and "`Once` (lacking.py:" in found.message and "no second derivative" in found.message


@pytest.mark.parametrize("mode", [*MODES, "rmd(order = 1)", "leap(teacher = 1, gamma = 0.5)"])
def test_a_step_without_any_derivative_is_refused_where_steps_are_differentiated(mode: str) -> None:
    found = refusal(ONE, "step_old(lr = 0.1)", mode, start="theta")
    assert found.code == "B513" and "`OldFashioned` (lacking.py:" in found.message
    assert "`setup_context`" in found.why


def test_it_is_taken_where_no_step_is_differentiated() -> None:
    until = "until stationary(1e-7) within 2000 steps"
    text = ONE.replace("+ sum(w^3)", "+ 0.2 * sum(w^2)")
    found = gradient(compiled(text, "step_old(lr = 0.1)", "es(samples = 2)"))
    assert found.isfinite().all()
    closed = {solver: compiled(text, solver, "ift", until=until) for solver in ("step_slow(lr = 0.2)", "sgd(lr = 0.2)")}
    points = [gradient(program) for program in closed.values()]
    assert torch.allclose(*points, rtol=1e-4)
    refused = refusal(text, "step_slow(lr = 0.2)", "rmd", until=until)
    assert refused.code == "B513"


@pytest.mark.parametrize("mode", ["", "rmd", "fmd"])
def test_what_enters_through_flat_steps_alone_is_b415(mode: str) -> None:
    found = refusal(ONE, "step_signs(lr = 0.1)", mode)
    assert found.code == "B415" and "`theta`" in found.message and "through flat steps alone" in found.message
    assert [r.span.text for r in found.related] == ["step_signs(lr = 0.1)"]


def test_what_enters_through_the_start_as_well_is_not() -> None:
    program = compiled(ONE, "step_signs(lr = 0.1)", start="theta")
    assert program.gradcheck(directions=1).ok


def test_a_step_that_has_no_form_for_copies_is_b616() -> None:
    found = refusal(COPIES, "step_no_copies(lr = 0.1)")
    assert found.code == "B616" and "`NoCopies` (lacking.py:" in found.message
    assert found.span is not None and found.span.text == "step_no_copies(lr = 0.1)"


def test_estimates_are_looked_at_too() -> None:
    estimate = "sgd(lr = 0.1) with estimate_no_forward(samples = 1.5)"
    found = refusal(ONE, estimate, "fmd")
    assert found.code == "B513" and "`NoForward`" in found.message
    expected = gradient(compiled(ONE, estimate.replace("no_forward", "whole"), "fmd"))
    assert torch.allclose(gradient(compiled(ONE, estimate, "rmd")), expected, rtol=1e-10)


def test_parts_beside_an_estimator_with_options_are_seen() -> None:
    text = ONE.replace("recipe stepping", "recipe stepping\nuse bend = old").replace("sum(w^3)", "sum(bend(w))")
    assert refusal(text, "sgd(lr = 0.1) with estimate_whole(samples = 1.5)").code == "B616"


LEARNED = ONE.replace("recipe stepping", 'recipe stepping\nuse bent = bent_steps("KIND")')
LEARNED = LEARNED.replace("theta : real[3] from 0.3", "theta : real[3] from 0.3\n  psi : params(bent)")


def test_learned_solvers_are_looked_at_too() -> None:
    def text(kind: str) -> str:
        return LEARNED.replace("KIND", kind)

    expected = gradient(compiled(text("whole"), "bent[psi]", "fmd"))
    assert torch.allclose(gradient(compiled(text("no_forward"), "bent[psi]", "rmd")), expected, rtol=1e-12)
    found = refusal(text("no_forward"), "bent[psi]", "fmd")
    assert found.code == "B513" and "`NoForward`" in found.message
