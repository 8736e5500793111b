"""tanh written out for Inductor: right to a few units in the last place, over the range of float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.trace import compilers
from bilevel.backends.torch_func.trace.elementary import LIMIT, written_out
from bilevel.backends.torch_func.trace.graph import Traced, trace
from bilevel.backends.torch_func.trace.nodes import aten

WORST = 6.7
"""6.66, found over all numbers from 0 to 9"""
SPECIAL = torch.tensor(
    [0.0, -0.0, 1e-45, -1e-40, 1e-38, 3e-37, 1e-30, 1e-4, LIMIT, -LIMIT, 8.0, 1e30, math.inf, -math.inf, math.nan]
)


def traced(x: Tensor) -> Traced:
    return trace(torch.tanh, (x,), [x], x.dtype)


def units(found: Tensor, exact: Tensor) -> Tensor:
    """The distance in units of the last place of float32 numbers."""
    exponent = torch.frexp(exact.float())[1].clamp(min=-125)
    return (found.double() - exact).abs() / torch.ldexp(torch.ones_like(exact), exponent - 24)


def floats(first: float, last: float, step: int) -> Tensor:
    """Each `step`-th float32 between two positive numbers, and its negative."""
    ends = torch.tensor([first, last], dtype=torch.float32).view(torch.int32).tolist()
    found = torch.arange(*ends, step, dtype=torch.int32).view(torch.float32)
    return torch.cat([found, -found])


@pytest.mark.parametrize(("first", "last"), [(1e-45, 1e-10), (1e-10, 1e-2), (1e-2, LIMIT), (LIMIT, 3e38)])
def test_tanh_is_right_to_a_few_units_in_the_last_place(first: float, last: float) -> None:
    """Evaluated by fx, operator by operator, which rounds as a loop of the same operators does."""
    x = floats(first, last, 397)
    (found,) = written_out(traced(x).module)(x)
    assert float(units(found, torch.tanh(x.double())).max()) < WORST
    assert float(found.abs().max()) <= 1.0
    assert torch.equal(found[: len(x) // 2], -found[len(x) // 2 :])


def test_tanh_of_special_numbers() -> None:
    (found,) = written_out(traced(SPECIAL).module)(SPECIAL)
    exact = torch.tanh(SPECIAL.double())
    assert torch.equal(found.isnan(), SPECIAL.isnan())
    assert torch.equal(torch.signbit(found[:-1]), torch.signbit(SPECIAL[:-1]))
    assert torch.equal(found[-7:-1], exact[-7:-1].sign().float())
    assert float(units(found[:-1], exact[:-1]).max()) < WORST


def test_only_tanh_of_float32_is_written_out() -> None:
    for x in (torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float16)):
        module = traced(x).module
        assert written_out(module) is module
    given = traced(torch.ones(2)).module
    assert not any(node.target is aten.tanh.default for node in written_out(given).graph.nodes)
    assert any(node.target is aten.tanh.default for node in given.graph.nodes)  # what fx runs stays as it was


@pytest.mark.skipif(compilers.compiler() is None, reason="no C++ compiler")
def test_inductor_computes_what_was_written_out() -> None:
    x = torch.cat([SPECIAL, floats(1e-3, 9.0, 100_003)])
    one = traced(x)
    (expected,) = written_out(one.module)(x)
    (found,) = compilers.compiled(one, [x], "inductor")(x)
    assert torch.equal(found.nan_to_num(2.0), expected.nan_to_num(2.0))
    (library,) = compilers.compiled(one, [x], "fx")(x)
    assert torch.equal(library.nan_to_num(2.0), torch.tanh(x).nan_to_num(2.0))
