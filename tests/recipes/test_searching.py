"""A population search as users run it: metrics, class, files, and the same end after being cut in two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bilevel
from bilevel.residuals import Residuals
from bilevel.run import advance, restore

TEXT = """recipe search
use A : real[2]
level outer {
  c : real[2] from 1
  level fit {
    w : real[2] from 0
    minimize sqnorm(w - c)
    by sgd(lr = 0.2) for 3 steps
  }
  minimize sqnorm(w - A)
  by cmaes(sigma = 0.3, population = 6) for 8 generations
}
"""


def program(dtype: torch.dtype = torch.float64) -> bilevel.Program:
    return bilevel.compile(bilevel.parse(TEXT), A=torch.tensor([0.5, -0.25]), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_search_runs_and_is_of_the_class_values(dtype: torch.dtype, tmp_path: Path) -> None:
    done = program(dtype).run(out=tmp_path / "run")
    assert done.exactness == "values"
    assert min(done.losses) < done.losses[0]
    again = advance(restore(program(dtype), tmp_path / "run", 0), ())
    assert torch.equal(again.state["c"], done.state["c"])


def test_a_step_that_misses_any_residual_is_counted_once() -> None:
    text = """recipe two
level outer {
  x : real from 1
  level a { y : real from 0  minimize (y - x)^2  by sgd(lr = 0.1) until stationary(1e-3) within 900 steps }
  level b { z : real from 0  minimize (z - x)^2  by sgd(lr = 0.1) until stationary(1e-3) within 900 steps }
  minimize y^2 + z^2
  by sgd(lr = 0.1) for 3 steps
}
"""
    found = Residuals(bilevel.compile(bilevel.parse(text)).plan)
    for a, b in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)):
        found.observe({"a.stationarity": a, "b.stationarity": b})
    assert (found.steps, found.biased_steps) == (4, 3)
    assert "3 of 4 steps" in found.exactness


def test_a_report_that_reads_nothing_of_a_member_is_one_number() -> None:
    """A control beside a search: every member would report the same."""
    control = "\n  level control { v : real[2] from 0  minimize sqnorm(v - A)  by sgd(lr = 0.5) for 1 steps }\n"
    text = TEXT.replace("  minimize sqnorm(w - A)", control + "  minimize sqnorm(w - A)")
    text = text.replace("generations\n", "generations\n  report plain = sum(v)\n", 1)
    A = torch.tensor([0.5, -0.25])
    run = bilevel.compile(bilevel.parse(text), A=A, dtype=torch.float64).run()
    values = [value for _, value in run.reports["plain"]]
    assert values and set(values) == {0.25}
