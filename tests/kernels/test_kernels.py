"""What may become a kernel, what may not, and what is noticed when one is wrong."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.plainly import Count
from bilevel.backends.torch_func.trace import graph, kernels
from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.backends.torch_func.trace.signature import flatten
from bilevel.backends.torch_func.tree import leaves
from bilevel.errors import RecipeError
from tests.kernels.tools import with_kernels
from tests.zoo.compiled import compile_text

FLOAT = torch.float64
TWO = """recipe two
level top {
  x : real[3] from [0.7, -0.2, 0.4]
  level fit {
    w : real[3] from 0.5 * x
    minimize sum(w^4) + k * 0.1 * sqnorm(w - x)
    by adam(lr = 0.05, beta1 = 0.8) for k in 1..6 steps
  }
  minimize sqnorm(w - 1) + n * 0.01 * sqnorm(x)
  by sgd(lr = 0.1) for n in 1..20 steps
}"""


def made(function: Any) -> tuple[Any, Kernels]:
    """A function with fx kernels."""
    found = Kernels("fx", FLOAT, torch.device("cpu"))
    return found.kernel(function), found


def test_a_kernel_is_used_for_arguments_of_the_same_form_only() -> None:
    calls = list[int]()

    def f(tree: dict[str, Tensor], power: int) -> Tensor:
        calls.append(power)
        return tree["a"] ** power + tree["b"]

    kernel, kept = made(f)
    a, b = torch.rand(3, dtype=FLOAT), torch.rand(3, dtype=FLOAT)
    for power in (2, 2, 3, 2, 3):
        assert torch.equal(kernel({"a": a, "b": b}, power), a**power + b)
    assert len(kept.made) == 2
    kernel({"a": a[:2], "b": b[:2]}, 2)
    assert len(kept.made) == 3
    before = len(calls)
    kernel({"a": a, "b": a}, 2)
    assert len(calls) == before, "the function itself ran again"


def test_the_same_tensor_twice_is_traced_as_two() -> None:
    """Tracing takes identical inputs for one: the kernel would forget which is which."""
    kernel, _ = made(lambda a, b: a - 2 * b)
    same = torch.rand(4, dtype=FLOAT)
    kernel(same, same)
    other = torch.rand(4, dtype=FLOAT)
    assert torch.equal(kernel(same, other), same - 2 * other)


def test_numbers_of_steps_are_inputs() -> None:
    def f(x: Tensor, steps: Any, count: Any) -> list[Tensor]:
        return [x * 0.5 ** (step + 1) + count for step in steps]

    kernel, kept = made(f)
    x = torch.rand(2, dtype=FLOAT)
    for first in (0, 3, 40):
        found = kernel(x, range(first, first + 2), Count(first + 7))
        for place, value in enumerate(found):
            assert torch.allclose(value, x * 0.5 ** (first + place + 1) + first + 7, rtol=1e-14)
    assert len(kept.made) == 1


def test_a_function_that_looks_at_values_runs_as_it_is() -> None:
    def f(x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    kernel, kept = made(f)
    for x in (torch.ones(2), -torch.ones(2)):
        assert torch.equal(kernel(x), torch.ones(2))
    assert kept.made[0].run is None
    assert kept.made[0].reason == "its Python code looks at values"


def test_python_code_is_not_frozen_into_a_kernel() -> None:
    """numpy sees no tracing: what it computes while tracing must not be taken for the result."""
    kernel, kept = made(lambda x: torch.from_numpy(x.numpy() * 2))
    with suppress(RecipeError):
        assert torch.equal(kernel(torch.ones(2)), 2 * torch.ones(2))
        assert torch.equal(kernel(3 * torch.ones(2)), 6 * torch.ones(2))
    assert all(one.run is None for one in kept.made)


def test_a_function_that_tells_equal_arguments_apart_runs_as_it_is() -> None:
    """As the list of all domains but the one that is given does: a kernel knows values, not which object has them."""
    domains = [torch.ones(3), torch.full((3,), 2.0)]
    kernel, kept = made(lambda held: torch.stack([d for d in domains if d is not held]).sum())
    for _ in range(2):
        assert float(kernel(domains[0])) == 6.0
        assert float(kernel(domains[1])) == 3.0
    assert kept.made[0].run is None
    assert kept.made[0].reason == "equal arguments do not always give the same"


def test_data_outside_of_a_function_is_held_by_its_kernel() -> None:
    data = torch.rand(3)
    kernel, kept = made(lambda x: x * data + torch.tensor(0.5))
    x = torch.rand(3)
    kernel(x)
    assert torch.equal(kernel(x + 1), (x + 1) * data + 0.5)
    assert kept.made[0].run is not None


def test_inside_a_derivative_the_function_itself_runs() -> None:
    kernel, _ = made(lambda x: (x**3).sum())
    x = torch.rand(3, dtype=FLOAT)
    kernel(x)
    assert torch.allclose(torch.func.grad(kernel)(x), 3 * x**2)
    assert torch.allclose(torch.func.vmap(kernel)(x[:, None]), x**3)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kernel(leaf), leaf)
    assert torch.allclose(gradient, 3 * x**2)


def test_results_that_are_inputs_or_equal_keep_their_places() -> None:
    kernel, _ = made(lambda a, b: {"b": b, "sum": (a + b, a + b), "none": None, "a": a})
    a, b = torch.rand(2), torch.rand(2)
    found = kernel(a, b)
    assert found["b"] is b and found["a"] is a and found["none"] is None
    assert torch.equal(found["sum"][0], a + b) and torch.equal(found["sum"][1], a + b)


@pytest.mark.parametrize("part", ["one operator", "one constant"])
def test_a_wrong_kernel_ends_the_run(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One operator or one constant of the graph is changed behind our back, as a faulty compiler would."""
    right = graph.trace

    def wrong(*arguments: Any) -> Traced:
        traced = right(*arguments)
        for node in traced.module.graph.nodes:
            if part == "one operator" and node.target is torch.ops.aten.sub.Tensor:
                node.target = torch.ops.aten.add.Tensor
                break
            if part == "one constant" and node.target is torch.ops.aten.mul.Tensor and isinstance(node.args[1], float):
                node.args = (node.args[0], node.args[1] * 1.0001)
                break
        traced.module.recompile()
        return traced

    monkeypatch.setattr(kernels, "trace", wrong)
    compiled = compile_text(TWO)
    ((phase,), _) = with_kernels(compiled)
    with pytest.raises(RecipeError) as caught, torch.no_grad():
        phase.step(phase.begin(compiled.key()), compiled.key())
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "B711"
    assert "`top_" in diagnostic.message or "`fit_" in diagnostic.message


