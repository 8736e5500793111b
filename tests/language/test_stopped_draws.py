"""Draws that use what is optimised, under `stop`: the value is that of the step, and no derivative passes."""

from __future__ import annotations

import pytest

from tests.zoo.compiled import compile_text, hypergradient

LIVE = """recipe live
param n = 4
level outer {
    v : real from 0.5
    level live {
        w : real from v
        r ~ normal(stop(w), 0)[n]
        minimize w * mean(r)
        by sgd(lr = 0.1) for 5 steps
    }
    minimize w^2
    by sgd(lr = 0.1) for 5 steps
}
schedule { live : MODE }
"""


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(checkpoint = sqrt)", "rmd(store = residuals)"])
def test_a_draw_sees_the_iterate_of_its_step_and_gives_no_derivative(mode: str) -> None:
    """Without deviation r is w, so w shrinks by 0.9 in each step; the steps as differentiated move it by a constant."""
    value, gradient = hypergradient(compile_text(LIVE.replace("MODE", mode)))
    end = 0.5 * 0.9**5
    assert abs(value - end**2) < 1e-15
    assert abs(gradient["v"].item() - 2 * end) < 1e-15


AROUND = """recipe around
param n = 4
level outer {
    v : real from 0.5
    r ~ normal(stop(v), 0)[n]
    level live {
        w : real from v
        minimize w * mean(r)
        by sgd(lr = 0.1) for 5 steps
    }
    minimize w^2 * mean(r)
    by sgd(lr = 0.1) for 5 steps
}
"""


def test_a_draw_of_the_level_around_gives_no_derivative_either() -> None:
    """w = v - 5 * 0.1 * r and the objective w^2 r, with r = v held constant."""
    value, gradient = hypergradient(compile_text(AROUND))
    assert abs(value - 0.25**2 * 0.5) < 1e-15
    assert abs(gradient["v"].item() - 2 * 0.25 * 0.5) < 1e-15
