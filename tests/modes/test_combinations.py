"""Modes, starts and tests of levels that meet each other: what each promises alone has to hold together."""

from __future__ import annotations

import pytest
import torch

from tests.backends.agreement import compared
from tests.modes.test_warm import COPIES, NEW, SPELLED, Y, cut, moved, seen
from tests.modes.tools import TOLERANCE, codes, error, gradients, scheduled, worst
from tests.zoo.compiled import compile_text

# ---- warm ----------------------------------------------------------------------------------------------------


def warm_by_hand(adam: bool, window: int | None = None, gamma: float | None = None) -> torch.Tensor:
    """Four outer steps of four copies with four inner steps each, of which the last `window` have a derivative.

    With `gamma` the solution is a leap: gamma times the iterate after one step and the rest of the way to the mean of
    the last two, which have none; the next solve goes on from there, with the solver as it ended.
    """
    at, ends, found = 0.7, {}, []
    for _ in range(4):
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        total = x
        for place, y in enumerate(Y):
            w, state = ends.get(place, (cut(x**2), NEW))
            path = [w]
            for step in range(4):
                if window is not None and step == 4 - window:
                    w, state = cut((w, state))
                w, state = moved(w, state, w - x * y + 0.4 * w**3, 0.1, adam)
                path.append(w)
            if gamma is not None:
                w = gamma * path[1] + (1 - gamma) * cut(path[-1] + path[-2]) / 2
            ends[place] = cut((w, state))
            total = total + (w - 1) ** 2 / 4
        (slope,) = torch.autograd.grad(total, x)
        found.append(slope)
        at = at - 0.2 * float(slope)
    return torch.stack(found)


@pytest.mark.parametrize("adam", (False, True))
def test_a_warm_leap_goes_on_with_its_solver(adam: bool) -> None:
    made = COPIES.replace("SOLVER", SPELLED[adam]).replace("DURATION", "for 4 steps")
    leap = scheduled(made, fit="leap(teacher = 1, keep = 2, hull = mean, gamma = 0.7)")
    assert error(seen(compile_text(leap)), warm_by_hand(adam, gamma=0.7)) < 1e-12
    cut_short = scheduled(made, fit="rmd(window = 2)")
    assert error(seen(compile_text(cut_short)), warm_by_hand(adam, window=2)) < 1e-12


@pytest.mark.parametrize("mode", ("rmd", "fmd", "rmd(order = 1)", "leap(gamma = 0.7, teacher = 2)"))
def test_the_first_warm_start_has_no_derivative_in_either_backend(mode: str) -> None:
    made = """recipe first
level top {
  x : real from 0.7
  level fit {
    w : real from warm(x^2)
    minimize 0.5 * (w - x)^2 + 0.1 * w^4
    by sgd(lr = 0.1 * x, momentum = 0.5) for 4 steps
  }
  minimize (w - 1)^2 + x
  by sgd(lr = 0.2) for 3 steps
}"""
    for both in compared(compile_text(scheduled(made, fit=mode)), 2):
        assert both.error < TOLERANCE


# ---- implicit levels around others ---------------------------------------------------------------------------

AROUND = """recipe around
level top {
  x : real[2] from [0.7, -0.4]
  level middle {
    y : real[2] from x
    level low {
      w : real[2] from 0.2 * y
      minimize 0.5 * sqnorm(w - 0.7 * y) + 0.3 * sum(cos(w) * y) + 0.1 * w[0] * w[1] * y[0]
      by sgd(lr = 0.3) for 4 steps
    }
    minimize 0.5 * sqnorm(w - 0.6 * x) + 0.5 * sqnorm(y - x) + 0.2 * y[0] * y[1]
    by sgd(lr = 0.4) until stationary(1e-10) within 100 steps
  }
  minimize sqnorm(y - 1.1) + y[0] * x[1]
  by sgd(lr = 0.1) for 1 step
}"""
BENT = ("rmd(window = 2)", "rmd(order = 1)", "leap(gamma = 0.5, teacher = 1)")


