"""Solvers that keep a domain themselves, and rates that change over the steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from bilevel.backends.torch_func.keepers import corner, exponentiated, frank_wolfe, onto_simplex, pgd
from bilevel.backends.torch_func.rates import cosine_rate, linear_rate
from tests.solvers.agreement import check_modes, gradient, scheduled
from tests.zoo.compiled import compile_text, plan_text, run

A = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)

KEEP = """recipe keep
use A : real[3, 3]
level meta {{
  lam : real[3] from uniform(0.5, 1.5)
  each s ~ normal(0, 1)[2]
  level fit {{
    w : real[3] in {domain} from sigmoid(lam) / sum(sigmoid(lam))
    minimize quad(A, w - lam * s) + sum(lam * w^3)
    by {solver} for 4 steps
  }}
  minimize mean[s] (quad(A, w) + sum(lam * w^2))
  by adam(lr = 0.05) for 3 steps
}}
"""


@pytest.mark.parametrize(
    ("domain", "solver"),
    [
        ("simplex", "exponentiated(lr = 0.3)"),
        ("simplex", "exponentiated(lr = 0.3, clip = 0.4)"),
        ("positive", "exponentiated(lr = 0.1)"),
        ("simplex", "pgd(lr = 0.05)"),
        ("simplex", "pgd(lr = 0.05, clip = 0.3)"),
        ("between(0, 0.5)", "pgd(lr = 0.005)"),
        ("nonnegative", "pgd(lr = 0.02)"),
        ("unit", "pgd(lr = 0.02, sign = 1)"),
        ("simplex", "frank_wolfe()"),
        ("positive", "sgd(lr = 0.1, clip = 0.2)"),
        ("positive", "adam(lr = cosine(0.1))"),
        ("simplex", "sgd(lr = linear(0.1), momentum = 0.5)"),
    ],
)
def test_modes_agree(domain: str, solver: str) -> None:
    check_modes(KEEP.format(domain=domain, solver=solver), "fit", {"A": A})


def test_a_domain_that_is_kept_has_no_free_coordinates() -> None:
    (level,) = plan_text(KEEP.format(domain="between(0, 0.5)", solver="pgd(lr = 0.1)")).program.levels[0].levels
    assert level.variables[0].domain is None
    assert level.variables[0].kept == ("between", (0.0, 0.5))
    free = plan_text(KEEP.format(domain="between(0, 0.5)", solver="sgd(lr = 0.1)")).program.levels[0].levels[0]
    assert (free.variables[0].domain, free.variables[0].kept) == ("between", None)


# ---- the steps -----------------------------------------------------------------------------------------------


def test_the_projection_onto_the_simplex_is_the_closest_point() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.randn(6, 4, dtype=torch.float64, generator=generator)
    found = onto_simplex(points)
    assert torch.allclose(found.sum(-1), torch.ones(6).double()) and float(found.min()) >= 0
    # <p - x, q - x> <= 0 for every corner q decides it: the simplex is convex.
    corners = torch.eye(4, dtype=torch.float64)
    products = ((points - found)[:, None] * (corners - found[:, None])).sum(-1)
    assert float(products.max()) < 1e-12
    inside = torch.tensor([0.2, 0.3, 0.5]).double()
    assert torch.allclose(onto_simplex(inside), inside, atol=1e-15)


def test_the_projection_has_the_derivative_of_its_face() -> None:
    point = torch.tensor([0.9, 0.6, -2.0]).double()
    expected = torch.tensor([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]).double()
    assert torch.allclose(jacrev(onto_simplex)(point), expected)


def test_steps_by_hand() -> None:
    x, g = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([1.0, -1.0, 30.0]).double()
    moved, state = exponentiated(x, (), g, 0, 0.1)
    weights = x * torch.exp(-0.1 * g)
    assert torch.allclose(moved, weights / weights.sum()) and state == ()
    assert bool(torch.isfinite(exponentiated(x, (), 1e6 * g, 0, 1.0)[0]).all())
    assert pgd(x, (), g, 0, 0.1, 1, domain="unit")[0].tolist() == pytest.approx([0.1, 0.4, 0.4])
    assert pgd(x, (), g, 0, 0.1, domain="between", bounds=(0.0, 0.35))[0].tolist() == pytest.approx([0.1, 0.35, 0.0])
    assert pgd(x, (), g, 0, 0.1)[0].tolist() == pytest.approx([0.1, 0.4, -2.5])
    assert frank_wolfe(x, (), g, 0)[0].tolist() == [0.0, 1.0, 0.0]
    assert frank_wolfe(x, (), g, 2)[0].tolist() == pytest.approx([0.1, 0.65, 0.25])
    assert corner(g, "between", (-1.0, 2.0)).tolist() == [-1.0, 2.0, -1.0]


@pytest.mark.parametrize("solver", ["exponentiated(lr = 0.5)", "pgd(lr = 0.1)", "frank_wolfe()"])
def test_they_find_the_minimum_on_the_simplex(solver: str) -> None:
    text = f"""recipe corner
