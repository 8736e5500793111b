"""Taylor losses: the published polynomial written out term by term, its numbers, normalisation and any order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.errors import RecipeError
from bilevel.recipes.taylor_losses import arl_loss, itl_loss, powers, simplex_points, taylor_loss
from tests.parts.derivatives import check_derivatives, check_finite

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

LABELS = torch.tensor([0, 2, 1])


def some_logits() -> Tensor:
    return 2 * normal(make_key(1), 3, 3, dtype=torch.float64)


def printed(t: Sequence[float], p: float, y: float, factorials: bool) -> float:
    """papers/002, eq. 3.5 as it is printed, or eq. B.1, which is the same without the fractions."""
    u, v = p - t[0], y - t[1]
    f = [1, 1 / 2, 1 / 6, 1 / 24, 1, 1 / 2, 1 / 2, 1 / 6, 1 / 6, 1 / 4] if factorials else [1] * 10
    terms = [u, u**2, u**3, u**4, u * v, u * v**2, u**2 * v, u**3 * v, u * v**3, u**2 * v**2]
    return float(sum(c * g * term for c, g, term in zip(t[2:], f, terms, strict=True)))


def at(network: nn.Module, numbers: Sequence[float], *inputs: Tensor) -> Tensor:
    given = torch.tensor(numbers, dtype=torch.float64)
    parameters = {"centre": given[:2], "coefficients": given[2:]}
    return functional_call(network.double(), parameters, inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("factorials", ["taylor", "none"])
def test_order_four_is_the_printed_equation(factorials: str) -> None:
    numbers = normal(make_key(0), 12, dtype=torch.float64).tolist()
    p, y = torch.softmax(some_logits(), -1), torch.eye(3, dtype=torch.float64)[LABELS]
    found = at(taylor_loss(factorials=factorials), numbers, p, y)
    for i in range(3):
        each = [printed(numbers, float(p[i, k]), float(y[i, k]), factorials == "taylor") for k in range(3)]
        assert float(found[i]) == pytest.approx(sum(each) / 3, rel=1e-12)


def test_published_numbers_digit_for_digit() -> None:
    """At a uniform prediction over two classes, computed from the table as it is printed."""
    table_a2 = {
        "AR-A40": "0.4397, 0.9187, -0.4554, 6.0881, -0.5869, 1.6765, -2.8526, 0.5748, -4.2756, 1.3126, -0.3326, 1.7649",
        "DR-A40": "1.3754, 25.9954, 8.7507, 3.6501, 9.1560, -2.8144, -5.4006, -7.9342, -8.3143, 6.5751, 3.6237, -2.3279",
        "AR-S80": "0.7043, -0.4858, -0.0541, -1.8132, 2.2370, 2.4009, 1.4415, 6.4514, -2.7152, -2.6928, -3.2049, -0.5511",
        "DR-S80": "2.7187, 25.0616, -23.2701, 17.0804, -21.4348, 44.8821, -13.6956, 27.6005, -17.3943, 43.7386, 7.2981,"
        " -17.5286",
    }
    table_b1 = "-2.0193, -1.2234, 0.1363, 0.1269, -0.4566, -0.1016, -0.2545, 1.0971, -0.9203, 0.2368, 0.4795, 0.9975"
    cases = [(arl_loss(name), text, True) for name, text in table_a2.items()] + [(itl_loss(), table_b1, False)]
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], dtype=torch.float64)
    for loss, text, factorials in cases:
        t = [float(word) for word in text.split(",")]
        even = (printed(t, 0.5, 1.0, factorials) + printed(t, 0.5, 0.0, factorials)) / 2
        wrong = (printed(t, 0.75, 0.0, factorials) + printed(t, 0.25, 1.0, factorials)) / 2
        assert loss(logits, torch.tensor([0, 1])).tolist() == pytest.approx([even, wrong], rel=1e-12)


def test_one_published_value_by_hand() -> None:
    """ITL at p = 0 and y = 0 for both classes' worth of arithmetic: u = 2.0193, v = 1.2234, by long multiplication."""
    u, v = 2.0193, 1.2234
    zero = (
        0.1363 * 2.0193
        + 0.1269 * 4.07757249
        - 0.4566 * 8.233842129
        - 0.1016 * 16.626597411
        - 0.2545 * (u * v)
        + 1.0971 * (u * v * v)
        - 0.9203 * (4.07757249 * v)
        + 0.2368 * (8.233842129 * v)
        + 0.4795 * (u * v**3)
        + 0.9975 * (4.07757249 * v * v)
    )
    numbers = [-2.0193, -1.2234, 0.1363, 0.1269, -0.4566, -0.1016, -0.2545, 1.0971, -0.9203, 0.2368, 0.4795, 0.9975]
    found = at(taylor_loss(factorials="none"), numbers, torch.zeros(1, 1).double(), torch.zeros(1, 1).double())
    assert float(found) == pytest.approx(zero, rel=1e-8)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 7])
