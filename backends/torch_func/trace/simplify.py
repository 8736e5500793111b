"""Operators that change nothing, taken out of a graph: copies of what nobody writes to, products with 1, sums with 0.

Forward over reverse leaves many: tangents of what is not varied are zeros, and a product with them is computed and
added all the same; the cotangent that a mean begins with is one number, spread over an array and multiplied with.
Every rule gives the same numbers for finite values, but for the last digit where two products become one.
"""

from __future__ import annotations

from math import isfinite
from operator import getitem
from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.nodes import alike, arguments, aten, insert, replace, same_shape, tensor_of

SAME = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
SHAPED = (aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.reshape.default)
FILLED = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), 0.0),
    **dict.fromkeys((aten._efficientzerotensor.default, aten._new_zeros_with_same_feature_meta.default), 0.0),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), 1.0),
}
LIKE = (
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten._new_zeros_with_same_feature_meta.default),
)
"""filled, and read another array for its shape alone"""
MOVED = (
    *SAME,
    *SHAPED,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.select.int,
    aten.slice.Tensor,
    aten.clone.default,
    aten._to_copy.default,
)
"""an array of one number repeated stays one under these"""
SUMS = (aten.sum.default, aten.sum.dim_IntList)
MULTIPLIED = (aten.mul.Tensor, aten.mul.Scalar)
DIVIDED = (aten.div.Tensor, aten.div.Scalar)
POWERS = aten.pow.Tensor_Scalar
MATRICES = (aten.mm.default, aten.bmm.default)


def simplified(module: fx.GraphModule) -> fx.GraphModule:
    """The graph without what changes nothing; its nodes must carry fake values."""
    known: dict[fx.Node, float] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        number = _number(node, known)
        if number is not None:
            if _shaped_alone(node, number, known):
                continue
            known[node] = number
        same = _replacement(node, known)
        if same is not None and alike(same, node):
            replace(node, same)
        elif number is None:
            _scaled(node, known)
        elif node.target in (*MATRICES, aten.convolution.default, getitem):
            # added to an array of another shape, it would be computed all the same
            like = arguments(arguments(node)[0])[0] if node.target is getitem else arguments(node)[0]
            zeros = insert(node, aten.new_zeros.default, like, list(node.meta["val"].shape))
            known[zeros] = 0.0
            replace(node, zeros)
    module.graph.eliminate_dead_code()
    return module


def _shaped_alone(node: fx.Node, number: float, known: dict[fx.Node, float]) -> bool:
    """Whether an array filled like another became one of its shape: that other would be computed for its shape."""
    value = tensor_of(node)
    if node.target not in LIKE or value is None or not value.is_contiguous() or not isfinite(number):
        return False
    filled = insert(node, aten.full.default, list(value.shape), number, dtype=value.dtype, device=value.device)
    known[filled] = number
    replace(node, filled)
    return True


def _number(node: fx.Node, known: dict[fx.Node, float]) -> float | None:
    """The number that all entries of a real array are known to be."""
    value = tensor_of(node)
    if value is None or not value.is_floating_point():
        return None
    if node.target in FILLED:
        return FILLED[node.target]
    if node.target is POWERS and arguments(node)[1] == 0:
        return 1.0
    if node.target in (aten.full.default, aten.full_like.default):
        filled = arguments(node)[1]
        return float(filled) if isinstance(filled, int | float) else None
    found = [_constant(argument, known) for argument in arguments(node)]
    if node.target in MOVED:
        return found[0]
    if node.target in MATRICES or node.target in SUMS:
        return 0.0 if any(known.get(a) == 0 for a in arguments(node) if isinstance(a, fx.Node)) else None
    if _is_of_zeros(node, known):
        return 0.0
    return _computed(node, found)


def _is_of_zeros(node: fx.Node, known: dict[fx.Node, float]) -> bool:
    """Whether a node is a convolution with zeros, or a gradient of one: of images, filters or the bias."""
    if node.target is aten.convolution.default:
        return arguments(node)[2] is None and 0.0 in (known.get(a) for a in arguments(node)[:2])
    source = arguments(node)[0]
    if node.target is not getitem or source.target is not aten.convolution_backward.default:
        return False
    cotangent, images, filters = (known.get(a) for a in arguments(source)[:3])
    return 0.0 in (cotangent, (filters, images, cotangent)[arguments(node)[1]])


def _constant(argument: Any, known: dict[fx.Node, float]) -> float | None:
    if isinstance(argument, fx.Node):
        return known.get(argument)
    return float(argument) if isinstance(argument, int | float) else None


