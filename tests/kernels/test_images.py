"""Rewritings of graphs of images: the same numbers to 1e-12 in float64, ties included, by fewer and cheaper operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import w1_glyphs
from benchmarks.own import own
from bilevel.backends.torch_func.trace import channels, graph
from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.signature import flatten
from tests.kernels.tools import graph_of

FLOAT = torch.float64
POOLS = ({}, {"stride": 1}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"ceil_mode": True})
Operators = Counter[str]


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritings that pay for many images are done for few."""
    monkeypatch.setattr(channels, "LEAST", 0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed + sum(shape)))


def whole(*shape: int, seed: int = 0) -> Tensor:
    """Small whole numbers: sums of their products are equal, or zero, at many places."""
    return torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(FLOAT)


def traced(function: Callable[..., Any], *arguments: Any) -> Traced:
    """The graph of a function, whose results are those of the function, contiguous."""
    return graph_of(function, *arguments, least=1.0)


def operators(function: Callable[..., Any], *arguments: Any) -> Operators:
    nodes = traced(function, *arguments).module.graph.nodes
    return Counter(node.target.__name__ for node in nodes if node.op == "call_function")


def network(p: dict[str, Tensor], x: Tensor, pool: dict[str, Any], norm: bool = True) -> Tensor:
    for layer in range(2):
        x = functional.conv2d(x, p[f"w{layer}"], p[f"b{layer}"])
        if norm:
            x = functional.batch_norm(x, None, None, p[f"s{layer}"], p[f"t{layer}"], True)
        x = functional.max_pool2d(torch.relu(x), **{"kernel_size": 2, **pool})
    return functional.log_softmax(x.flatten(1)[:, :5], -1)


def start(make: Callable[..., Tensor], first: int = 1) -> dict[str, Tensor]:
    p = {}
    for layer, count in enumerate((first, 3)):
        p[f"w{layer}"], p[f"b{layer}"] = make(3, count, 3, 3, seed=layer), make(3, seed=layer)
        p[f"s{layer}"], p[f"t{layer}"] = 1 + 0.1 * random(3, seed=layer), 0.1 * random(3, seed=9 + layer)
    return p


def pulled(pool: dict[str, Any], norm: bool = True) -> Callable[..., Any]:
    """A step of a network of convolutions along its gradient, and the vjp of the step."""

    def function(p: dict[str, Tensor], x: Tensor, d: dict[str, Tensor]) -> Any:
        def moved(p: dict[str, Tensor]) -> dict[str, Tensor]:
            slope = grad(lambda p: -network(p, x, pool, norm)[:, 0].mean())(p)
            return {name: value - 0.3 * slope[name] for name, value in p.items()}

        result, pull = vjp(moved, p)
        return result, pull(d)

    return function


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", [True, False])
def test_a_step_and_its_vjp(pool: dict[str, Any], norm: bool) -> None:
    first = 1 if norm else 2
    for make in (random, whole)[: 2 - norm]:
        p = start(make, first)
        d = {name: random(*value.shape, seed=20) for name, value in p.items()}
        found = operators(pulled(pool, norm), p, make(4, first, 14, 14), d)
        assert not any("batch_norm" in name for name in found)
        assert found["max_pool2d_with_indices.default"] == found["relu.default"] == 2


def test_a_step_and_its_vjp_in_single_precision() -> None:
    """Where oneDNN computes the convolutions."""
    p, x = start(random), random(4, 1, 14, 14)
    d = {name: random(*value.shape, seed=20) for name, value in p.items()}
    given = list[Any]()
    flatten((p, x, d), given)
    expected = list[Any]()
    flatten(pulled({})(p, x, d), expected)
    single = [value.float() for value in given]
    names = iter(single)
    made = graph.trace(
        pulled({}), ({n: next(names) for n in p}, next(names), {n: next(names) for n in d}), single, torch.float32
    )
    results = made.module(*[single[place] for place in made.inputs])
    found = [single[place] if is_given else results[place] for is_given, place in made.sources]
    for a, b in zip(found, expected, strict=True):
        assert a.is_contiguous() and float((a - b).norm()) <= 1e-4 * max(float(b.norm()), 1e-2)


def test_arrays_that_name_their_places_in_memory_keep_them() -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        return functional.conv2d(x, w).as_strided((2, 2, 2), (1, 4, 8))

    traced(function, random(2, 3, 6, 6), random(3, 3, 3, 3))


def test_forward_over_reverse() -> None:
    def function(p: dict[str, Tensor], x: Tensor, d: dict[str, Tensor]) -> Any:
        return jvp(grad(lambda p: network(p, x, {}, norm=False)[:, 0].mean()), (p,), (d,))

    for make in (random, whole):
        p = start(make)
        found = operators(function, p, make(4, 1, 14, 14), {n: random(*v.shape, seed=20) for n, v in p.items()})
        assert found["max_pool2d_with_indices.default"] == found["relu.default"] == 2


