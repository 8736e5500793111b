"""Normalisation by the statistics of a batch, written out as passes over the images that its derivatives share.

torch has one operator for it and one for its derivative, which keep what they compute to themselves, and writes the
derivative of the latter out. In the layout of `layouts` the first adds up in float32, one number after the other.
Here what several of them need, the images less their mean above all, is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import getitem
from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, replace, tensor_of

NORM, BACK = aten.native_batch_norm.default, aten.native_batch_norm_backward.default
SUM = aten.sum.dim_IntList
ORDERED = (aten.view.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims)
"""views that leave numbers in their order"""
ENTRYWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


def written_out(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with normalisation by formulas; every value is the same but for rounding."""
    for rule in (_normalise, _pull_back, _mean, _variance, _view, _narrow, _add_at_once):
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                rule(node)
        module.graph.eliminate_dead_code()
    return module


def _shaped(before: fx.Node, vector: fx.Node, images: fx.Node) -> fx.Node:
    """A vector of one number for each channel, in the shape that meets images."""
    return insert(before, aten.view.default, vector, [1, -1, *(1,) * (images.meta["val"].dim() - 2)])


def _summed(before: fx.Node, value: fx.Node) -> fx.Node:
    """The sums over all but the channels."""
    dim = value.meta["val"].dim()
    return insert(before, SUM, value, [0, *range(2, dim)], True)


def _count(images: fx.Node) -> int:
    """How many numbers a channel has."""
    shape = images.meta["val"].shape
    return prod((shape[0], *shape[2:]))


def _normalise(node: fx.Node) -> None:
    """(x - mean) / sqrt(variance + eps) * weight + bias, with the mean and the inverse deviation."""
    if node.target is not NORM or not arguments(node)[5] or arguments(node)[3] is not None:
        return
    x, weight, bias, *_, eps = arguments(node)
    apart, mean, squares = _moments(node, x)
    variance = insert(node, aten.add.Tensor, insert(node, aten.mul.Tensor, squares, 1 / _count(x)), eps)
    inverse = insert(node, aten.rsqrt.default, variance)
    scale = inverse if weight is None else insert(node, aten.mul.Tensor, inverse, _shaped(node, weight, x))
    made = insert(node, aten.mul.Tensor, apart, scale)
    if bias is not None:
        made = insert(node, aten.add.Tensor, made, _shaped(node, bias, x))
    found = (made, *(insert(node, aten.view.default, v, [-1]) for v in (mean, inverse)))
    _give(node, found)


def _mean(node: fx.Node) -> None:
    """The means of channels from their sums, which others need as well."""
    if node.target is aten.mean.dim and not node.kwargs and _is_by_channel(node, arguments(node)[1]):
        mean = insert(node, aten.mul.Tensor, _summed(node, arguments(node)[0]), 1 / _count(arguments(node)[0]))
        replace(node, insert(node, aten.view.default, mean, list(node.meta["val"].shape)))


def _is_by_channel(node: fx.Node, axes: Any) -> bool:
    """Whether axes of images are all but that of the channels."""
    value = tensor_of(arguments(node)[0])
    if value is None or value.dim() != 4 or not isinstance(axes, Sequence):
        return False
    return sorted(axis % 4 for axis in axes) == [0, 2, 3]


def _variance(node: fx.Node) -> None:
    """The variances and means of channels, for which torch has a slow operator."""
    if node.target is not aten.var_mean.correction or node.kwargs.get("correction", 1) != 0:
        return
    if len(arguments(node)) < 2 or not _is_by_channel(node, arguments(node)[1]):
        return
    mean, squares = _moments(node, arguments(node)[0])[1:]
    shapes = [list(value.shape) for value in node.meta["val"]]
    variance = insert(node, aten.mul.Tensor, squares, 1 / _count(arguments(node)[0]))
    _give(node, [insert(node, aten.view.default, v, s) for v, s in zip((variance, mean), shapes, strict=True)])


