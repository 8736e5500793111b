"""scikit-learn's bundled handwritten digits, resized, in three fixed parts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import make_key, permutation
from bilevel.dsl.datatypes import Records, integer, real, record, records
from bilevel.recipes.noise import Noise, noisy
from bilevel.recipes.records import Samples, SampleSplits, require_positive
from bilevel.registry import data

SPLIT_SEED = 0  # part of the data set: a run's seed must not move samples between train and test


def _samples(count: int) -> Records:
    return records(count, x=real(1, "size", "size"), y=integer())


@data(yields=record(train=_samples(1_083), val=_samples(359), test=_samples(355)))
def digits(size: int = 28, noise: Noise | None = None) -> SampleSplits:
    """1,797 handwritten digits, x real[n, 1, size, size] in 0..1, y int64[n] in 0..9.

    Split 60 / 20 / 20 within every class, the same in every run. Source: scikit-learn's `load_digits` (test part
    of UCI "Optical Recognition of Handwritten Digits", 8 x 8, 17 grey levels), resized bilinearly with
    antialiasing. `noise` makes training labels wrong, never those of val and test. Cost: 6 MB at size 28, a fraction of a second.
    """
    require_positive("digits", {"size": size})
    images, labels = _load()
    resized = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True).clamp(0.0, 1.0)
    train, val, test = (Samples(resized[chosen], labels[chosen]) for chosen in _split(labels))
    return SampleSplits(noisy(train, noise), val, test)


def _load() -> tuple[Tensor, Tensor]:
    """All images, float32[1797, 1, 8, 8] in 0..1, and labels, int64[1797]."""
    from sklearn.datasets import load_digits  # imports scipy: a second that a recipe without digits need not wait

    bunch = load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16.0
    return images, torch.as_tensor(bunch.target, dtype=torch.int64)


def _split(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of train, val and test, each in a random order, every class in its share."""
    order = permutation(make_key(SPLIT_SEED), len(labels))
    member = functional.one_hot(labels[order])
    rank = ((member.cumsum(0) - 1) * member).sum(1)  # how many of its own class come before it
    fifth = 5 * rank // member.sum(0)[labels[order]]
    return order[fifth < 3], order[fifth == 3], order[fifth == 4]
