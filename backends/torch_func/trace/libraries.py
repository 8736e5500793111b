"""Who multiplies the matrices of a graph on a CPU: the library behind `torch.mm`, oneDNN, or a loop of ours.

Each sums in an order of its own: values differ by rounding, and are the same in every run, since nothing is chosen by
timing.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import fx

from bilevel.backends.torch_func.trace import onednn
from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, replace, same_shape, tensor_of
from bilevel.backends.torch_func.trace.products import PRODUCTS, last_two
from bilevel.backends.torch_func.trace.small import NUMBERS, lowered, small

LEAST = 4
"""The least rows, columns and inner length for the loop of ours; Inductor makes sums of products of less."""
MOST = 1 << 21
"""The most multiplications of one pair of matrices for that loop where both rows and columns are many, or MKL is fast."""
PANEL = 1 << 17
"""The most numbers of a right factor for it then."""
NARROW = 128
"""The most rows, or columns, of a product for that loop whatever else its size, where MKL is slow.

On one core of such a processor, GFLOP/s in float32 (float64 about half, twice those of `torch.mm`):

    rows, inner axis, columns            by `torch.mm`   oneDNN    the loop
    5000 x 784 by 784 x 32                         80      190         220
    32 x 5000 by 5000 x 784                        80      165         210   the left factor a transposed array
    784 x 5000 by 5000 x 32                        80       55         200   the same
    784 x 2000 by 2000 x 64                        90       95         170   the same
    5000 x 32 by 32 x 10                           25       35          85
    2000 x 128 by 128 x 784                        50      210         215

With 256 columns neither is faster than the other but for transposed left factors.
"""
SHARED = 1 << 18
"""Multiplications from which more than one thread pays."""
LARGE = 1 << 19
"""Multiplications from which oneDNN is worth a call that takes longer to begin."""
WIDE = 8
"""The least rows and columns for oneDNN: products with vectors are as fast as memory in both."""


def chosen(module: fx.GraphModule, inductor: bool) -> fx.GraphModule:
    """The graph with every product given to who is fastest at it; changes the graph."""
    nodes = [n for n in module.graph.nodes if n.op == "call_function" and _is_here(n)]
    given_away = [_choose(node, inductor) for node in nodes if node.target in PRODUCTS]
    if not inductor:
        given_away += [_choose_added(node) for node in nodes if node.target is aten.addmm.default]
    if any(given_away):
        module.graph.eliminate_dead_code()
        module.recompile()
    return module


def _is_here(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and value.device.type == "cpu" and value.dtype in NUMBERS


def _choose(node: fx.Node, inductor: bool) -> bool:
    """Whether a product was given to another library."""
    left, right = (_unturned(factor) for factor in arguments(node))
    if inductor and left and right and _is_small(node):
        lowered()
        whole, added, scale = _sum_of(node)
        replace(whole, insert(whole, small, left[0], right[0], added, scale, left[1], right[1], _threads(node)))
        return True
    if _is_large(node) and onednn.is_faster():
        one, other = arguments(node)
        turned = arguments(other)[0] if last_two(other) else insert(node, aten.t.default, other)
        replace(node, onednn.call(node, one, turned, inductor))
        return True
    return False


def _choose_added(node: fx.Node) -> bool:
    """Whether bias + a @ b, where the bias is a row, was given to oneDNN, which does it in one call."""
    bias, one, other = arguments(node)
    value = tensor_of(bias)
    if value is None or value.dim() != 1 or node.kwargs or not _is_large(node) or not onednn.is_faster():
        return False
    turned = arguments(other)[0] if last_two(other) else insert(node, aten.t.default, other)
    replace(node, onednn.call(node, one, turned, False, bias))
    return True


def _unturned(factor: fx.Node) -> tuple[fx.Node, bool] | None:
    """A factor before its last two axes were swapped, and whether they were; None where it is not contiguous."""
    value: Any = arguments(factor)[0] if last_two(factor) else factor
    found = tensor_of(value)
    return None if found is None or not found.is_contiguous() else (value, value is not factor)


def _sum_of(product: fx.Node) -> tuple[fx.Node, fx.Node | None, float]:
    """The sum that a product goes into alone, with what is added, and the number that it is multiplied with before."""
    scaled, scale = _scaled(product)
    after = next(iter(scaled.users), None) if len(scaled.users) == 1 else None
    if after is None or after.target not in (aten.add.Tensor, aten.sub.Tensor) or after.kwargs:
        return product, None, 1.0
    first, second = arguments(after)
    is_difference = after.target is aten.sub.Tensor
    other = first if second is scaled else second
    value = tensor_of(other)
    if value is None or not value.is_contiguous() or not same_shape(other, after) or not same_shape(product, after):
        return product, None, 1.0
    if is_difference and first is scaled:
        return product, None, 1.0
    return after, other, -scale if is_difference else scale


def _scaled(product: fx.Node) -> tuple[fx.Node, float]:
    """The product, or what it is multiplied with a number to where nothing else reads it; and that number."""
    after = next(iter(product.users), None) if len(product.users) == 1 else None
    if after is not None and after.target is aten.mul.Tensor:
        numbers = [a for a in arguments(after) if isinstance(a, int | float)]
        if numbers:
            return after, float(numbers[0])
    return product, 1.0


def _sizes(node: fx.Node) -> tuple[int, int, int, int]:
    """How many pairs of matrices; rows, length of the inner axis and columns of each."""
    left, right = (tensor_of(factor) for factor in arguments(node)[-2:])
    if left is None or right is None:
        return 0, 0, 0, 0
    return left.shape[0] if left.dim() == 3 else 1, *left.shape[-2:], right.shape[-1]


def _is_small(node: fx.Node) -> bool:
    _, rows, inner, columns = _sizes(node)
    if min(rows, inner, columns) < LEAST:
        return False
    if min(rows, columns) <= NARROW and onednn.is_faster():
        return True
    return rows * inner * columns <= MOST and inner * columns <= PANEL


def _threads(node: fx.Node) -> int:
    """Threads share pairs of matrices, or rows or columns of one, never a sum: the bits do not depend on how many there are."""
    multiplications = prod(_sizes(node))
    return 1 if multiplications < SHARED else min(2 * multiplications // SHARED, torch.get_num_threads())


def _is_large(node: fx.Node) -> bool:
    value, (_, rows, inner, columns) = tensor_of(node), _sizes(node)
    if node.target not in (aten.mm.default, aten.addmm.default) or value is None or value.dtype != torch.float32:
        return False
    return min(rows, columns) >= WIDE and inner >= WIDE and rows * inner * columns >= LARGE