def _computed(node: fx.Node, found: list[float | None]) -> float | None:
    """The number that an operator makes of numbers."""
    first, second = (*found, None, None)[:2]
    if node.target in MULTIPLIED and 0.0 in (first, second):
        return 0.0
    if node.target is aten.neg.default:
        return None if first is None else -first
    if first is None or second is None or node.kwargs or len(arguments(node)) != 2:
        return None
    if node.target in MULTIPLIED:
        return first * second
    if node.target in DIVIDED and second != 0:
        return first / second
    if node.target in (aten.add.Tensor, aten.sub.Tensor):
        return first + second if node.target is aten.add.Tensor else first - second
    return None


def _replacement(node: fx.Node, known: dict[fx.Node, float]) -> fx.Node | None:
    """The value that an operator repeats, where it does."""
    first, second = (*arguments(node), None, None)[:2]
    if node.target in (*SAME, *SHAPED) or (node.target is aten._to_copy.default):
        return _node(first)
    if node.target is aten.copy.default and known.get(first, 1.0) == 0:
        return _node(second)
    if node.target is POWERS and second == 1:
        return _node(first)
    if node.target in (*MULTIPLIED, *DIVIDED) and _constant(second, known) == 1:
        return _node(first)
    if node.target in MULTIPLIED and _constant(first, known) == 1:
        return _node(second)
    if node.target is aten.add.Tensor and _constant(first, known) == 0 and not node.kwargs:
        return _node(second)
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and _constant(second, known) == 0:
        return _node(first)
    return None


def _scaled(node: fx.Node, known: dict[fx.Node, float]) -> None:
    """A product with an array of one number, and a product of products with numbers, as one product with a number."""
    split = factor(node, known) or _both_scaled(node, known)
    if split is None:
        return
    value, number = split
    inner = factor(value, known) or _scaled_once(value, known)
    while inner is not None and same_shape(inner[0], node):
        value, number = inner[0], number * inner[1]
        inner = factor(value, known) or _scaled_once(value, known)
    if arguments(node) == (value, number) or not alike(value, node) or not isfinite(number):
        return
    replace(node, value if number == 1 else insert(node, aten.mul.Tensor, value, number))


def _both_scaled(node: fx.Node, known: dict[fx.Node, float]) -> tuple[fx.Node, float] | None:
    """(a * c) * (b * d) as a * b and c * d."""
    splits = _factors(node, known)
    return _product(node, splits) if all(number is not None for _, number in splits) else None


def _scaled_once(node: fx.Node, known: dict[fx.Node, float]) -> tuple[fx.Node, float] | None:
    """(a * c) * b as a * b and c, for a product that only the product with a number around it reads."""
    splits = _factors(node, known)
    return _product(node, splits) if len(node.users) == 1 and any(number is not None for _, number in splits) else None


def _factors(node: fx.Node, known: dict[fx.Node, float]) -> list[tuple[fx.Node, float | None]]:
    """Both factors of a product of arrays, each with the number that it was multiplied with; none of anything else."""
    given = arguments(node)
    if node.op != "call_function" or node.target not in MULTIPLIED or node.kwargs or not _is_real(node):
        return [(node, None)]
    if not all(isinstance(value, fx.Node) and same_shape(value, node) and value not in known for value in given):
        return [(node, None)]
    splits = [factor(value, known) for value in given]
    return [
        split if split is not None and alike(split[0], value) else (value, None)
        for split, value in zip(splits, given, strict=True)
    ]


def _product(node: fx.Node, splits: list[tuple[fx.Node, float | None]]) -> tuple[fx.Node, float]:
    """The product without the numbers, and the product of these."""
    (first, left), (second, right) = splits
    number = (1.0 if left is None else left) * (1.0 if right is None else right)
    return insert(node, aten.mul.Tensor, first, second), number


def factor(node: fx.Node, known: dict[fx.Node, float]) -> tuple[fx.Node, float] | None:
    """What a node multiplies with a number, and the number: x * c, x / c, -x, x + x."""
    first, second = (*arguments(node), None, None)[:2]
    if node.kwargs or node.op != "call_function" or not _is_real(node):
        return None
    if node.target is aten.neg.default:
        return _with(first, -1.0)
    if node.target is aten.add.Tensor and first is second:
        return _with(first, 2.0)
    if node.target in MULTIPLIED:
        left, right = _constant(first, known), _constant(second, known)
        return _with(first, right) if right is not None else _with(second, left)
    if node.target in DIVIDED and len(arguments(node)) == 2:
        number = _constant(second, known)
        return _with(first, 1.0 / number) if number else None
    return None


def _with(value: Any, number: float | None) -> tuple[fx.Node, float] | None:
    return (value, number) if isinstance(value, fx.Node) and number is not None else None


def _is_real(node: fx.Node) -> bool:
    value = tensor_of(node)
    return value is not None and value.is_floating_point()


def _node(argument: Any) -> fx.Node | None:
    return argument if isinstance(argument, fx.Node) else None
