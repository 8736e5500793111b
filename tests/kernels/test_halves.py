"""A step with its way back as two kernels: the same numbers to 1e-12, nothing computed twice, a wrong one noticed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vjp

from bilevel.backends.torch_func.trace import pulled
from bilevel.backends.torch_func.trace.graph import Traced, trace
from bilevel.backends.torch_func.trace.halves import Half, halves, random_like
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.backends.torch_func.trace.signature import flatten
from bilevel.backends.torch_func.tree import leaves
from bilevel.errors import RecipeError
from tests.kernels.tools import with_kernels
from tests.zoo.compiled import compile_text

FLOAT = torch.float64
RECIPE = """recipe two
level top {
  x : real[3] from [0.7, -0.2, 0.4]
  level fit {
    w : real[3] from 0.5 * x
    v : real[2] from [0.1, 0.3]
    minimize sum(w^4) + k * 0.1 * sqnorm(w - x) + sum(v)^2 * sum(w * x) + sqnorm(v)
    by adam(lr = 0.05, beta1 = 0.8) for k in 1..16 steps
  }
  minimize sqnorm(w - 1) + sum(v) + n * 0.01 * sqnorm(x)
  by sgd(lr = 0.1) for n in 1..20 steps
}
schedule { fit : MODE }"""


def pulled_step(weight: Tensor, rate: Tensor, x: Tensor) -> Any:
    """A gradient step of a network of one layer with its vjp."""

    def move(weight: Tensor, rate: Tensor) -> Tensor:
        slope = grad(lambda w: (torch.tanh(x @ w) ** 2).mean())(weight)
        return weight - rate * slope

    return vjp(move, weight, rate)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(sum(shape)))


ARGUMENTS = random(5, 3), random(5, 3), random(7, 5)


def traced_whole() -> tuple[Traced, int]:
    def whole(*given: Tensor) -> Any:
        result, pull = pulled_step(*given[:-1])
        return result, pull(given[-1])

    found = list[Any]()
    given = (*ARGUMENTS, random_like(ARGUMENTS[0]))
    flatten(given, found)
    return trace(whole, given, found, FLOAT), len(ARGUMENTS)


def operators(traced: Traced) -> Counter[str]:
    return Counter(node.target.__name__ for node in traced.module.graph.nodes if node.op == "call_function")


def test_the_halves_share_the_work_of_the_whole() -> None:
    traced, first = traced_whole()
    ahead, back = halves(traced, first)
    both, whole = operators(ahead.traced) + operators(back.traced), operators(traced)
    for name in ("mm.default", "tanh.default"):
        assert both[name] == whole[name]
    assert both["tanh.default"] == operators(ahead.traced)["tanh.default"] == 1
    assert operators(ahead.traced)["mm.default"] >= 2 and operators(back.traced)["mm.default"] >= 2
    assert all(place < first for place in ahead.traced.inputs)


def test_the_kernels_give_what_the_function_gives() -> None:
    kernels = Kernels("fx", FLOAT, torch.device("cpu"))
    pair = kernels.pulled(pulled_step)
    for number in range(3):
        given = tuple(value + number for value in ARGUMENTS)
        result, pull = pair(*given)
        expected, pull_plainly = pulled_step(*given)
        cotangent = random(5, 3) - number
        for a, b in zip((result, *pull(cotangent)), (expected, *pull_plainly(cotangent)), strict=True):
            assert float((a - b).norm()) <= 1e-12 * float(b.norm())
    assert [one.reason for one in kernels.made] == [""]


def test_a_pull_is_that_of_its_own_call() -> None:
    pair = Kernels("fx", FLOAT, torch.device("cpu")).pulled(pulled_step)
    first, second = ARGUMENTS, tuple(2 * value for value in ARGUMENTS)
    (_, pull), (_, pull_second) = pair(*first), pair(*second)
    for given, found in ((first, pull), (second, pull_second)):
        expected = pulled_step(*given)[1](random(5, 3))
        for a, b in zip(found(random(5, 3)), expected, strict=True):
            assert float((a - b).norm()) <= 1e-12 * float(b.norm())


@pytest.mark.parametrize("kind", ["fx", "inductor"])
def test_kept_residuals_give_the_hypergradient(kind: Any) -> None:
    found = []
    for mode, used in (("rmd", "none"), ("rmd(store = residuals)", "none"), ("rmd(store = residuals)", kind)):
        compiled = compile_text(RECIPE.replace("MODE", mode))
        ((phase,), kernels) = with_kernels(compiled, used)
        with torch.no_grad():
            state = phase.begin(compiled.key())
            for _ in range(2):
                state = phase.step(state, compiled.key())[0]
            found.append(leaves(phase.hypergradient(state, compiled.key())[0]))
    (made,) = (one for one in kernels.made if one.name == "fit_pulled")
    assert made.run is not None, made.reason
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert float((a - b).norm()) <= 1e-12 * float(b.norm())


@pytest.mark.parametrize("half", [0, 1])
def test_a_wrong_half_ends_the_run(half: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(traced: Traced, first: int) -> tuple[Half, Half]:
        found = halves(traced, first)
        module = found[half].traced.module
        node = next(n for n in module.graph.nodes if n.target is torch.ops.aten.mul.Tensor)
        with module.graph.inserting_after(node):
            other = module.graph.call_function(torch.ops.aten.mul.Tensor, (node, 1.001))
        node.replace_all_uses_with(other)
        other.args = (node, 1.001)
        module.recompile()
        return found

    monkeypatch.setattr(pulled, "halves", wrong)
    with pytest.raises(RecipeError, match="pulled_step"):
        Kernels("fx", FLOAT, torch.device("cpu")).pulled(pulled_step)(*ARGUMENTS)


@pytest.mark.parametrize("window", [1, 7, 40])
def test_the_residuals_of_a_window_give_what_its_iterates_give(window: int) -> None:
    found = []
    for store, used in (("", "none"), (", store = residuals", "none"), (", store = residuals", "fx")):
        compiled = compile_text(RECIPE.replace("MODE", f"rmd(window = {window}{store})"))
        kind: Any = used
        ((phase,), _) = with_kernels(compiled, kind)
        with torch.no_grad():
            found.append(leaves(phase.hypergradient(phase.begin(compiled.key()), compiled.key())[0]))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert float((a - b).norm()) <= 1e-12 * float(b.norm())


def test_the_fewest_bytes_are_kept() -> None:
    """Of a layer with tanh: its products and the tanh, whatever more is made of them, and the weight for nothing."""
    traced, first = traced_whole()
    ahead, _ = halves(traced, first)
    outputs = list(ahead.traced.module.graph.nodes)[-1].args[0]
    kept = outputs[len(outputs) - ahead.kept :]
    names = [node.target.__name__ for node in kept]
    assert sorted(names) == ["mm.default", "tanh.default"], names  # the slope is what the rate is multiplied with
