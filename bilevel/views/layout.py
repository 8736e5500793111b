"""Where the steps of a plan are drawn: a lane for every level, a column for every generation of the graph.

A step stands one column to the left of the first step that uses it, in the lane of its level, so that edges are short;
steps that share lane and column stand below each other. Takes O(steps + edges).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from bilevel.views.document import Document

WIDTH, HEIGHT = 112, 38
"""of a step, in pixels"""
COLUMN, ROW = 146, 50
MARGIN, TITLE = 16, 30


@dataclass(frozen=True, slots=True)
class Box:
    """Left, top, width and height in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes of steps and of lanes by name, and the size of the whole."""

    steps: Mapping[str, Box]
    lanes: Mapping[str, Box]
    width: float
    height: float


def layout(plan: Document) -> Layout:
    """The drawing of a plan."""
    columns = _columns(plan)
    width = MARGIN * 2 + COLUMN * (max(columns.values(), default=0) + 1)
    steps: dict[str, Box] = {}
    lanes: dict[str, Box] = {}
    top = float(MARGIN)
    for level in plan.levels:
        rows: dict[int, int] = {}
        for node in (one for one in plan.nodes if one.level == level.name):
            row = rows.get(columns[node.name], 0)
            rows[columns[node.name]] = row + 1
            x = MARGIN + COLUMN * columns[node.name] + (COLUMN - WIDTH) / 2
            steps[node.name] = Box(x, top + TITLE + ROW * row, WIDTH, HEIGHT)
        height = TITLE + ROW * max(rows.values(), default=1)
        lanes[level.name] = Box(MARGIN, top, width - 2 * MARGIN, height)
        top += height + MARGIN
    return Layout(steps, lanes, width, top)


def _columns(plan: Document) -> dict[str, int]:
    graph = nx.DiGraph([(edge.head, edge.tail) for edge in plan.edges])
    graph.add_nodes_from(node.name for node in plan.nodes)
    generations = list(nx.topological_generations(graph))
    return {name: number for number, names in enumerate(reversed(generations)) for name in names}
