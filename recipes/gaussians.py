"""Two Gaussian classes in the plane, and the separator that is best for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.dsl.datatypes import Records, integer, real, record, records
from bilevel.recipes.records import Samples, require_positive
from bilevel.registry import data

MEAN = (1.0, 0.6)
"""of class 1; class 0 has the opposite"""
COVARIANCE = ((1.0, 0.8), (0.8, 1.0))
"""of both: the direction that separates best is not that from mean to mean, hence a separator close to many points"""


class Gaussians(NamedTuple):
    """Three splits, and the linear discriminant: logits of x are weight x + bias."""

    train: Samples
    val: Samples
    test: Samples
    weight: Tensor
    bias: Tensor


def _points(count: str) -> Records:
    return records(count, x=real(2), y=integer())


@data(
    yields=record(
        train=_points("samples"), val=_points("samples"), test=_points("samples"), weight=real(2, 2), bias=real(2)
    )
)
def toy_gaussians(samples: int = 500) -> Gaussians:
    """Two Gaussian classes with means mu and -mu, one covariance, x real[n, 2], and their linear separator.

    `samples` in each split, half of each class. `weight` real[2, 2] and `bias` real[2] give the logits of the optimal
    classifier: a difference of logits of 2 mu' Sigma^-1 x. Source: papers/000, appendix G, after section 4 of Ilyas
    et al. 2019; the paper does not print mu and Sigma, these are ours.
    """
    require_positive("toy_gaussians", {"samples": samples})
    covariance = torch.tensor(COVARIANCE, dtype=torch.float64)
    mean = torch.tensor(MEAN, dtype=torch.float64)
    direction = torch.linalg.solve(covariance, mean)
    weight = torch.stack([-direction, direction]).to(torch.get_default_dtype())
    factor = torch.linalg.cholesky(covariance)
    train, val, test = (_draw(name, samples, mean, factor) for name in ("train", "val", "test"))
    return Gaussians(train, val, test, weight, torch.zeros(2))


def _draw(split: str, samples: int, mean: Tensor, factor: Tensor) -> Samples:
    labels = torch.arange(samples) % 2
    noise = normal(fold(make_key(0), "gaussians", split), samples, 2, dtype=torch.float64) @ factor.mT
    return Samples(((2 * labels - 1)[:, None] * mean + noise).to(torch.get_default_dtype()), labels)
