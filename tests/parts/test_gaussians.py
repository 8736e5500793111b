"""The two Gaussians: moments, disjoint splits, and a separator that is the best linear one."""

from __future__ import annotations

import math

import pytest
import torch

from bilevel.errors import RecipeError
from bilevel.recipes.gaussians import COVARIANCE, MEAN, toy_gaussians


def test_moments_and_labels() -> None:
    data = toy_gaussians(40_000)
    for split in (data.train, data.val, data.test):
        for label, sign in ((0, -1.0), (1, 1.0)):
            points = split.x[split.y == label].double()
            assert len(points) == 20_000
            assert points.mean(0).tolist() == pytest.approx([sign * m for m in MEAN], abs=0.04)
            assert points.T.cov().flatten().tolist() == pytest.approx([*COVARIANCE[0], *COVARIANCE[1]], abs=0.05)


def test_the_separator_is_that_of_the_densities_and_errs_as_it_must() -> None:
    """The difference of logits is the difference of log densities; the error is Phi(-sqrt(mu' Sigma^-1 mu))."""
    data = toy_gaussians(40_000)
    logits = data.test.x @ data.weight.T + data.bias
    mean, covariance = torch.tensor(MEAN), torch.tensor(COVARIANCE)
    densities = [torch.distributions.MultivariateNormal(s * mean, covariance).log_prob(data.test.x) for s in (-1, 1)]
    assert torch.allclose(logits[:, 1] - logits[:, 0], densities[1] - densities[0], atol=1e-3)
    distance = math.sqrt(float(mean @ torch.linalg.solve(covariance, mean)))
    expected = 0.5 * math.erfc(distance / math.sqrt(2))
    error = float((logits.argmax(1) != data.test.y).double().mean())
    assert error == pytest.approx(expected, abs=4 * math.sqrt(expected / 40_000))


def test_splits_differ_and_arguments_are_checked() -> None:
    data = toy_gaussians(100)
    assert not torch.isin(data.train.x, data.test.x).any()
    assert not torch.isin(data.train.x, data.val.x).any()
    with pytest.raises(RecipeError) as caught:
        toy_gaussians(0)
    assert caught.value.diagnostics[0].code == "B606"
