"""States that the next step is written over: whose memory a kernel may take, and whose never.

A loop says which states nothing reads after the step that they are given to (`carry(state)` in emitted functions). A
kernel writes over a tensor of such a state only if besides

- it is an object that a kernel made in a call with the mark of this very loop, or that the loop made itself before its
  first step: a start may be an outer variable, a warm end, a caller's tensor; and
- it is all of its memory, which no other argument shares: neither a view nor one of two names.

What a kernel would write over without this is copied first, so that every call gives the same numbers. A result that
is an input, a constant, or a part of one is nothing that the kernel made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.lifetimes import bytes_of
from bilevel.backends.torch_func.trace.reuse import LEAST
from bilevel.backends.torch_func.trace.signature import Key, flatten


class Carry:
    """The mark of one loop, and the tensors that are its own; `applies`: whether functions are kernels just now."""

    def __init__(self, applies: Callable[[], bool], made: Any) -> None:
        self.applies = applies
        self.own: dict[int, Tensor] = {}
        """by identity; held, so that no other object gets it"""
        leaves: list[Any] = []
        flatten(made, leaves)
        self.keep(leaves, leaves)

    def __call__(self, state: Any, dead: bool = True) -> Any:
        """The state, marked where a kernel may be what takes it."""
        return Spent(state, dead, self) if self.applies() else state

    def has(self, tensor: Tensor) -> bool:
        """Whether this object was made for the loop."""
        return self.own.get(id(tensor)) is tensor

    def keep(self, results: Iterable[Any], made: Iterable[Any]) -> None:
        """From now on the loop's own: of the results of a step those that were made in it, or were its own before."""
        new = {id(leaf) for leaf in made}
        kept = (leaf for leaf in results if isinstance(leaf, Tensor) and (id(leaf) in new or self.has(leaf)))
        self.own = {id(leaf): leaf for leaf in kept}


@dataclass(frozen=True, slots=True)
class Spent:
    """A state with the mark of its loop; `dead`: nothing reads it after the call that it is given to."""

    tree: Any
    dead: bool
    carry: Carry


@dataclass(frozen=True, slots=True)
class Given:
    """Arguments without their marks."""

    arguments: tuple[Any, ...]
    leaves: list[Any]
    form: Key
    marked: tuple[int, ...]
    """the leaves of marked arguments"""
    dead: frozenset[int]
    """those of them that nothing reads any more"""
    carry: Carry


def is_marked(arguments: tuple[Any, ...]) -> bool:
    """Whether a loop gives its state."""
    return any(type(one) is Spent for one in arguments)


def unmarked(arguments: tuple[Any, ...]) -> Given:
    """Marked arguments taken apart."""
    leaves, forms, marked, dead = list[Any](), list[Any](), list[int](), set[int]()
    trees = tuple(one.tree if type(one) is Spent else one for one in arguments)
    for one, tree in zip(arguments, trees, strict=True):
        first = len(leaves)
        forms.append(flatten(tree, leaves))
        if type(one) is Spent:
            marked += range(first, len(leaves))
            dead |= set(range(first, len(leaves)) if one.dead else ())
    (carry,) = {one.carry for one in arguments if type(one) is Spent}
    return Given(trees, leaves, (tuple, *forms), tuple(marked), frozenset(dead), carry)


def spendable(traced: Traced, inputs: list[Tensor], marked: Collection[int]) -> list[int]:
    """The inputs of a graph that it may write over if nothing reads them later: marked ones that are no results."""
    results = {place for is_given, place in traced.sources if is_given}
    enough = {p for p in marked if p not in results and bytes_of(inputs[p]) >= LEAST}
    return [number for number, place in enumerate(traced.inputs) if place in enough]


def writable(inputs: list[Tensor], over: Collection[int], given: Given) -> list[Tensor]:
    """The inputs of a kernel that writes over some of them: copies of those that are not the loop's alone."""
    if not over:
        return inputs
    memory = [one.untyped_storage() for one in inputs]
    names = [one.data_ptr() for one in memory]

    def is_free(place: int) -> bool:
        one = inputs[place]
        whole = memory[place].nbytes() == one.numel() * one.element_size()
        return place in given.dead and given.carry.has(one) and whole and names.count(names[place]) == 1

    return [one.clone() if place in over and not is_free(place) else one for place, one in enumerate(inputs)]


def made_inside(results: Sequence[Tensor], others: Iterable[Tensor]) -> tuple[int, ...]:
    """The results of a call that are all of their memory, shared with no other result and none of `others`."""
    taken = {one.untyped_storage().data_ptr() for one in others}
    names = [one.untyped_storage().data_ptr() for one in results]
    return tuple(
        place
        for place, (one, name) in enumerate(zip(results, names, strict=True))
        if names.count(name) == 1
        and name not in taken
        and one.untyped_storage().nbytes() == one.numel() * one.element_size()
    )
