"""What is drawn inside a level does not depend on how the level is differentiated, nor on what is reported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modes.tools import STORES, TOLERANCE, scheduled, worst
from tests.zoo.compiled import compile_text, hypergradient

# A network with dropped units, a mini-batch, and noise on the start: each from a key of its own.
NOISY = """recipe noisy
use net = mlp(3, 4, 1)
use d = points(count = 12)
level top {
  theta : params(net)
  r : real in positive from 0.05
  each t ~ d.all[3]
  level fit {
    w : params(net) from theta
    b ~ d.all[4]
    kept ~ uniform(0, 1)[4, 3]
    e ~ normal(0, 1)[4]
    minimize mean((net[w](b.x * (1 + sign(kept - 0.3))) - outer(b.y + 0.1 * e, [1]))^2) + 0.01 * t.y * sqnorm(w)
    by SOLVER for 7 steps
  }
  minimize mean[t] mean((net[w](d.all.x) - t.y)^2)
  by sgd(lr = 0.1) for 3 steps
  REPORT
}"""
SOLVER = {"momentum": "sgd(lr = r, momentum = 0.5)", "adam": "adam(lr = r)"}


def text(solver: str, report: str = "") -> str:
    return NOISY.replace("SOLVER", SOLVER[solver]).replace("REPORT", report)


def flat(found: Any) -> dict[str, Tensor]:
    theta = torch.cat([leaf.reshape(-1) for leaf in found["theta"].values()])
    return {"theta": theta, "r": found["r"]}


@pytest.mark.parametrize("solver", SOLVER)
def test_recomputation_meets_the_same_noise(solver: str) -> None:
    """With other noise in recomputation, the modes that compute states again would differ from those that keep them."""
    value, expected = hypergradient(compile_text(text(solver)), 3)
    for mode in (*STORES, "rmd(window = 7)"):
        other, found = hypergradient(compile_text(scheduled(text(solver), fit=mode)), 3)
        assert abs(other - value) < 1e-12 * abs(value), mode
        assert worst(flat(found), flat(expected)) < TOLERANCE, mode


def test_the_derivative_is_that_of_the_noise_that_was_met() -> None:
    """Along a random direction, against differences of the value, which is solved forward only."""
    compiled = compile_text(scheduled(text("momentum"), fit="rmd(checkpoint = sqrt)"))
    key = compiled.key(3)
    state = compiled.phase.begin(key)
    gradient, _ = compiled.phase.hypergradient(state, key)
    torch.manual_seed(0)
    direction = {n: torch.randn_like(leaf) for n, leaf in state.x[0].items()}
    slope = sum(float((gradient[0][n] * direction[n]).sum()) for n in direction)

    def value(step: float) -> float:
        moved = {n: leaf + step * direction[n] for n, leaf in state.x[0].items()}
        return float(compiled.phase.hypergradient(state._replace(x=(moved, state.x[1])), key)[1])

    assert (value(1e-6) - value(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


def test_another_seed_meets_other_noise() -> None:
    compiled = compile_text(text("adam"))
    assert hypergradient(compiled, 3)[0] != hypergradient(compiled, 4)[0]


@pytest.mark.parametrize("mode", ("rmd", "rmd(checkpoint = 2)", "fmd", "leap(teacher = 1, gamma = 0.5)"))
def test_reports_do_not_change_training(mode: str) -> None:
    report = "report seen = mean[t] mean((net[w](d.all.x) - t.y)^2) with t ~ d.all[5], fit.steps = 9 every 1 step"
    ends = []
    for written in ("", report):
        compiled = compile_text(scheduled(text("momentum", written), fit=mode))
        key = compiled.key(3)
        state = compiled.phase.begin(key)
        for _ in range(3):
            for _, function in compiled.phase.reports.values():
                function(state, key)
            state, _ = compiled.phase.step(state, key)
        ends.append(state.x)
    assert all(torch.equal(ends[0][0][n], ends[1][0][n]) for n in ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_noise_is_anew_in_every_outer_step_and_every_copy() -> None:
    """In an objective linear in `c`, the hypergradient in `c` is what was drawn."""
    compiled = compile_text("""recipe anew
use d = points(count = 6)
level top {
  c : real[6] from 0
  each t ~ d.all[3]
  level fit {
    w : real from 0
    e ~ normal(0, 1)
    minimize e * w + 0 * t.y * w
    by sgd(lr = 1) for 1 step
  }
  minimize sum[t] c[t.index] * w
  by sgd(lr = 0.1) for 2 steps
}""")
    key = compiled.key()
    state = compiled.phase.begin(key)
    first, _ = compiled.phase.hypergradient(state, key)
    second, _ = compiled.phase.hypergradient(compiled.phase.step(state, key)[0], key)
    met = [float(v) for v in torch.cat([first, second]) if v != 0]
    assert len(set(met)) == 6
