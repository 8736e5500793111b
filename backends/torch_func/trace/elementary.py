"""Functions of single numbers, written out where a compiler makes them part of a loop: tanh of float32.

Inductor calls a library for tanh, which takes ten times as long as a product of two numbers in the same loop, and most
of the time of a learned solver. A quotient of two polynomials takes a third of that. It differs from the library in
the last digits: by 6.7 units in the last place at most, over all floats (the library by 1.0), near 0 as elsewhere, where
the form by exponentials that Inductor has for it (`use_decompose_tanh`) loses every digit. It is odd, never above 1,
exactly 1 from 7.9053 on, and nan for nan. Numbers in float64 are the library's, and so are those of kernels by fx.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, replace, tensor_of

LIMIT = 7.90531110763549805
"""beyond it tanh is 1 in float32"""
ABOVE = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
"""x * sum of these times x^12, x^10, ..., 1 over"""
BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
"""the sum of these times x^6, x^4, x^2, 1 (Eigen, `generic_fast_tanh_float`; XLA has the same)"""


def written_out(module: fx.GraphModule) -> fx.GraphModule:
    """A graph with tanh of float32 on the processor as products, sums and a quotient; the same graph without any."""
    if not any(_is_tanh(node) for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        if _is_tanh(node):
            replace(node, _tanh(arguments(node)[0], node))
    return fx.GraphModule(module, graph)


def _is_tanh(node: fx.Node) -> bool:
    value = tensor_of(node)
    if node.target is not aten.tanh.default or value is None:
        return False
    return value.dtype == torch.float32 and value.device.type == "cpu"


def _tanh(x: fx.Node, before: fx.Node) -> fx.Node:
    """The quotient first, then its product with x: the product of the numerator would lose digits of tiny numbers."""
    x = insert(before, aten.clamp.default, x, -LIMIT, LIMIT)
    square = insert(before, aten.mul.Tensor, x, x)
    above, below = (_polynomial(square, factors, before) for factors in (ABOVE, BELOW))
    return insert(before, aten.mul.Tensor, x, insert(before, aten.div.Tensor, above, below))


def _polynomial(x: fx.Node, factors: tuple[float, ...], before: fx.Node) -> fx.Node:
    """By Horner's rule, the factor of the highest power first."""
    (first, second), *more = pairwise(factors)
    value = insert(before, aten.add.Tensor, insert(before, aten.mul.Tensor, x, first), second)
    for _, factor in more:
        value = insert(before, aten.add.Tensor, insert(before, aten.mul.Tensor, value, x), factor)
    return value
