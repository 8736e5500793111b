"""Label noise: how many labels are wrong, which they become, and that nothing but training labels changes."""

from __future__ import annotations

import pytest
import torch

from bilevel.errors import RecipeError
from bilevel.recipes.digits import digits
from bilevel.recipes.noise import Noise, asymmetric, corrupted, symmetric

LABELS = torch.arange(10).repeat(200)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_every_class_has_its_share_of_wrong_labels(share: float) -> None:
    for noise in (symmetric(share), asymmetric(share)):
        wrong = noise.applied(LABELS, 10) != LABELS
        for label in range(10):
            assert int(wrong[label == LABELS].sum()) == round(200 * share)


def test_symmetric_noise_goes_to_all_other_classes_alike() -> None:
    labels = torch.arange(10).repeat(3_000)
    noisy = symmetric(0.9).applied(labels, 10)
    table = torch.zeros(10, 10).index_put((labels, noisy), torch.ones(len(labels)), accumulate=True)
    assert torch.equal(table.diagonal(), torch.full((10,), 300.0))
    others = table[~torch.eye(10, dtype=torch.bool)]
    assert float((others - 300.0).abs().max()) < 5 * 300**0.5


def test_asymmetric_noise_goes_to_the_next_class() -> None:
    noisy = asymmetric(0.4).applied(LABELS, 10)
    wrong = noisy != LABELS
    assert torch.equal(noisy[wrong], (LABELS[wrong] + 1) % 10)


def test_only_training_labels_change() -> None:
    plain, noisy = digits(8), digits(8, noise=symmetric(0.8))
    assert torch.equal(plain.train.x, noisy.train.x)
    assert float((plain.train.y != noisy.train.y).double().mean()) == pytest.approx(0.8, abs=0.005)
    for one, other in ((plain.val, noisy.val), (plain.test, noisy.test)):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)


def test_corrupted_keeps_the_true_labels() -> None:
    plain = digits(8)
    splits = corrupted(plain, asymmetric(0.4))
    assert torch.equal(splits.train.clean, plain.train.y)
    assert torch.equal(splits.train.y, digits(8, noise=asymmetric(0.4)).train.y)
    assert splits.val is plain.val
    assert splits.test is plain.test


def test_the_same_arguments_give_the_same_labels() -> None:
    torch.manual_seed(1)
    first = Noise("symmetric", 0.5).applied(LABELS, 10)
    torch.manual_seed(2)
    assert torch.equal(first, Noise("symmetric", 0.5).applied(LABELS, 10))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(RecipeError) as caught:
        symmetric(share)
    assert caught.value.diagnostics[0].code == "B606"