use A : real[3, 3]
level fit {{
  w : real[3] in simplex from 0.3
  minimize quad(A, w)
  by {solver} for 400 steps
}}
"""
    compiled = compile_text(text, {"A": A})
    w = compiled.phase.values(run(compiled.phase, compiled.key()))["w"]
    solved = torch.linalg.solve(A, torch.ones(3).double())
    expected = solved / solved.sum()
    assert float(w.sum()) == pytest.approx(1, abs=1e-12)
    assert float((w - expected).abs().max()) < (0.02 if "frank" in solver else 1e-6)


# ---- rates ---------------------------------------------------------------------------------------------------


def test_rates_run_from_the_whole_to_a_share() -> None:
    assert [linear_rate(2.0, t, 4) for t in range(5)] == [2.0, 1.5, 1.0, 0.5, 2.0]
    assert [cosine_rate(2.0, t, 4) for t in range(4)] == pytest.approx(
        [1 + math.cos(math.pi * t / 4) for t in range(4)]
    )
    layers = linear_rate({"a": torch.tensor(2.0)}, 1, 4)
    assert float(layers["a"]) == 1.5


def test_a_scheduled_rate_of_an_outer_variable() -> None:
    """Three steps by hand, and the derivative in the rate."""
    text = """recipe rate
level meta {
  lr : real in positive from 0.2
  level fit {
    w : real from 3
    minimize 0.5 * w^2
    by sgd(lr = linear(lr)) for 3 steps
  }
  minimize w
  by sgd(lr = cosine(0.1)) for 4 steps
}
"""

    def value(free: Tensor) -> Tensor:
        rate = free.exp()
        return 3 * (1 - rate) * (1 - rate * 2 / 3) * (1 - rate / 3)

    free = torch.tensor(math.log(0.2), dtype=torch.float64)
    for mode in ("rmd", "rmd(checkpoint = 2)", "rmd(store = residuals)", "fmd"):
        compiled = scheduled(text, "fit", mode)
        assert float(gradient(compiled) - torch.func.grad(value)(free)) == pytest.approx(0, abs=1e-14)
        state = run(compiled.phase, compiled.key(), steps=3)
        expected = free
        for step in range(3):
            expected = expected - 0.05 * (1 + math.cos(math.pi * step / 4)) * torch.func.grad(value)(expected)
        assert float(state.x) == pytest.approx(float(expected), abs=1e-14)


def test_the_steps_of_a_report_are_those_of_its_schedule() -> None:
    text = """recipe longer
level meta {
  c : real from 1
  level fit {
    w : real from 3
    minimize 0.5 * (w - c)^2
    by sgd(lr = linear(0.5)) for 3 steps
  }
  minimize w^2
  by sgd(lr = 0.1) for 4 steps
  report long = w with fit.steps = 2
}
"""
    compiled = compile_text(text)
    key = compiled.key()
    _, report = compiled.phase.reports["long"]
    assert float(report(compiled.phase.begin(key), key)) == pytest.approx(1 + 2 * 0.5 * 0.75)


def test_a_norm_is_clipped_copy_by_copy() -> None:
    text = """recipe clipped
level meta {
  c : real[2] from 1
  each s ~ uniform(1, 50)[3]
  level fit {
    w : real[2] from 0
    minimize 0.5 * s * sqnorm(w - c)
    by sgd(lr = 1.0, clip = 0.5) for 1 steps
  }
  minimize sum[s] sum(w)
  by sgd(lr = 0.1) for 4 steps
}
"""
    compiled = compile_text(text)
    key = compiled.key()
    _, value = compiled.phase.hypergradient(compiled.phase.begin(key), key)
    assert float(value) == pytest.approx(3 * 2 * 0.5 / math.sqrt(2))
