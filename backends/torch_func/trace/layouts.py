"""The memory layout of images in a graph: the channels of one place side by side, where convolutions are fastest.

oneDNN's convolutions read this layout as it is; the usual one (all places of a channel side by side) they turn first,
and give results back turned again. What is between convolutions takes its layout from what it reads, and is faster
as well: pooling and statistics work on the channels of a place at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, tensor_of

IMAGES = {aten.convolution.default: (0, 1), aten.convolution_backward.default: (0, 1, 2)}
"""the places of images and filters among the arguments of convolutions"""
LAST = torch.channels_last


def channels_last(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with convolutions of images in that layout; its nodes must carry fake values.

    Results are contiguous as before.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            _turn(node)
            _again(node)
        elif node.op == "output":
            node.args = ([_contiguous(value, node) for value in node.args[0]],)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def has_images(module: fx.GraphModule) -> bool:
    """Whether a graph has convolutions of images on a CPU with oneDNN."""
    return any(_is_faster(node) for node in module.graph.nodes)


def _is_faster(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target not in IMAGES or not torch._C._has_mkldnn:
        return False
    value = tensor_of(arguments(node)[0])
    return value is not None and value.dim() == 4 and value.device.type == "cpu"


def _turn(node: fx.Node) -> None:
    """Give a convolution its images and filters in the layout."""
    if not _is_faster(node):
        return
    given = list(arguments(node))
    for place in IMAGES[node.target]:
        value = given[place]
        if not _is_last(value.meta["val"]):
            given[place] = _turned(value, node)
    node.args = tuple(given)


def _is_last(value: Tensor) -> bool:
    """Whether an array has the layout; that of one channel or place has many strides, of which torch takes one for it."""
    _, channels, height, width = value.shape
    return value.stride() == (channels * height * width, 1, channels * width, channels)


def _turned(value: fx.Node, before: fx.Node) -> fx.Node:
    return insert(before, aten.clone.default, value, memory_format=LAST)


def _again(node: fx.Node) -> None:
    """The fake value of a node from those that it reads now; what cannot be viewed any more is copied first."""
    target: Any = node.target
    values, named = fx.node.map_arg((node.args, node.kwargs), lambda a: a.meta["val"])
    try:
        node.meta["val"] = target(*values, **named)
    except (RuntimeError, ValueError):
        if target is not aten.view.default:
            raise
        copied = insert(node, aten.clone.default, arguments(node)[0], memory_format=torch.contiguous_format)
        node.args = (copied, *arguments(node)[1:])
        node.meta["val"] = target(copied.meta["val"], *values[1:], **named)


def _contiguous(value: Any, before: fx.Node) -> Any:
    if value.meta["val"].is_contiguous():
        return value
    return insert(before, aten.clone.default, value, memory_format=torch.contiguous_format)
