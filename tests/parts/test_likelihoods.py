"""Mixture densities against torch's own distributions and an integral; losses that tailor features."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.errors import RecipeError
from bilevel.recipes.mixtures import mixture_density, mixture_likelihood
from bilevel.recipes.tailoring_losses import contrastive, cosine_distance
from tests.parts.derivatives import check_derivatives, check_finite

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def drawn(*shape: int, word: str = "") -> Tensor:
    return normal(fold(make_key(6), word), *shape, dtype=torch.float64)


def reference(mixture: Tensor, least: float) -> distributions.MixtureSameFamily:
    """The mixture by torch.distributions."""
    size = (mixture.shape[-1] - 1) // 2
    deviation = least + functional.softplus(mixture[..., size + 1 :])
    component = distributions.Independent(distributions.Normal(mixture[..., 1 : size + 1], deviation), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(logits=mixture[..., 0]), component)


def test_the_likelihood_is_torchs() -> None:
    mixture, y = drawn(7, 4, 5), drawn(7, 2, word="y")
    torch.testing.assert_close(mixture_likelihood(0.05)(mixture, y), reference(mixture, 0.05).log_prob(y))


def test_the_density_integrates_to_one() -> None:
    line = torch.linspace(-30, 30, 200_001, dtype=torch.float64)[:, None]
    mixture = drawn(3, 3).expand(len(line), 3, 3)
    density = mixture_likelihood()(mixture, line).exp()
    assert float(torch.trapezoid(density, line[:, 0])) == pytest.approx(1.0, abs=1e-6)


def test_the_network_gives_what_the_likelihood_reads() -> None:
    network = mixture_density(4, 8, 3, components=5)
    found = network(torch.zeros(6, 4))
    assert found.shape == (6, 5, 7)
    assert mixture_likelihood()(found, torch.zeros(6, 3)).shape == (6,)


def test_likelihood_derivatives() -> None:
    mixture, y = drawn(2, 3, 5), drawn(2, 2, word="y")
    check_derivatives(lambda at: mixture_likelihood()(mixture, at).sum(), y)
    check_derivatives(lambda at: mixture_likelihood()(at, y).sum(), mixture)


def test_a_deviation_has_a_floor() -> None:
    """At the mean of a component whose deviation is as small as it gets, the density is that of the floor."""
    mixture = torch.tensor([[0.0, 2.0, -1e6]], dtype=torch.float64)
    found = mixture_likelihood(1e-2)(mixture, torch.tensor([2.0], dtype=torch.float64))
    assert float(found) == pytest.approx(-math.log(1e-2 * math.sqrt(2 * math.pi)))
    check_finite(lambda at: mixture_likelihood()(at, torch.zeros(1).double()).sum(), mixture)


# ---- tailoring -----------------------------------------------------------------------------------------------


def test_cosine_distance_is_torchs() -> None:
    u, v = drawn(6, 5, word="u"), drawn(6, 5, word="v")
    expected = 1 - functional.cosine_similarity(u, v)
    torch.testing.assert_close(cosine_distance()(u, v), expected, rtol=1e-7, atol=1e-7)
    assert float(cosine_distance()(u, 3 * u).max()) == pytest.approx(0, abs=1e-7)
    assert float(cosine_distance()(u, -u).min()) == pytest.approx(2, abs=1e-7)


def test_cosine_distance_has_derivatives_also_at_zero() -> None:
    u, v = drawn(3, 4, word="u"), drawn(3, 4, word="v")
    check_derivatives(lambda at: cosine_distance()(at, v).square().sum(), u)
    check_finite(lambda at: cosine_distance()(at, v).sum(), torch.zeros_like(u))
    assert cosine_distance()(torch.zeros_like(u), v).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["logistic", "hinge"])
def test_contrastive_losses(kind: str) -> None:
    """l(0) = 1; convex; smaller as the input is nearer to the positive example than to the negative one."""
    loss = contrastive(kind)
    h, positive, negative = (drawn(5, 4, word=word) for word in ("h", "p", "n"))
    margin = (h * (positive - negative)).sum(-1)
    expected = torch.log2(1 + torch.exp(-margin)) if kind == "logistic" else torch.clamp(1 - margin, min=0)
    torch.testing.assert_close(loss(h, positive, negative), expected)
    torch.testing.assert_close(loss(h, positive, positive), torch.ones(5, dtype=torch.float64))
    check_derivatives(lambda at: loss(at, positive, negative).sum(), h)
    check_finite(lambda at: loss(1e4 * at, positive, negative).sum(), h)


def test_bad_arguments_are_told() -> None:
    for build in (
        lambda: mixture_density(4),
        lambda: mixture_density(4, 3, components=0),
        lambda: mixture_likelihood(0.0),
        lambda: cosine_distance(0.0),
        lambda: contrastive("softmax"),
    ):
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
