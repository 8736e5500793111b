"""The steps of a plan in order: against the topological order of networkx, on every packaged recipe."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import networkx
import pytest

from bilevel import pipeline
from bilevel.commands.stages import scheduled
from bilevel.plan import Plan
from bilevel.recipe import load

RECIPES = sorted(path.stem for path in Path(pipeline.ZOO).glob("*.bl"))


@cache
def planned(name: str) -> Plan:
    return pipeline.plan(load(name).program, "biased")


@pytest.mark.parametrize("name", RECIPES)
def test_the_order_is_the_topological_one_that_keeps_to_the_places_of_the_graph(name: str) -> None:
    graph = planned(name).graph
    places = {step: place for place, step in enumerate(graph)}
    within = networkx.subgraph_view(graph, filter_edge=lambda a, b: not graph.edges[a, b]["entering"])
    names = list(networkx.lexicographical_topological_sort(within, key=places.__getitem__))
    assert [step.name for step in planned(name).steps] == names
    assert [graph.nodes[step]["step"] for step in names] == list(planned(name).steps)


def test_the_graph_has_the_kinds_of_edges_and_the_levels_around() -> None:
    graph = planned("maml").graph
    assert graph.edges["adapt.pullback", "meta.gradient"] == {"kind": "derivative", "entering": False}
    assert graph.edges["adapt.forward", "meta.gradient"] == {"kind": "value", "entering": False}
    assert graph.edges["meta.start", "adapt.start"] == {"kind": "value", "entering": True}


def test_a_printed_schedule_spells_expressions_as_the_recipe_does() -> None:
    said = scheduled(planned("lazy_maml"))
    assert "frozenset" not in said
    assert "choose=(max, acc(phi, task.query))" in said.replace("'", "")
