"""Certificates of randomised smoothing: the radius against the binomial distribution itself, and what gives none."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, norm
from torch.func import vmap

from bilevel.errors import RecipeError
from bilevel.recipes.certificates import certified_radius, vote

SAMPLES, CLASSES, ALPHA, SIGMA = 200, 4, 1e-2, 0.5


@pytest.mark.parametrize("count", [101, 130, 180, 199, 200])
def test_the_bound_is_the_share_at_which_so_many_votes_have_probability_alpha(count: int) -> None:
    votes = torch.tensor([0.0, count, SAMPLES - count, 0.0], dtype=torch.float64)
    radius = float(certified_radius(SIGMA, SAMPLES, CLASSES, ALPHA)(votes, torch.tensor(1)))
    share = norm.cdf(radius / SIGMA)
    tail = binom.sf(count - 1, SAMPLES, share)
    if radius > 0:
        assert math.isclose(tail, ALPHA / CLASSES, rel_tol=1e-6)
    else:
        assert binom.sf(count - 1, SAMPLES, 0.5) > ALPHA / CLASSES


def test_wrong_classes_and_close_votes_have_no_radius_and_missing_votes_no_number() -> None:
    certify = certified_radius(SIGMA, SAMPLES, CLASSES, ALPHA)
    clear, close = torch.tensor([190.0, 10, 0, 0]), torch.tensor([102.0, 98, 0, 0])
    assert certify(clear, torch.tensor(0)) > 0
    assert certify(clear, torch.tensor(1)) == 0
    assert certify(close, torch.tensor(0)) == 0
    assert torch.isnan(certify(clear - 1, torch.tensor(0)))


def test_beyond_asks_whether_the_radius_is_larger() -> None:
    votes, label = torch.tensor([200.0, 0, 0, 0]), torch.tensor(0)
    radius = float(certified_radius(SIGMA, SAMPLES, CLASSES, ALPHA)(votes, label))
    assert math.isclose(radius, SIGMA * norm.ppf((ALPHA / CLASSES) ** (1 / SAMPLES)), rel_tol=1e-6)
    for beyond, expected in ((radius - 1e-3, 1.0), (radius + 1e-3, 0.0)):
        assert certified_radius(SIGMA, SAMPLES, CLASSES, ALPHA, beyond)(votes, label) == expected


def test_votes_and_radii_of_many_inputs_at_once() -> None:
    logits = torch.randn(3, SAMPLES, CLASSES, generator=torch.Generator().manual_seed(0))
    votes = vmap(vmap(vote()))(logits).sum(1)
    assert torch.equal(votes.argmax(-1), logits.argmax(-1).mode(1).values)
    certify = certified_radius(SIGMA, SAMPLES, CLASSES, ALPHA)
    sure = torch.eye(CLASSES)[:3] * SAMPLES
    assert torch.equal(vmap(certify)(sure, torch.arange(3)), certify(sure, torch.arange(3)))


@pytest.mark.parametrize("bad", [{"sigma": 0.0, "samples": 10}, {"sigma": 1.0, "samples": 0}])
def test_bad_arguments_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        certified_radius(**bad)  # type: ignore[arg-type]
