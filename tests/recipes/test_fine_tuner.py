"""Exact facts of the learned fine-tuner (papers/004) and of the problems whose hypergradient is known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.zoo.compiled import Compiled, compile_text, hypergradient

SMALL = """recipe small extends PARENT
use nets  = [mlp(1, 3, 1), mlp(1, 2, 2, 1)]
use tasks = sine(amplitude = [0.1, 5.0], phase = [0, 3.1416], shots = 4, queries = 3)
param K   = 3
level learn {
    each task ~ tasks.train[2]
    OBJECTIVE
}
schedule { fit : MODE }
"""


def gradient_of(parent: str, objective: str = "", mode: str = "rmd") -> torch.Tensor:
    """The hypergradient of a small child in psi, as one vector."""
    text = SMALL.replace("PARENT", parent).replace("OBJECTIVE", objective).replace("MODE", mode)
    _, gradient = hypergradient(compile_text(text))
    return torch.cat([leaf.flatten() for leaf in gradient["psi"].values()])


@pytest.fixture(scope="module")
def single() -> list[torch.Tensor]:
    """The hypergradient of the loss after each step alone."""
    return [gradient_of("lft", f"minimize mean[net, task] L(phi@{k}, task.query)") for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("recipe", "weights"), [("lft", (1, 1, 1)), ("lft_rising", (1, 2, 3)), ("lft_last", (0, 0, 1))]
)
def test_step_weights_are_those_of_section_2_1(
    recipe: str, weights: tuple[int, ...], single: list[torch.Tensor]
) -> None:
    """w_k = 1, w_k = k, and the last step alone; equation 4 is linear in them."""
    expected = sum(weight * g for weight, g in zip(weights, single, strict=True))
    assert torch.allclose(gradient_of(recipe), torch.as_tensor(expected), rtol=1e-10, atol=1e-13)


def test_the_recursion_of_statement_1_is_the_unrolled_gradient() -> None:
    """Equations 8 and 9 (with H^(k), S7) go forward; back-propagation gives the same to 1e-9."""
    forward, backward = (gradient_of("lft", mode=mode) for mode in ("fmd", "rmd"))
    assert (forward - backward).abs().max() < 1e-9 * backward.abs().max()


def test_learning_to_optimise_differs_from_it_by_the_data_of_the_outer_loss_alone(single: list[torch.Tensor]) -> None:
    """Equation 10 is equation 4 on the support."""
    on_support = gradient_of("lft", "minimize mean[net, task] sum[k in 1..3] L(phi@k, task.support)")
    assert torch.equal(gradient_of("l2o"), on_support)
    assert not torch.allclose(on_support, sum(single), rtol=1e-2)  # type: ignore[arg-type]


# ---- known hypergradients ------------------------------------------------------------------------------------

FEATURES = """recipe features extends feature_l2
use data = sparse_text(words = 30, documents = 60, telling = 6)
level tune {
    penalty : real[30] from 0.05
    level fit {
        w : real[30] from 0
        by lbfgs(history = 10) until stationary(1e-12) within 500 steps
    }
}
schedule { fit : MODE }
"""
QUADRATICS = """recipe sums extends bilevel_quadratics
use data = quadratic_sums(inner = 6, outer = 3, samples = 40)
level outer {
    x : real[3] from 1
    level inner {
        z : real[6] from 0
        by lbfgs(history = 10) until stationary(1e-12) within 500 steps
    }
}
schedule { inner : MODE }
"""
MODES = ["ift(linear = exact)", "ift(linear = cg(steps = 100, tol = 1e-13))"]


def fields(compiled: Compiled, split: str) -> list[Any]:
    """The arrays of a split of the data."""
    return [field.numpy().astype(float) for field in getattr(compiled.parts["data"], split)]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("mode", MODES)
def test_one_penalty_for_each_feature_has_the_hypergradient_of_the_closed_form(mode: str) -> None:
    """dL/d penalty_j = -w_j [H^-1 grad L]_j, with w from Newton's method."""
    compiled = compile_text(FEATURES.replace("MODE", mode))
    _, gradient = hypergradient(compiled)
    (x, y), (v, s) = fields(compiled, "train"), fields(compiled, "val")
    w, penalty = np.zeros(30), np.full(30, 0.05)
    for _ in range(30):
        p = sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(y) + np.diag(penalty)
        w = w - np.linalg.solve(hessian, x.T @ (p - y) / len(y) + penalty * w)
    outer = v.T @ (sigmoid(v @ w) - s) / len(s)
    expected = -w * np.linalg.solve(hessian, outer)
    assert np.allclose(gradient["penalty"].numpy(), expected, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_sums_of_quadratics_have_the_hypergradient_of_the_closed_form(mode: str) -> None:
    compiled = compile_text(QUADRATICS.replace("MODE", mode))
    value, gradient = hypergradient(compiled)
    (u, v, t), (a, b, c) = fields(compiled, "train"), fields(compiled, "val")
    x = np.ones(3)
    hessian, cross = u.T @ u / len(t), u.T @ v / len(t)
    z = np.linalg.solve(hessian, u.T @ (t - v @ x) / len(t))
    r = a @ z + b @ x - c
    expected = b.T @ r / len(c) - cross.T @ np.linalg.solve(hessian, a.T @ r / len(c))
    assert np.isclose(value, 0.5 * np.mean(r**2), rtol=1e-10)
    assert np.allclose(gradient["x"].numpy(), expected, rtol=1e-8)
