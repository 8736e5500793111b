"""The largest of what is positive as the positive part of the largest: a rectifier before a pooling goes behind it.

The positive part keeps the order, so that both give the same numbers, and a window whose largest number is not positive
gives 0 and passes no derivative either way; elsewhere the place of the largest number is the same, the first one of
equal ones included. The rectifier and its derivatives, forth and back, are then of the size of what is pooled.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, tensor_of

POOL, BACK = aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default
VIEWS = (aten.view.default, aten.reshape.default)


def pooled_first(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with rectifiers behind pooling; every value is the same, bit for bit."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is POOL and arguments(node)[0].target is aten.relu.default:
            _exchange(node)
    module.graph.eliminate_dead_code()
    return module


def _exchange(pool: fx.Node) -> None:
    """Pool what the rectifier reads, where nothing but this pooling and its derivatives reads the rectifier."""
    relu, *sizes = arguments(pool)
    places = [user for user in pool.users if arguments(user)[1] == 1]
    read = {p for place in places for p in [place, *_viewed(place)]}
    gates = [user for user in relu.users if user.target is aten.threshold_backward.default]
    others = [u for u in relu.users if u is not pool and u not in gates and not _is_back(u, places)]
    known = [_ways(gate, relu, places, read) for gate in gates]
    if others or None in known:
        return
    if any(user not in gates for back in relu.users if _is_back(back, places) for user in back.users):
        return
    x = arguments(relu)[0]
    both = insert(pool, POOL, x, *sizes)
    largest, index = insert(pool, getitem, both, 0), insert(pool, getitem, both, 1)
    positive = insert(pool, aten.relu.default, largest)
    for user in list(pool.users):
        user.replace_all_uses_with(index if user in places else positive)
    for back in [user for user in relu.users if user.target is BACK]:
        back.replace_input_with(relu, x)
    for gate in gates:
        _gate(gate, positive)


def _is_back(node: fx.Node, places: list[fx.Node]) -> bool:
    return node.target is BACK and arguments(node)[-1] in places


def _viewed(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.target in VIEWS]


def _ways(gate: fx.Node, relu: fx.Node, places: list[fx.Node], read: set[fx.Node]) -> Any:
    """What a derivative of the rectifier is one side of: the way back through the pooling, or the numbers at its places."""
    given, result, least = arguments(gate)
    if result is not relu or given is relu or least != 0:
        return None
    if _is_back(given, places):
        return given
    views = [user for user in gate.users if not _is_sized_by(user, gate, places)]
    readers = [reader for view in views for reader in view.users]
    if all(view.target in VIEWS for view in views) and all(_takes(reader, gate, read) for reader in readers):
        return readers
    return None


def _is_sized_by(user: fx.Node, gate: fx.Node, places: list[fx.Node]) -> bool:
    """Whether a way back through the pooling reads of something its size alone."""
    return _is_back(user, places) and arguments(user)[0] is not gate


def _takes(reader: fx.Node, gate: fx.Node, read: set[fx.Node]) -> bool:
    """Whether a node takes the numbers of the gate at the places of the largest, each channel of an image by itself."""
    if reader.target is not aten.gather.default or arguments(reader)[2] not in read:
        return False
    view, axis, _ = arguments(reader)
    value, whole = tensor_of(view), tensor_of(gate)
    if value is None or whole is None or arguments(view)[0] is not gate:
        return False
    return axis in (-1, value.dim() - 1) and value.shape[:-1] == whole.shape[:-2]


def _gate(gate: fx.Node, positive: fx.Node) -> None:
    """The derivative of the rectifier on the side of the pooling that has fewer numbers."""
    given = arguments(gate)[0]
    if given.target is BACK:
        smaller = insert(given, aten.threshold_backward.default, arguments(given)[0], positive, 0)
        given.args = (smaller, *arguments(given)[1:])
        gate.replace_all_uses_with(given)
        return
    readers = [reader for view in gate.users if view.target in VIEWS for reader in view.users]
    gate.replace_all_uses_with(given)
    for reader in readers:
        after = reader.next
        shape = list(reader.meta["val"].shape)
        flat = insert(after, aten.view.default, positive, shape)
        passed = insert(after, aten.threshold_backward.default, reader, flat, 0)
        reader.replace_all_uses_with(passed)
        passed.args = (reader, flat, 0)
