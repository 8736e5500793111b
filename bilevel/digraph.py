"""Directed graphs without cycles: what a plan's steps are held in, and the orders in which they are read.

Not networkx, whose import alone takes a quarter of what `bilevel check` may take; the orders are graphlib's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from typing import Generic, TypeVar

Node = TypeVar("Node")
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Edge:
    """What flows from one node to another: `value` or `derivative`; `entering`: from a level around."""

    kind: str
    entering: bool = False


@dataclass(slots=True)
class Digraph(Generic[Node]):
    """Nodes by name, and edges by the names of their ends, both as they were added."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], Edge] = field(default_factory=dict)

    def __contains__(self, name: object) -> bool:
        return name in self.nodes

    def join(self, first: str, second: str, kind: str, entering: bool = False) -> None:
        """An edge between two nodes that are there; one that enters remains so when it is added again."""
        assert first in self.nodes and second in self.nodes
        before = self.edges.get((first, second))
        self.edges[first, second] = Edge(kind, entering or (before is not None and before.entering))

    def before(self, name: str) -> Iterator[tuple[str, str]]:
        """The nodes with an edge to a node, and the kinds of these edges."""
        return ((first, edge.kind) for (first, second), edge in self.edges.items() if second == name)

    def ordered(self, counts: Callable[[Edge], bool]) -> list[Node]:
        """Every node after those with an edge to it that counts, and otherwise as they were added."""
        joined = (ends for ends, edge in self.edges.items() if counts(edge))
        return [self.nodes[name] for name in earliest(_after(self.nodes, joined))]


def earliest(after: Mapping[Name, set[Name]]) -> list[Name]:
    """Names in the order of the mapping, as far as each comes after those that it has to; O(edges + names log names)."""
    places, names = {name: place for place, name in enumerate(after)}, list(after)
    sorter, ready, found = TopologicalSorter(after), list[int](), list[Name]()
    sorter.prepare()
    while sorter.is_active():
        for name in sorter.get_ready():
            heappush(ready, places[name])
        found.append(names[heappop(ready)])
        sorter.done(found[-1])
    return found


def generations(names: Iterable[Name], edges: Iterable[tuple[Name, Name]]) -> Iterator[tuple[Name, ...]]:
    """Names in groups: first those that no edge leads to, then those that edges lead to from earlier groups alone."""
    sorter = TopologicalSorter(_after(names, edges))
    sorter.prepare()
    while sorter.is_active():
        yield (group := sorter.get_ready())
        sorter.done(*group)


def _after(names: Iterable[Name], edges: Iterable[tuple[Name, Name]]) -> dict[Name, set[Name]]:
    after: dict[Name, set[Name]] = {name: set() for name in names}
    for first, second in edges:
        after[second].add(first)
    return after
