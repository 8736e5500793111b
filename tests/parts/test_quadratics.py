"""Random quadratics: their distribution, their minimum, and that they are values that torch.func takes apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.func import grad, hessian, vmap

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import RecipeError
from bilevel.recipes.quadratics import Problem, random_quadratics


def drawn(count: int, split: str = "train", mean: tuple[float, float] = (4.0, 0.1)) -> Problem:
    source = random_quadratics(dim=2, mean=list(mean), split=split).to("cpu", torch.float64)
    return source.sample(fold(make_key(3), torch.arange(count)))


@pytest.mark.parametrize("mean", [(4.0, 0.1), (4.0, 0.0034)])
def test_the_diagonal_has_its_mean_and_b_is_normal_around_one(mean: tuple[float, float]) -> None:
    problem = drawn(20_000, mean=mean)
    diagonal = problem.f.Q.diagonal(dim1=-2, dim2=-1)
    assert (diagonal.mean(0) / torch.tensor(mean)).tolist() == pytest.approx([1.0, 1.0], abs=0.02)
    assert problem.f.b.mean(0).tolist() == pytest.approx([1.0, 1.0], abs=0.03)
    assert problem.f.b.T.cov().flatten().tolist() == pytest.approx([1.0, 0.0, 0.0, 1.0], abs=0.04)


def test_q_is_symmetric_and_positive_and_the_minimum_is_one() -> None:
    problem = drawn(1_000)
    assert torch.equal(problem.f.Q, problem.f.Q.mT)
    assert float(torch.linalg.eigvalsh(problem.f.Q).min()) > 0
    gradient = 2 * (problem.f.Q @ problem.minimum[..., None])[..., 0] - problem.f.b
    assert float(gradient.abs().max()) < 1e-10


def test_f_is_a_function_under_vmap_and_its_derivatives_are_right() -> None:
    problem = drawn(5)

    def slope(one: Problem) -> torch.Tensor:
        return grad(one.f)(one.start)

    def curvature(one: Problem) -> torch.Tensor:
        return hessian(one.f)(one.start)

    expected = 2 * (problem.f.Q @ problem.start[..., None])[..., 0] - problem.f.b
    assert torch.allclose(vmap(slope)(problem), expected, atol=1e-12)
    assert torch.allclose(vmap(curvature)(problem), 2 * problem.f.Q, atol=1e-12)
    assert torch.allclose(problem.f(problem.start), vmap(lambda one: one.f(one.start))(problem))


def test_a_batch_of_keys_is_the_single_keys_and_splits_differ() -> None:
    source = random_quadratics()
    keys = fold(make_key(0), torch.arange(6).reshape(2, 3))
    together = source.sample(keys)
    assert together.f.Q.shape == (2, 3, 2, 2)
    assert torch.equal(together.f.Q[1, 2], source.sample(keys[1, 2]).f.Q)
    assert not torch.isin(drawn(50).start, drawn(50, "test").start).any()


@pytest.mark.parametrize(
    "build",
    [
        lambda: random_quadratics(dim=0, mean=[]),
        lambda: random_quadratics(dim=3, mean=[1.0, 2.0]),
        lambda: random_quadratics(mean=[1.0, -2.0]),
        lambda: random_quadratics(spread=-1.0),
        lambda: random_quadratics(split="tset"),
    ],
)
def test_bad_arguments_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"
