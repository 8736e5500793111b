"""Rewritings of graphs: each does what it says, and gives the same numbers to 1e-12 in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.nn.functional import linear

from bilevel.backends.torch_func.trace import graph
from bilevel.backends.torch_func.trace.biases import apart
from bilevel.backends.torch_func.trace.joins import turned_joins
from bilevel.backends.torch_func.trace.nodes import aten
from tests.kernels.tools import graph_of

FLOAT = torch.float64
BATCH, ROWS, INNER, COLUMNS = 3, 4, 5, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed + sum(shape)))


def rewritten(function: Callable[..., Any], *arguments: Tensor) -> Counter[str]:
    """The operators of the graph of a function, by name; its results are those of the function."""
    traced = graph_of(function, *arguments)
    return Counter(node.target.__name__ for node in traced.module.graph.nodes if node.op == "call_function")


A, B = random(BATCH, ROWS, INNER), random(BATCH, INNER, COLUMNS)


def test_a_transposed_product_is_the_product_of_the_transposed() -> None:
    c = random(BATCH, COLUMNS, ROWS, seed=1)
    assert rewritten(lambda a, b, c: c - 0.5 * (a @ b).transpose(1, 2), A, B, c)["transpose.int"] == 2
    right = B.transpose(1, 2).contiguous()
    assert rewritten(lambda a, b: (b @ a.transpose(1, 2)).mT + 1, A, right)["transpose.int"] == 1
    assert rewritten(lambda a: a.mT.mT * 2, A) == {"mul.Tensor": 1}


def test_a_product_that_others_read_as_well_stays() -> None:
    def f(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        product = a @ b
        return product.mT * 3, product * 2

    assert rewritten(f, A, B)["bmm.default"] == 1


def test_numbers_go_to_the_smaller_side_of_a_product() -> None:
    tall, wide = random(BATCH, 2, 9), random(BATCH, 9, 9)
    assert rewritten(lambda a, b: a @ (-0.25 * b).mT, tall, wide)["neg.default"] == 0
    traced = rewritten(lambda a, b: ((-b * 0.5) @ a.mT).sum(2), tall, wide)
    assert traced["mul.Tensor"] == 1 and traced["neg.default"] == 0
    assert rewritten(lambda a, b: (a * 2.0).mT @ b, random(BATCH, 2, 9), random(BATCH, 2, 9))["bmm.default"] == 1


@pytest.mark.parametrize("number", [0.1, -3.0, 1.0])
def test_products_with_numbers_are_one(number: float) -> None:
    def f(a: Tensor) -> Tensor:
        scaled = torch.full_like(a, number) * a / 7
        return -(scaled + scaled)

    assert rewritten(f, A) == {"mul.Tensor": 1}


def test_one_number_repeated_is_followed_to_where_it_is_used() -> None:
    def f(a: Tensor) -> Tensor:
        ones = torch.ones(ROWS, dtype=FLOAT).expand(BATCH, ROWS)[..., None] / 10 - 0.1
        return a * 2 + ones * a.sum()

    assert rewritten(f, A) == {"mul.Tensor": 1}


def test_whole_numbers_are_left_alone() -> None:
    places = torch.arange(4)

    def f(a: Tensor) -> Tensor:
        return a[..., places // 2 + places - places * 1]

    assert rewritten(f, A)["index.Tensor"] == 1


def test_a_whole_number_and_a_real_one_are_not_the_same() -> None:
    places = torch.arange(4)

    def f(a: Tensor, p: Tensor) -> Tensor:
        return a[..., :4] * (p + 1.0) + a[..., p + 1]

    assert rewritten(f, A, places)["add.Tensor"] == 3
    assert rewritten(lambda a, p: a[..., p + 1] * a[..., p + 1], A, places)["add.Tensor"] == 1


def test_a_sum_of_two_thin_products_is_one_product() -> None:
    thin = [random(BATCH, 12, 3, seed=place) for place in range(4)]
    found = rewritten(lambda a, b, c, d: a @ b.mT + c @ d.mT, *thin)
    assert found["bmm.default"] == 1 and found["cat.default"] == 2
    thick = [random(BATCH, 4, 8, seed=place) for place in range(4)]
    assert rewritten(lambda a, b, c, d: a @ b.mT + c @ d.mT, *thick)["bmm.default"] == 2
    flat = [random(12, 3, seed=place) for place in range(4)]
    assert rewritten(lambda a, b, c, d: a @ b.mT + c @ d.mT, *flat)["mm.default"] == 1


def test_the_adjoint_of_a_step_of_a_network() -> None:
    """Numbers stand beside the small arrays, the way back through a layer reads no transposed result."""

    def loss(w: list[Tensor], x: Tensor) -> Tensor:
        for weight in w[:-1]:
            x = torch.relu(linear(x, weight, weight[:, 0]))
        return (linear(x, w[-1], w[-1][:, 0]) ** 2).mean()

    def adjoint(a: Tensor, b: Tensor, c: Tensor, la: Tensor, lb: Tensor, lc: Tensor, x: Tensor) -> Any:
        def total(w: list[Tensor]) -> Tensor:
            return vmap(loss)(w, x).sum()

        return jvp(grad(total), ([a, b, c],), ([-0.01 * p for p in (la, lb, lc)],))[1]

    w = [random(BATCH, 7, 2), random(BATCH, 7, 7), random(BATCH, 1, 7)]
    found = rewritten(adjoint, *w, *[random(*p.shape, seed=9) for p in w], random(BATCH, 3, 2))
    assert found["neg.default"] == 0


def test_a_product_with_zeros_that_is_added_to_another_shape_is_not_computed() -> None:
    """The tangent of data that is not varied: an expanded zero, which a matrix product would copy out."""

    def f(w: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        still = torch.zeros((), dtype=FLOAT).expand(x.shape)
        return torch.tanh(bias + still @ w) + x @ w

    assert rewritten(f, random(7, 4), random(9, 7), random(4))["mm.default"] == 1


def test_slices_that_are_joined_again_are_the_array() -> None:
    def f(a: Tensor) -> Tensor:
        parts = [part.reshape(2, -1, COLUMNS).reshape(part.shape) for part in (a[:2], a[2:8])]
        return torch.cat([parts[0], parts[1], a[8:]]) * 2

    assert rewritten(f, random(12, COLUMNS)) == {"mul.Tensor": 1}
    turned = rewritten(lambda a: torch.cat([a.mT[:2], a.mT[2:]]) * 2, random(12, COLUMNS))
    assert turned == {"transpose.int": 1, "clone.default": 1, "mul.Tensor": 1}


@pytest.mark.parametrize("pieces", [[(0, 5), (6, 12)], [(6, 12), (0, 6)], [(0, 6), (5, 12)], [(0, 6), (6, 11)]])
def test_slices_with_gaps_in_another_order_or_twice_are_joined(pieces: list[tuple[int, int]]) -> None:
    found = rewritten(lambda a: torch.cat([a[begin:end] for begin, end in pieces]) * 2, random(12, COLUMNS))
    assert found["cat.default"] == 1


def test_a_slice_of_a_join_is_what_was_joined() -> None:
    def f(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([a, b])
        return joined[:12] * 2, joined[12:] + 1

    assert rewritten(f, random(12, COLUMNS), random(4, COLUMNS)) == {"mul.Tensor": 1, "add.Tensor": 1}
    assert rewritten(lambda a, b: torch.cat([a, b])[1:12] * 2, A, A + 1)["cat.default"] == 1


def test_a_part_that_lies_otherwise_is_read_from_the_join() -> None:
    """A copy of it would be made anew wherever it is read."""
    found = rewritten(lambda a, b: torch.cat([a.mT, b])[:COLUMNS] * 2, random(12, COLUMNS), random(4, 12))
    assert found["cat.default"] == 1 and found["clone.default"] == 0


def test_a_join_that_is_read_transposed_is_made_so_for_a_compiler() -> None:
    def f(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([a, b])
        return joined.mT * 2, torch.cat([a, b * b])

    arguments = (random(12, COLUMNS), random(4, COLUMNS))
    traced = graph.trace(f, arguments, list(arguments), FLOAT)
    module = turned_joins(traced.module)
    axes = [node.args[1:] for node in module.graph.nodes if node.target is aten.cat.default]
    assert axes == [(1,), ()]
    for found, expected in zip(module(*arguments), f(*arguments), strict=True):
        assert torch.equal(found, expected)
    assert turned_joins(module) is module


def test_the_way_back_through_slices_is_a_join() -> None:
    def f(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return grad(lambda whole: (whole[:3] * a).sum() + (whole[7:] * c).sum() + (whole[3:7] * b).sum())(whole)

    whole = random(10, COLUMNS)
    parts = [random(rows, COLUMNS) for rows in (3, 4, 3)]
    assert rewritten(f, *parts) == {"cat.default": 1}
    twice = rewritten(
        lambda a, b: grad(lambda w: (w[:6] * a).sum() + (w[4:] * b).sum())(whole), *[random(6, COLUMNS)] * 2
    )
    assert twice["cat.default"] == 0 and twice["slice_backward.default"] == 2


def test_what_is_added_to_a_product_stays_beside_it_for_a_compiler() -> None:
    def f(a: Tensor, b: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, ...]:
        return a @ b + row, column + a @ (b + 1), linear(a, b.mT + 2, row), a @ (b + 3) + a @ (b + 4)

    arguments = (random(7, 5), random(5, 6), random(6), random(7, 1))
    traced = graph.trace(f, arguments, list(arguments), FLOAT)
    module = apart(traced.module)
    names = Counter(node.target.__name__ for node in module.graph.nodes if node.op == "call_function")
    assert names["addmm.default"] == 0 and names["sub.Tensor"] == 3
    given = [arguments[place] for place in traced.inputs]
    for found, expected in zip(module(*given), traced.module(*given), strict=True):
        assert float((found - expected).norm()) <= 1e-14 * float(expected.norm())
    assert any(node.target is aten.addmm.default for node in traced.module.graph.nodes)
    assert apart(module) is module


def test_what_is_filled_like_an_array_does_not_compute_it() -> None:
    """A gradient begins with one like the loss: the loss itself is not computed for that."""
    found = rewritten(grad(lambda w: (torch.exp(w) ** 2).sum()), A)
    assert found["sum.default"] == 0 and found["exp.default"] == 1


def test_powers_of_one_and_of_none_are_no_powers() -> None:
    found = rewritten(lambda w: w.pow(1.0) * torch.pow(w, 0.0) + 1, A)
    assert found == {"add.Tensor": 1}


def test_numbers_come_out_of_products() -> None:
    b = random(BATCH, ROWS, INNER, seed=3)
    assert rewritten(lambda a, b: (a * 0.5) * (b * 2.0), A, b) == {"mul.Tensor": 1}
    assert rewritten(lambda a, b: ((a * 0.3) * b) * 7.0, A, b) == {"mul.Tensor": 2}
    kept = rewritten(lambda a, b: (a * 0.5, (a * 0.5) * (b * 0.25)), A, b)
    assert kept["mul.Tensor"] == 3


def test_sums_of_products_are_one_operator() -> None:
    b, c = random(BATCH, ROWS, INNER, seed=3), random(BATCH, ROWS, INNER, seed=4)
    assert rewritten(lambda a, b: a - 0.05 * b, A, b) == {"add.Tensor": 1}
    assert rewritten(lambda a, b, c: a + b * c, A, b, c) == {"addcmul.default": 1}
    assert rewritten(lambda a, b, c: a - 0.1 * (b * c), A, b, c) == {"addcmul.default": 1}
    assert rewritten(lambda a, b, c: (b * c) - a, A, b, c)["addcmul.default"] == 0  # its sign would cost a pass
    assert rewritten(lambda a, b: a[0] + 0.1 * b, A, b) == {"select.int": 1, "mul.Tensor": 1, "add.Tensor": 1}


def test_a_product_read_twice_is_computed_once() -> None:
    b = random(BATCH, ROWS, INNER, seed=3)

    def f(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        product = a * b
        return a + product, torch.tanh(product)

    assert rewritten(f, A, b) == {"mul.Tensor": 1, "add.Tensor": 1, "tanh.default": 1}


def test_a_sum_beside_a_matrix_product_keeps_its_number_apart() -> None:
    """Inductor makes `addmm` of a sum with a product, and forgets the number that the sum has."""
    found = rewritten(
        lambda a, x, y: a + 0.1 * (x @ y), random(ROWS, COLUMNS), random(ROWS, INNER), random(INNER, COLUMNS)
    )
    assert found["mm.default"] == 1 and found["mul.Tensor"] == 1
