"""What recipes of W1 and W5 name: the networks of `deep.py`, and data in the shapes of Omniglot and of short texts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import deep, problems
from bilevel.dsl.datatypes import integer, real, record, records
from bilevel.registry import data, model

__all__ = ["fixed_glyphs", "fixed_texts", "given_block", "given_convolutions", "given_embedding", "given_head"]


@model(input=(1, 28, 28), output=("ways",))
def given_convolutions(ways: int, filters: int = 64, native: bool = True) -> nn.Module:
    """`deep.Convolutions`."""
    return deep.Convolutions(ways, filters, native)


@model(input=("length",), output=("length", "width"))
def given_embedding(words: int, length: int, width: int) -> nn.Module:
    """`deep.Embedding`."""
    return deep.Embedding(words, length, width)


@model(input=("length", "width"), output=("length", "width"))
def given_block(width: int, length: int, heads: int = 4, seed: int = 2) -> nn.Module:
    """`deep.Block`."""
    return deep.Block(width, heads, seed)


@model(input=("length", "width"), output=("classes",))
def given_head(width: int, length: int, classes: int) -> nn.Module:
    """`deep.Head`."""
    return deep.Head(width, classes)


class Glyphs(NamedTuple):
    xs: Tensor
    ys: Tensor
    xq: Tensor
    yq: Tensor


class AllGlyphs(NamedTuple):
    all: Glyphs


_SUPPORT, _QUERY = "ways*shots", "ways*queries"
_TASKS = records(
    "count",
    xs=real(_SUPPORT, 1, 28, 28),
    ys=integer(_SUPPORT),
    xq=real(_QUERY, 1, 28, 28),
    yq=integer(_QUERY),
)


@data(yields=record(all=_TASKS))
def fixed_glyphs(count: int = 32, ways: int = 5, shots: int = 5, queries: int = 15) -> AllGlyphs:
    """Tasks of images 28 x 28 to learn from and to be judged by."""
    found = problems.glyphs(count, ways, shots, queries)
    return AllGlyphs(Glyphs(*(torch.from_numpy(found[name]) for name in Glyphs._fields)))


class Texts(NamedTuple):
    x: Tensor
    y: Tensor


class Splits(NamedTuple):
    train: Texts
    val: Texts


_TEXTS = records("count", x=integer("length"), y=integer())


@data(yields=record(train=_TEXTS, val=_TEXTS))
def fixed_texts(count: int = 32, length: int = 32, words: int = 64) -> Splits:
    """Sequences of tokens in four classes, for training and for validation."""
    found = {name: torch.from_numpy(value) for name, value in problems.texts(count, length, words).items()}
    return Splits(Texts(found["x"], found["y"]), Texts(found["u"], found["v"]))