def test_the_tangents_of_images_that_are_not_varied_go_through_no_convolution() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, d: Tensor) -> Any:
        def slope(w: Tensor) -> Tensor:
            return grad(lambda w: torch.tanh(functional.conv2d(x, w, b)).sum())(w)

        return jvp(slope, (w,), (d,))

    found = operators(function, random(4, 2, 6, 7), random(3, 2, 3, 3), random(3), random(3, 2, 3, 3, seed=4))
    assert found["convolution.default"] == 2 and found["convolution_backward.default"] == 2


def test_tangents_of_statistics_of_a_batch() -> None:
    def function(x: Tensor, w: Tensor, s: Tensor, t: Tensor, d: Tensor) -> Any:
        def loss(w: Tensor, s: Tensor, t: Tensor) -> Tensor:
            return torch.sin(functional.batch_norm(functional.conv2d(x, w), None, None, s, t, True)).sum()

        return jvp(grad(loss, (0, 1, 2)), (w, s, t), (d, t, s))

    given = random(4, 2, 6, 7), random(3, 2, 3, 3), 1 + random(3), random(3, seed=1), random(3, 2, 3, 3, seed=5)
    found = operators(function, *given)
    assert not any("batch_norm" in name or "mean" in name for name in found)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("axes", [(0, 2, 3), (1,), (0, 1, 2, 3)])
def test_means_and_variances(correction: int, axes: tuple[int, ...]) -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        images = functional.conv2d(x, w)
        kept = torch.var_mean(images, axes, correction=correction, keepdim=True)
        return torch.var_mean(images, axes, correction=correction), kept, images.mean(axes), images.mean(axes, True)

    traced(function, random(4, 2, 6, 7), random(3, 2, 3, 3))


def test_several_networks_at_once() -> None:
    p = {name: torch.stack([value, 2 * value]) for name, value in start(random).items()}

    def function(p: dict[str, Tensor], x: Tensor) -> Any:
        return grad(lambda p: vmap(lambda p, x: network(p, x, {})[:, 0].mean())(p, x).sum())(p)

    traced(function, p, random(2, 4, 1, 14, 14))


def test_a_rectifier_that_something_else_reads_stays_before_the_pooling() -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        positive = torch.relu(functional.conv2d(x, w))
        return functional.max_pool2d(positive, 2), positive.sum()

    nodes = traced(function, whole(2, 1, 8, 8), whole(3, 1, 3, 3)).module.graph.nodes
    (pool,) = (node for node in nodes if "max_pool" in node.name and node.name.endswith("indices"))
    assert pool.args[0].target is torch.ops.aten.relu.default


class Counted(TorchDispatchMode):
    """How many results convolutions make: images, gradients of images, gradients of filters."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.count += 1
        if func is torch.ops.aten.convolution_backward.default:
            self.count += sum(args[10][:2])
        return func(*args, **(kwargs or {}))


def test_fewer_convolutions_than_autograd_twice_through_the_loss() -> None:
    """The gradient of the images of a gradient, of which nothing is wanted, is computed by autograd all the same."""
    p, x = start(random), random(4, 1, 14, 14)
    d = {name: random(*value.shape, seed=20) for name, value in p.items()}
    made, given = traced(pulled({}), p, x, d), list[Any]()
    flatten((p, x, d), given)
    with Counted() as ours:
        made.module(*[given[place] for place in made.inputs])
    leaves = {name: value.clone().requires_grad_() for name, value in p.items()}
    with Counted() as loop:
        slope = torch.autograd.grad(-network(leaves, x, {})[:, 0].mean(), list(leaves.values()), create_graph=True)
        moved = [value - 0.3 * s for value, s in zip(leaves.values(), slope, strict=True)]
        torch.autograd.grad(moved, list(leaves.values()), list(d.values()))
    assert 0 < ours.count < loop.count


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"stride": 2, "padding": 2}])
@pytest.mark.parametrize("size", [9, 10])
def test_gradients_of_filters_are_no_convolutions_with_images(options: dict[str, int], size: int) -> None:
    """The derivative of a convolution's gradient, which torch writes with filters of the size of images."""

    def function(x: Tensor, w: Tensor, g: Tensor) -> Any:
        def slope(x: Tensor, w: Tensor) -> Any:
            return grad(lambda x, w: torch.tanh(functional.conv2d(x, w, **options)).sum(), (0, 1))(x, w)

        return vjp(slope, x, w)[1]((x, g))

    given = random(5, 2, size, size), random(3, 2, 3, 3), random(3, 2, 3, 3, seed=4)
    for node in traced(function, *given).module.graph.nodes:
        if node.target is torch.ops.aten.convolution.default and options == {}:
            assert node.args[1].meta["val"].shape[-1] == 3