def test_any_order_is_the_taylor_series(order: int) -> None:
    """With all derivatives of e^(u + 2 v) at the centre, the sum over i! j! is the series, cut at the order."""
    terms = powers(order)
    assert len(terms) == len(set(terms)) == order + order * (order - 1) // 2
    assert all(i >= 1 and 1 <= i + j <= order for i, j in terms)
    centre, p, y = [0.3, 0.4], 0.5, 0.8
    derivatives = [2.0**j for _, j in terms]
    given = torch.tensor([[p]], dtype=torch.float64), torch.tensor([[y]], dtype=torch.float64)
    found = at(taylor_loss(order), [*centre, *derivatives], *given)
    u, v = p - centre[0], 2 * (y - centre[1])
    series = sum((u + v) ** n / math.factorial(n) for n in range(order + 1))
    without_u = sum(v**n / math.factorial(n) for n in range(order + 1))
    assert float(found) == pytest.approx(series - without_u, rel=1e-10)


def test_coefficients_of_a_lower_order_come_first_among_mixed_terms() -> None:
    assert powers(4) == [(1, 0), (2, 0), (3, 0), (4, 0), (1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (2, 2)]


LOSSES = {
    **{name: arl_loss(name) for name in ("AR-A40", "DR-A40", "AR-S80", "DR-S80")},
    "normalised": arl_loss("AR-A40", normalise=1.0),
    "itl": itl_loss(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    size = float(LOSSES[name](some_logits(), LABELS).abs().max())
    check_derivatives(lambda a: LOSSES[name](a, LABELS).sum() / size, some_logits(), step=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_everything_is_finite_at_extreme_logits(name: str) -> None:
    logits = torch.tensor([[1e4, 0, 0], [0, 1e4, 0], [-1e4, 1e4, 3]], dtype=torch.float64)
    check_finite(lambda a: LOSSES[name](a, torch.tensor([0, 0, 0])).sum(), logits)


def test_the_coefficients_have_derivatives() -> None:
    network = taylor_loss(3, normalise=2.0).double()
    p, y = torch.softmax(some_logits(), -1), torch.eye(3, dtype=torch.float64)[LABELS]
    start = normal(make_key(4), 2 + len(powers(3)), dtype=torch.float64)

    def value(numbers: Tensor) -> Tensor:
        parameters = {"centre": numbers[:2], "coefficients": numbers[2:]}
        return functional_call(network, parameters, (p, y)).square().sum()

    check_derivatives(value, start, tolerance=1e-5)


@pytest.mark.parametrize("classes", [2, 10])
def test_normalised_values_fill_the_range(classes: int) -> None:
    """Over many points of the simplex, no value leaves the range by much and some come near to both its ends."""
    numbers = normal(make_key(9), 12, dtype=torch.float64).tolist()
    scale = torch.logspace(-1, 1.5, 5_000, dtype=torch.float64)[:, None]
    p = torch.softmax(scale * normal(make_key(11), 5_000, classes, dtype=torch.float64), -1)
    y = torch.eye(classes, dtype=torch.float64)[torch.arange(5_000) % classes]
    found = at(taylor_loss(normalise=3.0), numbers, p, y)
    assert -0.2 < float(found.min()) < 0.2
    assert 2.8 < float(found.max()) < 3.2
    raw = at(taylor_loss(), numbers, p, y)
    assert float(torch.corrcoef(torch.stack([raw, found]))[0, 1]) == pytest.approx(1.0)


def test_points_of_the_range_are_in_the_simplex() -> None:
    p, y = simplex_points(6)
    torch.testing.assert_close(p.sum(-1), torch.ones(len(p), dtype=torch.float64))
    assert bool((p >= 0).all()) and float(p[:, 0].max()) == 1.0 and float(p[:, 0].min()) < 1e-12
    assert y.sum(-1).unique().tolist() == [1.0]


def test_a_constant_loss_is_normalised_to_zero() -> None:
    p, y = torch.softmax(some_logits(), -1), torch.eye(3, dtype=torch.float64)[LABELS]
    assert at(taylor_loss(normalise=1.0), [0.0] * 12, p, y).tolist() == [0.0, 0.0, 0.0]


def test_fresh_parameters_differ_by_key() -> None:
    drawn = initial_parameters(taylor_loss(), fold(make_key(0), torch.arange(400)), torch.float64)
    assert {name: tuple(v.shape) for name, v in drawn.items()} == {"centre": (400, 2), "coefficients": (400, 10)}
    assert float(drawn["coefficients"].std()) == pytest.approx(0.5, rel=0.05)


def test_bad_arguments_are_told() -> None:
    for build in (
        lambda: taylor_loss(0),
        lambda: taylor_loss(factorials="all"),
        lambda: taylor_loss(normalise=-1.0),
        lambda: arl_loss("AR-A50"),
    ):
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
