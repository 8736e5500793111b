"""`store = gradients`: the gradient of every step is kept for the way back, to the same bits as computed again."""

from __future__ import annotations

import pytest
import torch

from bilevel import explain
from bilevel.errors import RecipeError
from tests.solvers.agreement import difference_error, gradient
from tests.zoo.compiled import compile_text, plan_text

ONE = """recipe kept
level tune {
  rate : real in positive from 0.1
  a : real[3] from [0.5, -0.3, 0.8]
  level fit {
    w : real[3] from SLOPE
    minimize sum((w - a)^2 * [1, 2, 3]) + 0.1 * sum(w^4) + DRAWN
    by SOLVER DURATION
  }
  minimize OUTER
  by sgd(lr = 0.1) for 2 steps
}
schedule { fit : MODE }"""
SEVERAL = """recipe several
level tune {
  rate : real in positive from 0.1
  x : real from 0.7
  each t ~ normal(1, 0.3)[3]
  level fit {
    v : real from x * t
    w : real in positive from 0.4
    each s ~ normal(0, 1)[4]
    minimize mean[s] (v * s - x)^2 + (w - x * t)^2 * (1 + v^2)
    by v : adam(lr = rate), w : sgd(lr = rate, momentum = 0.5) for 5 steps
  }
  minimize mean[t] (v - w)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}
schedule { fit : MODE }"""
NESTED = """recipe nested
level top {
  x : real from 0.7
  level middle {
    y : real from x^2
    level low {
      w : real from 0.1
      minimize 0.5 * (w - x * y)^2 + 0.1 * w^4
      by sgd(lr = 0.2, momentum = 0.3) for 4 steps
    }
    minimize (w - 1)^2 + (y - x)^2
    by adam(lr = 0.1) for 3 steps
  }
  minimize (y - 2)^2
  by sgd(lr = 0.1) for 2 steps
}
schedule { middle : MODE }"""


def one(solver: str, duration: str = "for 6 steps", outer: str = "sum((w - 1)^2)", start: str = "a * 0.5") -> str:
    text = ONE.replace("SOLVER", solver).replace("DURATION", duration).replace("OUTER", outer)
    return text.replace("SLOPE", start).replace("DRAWN", "0")


TEXTS = {
    "adam": one("adam(lr = rate)"),
    "sgd": one("sgd(lr = rate)"),
    "rmsprop, clipped": one("rmsprop(lr = rate, clip = 0.7)"),
    "iterates": one("adam(lr = rate)", outer="sum((w - 1)^2) + sum(w@2^2)"),
    "stopped by a test": one("adam(lr = rate)", "until plateau(sum((w - a)^2), patience = 1) within 8 steps"),
    "copies, draws and a domain": SEVERAL,
    "a level inside": NESTED,
}


@pytest.mark.parametrize("name", TEXTS)
def test_kept_gradients_give_the_same_bits(name: str) -> None:
    """As `rmd`, and as finite differences; the way back reads them and computes none."""
    kept, again = (compile_text(TEXTS[name].replace("MODE", m)) for m in ("rmd(store = gradients)", "rmd"))
    assert "gradient = state[2]" in kept.text and "gradient = state[2]" not in again.text
    assert kept.text.count("_gradient(") < again.text.count("_gradient(")
    assert torch.equal(gradient(kept), gradient(again)) and bool(gradient(kept).abs().sum() > 0)
    if "stopped" not in name:  # the number of steps jumps
        assert difference_error(kept) < 1e-5


def test_the_last_steps_of_a_window() -> None:
    text = one("adam(lr = rate)")
    kept, again = (
        gradient(compile_text(text.replace("MODE", f"rmd(window = 3{more})"))) for more in (", store = gradients", "")
    )
    assert torch.equal(kept, again) and not torch.equal(kept, gradient(compile_text(text.replace("MODE", "rmd"))))


def test_a_plan_says_what_is_kept() -> None:
    found = explain.plan_text(plan_text(TEXTS["adam"].replace("MODE", "rmd(store = gradients)")))
    assert "keeps 6 + 1 states and gradients" in found and "P(Tb + G)" in found


@pytest.mark.parametrize(
    ("solver", "mode", "why"),
    [
        ("adam(lr = rate)", "rmd(checkpoint = 2, store = gradients)", "goes with no other option but `window`"),
        ("adam(lr = rate)", "rmd(order = 1, store = gradients)", "goes with no other option but `window`"),
        ("adam(lr = rate)", "rmd(window = 3, update = each, store = gradients)", "goes with `window` and `order` only"),
        ("sgd(lr = 0.1)", "rmd(store = gradients)", "linear in the gradient"),
        ("next(0.5 * w + rate * a)", "rmd(store = gradients)", "no gradient to keep"),
        ("adam(lr = rate)", "rmd(store = slopes)", "iterates or gradients or residuals"),
    ],
)
def test_where_gradients_are_not_kept_is_said(solver: str, mode: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        plan_text(one(solver, outer="sum((w - rate)^2)").replace("MODE", mode))
