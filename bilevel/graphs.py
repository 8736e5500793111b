"""What a kernel has of the operators of its function, told from these alone: no graph is made for a plan.

A run traces a function into a graph, takes out what no result needs, what occurs twice and what changes nothing, and
gives every array back after its last reader (`backends/torch_func/trace`). Here the same is done with a list of the
operators that a function asked for on tensors without numbers, by storage and not by view: products, passes and bytes
come close to those of the graph, the rewritings of convolutions and of learned solvers are not followed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bilevel.backends.torch_func.trace.cuts import least_cut
from bilevel.backends.torch_func.trace.halves import CHEAP, FREE
from bilevel.backends.torch_func.trace.nodes import aten
from bilevel.backends.torch_func.trace.simplify import DIVIDED, FILLED, MATRICES, MULTIPLIED, POWERS, SAME, SUMS
from bilevel.costs import Work, values

FILLS = (*FILLED, aten.full.default, aten.full_like.default)
ADDED = (aten.add.Tensor, aten.sub.Tensor)
LARGE = 2**25
"""bytes of an array that the C library asks the system for and gives back at once (mallopt(3))"""

Layout = tuple[Any, Any, int]
"""shape, strides, offset"""


@dataclass(frozen=True, slots=True)
class Array:
    """A storage, by the number that it was given when it was made (below zero: made before), as an operator sees it."""

    number: int
    layout: Layout
    bytes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """One operator that was asked for; `given`: its arguments in order, arrays as such; what it made or wrote to."""

    target: Any
    given: tuple[Any, ...]
    made: tuple[Array, ...]
    work: Work

    @property
    def read(self) -> tuple[Array, ...]:
        return tuple(one for one in self.given if isinstance(one, Array))


@dataclass(frozen=True, slots=True)
class Graph:
    """What is left of a list of operators; `results`: the storages that it gives."""

    asked: tuple[Asked, ...]
    results: frozenset[int]

    @property
    def size(self) -> float:
        """Operators, views included."""
        return self.work.operators + self.work.views

    @property
    def work(self) -> Work:
        """The counts of one call, those of views too."""
        views = float(sum(1 for _ in self._views()))
        counts = zip(*(values(one.work) for one in self.asked), strict=True)
        return Work(*map(sum, counts)) + Work(views=views)

    def _views(self) -> Iterator[Array]:
        """Every way to look at a storage that is not its own; of storages from outside, all but the first."""
        own = {one.number: {one.layout} for asked in self.asked for one in asked.made}
        for asked in self.asked:
            for one in asked.read:
                known = own.setdefault(one.number, {one.layout})
                if one.layout not in known:
                    known.add(one.layout)
                    yield one

    @property
    def memory(self) -> Held:
        """What is alive of all that is made inside, each array until its last reader is done."""
        last = {one.number: place for place, asked in enumerate(self.asked) for one in asked.read}
        alive, small, most, sizes = 0.0, 0.0, Held(), dict[int, int]()
        for place, asked in enumerate(self.asked):
            for one in asked.made:
                sizes[one.number] = one.bytes
                alive += one.bytes
                small += one.bytes if one.bytes < LARGE else 0
            large = sum(one.bytes for one in asked.made if one.bytes >= LARGE)
            most = Held(max(most.peak, alive), max(most.small, small), most.large + large)
            for number in {one.number for one in (*asked.read, *asked.made)}:
                if last.get(number, place) <= place and number not in self.results:
                    gone = sizes.pop(number, 0)
                    alive -= gone
                    small -= gone if gone < LARGE else 0
        return most


@dataclass(frozen=True, slots=True)
class Held:
    """The most bytes alive at once, the most of them in arrays that are not large, and the bytes of all large ones."""

    peak: float = 0.0
    small: float = 0.0
    large: float = 0.0


def graph(asked: Sequence[Asked], results: Collection[int]) -> Graph:
    """The operators that results need, each once."""
    left, same = _distinct(asked)
    wanted = frozenset(same.get(number, number) for number in results)
    return Graph(tuple(_needed(left, wanted)), wanted)


@dataclass(frozen=True, slots=True)
class Halves:
    """A step and the way back from it; `kept`: bytes that the first gives for the second, beside the results."""

    ahead: Graph
    back: Graph
    kept: float


def halved(
    ahead: Sequence[Asked],
    back: Sequence[Asked],
    results: Collection[int],
    pulled: Collection[int],
    late: Collection[int],
) -> Halves:
    """Both halves of a step with its vjp, cut where fewest bytes pass (`trace/halves.py`); `late`: the cotangents."""
    left, same = _distinct([*ahead, *back])
    first, second = (frozenset(same.get(number, number) for number in some) for some in (results, pulled))
    left = _needed(left, first | second)
    depending = set(late)
    for one in left:
        if any(array.number in depending for array in one.read):
            depending |= {array.number for array in one.made}
    early = [one for one in left if not depending & {array.number for array in one.made}]
    sizes = {array.number: array.bytes for one in early for array in one.made}
    cut = _cut(early, [one for one in left if depending & {array.number for array in one.made}], first, second, sizes)
    again = _needed(left, second, cut)
    return Halves(
        Graph(tuple(_needed(early, first | cut)), first | cut),
        Graph(tuple(again), second),
        float(sum(sizes[number] for number in cut - first)),
    )


def _cut(
    early: Sequence[Asked], late: Sequence[Asked], first: frozenset[int], second: frozenset[int], sizes: dict[int, int]
) -> frozenset[int]:
    """The storages of fewest bytes from which the way back can be computed."""
    needed = {array.number for one in _needed([*early, *late], second) for array in one.made}
    read = {array.number for one in late for array in one.read} | second
    some = [one for one in early if needed & {array.number for array in one.made}]
    widths = {
        array.number: 0.0 if array.number in first else math.inf if one.target in FREE else float(array.bytes)
        for one in some
        for array in one.made
    }
    dear = [a.number for one in some if one.target not in FREE and one.target not in CHEAP for a in one.made]
    edges = [(b.number, a.number) for one in some for a in one.made for b in one.read if b.number in widths]
    try:
        return frozenset(least_cut(widths, edges, dear, [number for number in widths if number in read]))
    except ValueError:  # an array of one number that only a pass reads: all that is read is kept
        return frozenset(number for number in widths if number in read)


def _needed(asked: Sequence[Asked], results: Collection[int], stop: Collection[int] = ()) -> list[Asked]:
    """The operators that results need, which nothing before those at `stop` does."""
    wanted, found = set(results) - set(stop), list[Asked]()
    for one in reversed(asked):
        if any(array.number in wanted for array in one.made):
            found.append(one)
            wanted |= {array.number for array in one.read} - set(stop)
    return found[::-1]


# ---- what occurs twice, and what changes nothing -------------------------------------------------------------


def _distinct(asked: Sequence[Asked]) -> tuple[list[Asked], dict[int, int]]:
    """Every operator on the same arrays once, without sums with 0 and products with 1; which storage stands for which."""
    same: dict[int, int] = {}
    numbers: dict[int, float] = {}
    seen: dict[Any, tuple[Array, ...]] = {}
    left: list[Asked] = []
    for was in asked:
        one = replace(was, given=tuple(_standing(value, same) for value in was.given))
        number = _number(one, numbers) if len(one.made) == 1 else None
        if number is not None:
            numbers[one.made[0].number] = number
            one = _filled(one, number)
        elif len(one.made) == 1 and (other := _repeated(one, numbers)) is not None:
            same[one.made[0].number] = other.number
            continue
        key = (one.target, one.given, tuple(type(value) for value in one.given))
        before = seen.setdefault(key, one.made)
        if before is one.made:
            left.append(one)
            continue
        for new, old in zip(one.made, before, strict=True):
            same[new.number] = old.number
            if old.number in numbers:
                numbers[new.number] = numbers[old.number]
    return left, same


def _standing(value: Any, same: dict[int, int]) -> Any:
    if isinstance(value, Array) and value.number in same:
        return replace(value, number=same[value.number])
    return value


def _filled(one: Asked, number: float) -> Asked:
    """In the place of an operator: its array, filled with the number."""
    (made,) = one.made
    return Asked(aten.full.default, (made.layout, number), one.made, Work(operators=1.0, moved=float(made.bytes)))


def _number(one: Asked, numbers: dict[int, float]) -> float | None:
    """The number that all entries of what an operator makes are known to be."""
    if one.target in FILLED:
        return FILLED[one.target]
    found = [_constant(value, numbers) for value in one.given]
    if one.target is POWERS and found[1] == 0:
        return 1.0
    if one.target in FILLS:
        return next((value for value in found[::-1] if value is not None), None)
    if one.target in (*MATRICES, *SUMS, *MULTIPLIED) and 0.0 in found[: 1 if one.target in SUMS else 2]:
        return 0.0
    if one.target in (*SAME, aten.clone.default, aten._to_copy.default, aten.neg.default) and found[0] == 0:
        return 0.0
    if one.target in DIVIDED and found[0] == 0:
        return 0.0
    return None


def _constant(value: Any, numbers: dict[int, float]) -> float | None:
    if isinstance(value, Array):
        return numbers.get(value.number)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _repeated(one: Asked, numbers: dict[int, float]) -> Array | None:
    """The array that an operator repeats, where it does."""
    (first, second), arrays = (*one.given, None, None)[:2], one.read
    values = _constant(first, numbers), _constant(second, numbers)
    found = None
    if one.target in SAME and arrays:
        found = arrays[0]
    elif one.target in (*MULTIPLIED, *DIVIDED, POWERS) and values[1] == 1:
        found = first
    elif one.target in MULTIPLIED and values[0] == 1:
        found = second
    elif one.target in ADDED and values[1] == 0:
        found = first
    elif one.target is aten.add.Tensor and values[0] == 0:
        found = second
    return found if isinstance(found, Array) and found.layout[0] == one.made[0].layout[0] else None
