"""Shapes: how sizes are compared, and the typing rule of every kind of operation.

Takes types, gives a type or raises `Mismatch` with the two that do not fit; knows nothing of places or messages.
A size that nobody knows fits every other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bilevel.dsl.datatypes import (
    UNKNOWN_SIZE,
    Array,
    ListType,
    Model,
    Record,
    Records,
    Size,
    Stream,
    Tree,
    Type,
    Union,
    Unknown,
)
from bilevel.dsl.functions import Rule

NUMBER = Array()
Sizes = Mapping[str, int]


class Mismatch(Exception):
    """Two types that do not go together, or one that an operation does not take (`right` None)."""

    def __init__(self, left: Type, right: Type | None, reason: str = "") -> None:
        super().__init__(reason)
        self.left, self.right, self.reason = left, right, reason


def value_of(size: Size, sizes: Sizes) -> int | None:
    """The number a size stands for, None where it is not known."""
    if isinstance(size, int):
        return size
    product = 1
    for factor in size.split("*"):
        number = int(factor) if factor.isdigit() else sizes.get(factor)
        if number is None:
            return None
        product *= number
    return product


def same_size(left: Size, right: Size, sizes: Sizes) -> bool:
    """Whether two sizes can be equal."""
    a, b = value_of(left, sizes), value_of(right, sizes)
    return a is None or b is None or a == b


def combine(left: Type, right: Type, sizes: Sizes) -> Type:
    """The type of an elementwise operation: equal shapes, or one side a single number.

    Axes of length 1 stretch where the ranks are equal; a lower rank is not stretched, since `[n, 1]` against `[n]`
    is nearly always a mistake.
    """
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return left if isinstance(right, Unknown) and not isinstance(left, Array) else Unknown()
    if is_number(left) and isinstance(right, Array | Tree | Union):
        return _as_real(right)
    if is_number(right) and isinstance(left, Array | Tree | Union):
        return _as_real(left)
    if isinstance(left, Array) and isinstance(right, Array):
        return _combine_arrays(left, right, sizes)
    if isinstance(left, Tree) and isinstance(right, Tree):
        return _combine_trees(left, right)
    raise Mismatch(left, right)


def is_number(type_: Type) -> bool:
    """Whether a type is that of a single number."""
    return isinstance(type_, Array) and type_.ranked and not type_.shape


def _as_real(type_: Type) -> Type:
    return Array(type_.shape, "real", type_.ranked) if isinstance(type_, Array) else type_


def _combine_arrays(left: Array, right: Array, sizes: Sizes) -> Array:
    if not (left.ranked and right.ranked):
        return Array((), ranked=False)
    if len(left.shape) != len(right.shape):
        raise Mismatch(left, right)
    return Array(tuple(_combine_sizes(left, right, a, b, sizes) for a, b in zip(left.shape, right.shape, strict=True)))


def _combine_sizes(left: Array, right: Array, a: Size, b: Size, sizes: Sizes) -> Size:
    if a == 1 or b == 1:
        return b if a == 1 else a
    if not same_size(a, b, sizes):
        raise Mismatch(left, right)
    return b if value_of(a, sizes) is None else a


def _combine_trees(left: Tree, right: Tree) -> Tree:
    """Trees of one network combine; `layers` gives one number per tensor and stretches over `params`."""
    if left.net != right.net or left.part != right.part or left.count != right.count:
        raise Mismatch(left, right)
    if left.kind != right.kind and "layers" not in (left.kind, right.kind):
        raise Mismatch(left, right)
    return left if right.kind == "layers" else right


def field_of(type_: Type, name: str) -> Type | None:
    """The type of `value.name`, None where there is no such field."""
    match type_:
        case Record():
            return type_.get(name)
        case Records(length, sample):
            if name == "index":
                return Array((length,), "integer")
            inner = sample.get(name)
            return None if inner is None else lead(inner, length)
        case Unknown():
            return Unknown()
    return None


def lead(type_: Type, length: Size) -> Type:
    """The type of `length` values of a type, stacked along a new first axis."""
    match type_:
        case Array(shape, element, ranked):
            return Array((length, *shape), element) if ranked else type_
        case Record(fields):
            return Record(tuple((name, lead(t, length)) for name, t in fields))
        case Records(inner, sample):
            return Record(tuple((name, lead(lead(t, inner), length)) for name, t in sample.fields))
        case Tree(net, part, kind, count):
            return Tree(net, part, kind, (length, *count))
    return Unknown()


def drawn(source: Type, count: tuple[Size, ...]) -> Type | None:
    """The type of `source[count]` in a draw without an index, None where it is no source."""
    match source:
        case Records(_, sample) if len(count) == 1:
            return Records(count[0], sample)
        case Stream(item):
            for size in reversed(count):
                item = lead(item, size)
            return item
        case Unknown():
            return Unknown()
    return None


def one_of(source: Type) -> Type | None:
    """The type of one item when an index runs over a source or list, None where it cannot."""
    match source:
        case Records(_, sample):
            return Record((*sample.fields, ("index", Array((), "integer"))))
        case Stream(item):
            return item
        case ListType(items):
            return _any_of(items)
        case Array(shape, element) if shape:
            return Array(shape[1:], element)
        case Unknown():
            return Unknown()
    return None


def _any_of(items: tuple[Type, ...]) -> Type:
    """The type of an item of which only the list is known: what its items have in common, other sizes unknown."""
    first = items[0] if items else Unknown()
    if any(type(item) is not type(first) for item in items):
        return Unknown()
    match first:
        case Model():
            return _any_network([item for item in items if isinstance(item, Model)])
        case Record():
            return _any_record([item for item in items if isinstance(item, Record)])
        case Records():
            found = [item for item in items if isinstance(item, Records)]
            sample = _any_record([item.sample for item in found])
            return Records(_common_size([item.length for item in found]), sample)
        case Stream():
            return Stream(_any_of(tuple(item.item for item in items if isinstance(item, Stream))))
        case Array():
            return _any_array([item for item in items if isinstance(item, Array)])
    return first


def _any_record(items: list[Record]) -> Record:
    """The fields that all of them have."""
    names = [name for name, _ in items[0].fields if all(item.get(name) is not None for item in items)]
    return Record(tuple((name, _any_of(tuple(item.get(name) or Unknown() for item in items))) for name in names))


def _any_array(items: list[Array]) -> Array:
    mixed = next((item for item in items if item.element == "real"), items[0])
    if len({len(item.shape) for item in items}) > 1 or not all(item.ranked for item in items):
        return Array((), mixed.element, ranked=False)
    shape = tuple(_common_size(list(sizes)) for sizes in zip(*(item.shape for item in items), strict=True))
    return Array(shape, mixed.element)


def _common_size(sizes: list[Size]) -> Size:
    return sizes[0] if len(set(sizes)) == 1 else UNKNOWN_SIZE


def _any_network(networks: list[Model]) -> Model:
    """Networks of a list may differ in their shapes."""
    first = networks[0]
    inputs, outputs = ({getattr(item, name) for item in networks} for name in ("input", "output"))
    return Model(
        first.name,
        first.input if len(inputs) == 1 else None,
        first.output if len(outputs) == 1 else None,
        tuple((n, p) for n, p in first.parts if all(n in dict(other.parts) for other in networks)),
        any(item.noisy for item in networks),
        _common_outputs(networks),
    )


def _common_outputs(networks: list[Model]) -> tuple[tuple[str, tuple[Size, ...]], ...] | None:
    """The named outputs that all networks of a list have; a size is unknown where they differ in it."""
    if any(network.outputs is None for network in networks):
        return None
    tables = [dict(network.outputs or ()) for network in networks]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return tuple((name, _common_shape([table[name] for table in tables])) for name in shared)


def _common_shape(shapes: list[tuple[Size, ...]]) -> tuple[Size, ...]:
    if len({len(shape) for shape in shapes}) > 1:
        return (UNKNOWN_SIZE,)
    return tuple(_common_size(list(sizes)) for sizes in zip(*shapes, strict=True))


def subscripted(base: Type, items: tuple[Type, ...]) -> Type | None:
    """The type of `base[items]`; None where the base has too few axes."""
    if isinstance(base, Unknown):
        return Unknown()
    if isinstance(base, Tree) and base.count:
        return Tree(base.net, base.part, base.kind, base.count[len(items) :])
    if not isinstance(base, Array):
        return None
    if not base.ranked:
        return base
    if len(items) > len(base.shape):
        return None
    inner: tuple[Size, ...] = ()
    for item in items:
        inner += item.shape if isinstance(item, Array) else (UNKNOWN_SIZE,)
    return Array(inner + base.shape[len(items) :], base.element)


# ---- rules of functions --------------------------------------------------------------------------------------


def result_of(rule: Rule, arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    """The type of a function's value; raises Mismatch where an argument does not fit."""
    return RULES[rule](arguments, sizes)


