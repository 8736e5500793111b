"""Sums of images times one number for each channel, in as few passes over the images as they have terms.

Derivatives of normalisation are such sums, of the images less their mean, their cotangents and their tangents; torch
writes the second ones with about thirty passes. Here a sum is followed down to images that something else needs as
they are, the numbers of each channel are worked out among themselves, and one pass for each image adds it up. What is
added up over a whole channel is taken apart too: the sum of a product of two sums is made of the sums of the products
of their images, most of which are there already. Images less their own mean stay whole, since their squares would
cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from torch import fx

from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, replace, tensor_of

LEAST = 2**15
"""the fewest numbers of images for which a pass costs more than some operators on one number for each channel"""
Number: TypeAlias = float | fx.Node
"""one number, or one for each channel"""
SUMS, PRODUCTS = (aten.add.Tensor, aten.sub.Tensor), (aten.mul.Tensor, aten.mul.Scalar)
TOTAL = aten.sum.dim_IntList


@dataclass(frozen=True, slots=True)
class Sum:
    """Images, each times a number for each channel, and a number for each channel."""

    terms: Mapping[fx.Node, Number]
    rest: Number = 0.0


def by_channel(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with such sums in few passes; every value is the same but for rounding."""
    passes = Passes()
    for node in list(module.graph.nodes):
        passes.visit(node)
    module.graph.eliminate_dead_code()
    return module


class Passes:
    """What is known of the nodes before one: those that need not be computed as they are, and products of images."""

    def __init__(self) -> None:
        self.sums: dict[fx.Node, Sum] = {}
        self.products: dict[frozenset[fx.Node], fx.Node] = {}

    def visit(self, node: fx.Node) -> None:
        """Rewrite one node, those before it being done."""
        if _is_product(node):
            self._note_product(node)
        elif _is_total(node):
            self._take_apart(node)
        elif _is_linear(node) and not _stays(node):
            found = _combined(node, self.sums)
            if all(_follows(user) for user in node.users):
                self.sums[node] = found
            elif any(value in self.sums for value in arguments(node)) and _has_channels(found):
                _write(node, found)

    def _note_product(self, node: fx.Node) -> None:
        """The same product of the same images once, in whatever order."""
        pair = frozenset(arguments(node))
        if pair in self.products:
            replace(node, self.products[pair])
        elif pair.isdisjoint(self.sums):
            self.products[pair] = node

    def _take_apart(self, node: fx.Node) -> None:
        """The sums over channels of a sum, or of a product of two, from those of its images."""
        value = arguments(node)[0]
        found: Number = 0.0
        if value in self.sums:
            found = _total_of(node, self.sums[value])
        elif _is_product(value) and not self.sums.keys().isdisjoint(arguments(value)):
            left, right = (_of(factor, value, self.sums) for factor in arguments(value))
            found = self._total_of_product(node, left, right)
        if isinstance(found, fx.Node):
            replace(node, _in_shape(node, found))

    def _total_of_product(self, node: fx.Node, left: Sum, right: Sum) -> Number:
        """The sum of the products of all terms of two sums."""
        found: Number = 0.0
        for one, number in left.terms.items():
            for other, factor in right.terms.items():
                both = _total(node, self._product_of(node, one, other))
                found = _plus(node, found, _product(node, both, _product(node, number, factor)))
        for terms, rest in ((left.terms, right.rest), (right.terms, left.rest)):
            found = _plus(node, found, _product(node, _total_of(node, Sum(terms)), rest))
        return _plus(node, found, _total_of(node, Sum({}, _product(node, left.rest, right.rest))))

    def _product_of(self, before: fx.Node, left: fx.Node, right: fx.Node) -> fx.Node:
        pair = frozenset((left, right))
        if pair not in self.products:
            self.products[pair] = insert(before, aten.mul.Tensor, left, right)
        return self.products[pair]


def _has_channels(one: Sum) -> bool:
    """Whether a number of a sum is one for each channel; with others there is nothing to gain."""
    return any(isinstance(number, fx.Node) for number in (*one.terms.values(), one.rest))


def _follows(user: fx.Node) -> bool:
    """Whether what reads a sum can do with its terms."""
    if _is_product(user):
        return len(arguments(user)) == 2 and all(_is_total(reader) for reader in user.users)
    return _is_total(user) or (_is_linear(user) and not _stays(user))


def _in_shape(node: fx.Node, value: fx.Node) -> fx.Node:
    shape = node.meta["val"].shape
    return value if value.meta["val"].shape == shape else insert(node, aten.view.default, value, list(shape))


