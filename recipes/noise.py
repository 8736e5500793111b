"""Label noise: which labels of a data set are wrong, and how.

Part of the data set: the same arguments give the same wrong labels in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import bits, fold, make_key, permutation
from bilevel.dsl.datatypes import Array, integer, record, records
from bilevel.recipes.records import Samples, SampleSplits, bad_argument
from bilevel.registry import data, func


@dataclass(frozen=True, slots=True)
class Noise:
    """How labels go wrong; `share` of every class does."""

    kind: Literal["symmetric", "asymmetric"]
    share: float

    def applied(self, labels: Tensor, classes: int) -> Tensor:
        """The labels, int64[n], with round(share * count) of each class wrong.

        Symmetric: any other class, each as likely. Asymmetric: the next class, the last one's being the first.
        """
        wrong = labels.clone()
        key = fold(make_key(0), "label noise", self.kind)
        for label in range(classes):
            members = torch.nonzero(labels == label)[:, 0]
            own = fold(key, label)
            chosen = members[permutation(own, len(members))[: round(self.share * len(members))]]
            turn = bits(fold(own, "turn"), len(chosen)).remainder(classes - 1) + 1
            wrong[chosen] = (label + (turn if self.kind == "symmetric" else 1)) % classes
        return wrong


@func(smooth=False)
def symmetric(probability: float) -> Noise:
    """Labels replaced by any other with a probability; papers/002, section 3.4."""
    return _noise("symmetric", probability)


@func(smooth=False)
def asymmetric(probability: float) -> Noise:
    """Labels replaced by the next class with a probability (pair flip); papers/002, section 3.4."""
    return _noise("asymmetric", probability)


def _noise(kind: Literal["symmetric", "asymmetric"], probability: float) -> Noise:
    if not 0.0 <= probability <= 1.0:
        raise bad_argument(kind, "probability", "between 0 and 1", probability)
    return Noise(kind, float(probability))


def noisy(samples: Samples, noise: Noise | None) -> Samples:
    """The samples with wrong labels, or as they are."""
    if noise is None:
        return samples
    return Samples(samples.x, noise.applied(samples.y, int(samples.y.max()) + 1))


# ---- data with both labels -----------------------------------------------------------------------------------


class Doubted(NamedTuple):
    """Inputs, the labels that are given, and the true ones."""

    x: Tensor
    y: Tensor
    clean: Tensor


class DoubtedSplits(NamedTuple):
    """Only the training labels are wrong."""

    train: Doubted
    val: Samples
    test: Samples


IMAGE = Array((), "real", ranked=False)


@data(
    yields=record(
        train=records("?", x=IMAGE, y=integer(), clean=integer()),
        val=records("?", x=IMAGE, y=integer()),
        test=records("?", x=IMAGE, y=integer()),
    )
)
def corrupted(data: SampleSplits, noise: Noise) -> DoubtedSplits:
    """A data set whose training labels `y` are noisy; `clean` has the true ones, val and test are clean.

    For data cleaning: weights of training samples are learned on val and judged by `clean`. Source: Franceschi et al.
    2017, section 5.1. Cost: nothing beside the data.
    """
    train = data.train
    return DoubtedSplits(Doubted(train.x, noisy(train, noise).y, train.y), data.val, data.test)