def _moments(node: fx.Node, x: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Images less their mean, the mean, and the sums of the squares of what is left."""
    mean = insert(node, aten.mul.Tensor, _summed(node, x), 1 / _count(x))
    apart = insert(node, aten.sub.Tensor, x, mean)
    return apart, mean, _summed(node, insert(node, aten.mul.Tensor, apart, apart))


def _give(node: fx.Node, found: Sequence[fx.Node | None]) -> None:
    """Put values in the place of the results of a node that has several."""
    for user in list(node.users):
        value = found[arguments(user)[1]]
        if user.target is getitem and value is not None:
            replace(user, value)


def _pull_back(node: fx.Node) -> None:
    """Of g: scale (g - mean of g - apart / deviation^2 * mean of (g apart)), the slopes of weight and bias."""
    if node.target is not BACK or not arguments(node)[7] or arguments(node)[5] is None:
        return
    g, x, weight, _, _, mean, inverse, _, _, wanted = arguments(node)
    apart = insert(node, aten.sub.Tensor, x, _shaped(node, mean, x))
    inverse = _shaped(node, inverse, x)
    total, product = _summed(node, g), _summed(node, insert(node, aten.mul.Tensor, g, apart))
    scale = inverse if weight is None else insert(node, aten.mul.Tensor, inverse, _shaped(node, weight, x))
    of_x = _slope(node, g, apart, scale, inverse, total, product) if wanted[0] else None
    of_weight = insert(node, aten.view.default, insert(node, aten.mul.Tensor, product, inverse), [-1])
    _give(node, (of_x, of_weight, insert(node, aten.view.default, total, [-1])))


def _slope(
    node: fx.Node, g: fx.Node, apart: fx.Node, scale: fx.Node, inverse: fx.Node, total: fx.Node, product: fx.Node
) -> fx.Node:
    share = 1 / _count(g)
    square = insert(node, aten.mul.Tensor, inverse, inverse)
    along = insert(node, aten.mul.Tensor, insert(node, aten.mul.Tensor, product, square), share)
    left = insert(node, aten.sub.Tensor, g, insert(node, aten.mul.Tensor, apart, along))
    left = insert(node, aten.sub.Tensor, left, insert(node, aten.mul.Tensor, total, share))
    return insert(node, aten.mul.Tensor, left, scale)


def _view(node: fx.Node) -> None:
    """Views of views that leave numbers in their order as one, and as none where the shape is the first one."""
    if node.target not in ORDERED:
        return
    root = arguments(node)[0]
    while root.op == "call_function" and root.target in ORDERED:
        root = arguments(root)[0]
    value, shape = tensor_of(root), node.meta["val"].shape
    if value is None or not value.is_contiguous() or (root is arguments(node)[0] and value.shape != shape):
        return
    replace(node, root if value.shape == shape else insert(node, aten.view.default, root, list(shape)))


def _narrow(node: fx.Node) -> None:
    """Arrays that repeat numbers, as the numbers: an operator of all entries repeats them itself."""
    if node.target not in ENTRYWISE:
        return
    given = [arguments(a)[0] if _repeats(a) else a for a in arguments(node)]
    if given == list(arguments(node)):
        return
    made = insert(node, node.target, *given, **node.kwargs)
    if made.meta["val"].shape != node.meta["val"].shape:
        made = insert(node, aten.expand.default, made, list(node.meta["val"].shape))
    replace(node, made)


def _repeats(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.target is aten.expand.default


def _add_at_once(node: fx.Node) -> None:
    """Sums of sums as one."""
    if node.target is not SUM or node.kwargs or not isinstance(arguments(node)[0], fx.Node):
        return
    inner = arguments(node)[0]
    if inner.target is not SUM or inner.kwargs or len(inner.users) > 1:
        return
    kept = len(arguments(inner)) > 2 and arguments(inner)[2]
    rank = arguments(inner)[0].meta["val"].dim()
    first = {axis % rank for axis in arguments(inner)[1]}
    left = list(range(rank)) if kept else [axis for axis in range(rank) if axis not in first]
    second = {left[axis % len(left)] for axis in arguments(node)[1]}
    keeps = len(arguments(node)) > 2 and arguments(node)[2]
    found = insert(node, SUM, arguments(inner)[0], sorted(first | second), bool(keeps and kept))
    if found.meta["val"].shape != node.meta["val"].shape:
        found = insert(node, aten.view.default, found, list(node.meta["val"].shape))
    replace(node, found)
