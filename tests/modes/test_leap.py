"""The lookahead leap: the value it puts in place of the solution, and the derivative that passes the teacher alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.modes.loops import derivative, solve, stop, tensor
from tests.modes.tools import TOLERANCE, error, gradients, scheduled, worst
from tests.zoo.compiled import compile_text, hypergradient, plan_text
from tests.zoo.problem import points

START = tensor([0.2, -0.1, 0.4])
LAZY = """recipe lazy
use d = points(count = 3)
level meta {
  x : real[3] from [0.2, -0.1, 0.4]
  each t ~ d.all[3]
  level adapt {
    w : real[3] from x
    minimize 0.5 * (dot(w, t.x) - t.y)^2 + 0.1 * sum((w - t.y)^4)
    by BY for 6 steps
  }
  minimize mean[t] (sqnorm(w - 1) + 0.5 * dot(w, t.x)^2)
  by sgd(lr = 0.1) for 2 steps
  report plain = mean[t] (sqnorm(w - 1) + 0.5 * dot(w, t.x)^2) with t ~ d.all[3]
  report longer = mean[t] sqnorm(w) with t ~ d.all[3], adapt.steps = 9
}"""
BY = {"sgd": "sgd(lr = 0.1)", "momentum": "sgd(lr = 0.05, momentum = 0.5)", "adam": "adam(lr = 0.1, beta1 = 0.5)"}
RATES = {"sgd": 0.1, "momentum": 0.05, "adam": 0.1}
Point = Callable[[list[Tensor], int], Tensor]


def tasks() -> list[tuple[Tensor, Tensor]]:
    return list(zip(*map(torch.tensor, points(3)), strict=True))


def inner(c: Tensor, y: Tensor) -> Callable[[Tensor, int], Tensor]:
    return lambda w, _: 0.5 * (w @ c - y) ** 2 + 0.1 * ((w - y) ** 4).sum()


def judged(w: Tensor, c: Tensor) -> Tensor:
    return ((w - 1) ** 2).sum() + 0.5 * (w @ c) ** 2


def iterates(x: Tensor, c: Tensor, y: Tensor, solver: str = "sgd", steps: int = 6) -> list[Tensor]:
    return solve(inner(c, y), x, steps, solver, RATES[solver])


def leapt(solver: str, point: Point) -> dict[str, Tensor]:
    """The mean over tasks of the outer objective at a point made of the iterates of each."""

    def value(x: Tensor) -> Tensor:
        rows = [judged(point(iterates(x, c, y, solver), n), c) for n, (c, y) in enumerate(tasks())]
        return torch.stack(rows).mean()

    return derivative(value, x=START)


@pytest.mark.parametrize("solver", BY)
@pytest.mark.parametrize("gamma", (0.1, 0.75, 1.0))
def test_the_gradient_is_gamma_times_that_at_the_leapt_point(solver: str, gamma: float) -> None:
    """Of first order: nothing of the steps is differentiated."""
    text = scheduled(LAZY.replace("BY", BY[solver]), adapt=f"leap(gamma = {gamma})")
    assert plan_text(text).exactness == "surrogate"
    expected = torch.zeros(3, dtype=torch.float64)
    for c, y in tasks():
        w = gamma * START + (1 - gamma) * iterates(START, c, y, solver)[-1].detach()
        expected += gamma * (2 * (w - 1) + (w @ c) * c) / 3
    assert error(gradients(text)["x"], expected) < TOLERANCE


def test_a_small_gamma_is_first_order_maml() -> None:
    lazy = gradients(scheduled(LAZY.replace("BY", BY["sgd"]), adapt="leap(gamma = 1e-8)"))["x"] / 1e-8
    first = gradients(scheduled(LAZY.replace("BY", BY["sgd"]), adapt="rmd(order = 1)"))["x"]
    assert error(lazy, first) < 1e-7
    none = gradients(scheduled(LAZY.replace("BY", BY["sgd"]), adapt="leap(gamma = 0)"))["x"]
    assert torch.equal(none, torch.zeros_like(none))


@pytest.mark.parametrize("solver", BY)
@pytest.mark.parametrize("teacher", (1, 3))
def test_derivatives_pass_through_the_steps_of_the_teacher(solver: str, teacher: int) -> None:
    text = scheduled(LAZY.replace("BY", BY[solver]), adapt=f"leap(teacher = {teacher}, gamma = 0.8)")
    expected = leapt(solver, lambda w, _: 0.8 * w[teacher] + 0.2 * stop(w[-1]))
    assert worst(gradients(text), expected) < TOLERANCE


def test_the_hull_is_that_of_the_last_iterates() -> None:
    text = scheduled(LAZY.replace("BY", BY["adam"]), adapt="leap(teacher = 2, keep = 3, hull = mean, gamma = 0.6)")
    expected = leapt("adam", lambda w, _: 0.6 * w[2] + 0.4 * stop(sum(w[-3:], tensor(0.0)) / 3))
    assert worst(gradients(text), expected) < TOLERANCE


# ---- choices -------------------------------------------------------------------------------------------------

GAMMAS = (0.1, 0.4, 0.7, 1.0)
HULLS = ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0))


def candidates(w: list[Tensor]) -> list[Tensor]:
    """All points of the grid, smaller gammas first; hull weights for the last two iterates, older one first."""
    hulls = [a * stop(w[-2]) + b * stop(w[-1]) for a, b in HULLS]
    return [g * w[0] + (1 - g) * hull for g in GAMMAS for hull in hulls]


def chosen(score: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[dict[str, Tensor], list[int]]:
    """The hypergradient where every task takes its own best point, and which ones they are."""
    picked = []
    for c, y in tasks():
        scores = torch.stack([score(p, c, y) for p in candidates(iterates(START, c, y))])
        picked.append(int(torch.argmin(scores.detach())))
    return leapt("sgd", lambda w, n: candidates(w)[picked[n]]), picked


GRID = "leap(keep = 2, hull = grid(simplex, 0.5), gamma = grid(0.1, 1, 0.3), choose = CHOOSE)"


def test_every_copy_takes_its_own_point() -> None:
    text = scheduled(LAZY.replace("BY", BY["sgd"]), adapt=GRID.replace("CHOOSE", "min(sqnorm(w - 0.3 * t.x))"))
    expected, picked = chosen(lambda p, c, _: ((p - 0.3 * c) ** 2).sum())
    assert len(set(picked)) > 1, "the copies should disagree, or this shows nothing"
    assert worst(gradients(text), expected) < TOLERANCE
    text = text.replace("min(sqnorm(w - 0.3 * t.x))", "max(-3 * sqnorm(w - 0.3 * t.x))")
    assert worst(gradients(text), expected) < TOLERANCE


def test_ties_go_to_the_smaller_outer_objective_of_the_copy() -> None:
    text = scheduled(LAZY.replace("BY", BY["sgd"]), adapt=GRID.replace("CHOOSE", "max(0 * sum(w))"))
    expected, picked = chosen(lambda p, c, _: judged(p, c))
    assert len(set(picked)) > 1
    assert worst(gradients(text), expected) < TOLERANCE


def test_ties_of_a_maximum_go_to_the_larger_outer_objective() -> None:
    """What is maximised is better where it is larger: the same points, and the same steps, as of its negative."""
    text = scheduled(LAZY.replace("BY", BY["sgd"]), adapt=GRID.replace("CHOOSE", "max(0 * sum(w))"))
    turned = text.replace("minimize mean[t] (sqnorm(w - 1) + 0.5 *", "maximize mean[t] (-sqnorm(w - 1) - 0.5 *")
    assert turned != text
    climbed = {name: -gradient for name, gradient in gradients(turned).items()}
    assert worst(climbed, gradients(text)) < TOLERANCE


def test_the_last_word_is_the_smaller_gamma() -> None:
    """No step moves anything, so that all points and both measures are the same: only gamma is left to see."""
    text = LAZY.replace("BY", "sgd(lr = 1e-300)")
    found = gradients(scheduled(text, adapt="leap(gamma = grid(0.2, 0.8, 0.3), choose = max(0 * sum(w)))"))["x"]
    expected = sum((2 * (START - 1) + (START @ c) * c for c, _ in tasks()), torch.zeros(3, dtype=torch.float64)) / 3
    assert error(found, 0.2 * expected) < TOLERANCE


# ---- reports, Reptile ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ("leap(gamma = 0.5)", GRID.replace("CHOOSE", "min(sum(w))")))
def test_reports_run_the_level_as_written(mode: str) -> None:
    compiled = compile_text(scheduled(LAZY.replace("BY", BY["sgd"]), adapt=mode))
    key = compiled.key()
    state = compiled.phase.begin(key)
    found = {name: report(state, key).item() for name, (_, report) in compiled.phase.reports.items()}
    plain = torch.stack([judged(iterates(START, c, y)[-1], c) for c, y in tasks()]).mean().item()
    longer = torch.stack([(iterates(START, c, y, steps=9)[-1] ** 2).sum() for c, y in tasks()]).mean().item()
    assert found == pytest.approx({"plain": plain, "longer": longer}, rel=1e-12)
    value, _ = hypergradient(compiled)
    assert abs(value - plain) > 1e-5  # training does leap


REPTILE = """recipe reptile
use d = points(count = 3)
level meta {
  x : real[3] from [0.2, -0.1, 0.4]
  each t ~ d.all[3]
  level adapt {
    w : real[3] from x
    minimize 0.5 * (dot(w, t.x) - t.y)^2
    by sgd(lr = 0.1) for 6 steps
  }
  minimize mean[t] 0.5 * sqnorm(x - stop(w))
  by sgd(lr = BETA) for 4 steps
}"""


def trained(text: str) -> Tensor:
    compiled = compile_text(text)
    key = compiled.key()
    state = compiled.phase.begin(key)
    for _ in range(4):
        state, _ = compiled.phase.step(state, key)
    return state.x  # type: ignore[no-any-return]


def test_lazy_reptile_is_reptile_with_another_rate() -> None:
    lazy = trained(scheduled(REPTILE.replace("BETA", "0.5"), adapt="leap(gamma = 0.8)"))
    assert error(lazy, trained(REPTILE.replace("BETA", "0.1"))) < 1e-12


SEARCHED = """recipe searched
level search {
  c : real[2] in between(-1, 1) from 0.5
  each s ~ normal(0, 1)[3]
  level fit {
    y : real[2] from 0
    z : real from 0
    minimize sum((y - c * s)^2) + (z - c[0])^2
    by sgd(lr = 0.1) for 6 steps
  }
  minimize mean[s] (sum((BY * y - 0.3)^2) + (BY * z)^2)
  by cmaes(population = 6) for 4 generations
}"""


def test_a_search_around_a_leap_sees_the_point_leapt_to() -> None:
    """From a start of zero the leap is to 1 - gamma times the solution."""
    lazy = trained(scheduled(SEARCHED.replace("BY", "1"), fit="leap(gamma = 0.7)"))
    assert error(lazy, trained(SEARCHED.replace("BY", "0.3"))) < 1e-12
    assert error(lazy, trained(SEARCHED.replace("BY", "1"))) > 1e-3
