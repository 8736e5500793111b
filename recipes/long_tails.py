"""Characters with few images of most classes: long-tailed training sets, balanced ones to judge by, class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, permutation
from bilevel.dsl.datatypes import Records, integer, real, record, records
from bilevel.recipes.glyph_store import images_of, some_classes
from bilevel.recipes.records import Samples, SampleSplits, bad_argument, require_positive
from bilevel.registry import data

LARGEST = 500  # images of the first class at most, as in CIFAR-100-LT
JUDGES = 150  # writers after those, for balanced sets
VAL, TEST = 10, 50  # images of each class in val and test of the long-tailed set


def _images(length: str) -> Records:
    return records(length, x=real(1, 28, 28), y=integer())


def class_sizes(classes: int, imbalance: float, largest: int) -> list[int]:
    """largest * imbalance^(-k / (classes - 1)) images of class k, at least one; Cui et al. 2019."""
    if classes == 1:
        return [largest]
    return [max(1, round(largest * imbalance ** (-k / (classes - 1)))) for k in range(classes)]


@data(yields=record(train=_images("?"), val=_images("classes*10"), test=_images("classes*50")))
def glyphs_long_tailed(classes: int, imbalance: float = 100.0, largest: int = LARGEST) -> SampleSplits:
    """Characters, the images of whose classes fall geometrically from `largest` to `largest / imbalance`.

    x real[n, 1, 28, 28], y int64[n]; class 0 is the largest. val and test have 10 and 50 images of every class, by
    other writers. In place of CIFAR-LT (papers/001, section 4.2; imbalance 10 to 200). Cost: 650 images of each class
    are drawn once, a third of a second for each class, and kept.
    """
    images = _class_images("glyphs_long_tailed", classes)
    if not 1 <= largest <= LARGEST:
        raise bad_argument("glyphs_long_tailed", "largest", f"between 1 and {LARGEST}", largest)
    if imbalance < 1.0:
        raise bad_argument("glyphs_long_tailed", "imbalance", "1 or more", imbalance)
    train = [own[:count] for own, count in zip(images, class_sizes(classes, imbalance, largest), strict=True)]
    judges = images[:, LARGEST:]
    splits = (train, list(judges[:, :VAL]), list(judges[:, VAL : VAL + TEST]))
    return SampleSplits(*(_mixed(some, name) for some, name in zip(splits, ("train", "val", "test"), strict=True)))


@data(yields=record(train=_images("classes*per_class"), val=_images("classes*per_class"), test=_images("classes*50")))
def glyphs_balanced(classes: int, per_class: int = 10) -> SampleSplits:
    """The characters of `glyphs_long_tailed` with as many images of every class, by writers that have none in its train.

    `per_class` images of each class in train and val, 50 in test; test is that of `glyphs_long_tailed`, train and val
    share no image with it. For the balanced development set of two-component weighting. Cost: as there.
    """
    images = _class_images("glyphs_balanced", classes)
    require_positive("glyphs_balanced", {"per_class": per_class})
    most = (JUDGES - TEST - VAL) // 2
    if per_class > most:
        raise bad_argument("glyphs_balanced", "per_class", f"at most {most}", per_class)
    judges = images[:, LARGEST:]
    own = judges[:, VAL + TEST :]
    splits = (own[:, :per_class], own[:, per_class : 2 * per_class], judges[:, VAL : VAL + TEST])
    return SampleSplits(
        *(_mixed(list(s), name) for s, name in zip(splits, ("dev train", "dev val", "test"), strict=True))
    )


@data(yields=real("?"))
def class_balanced(data: SampleSplits, beta: float = 0.999) -> Tensor:
    """One weight per class, (1 - beta) / (1 - beta^n) for n training samples, real[classes], mean 1; Cui et al. 2019."""
    if not 0.0 <= beta < 1.0:
        raise bad_argument("class_balanced", "beta", "at least 0 and below 1", beta)
    counts = torch.bincount(data.train.y).double()
    if int(counts.min()) == 0:
        raise bad_argument("class_balanced", "data", "a data set with samples of every class", "one without")
    weights = (1.0 - beta) / (1.0 - torch.tensor(beta, dtype=torch.float64) ** counts)
    return (weights / weights.mean()).to(torch.get_default_dtype())


def _class_images(part: str, classes: int) -> Tensor:
    """uint8[classes, 650, 28, 28] of characters at even distances in the training alphabets of `glyphs`."""
    require_positive(part, {"classes": classes})
    codes = some_classes(classes)["train"]
    if len(codes) < classes:
        raise bad_argument(part, "classes", f"at most {len(codes)}", classes)
    return images_of("glyphs_long_tailed", codes, LARGEST + JUDGES)


def _mixed(images: Sequence[Tensor], name: str) -> Samples:
    """Samples of each class's uint8[n, 28, 28], in a fixed random order."""
    labels = torch.arange(len(images)).repeat_interleave(torch.tensor([len(own) for own in images]))
    order = permutation(fold(make_key(0), "long tails", name), len(labels))
    x = torch.cat(list(images))[order, None].to(torch.get_default_dtype()) / 255.0
    return Samples(x, labels[order])
