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
VIEWS = (aten.view.default, aten._unsafe_view.default)
FIXED = (aten.as_strided.default, aten.as_strided_scatter.default, aten._reshape_alias.default)
"""what names the places of numbers in memory, and would find others there"""


def channels_last(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with convolutions of images in that layout; its nodes must carry fake values.

    Results are contiguous as before.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            _turn(node)
            _turn_places(node)
            _again(node)
        elif node.op == "output":
            node.args = ([_contiguous(value, node) for value in node.args[0]],)
    module.graph.eliminate_dead_code()
    return module


def has_images(module: fx.GraphModule) -> bool:
    """Whether a graph has convolutions of images on a CPU with oneDNN, and nothing that another layout would change."""
    nodes = module.graph.nodes
    return any(_is_faster(node) for node in nodes) and not any(node.target in FIXED for node in nodes)


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


def _turn_places(node: fx.Node) -> None:
    """Numbers taken at places of every channel of images in the layout, so that they come in it as well."""
    if node.target is not aten.gather.default:
        return
    images, axis, places = arguments(node)
    value = images.meta["val"]
    if value.dim() != 3 or axis not in (-1, 2) or value.stride(1) != 1 or value.shape[1] == 1:
        return
    turned = [insert(node, aten.transpose.int, given, 1, 2) for given in (images, places)]
    taken = insert(node, aten.gather.default, turned[0], 1, turned[1])
    back = insert(node, aten.transpose.int, taken, 1, 2)
    node.replace_all_uses_with(back)


def _is_last(value: Tensor) -> bool:
    """Whether an array has the layout; that of one channel or place has many strides, of which torch takes one for it."""
    _, channels, height, width = value.shape
    return value.stride() == (channels * height * width, 1, channels * width, channels)


def _turned(value: fx.Node, before: fx.Node) -> fx.Node:
    return insert(before, aten.clone.default, value, memory_format=LAST)


def _again(node: fx.Node) -> None:
    """The fake value of a node from those that it reads now; what cannot be viewed any more is copied."""
    if node.target in VIEWS and not arguments(node)[0].meta["val"].is_contiguous():
        node.target = aten.reshape.default
    target: Any = node.target
    values, named = fx.node.map_arg((node.args, node.kwargs), lambda a: a.meta["val"])
    node.meta["val"] = target(*values, **named)


def _contiguous(value: Any, before: fx.Node) -> Any:
    if value.meta["val"].is_contiguous():
        return value
    return insert(before, aten.clone.default, value, memory_format=torch.contiguous_format)
