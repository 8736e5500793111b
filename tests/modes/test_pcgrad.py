"""`pcgrad` against the projections done by hand, with every mode below it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, permutation
from tests.modes.loops import derivative, solve, tensor
from tests.modes.tools import STORES, TOLERANCE, error, gradients, scheduled
from tests.zoo.compiled import compile_text
from tests.zoo.problem import points

TEXT = """recipe surgery
use d = points(count = COUNT)
level top {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real in positive from 0.05
  each t ~ d.all[COUNT]
  level fit {
    w : real[3] from x
    minimize 0.5 * (dot(w, t.x) - t.y)^2 + 0.1 * sum((w - x)^4)
    by sgd(lr = r, momentum = 0.5) for 5 steps
  }
  minimize REDUCER[t] (sum(w) * t.y + 0.1 * sqnorm(w - t.x))
  by sgd(lr = 0.1) for 2 steps
}"""


def rows(count: int) -> Tensor:
    """The gradient of every task in (x, log r), real[count, 4], in the order in which the tasks are drawn."""
    found = []
    for c, y in zip(*map(torch.tensor, points(count)), strict=True):

        def value(x: Tensor, r: Tensor, c: Tensor = c, y: Tensor = y) -> Tensor:
            w = solve(lambda w, _: 0.5 * (w @ c - y) ** 2 + 0.1 * ((w - x) ** 4).sum(), x, 5, "momentum", r.exp(), 0.5)[
                -1
            ]
            return w.sum() * y + 0.1 * ((w - c) ** 2).sum()

        one = derivative(value, x=[0.2, -0.1, 0.4], r=math.log(0.05))
        found.append(torch.cat([one["x"], one["r"][None]]))
    order = permutation(fold(fold(fold(make_key(0), "top"), 0), "t"), count)
    return torch.stack(found)[order]


def drawn_order_does_not_matter_for(gradient: Tensor, other: Tensor) -> Tensor:
    """One gradient freed of its component against one other."""
    along = gradient @ other
    return gradient - along / (other @ other) * other if along < 0 else gradient


def found(count: int, reducer: str, mode: str) -> Tensor:
    text = TEXT.replace("COUNT", str(count)).replace("REDUCER", reducer)
    parts = gradients(scheduled(text, fit=mode))
    return torch.cat([parts["x"], parts["r"][None]])


@pytest.mark.parametrize("mode", STORES)
def test_two_conflicting_tasks(mode: str) -> None:
    one, two = rows(2)
    assert one @ two < 0, "the tasks should conflict, or this shows nothing"
    expected = (drawn_order_does_not_matter_for(one, two) + drawn_order_does_not_matter_for(two, one)) / 2
    assert error(found(2, "pcgrad", mode), expected) < TOLERANCE
    assert error(found(2, "mean", mode), (one + two) / 2) < TOLERANCE


def projected(gradients: Tensor) -> Tensor:
    """Algorithm 1 of Yu et al. 2020, line by line; the order of the others is the one the package draws."""
    key = fold(fold(fold(make_key(0), "top"), 0), "pcgrad")
    total = torch.zeros(gradients.shape[1], dtype=torch.float64)
    for i in range(len(gradients)):
        g = gradients[i].clone()
        for j in permutation(fold(key, i), len(gradients)).tolist():
            if j != i and g @ gradients[j] < 0:
                g = g - (g @ gradients[j]) / gradients[j].square().sum() * gradients[j]
        total = total + g
    return total / len(gradients)


@pytest.mark.parametrize("mode", ("rmd", "fmd"))
def test_several_tasks_in_the_order_drawn(mode: str) -> None:
    gathered = rows(5)
    conflicts = (gathered @ gathered.T < 0).sum()
    assert conflicts > 2
    assert error(found(5, "pcgrad", mode), projected(gathered)) < TOLERANCE


def test_no_conflict_no_projection() -> None:
    assert torch.equal(drawn_order_does_not_matter_for(tensor([1.0, 0.0]), tensor([1.0, 1.0])), tensor([1.0, 0.0]))


def searched(reducer: str) -> Tensor:
    """The best value of the first generation of a search."""
    text = TEXT.replace("COUNT", "3").replace("REDUCER", reducer)
    text = text.replace("by sgd(lr = 0.1) for 2 steps", "by cmaes(population = 6) for 2 generations")
    compiled = compile_text(text)
    key = compiled.key()
    _, value = compiled.phase.step(compiled.phase.begin(key), key)
    return value


def test_a_search_compares_the_mean() -> None:
    """It has no gradients to project."""
    assert float(searched("pcgrad")) == float(searched("mean")) != float(searched("max"))
