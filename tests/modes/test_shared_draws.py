"""Draws that copies and members of a population share, under implicit levels: value and hypergradient.

The members of a generation are judged on the same draws, and the levels inside them solve their linear systems for all
members and copies at once. Every member by itself, in plain loops, has to give the same value.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel.backends import reference
from tests.backends.agreement import compared
from tests.modes.tools import scheduled
from tests.zoo.compiled import Compiled, compile_text

INNER = """  each t ~ d.all[3]
  n ~ normal(0, 1)[2]
  level fit {
    y : real[2] from 0.3
    e ~ normal(0, 1)[2]
    level low {
      w : real[2] from 0
      minimize 0.5 * sqnorm(w - y * a) + 0.1 * sum(w^4) + 0.2 * t.y * sum(w) + 0.1 * dot(n, w) + 0.05 * dot(e, w)
      by sgd(lr = 0.7) until stationary(1e-12) within 900 steps
    }
    minimize sqnorm(w - t.y) + 0.2 * sqnorm(y - e)
    by sgd(lr = 0.2) for 3 steps
  }
"""
SEARCH = f"""recipe population
use d = points(count = 6)
level search {{
  a : real[2] from [0.4, -0.2]
{INNER}  minimize mean[t] sqnorm(y - n) + 0.1 * sqnorm(a)
  by cmaes(sigma = 0.3, population = 3) for 2 generations
}}"""
DESCENT = SEARCH.replace("cmaes(sigma = 0.3, population = 3) for 2 generations", "sgd(lr = 0.1) for 2 steps")
LINEAR = ("cg(tol = 1e-13, steps = 40)", "exact")


def judged(compiled: Compiled) -> tuple[list[tuple[Tensor, Tensor]], Any]:
    """The members of every generation with their scores, seen inside the emitted module."""
    objective, seen = "def search_objective(", list[tuple[Tensor, Tensor]]()
    assert objective in compiled.text

    def watched(function: Any) -> Any:
        def called(*given: Any) -> Any:
            names = function.__code__.co_varnames
            seen.append((given[names.index("a")], function(*given)))
            return seen[-1][1]

        return called

    module: dict[str, Any] = {"watched": watched, "__name__": "emitted"}
    exec(compile(compiled.text.replace(objective, f"@watched\n    {objective}"), "population.py", "exec"), module)
    (phase,) = module["build"](*compiled.parts.values(), dtype=torch.float64)
    state, key = phase.begin(compiled.key()), compiled.key()
    for _ in range(2):
        state, _ = phase.step(state, key)
    return seen, key


def test_every_member_is_judged_on_the_same_draws() -> None:
    compiled = compile_text(scheduled(SEARCH, low=f"ift(linear = {LINEAR[0]})"))
    seen, key = judged(compiled)
    assert [len(scores) for _, scores in seen] == [3, 3]
    for generation, (members, scores) in enumerate(seen):
        assert len({float(score) for score in scores}) == 3
        for member, score in zip(members, scores, strict=True):
            state = reference.State(generation, {"a": member})
            found = reference.step_values(compiled.plan.program, compiled.plan, compiled.parts, state, key, "search")
            assert float(found.value) == pytest.approx(float(score), rel=1e-9)


@pytest.mark.parametrize("linear", LINEAR)
def test_copies_that_share_a_draw(linear: str) -> None:
    """`n` is one draw for all copies, `e` one for each; the hypergradient passes an implicit level in every step."""
    for both in compared(compile_text(scheduled(DESCENT, low=f"ift(linear = {linear})")), 2):
        assert both.error < 1e-9, both