def _same(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    return arguments[0]


def _number(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    for argument in arguments:
        if not isinstance(argument, Array | Tree | Union | Unknown):
            raise Mismatch(argument, None, "needs numbers")
    return NUMBER


def _combined(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    result = arguments[0]
    for argument in arguments[1:]:
        result = combine(result, argument, sizes)
    return result


def _last(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    first = arguments[0]
    if isinstance(first, Unknown) or (isinstance(first, Array) and not first.ranked):
        return Array((), ranked=False)
    if not isinstance(first, Array) or not first.shape:
        raise Mismatch(first, None, "needs at least one axis")
    for other in arguments[1:]:
        _fits_last(first, other, sizes)
    return Array(first.shape[:-1])


def _fits_last(first: Array, other: Type, sizes: Sizes) -> None:
    """Targets have the shape of the first argument or, as labels, lack its last axis."""
    if not isinstance(other, Array) or not other.ranked:
        if isinstance(other, Array | Unknown):
            return
        raise Mismatch(first, other)
    expected = first.shape if len(other.shape) == len(first.shape) else first.shape[:-1]
    if other.element == "integer":
        expected = first.shape[:-1]
    same_rank = len(other.shape) == len(expected)
    if not same_rank or not all(same_size(a, b, sizes) for a, b in zip(other.shape, expected, strict=True)):
        raise Mismatch(first, other)


def _onehot(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    labels = arguments[0]
    return Array((*labels.shape, UNKNOWN_SIZE)) if isinstance(labels, Array) else Unknown()


def _dot(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    left, right = arguments
    if isinstance(left, Tree | Union) and isinstance(right, Tree | Union):
        return NUMBER
    if not (isinstance(left, Array) and isinstance(right, Array) and left.ranked and right.ranked):
        return Array((), ranked=False)
    if not left.shape or not right.shape:
        raise Mismatch(left, right)
    inner = right.shape[-2] if len(right.shape) > 1 else right.shape[0]
    if not same_size(left.shape[-1], inner, sizes):
        raise Mismatch(left, right)
    return Array(left.shape[:-1] + (right.shape[:-2] + right.shape[-1:] if len(right.shape) > 1 else ()))


def _outer(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    left, right = arguments
    if isinstance(left, Array) and isinstance(right, Array):
        return Array(left.shape + right.shape)
    return Unknown()


def _transpose(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    value = arguments[0]
    if isinstance(value, Array) and len(value.shape) >= 2:
        return Array((*value.shape[:-2], value.shape[-1], value.shape[-2]), value.element)
    return Unknown()


def _pairs(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    left, right = arguments
    if isinstance(left, Array) and isinstance(right, Array) and left.shape and right.shape:
        return Array((left.shape[0], right.shape[0]))
    return Unknown()


def _concat(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    first = arguments[0]
    for argument in arguments:
        if isinstance(argument, Array) and argument.ranked and not argument.shape:
            raise Mismatch(argument, None, "needs at least one axis")
    return Array((UNKNOWN_SIZE, *first.shape[1:])) if isinstance(first, Array) and first.shape else Unknown()


def _eigenvalues(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    matrix = arguments[0]
    if isinstance(matrix, Unknown) or (isinstance(matrix, Array) and not matrix.ranked):
        return Array((UNKNOWN_SIZE,))
    if not isinstance(matrix, Array) or len(matrix.shape) != 2 or not same_size(*matrix.shape, sizes):
        raise Mismatch(matrix, None, "needs a square matrix")
    return Array(matrix.shape[:1])


def _without(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    items = arguments[0]
    return _any_of(items.items) if isinstance(items, ListType) else Unknown()


def _unknown(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    return Unknown()


def _tree_number(arguments: tuple[Type, ...], sizes: Sizes) -> Type:
    return NUMBER


RULES: dict[Rule, Callable[[tuple[Type, ...], Sizes], Type]] = {
    "same": _same,
    "number": _number,
    "combined": _combined,
    "last": _last,
    "onehot": _onehot,
    "dot": _dot,
    "outer": _outer,
    "square": _unknown,  # the size is an expression: the checker fills it in
    "arange": _unknown,
    "concat": _concat,
    "transpose": _transpose,
    "pairs": _pairs,
    "reshape": _unknown,
    "source": _unknown,
    "without": _without,
    "eigenvalues": _eigenvalues,
    "tree_number": _tree_number,
    "unknown": _unknown,
}
