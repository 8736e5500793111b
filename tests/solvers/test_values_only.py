"""B509: a level that compares values has no hypergradient to return."""

from __future__ import annotations

import pytest

from tests.zoo.compiled import compile_text, hypergradient, run

TEXT = """recipe search
level tune {
  a : real[2] from 1
  minimize sqnorm(a - 3)
  by cmaes(population = 6, sigma = 0.5) for 3 generations
}
"""


def test_it_runs_and_has_no_hypergradient() -> None:
    compiled = compile_text(TEXT)
    assert run(compiled.phase, compiled.key()).step == 3
    with pytest.raises(ArithmeticError) as caught:
        hypergradient(compiled)
    assert caught.value.code == "B509"  # type: ignore[attr-defined]
    assert str(caught.value) == "`tune` is moved by cmaes, which compares values: it has no hypergradient"
