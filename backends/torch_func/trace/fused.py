"""Sums whose terms are products, as one operator each: one pass over memory in place of two or three.

x + c * y is `add` with its factor, x + c * a * b is `addcmul`; a product that something else reads as well stays.
Inductor fuses what is around anyway; run as Python text, every operator is a pass of its own. Beside a matrix product a
sum stays as it is for Inductor: 2.13 makes `addmm` of both and forgets the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.nodes import alike, arguments, aten, tensor_of
from bilevel.backends.torch_func.trace.simplify import MATRICES, MULTIPLIED, factor

SIGNS = {aten.add.Tensor: 1.0, aten.sub.Tensor: -1.0}


def fused(module: fx.GraphModule, beside_products: bool = False) -> fx.GraphModule:
    """The graph with fewer operators, also beside matrix products; every value is the same but for rounding."""
    stay = () if beside_products else MATRICES
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in SIGNS and not node.kwargs and len(arguments(node)) == 2:
            _joined(node, stay)
    module.graph.eliminate_dead_code()
    return module


def _joined(node: fx.Node, stay: Sequence[Any]) -> None:
    """A sum with one of its terms taken apart; the second where both can be."""
    first, second = arguments(node)
    if first is second or not (_whole(first, node) and _whole(second, node)):
        return
    sign = SIGNS[node.target]
    if _once(second):
        _with_term(node, first, second, sign, stay)
    elif _once(first) and sign > 0:
        _with_term(node, second, first, 1.0, stay)


def _with_term(node: fx.Node, other: fx.Node, term: fx.Node, number: float, stay: Sequence[Any]) -> None:
    """other + number * term, where the term is a product; a sum beside operators that `stay` stays."""
    split = factor(term, {})
    if split is not None and _whole(split[0], node):
        number *= split[1]
        term = split[0]
        if not (_once(term) and _is_product(term, node)):
            if not {other.target, term.target} & set(stay):
                _become(node, aten.add.Tensor, (other, term), alpha=number)
            return
    if _is_product(term, node):
        _become(node, aten.addcmul.default, (other, *arguments(term)), value=number)


def _become(node: fx.Node, target: Any, given: tuple[Any, ...], **named: float) -> None:
    """Let a node be another operator on arrays like it: what it gives stays as it is told."""
    node.target, node.args, node.kwargs = target, given, dict[str, Any](named)


def _is_product(term: fx.Node, node: fx.Node) -> bool:
    """Whether a value is a product of two arrays of the shape of the sum."""
    return term.target in MULTIPLIED and not term.kwargs and all(_whole(value, node) for value in arguments(term))


def _once(value: fx.Node) -> bool:
    return value.op == "call_function" and len(value.users) == 1


def _whole(value: Any, node: fx.Node) -> bool:
    """Whether a value is a real array as the sum is, layout included."""
    own = tensor_of(node)
    return isinstance(value, fx.Node) and own is not None and own.is_floating_point() and alike(value, node)