def test_rounding_alone_is_no_mismatch() -> None:
    """A sum that cancels: the order of summation decides every digit, and neither order is wrong."""
    x = 1e6 * torch.randn(300, dtype=FLOAT, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean()).to(torch.float32)
    assert float((x.sum() - x.flip(0).cumsum(0)[-1]).abs() / x.sum().abs()) > 1e-2
    kernel = kernels.Kernel(Kernels("fx", torch.float32, torch.device("cpu")), lambda a: a.sum())
    kernel.check((x,), [x], x.sum(), x.flip(0).cumsum(0)[-1])
    with pytest.raises(RecipeError):
        kernel.check((x.abs(),), [x.abs()], x.abs().sum(), x.abs().sum() * 1.001)


def test_many_steps_make_no_kernel_and_hold_no_memory() -> None:
    """Counters of both levels change in every step; tensors that are held afterwards are those before."""
    compiled = compile_text(TWO)
    ((phase,), kept) = with_kernels(compiled)
    key, state = compiled.key(), phase.begin(compiled.key())

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    with torch.no_grad():
        for _ in range(3):
            state, _ = phase.step(state, key)
        count, held = len(kept.made), tensors()
        for _ in range(15):
            state, _ = phase.step(state, key)
    assert len(kept.made) == count
    assert tensors() <= held


def test_steps_by_kernels_are_the_steps_of_the_functions() -> None:
    compiled = compile_text(TWO)
    ((phase,), _) = with_kernels(compiled)
    key = compiled.key()
    plain, traced = compiled.phase.begin(key), phase.begin(key)
    with torch.no_grad():
        for _ in range(5):
            plain, value = compiled.phase.step(plain, key)
            traced, other = phase.step(traced, key)
            assert float((value - other).abs() / value.abs()) < 1e-12
    for a, b in zip(leaves(plain.x), leaves(traced.x), strict=True):
        assert float((a - b).norm() / a.norm()) < 1e-12


def test_graphs_lose_what_changes_nothing() -> None:
    """A jvp of a gradient leaves products with tangents that are zero, aliases and products with 1."""

    def product(w: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return torch.func.jvp(torch.func.grad(lambda w: torch.nn.functional.linear(x, w).pow(2).sum()), (w,), (v,))[1]

    arguments = (torch.rand(2, 3, dtype=FLOAT), torch.rand(2, 3, dtype=FLOAT), torch.rand(5, 3, dtype=FLOAT))
    found = list[Any]()
    flatten(arguments, found)
    traced = graph.trace(product, arguments, found, FLOAT)
    names = [node.target for node in traced.module.graph.nodes if isinstance(node, fx.Node)]
    assert torch.ops.aten.alias.default not in names
    assert torch.ops.aten.zeros_like.default not in names
    (result,) = traced.module(*[arguments[place] for place in traced.inputs])
    assert torch.allclose(result, product(*arguments), rtol=1e-13)
    assert traced.size < 20


@pytest.mark.parametrize(("count", "wanted"), [(10, 5), (1_100_000, 1)])
def test_a_step_that_makes_much_is_a_kernel_of_its_own(count: int, wanted: int) -> None:
    x = torch.empty(count, dtype=torch.float64)
    made = Kernels("inductor", torch.float64, x.device)
    made.note_size("fit_run", graph.trace(lambda x: 2 * x, (x,), [x], torch.float64))
    assert made.sizes == {"fit": wanted}
