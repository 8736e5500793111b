"""Sine tasks: the formula, the distributions of appendix G, purity, and splits that differ."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import RecipeError
from bilevel.recipes.records import Task
from bilevel.recipes.sine import sine

KEYS = fold(make_key(0), torch.arange(6).reshape(2, 3))


def fields(task: Task) -> list[Tensor]:
    return [*task.support, *task.query]


def test_shapes_and_types() -> None:
    stream = sine(shots=5, queries=7).train
    shapes = [tuple(value.shape) for value in fields(stream.sample(KEYS))]
    assert shapes == [(2, 3, 5, 1), (2, 3, 5, 1), (2, 3, 7, 1), (2, 3, 7, 1)]
    assert tuple(stream.sample(make_key(0)).query.x.shape) == (7, 1)
    assert {value.dtype for value in fields(stream.to("cpu", torch.float64).sample(KEYS))} == {torch.float64}


def test_float32_is_float64_rounded() -> None:
    stream = sine().train
    for short, long in zip(
        fields(stream.sample(KEYS)), fields(stream.to("cpu", torch.float64).sample(KEYS)), strict=True
    ):
        assert torch.equal(short, long.float())


def test_a_batch_of_keys_is_the_single_keys() -> None:
    stream = sine().train
    together = fields(stream.sample(KEYS))
    for row in range(2):
        for column in range(3):
            alone = fields(stream.sample(KEYS[row, column]))
            assert all(torch.equal(many[row, column], one) for many, one in zip(together, alone, strict=True))


def test_splits_differ_and_so_do_support_and_query() -> None:
    splits = sine(shots=10, queries=10)
    train, val, test = (split.sample(KEYS) for split in splits)
    assert not torch.isin(train.support.x, val.support.x).any()
    assert not torch.isin(train.support.x, test.support.x).any()
    assert not torch.isin(val.support.x, test.support.x).any()
    assert not torch.isin(train.support.x, train.query.x).any()


def recover(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitude, phase and squared misfit of y = a sin x + b cos x, by least squares over the samples."""
    design = torch.cat([x.sin(), x.cos()], -1)
    solution = torch.linalg.lstsq(design, y).solution
    misfit = (design @ solution - y).square().amax((-1, -2))
    return solution.square().sum((-1, -2)).sqrt(), torch.atan2(solution[..., 1, 0], solution[..., 0, 0]), misfit


def test_waves_follow_appendix_g() -> None:
    """Support and query lie on one wave, its amplitude in [0.1, 5], its phase in [0, pi], inputs in [-5, 5]."""
    task = sine(shots=30, queries=30).val.to("cpu", torch.float64).sample(fold(make_key(2), torch.arange(4_000)))
    both = (torch.cat([task.support.x, task.query.x], -2), torch.cat([task.support.y, task.query.y], -2))
    amplitude, phase, misfit = recover(*both)
    assert float(misfit.max()) < 1e-20
    for values, low, high in ((amplitude, 0.1, 5.0), (phase, 0.0, math.pi), (both[0], -5.0, 5.0)):
        assert low - 1e-9 <= float(values.min())
        assert float(values.max()) <= high + 1e-9
        deviation = (high - low) / math.sqrt(12)
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=4 * deviation / math.sqrt(4_000))
        assert float(values.std()) == pytest.approx(deviation, rel=0.03)
    correlation = torch.corrcoef(torch.stack([amplitude, phase, both[0][:, 0, 0]]))
    assert float((correlation - torch.eye(3)).abs().max()) < 4 / math.sqrt(4_000)


def test_bad_arguments_are_told() -> None:
    for build in (lambda: sine(amplitude=[5.0, 0.1]), lambda: sine(phase=[0.0]), lambda: sine(shots=0)):
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
