"""The class of every hypergradient, as the table of the language reference has it, and what each mode refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bilevel.plan import Plan
from tests.modes.loops import derivative
from tests.modes.tools import TOLERANCE, codes, gradients, scheduled, worst
from tests.zoo.compiled import plan_text

TEXT = """recipe classed
use d = points(count = 4)
level top {
  x : real[3] from [0.2, -0.1, 0.4]
  level fit {
    w : real[3] from WARM
    DRAW
    minimize 0.5 * sqnorm(w - x) + 0.1 * sum(w^4)TERM
    by BY
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}"""
STEPS = "sgd(lr = 0.1) for 8 steps"
UNTIL = "sgd(lr = 0.1) until stationary(1e-8) within 500 steps"


def text(by: str, mode: str | None = None, drawn: bool = False, start: str = "x") -> str:
    made = TEXT.replace("BY", by).replace("WARM", start)
    made = made.replace("DRAW", "b ~ d.all[2]" if drawn else "").replace(
        "TERM", " + mean(b.y) * sum(w)" if drawn else ""
    )
    return made if mode is None else scheduled(made, fit=mode)


ROWS: tuple[tuple[str, str | None, bool, str], ...] = (
    # for: exact, with whatever state and draws
    (STEPS, None, False, "exact"),
    (STEPS, "rmd", False, "exact"),
    (STEPS, "rmd(checkpoint = 3)", False, "exact"),
    (STEPS, "rmd(checkpoint = sqrt)", False, "exact"),
    (STEPS, "rmd(checkpoint = binomial)", False, "exact"),
    (STEPS, "rmd(checkpoint = auto)", False, "exact"),
    (STEPS, "rmd(store = iterates)", False, "exact"),
    (STEPS, "rmd(store = residuals)", False, "exact"),
    (STEPS, "fmd", False, "exact"),
    (STEPS, "rmd", True, "exact"),
    ("sgd(lr = 0.1, momentum = 0.5) for 8 steps", "fmd", True, "exact"),
    ("adam(lr = 0.1) for 8 steps", "rmd(checkpoint = sqrt)", True, "exact"),
    (STEPS, "rmd(window = 8)", False, "exact"),
    (STEPS, "rmd(window = 9)", False, "exact"),
    # for: biased
    (STEPS, "rmd(order = 1)", False, "biased"),
    (STEPS, "rmd(window = 7)", False, "biased"),
    (STEPS, "rmd(order = 1, window = 3)", False, "biased"),
    (STEPS, "ift", False, "biased"),
    (STEPS, "ift(linear = exact)", False, "biased"),
    (STEPS, "ift(linear = cg(tol = 1e-9, steps = 30))", False, "biased"),
    # for: surrogate
    (STEPS, "rmd(window = 4, update = each)", False, "surrogate"),
    (STEPS, "rmd(order = 1, window = 4, update = each)", False, "surrogate"),
    (STEPS, "leap(gamma = 0.5)", False, "surrogate"),
    (STEPS, "leap(teacher = 2, gamma = 0.5)", False, "surrogate"),
    # until stationary, no draws
    (UNTIL, None, False, "exact"),
    (UNTIL, "ift", False, "exact"),
    (UNTIL, "ift(linear = cg)", False, "exact"),
    (UNTIL, "ift(linear = cg(tol = 1e-9))", False, "exact"),
    (UNTIL, "ift(linear = cg(tol = 1e-9, steps = 30))", False, "exact"),
    (UNTIL, "ift(linear = gmres(tol = 1e-9))", False, "exact"),
    (UNTIL, "ift(linear = neumann(tol = 1e-9))", False, "exact"),
    (UNTIL, "ift(linear = exact)", False, "exact"),
    # until stationary, but the system is not solved to a tolerance, or there are draws
    (UNTIL, "ift(linear = cg(steps = 5))", False, "biased"),
    (UNTIL, "ift(linear = gmres(steps = 5))", False, "biased"),
    (UNTIL, "ift(linear = neumann(terms = 5))", False, "biased"),
    (UNTIL, "ift(linear = neumann(terms = 5, scale = 0.1))", False, "biased"),
    (UNTIL, "ift(linear = nystrom)", False, "biased"),
    (UNTIL, "ift(linear = nystrom(rank = 3))", False, "biased"),
    (UNTIL, "ift", True, "biased"),
    (UNTIL, "ift(linear = exact)", True, "biased"),
    # next, es
    ("next(0.5 * w + 0.1 * x) for 8 steps", "rmd", False, "exact"),
    ("next(0.5 * w + 0.1 * x) for 8 steps", "fmd", False, "exact"),
    ("next(0.5 * w + 0.1 * x) until stationary(1e-9) within 99 steps", None, False, "exact"),
    (
        "next(0.5 * w + 0.1 * x) until stationary(1e-9) within 99 steps",
        "ift(linear = gmres(steps = 2))",
        False,
        "biased",
    ),
    (STEPS, "es", False, "biased"),
    (STEPS, "es(samples = 4, sigma = 0.1)", False, "biased"),
    (UNTIL, "es", False, "biased"),
)


@pytest.mark.parametrize(("by", "mode", "drawn", "expected"), ROWS, ids=[f"{r[0]}-{r[1]}-{r[2]}" for r in ROWS])
def test_the_class_is_that_of_the_table(by: str, mode: str | None, drawn: bool, expected: str) -> None:
    made = text(by, mode, drawn)
    if by.startswith("next"):
        made = "\n".join(line for line in made.splitlines() if "minimize 0.5" not in line)
    plan = plan_text(made)
    assert plan.choices["fit"].exactness == expected
    assert plan.exactness == expected
    assert plan.choices["fit"].pinned == (mode is not None)


def test_a_closed_form_is_exact() -> None:
    made = text("closed_form").replace(" + 0.1 * sum(w^4)", "")
    assert plan_text(made).choices["fit"].exactness == "exact"
    assert plan_text(scheduled(made, fit="closed_form")).choices["fit"].mode == "closed_form"


@pytest.mark.parametrize("mode", ("rmd", "fmd"))
def test_until_unrolled_is_biased(mode: str) -> None:
    assert plan_text(text(UNTIL, mode)).choices["fit"].exactness == "biased"


# ---- several levels ------------------------------------------------------------------------------------------

THREE = """recipe worst
level top {
  x : real from 0.7
  level middle {
    y : real from x
    level low {
      z : real from y
      minimize (z - x * y)^2
      by sgd(lr = 0.1) for 4 steps
    }
    minimize (z - 1)^2 + 0.1 * (y - x)^2
    by sgd(lr = 0.05) for 4 steps
  }
  minimize (y - 2)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}"""
ORDER = {"exact": 0, "biased": 1, "surrogate": 2}


@pytest.mark.parametrize(
    "low", (("rmd", "exact"), ("rmd(order = 1)", "biased"), ("leap(teacher = 1, gamma = 0.5)", "surrogate"))
)
@pytest.mark.parametrize(
    "middle", (("fmd", "exact"), ("rmd(window = 2)", "biased"), ("leap(teacher = 1, gamma = 0.5)", "surrogate"))
)
def test_the_plan_has_the_worst_class_of_any_path(low: tuple[str, str], middle: tuple[str, str]) -> None:
    plan = plan_text(scheduled(THREE, low=low[0], middle=middle[0]))
    assert (plan.choices["low"].exactness, plan.choices["middle"].exactness) == (low[1], middle[1])
    assert plan.exactness == max(low[1], middle[1], key=ORDER.__getitem__)


def test_forward_only_levels_leave_the_class_alone() -> None:
    plan = plan_text(THREE.replace("(z - 1)^2", "stop((z - 1)^2) * y"))
    assert (plan.choices["low"].mode, plan.choices["low"].exactness) == ("none", "-")
    assert plan.exactness == "exact"


def test_auto_chooses_exact_modes_only() -> None:
    made = (text(STEPS), text(UNTIL), THREE, text("closed_form").replace(" + 0.1 * sum(w^4)", ""))
    plans: list[Plan] = [plan_text(one) for one in made]
    assert all(p.exactness == "exact" and not any(c.pinned for c in p.choices.values()) for p in plans)


# ---- refusals ------------------------------------------------------------------------------------------------

LOSS = """recipe learned_loss
level tune {
  c : real from 0.5
  level fit {
    w : real from 2
    minimize c * w^2 + w
    by sgd(lr = 0.1) for 4 steps
  }
  minimize (w - 1)^2
  by sgd(lr = 0.1) for 2 steps
}"""
RATE = """recipe learned_rate
level tune {
  r : real from 0.1
  level fit {
    w : real from 2
    minimize (w - 1)^4
    by sgd(lr = r) BY
  }
  minimize w^2
  by sgd(lr = 0.1) for 2 steps
}"""
INITIAL = RATE.replace("r : real from 0.1", "r : real from 2").replace("w : real from 2", "w : real from r")
PATH = LOSS.replace("minimize (w - 1)^2\n", "minimize (w@2 - 1)^2\n")


@pytest.mark.parametrize(
    ("made", "mode", "code"),
    (
        (LOSS, "rmd(order = 1)", "B413"),
        (LOSS, "rmd(order = 1, window = 2)", "B413"),
        (RATE.replace("BY", "for 8 steps"), "ift", "B404"),
        (RATE.replace("BY", "until stationary(1e-6) within 99 steps"), "ift", "B404"),
        (RATE.replace("BY", "until stationary(1e-6) within 99 steps"), "auto", "B404"),
        (INITIAL.replace("lr = r", "lr = 0.1").replace("BY", "for 8 steps"), "ift", "B404"),
        (INITIAL.replace("lr = r", "lr = 0.1").replace("BY", "for 8 steps"), "rmd(window = 7)", "B404"),
        (LOSS, "leap(gamma = 0.5)", "B405"),
        (RATE.replace("BY", "for 8 steps"), "leap(gamma = 0.5)", "B405"),
        (LOSS, "leap(teacher = 1, keep = 4, gamma = 0.5, hull = mean)", "B503"),
        (LOSS, "leap(teacher = 4, gamma = 0.5)", "B503"),
        (PATH, "ift", "B505"),
        (LOSS, "leap(teacher = 1)", "B506"),
        (LOSS, "leap(teacher = 1, gamma = 1.5)", "B506"),
        (LOSS, "leap(teacher = 1, gamma = grid(0.1, 0.9, 0.1))", "B506"),
        (LOSS, "leap(teacher = 1, keep = 2, gamma = 0.5)", "B506"),
        (LOSS, "rmd(window = 3, update = each)", "B506"),
        (LOSS, "rmd(window = 2, update = each, store = residuals)", "B506"),
        (LOSS, "rmd(order = 3)", "B506"),
        (LOSS, "rmd(window = 0)", "B506"),
        (LOSS, "rmd(checkpoint = many)", "B506"),
        (LOSS, "ift(linear = lu)", "B506"),
        (LOSS, "ift(linear = cg(terms = 3))", "B506"),
        (LOSS, "ift(linear = cg(tol = 0))", "B506"),
        (LOSS, "none", "B507"),
    ),
)
def test_a_mode_that_cannot_be_used_says_why(made: str, mode: str, code: str) -> None:
    assert codes(scheduled(made, fit=mode)) == [code]


def test_what_order_one_refuses_would_be_zero() -> None:
    """B413 stands for a number: with the gradient held no path leads from `c` to the loss, and all exact modes see one."""
    exact = derivative(lambda c: learned_loss(c, lambda g: g), c=0.5)
    held = derivative(lambda c: learned_loss(c, lambda g: g.detach()) + 0 * c, c=0.5)
    assert float(held["c"]) == 0.0 and abs(float(exact["c"])) > 1e-2
    for mode in ("rmd", "fmd"):
        assert worst(gradients(scheduled(LOSS, fit=mode)), exact) < TOLERANCE


def learned_loss(c: Tensor, hold: Callable[[Tensor], Tensor]) -> Tensor:
    """`LOSS` by hand."""
    w = torch.tensor(2.0, dtype=torch.float64)
    for _ in range(4):
        w = w - 0.1 * hold(2 * c * w + 1)
    return (w - 1) ** 2


@pytest.mark.parametrize("mode", ("leap(teacher = 1, gamma = 0.5)", "closed_form", "es"))
def test_modes_that_know_no_iterates_refuse_them(mode: str) -> None:
    assert codes(scheduled(PATH, fit=mode)) != []


def test_order_one_keeps_a_variable_with_another_path() -> None:
    """`c` also stands in the outer objective: its path there is left, and nothing is refused."""
    made = scheduled(LOSS.replace("minimize (w - 1)^2", "minimize (w - 1)^2 + c^2"), fit="rmd(order = 1)")
    assert plan_text(made).exactness == "biased"


DEEP = """recipe deep
level a {
  x : real from 0.7
  level b {
    y : real from x
    level c {
      z : real from 0.5 * y
      level d {
        u : real from z
        minimize 0.5 * (u - x * z * y)^2 + 0.1 * u^4
        by sgd(lr = 0.3) DURATION
      }
      minimize 0.5 * (u - 1)^2 + 0.1 * (z - y)^2
      by sgd(lr = 0.3) for 2 steps
    }
    minimize (z - 0.3)^2 + 0.2 * (y - x)^2
    by sgd(lr = 0.2) for 2 steps
  }
  minimize (y - 2)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}"""


def test_an_implicit_level_that_needs_its_second_derivative_is_refused() -> None:
    """It carries its first derivative; under three others the second is asked for, and would be wrong."""
    assert codes(DEEP.replace("DURATION", "until stationary(1e-9) within 99 steps")) == ["B511"]
    assert plan_text(DEEP.replace("DURATION", "for 3 steps")).exactness == "exact"
