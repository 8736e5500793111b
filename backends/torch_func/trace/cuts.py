"""The least cut of a graph whose nodes have widths: the nodes that every way from its sources to its sinks passes.

By shortest augmenting paths (Edmonds and Karp 1972) on the graph with every node split in two, in and out, and an edge
as wide as the node between them. Own code, since the libraries that have it take longer to import than this to run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeAlias, TypeVar

Node = TypeVar("Node", bound=Hashable)
Room: TypeAlias = dict[Hashable, dict[Hashable, float]]
SOURCE, SINK = "source", "sink"


def least_cut(
    widths: Mapping[Node, float],
    edges: Iterable[tuple[Node, Node]],
    sources: Iterable[Node],
    sinks: Iterable[Node],
) -> set[Node]:
    """The nodes of least width in sum that part the sources from the sinks; of equal cuts the nearest to the sinks.

    A node may be a source and a sink at once. `math.inf` is the width of a node that must not be in the cut; raises
    ValueError where every cut has such a node. Cost: O(paths * edges), the paths about as many as the nodes of the cut.
    """
    room: Room = {SOURCE: {}, SINK: {}}
    for node, width in widths.items():
        _join(room, (node, "in"), (node, "out"), width)
    for first, second in edges:
        _join(room, (first, "out"), (second, "in"), math.inf)
    for node in sources:
        _join(room, SOURCE, (node, "in"), math.inf)
    for node in sinks:
        _join(room, (node, "out"), SINK, math.inf)
    while path := _path(room):
        least = min(room[a][b] for a, b in path)
        if least == math.inf:
            raise ValueError("no cut of finite width")
        for a, b in path:
            room[a][b] -= least
            room[b][a] += least
    late = _reaching(room)
    return {node for node in widths if (node, "out") in late and (node, "in") not in late}


def _join(room: Room, first: Hashable, second: Hashable, width: float) -> None:
    room.setdefault(first, {})[second] = width
    room.setdefault(second, {}).setdefault(first, 0.0)


def _path(room: Room) -> list[tuple[Hashable, Hashable]]:
    """The edges of a shortest way with room from the source to the sink; empty where there is none."""
    before: dict[Hashable, Hashable] = {SOURCE: SOURCE}
    ahead = deque[Hashable]([SOURCE])
    while ahead and SINK not in before:
        node = ahead.popleft()
        for after, left in room[node].items():
            if left > 0 and after not in before:
                before[after] = node
                ahead.append(after)
    path: list[tuple[Hashable, Hashable]] = []
    node = SINK
    while node in before and node != SOURCE:
        path.append((before[node], node))
        node = before[node]
    return path


def _reaching(room: Room) -> set[Hashable]:
    """What still has a way with room to the sink."""
    found: set[Hashable] = {SINK}
    ahead: list[Hashable] = [SINK]
    while ahead:
        node = ahead.pop()
        for before in room[node]:
            if before not in found and room[before][node] > 0:
                found.add(before)
                ahead.append(before)
    return found
