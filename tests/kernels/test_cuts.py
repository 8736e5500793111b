"""The least cut: against networkx on random graphs, and the one nearest to the sinks of equal ones."""

from __future__ import annotations

import math
import random

import networkx
import pytest

from bilevel.backends.torch_func.trace.cuts import least_cut


@pytest.mark.parametrize("seed", range(20))
def test_the_width_is_that_of_networkx_and_the_cut_parts_all_ways(seed: int) -> None:
    draw = random.Random(seed)
    count = 30
    widths = {node: draw.choice([1.0, 2.0, 5.0, 9.0, math.inf]) for node in range(count)}
    widths |= dict.fromkeys((0, 1, 2, 27, 28, 29), 7.0)
    edges = [(a, b) for b in range(count) for a in range(b) if draw.random() < 0.12]
    sources, sinks = (0, 1, 2), (27, 28, 29)
    found = least_cut(widths, edges, sources, sinks)
    graph = networkx.DiGraph([((a, "out"), (b, "in")) for a, b in edges])
    for node, width in widths.items():
        graph.add_edge((node, "in"), (node, "out"), **({} if width == math.inf else {"capacity": width}))
    graph.add_edges_from([("source", (node, "in")) for node in sources] + [((node, "out"), "sink") for node in sinks])
    assert sum(widths[node] for node in found) == networkx.minimum_cut_value(graph, "source", "sink")
    graph.remove_edges_from([((node, "in"), (node, "out")) for node in found])
    assert not networkx.has_path(graph, "source", "sink")


def test_of_equal_cuts_the_nearest_to_the_sinks() -> None:
    assert least_cut({0: 1.0, 1: 1.0, 2: 1.0}, [(0, 1), (1, 2)], [0], [2]) == {2}
    assert least_cut({0: 1.0, 1: 2.0, 2: math.inf}, [(0, 1), (1, 2)], [0], [2]) == {0}


def test_nothing_is_cut_where_nothing_has_to_be_parted() -> None:
    assert least_cut({0: 1.0, 1: 1.0}, [(0, 1)], [], [1]) == set()


def test_a_cut_of_no_finite_width_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        least_cut({0: math.inf}, [], [0], [0])
