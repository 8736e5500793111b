"""The least cut of a graph whose nodes have widths: the nodes that every way from its sources to its sinks passes.

A largest flow by networkx on the graph with every node split in two, in and out, and an edge as wide as the node
between them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)
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
    import networkx as nx  # takes an eighth of a second, which only graphs that are cut should pay

    graph = nx.DiGraph()
    graph.add_nodes_from((SOURCE, SINK))
    for node, width in widths.items():
        # an edge without a capacity has no limit
        graph.add_edge((node, "in"), (node, "out"), **({} if width == math.inf else {"capacity": width}))
    graph.add_edges_from(((first, "out"), (second, "in")) for first, second in edges)
    graph.add_edges_from((SOURCE, (node, "in")) for node in sources)
    graph.add_edges_from(((node, "out"), SINK) for node in sinks)
    try:
        _, (_, late) = nx.minimum_cut(graph, SOURCE, SINK, flow_func=nx.algorithms.flow.edmonds_karp)
    except nx.NetworkXUnbounded as error:
        raise ValueError("no cut of finite width") from error
    return {node for node in widths if (node, "out") in late and (node, "in") not in late}
