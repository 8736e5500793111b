"""Products by a loop of ours and by oneDNN: the numbers of torch's, and which products of a graph they get."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bilevel.backends.torch_func.trace import compilers, onednn
from bilevel.backends.torch_func.trace.compilers import Kind, compiled
from bilevel.backends.torch_func.trace.graph import Traced, trace
from bilevel.backends.torch_func.trace.small import into, multiplied

pytestmark = pytest.mark.skipif(compilers.compiler() is None, reason="no C++ compiler")

SIZE = st.integers(1, 70)


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 5), SIZE, SIZE, SIZE, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_the_loop_gives_the_products_of_torch(
    count: int, rows: int, inner: int, columns: int, turn_a: bool, turn_b: bool, adds: bool, threads: int
) -> None:
    for dtype, bound in ((torch.float64, 1e-14), (torch.float32, 5e-6)):
        a, b, plus = (drawn(count, *shape, dtype=dtype) for shape in ((rows, inner), (inner, columns), (rows, columns)))
        expected = plus - 0.3 * (a @ b) if adds else a @ b
        left, right = (t.mT.contiguous() if turned else t for t, turned in ((a, turn_a), (b, turn_b)))
        found = multiplied(left, right, plus if adds else None, -0.3, turn_a, turn_b, threads)
        off = (found - expected).abs().max() / (a.abs() @ b.abs()).max()
        assert found.shape == expected.shape
        assert float(off) <= bound


LONG = st.sampled_from([255, 256, 257, 511, 900])
"""lengths of the inner axis around those of its stretches"""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIZE, LONG, st.integers(1, 200), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 2, 3]))
def test_an_inner_axis_in_stretches_and_a_product_shared_by_threads(
    rows: int, inner: int, columns: int, turn_a: bool, turn_b: bool, adds: bool, threads: int
) -> None:
    for dtype, bound in ((torch.float64, 1e-14), (torch.float32, 5e-6)):
        a, b, plus = (drawn(*shape, dtype=dtype) for shape in ((rows, inner), (inner, columns), (rows, columns)))
        exact = plus.double() - 0.3 * (a.double() @ b.double()) if adds else a.double() @ b.double()
        left, right = (t.mT.contiguous() if turned else t for t, turned in ((a, turn_a), (b, turn_b)))
        found = multiplied(left, right, plus if adds else None, -0.3, turn_a, turn_b, threads)
        assert float((found - exact).abs().max() / (a.abs() @ b.abs()).max()) <= bound


@pytest.mark.parametrize(
    "shape", [(7, 11, 40, 23), (1, 5000, 40, 10), (1, 32, 3000, 300), (1, 5, 3000, 33), (2, 3, 9, 500)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, int, int, int], turned: bool) -> None:
    count, rows, inner, columns = shape
    a, b = drawn(count, rows, inner), drawn(count, inner, columns)
    a, b = (t.mT.contiguous() for t in (a, b)) if turned else (a, b)
    alone = multiplied(a, b, None, 1.0, turned, turned, 1)
    assert all(torch.equal(alone, multiplied(a, b, None, 1.0, turned, turned, threads)) for threads in (2, 3, 5))


@pytest.mark.parametrize("columns", [3, 10, 17, 33, 50, 100])
@pytest.mark.parametrize("turned", [False, True])
def test_nothing_is_written_beside_the_result(columns: int, turned: bool) -> None:
    a, b = drawn(300, 270, dtype=torch.float32), drawn(270, columns, dtype=torch.float32)
    around = torch.full((302, columns), 7.0)
    right = b.t().contiguous() if turned else b
    into(a, right, scale=0, turn_a=False, turn_b=turned, threads=2, out=around[1:301])
    assert torch.allclose(around[1:301], a @ b, rtol=1e-4, atol=1e-4)
    assert (around[0] == 7).all() and (around[301] == 7).all()


def traced(function: Any, *inputs: Tensor) -> Traced:
    return trace(function, inputs, list(inputs), inputs[0].dtype)


def names(graph: Traced) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


def same(function: Any, inputs: tuple[Tensor, ...], kind: Kind, bound: float) -> Traced:
    """The graph as it is run, whose results are those of the function."""
    graph = traced(function, *inputs)
    run = compiled(graph, [inputs[place] for place in graph.inputs], kind)
    found, expected = run(*[inputs[place] for place in graph.inputs])[0], function(*inputs)
    assert float((found - expected).norm() / expected.norm()) <= bound
    return graph


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("first", [True, False])
def test_a_product_that_is_only_added_is_one_call(sign: float, first: bool) -> None:
    def step(w: Tensor, g: Tensor, x: Tensor) -> Tensor:
        move = 0.01 * (g.mT @ x)
        if sign < 0:
            return w - move if first else move - w
        return w + move if first else move + w

    graph = same(step, (drawn(3, 8, 9), drawn(3, 5, 8), drawn(3, 5, 9)), "inductor", 1e-14)
    calls = names(graph)
    alone = sign < 0 and not first  # the product is what is subtracted from
    assert calls.count("bilevel.small.default") == 1
    assert ("aten.sub.Tensor" in calls) == alone
    assert "aten.transpose.int" not in calls


def test_a_product_that_is_read_twice_is_not_hidden_in_a_sum() -> None:
    def both(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        return (w + product) * product

    same(both, (drawn(3, 8, 9), drawn(3, 8, 5), drawn(3, 5, 9)), "inductor", 1e-14)


@pytest.mark.parametrize("shape", [(3, 2, 40, 40), (3, 40, 40, 3), (2, 200, 200, 200)])
def test_vectors_and_large_matrices_stay_with_torch(shape: tuple[int, int, int, int]) -> None:
    count, rows, inner, columns = shape
    graph = same(lambda a, b: a @ b, (drawn(count, rows, inner), drawn(count, inner, columns)), "inductor", 1e-13)
    assert "bilevel.small.default" not in names(graph)


def test_a_factor_that_is_shared_by_all_copies_is_not_copied() -> None:
    def shared(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b.expand(3, 40, 40))

    graph = same(shared, (drawn(3, 10, 40), drawn(40, 40)), "inductor", 1e-14)
    assert "bilevel.small.default" not in names(graph)


@pytest.mark.parametrize("kind", ["fx", "inductor"])
def test_large_products_of_float32_go_to_onednn_where_it_is_faster(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    inputs = (drawn(300, 784, dtype=torch.float32), drawn(200, 784, dtype=torch.float32))
    for faster in (True, False):
        monkeypatch.setattr(onednn, "is_faster", lambda faster=faster: faster)
        graph = same(lambda a, b: a @ b.t(), inputs, kind, 1e-6)
        assert any("linear" in name for name in names(graph)) == faster
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    double = tuple(t.double() for t in inputs)
    assert not any("linear" in name for name in names(same(lambda a, b: a @ b.t(), double, kind, 1e-14)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_narrow_products_of_any_length_are_the_loop_s_where_mkl_is_slow(
    dtype: torch.dtype, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.float32 and not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    x, w, d = (drawn(*shape, dtype=dtype) for shape in ((3000, 200), (20, 200), (3000, 20)))
    inputs, product = ((x, d), lambda x, d: d.t() @ x) if turned else ((x, w), lambda x, w: x @ w.t())
    for faster in (True, False):
        monkeypatch.setattr(onednn, "is_faster", lambda faster=faster: faster)
        graph = same(product, inputs, "inductor", 1e-6 if dtype == torch.float32 else 1e-14)
        assert ("bilevel.small.default" in names(graph)) == faster


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_onednn_reads_transposed_factors(turned: tuple[bool, bool]) -> None:
    a, b = drawn(200, 90, dtype=torch.float32), drawn(70, 90, dtype=torch.float32)
    left, right = (t.t().contiguous().t() if is_turned else t for t, is_turned in zip((a, b), turned, strict=True))
    assert float((onednn.linear(left, right) - a @ b.t()).norm() / (a @ b.t()).norm()) <= 1e-6