@pytest.mark.parametrize("low", ("rmd", *BENT))
def test_a_direction_that_is_no_gradient_has_a_derivative_to_be_transposed(low: str) -> None:
    """With the products of a symmetric system the hypergradient was off by 0.7 percent."""
    (both,) = compared(compile_text(scheduled(AROUND, low=low, middle="ift")))
    assert both.error < TOLERANCE, (low, both)


@pytest.mark.parametrize("linear", ("cg", "cg(steps = 5)", "nystrom(rank = 2)"))
def test_methods_for_symmetric_systems_are_refused_there(linear: str) -> None:
    assert codes(scheduled(AROUND, low="rmd", middle=f"ift(linear = {linear})")) == []
    for low in BENT:
        assert codes(scheduled(AROUND, low=low, middle=f"ift(linear = {linear})")) == ["B507"]


DRAWN = """recipe sampled
use d = points(count = 4)
level top {
  x : real from 0.7
  level fit {
    w : real from 0.2
    DRAW
    minimize 0.5 * (w - x)^2 + 0.1 * w * mean(READ)
    by sgd(lr = 0.5) until stationary(0.1) within 5 steps
  }
  minimize w^2
  by sgd(lr = 0.1) for 1 step
}"""


@pytest.mark.parametrize(
    ("draw", "read", "refused"),
    (
        ("b ~ d.all[2]", "b.y", []),
        ("b ~ normal(0, 1)[2]", "b", ["B507"]),
        ("b ~ d.all[2]\n e ~ normal(0, 1)", "b.y + e", ["B507"]),
        ("", "x", ["B507"]),
    ),
)
def test_a_batch_without_samples_is_refused(draw: str, read: str, refused: list[str]) -> None:
    """It was read and left out of account."""
    made = DRAWN.replace("DRAW", draw).replace("READ", read)
    assert codes(made) == []
    assert codes(scheduled(made, fit="ift(batch = 3)")) == refused
    assert codes(made.replace("stationary(0.1)", "stationary(0.1, batch = 3)")) == refused


# ---- tests that promise no point -----------------------------------------------------------------------------

STOPPED = """recipe kept
use d = points(count = 3)
level top {
  x : real[2] from [0.9, -0.4]
  r : real in positive from 0.11
  each t in d.all
  level fit {
    w : real[2] START
    minimize 0.5 * sqnorm(w - t.y * x) + 0.1 * sum(w^4)
    by SOLVER until TEST within 6 steps
  }
  minimize mean[t] sqnorm(w - 0.8) + r^2
  by sgd(lr = 0.05) for 1 step
}"""
BOX = "in between(-0.3, 0.6) from 0.2"
FREE = "from x^2"
KEPT = (
    ("pgd(lr = r)", BOX),
    ("frank_wolfe()", BOX),
    ("exponentiated(lr = r)", "in simplex from [0.4, 0.6]"),
    ("sgd(lr = r) with zeroth(samples = 3, radius = 0.01)", FREE),
)


@pytest.mark.parametrize("test", ("below(sqnorm(w - t.y * x), 0.15)", "plateau(sqnorm(w - 0.8), patience = 1)"))
@pytest.mark.parametrize(("solver", "start"), KEPT)
def test_solvers_that_end_at_no_stationary_point_may_stop(solver: str, start: str, test: str) -> None:
    made = STOPPED.replace("SOLVER", solver).replace("START", start).replace("TEST", test)
    (both,) = compared(compile_text(scheduled(made, fit="rmd(checkpoint = 2)")))
    assert both.error < TOLERANCE
    assert worst(gradients(scheduled(made, fit="fmd")), gradients(scheduled(made, fit="rmd"))) < TOLERANCE
    assert codes(made.replace(test, "stationary(0.1)")) == ["B414"]
