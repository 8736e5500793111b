"""Scalar recipes against sympy: the emitted module, and the reference backend, to 1e-12."""

from __future__ import annotations

import pytest

from bilevel.backends import reference
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.symbolic import rational, unroll
from tests.zoo.compiled import compile_text, hypergradient, plan_text

RATE = """recipe rate_and_start
level top {
  x : real from 0.7
  r : real from 0.1
  level fit {
    w : real from x^2
    minimize 0.5 * (w - x)^2 + 0.25 * w^4
    by sgd(lr = r) for 3 steps
  }
  minimize (w - 1)^2 + x * w
  by sgd(lr = 0.1) for 1 step
}"""
MOMENTUM = """recipe with_momentum
level top {
  x : real from 0.4
  m : real from 0.5
  level fit {
    w : real from 2
    v : real from x
    minimize 0.5 * (w - x * v)^2 + 0.1 * v^2
    by w : sgd(lr = 0.2, momentum = m), v : sgd(lr = 0.3) for 4 steps
  }
  minimize w^2 * v
  by sgd(lr = 0.1) for 1 step
}"""
THREE = """recipe three
level top {
  x : real from 0.7
  level middle {
    y : real from x
    level low {
      z : real from y
      minimize (z - x * y)^2 + 0.1 * z^3
      by sgd(lr = 0.1, momentum = 0.5) for 2 steps
    }
    minimize (z - 1)^2 * y + 0.1 * (y - x)^2
    by sgd(lr = 0.05) for 2 steps
  }
  minimize (y - 2)^2 + x^2 * y
  by sgd(lr = 0.1) for 1 step
}"""
ITERATES = """recipe path
level top {
  x : real from 0.3
  level fit {
    w : real from 1
    minimize 0.5 * k * (w - x)^2
    by sgd(lr = 0.1) for k in 1..4 steps
  }
  minimize sum[k in 0..4] ((k + 1) * (w@k)^2) + w * x
  by sgd(lr = 0.1) for 1 step
}"""
RESTRICTED = """recipe restricted
param scale = 0.5
let f(a, b) = (a - b)^2 * scale
level top {
  x : real in positive from 0.4
  c : real in between(-1, 1) from 0.25
  level fit {
    u : real in unit from 0.3
    maximize -f(u, x) - 0.1 * tanh(u * c)
    by sgd(lr = x) for 3 steps
  }
  maximize -u^2 * x + exp(-c) * u
  by sgd(lr = 0.1) for 1 step
}"""
SIDE = """recipe beside
level top {
  x : real from 0.4
  level first {
    w : real from 1
    minimize 0.5 * (w - x)^2 + 0.1 * cos(w)
    by sgd(lr = 0.3) for 3 steps
  }
  level second {
    u : real from w
    minimize 0.5 * (u - x * w)^2
    by sgd(lr = w / 4) for 2 steps
  }
  minimize (u - 1)^2 + 0.1 * w
  by sgd(lr = 0.1) for 1 step
}"""
RECIPES = (RATE, MOMENTUM, THREE, ITERATES, RESTRICTED, SIDE)


@pytest.mark.parametrize("text", RECIPES, ids=lambda text: text.split()[1])
def test_emitted_and_reference_agree_with_the_formula(text: str) -> None:
    compiled = compile_text(text)
    phase = compiled.phase
    exact, expected = unroll(compiled.plan.program).numbers()
    value, found = hypergradient(compiled)
    start = reference.begin(compiled.plan, compiled.parts, compiled.key(), phase.name, {})
    oracle = reference.step_values(
        compiled.plan.program, compiled.plan, compiled.parts, start, compiled.key(), phase.name
    )
    assert value == pytest.approx(exact, rel=1e-12)
    for name, number in expected.items():
        assert found[name].item() == pytest.approx(number, rel=1e-12), name
        assert oracle.hypergradient[name].item() == pytest.approx(number, rel=1e-12), name


def test_literals_are_exact_and_so_is_the_answer() -> None:
    assert rational(0.1) * 10 == 1
    found = unroll(plan_text(RATE).program).hypergradient()
    assert all(value.is_Rational for value in found.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RATE.replace("sgd(lr = r)", "adam(lr = r)"), "adam in formulas"),
        (
            RATE.replace("w : real from x^2", "w : real[2] from x^2")
            .replace("w^4", "sum(w^4)")
            .replace("(w - x)^2", "sqnorm(w - x)")
            .replace("(w - 1)^2 + x * w", "sqnorm(w)"),
            "variables that are no single numbers",
        ),
    ],
)
def test_what_is_no_formula_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        unroll(plan_text(text).program)
