"""Domains and views: angles, colours and noise rates that are what they say, and images that stay in their split."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bilevel.errors import RecipeError
from bilevel.recipes.digits import digits
from bilevel.recipes.domains import coloured, digit_sources, printed_digits, rotated
from bilevel.recipes.views import viewed
from bilevel.recipes.warps import placed, turned


def test_a_quarter_turn_is_counter_clockwise_and_none_is_none() -> None:
    images = digits(16).train.x[:20]
    assert torch.allclose(turned(images, 90.0), torch.rot90(images, 1, (2, 3)), atol=1e-5)
    assert torch.allclose(turned(images, 0.0), images, atol=1e-5)
    there_and_back = turned(turned(images, 30.0), -30.0)[:, :, 4:12, 4:12]
    assert float((there_and_back - images[:, :, 4:12, 4:12]).abs().mean()) < 0.06


def test_placing_scales_and_moves_as_it_says() -> None:
    dot = torch.zeros(1, 1, 33, 33)
    dot[0, 0, 16, 24] = 1.0  # eight pixels to the right of the middle
    one, zero = torch.ones(1), torch.zeros(1)
    moved = placed(dot, zero, one, 4.0 / 16.5 * one, 2.0 / 16.5 * one)
    assert divmod(int(moved.argmax()), 33) == (18, 28)
    larger = placed(dot, zero, 1.5 * one, zero, zero)
    assert divmod(int(larger.argmax()), 33) == (16, 28)


def test_domains_are_the_same_images_turned() -> None:
    data = digits(16)
    domains = rotated(data, angles=[0, 30, 75], split="val")
    assert len(domains) == 3
    for domain, angle in zip(domains, (0.0, 30.0, 75.0), strict=True):
        assert torch.equal(domain.y, data.val.y)
        assert torch.equal(domain.x, turned(data.val.x, angle).clamp(0, 1))
        assert 0.0 <= float(domain.x.min()) <= float(domain.x.max()) <= 1.0


def test_colours_agree_with_labels_as_often_as_they_should() -> None:
    data = digits(8)
    correlations = [0.9, 0.8, 0.1]
    domains = coloured(data, correlations=correlations, noise=0.25)
    assert sum(len(domain.y) for domain in domains) == len(data.train.y)
    for domain, correlation in zip(domains, correlations, strict=True):
        brightness = domain.x.sum((2, 3))
        assert torch.equal((brightness > 0).sum(1), torch.ones(len(domain.y), dtype=torch.int64))
        agreed = float((brightness.argmax(1) == domain.y).double().mean())
        assert agreed == pytest.approx(correlation, abs=0.002)


def test_a_quarter_of_the_labels_of_coloured_digits_is_wrong_and_no_image_is_in_two_domains() -> None:
    data = digits(8)
    clean = coloured(data, correlations=[0.9, 0.1], noise=0.0)
    noisy = coloured(data, correlations=[0.9, 0.1], noise=0.25)
    images = [domain.x.sum(1) for domain in clean]
    for one, other, seen in zip(clean, noisy, images, strict=True):
        assert torch.equal(other.x.sum(1), seen)
        assert float((one.y != other.y).double().mean()) == pytest.approx(0.25, abs=0.002)
    known = {tuple(image.flatten().tolist()): int(y >= 5) for image, y in zip(data.train.x, data.train.y, strict=True)}
    for domain, seen in zip(clean, images, strict=True):
        assert [known[tuple(image.flatten().tolist())] for image in seen] == domain.y.tolist()


def test_views_show_the_same_image_moved_a_little() -> None:
    data = digits(16)
    made = viewed(data, views=3)
    assert made.train.views.shape == (len(data.train.y), 3, 1, 16, 16)
    assert torch.equal(made.val.x, data.val.x)
    # A view is nearer to its own image than to the mean of all others, for almost all.
    flat = made.test.views[:, 0].flatten(1)
    own = (flat - data.test.x.flatten(1)).norm(dim=1)
    others = torch.cdist(flat, data.test.x.flatten(1)).mean(1)
    assert float((own < others).double().mean()) > 0.95
    assert not torch.equal(made.test.views[:, 0], made.test.views[:, 1])


def test_sources_have_ten_digits_in_three_parts(tmp_path: object) -> None:
    for source in digit_sources(8, sources=["handwritten", "printed_on_photos"]):
        for split in source:
            assert torch.equal(split.y.unique(), torch.arange(10))
            assert split.x.shape[1:] == (1, 8, 8)
            assert 0.0 <= float(split.x.min()) <= float(split.x.max()) <= 1.0
    printed = printed_digits(8)
    assert torch.bincount(printed.train.y).tolist() == [108] * 10
    train = {tuple(image.flatten().tolist()) for image in printed.train.x}
    assert not train & {tuple(image.flatten().tolist()) for image in printed.test.x}


@pytest.mark.parametrize(
    "build",
    [
        lambda: rotated(digits(8), angles=[]),
        lambda: rotated(digits(8), angles=[0], split="all"),
        lambda: coloured(digits(8), correlations=[1.5]),
        lambda: coloured(digits(8), correlations=[]),
        lambda: coloured(digits(8), correlations=[0.5], noise=-0.1),
        lambda: viewed(digits(8), views=0),
        lambda: digit_sources(8, sources=["painted"]),
    ],
)
def test_bad_arguments_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"
