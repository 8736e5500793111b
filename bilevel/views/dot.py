"""A plan for Graphviz: a cluster for every level, nested as the levels are."""

from __future__ import annotations

import json

from bilevel.views.colours import LIGHT
from bilevel.views.document import Document, Level, Node

STYLES = {"value": "solid", "derivative": "dotted", "stopped": "solid"}


def dot(plan: Document) -> str:
    """The text of a `digraph`."""
    title = json.dumps(f"{plan.recipe}: hypergradients {plan.exactness}, plan {plan.plan}", ensure_ascii=False)
    lines = [f"digraph {json.dumps(plan.recipe)} {{", f"  label={title};", "  rankdir=LR;"]
    lines += ["  node [shape=box, style=filled, fontname=sans];"]
    lines += [line for level in plan.levels if level.inside is None for line in _cluster(plan, level, "  ")]
    lines += [_edge(edge.tail, edge.head, edge.kind) for edge in plan.edges]
    return "\n".join([*lines, "}", ""])


def _cluster(plan: Document, level: Level, indent: str) -> list[str]:
    """A level, its steps, and the levels inside it."""
    fill, stroke = LIGHT[level.number % len(LIGHT)]
    label = json.dumps(f"{level.name}: {level.solver}, {level.duration}", ensure_ascii=False)
    lines = [f'{indent}subgraph "cluster_{level.name}" {{', f'{indent}  label={label}; color="{stroke}";']
    lines += [_node(node, fill, f"{indent}  ") for node in plan.nodes if node.level == level.name]
    for inner in (one for one in plan.levels if one.inside == level.name):
        lines += _cluster(plan, inner, f"{indent}  ")
    return [*lines, f"{indent}}}"]


def _node(node: Node, fill: str, indent: str) -> str:
    times = f" x{node.repeats}" if node.repeats != "1" else ""
    label, tip = json.dumps(f"{node.name}{times}"), json.dumps(f"{node.place.file}:{node.place.line}")
    return f'{indent}"{node.identity}" [label={label}, fillcolor="{fill}", tooltip={tip}];'


def _edge(tail: str, head: str, kind: str) -> str:
    colour = ', color="gray"' if kind == "stopped" else ""
    one, other = (f'"step-{name.replace(".", "-")}"' for name in (tail, head))
    return f"  {one} -> {other} [style={STYLES[kind]}{colour}];"
