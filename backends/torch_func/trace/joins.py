"""Arrays that are taken apart and joined again between two steps of a run: the array itself, without either.

A solver of many coordinates works on one array, a level on its parts: each step ends with slices of what the next one
joins. The way back through slices is a sum of arrays as large as the whole, each with zeros around one part: a join of
the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.nodes import alike, arguments, aten, insert, replace, same_shape, tensor_of
from bilevel.backends.torch_func.trace.simplify import SHAPED


def rejoined(module: fx.GraphModule) -> fx.GraphModule:
    """The graph without joins of all slices of an array, and without slices that are a part of a join; the same bits."""
    for node in list(module.graph.nodes):
        found = _same(node)
        if found is None or not same_shape(found, node):
            continue
        if node.target is aten.cat.default and not alike(found, node):
            # what reads the join counts on its layout; a compiler makes no copy of this
            found = insert(node, aten.clone.default, found, memory_format=torch.contiguous_format)
        if alike(found, node):
            replace(node, found)
    module.graph.eliminate_dead_code()
    return module


def _same(node: fx.Node) -> fx.Node | None:
    """What a node repeats, or a join that gives the same."""
    if node.target is aten.cat.default:
        return _whole(node)
    return _joined_parts(node) if node.target is aten.add.Tensor else _part(node)


def _whole(node: fx.Node) -> fx.Node | None:
    """The array whose slices, all of them and in their order, a node joins."""
    parts, axis = _joined(node)
    slices = [_slice(_unshaped(part)) for part in parts]
    source, end = (slices[0][0], 0) if slices and slices[0] is not None else (None, 0)
    for found in slices:
        if found is None or source is None or found[0] is not source or found[1:3] != (axis, end):
            return None
        end = found[3]
    value = tensor_of(source)
    return source if value is not None and end == value.shape[axis] else None


def _part(node: fx.Node) -> fx.Node | None:
    """The array that a node takes out of a join of several."""
    found = _slice(node)
    if found is None or found[0].target is not aten.cat.default:
        return None
    (parts, axis), begin = _joined(found[0]), 0
    for part in parts:
        value = tensor_of(part)
        end = begin + (value.shape[axis] if value is not None else 0)
        if found[1:] == (axis, begin, end):
            return part
        begin = end
    return None


def _joined_parts(node: fx.Node) -> fx.Node | None:
    """The join of what a sum has side by side, where nothing is left between."""
    parts = [_padded(term) for term in _terms(node, node)]
    known = sorted((part for part in parts if part is not None), key=lambda part: part[1:])
    if len(known) < max(2, len(parts)) or len({axis for _, axis, _, _ in known}) != 1:
        return None
    axis = known[0][1]
    ends = [end for _, _, _, end in known]
    if [begin for _, _, begin, _ in known] != [0, *ends[:-1]] or ends[-1] != _value(node).shape[axis]:
        return None
    return insert(node, aten.cat.default, [part for part, _, _, _ in known], axis)


def _terms(node: fx.Node, top: fx.Node) -> list[fx.Node]:
    """What is added up, through sums that nothing else reads."""
    if node.target is not aten.add.Tensor or node.kwargs or not same_shape(node, top):
        return [node]
    if node is not top and len(node.users) > 1:
        return [node]
    values = arguments(node)
    if len(values) != 2 or not all(isinstance(value, fx.Node) and same_shape(value, top) for value in values):
        return [node]
    return [term for value in values for term in _terms(value, top)]


def _padded(node: fx.Node) -> tuple[fx.Node, int, int, int] | None:
    """The array, axis, begin and end of one that has zeros around it."""
    if node.target is not aten.slice_backward.default:
        return None
    part, shape, axis, begin, end, step = arguments(node)
    begin, end, step = slice(begin, end, step).indices(shape[axis])
    return (part, axis % len(shape), begin, end) if step == 1 and end > begin else None


def _joined(node: fx.Node) -> tuple[Sequence[fx.Node], int]:
    """What a node joins, and along which axis; nothing where the parts have other numbers of axes."""
    parts, axis = (*arguments(node), 0)[:2]
    value = _value(node)
    return (parts, axis % value.dim()) if all(_value(part).dim() == value.dim() for part in parts) else ((), 0)


def _slice(node: fx.Node) -> tuple[fx.Node, int, int, int] | None:
    """The array, axis, begin and end of a slice without steps."""
    if node.target is not aten.slice.Tensor or tensor_of(node) is None:
        return None
    given: tuple[Any, ...] = arguments(node)
    source, axis, begin, end, step = given + (0, None, None, 1)[len(given) - 1 :]
    size, axis = _value(source).shape[axis], axis % _value(source).dim()
    begin, end, step = slice(begin, end, step).indices(size)
    return (source, axis, begin, end) if step == 1 else None


def _unshaped(node: fx.Node) -> fx.Node:
    """What is behind reshapings that end where they began; a reshaping leaves the order of the numbers."""
    behind: Any = node
    while isinstance(behind, fx.Node) and behind.target in SHAPED and behind.target is not aten.expand.default:
        behind = arguments(behind)[0]
        if same_shape(behind, node):
            return _unshaped(behind)
    return node


def _value(node: fx.Node) -> Tensor:
    value = tensor_of(node)
    assert value is not None
    return value


def turned_joins(module: fx.GraphModule) -> fx.GraphModule:
    """A graph where joins that are only read transposed are joins of the transposed parts; for Inductor.

    What turns an array is then a loop of its own, which Inductor writes well, and not part of a longer one.
    """
    if not any(_is_read_turned(node) for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        if _is_read_turned(node):
            parts, axis = _joined(node)
            turned = [insert(node, aten.transpose.int, part, 0, 1) for part in parts]
            whole = insert(node, aten.cat.default, turned, 1 - axis)
            for user in list(node.users):
                replace(user, whole)
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _is_read_turned(node: fx.Node) -> bool:
    """Whether a node joins matrices, and all that read it transpose it."""
    value = tensor_of(node)
    if node.target is not aten.cat.default or value is None or value.dim() != 2 or not _joined(node)[0]:
        return False
    return bool(node.users) and all(_turns(user) for user in node.users)


def _turns(node: fx.Node) -> bool:
    if node.target is aten.t.default:
        return True
    return node.target is aten.transpose.int and {axis % 2 for axis in arguments(node)[1:]} == {0, 1}
