"""Operators run once on several arrays joined: the same bits, fewer operators, and none changed where that does not pay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

import bilevel
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.trace import compilers, flattened, graph
from bilevel.backends.torch_func.trace.flattened import EXACT, SCALED, joined
from bilevel.backends.torch_func.trace.fused import fused
from bilevel.backends.torch_func.trace.nodes import aten
from bilevel.backends.torch_func.trace.signature import flatten
from bilevel.backends.torch_func.tree import leaves as leaves_of
from bilevel.costs import reference
from bilevel.recipe import parse

DTYPES = (torch.float32, torch.float64)
SHAPES = ((25, 40, 1), (25, 40), (10, 40, 40), (25, 40), (25, 1, 40), (25, 1))


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7 * sum(shape) + len(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def arrays(seed: int, dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    return [random(*shape, dtype=dtype, seed=seed + 100 * place) for place, shape in enumerate(shapes)]


def operators(module: fx.GraphModule) -> Counter[str]:
    nodes = (node for node in module.graph.nodes if node.op == "call_function")
    return Counter(
        getattr(node.target, "_schema", node.target).name if hasattr(node.target, "_schema") else node.target.__name__
        for node in nodes
    )


def both(
    function: Callable[..., Any], *arguments: Any, dtype: torch.dtype = torch.float32
) -> tuple[Counter[str], Counter[str]]:
    """The operators of a function's graph before and after; its results are the same, bit for bit, and contiguous."""
    given = list[Any]()
    flatten(arguments, given)
    traced = graph.trace(function, arguments, given, dtype)
    inputs = [given[place] for place in traced.inputs]
    module = fused(flattened.relaid(traced.module), beside_products=True)
    module.recompile()
    before, expected, kept = operators(module), module(*inputs), [value.clone() for value in inputs]
    flattened.flattened(module)
    module.graph.lint()
    module.recompile()
    for _ in range(2):
        for a, b in zip(module(*inputs), expected, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype and a.is_contiguous() and same_bits(a, b)
    assert all(same_bits(a, b) for a, b in zip(inputs, kept, strict=True))
    assert held(module(*inputs), inputs) <= 2 * held(expected, inputs)
    return before, operators(module)


def held(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> int:
    """The bytes of memory, besides that of inputs, that results keep alive."""
    given = {one.untyped_storage().data_ptr() for one in inputs}
    memory = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in results}
    return sum(size for place, size in memory.items() if place not in given)


def same_bits(a: Tensor, b: Tensor) -> bool:
    whole = {4: torch.int32, 8: torch.int64}[a.itemsize]
    return torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


def adam(p: list[Tensor], g: list[Tensor], m: list[Tensor], v: list[Tensor], count: Tensor) -> Any:
    """One update, as kernels have it."""
    m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
    v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
    first, second = 1 - 0.9**count, 1 - 0.999**count
    moves = [(0.01 * a / first) / (b / second + 1e-16).sqrt() for a, b in zip(m, v, strict=True)]
    return [a - b for a, b in zip(p, moves, strict=True)], m, v


def updated(dtype: torch.dtype, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    p, g, m, v = (arrays(seed, dtype, shapes) for seed in range(4))
    return [p, g, m, [a.square() for a in v], torch.tensor(3.0, dtype=dtype)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be joined is, what it takes notwithstanding."""
    monkeypatch.setattr(flattened, "CALL", 1e6)


# ---- what is joined ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_update_of_six_arrays_asks_for_the_operators_of_one(dtype: torch.dtype) -> None:
    before, after = both(adam, *updated(dtype), dtype=dtype)
    assert before["aten::sqrt"] == 6 and before["aten::addcmul"] == 6
    assert after["aten::sqrt"] == 1 and after["aten::addcmul"] == 1 and after["aten::sub"] == before["aten::sub"] - 5
    assert after["joined"] == 4 and after["aten::unflatten_dense_tensors"] == 3


def test_the_way_back_through_an_update_is_joined_too() -> None:
    def back(p: Any, g: Any, m: Any, v: Any, count: Tensor, cotangent: Any) -> Any:
        return torch.func.vjp(lambda *given: adam(*given, count), p, g, m, v)[1](cotangent)

    given = updated(torch.float64)
    before, after = both(back, *given, tuple(arrays(9 + i, torch.float64) for i in range(3)), dtype=torch.float64)
    assert before["aten::sqrt"] == 6 and after["aten::sqrt"] == 1
    assert after.total() - after["getitem"] < before.total() / 3


def test_plain_gradient_descent_stays_as_it_is() -> None:
    before, after = both(lambda p, g: [a - 0.01 * b for a, b in zip(p, g, strict=True)], arrays(0), arrays(1))
    assert before == after


def test_one_array_and_large_ones_stay_as_they_are() -> None:
    for shapes in ((SHAPES[0],), ((300, 300),) * 2):
        before, after = both(adam, *updated(torch.float32, shapes))
        assert before == after


def test_a_large_array_among_small_ones_is_left_out() -> None:
    before, after = both(adam, *updated(torch.float32, (*SHAPES, (300, 300))))
    assert before["aten::sqrt"] == 7 and after["aten::sqrt"] == 2


def test_flat_arrays_are_no_larger_than_the_caches() -> None:
    before, after = both(adam, *updated(torch.float32, ((200, 100),) * 20))
    assert before["aten::sqrt"] == 20
    assert after["aten::sqrt"] == -(-20 * 80_000 // (flattened.MOST // 80_000 * 80_000))


def test_one_array_of_those_joined_that_is_kept_does_not_keep_the_others() -> None:
    def function(p: Any, g: Any, m: Any, v: Any, count: Tensor) -> Any:
        after, m, v = adam(p, g, m, v, count)
        return m[1], m[1].reshape(-1), v, sum(one.sum() for one in after)

    before, after = both(function, *updated(torch.float32))
    assert before["aten::sqrt"] == 6 and after["aten::sqrt"] == 1 and after["aten::clone"] > before["aten::clone"]


# ---- what could go wrong -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_and_layers_that_depend_on_each_other_are_not_run_at_once(dtype: torch.dtype) -> None:
    def steps(p: list[Tensor], x: Tensor) -> list[Tensor]:
        for _ in range(3):
            g = torch.func.grad(lambda q: (torch.tanh(torch.tanh(x @ q[0]) @ q[1]) @ q[2]).square().mean())(p)
            p = [a - 0.1 * b / (b.abs() + 1e-3) for a, b in zip(p, g, strict=True)]
        return p

    p = [random(*shape, dtype=dtype) for shape in ((5, 7), (7, 7), (7, 2))]
    before, after = both(steps, p, random(6, 5, dtype=dtype), dtype=dtype)
    assert before["aten::div"] - after["aten::div"] >= 6  # three updates of three arrays, each once


@pytest.mark.usefixtures("always")
def test_a_chain_of_equal_operators_is_not_joined_with_itself() -> None:
    def chain(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(5):
            a, b = a * 1.5, b * 1.5
            b = b * a.sum()
        return a, b

    both(chain, random(4, 3), random(5))


@pytest.mark.usefixtures("always")
def test_results_inside_and_operands_in_common_are_right() -> None:
    def mixed(p: list[Tensor], x: Tensor) -> Any:
        a = [one * 2.0 + 1.0 for one in p]
        b = [one / (two + x) for one, two in zip(a, p, strict=True)]
        crossed = [b[0] - b[1], b[1] - b[0], b[2] - b[2]]
        return crossed, a[1].sum(), b[2] * x.sum(), (a[2] + x).cumsum(0)

    both(mixed, [random(6, seed=i) for i in range(3)], random(6, seed=9))


@pytest.mark.usefixtures("always")
def test_other_types_empty_arrays_and_single_numbers_stay() -> None:
    def function(p: list[Tensor], c: Tensor) -> list[Tensor]:
        return [(one * 3 + 1).sqrt() * c.to(one.dtype) for one in p]

    p = [random(4), random(5).double(), random(0, 3), random(), random(4, 1), random(3).double(), random(1)]
    before, after = both(function, p, random())
    assert before["aten::sqrt"] == 7 and after["aten::sqrt"] == 4  # of float32, of float64, the empty one, the number


@pytest.mark.usefixtures("always")
def test_a_number_for_every_copy_is_no_operand_of_a_flat_array() -> None:
    def function(p: list[Tensor], rate: Tensor) -> list[Tensor]:
        return [one * rate.reshape(-1, *[1] * (one.dim() - 1)) + 1.0 for one in p]

    both(function, [random(4, 3), random(4, 2, 2), random(4)], random(4))


@pytest.mark.usefixtures("always")
def test_transposed_and_spread_operands_are_read_in_their_order() -> None:
    def function(p: list[Tensor]) -> list[Tensor]:
        q = [p[0].T.contiguous() + p[0].T, p[1] + p[1].T, p[2].expand(3, 3) + p[1]]
        return [(one * 2.0 - 1.0).T @ one for one in q]

    both(function, [random(3, 4), random(3, 3), random(3)])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["mul", "add", "sub", "div", "sqrt", "fma", "mix", "scale", "spread"]), *[st.integers(0, 9)] * 3
    ),
    min_size=4,
    max_size=30,
)


def program(steps: Sequence[tuple[str, int, int, int]], p: list[Tensor], c: Tensor) -> list[Tensor]:
    """Operators on arrays of three shapes, each array of one shape read by others of it or, mixed, by those of another."""
    some = {place: [one, one * 0.5] for place, one in enumerate(p)}
    for name, which, i, j in steps:
        for place in range(len(p)) if which < 7 else [which % len(p)]:
            known = some[place]
            a, b = known[i % len(known)], known[j % len(known)]
            other = some[(place + 1) % len(p)][-1]
            known.append(
                {
                    "mul": lambda a=a, b=b: a * b,
                    "add": lambda a=a, b=b: a + 0.3 * b,
                    "sub": lambda a=a, b=b: a - b,
                    "div": lambda a=a, b=b: a / (b.abs() + 1.0),
                    "sqrt": lambda a=a, b=b: (a.abs() + 0.1).sqrt(),
                    "fma": lambda a=a, b=b: a + 0.7 * b * b,
                    "mix": lambda a=a, b=b, other=other: a * 0.1 + other.sum() * b,
                    "scale": lambda a=a, b=b: a * c,
                    "spread": lambda a=a, b=b: a.flip(0) + 1.0,
                }[name]()
            )
    return [one for known in some.values() for one in known[-3:]]


@pytest.mark.usefixtures("always")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_program_gives_the_same_bits(steps: list[tuple[str, int, int, int]]) -> None:
    p = [random(5, 3, dtype=torch.float64), random(7, dtype=torch.float64), random(2, 2, 2, dtype=torch.float64)]
    both(lambda p, c: program(steps, p, c), p, random(dtype=torch.float64), dtype=torch.float64)


# ---- operators, and joins ----------------------------------------------------------------------------------------


def given_to(operator: Any, values: Sequence[Tensor], number: Tensor | None) -> Tensor:
    """The operator on arrays, or with a number on the device in place of the second."""
    kinds = [a.type for a in operator._schema.arguments if not a.kwarg_only and a.default_value is None]
    arrays = iter([values[0], number, *values[1:]] if number is not None else values)
    given = [next(arrays) if isinstance(kind, torch.TensorType) else 0.37 for kind in kinds]
    given += [0.0] * (operator is aten.threshold_backward.default and len(given) < 3)
    named = {a.name: 0.73 for a in operator._schema.arguments if a.name in ("alpha", "value") and number is None}
    made: Tensor = operator(
        *given, **(named if operator not in (aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar) else {})
    )
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", sorted(EXACT, key=str), ids=str)
def test_a_number_has_the_same_bits_wherever_it_is(operator: Any, dtype: torch.dtype) -> None:
    values = [random(1031, dtype=dtype, seed=seed).abs() for seed in range(3)]
    for number in (None, random(dtype=dtype)) if operator in SCALED else (None,):
        whole = given_to(operator, values, number)
        for size in (1, 7, 37):
            parts = [given_to(operator, part, number) for part in zip(*[v.split(size) for v in values], strict=True)]
            assert same_bits(whole, torch.cat(parts)), (str(operator), size)
        spread = given_to(operator, [torch.stack([v, v], 1)[:, 0] for v in values], number)
        assert same_bits(whole, spread)


def test_arrays_side_by_side_are_joined_without_a_copy() -> None:
    whole = torch.arange(24.0)
    parts = list(aten.unflatten_dense_tensors.default(whole, [torch.empty(2, 3), torch.empty(4), torch.empty(7, 2)]))
    assert torch.equal(joined(parts), whole) and joined(parts).data_ptr() == whole.data_ptr()
    assert torch.equal(joined(parts[1:]), whole[6:]) and joined(parts[1:]).data_ptr() == parts[1].data_ptr()
    swapped = [parts[1], parts[0]]
    assert torch.equal(joined(swapped), torch.cat([whole[6:10], whole[:6]]))
    assert torch.equal(joined([parts[0], parts[2]]), torch.cat([whole[:6], whole[10:]]))


def test_arrays_that_only_look_as_if_side_by_side_are_copied() -> None:
    turned = torch.arange(10.0)
    parts = [turned[:6].view(2, 3).T, turned[6:]]  # at the right places, in another order
    assert torch.equal(joined(parts), torch.cat([parts[0].reshape(-1), parts[1]]))
    memory = bytearray(80)
    other = [torch.frombuffer(memory, dtype=torch.float32, count=10, offset=at) for at in (0, 40)]
    other[0].copy_(turned), other[1].copy_(turned + 10)
    assert other[0].untyped_storage().nbytes() == 40  # two memories, one behind the other
    found = joined(other)
    assert torch.equal(found, torch.arange(20.0)) and found.data_ptr() != other[0].data_ptr()


# ---- recipes -----------------------------------------------------------------------------------------------------

RECIPE = """recipe two
use net = mlp(1, 20, 20, 1)
use tasks = sine(shots = 10, queries = 10)
level top {
  theta : params(net)
  each task ~ tasks.train[4]
  level fit {
    w : params(net) from theta
    minimize mean(mse(net[w](task.support.x), task.support.y))
    by adam(lr = 0.01) for 4 steps
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by adam(lr = 0.01) for 3 steps
}
schedule { fit : MODE }"""


@pytest.fixture(params=["rmd", "rmd(store = residuals)"])
def text(request: pytest.FixtureRequest) -> str:
    return RECIPE.replace("MODE", request.param)


def ran(text: str) -> tuple[list[Tensor], Any, list[int]]:
    """Weights, hypergradient and state after three outer steps; the operators of the kernels."""
    program = bilevel.compile(parse(text, "t.bl"), compile="fx", calibration=reference(), dtype=torch.float64)
    (phase,), key = program.phases, make_key(0)
    state = phase.begin(key)
    with torch.no_grad(), program.kernels.running():
        for _ in range(3):
            state, _ = phase.step(state, key)
        gradient, _ = phase.hypergradient(state, key)
    return leaves_of(gradient), state, [one.operators for one in program.kernels.made]


def test_a_recipe_gives_the_same_hypergradients_and_saves_no_more_bytes(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    gradient, state, fewer = ran(text)
    monkeypatch.setattr(compilers, "flattened", lambda module: module)
    expected, plain, more = ran(text)
    assert sum(fewer) < sum(more)
    assert all(same_bits(a, b) for a, b in zip(gradient, expected, strict=True))
    for one, name in ((state, "flat"), (plain, "plain")):
        torch.save([*leaves_of(one._asdict())], tmp_path / name)
    assert (tmp_path / "flat").stat().st_size <= 1.1 * (tmp_path / "plain").stat().st_size
