"""Hand-made losses against formulas written out by hand in numpy, published values and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from bilevel.backends.torch_func.functions import ce, cw
from bilevel.backends.torch_func.keyed import make_key, normal
from bilevel.errors import RecipeError
from bilevel.recipes.losses import (
    Loss,
    baikal,
    bi_tempered,
    bootstrap,
    carlini_wagner,
    forward_correction,
    gce,
    huber,
    label_smoothing,
    log_tempered,
    mae,
    nce_mae,
    nfl_mae,
    sce,
)
from tests.parts.derivatives import check_derivatives, check_finite

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

NOISE = [[0.7, 0.2, 0.1, 0.0], [0.0, 0.9, 0.05, 0.05], [0.1, 0.1, 0.8, 0.0], [0.3, 0.3, 0.2, 0.2]]
Array = np.ndarray


def other_focal(p: Array, gamma: float) -> Array:
    return -((1 - p) ** gamma) * np.log(p)


def tempered(a: Array, t: float) -> Array:
    """exp_t(a - c) with c found by bisection."""

    def powers(c: float) -> Array:
        return np.maximum(1 + (1 - t) * (a - c), 0) ** (1 / (1 - t))

    return powers(brentq(lambda c: float(powers(c).sum()) - 1, a.max(), a.max() + 60, xtol=1e-15))


def bi_tempered_of(a: Array, y: int, t1: float, t2: float) -> float:
    """Amid et al. 2019, with a one-hot label."""
    p = tempered(a, t2)
    return float(-(p[y] ** (1 - t1) - 1) / (1 - t1) - (1 - (p ** (2 - t1)).sum()) / (2 - t1))


def huber_of(r: Array, delta: float) -> float:
    return float(sum(x * x / 2 if abs(x) <= delta else delta * (abs(x) - delta / 2) for x in r))


Formula = Callable[[Array, Array, int], float]
"""logits, their softmax, label"""
FORMULAS: dict[str, tuple[Loss, Formula]] = {
    "gce": (gce(0.7), lambda a, p, y: (1 - p[y] ** 0.7) / 0.7),
    "sce": (sce(0.1, 2.0, -6.0), lambda a, p, y: -0.1 * math.log(p[y]) - 2.0 * -6.0 * (1 - p[y])),
    "mae": (mae(), lambda a, p, y: 2 - 2 * p[y]),
    "huber": (huber(0.4), lambda a, p, y: huber_of(p - np.eye(4)[y], 0.4)),
    "label_smoothing": (
        label_smoothing(0.2),
        lambda a, p, y: -0.8 * math.log(p[y]) - 0.05 * float(np.log(p).sum()),
    ),
    "bootstrap": (bootstrap(0.9), lambda a, p, y: -float(((0.9 * np.eye(4)[y] + 0.1 * p) * np.log(p)).sum())),
    "bootstrap hard": (
        bootstrap(0.8, "hard"),
        lambda a, p, y: -0.8 * math.log(p[y]) - 0.2 * math.log(p.max()),
    ),
    "forward_correction": (
        forward_correction(NOISE),
        lambda a, p, y: -math.log(sum(p[k] * NOISE[k][y] for k in range(4))),
    ),
    "nce_mae": (
        nce_mae(3.0, 0.5),
        lambda a, p, y: 3.0 * math.log(p[y]) / float(np.log(p).sum()) + 0.5 * (2 - 2 * p[y]),
    ),
    "nfl_mae": (
        nfl_mae(3.0, 0.5, 0.5),
        lambda a, p, y: 3.0 * float(other_focal(p, 0.5)[y] / other_focal(p, 0.5).sum()) + 0.5 * (2 - 2 * p[y]),
    ),
    "bi_tempered": (bi_tempered(0.7, 1.3), lambda a, p, y: bi_tempered_of(a, y, 0.7, 1.3)),
    "baikal": (
        baikal(1e-9),
        lambda a, p, y: float(np.mean([(k == y) / p[k] - math.log(p[k]) for k in range(4)])),
    ),
    "carlini_wagner": (
        carlini_wagner(0.5),
        lambda a, p, y: max(-0.5, a[y] - max(a[k] for k in range(4) if k != y)),
    ),
    "carlini_wagner targeted": (
        carlini_wagner(0.5, "targeted"),
        lambda a, p, y: max(-0.5, max(a[k] for k in range(4) if k != y) - a[y]),
    ),
}
LOSSES = {name: loss for name, (loss, _) in FORMULAS.items()}
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])


def some_logits(scale: float = 2.0) -> Tensor:
    return scale * normal(make_key(5), 6, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", FORMULAS)
def test_values_are_those_of_the_formula(name: str) -> None:
    loss, formula = FORMULAS[name]
    logits = some_logits()
    p = torch.softmax(logits, -1).numpy()
    expected = [formula(logits[i].numpy(), p[i], int(LABELS[i])) for i in range(6)]
    torch.testing.assert_close(loss(logits, LABELS), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_may_be_probabilities(name: str) -> None:
    onehot = torch.eye(4, dtype=torch.float64)[LABELS]
    torch.testing.assert_close(LOSSES[name](some_logits(), onehot), LOSSES[name](some_logits(), LABELS))


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    check_derivatives(lambda a: (LOSSES[name](a, LABELS[:3]) ** 2).sum(), some_logits()[:3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", LOSSES)
def test_everything_is_finite_at_extreme_logits(name: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, 0, 0, 0], [0, 1e4, 0, 0], [-1e4, 1e4, 3, 0], [0, 0, 0, 0]], dtype=dtype)
    check_finite(lambda a: LOSSES[name](a, torch.tensor([0, 0, 0, 3])).sum(), logits)


def test_limits() -> None:
    """Every family at the end where it is another, known loss."""
    logits = some_logits()
    for limit in (gce(1e-6), sce(1.0, 0.0), label_smoothing(0.0), bootstrap(1.0), bi_tempered(1.0, 1.0)):
        torch.testing.assert_close(limit(logits, LABELS), ce(logits, LABELS), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(forward_correction(np.eye(4).tolist())(logits, LABELS), ce(logits, LABELS))
    torch.testing.assert_close(gce(1.0)(logits, LABELS), mae()(logits, LABELS) / 2)
    torch.testing.assert_close(nfl_mae(2.0, 3.0, 0.0)(logits, LABELS), nce_mae(2.0, 3.0)(logits, LABELS))
    torch.testing.assert_close(carlini_wagner()(logits, LABELS), cw(logits, LABELS))


def test_bi_tempered_has_the_values_its_authors_publish() -> None:
    """The values in the tests of the authors' own implementation, whose normaliser is a fixed number of iterations."""
    logits = torch.tensor([[-0.5, 0.1, 2.0], [0.1, 1.5, -5.0], [4.0, -3.0, -6.0]], dtype=torch.float64)
    labels = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.2, 0.8, 0.0]], dtype=torch.float64)
    expected = torch.tensor([0.02301914, 0.18972909, 0.93874922], dtype=torch.float64)
    torch.testing.assert_close(bi_tempered(0.5, 1.5)(logits, labels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [1.01, 1.2, 1.5, 1.9])
@pytest.mark.parametrize("classes", [2, 10, 1_000])
def test_the_tempered_softmax_sums_to_one(t: float, classes: int) -> None:
    for scale in (0.0, 1.0, 1e3):
        logits = scale * normal(make_key(2), 5, classes, dtype=torch.float64)
        total = log_tempered(logits, t).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_mae_and_normalised_losses_are_symmetric() -> None:
    """Robustness to symmetric noise: the sum over all labels is a constant (Ghosh et al. 2017, eq. 3)."""
    every = torch.arange(4).repeat(6, 1)
    logits = some_logits()[:, None].expand(6, 4, 4)
    torch.testing.assert_close(mae()(logits, every).sum(-1), torch.full((6,), 6.0, dtype=torch.float64))
    for active in (nce_mae(1.0, 0.0), nfl_mae(1.0, 0.0)):
        torch.testing.assert_close(active(logits, every).sum(-1), torch.ones(6, dtype=torch.float64))


def test_bad_arguments_are_told() -> None:
    builds: list[Callable[[], object]] = [
        lambda: gce(0.0),
        lambda: sce(log_zero=0.0),
        lambda: huber(0.0),
        lambda: label_smoothing(1.5),
        lambda: bootstrap(kind="firm"),
        lambda: forward_correction([[0.5, 0.5]]),
        lambda: forward_correction([[1.0, 0.0], [1.0, 0.0]]),
        lambda: forward_correction([[0.9, 0.2], [0.5, 0.5]]),
        lambda: nfl_mae(gamma=-1.0),
        lambda: bi_tempered(1.2),
        lambda: bi_tempered(0.8, 0.9),
        lambda: baikal(0.0),
        lambda: carlini_wagner(-1.0),
        lambda: carlini_wagner(kind="away"),
    ]
    for build in builds:
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
