"""How an axis that is cut into equal slices passes through operators: what each needs for its slice of the result.

A batch of samples enters a graph at the first axis of its data. Where the result of an operator for a slice of its
inputs is that slice of its result, the axis passes; where it is a share of a sum over the axis, the shares are added
up; anywhere else the whole value is needed first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from operator import getitem
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten

Share: TypeAlias = Literal["sum", "mean"]
"""what the values of all slices are to be put together by"""
Place: TypeAlias = int | Share | None
"""the axis of a value that is sliced; a share; None where the value is whole"""
Places: TypeAlias = Place | tuple[Place, ...]
"""those of an operator's results, where it has several"""
Where: TypeAlias = Mapping[fx.Node, Any]
"""the places of the nodes before"""


@dataclass(frozen=True, slots=True)
class Passed:
    """What an operator makes of slices: the place of its result, the axis each input is read by, its own arguments."""

    made: Places
    read: Mapping[fx.Node, int | None]
    """the sliced axis of every input; None for one that is read as it is"""
    given: tuple[Any, ...]
    """its arguments, with sizes of one slice"""


def passed(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """How slices pass an operator that reads some; None where it needs whole values."""
    rule = RULES.get(node.target)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = _pointwise
    return None if rule is None else rule(node, where, parts)


def _inputs(node: fx.Node) -> list[fx.Node]:
    return node.all_input_nodes


def _axis(node: Any, where: Where) -> int | None:
    """The sliced axis of an input."""
    place = where.get(node)
    return place if isinstance(place, int) else None


def _first(node: fx.Node, where: Where) -> tuple[fx.Node, int]:
    """The first input that is sliced, and its axis."""
    return next((a, axis) for a in _inputs(node) if (axis := _axis(a, where)) is not None)


def _value(node: Any) -> Tensor:
    """The fake tensor of a node, the first of several."""
    value = node.meta["val"]
    found: Tensor = value[0] if isinstance(value, tuple | list) else value
    return found


def _made(
    node: fx.Node,
    where: Where,
    parts: int,
    made: Places,
    read: Iterable[tuple[Any, int | None]],
    given: tuple[Any, ...] | None = None,
) -> Passed | None:
    """The rule's answer, None where an input is not to be had in that way."""
    wanted: dict[fx.Node, int | None] = {}
    for value, axis in read:
        if not isinstance(value, fx.Node):
            continue
        own = _axis(value, where)
        fits = axis == own if own is not None else axis is None or _value(value).shape[axis] % parts == 0
        if not fits or wanted.setdefault(value, axis) != axis:
            return None
    return Passed(made, wanted, arguments(node) if given is None else given)


def _cut(shape: Iterable[int], axis: int, parts: int) -> list[int] | None:
    """A shape with a slice's size at one axis."""
    sizes = list(shape)
    if sizes[axis] % parts:
        return None
    sizes[axis] //= parts
    return sizes


# ---- operators on single numbers ---------------------------------------------------------------------------------


def _pointwise(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """Shapes are aligned at their last axes; what has one number along the sliced axis is read whole."""
    return _aligned(node, where, parts, ())


def _aligned(node: fx.Node, where: Where, parts: int, closed: Iterable[int]) -> Passed | None:
    """As pointwise, but for axes along which numbers meet."""
    out = _value(node)
    first, axis = _first(node, where)
    made = axis + out.dim() - _value(first).dim()
    if made in {c % out.dim() for c in closed}:
        return None
    read = []
    for value in _inputs(node):
        own = _value(value)
        at = made - out.dim() + own.dim()
        read.append((value, at if at >= 0 and own.shape[at] == out.shape[made] else None))
    return _made(node, where, parts, made, read)


def _along(place: int) -> Rule:
    """As pointwise, but along the axis that is argument number `place`."""

    def rule(node: fx.Node, where: Where, parts: int) -> Passed | None:
        return _aligned(node, where, parts, (arguments(node)[place],))

    return rule


# ---- sums --------------------------------------------------------------------------------------------------------


def _over(share: Share | None) -> Rule:
    """A reduction: of slices along an axis that stays, or a share of the whole."""

    def rule(node: fx.Node, where: Where, parts: int) -> Passed | None:
        source, axis = _first(node, where)
        value, dims = _value(source), ([*arguments(node), None])[1]
        gone = {d % value.dim() for d in ([dims] if isinstance(dims, int) else dims or range(value.dim()))}
        if axis in gone and share is None:
            return None
        stays = _value(node).dim() == value.dim()
        made: Place = share if axis in gone else axis if stays else axis - sum(d < axis for d in gone)
        several = isinstance(node.meta["val"], tuple | list)
        places = (made,) * len(node.meta["val"]) if several else made
        return _made(node, where, parts, places, [(source, axis)])

    return rule


# ---- moves -------------------------------------------------------------------------------------------------------


def _shaped(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """Another shape: the axis before which as many numbers stand, which thereby has as many slices."""
    source, axis = _first(node, where)
    before, after = _value(source).shape, _value(node).shape
    made = next((d for d, n in enumerate(after) if n > 1 and prod(after[:d]) == prod(before[:axis])), None)
    sizes = None if made is None else _cut(after, made, parts)
    if sizes is None:
        return None
    return _made(node, where, parts, made, [(source, axis)], (source, sizes))


def _expanded(node: fx.Node, where: Where, parts: int) -> Passed | None:
    source, axis = _first(node, where)
    made = axis + _value(node).dim() - _value(source).dim()
    sizes = _cut(_value(node).shape, made, parts)
    return None if sizes is None else _made(node, where, parts, made, [(source, axis)], (source, sizes))


def _moved(order: Callable[[fx.Node, int], list[int]]) -> Rule:
    """Axes in another order: `order` gives for each axis of the result the one that it was."""

    def rule(node: fx.Node, where: Where, parts: int) -> Passed | None:
        source, axis = _first(node, where)
        return _made(node, where, parts, order(node, _value(source).dim()).index(axis), [(source, axis)])

    return rule


def _swapped(node: fx.Node, dims: int) -> list[int]:
    axes = list(range(dims))
    first, second = (a % dims for a in ((*arguments(node), 0, 1)[1:3] if len(arguments(node)) > 2 else (0, dims - 1)))
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def _permuted(node: fx.Node, dims: int) -> list[int]:
    return [a % dims for a in arguments(node)[1]]


def _one_axis(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """An axis of the source is taken away, or only some of it, while the others stay."""
    source, axis = _first(node, where)
    dims, out = _value(source).dim(), _value(node).dim()
    gone = ([*arguments(node), 0])[1] % dims
    made = axis - (gone < axis) * (out < dims)
    places = (made,) * len(node.meta["val"]) if isinstance(node.meta["val"], tuple | list) else made
    return None if gone == axis else _made(node, where, parts, places, [(source, axis)])


def _new_axis(node: fx.Node, where: Where, parts: int) -> Passed | None:
    source, axis = _first(node, where)
    new = arguments(node)[1] % _value(node).dim()
    return _made(node, where, parts, axis + (new <= axis), [(source, axis)])


def _side_by_side(stacked: bool) -> Rule:
    """Several arrays as one, along another axis than the sliced one."""

    def rule(node: fx.Node, where: Where, parts: int) -> Passed | None:
        _, axis = _first(node, where)
        along = ([*arguments(node), 0])[1] % _value(node).dim()
        if along == axis and not stacked:
            return None
        read = [(value, axis) for value in arguments(node)[0]]
        return _made(node, where, parts, axis + (along <= axis) * stacked, read)

    return rule


def _put_back(grown: bool) -> Rule:
    """The cotangent of a part of an array: zeros of a given shape around it; `grown` where it has an axis less."""

    def rule(node: fx.Node, where: Where, parts: int) -> Passed | None:
        source, axis = _first(node, where)
        given = list(arguments(node))
        along = given[2] % len(given[1])
        made = axis + (along <= axis) * grown
        given[1] = _cut(given[1], made, parts)
        if given[1] is None or along == made:
            return None
        return _made(node, where, parts, made, [(source, axis)], tuple(given))

    return rule


def _item(node: fx.Node, where: Where, parts: int) -> Passed | None:
    source, number = arguments(node)
    return Passed(where[source][number], {source: None}, arguments(node))


# ---- products ----------------------------------------------------------------------------------------------------


def _product(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """Matrices, one or many: rows of the first, columns of the second, pairs, or shares of the inner sum."""
    left, right = arguments(node)[-2:]
    many = _value(node).dim() - 2
    axis, other = _axis(left, where), _axis(right, where)
    pairs = many and 0 in (axis, other)
    if pairs:
        return _made(node, where, parts, 0, [(left, 0), (right, 0)])
    if many + 1 == axis or many == other:
        return _made(node, where, parts, "sum", [(left, many + 1), (right, many)])
    if axis is not None:
        return _made(node, where, parts, axis, [(left, axis), (right, None)])
    return _made(node, where, parts, other, [(left, None), (right, other)])


def _added_product(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """bias + a @ b with the bias of one row: a share of the inner sum would have the whole bias."""
    bias, left, right = arguments(node)[:3]
    if _axis(left, where) != 0 or _value(bias).dim() != 1 or node.kwargs:
        return None
    return _made(node, where, parts, 0, [(bias, None), (left, 0), (right, None)])


# ---- layers ------------------------------------------------------------------------------------------------------


def _normalised(node: fx.Node, where: Where, parts: int) -> Passed | None:
    source, shape, weight, bias = arguments(node)[:4]
    axis = _axis(source, where)
    if axis is None or axis >= _value(source).dim() - len(shape):
        return None
    return _made(node, where, parts, (axis, axis, axis), [(source, axis), (weight, None), (bias, None)])


def _normalised_back(node: fx.Node, where: Where, parts: int) -> Passed | None:
    slope, source, shape, mean, scale, weight, bias = arguments(node)[:7]
    _, axis = _first(node, where)
    if axis >= _value(source).dim() - len(shape):
        return None
    read = [*((value, axis) for value in (slope, source, mean, scale)), (weight, None), (bias, None)]
    return _made(node, where, parts, (axis, "sum", "sum"), read)


def _looked_up(node: fx.Node, where: Where, parts: int) -> Passed | None:
    table, places = arguments(node)[:2]
    axis = _axis(places, where)
    return None if axis is None else _made(node, where, parts, axis, [(table, None), (places, axis)])


def _looked_up_back(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """Shares of the table's cotangent, unless it is scaled by how often a row is read."""
    slope, places, _, _, scaled = arguments(node)
    _, axis = _first(node, where)
    if scaled or axis >= _value(places).dim():
        return None
    return _made(node, where, parts, "sum", [(slope, axis), (places, axis)])


def _picked(node: fx.Node, where: Where, parts: int) -> Passed | None:
    """Numbers picked from, or put into, an array along another axis; all arrays are as long along the sliced one."""
    _, axis = _first(node, where)
    if arguments(node)[1] % _value(node).dim() == axis:
        return None
    if len({_value(value).shape[axis] for value in _inputs(node)}) > 1:
        return None
    return _made(node, where, parts, axis, [(value, axis) for value in _inputs(node)])


Rule: TypeAlias = Callable[[fx.Node, Where, int], Passed | None]
RULES: dict[Any, Rule] = {
    getitem: _item,
    **dict.fromkeys((aten.alias.default, aten.detach.default, aten._to_copy.default), _pointwise),
    **dict.fromkeys((aten.full_like.default, aten.zeros_like.default, aten.ones_like.default), _pointwise),
    **dict.fromkeys((aten._softmax.default, aten._log_softmax.default, aten.cumsum.default), _along(1)),
    **dict.fromkeys((aten._softmax_backward_data.default, aten._log_softmax_backward_data.default), _along(2)),
    **dict.fromkeys((aten.sum.default, aten.sum.dim_IntList), _over("sum")),
    **dict.fromkeys((aten.mean.default, aten.mean.dim), _over("mean")),
    **dict.fromkeys((aten.amax.default, aten.amin.default, aten.var_mean.correction), _over(None)),
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default, aten.reshape.default), _shaped),
    aten.expand.default: _expanded,
    **dict.fromkeys((aten.transpose.int, aten.t.default), _moved(_swapped)),
    aten.permute.default: _moved(_permuted),
    **dict.fromkeys((aten.select.int, aten.slice.Tensor, aten.squeeze.dim, aten.unbind.int), _one_axis),
    aten.unsqueeze.default: _new_axis,
    aten.cat.default: _side_by_side(stacked=False),
    aten.stack.default: _side_by_side(stacked=True),
    aten.select_backward.default: _put_back(grown=True),
    aten.slice_backward.default: _put_back(grown=False),
    **dict.fromkeys((aten.mm.default, aten.bmm.default), _product),
    aten.addmm.default: _added_product,
    aten.native_layer_norm.default: _normalised,
    aten.native_layer_norm_backward.default: _normalised_back,
    aten.embedding.default: _looked_up,
    aten.embedding_dense_backward.default: _looked_up_back,
    **dict.fromkeys((aten.gather.default, aten.scatter_add.default, aten.scatter.src), _picked),
}
