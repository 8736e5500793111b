"""Matrix products of a graph, written so that they cost less and not otherwise.

- A transposed product is the product of the transposed factors in the other order: a matrix product reads transposed
  factors at no cost, what follows would read a transposed result with strides.
- A number is multiplied with the smaller of a product's factor and result.
- A sum of two products whose factors are small beside the result is one product of the joined factors.
- Two products with the same right factor are one product of the left factors, one below the other.

Derivatives leave all of these: the adjoint of a linear layer is two products whose results are transposed, and the
derivative of it along a direction is twice that, with the factors in common.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.nodes import alike, arguments, aten, insert, numel, replace, tensor_of
from bilevel.backends.torch_func.trace.simplify import factor

PRODUCTS = (aten.bmm.default, aten.mm.default)
LEAST = 4
"""The least number of products in a sum that is worth a matrix product; Inductor compiles less into what is around."""
TURNS = (aten.transpose.int, aten.t.default)


def rewritten(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with cheaper products; every value is the same but for rounding."""
    for rule in (_turned, _unscaled, _summed):
        for node in list(module.graph.nodes):
            if node.op == "call_function":
                rule(node)
        module.graph.eliminate_dead_code()
    return module


def last_two(node: fx.Node) -> bool:
    """Whether a node swaps the last two axes."""
    value = tensor_of(arguments(node)[0]) if node.op == "call_function" and node.target in TURNS else None
    if value is None or node.target is aten.t.default:
        return value is not None and value.dim() == 2
    axes = {axis % value.dim() for axis in arguments(node)[1:] if isinstance(axis, int)}
    return axes == {value.dim() - 1, value.dim() - 2}


def turn(value: fx.Node, before: fx.Node) -> fx.Node:
    """The transposed value; of what is transposed already, the value itself."""
    if last_two(value):
        inner: fx.Node = arguments(value)[0]
        return inner
    return insert(before, aten.transpose.int, value, -2, -1)


def _turned(node: fx.Node) -> None:
    """transpose(transpose(a)) is a; transpose(a @ b) is b' @ a' where nothing else reads a @ b."""
    if not last_two(node):
        return
    inner: Any = arguments(node)[0]
    if last_two(inner):
        replace(node, turn(inner, node))
    elif inner.target in PRODUCTS and len(inner.users) == 1:
        left, right = arguments(inner)
        replace(node, insert(node, inner.target, turn(right, node), turn(left, node)))
    elif inner.target in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor) and len(inner.users) == 1:
        _turned_inside(node, inner)


def _turned_inside(node: fx.Node, inner: fx.Node) -> None:
    """transpose(a + b) is transpose(a) + transpose(b), where that leaves no transposition of a product."""
    values = [a for a in arguments(inner) if isinstance(a, fx.Node)]
    if not all(v.target in PRODUCTS and len(v.users) == 1 and alike(v, inner) for v in values):
        return
    moved = [
        insert(node, a.target, turn(arguments(a)[1], node), turn(arguments(a)[0], node)) if a in values else a
        for a in arguments(inner)
    ]
    replace(node, insert(node, inner.target, *moved, **inner.kwargs))


def _unscaled(node: fx.Node) -> None:
    """(c a) @ b is c (a @ b), where the product is smaller than the factor."""
    if node.target not in PRODUCTS:
        return
    number, factors = 1.0, list(arguments(node))
    for place, value in enumerate(arguments(node)):
        found = _chain(value)
        if found is not None and numel(node) <= numel(value):
            factors[place] = _again(found[1], found[0], node)
            number *= found[2]
    if number != 1.0:
        replace(node, insert(node, aten.mul.Tensor, insert(node, node.target, *factors), number))


def _chain(value: Any) -> tuple[fx.Node, list[fx.Node], float] | None:
    """What is behind transpositions of a product with a number: the value, the transpositions, the number."""
    moves: list[fx.Node] = []
    while isinstance(value, fx.Node) and last_two(value):
        moves.insert(0, value)
        value = arguments(value)[0]
    split = factor(value, {}) if isinstance(value, fx.Node) else None
    return None if split is None or not alike(split[0], value) else (split[0], moves, split[1])


def _again(moves: list[fx.Node], value: fx.Node, before: fx.Node) -> fx.Node:
    for move in moves:
        value = insert(before, move.target, value, *arguments(move)[1:])
    return value


def _summed(node: fx.Node) -> None:
    """a @ b + c @ d is [a c] @ [b; d], where the factors together are smaller than the result."""
    if node.target is not aten.add.Tensor or node.kwargs or len(arguments(node)) != 2:
        return
    first, second = arguments(node)
    if first is second or not (_alone(first) and _alone(second)) or first.target is not second.target:
        return
    if not alike(first, node) or not alike(second, node):
        return
    if _inner(first) + _inner(second) < LEAST or sum(numel(a) for p in (first, second) for a in arguments(p)) > numel(
        node
    ):
        return
    left, right = ([arguments(product)[place] for product in (first, second)] for place in (0, 1))
    joined = insert(node, aten.cat.default, left, -1), insert(node, aten.cat.default, right, -2)
    replace(node, insert(node, first.target, *joined))


def _alone(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.target in PRODUCTS and len(value.users) == 1


def _inner(product: fx.Node) -> int:
    """How many products make one number."""
    value = tensor_of(arguments(product)[0])
    return 0 if value is None else value.shape[-1]
