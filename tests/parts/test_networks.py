"""Networks: shapes, their agreement with torch's own layers, and derivatives that any batching may take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional

from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.errors import RecipeError
from bilevel.recipes.images import cnn4, image_to_gradient, lenet, resnet_small
from bilevel.recipes.mixtures import mixture_density
from bilevel.recipes.networks import BatchStatistics, conv4, mlp
from bilevel.recipes.planet_parts import planet_mlp

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

Parameters = dict[str, Tensor]

SMALL = {
    "mlp": (lambda: mlp(5, 4, 3, 2), (6, 5)),
    "conv4": (lambda: conv4(ways=3, filters=2, size=16), (6, 1, 16, 16)),
    "conv4 layer": (lambda: conv4(ways=3, filters=2, size=16, norm="layer"), (6, 1, 16, 16)),
    "conv4 batch_stats": (lambda: conv4(ways=3, filters=2, size=16, norm="batch_stats"), (6, 1, 16, 16)),
    "conv4 group cn": (lambda: conv4(ways=3, filters=4, size=32, norm="group", cn="all"), (4, 1, 32, 32)),
    "mlp tanh cn": (lambda: mlp(5, 4, 3, 2, activation="tanh", cn="all"), (6, 5)),
    "mlp softplus": (lambda: mlp(5, 4, 2, activation="softplus"), (6, 5)),
    "lenet": (lambda: lenet(3, size=12), (6, 1, 12, 12)),
    "cnn4": (lambda: cnn4(3, size=16), (2, 1, 16, 16)),
    "resnet_small none": (lambda: resnet_small(3, width=4, size=8), (6, 1, 8, 8)),
    "resnet_small batch_stats": (lambda: resnet_small(3, "batch_stats", width=4, size=8), (6, 1, 8, 8)),
    "resnet_small group": (lambda: resnet_small(3, "group", width=4, size=8, cn="all"), (6, 1, 8, 8)),
    "image_to_gradient": (lambda: image_to_gradient(size=8), (6, 1, 8, 8)),
    "image_to_gradient none": (lambda: image_to_gradient(size=12, norm="none"), (3, 1, 12, 12)),
    "planet_mlp": (lambda: planet_mlp(6, bodies=1), (6, 5)),
    "mixture_density": (lambda: mixture_density(5, 4, 2, components=3), (6, 5)),
}


@pytest.fixture(params=SMALL, ids=list(SMALL))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, shape = SMALL[request.param]
    return build(), normal(make_key(3), *shape, dtype=torch.float64)


def loss(network: nn.Module, parameters: Parameters, x: Tensor) -> Tensor:
    return functional.softplus(functional_call(network, parameters, (x,))).square().mean()


def combine(left: Parameters, right: Parameters, factor: float) -> Parameters:
    return {name: value + factor * right[name] for name, value in left.items()}


def fresh(network: nn.Module, seed: int, *shape: int) -> Parameters:
    keys = fold(make_key(seed), torch.arange(max(1, *shape, 1))) if shape else make_key(seed)
    return initial_parameters(network, keys, torch.float64)


@pytest.mark.parametrize(("size", "spatial"), [(28, 2), (16, 1), (32, 2), (84, 6)])
def test_conv4_halves_the_image_four_times(size: int, spatial: int) -> None:
    network = conv4(ways=7, filters=3, channels=2, size=size)
    assert network(torch.zeros(4, 2, size, size)).shape == (4, 7)
    assert network.get_parameter("head.weight").shape == (7, 3 * spatial**2)


def test_mlp_flattens_images() -> None:
    network = mlp(784, 8, 10)
    images = torch.rand(4, 1, 28, 28)
    assert network(images).shape == (4, 10)
    assert torch.equal(network(images), network(images.reshape(4, 784)))


def test_mlp_of_two_widths_is_linear() -> None:
    assert sorted(dict(mlp(3, 2).named_parameters())) == ["output.bias", "output.weight"]


@pytest.mark.parametrize("network", [mlp(4, 3, 2), conv4(5), conv4(5, norm="batch_stats"), conv4(5, norm="layer")])
def test_networks_have_no_buffers(network: nn.Module) -> None:
    assert not list(network.buffers())


def test_batch_statistics_is_torchs_batch_norm_in_training() -> None:
    layer = BatchStatistics(3).double()
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64) * 3 + 1
    expected = functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_gradient_is_that_of_finite_differences(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    at, direction = fresh(network, 0), fresh(network, 1)
    slope = sum((grad(loss, 1)(network, at, x)[name] * direction[name]).sum() for name in at)
    step = 1e-6
    difference = loss(network, combine(at, direction, step), x) - loss(network, combine(at, direction, -step), x)
    torch.testing.assert_close(slope, difference / (2 * step), rtol=1e-6, atol=1e-9)


def test_curvature_product_is_that_of_finite_differences(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    at, direction = fresh(network, 0), fresh(network, 1)
    _, product = jvp(lambda p: grad(loss, 1)(network, p, x), (at,), (direction,))
    step = 1e-6
    ahead, behind = (grad(loss, 1)(network, combine(at, direction, s), x) for s in (step, -step))
    for name, value in product.items():
        torch.testing.assert_close(value, (ahead[name] - behind[name]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_batched_curvature_products_are_those_of_one_copy(case: tuple[nn.Module, Tensor]) -> None:
    network, x = case
    at, direction = fresh(network, 0, 3), fresh(network, 1, 3)

    def product(parameters: Parameters, along: Parameters) -> Parameters:
        return jvp(lambda p: grad(loss, 1)(network, p, x), (parameters,), (along,))[1]  # type: ignore[no-any-return]

    batched = vmap(product)(at, direction)
    for copy in range(3):
        alone = product({n: v[copy] for n, v in at.items()}, {n: v[copy] for n, v in direction.items()})
        for name, value in alone.items():
            torch.testing.assert_close(batched[name][copy], value, rtol=1e-10, atol=1e-12)


def test_bad_arguments_are_told() -> None:
    for build in (
        lambda: mlp(4),
        lambda: mlp(4, 0),
        lambda: mlp(4, 2, dropout=1.0),
        lambda: conv4(0),
        lambda: conv4(5, norm="instance"),
    ):
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
