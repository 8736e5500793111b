"""Orders of graphs, beside those that networkx gives."""

from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from bilevel.digraph import Digraph, generations

NAMES = "abcdefgh"
EDGES = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda ends: ends[0] < ends[1]))


@given(st.permutations(NAMES), st.permutations(NAMES), EDGES)
def test_orders_are_those_of_networkx(added: list[str], ranked: list[str], edges: set[tuple[int, int]]) -> None:
    graph, peer = Digraph[str](), nx.DiGraph()
    for name in added:
        graph.nodes[name] = name
        peer.add_node(name)
    for first, second in sorted(edges):  # along one ranking of the names, so that there is no cycle
        graph.join(ranked[first], ranked[second], "value")
        peer.add_edge(ranked[first], ranked[second])
    assert graph.ordered(lambda _: True) == list(nx.lexicographical_topological_sort(peer, key=added.index))
    assert [set(group) for group in generations(graph.nodes, graph.edges)] == [
        set(group) for group in nx.topological_generations(peer)
    ]


def test_an_edge_that_enters_remains_so_and_orders_nothing() -> None:
    graph = Digraph[int](nodes={"a": 1, "b": 2})
    graph.join("b", "a", "value", entering=True)
    graph.join("b", "a", "derivative")
    assert graph.ordered(lambda edge: not edge.entering) == [1, 2]
    assert graph.ordered(lambda edge: True) == [2, 1]
    assert list(graph.before("a")) == [("b", "derivative")]
    assert "a" in graph and "c" not in graph
