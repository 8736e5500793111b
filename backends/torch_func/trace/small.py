"""Products of small or narrow matrices in one compiled loop (`small.cpp`), as an operator that Inductor can call.

The library behind `torch.bmm` on a CPU multiplies 25 pairs of 10 x 40 and 40 x 40 at 60 GFLOP/s on a core that does
240: each pair is a call with its own preparation, and on other processors than Intel's its vectors have 32 bytes. One
loop over all pairs, compiled for this processor, reaches 120 to 170. Where rows or columns are few it needs no copies of
the factors in blocks, as libraries make them, however long the other axes are: a factor is read where it lies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.trace.operators import LIBRARY

NUMBERS = {torch.float32: "float", torch.float64: "double"}
"""What the loop is compiled for, by its name in C++."""
NAME = "bilevel_small"
"""The name under which Inductor's code finds the loop."""

LIBRARY.define("small(Tensor a, Tensor b, Tensor? added, float scale, bool turn_a, bool turn_b, int threads) -> Tensor")


def _shape(a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> tuple[int, int, int]:
    """Rows, length of the inner axis, columns."""
    rows, inner = (a.shape[-1], a.shape[-2]) if turn_a else (a.shape[-2], a.shape[-1])
    return rows, inner, b.shape[-2] if turn_b else b.shape[-1]


def _empty(
    a: Tensor, b: Tensor, added: Tensor | None, scale: float, turn_a: bool, turn_b: bool, threads: int
) -> Tensor:
    rows, _, columns = _shape(a, b, turn_a, turn_b)
    return a.new_empty((*a.shape[:-2], rows, columns))


def multiplied(
    a: Tensor, b: Tensor, added: Tensor | None, scale: float, turn_a: bool, turn_b: bool, threads: int
) -> Tensor:
    """(..., rows, columns): added + scale * (a @ b), on the CPU, the last two axes of a factor swapped where asked.

    The scale counts only where something is added. Threads share the pairs, or the rows or columns
    of one, so that their number changes no bit.
    """
    out = _empty(a, b, added, scale, turn_a, turn_b, threads)
    given = [t.contiguous() for t in (a, b, added) if t is not None]
    into(*given, scale=_bits(scale), turn_a=turn_a, turn_b=turn_b, threads=threads, out=out)
    return out


LIBRARY.impl("small", multiplied, "CPU")
LIBRARY.impl("small", _empty, "Meta")  # `register_fake` looks for its own line in the sources of all modules
small: Any = torch.ops.bilevel.small.default


def _bits(number: float) -> int:
    """A float64 as a whole number of the same bits."""
    bits: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return bits


def into(
    a: Tensor,
    b: Tensor,
    added: Tensor | None = None,
    *,
    scale: int,
    turn_a: bool,
    turn_b: bool,
    threads: int,
    out: Tensor,
) -> None:
    """The same of contiguous arrays, written into `out`: what Inductor's code calls; the scale as the bits of a float64."""
    rows, inner, columns = _shape(a, b, turn_a, turn_b)
    count, plus = a.shape[0] if a.dim() == 3 else 1, out if added is None else added
    loop(a.dtype)(a, b, plus, out, scale, count, rows, inner, columns, added is not None, turn_a, turn_b, threads)


@cache
def loop(dtype: torch.dtype) -> Callable[..., None]:
    """The loop for one type of numbers, compiled at its first use and kept with Inductor's other code."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    number = NUMBERS[dtype]
    text = Path(__file__).with_suffix(".cpp").read_text(encoding="utf-8").replace("NUMBER", number)
    pointer = f"const {number}*"
    made: Callable[..., None] = CppPythonBindingsCodeCache.load_pybinding(
        [pointer, pointer, pointer, f"{number}*", *["int64_t"] * 9], text
    )
    return made


@cache
def lowered() -> None:
    """Tell Inductor, once, that the operator is a call with its result given and its factors contiguous."""
    from torch._inductor import ir
    from torch._inductor.lowering import register_lowering
    from torch._inductor.select_algorithm import ExternKernelChoice

    choice: Any = ExternKernelChoice(into, name=NAME)

    @register_lowering(small, type_promotion_kind=None)
    def lower(a: Any, b: Any, added: Any, scale: float, turn_a: bool, turn_b: bool, threads: int) -> Any:
        rows, columns = a.get_size()[-1 if turn_a else -2], b.get_size()[-2 if turn_b else -1]
        layout = ir.FixedLayout(a.get_device(), a.get_dtype(), [*a.get_size()[:-2], rows, columns])
        given = [t for t in (a, b, added) if t is not None]
        given = [ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(t)) for t in given]
        bound = choice.bind(given, layout, scale=_bits(scale), turn_a=turn_a, turn_b=turn_b, threads=threads)
        return bound.output_node()
