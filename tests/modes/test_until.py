"""Levels solved `until` a test, differentiated through the steps that were taken: every copy to its own count."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.modes.tools import STORES, TOLERANCE, codes, error, gradients, notes, scheduled, worst
from tests.zoo.compiled import compile_text, hypergradient, plan_text
from tests.zoo.sources import points

TEXT = """recipe stopped
use d = points(count = 4)
level top {
  x : real[2] from [0.9, -0.4]
  r : real from 0.11
  each t in d.all
  level fit {
    w : real[2] from x^2
    minimize 0.5 * sqnorm(w - t.y * x) + 0.1 * sum(w^4)
    by SOLVER DURATION
  }
  minimize mean[t] sqnorm(w - 1) + r^2
  by sgd(lr = 0.1) for 2 steps
}"""
SOLVERS = ("sgd(lr = r)", "sgd(lr = r, momentum = 0.4)", "adam(lr = r)")
CAP = 30
Test = Callable[[list[Tensor], Tensor, Tensor], bool]


def below(path: list[Tensor], x: Tensor, y: Tensor) -> bool:
    return float(((path[-1] - y * x) ** 2).sum().detach()) < 0.03


def plateau(path: list[Tensor], x: Tensor, y: Tensor) -> bool:
    """Three steps in a row without a value that is lower by more than 1e-4 of the least before."""
    least, place = math.inf, 0
    for step, w in enumerate(path):
        value = float(((w - 0.6 * y * x) ** 2).sum().detach())
        if value < (least - 1e-4 * abs(least) if math.isfinite(least) else math.inf):
            least, place = value, step
    return len(path) - 1 - place >= 3


def stationary(path: list[Tensor], x: Tensor, y: Tensor) -> bool:
    return float((path[-1] - y * x + 0.4 * path[-1] ** 3).abs().max().detach()) <= 0.05


TESTS: dict[str, Test] = {
    "below(sqnorm(w - t.y * x), 0.03)": below,
    "plateau(sqnorm(w - 0.6 * t.y * x), patience = 3)": plateau,
    "stationary(0.05)": stationary,
}


def text(solver: str, test: str) -> str:
    return TEXT.replace("SOLVER", solver).replace("DURATION", f"until {test} within {CAP} steps")


def stepped(solver: str, t: int, w: Tensor, state: list[Tensor], gradient: Tensor, r: Tensor) -> Tensor:
    """One step of a solver, its state replaced in place of the list."""
    if solver.startswith("adam"):
        state[:] = [0.9 * state[0] + 0.1 * gradient, 0.999 * state[1] + 0.001 * gradient**2]
        first, second = state[0] / (1 - 0.9 ** (t + 1)), state[1] / (1 - 0.999 ** (t + 1))
        return w - r * first / torch.sqrt(second + 1e-16)
    momentum = 0.4 if "momentum" in solver else 0.0
    state[:] = [momentum * state[0] + gradient, state[1]]
    return w - r * state[0]


def by_hand(solver: str, test: Test) -> tuple[dict[str, Tensor], list[int]]:
    """The hypergradient of a loop that autograd walks through, copy by copy, and the count of each."""
    x = torch.tensor([0.9, -0.4], dtype=torch.float64, requires_grad=True)
    r = torch.tensor(0.11, dtype=torch.float64, requires_grad=True)
    total, counts = r**2, []
    for y in points(count=4).all.y:
        path, state = [x**2], [torch.zeros(2, dtype=torch.float64)] * 2
        while len(path) <= CAP and not test(path, x, y):
            w = path[-1]
            path.append(stepped(solver, len(path) - 1, w, state, w - y * x + 0.4 * w**3, r))
        total = total + ((path[-1] - 1) ** 2).sum() / 4
        counts.append(len(path) - 1)
    found = torch.autograd.grad(total, (x, r))
    return {"x": found[0], "r": found[1]}, counts


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_mode_follows_each_copy_to_its_own_count(solver: str, test: str) -> None:
    expected, counts = by_hand(solver, TESTS[test])
    assert len(set(counts)) > 2 and max(counts) > 4
    for mode in STORES:
        assert worst(gradients(scheduled(text(solver, test), fit=mode)), expected) < TOLERANCE, mode


@pytest.mark.parametrize("test", TESTS)
def test_difference_quotients_agree_where_no_count_changes(test: str) -> None:
    compiled = compile_text(scheduled(text("sgd(lr = r)", test), fit="rmd"))
    key = compiled.key()
    state = compiled.phase.begin(key)
    gradient, _ = compiled.phase.hypergradient(state, key)

    def value(step: float) -> float:
        x, r = state.x
        return float(compiled.phase.hypergradient(state._replace(x=(x + step * ALONG, r + step)), key)[1])

    quotient = (value(1e-5) - value(-1e-5)) / 2e-5
    product = float((gradient[0] * ALONG).sum() + gradient[1])
    assert abs(quotient - product) < 1e-8 * max(1.0, abs(product))


ALONG = torch.tensor([0.7, -1.3], dtype=torch.float64)
ONE = """recipe alone
level top {
  x : real from 0.7
  level fit {
    w : real in positive from x^2
    e ~ normal(0, 0.1)
    minimize (w - x)^2 * w + e * w
    by adam(lr = 0.15 * x) DURATION
  }
  minimize (w - 2)^2
  by sgd(lr = 0.1) for 2 steps
}"""


@pytest.mark.parametrize("mode", (*STORES, "rmd(order = 1)"))
def test_one_copy_is_a_level_of_as_many_steps(mode: str) -> None:
    """`w` meets the bound after three steps, with a draw in every step and a domain."""
    stopped = ONE.replace("DURATION", "until below((w - x)^2, 0.002) within 20 steps")
    for count in (2, 4):
        counted = scheduled(ONE.replace("DURATION", f"for {count} steps"), fit="rmd")
        assert worst(gradients(scheduled(stopped, fit="rmd")), gradients(counted)) > 1e-3
    counted = scheduled(ONE.replace("DURATION", "for 3 steps"), fit=mode)
    assert worst(gradients(scheduled(stopped, fit=mode)), gradients(counted)) < 1e-12


def test_a_copy_at_its_start_takes_no_step() -> None:
    for mode in STORES:
        found = gradients(scheduled(text("sgd(lr = r)", "below(sqnorm(w), 100)"), fit=mode))
        assert error(found["r"], torch.tensor(0.22, dtype=torch.float64)) < 1e-12


def test_values_that_are_no_numbers_count_as_no_progress() -> None:
    """`below` goes on to its cap and `plateau` stops where it has no number to compare."""
    forever = ONE.replace("DURATION", "until below(log(-w), 5) within 3 steps")
    patient = ONE.replace("DURATION", "until plateau(log(-w), patience = 3) within 9 steps")
    three = gradients(ONE.replace("DURATION", "for 3 steps"))
    assert worst(gradients(forever), three) < 1e-12 and worst(gradients(patient), three) < 1e-12


def test_iterates_and_notes() -> None:
    made = text("sgd(lr = r)", "stationary(0.05)")
    assert 0 < notes(compile_text(scheduled(made, fit="rmd")))["fit.stationarity"] <= 0.05
    assert notes(compile_text(text("sgd(lr = r)", "below(sqnorm(w - 1), 0.1)"))) == {}
    begun = made.replace("sqnorm(w - 1)", "sqnorm(w - w@0)")
    assert worst(gradients(scheduled(begun, fit="rmd")), gradients(scheduled(begun, fit="fmd"))) < 1e-12


def test_what_is_not_differentiated_stops_as_well() -> None:
    """A level that is only run, and what its test reads of the levels around it."""
    made = text("sgd(lr = 0.1)", "below(sqnorm(w - t.y * x), 0.03)").replace(
        "minimize mean[t] sq", "minimize stop(mean[t] sq"
    )
    made = made.replace("- 1) + r^2", "- 1)) + r^2 + sum(x)")
    one, two = hypergradient(compile_text(made)), by_hand("sgd", below)
    assert plan_text(made).choices["fit"].mode == "none" and two[1]
    assert error(one[1]["x"], torch.ones(2, dtype=torch.float64)) < 1e-12


# ---- inside each other ---------------------------------------------------------------------------------------

NESTED = """recipe nested
level top {
  x : real from 0.7
  each t ~ normal(1, 0.3)[3]
  level middle {
    y : real from x^2
    level low {
      w : real from 0.1
      minimize 0.5 * (w - x * y * t)^2 + 0.1 * w^4
      by sgd(lr = 0.2, momentum = 0.3) until LOW
    }
    minimize (w - 1)^2 + (y - x)^2
    by adam(lr = 0.1) until plateau((y - 1)^2, patience = 1) within 5 steps
  }
  minimize mean[t] (y - 2)^2
  by sgd(lr = 0.1) for 2 steps
}"""


@pytest.mark.parametrize("low", ("below((w - x * y)^2, 0.05) within 12 steps", "stationary(0.05) within 12 steps"))
def test_modes_go_together(low: str) -> None:
    made = NESTED.replace("LOW", low)
    expected = gradients(scheduled(made, low="rmd", middle="rmd"))
    for inner, outer in (("rmd(store = residuals)", "fmd"), ("fmd", "rmd(checkpoint = 2)")):
        assert worst(gradients(scheduled(made, low=inner, middle=outer)), expected) < TOLERANCE, (inner, outer)


# ---- classes and refusals ------------------------------------------------------------------------------------

STOPPED = text("sgd(lr = r)", "below(sqnorm(w - 1), 0.1)")
POINT = text("sgd(lr = r)", "stationary(0.05)").replace(" + r^2", "")


def test_classes() -> None:
    assert plan_text(STOPPED).choices["fit"].mode == "rmd" and plan_text(STOPPED).exactness == "exact"
    assert plan_text(scheduled(STOPPED, fit="fmd")).exactness == "exact"
    assert plan_text(scheduled(STOPPED, fit="rmd(order = 1)").replace("t.y * x)", "t.y)")).exactness == "biased"
    assert plan_text(scheduled(POINT, fit="rmd(checkpoint = 3)")).exactness == "biased"


def test_auto_goes_as_far_as_it_is_allowed() -> None:
    assert codes(POINT) == ["B404"]
    assert codes(scheduled(POINT, fit="auto(allow = exact)")) == ["B404"]
    chosen = plan_text(scheduled(POINT, fit="auto(allow = biased)"))
    assert (chosen.choices["fit"].mode, chosen.exactness) == ("rmd", "biased")
    fixed = scheduled(text("sgd(lr = 0.1)", "stationary(0.05)"), fit="auto(allow = biased)")
    assert (plan_text(fixed).choices["fit"].mode, plan_text(fixed).exactness) == ("ift", "exact")
    assert codes(scheduled(POINT, fit="auto(allow = everything)")) == ["B506"]


@pytest.mark.parametrize(
    ("made", "mode", "code"),
    (
        (STOPPED, "ift", "B507"),
        (STOPPED, "leap(gamma = 0.5)", "B507"),
        (STOPPED, "rmd(window = 3)", "B506"),
        (POINT, "rmd(window = 3)", "B506"),
        (POINT, "rmd(window = 3, update = each)", "B506"),
        (STOPPED.replace("sqnorm(w - 1) + r^2", "sqnorm(w@2 - 1) + r^2"), "rmd", "B505"),
        (STOPPED.replace("sqnorm(w - 1) + r^2", "sqnorm(w@2 - 1) + r^2"), "fmd", "B505"),
    ),
)
def test_what_needs_a_number_of_steps_is_refused(made: str, mode: str, code: str) -> None:
    assert codes(scheduled(made, fit=mode)) == [code]


def test_an_iterate_of_a_level_that_nobody_differentiates_needs_a_number_of_steps_too() -> None:
    stopped = STOPPED.replace("sqnorm(w - 1) + r^2", "stop(sqnorm(w@2 - 1)) + sum(x) + r^2")
    assert codes(stopped) == ["B505"]
    assert codes(scheduled(stopped, fit="auto")) == ["B508"]


@pytest.mark.parametrize(
    ("test", "code"),
    (
        ("below(sqnorm(w))", "B309"),
        ("plateau(sqnorm(w))", "B309"),
        ("plateau(sqnorm(w), patience = 0)", "B309"),
        ("plateau(sqnorm(w), patience = 1.5)", "B309"),
        ("below(sqnorm(w), 1, 2)", "B309"),
        ("stationary(every = 3)", "B309"),
        ("stationary(-1)", "B309"),
        ("below(w, 1)", "B302"),
    ),
)
def test_what_a_test_needs(test: str, code: str) -> None:
    assert codes(text("sgd(lr = 0.1)", test)) == [code]


def test_a_test_reads_no_level_inside() -> None:
    made = NESTED.replace("LOW", "stationary(0.05) within 12 steps").replace("plateau((y - 1)^2", "plateau((w - 1)^2")
    assert "B507" in codes(made)