def _is_product(node: Any) -> bool:
    """Whether a node multiplies images with images of the same shape."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target is not aten.mul.Tensor:
        return False
    return _is_large(node) and not node.kwargs and all(_is_like(value, node) for value in arguments(node))


def _is_large(value: Any) -> bool:
    """Whether a value is many images."""
    found = tensor_of(value)
    return found is not None and found.dim() == 4 and found.is_floating_point() and found.numel() >= LEAST


def _is_number(value: Any, images: fx.Node) -> bool:
    """Whether a value is one number, or one for each channel of some images."""
    if isinstance(value, int | float):
        return True
    found = tensor_of(value)
    if found is None or found.dtype != images.meta["val"].dtype or found.dim() > 4:
        return False
    shape = (*(1,) * (4 - found.dim()), *found.shape)
    return shape[0] == shape[2] == shape[3] == 1


def _is_linear(node: fx.Node) -> bool:
    """Whether a node is a sum of images and numbers, or a product of images with numbers."""
    if node.op != "call_function" or not _is_large(node) or node.target not in (*SUMS, *PRODUCTS):
        return False
    given = arguments(node)
    whole = [_is_like(value, node) for value in given]
    if len(given) != 2 or node.kwargs or not all(w or _is_number(v, node) for v, w in zip(given, whole, strict=True)):
        return False
    return any(whole) if node.target in SUMS else sum(whole) == 1


def _is_like(value: Any, node: fx.Node) -> bool:
    found, whole = tensor_of(value), node.meta["val"]
    return found is not None and found.shape == whole.shape and found.dtype == whole.dtype


def _stays(node: fx.Node) -> bool:
    """Whether a node is images less their own mean."""
    if node.target is not aten.sub.Tensor or not _is_number(arguments(node)[1], node):
        return False
    images, mean = arguments(node)
    total = arguments(mean)[0] if isinstance(mean, fx.Node) and mean.target in PRODUCTS else None
    return isinstance(total, fx.Node) and total.target is TOTAL and arguments(total)[0] is images


def _is_total(node: fx.Node) -> bool:
    """Whether a node adds up every channel of images."""
    if node.op != "call_function" or node.target is not TOTAL or node.kwargs or not _is_large(arguments(node)[0]):
        return False
    return sorted(axis % 4 for axis in arguments(node)[1]) == [0, 2, 3]


def _combined(node: fx.Node, sums: Mapping[fx.Node, Sum]) -> Sum:
    """What a sum or a product comes to."""
    parts = [_of(value, node, sums) for value in arguments(node)]
    if node.target in SUMS:
        sign = 1.0 if node.target is aten.add.Tensor else -1.0
        return _added(node, parts[0], _times(node, parts[1], sign))
    first, second = parts
    return _times(node, second, first.rest) if not first.terms else _times(node, first, second.rest)


def _of(value: Any, images: fx.Node, sums: Mapping[fx.Node, Sum]) -> Sum:
    if not _is_like(value, images):
        return Sum({}, value if isinstance(value, fx.Node) else float(value))
    return sums.get(value, Sum({value: 1.0}))


def _added(before: fx.Node, left: Sum, right: Sum) -> Sum:
    terms = dict(left.terms)
    for images, number in right.terms.items():
        terms[images] = _plus(before, terms.get(images, 0.0), number)
    return Sum(terms, _plus(before, left.rest, right.rest))


def _times(before: fx.Node, one: Sum, number: Number) -> Sum:
    return Sum(
        {images: _product(before, c, number) for images, c in one.terms.items()}, _product(before, one.rest, number)
    )


def _plus(before: fx.Node, left: Number, right: Number) -> Number:
    if not isinstance(left, fx.Node) and not isinstance(right, fx.Node):
        return left + right
    if right == 0.0:
        return left
    return right if left == 0.0 else _numbers(before, aten.add.Tensor, left, right)


def _product(before: fx.Node, left: Number, right: Number) -> Number:
    if not isinstance(left, fx.Node) and not isinstance(right, fx.Node):
        return left * right
    if 0.0 in (left, right):
        return 0.0
    if right == 1.0:
        return left
    return right if left == 1.0 else _numbers(before, aten.mul.Tensor, left, right)


def _numbers(before: fx.Node, target: Any, left: Number, right: Number) -> fx.Node:
    """Numbers of channels worked out; a number stands second."""
    first, second = (left, right) if isinstance(left, fx.Node) else (right, left)
    return insert(before, target, first, second)


def _total_of(node: fx.Node, one: Sum) -> Number:
    shape = arguments(node)[0].meta["val"].shape
    found: Number = _product(node, one.rest, float(prod((shape[0], *shape[2:]))))
    for images, number in one.terms.items():
        found = _plus(node, found, _product(node, _total(node, images), number))
    return found


def _total(before: fx.Node, images: fx.Node) -> fx.Node:
    """The sums over channels; equal ones become one."""
    return insert(before, TOTAL, images, [0, 2, 3], True)


def _write(node: fx.Node, one: Sum) -> None:
    """A sum in as many passes as it has terms."""
    made: Number = one.rest
    for images, number in sorted(one.terms.items(), key=lambda term: term[1] != 1.0):
        made = _with(node, made, images, number)
    if isinstance(made, fx.Node) and _is_like(made, node):
        replace(node, made)


def _with(before: fx.Node, made: Number, images: fx.Node, number: Number) -> fx.Node:
    """One pass: what is there, and images times a number."""
    if made == 0.0:
        return images if number == 1.0 else insert(before, aten.mul.Tensor, images, number)
    if number == 1.0:
        return insert(before, aten.add.Tensor, images, made)
    if isinstance(made, fx.Node) and isinstance(number, fx.Node):
        return insert(before, aten.addcmul.default, made, images, number)
    return insert(before, aten.add.Tensor, insert(before, aten.mul.Tensor, images, number), made)
