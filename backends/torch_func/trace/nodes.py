"""What the rewritings of graphs have in common: reading nodes and putting new ones in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

aten: Any = torch.ops.aten


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of an operator."""
    return node.args


def tensor_of(node: Any) -> Tensor | None:
    """The fake tensor that a node stands for."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def numel(node: fx.Node) -> int:
    """How many numbers a node has; 0 where it is no tensor."""
    value = tensor_of(node)
    return 0 if value is None else value.numel()


def alike(left: Any, right: fx.Node) -> bool:
    """Whether two values have the same shape, layout, dtype and device."""
    a, b = tensor_of(left), tensor_of(right)
    if a is None or b is None:
        return False
    return same_shape(left, right) and strides(a) == strides(b)


def strides(value: Tensor) -> list[int]:
    """The strides of the axes that have any."""
    return [stride for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1]


def same_shape(left: Any, right: fx.Node) -> bool:
    """Whether two values differ in layout at most."""
    a, b = tensor_of(left), tensor_of(right)
    return a is not None and b is not None and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def insert(before: fx.Node, target: Any, *given: Any, **named: Any) -> fx.Node:
    """A new node in front of another, with its fake value."""
    graph = before.graph
    with graph.inserting_before(before):
        node = graph.call_function(target, given, named)
    values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in given]
    values = [[v.meta["val"] if isinstance(v, fx.Node) else v for v in a] if isinstance(a, list) else a for a in values]
    node.meta["val"] = target(*values, **named)
    return node


def replace(node: fx.Node, by: fx.Node) -> None:
    """Let another node stand for this one, which is erased."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
