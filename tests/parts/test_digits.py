"""Digits: shapes, disjoint fixed splits, and images that are the bundled ones."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from bilevel.dsl.datatypes import Record, Records
from bilevel.recipes.digits import digits
from bilevel.registry import MARK


@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_shapes_types_and_range(size: int) -> None:
    for split in digits(size):
        assert split.x.shape == (len(split.y), 1, size, size)
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert 0.0 <= float(split.x.min()) <= float(split.x.max()) <= 1.0


def test_splits_partition_the_data_and_keep_labels() -> None:
    """At size 8 images are the originals; the few that occur twice are told apart by counting."""
    bunch = load_digits()
    expected = sorted(
        (tuple(image.ravel().astype(int)), int(label)) for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    found = [
        (tuple((image * 16).round().int().ravel().tolist()), int(label))
        for split in digits(8)
        for image, label in zip(split.x, split.y, strict=True)
    ]
    assert sorted(found) == expected


def test_counts_are_those_registered() -> None:
    yields = getattr(digits, MARK).description.yields
    assert isinstance(yields, Record)
    for name, split in digits()._asdict().items():
        registered = yields.get(name)
        assert isinstance(registered, Records)
        assert registered.length == len(split.y)


def test_every_class_has_its_share() -> None:
    splits = digits()
    counts = torch.stack([torch.bincount(split.y, minlength=10) for split in splits]).double()
    shares = counts / counts.sum(0)
    assert float((shares - torch.tensor([[0.6], [0.2], [0.2]])).abs().max()) < 0.01


def test_order_is_fixed_and_mixed() -> None:
    torch.manual_seed(0)
    first = digits().train.y
    torch.manual_seed(1)
    assert torch.equal(first, digits().train.y)
    assert first[:20].unique().numel() > 5
