"""B703: variables on the edge of their domain."""

from __future__ import annotations

import pytest
import torch

import bilevel
from bilevel.edges import on_edge
from tests.zoo.compiled import plan_text

TEXT = """recipe edge
level fit {{
  mu : real[2] in unit from 0.9
  sigma : real[3] in positive from 1
  minimize sqnorm(mu - 3) + sum(sigma)
  by mu : {solver}, sigma : sgd(lr = 0.01) for 20 steps
}}
"""


def run(solver: str) -> list[bilevel.errors.Diagnostic]:
    program = bilevel.compile(bilevel.parse(TEXT.format(solver=solver)))
    return program.run().warnings


def test_a_saturated_variable_is_reported() -> None:
    (warning,) = run("sgd(lr = 1000)")
    assert (warning.code, warning.severity) == ("B703", "warning")
    assert str(warning).splitlines()[0] == "warning[B703]: `mu` sits on the edge of its domain (2 of 2 numbers)"


@pytest.mark.parametrize("solver", ["sgd(lr = 0.01)", "pgd(lr = 1.0)"])
def test_one_that_moves_is_not(solver: str) -> None:
    assert run(solver) == []


@pytest.mark.parametrize(
    ("domain", "bounds", "value", "count"),
    [
        ("positive", (), [0.0, 1e-40, 1e-3], 2),
        ("nonnegative", (), [0.0, 1e-40, 1e-3], 2),
        ("simplex", (), [1.0, 0.0, 1e-3], 1),
        ("unit", (), [0.0, 1.0, 0.5], 2),
        ("between", (-1.0, 3.0), [-1.0, 3.0, 2.9], 2),
        ("psd", (), [[1.0, 0.0], [0.0, 0.0]], 1),
        ("orthogonal", (), [[1.0, 0.0], [0.0, 1.0]], 0),
    ],
)
def test_what_counts_as_the_edge(domain: str, bounds: tuple[float, ...], value: list[float], count: int) -> None:
    assert on_edge(torch.tensor(value, dtype=torch.float64), domain, bounds) == count


def test_starts_inside_are_fine_and_kept_domains_may_start_on_the_edge() -> None:
    text = "recipe start\nlevel fit {{ x : real in {} from {}\n minimize x^2\n by {} for 3 steps }}\n"
    plan_text(text.format("unit", "0.5", "sgd(lr = 0.1)"))
    plan_text(text.format("unit", "0", "pgd(lr = 0.1)"))
    for domain, start, solver in (("unit", "0", "sgd"), ("positive", "-1", "sgd"), ("unit", "2", "pgd")):
        with pytest.raises(bilevel.errors.RecipeError) as caught:
            plan_text(text.format(domain, start, f"{solver}(lr = 0.1)"))
        assert caught.value.diagnostics[0].code == "B414"
