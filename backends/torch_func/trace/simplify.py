"""Operators that change nothing, taken out of a graph: copies of what nobody writes to, products with 1, sums with 0.

Forward over reverse leaves many: tangents of what is not varied are zeros, and a product with them is computed and
added all the same. Every rule gives the same numbers for finite values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
Rule = Callable[[fx.Node, set[fx.Node]], Any]

SAME = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
SHAPED = (aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.reshape.default)
ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten._efficientzerotensor.default)
ZEROS_LIKE = (aten._new_zeros_with_same_feature_meta.default,)
MOVED = (
    *SHAPED,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.select.int,
    aten.slice.Tensor,
    aten.clone.default,
    aten._to_copy.default,
    aten.neg.default,
    aten.sum.default,
    aten.sum.dim_IntList,
)
"""zeros stay zeros under these"""
PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.mm.default, aten.bmm.default)
ONES = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


def simplified(module: fx.GraphModule) -> fx.GraphModule:
    """The graph without what changes nothing; its nodes must carry fake values."""
    zero: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if _is_zero(node, zero):
            zero.add(node)
        same = _replacement(node, zero)
        if same is not None and _alike(same, node):
            node.replace_all_uses_with(same)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _is_zero(node: fx.Node, zero: set[fx.Node]) -> bool:
    """Whether all entries of a value are known to be 0."""
    tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
    if node.target in (*ZEROS, *ZEROS_LIKE):
        return True
    if node.target in MOVED:
        return tensors[0] in zero
    if node.target in PRODUCTS:
        return any(argument in zero for argument in tensors)
    return node.target in (aten.add.Tensor, aten.sub.Tensor) and len(tensors) == 2 and set(tensors) <= zero


def _replacement(node: fx.Node, zero: set[fx.Node]) -> fx.Node | None:
    """The value that an operator repeats, where it does."""
    first, second = (*node.args, None, None)[:2]
    if node.target in (*SAME, *SHAPED) or (node.target is aten._to_copy.default):
        return _node(first)
    if node.target is aten.copy.default and first in zero:
        return _node(second)
    if node.target in ONES and isinstance(second, int | float) and second == 1:
        return _node(first)
    if node.target is aten.add.Tensor and first in zero and not node.kwargs:
        return _node(second)
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and second in zero:
        return _node(first)
    return None


def _node(argument: Any) -> fx.Node | None:
    return argument if isinstance(argument, fx.Node) else None


def _alike(left: fx.Node, right: fx.Node) -> bool:
    """Whether two values have the same shape, layout, dtype and device."""
    a, b = left.meta.get("val"), right.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype and a.device == b.device