def test_grouped_and_one_dimensional_convolutions() -> None:
    def grouped(x: Tensor, w: Tensor) -> Any:
        return vjp(lambda x, w: grad(lambda w: (functional.conv2d(x, w, groups=2) ** 3).sum())(w), x, w)[1](w)

    def lines(x: Tensor, w: Tensor) -> Any:
        return grad(lambda w: functional.max_pool1d(torch.relu(functional.conv1d(x, w)), 2).sum())(w)

    traced(grouped, random(3, 4, 7, 7), random(6, 2, 3, 3))
    traced(lines, whole(3, 4, 12), whole(2, 4, 3))


def test_results_are_contiguous_and_images_can_be_viewed_after_a_convolution() -> None:
    def function(x: Tensor, w: Tensor) -> Any:
        images = functional.conv2d(x, w)
        return images, images.reshape(2, -1), images.flatten(2).transpose(1, 2), images.permute(1, 0, 2, 3).contiguous()

    traced(function, random(2, 3, 6, 5), random(4, 3, 3, 3))


@pytest.mark.parametrize("affine", [True, False])
def test_statistics_of_a_batch(affine: bool) -> None:
    def function(x: Tensor, w: Tensor, s: Tensor, t: Tensor, d: Tensor) -> Any:
        def slope(w: Tensor, s: Tensor, t: Tensor) -> Any:
            def loss(w: Tensor, s: Tensor, t: Tensor) -> Tensor:
                images = functional.conv2d(x, w)
                normal = functional.batch_norm(images, None, None, *((s, t) if affine else (None, None)), True)
                return torch.sin(normal).sum()

            return grad(loss, (0, 1, 2))(w, s, t)

        return vjp(slope, w, s, t)[1]((d, s, t))

    given = random(4, 2, 6, 7), random(3, 2, 3, 3), 1 + random(3), random(3, seed=1), random(3, 2, 3, 3, seed=5)
    found = operators(function, *given)
    assert not any("batch_norm" in name for name in found)


def test_sums_of_images_times_numbers_of_channels_are_one_pass_for_each() -> None:
    def function(x: Tensor, w: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Any:
        images = functional.conv2d(x, w)
        a, b = a[:, None, None], b[:, None, None]
        once = (images * a - 0.5 * y) * b + (b - images) * 3.0 - y
        product = (images * b + a) * (y - b)
        return torch.sin(once), product.sum((0, 2, 3)), (images * y).sum((0, 2, 3)), once.sum((0, 2, 3)), images * 2 - y

    found = operators(
        function, random(4, 2, 6, 7), random(3, 2, 3, 3), random(4, 3, 4, 5), random(3), random(3, seed=1)
    )
    assert found["addcmul.default"] == 2


def test_squares_of_images_less_their_mean_do_not_cancel() -> None:
    """Far from 0, sums of squares less the square of the sum would have no right digit."""

    def function(x: Tensor, w: Tensor, s: Tensor) -> Any:
        normal = functional.batch_norm(functional.conv2d(x, w) + 1e6, None, None, s, s, True)
        return normal, (normal * normal).sum((0, 2, 3)), normal.var((0, 2, 3))

    x, w, s = random(4, 2, 6, 7), random(3, 2, 3, 3), 1 + random(3)
    made = graph.trace(function, (x, w, s), [x, w, s], FLOAT)
    found, expected = made.module(x, w, s), function(x, w, s)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= 1e-8 * float(b.norm())


def test_statistics_that_are_given_stay_as_they_are() -> None:
    def function(x: Tensor, w: Tensor, mean: Tensor, variance: Tensor) -> Any:
        return functional.batch_norm(functional.conv2d(x, w), mean, variance, training=False)

    traced(function, random(4, 2, 6, 7), random(3, 2, 3, 3), random(3), random(3).exp())


def test_arrays_that_a_function_holds() -> None:
    held = random(2, 3, 4, 4)

    def function(x: Tensor, w: Tensor) -> Any:
        images = functional.conv2d(x, w)
        return images * held, functional.conv2d(images, held[:, :, :2, :2])

    traced(function, random(2, 3, 6, 6), random(3, 3, 3, 3))


def test_the_network_of_w1_has_the_hypergradient_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64: in float32 activations that are within rounding of 0 tell sides apart (`w1_glyphs.ACROSS`)."""
    values = {"tasks": 1}
    made, data = w1_glyphs.network, w1_glyphs.arrays(values)
    text = w1_glyphs.RECIPE.replace("TASKS", "1").replace("MODE", w1_glyphs.KEPT).replace("COPIES", "loop")
    found = own(text, "fx", "float64").run()
    monkeypatch.setattr(w1_glyphs, "network", lambda native=True: made(native).double())
    double = {name: part.astype("float64") if part.dtype == "float32" else part for name, part in data.items()}
    expected = w1_glyphs.loop(values, double).run()
    ours, plain = torch.cat([torch.as_tensor(a).flatten() for a in found]), torch.cat([b.flatten() for b in expected])
    assert float((ours - plain).norm() / plain.norm()) < 1e-12
