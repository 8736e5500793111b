"""Implicit differentiation of a level that is solved once for each element of a list, and the start that it reads."""

from __future__ import annotations

import pytest

from tests.modes.tools import TOLERANCE, compile_text, error, gradients, notes

TEXT = """recipe listed
use nets = [mlp(2, 3, 1), mlp(2, 1)]
level outer {
  c : real from 0.7
  each net in nets
  level train {
    w : params(net) from init(net)
    minimize 0.5 * sqnorm(w) + c * sqnorm(w) - c * sum(w)
    by sgd(lr = 0.3) until stationary(1e-12) within 400 steps
  }
  minimize mean[net] sqnorm(w - 0.1)
  by sgd(lr = 0.1) for 2 steps
}
schedule { train : ift(linear = exact) }
"""


def test_it_is_what_the_steps_give() -> None:
    expected = gradients(TEXT.replace("ift(linear = exact)", "rmd"))["c"]
    assert error(gradients(TEXT)["c"], expected) < TOLERANCE
    series = TEXT.replace("linear = exact", "linear = neumann(terms = 400, scale = 0.3)")
    assert error(gradients(series)["c"], expected) < TOLERANCE


def test_residuals_are_the_worst_over_the_list() -> None:
    found = notes(compile_text(TEXT.replace("within 400", "within 3"), None))
    assert found["train.stationarity"] > 1e-3 and found["train.residual"] < 1e-12


@pytest.mark.parametrize("mode", ["ift(linear = exact)", "rmd"])
def test_the_start_is_read_for_each_element(mode: str) -> None:
    """The start of an element is its own: the derivative is that of the value, by differences."""
    text = TEXT.replace("sqnorm(w - 0.1)", "sqnorm(w - w@0)").replace("ift(linear = exact)", mode)
    compiled = compile_text(text, None)
    key = compiled.key()
    state = compiled.phase.begin(key)
    found, _ = compiled.phase.hypergradient(state, key)
    ends = [compiled.phase.hypergradient(state._replace(x=state.x + h), key)[1] for h in (1e-5, -1e-5)]
    assert float(found) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)
