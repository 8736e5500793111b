"""Images together with other views of themselves, for objectives that need no label."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.dsl.datatypes import integer, real, record, records
from bilevel.recipes.records import Samples, SampleSplits, require_positive
from bilevel.recipes.warps import shaken
from bilevel.registry import data

ANGLE, SCALE, SHIFT = 15.0, 0.15, 0.12


class Viewed(NamedTuple):
    """Images, labels, and some views of each image."""

    x: Tensor
    y: Tensor
    views: Tensor


class ViewedSplits(NamedTuple):
    """Three disjoint parts."""

    train: Viewed
    val: Viewed
    test: Viewed


VIEWED = records("?", x=real("?", "?", "?"), y=integer(), views=real("views", "?", "?", "?"))


@data(yields=record(train=VIEWED, val=VIEWED, test=VIEWED))
def viewed(data: SampleSplits, views: int = 2) -> ViewedSplits:
    """A data set of images with `views` other views of each: real[n, views, channels, height, width].

    A view is the image turned up to 15 degrees, scaled within 15 % and moved within 6 % of its size, by a key of its
    own; it shows what the image shows. For the contrastive tailoring loss of papers/000, section 3.1. Cost: `views`
    times the data.
    """
    require_positive("viewed", {"views": views})
    return ViewedSplits(*(_viewed(samples, name, views) for name, samples in data._asdict().items()))


def _viewed(samples: Samples, split: str, views: int) -> Viewed:
    count = len(samples.y)
    keys = fold(fold(make_key(0), "views", split, torch.arange(count)), torch.arange(views))
    repeated = samples.x.repeat_interleave(views, 0)
    seen = shaken(repeated, keys.reshape(-1), ANGLE, SCALE, SHIFT).clamp(0.0, 1.0)
    return Viewed(samples.x, samples.y, seen.reshape(count, views, *samples.x.shape[1:]))
