"""Matrix products by oneDNN, which torch has on CPUs for convolutions and linear layers.

MKL, behind `torch.mm`, uses vectors of 64 bytes on Intel's processors only. On one core of another (AMD EPYC, AVX-512)
it stays at 110 GFLOP/s, where oneDNN reaches 240: 5000 x 784 by 784 x 32 in 1.0 in place of 2.8 ms. A call takes 10 us
longer.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.nodes import insert
from bilevel.backends.torch_func.trace.operators import LIBRARY

NAME = "bilevel_linear"
"""The name under which Inductor's code finds the product."""

LIBRARY.define("linear(Tensor a, Tensor b) -> Tensor")


def linear(a: Tensor, b: Tensor) -> Tensor:
    """(rows, columns): a @ b.T of float32, by oneDNN."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b, None, "none", [], "")
    return made


def _empty(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[0]))


LIBRARY.impl("linear", linear, "CPU")
LIBRARY.impl("linear", _empty, "Meta")  # `register_fake` looks for its own line in the sources of all modules


def call(before: fx.Node, a: fx.Node, b: fx.Node, inductor: bool, bias: fx.Node | None = None) -> fx.Node:
    """A node for a @ b.T: of our operator where Inductor compiles it (it lowers torch's for constant `b` only).

    `bias`: a row that is added to every row, by torch's operator alone.
    """
    if inductor:
        lowered()
        return insert(before, torch.ops.bilevel.linear.default, a, b)
    return insert(before, torch.ops.mkldnn._linear_pointwise.default, a, b, bias, "none", [], "")


@cache
def lowered() -> None:
    """Tell Inductor, once, that the operator is a call."""
    from torch._inductor import ir
    from torch._inductor.lowering import register_lowering
    from torch._inductor.select_algorithm import ExternKernelChoice

    choice: Any = ExternKernelChoice(linear, name=NAME, has_out_variant=False)

    @register_lowering(torch.ops.bilevel.linear.default, type_promotion_kind=None)
    def lower(a: Any, b: Any) -> Any:
        a, b = ir.ExternKernel.realize_input(a), ir.ExternKernel.realize_input(b)
        layout = ir.FixedLayout(a.get_device(), a.get_dtype(), [a.get_size()[0], b.get_size()[0]])
        return choice.bind((a, b), layout).output_node()


@cache
def is_faster() -> bool:
    """Whether this is a processor with AVX-512 for which MKL has no 64-byte vectors, and torch has oneDNN."""
    backends: Any = torch.backends
    is_wide = backends.cpu.get_cpu_capability() == "AVX512" and backends.mkl.is_available()
    return is_wide and backends.mkldnn.is_available() and not _is_intel()


def _is_intel() -> bool:
    """By its name in /proc; unknown makers count as Intel, for whom nothing is changed."""
    path = Path("/proc/cpuinfo")
    return not path.exists() or "GenuineIntel" in path.read_text(encoding="utf-8", errors="replace")
