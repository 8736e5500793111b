"""What is said of a kernel without making it: the operators that are left, and the bytes alive beside those counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from benchmarks.live_bytes import peak_bytes
from bilevel.backends.torch_func.keyed import make_key
from bilevel.costs import Cost, reference
from bilevel.graphs import Graph, graph, halved
from bilevel.meter import Meter
from bilevel.program import Program
from bilevel.recipe import parse
from bilevel.table import totals

SIZE = 1000
BYTES = 4 * SIZE


def asked(function: Callable[..., Any]) -> Graph:
    """The graph of a function of one vector of `SIZE` numbers."""
    meter = Meter()
    meter.asked = []
    given = torch.empty(SIZE, device="meta")
    with torch.no_grad(), meter:
        result = function(given)
    return graph(meter.asked, [meter.array(result).number])


def test_what_no_result_needs_is_left_out_and_what_occurs_twice_is_there_once() -> None:
    def function(x: Tensor) -> Tensor:
        x.exp().sum()
        return x.sin() * x.sin()

    assert [one.target for one in asked(function).asked] == [torch.ops.aten.sin.default, torch.ops.aten.mul.Tensor]


def test_sums_with_zeros_and_products_with_ones_are_left_out() -> None:
    def function(x: Tensor) -> Tensor:
        nothing = torch.zeros_like(x) * x.exp()
        return (x.cos() + nothing) * torch.ones_like(x) - nothing.neg()

    assert [one.target for one in asked(function).asked] == [torch.ops.aten.cos.default]


def test_an_array_is_given_back_after_its_last_reader() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(5):
            x = x.sin()
        return x

    def kept(x: Tensor) -> Tensor:
        first = x.cos()
        return chain(x) * first

    assert asked(chain).memory.peak == 2 * BYTES
    assert asked(kept).memory.peak == 3 * BYTES


def test_what_was_written_to_is_another_array_for_those_that_read_it_later() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.sin()
        before = y.cos()
        y.add_(1.0)
        return before + y.cos()

    assert asked(function).work.operators == 5


def test_halves_keep_what_is_dear_to_compute_again_and_nothing_else() -> None:
    meter = Meter()
    meter.asked = []
    x, cotangent = torch.empty(SIZE, device="meta"), torch.empty(SIZE, device="meta")
    with torch.no_grad(), meter:
        product = x.sin()
        result = product.exp() + 1.0
        first = len(meter.asked)
        pulled = cotangent * (2.0 * product) * result
    numbers = [meter.array(one).number for one in (result, pulled, cotangent)]
    found = halved(meter.asked[:first], meter.asked[first:], *([number] for number in numbers))
    assert found.kept == BYTES
    assert (
        found.ahead.work.operators == 4 and found.back.work.operators == 2
    )  # twice the product is made before the cut


# ---- bytes alive, predicted and counted ----------------------------------------------------------------------

NETWORK = """recipe two
use net = mlp(1, 30, 30, 1)
use tasks = sine(shots = 10, queries = 10)
level top {
  theta : params(net)
  each task ~ tasks.train[4]
  level fit {
    w : params(net) from theta
    minimize mean(mse(net[w](task.support.x), task.support.y))
    by sgd(lr = 0.01) for 12 steps
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by sgd(lr = 0.01) for 1 step
}
schedule { fit : MODE }"""
DECAYS = """recipe three
level top {
  r : real[20_000] in positive from 0.1
  level fit {
    w : real[20_000] from 0
    minimize 0.5 * sqnorm(w - 1) + 0.5 * sum(exp(r) * w^2)
    by adam(lr = 0.05, beta1 = 0.8) for 12 steps
  }
  minimize 0.5 * sqnorm(w - 0.7)
  by sgd(lr = 0.1) for 1 step
}
schedule { fit : MODE }"""
MODES = ("rmd", "rmd(checkpoint = sqrt)", "rmd(store = residuals)", "rmd(checkpoint = sqrt, store = residuals)")


def made(text: str, mode: str) -> Program:
    return bilevel.compile(parse(text.replace("MODE", mode), "t.bl"), compile="fx", calibration=reference())


def cost(program: Program) -> Cost:
    found = program.plan.choices["fit"].cost
    assert found is not None
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", [NETWORK, DECAYS])
def test_predicted_peaks_are_within_a_quarter_of_the_bytes_that_kernels_have_alive(text: str, mode: str) -> None:
    program = made(text, mode)
    (phase,) = program.phases
    key = make_key(0)
    state = phase.begin(key)
    with torch.no_grad(), program.kernels.running():
        phase.hypergradient(state, key)  # kernels are made, and compared with functions as they are
        counted = peak_bytes(lambda: phase.hypergradient(state, key))
    assert cost(program).peak == pytest.approx(counted, rel=0.25)


def test_the_first_step_holds_what_functions_as_they_are_hold_and_has_to_fit_too() -> None:
    program = made(DECAYS, "rmd(store = residuals)")
    (phase,) = program.phases
    key = make_key(0)
    state = phase.begin(key)
    with torch.no_grad():
        counted = peak_bytes(lambda: phase.hypergradient(state, key))
    work = cost(program).work
    assert work is not None and work.first == pytest.approx(counted, rel=0.25)
    assert work.first > 1.2 * work.peak and cost(program).needs == work.first
    assert "in the first, which compares the kernels with their functions" in "\n".join(totals(program.plan))
