"""Sums of a product of matrices and something smaller, kept apart for Inductor.

Inductor makes one call of both, which first copies what is small into all of the result, and reads it again: two passes
over an array that the loop behind the product reads anyhow. A difference with the negative gives the same bits, and
is left alone.
"""

from __future__ import annotations

from torch import fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, numel, replace, tensor_of


def apart(module: fx.GraphModule) -> fx.GraphModule:
    """A graph where biases are subtracted; the same graph where there are none."""
    if not any(_bias(node) is not None for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        bias = _bias(node)
        if bias is not None:
            replace(node, insert(node, aten.sub.Tensor, _product(node), insert(node, aten.neg.default, bias)))
    graph.eliminate_dead_code()
    return fx.GraphModule(module, graph)


def _product(node: fx.Node) -> fx.Node:
    """The product in a sum, which for `addmm` is made here."""
    if node.target is aten.addmm.default:
        return insert(node, aten.mm.default, *arguments(node)[1:3])
    first, second = arguments(node)
    return first if _is_product(first) else second


def _bias(node: fx.Node) -> fx.Node | None:
    """What a node adds to a product, where that has fewer numbers."""
    if node.op != "call_function" or node.kwargs:
        return None
    if node.target is aten.addmm.default:
        bias = arguments(node)[0]
    elif node.target is aten.add.Tensor and len(arguments(node)) == 2:
        first, second = arguments(node)
        if _is_product(first) == _is_product(second):
            return None
        bias = second if _is_product(first) else first
    else:
        return None
    return bias if tensor_of(bias) is not None and 2 * numel(bias) <= numel(node) else None


def _is_product(value: object) -> bool:
    return isinstance(value, fx.Node) and value.target is aten.mm.default and len(value.users) == 1
