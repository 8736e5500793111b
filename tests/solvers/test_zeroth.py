"""Gradients estimated from values: the formula, its draws, its derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.backends.torch_func.zeroth import directions_like, zeroth
from tests.solvers.agreement import check_modes, flat, gradient, scheduled
from tests.zoo.compiled import compile_text, plan_text, run

COPIES = """recipe copies
level meta {
  lam : real[3] from 0.4
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] in positive from 0.5
    v : real from s
    e ~ normal(0, 1)[3]
    minimize sqnorm(w - lam * s + 0.1 * e) + (v * sum(w) - 1)^2 + sum(lam^2 * w^3)
    by sgd(lr = 0.02) with zeroth(samples = 3, radius = 1e-2) for 4 steps
  }
  minimize mean[s] (sqnorm(w) + v^2 * s)
  by adam(lr = 0.01) for 2 steps
}
"""
PLAIN = """recipe plain
level meta {
  lam : real[3] from 0.4
  level fit {
    w : real[3] from 0.5
    minimize sum(lam^2 * w^3) + sum(cos(w))
    by sgd(lr = 0.1) with zeroth(samples = 2, radius = 0.05) for 3 steps
  }
  minimize sum(w^2)
  by adam(lr = 0.01) for 2 steps
}
"""


@pytest.mark.parametrize("solver", ["sgd(lr = 0.02)", "adam(lr = 0.1)", "sgd(lr = 0.02, momentum = 0.5, clip = 1)"])
def test_modes_agree(solver: str) -> None:
    check_modes(COPIES.replace("sgd(lr = 0.02)", solver), "fit")


def test_the_hypergradient_is_that_of_the_estimate() -> None:
    """A loop by hand with the same directions: the recipe's value is the estimate's, and so is the derivative."""
    compiled = compile_text(PLAIN)
    keys = fold(fold(fold(compiled.key(), "meta"), 0), "fit")

    def loss(w: Tensor, lam: Tensor) -> Tensor:
        return (lam**2 * w**3).sum() + torch.cos(w).sum()

    def value(lam: Tensor) -> Tensor:
        w = torch.full((3,), 0.5, dtype=torch.float64)
        for step in range(3):
            key = fold(keys, torch.arange(3))[step]
            total = torch.zeros(3, dtype=torch.float64)
            for u in directions_like(w, key, 2):
                total = total + u * (loss(w + 0.05 * u, lam) - loss(w, lam)) / (0.05 * 2)
            w = w - 0.1 * total
        return (w**2).sum()

    expected = grad(value)(torch.full((3,), 0.4, dtype=torch.float64))
    assert float((gradient(compiled) - expected).abs().max()) < 1e-12


def test_the_class_is_that_of_the_mode() -> None:
    choice = plan_text(PLAIN).choices["fit"]
    adjoint: Any = choice.adjoint
    assert (choice.exactness, adjoint.product) == ("exact", "reverse")


def test_the_estimate_of_a_linear_function_is_the_mean_of_projections() -> None:
    """papers/004, eq. 6: exact for linear functions but for the sampling, whatever the radius."""
    slope = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double()
    keys = fold(make_key(0), torch.arange(2))
    found, base = zeroth(lambda x: (slope * x).sum(-1), torch.ones(2, 2).double(), keys, 4_000, 0.3)
    assert base.tolist() == [-1.0, 3.5]
    assert float((found - slope).abs().max()) < 0.2
    u = directions_like(torch.ones(2, 2).double(), keys, 4_000)
    assert torch.allclose(found, ((u * slope).sum(-1, keepdim=True) * u).mean(0), atol=1e-10)


def test_the_error_falls_as_one_over_the_root_of_samples() -> None:
    x = torch.tensor([0.3, -0.2, 0.5]).double()
    truth = torch.cos(x)
    errors = []
    for samples in (10, 1_000):
        keys = fold(make_key(1), torch.arange(50))
        found, _ = zeroth(lambda y: torch.sin(y).sum(-1), x.expand(50, 3), keys, samples, 1e-4)
        errors.append(float((found - truth).square().mean().sqrt()))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3)


def test_copies_and_leaves_have_directions_of_their_own() -> None:
    tree = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}
    keys = fold(make_key(0), torch.arange(2))
    found = directions_like(tree, keys, 4)
    assert found["a"].shape == (4, 2, 3)
    rows = [*found["a"].reshape(-1, 3), *found["b"].reshape(-1, 3)]
    assert len({tuple(row.tolist()) for row in rows}) == 16
    alone = directions_like({"a": torch.zeros(3), "b": torch.zeros(3)}, keys[1], 4)
    assert torch.equal(alone["a"], found["a"][:, 1])


def test_an_outermost_level_may_be_estimated() -> None:
    text = """recipe alone
level fit {
  w : real[2] from 3
  minimize sqnorm(w - 1)
  by sgd(lr = 0.05) with zeroth(samples = 8, radius = 1e-3) for 60 steps
}
"""
    compiled = compile_text(text)
    w = compiled.phase.values(run(compiled.phase, compiled.key()))["w"]
    assert float((w - 1).abs().max()) < 0.05


def test_values_that_jump_may_be_estimated() -> None:
    """B402 asks for a gradient; an estimate has none to ask for."""
    text = PLAIN.replace("sum(cos(w))", "sum(sign(w - 0.4)) + 0 * sum(w)")
    assert bool(torch.isfinite(flat(gradient(scheduled(text, "fit", "rmd")))).all())
