"""Convolutions of a graph, written so that they cost less and not otherwise.

The derivative of a convolution's gradient is written by torch as a convolution whose filters are as large as images;
what it gives is a gradient of filters, for which there are kernels several times faster.
"""

from __future__ import annotations

from math import prod
from operator import getitem
from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, replace, tensor_of


def faster_convolutions(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with cheaper convolutions; every value is the same but for rounding."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is aten.convolution.default:
            _filters(node)
        if node.op == "call_function" and node.target is aten.convolution_backward.default:
            _read_only(node)
    module.graph.eliminate_dead_code()
    return module


def _read_only(node: fx.Node) -> None:
    """Of the three gradients of a convolution, compute those that something reads."""
    *given, wanted = arguments(node)
    read = {arguments(user)[1] for user in node.users if user.users}
    node.args = (*given, [place in read and is_wanted for place, is_wanted in enumerate(wanted)])


def _filters(node: fx.Node) -> None:
    """The convolution of images x', n and channels exchanged, with images g' is the gradient of filters, exchanged.

    With out[c, o, i] = sum over n and y of x[n, c, stride i + dilation y - padding] g[n, o, y], the gradient of the
    filters of a convolution of x that steps by `dilation` and whose filters are spread by `stride`.
    """
    x, g, bias, stride, padding, dilation, transposed, _, groups = arguments(node)
    images, out, kernel = tensor_of(x), tensor_of(node), tensor_of(g)
    if bias is not None or transposed or groups != 1 or images is None or out is None or kernel is None:
        return
    if prod(kernel.shape[2:]) <= prod(out.shape[2:]):
        return
    sizes = zip(images.shape[2:], out.shape[2:], kernel.shape[2:], stride, padding, dilation, strict=True)
    if any((size + 2 * p - s * (k - 1) - 1) // d + 1 != y for size, k, y, s, p, d in sizes):
        return
    like = insert(node, aten.new_zeros.default, x, [out.shape[1], out.shape[0], *out.shape[2:]])
    given = (
        _exchanged(g, node),
        _exchanged(x, node),
        like,
        None,
        dilation,
        padding,
        stride,
        False,
        [0] * len(stride),
        1,
    )
    found = insert(node, aten.convolution_backward.default, *given, [False, True, False])
    filters = insert(node, getitem, found, 1)
    for user in list(node.users):
        if _exchanges(user):
            user.replace_all_uses_with(filters)
    replace(node, _exchanged(filters, node))


def _exchanges(node: Any) -> bool:
    """Whether a node exchanges the first two axes."""
    return isinstance(node, fx.Node) and node.target is aten.transpose.int and set(arguments(node)[1:]) == {0, 1}


def _exchanged(value: fx.Node, before: fx.Node) -> fx.Node:
    """The value with its first two axes exchanged."""
    if _exchanges(value):
        inner: fx.Node = arguments(value)[0]
        return inner
    return insert(before, aten.transpose.int, value, 0, 1)
