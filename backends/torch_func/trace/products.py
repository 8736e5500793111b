"""Thin matrix products written as products of entries, which Inductor fuses with what is around them.

A product with an axis of length 1 is no work for a matrix kernel: calling one costs more than the numbers it makes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten
LARGEST = 1_000_000
"""entries of the products of entries; beyond, memory would be the limit"""


def thinned(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with thin `bmm` and `mm` written out; its nodes must carry fake values."""
    for node in list(module.graph.nodes):
        if node.target in (aten.bmm.default, aten.mm.default):
            left, right = (argument.meta.get("val") for argument in node.args)
            if isinstance(left, Tensor) and isinstance(right, Tensor):
                _thin(module.graph, node, left, right)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _thin(graph: fx.Graph, node: fx.Node, left: Tensor, right: Tensor) -> None:
    """One product [..., m, k] [..., k, n] with m, k or n of length 1."""
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    if min(m, k, n) != 1 or left.numel() * n > LARGEST:
        return
    a, b = node.args
    with graph.inserting_before(node):
        if k == 1:
            made = graph.call_function(aten.mul.Tensor, (a, b))
        elif n == 1:
            turned = graph.call_function(aten.transpose.int, (b, -2, -1))
            made = _summed(graph, graph.call_function(aten.mul.Tensor, (a, turned)), -1)
        else:
            turned = graph.call_function(aten.transpose.int, (a, -2, -1))
            made = _summed(graph, graph.call_function(aten.mul.Tensor, (turned, b)), -2)
    made.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(made)


def _summed(graph: fx.Graph, product: fx.Node, axis: int) -> fx.Node:
    return graph.call_function(aten.sum.dim_IntList, (product, [axis], True))
