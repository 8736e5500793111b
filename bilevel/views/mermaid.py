"""A plan as a Mermaid flow chart, which many readers of Markdown draw."""

from __future__ import annotations

from bilevel.views.colours import LIGHT
from bilevel.views.document import Document, Level, Node

ARROWS = {"value": "-->", "derivative": "-.->", "stopped": "-->"}


def mermaid(plan: Document) -> str:
    """The text of a `flowchart`."""
    lines = ["flowchart LR"]
    lines += [line for level in plan.levels if level.inside is None for line in _subgraph(plan, level, "  ")]
    lines += [f"  {_identity(e.tail)} {ARROWS[e.kind]} {_identity(e.head)}" for e in plan.edges]
    grey = [str(number) for number, edge in enumerate(plan.edges) if edge.kind == "stopped"]
    lines += [f"  linkStyle {','.join(grey)} stroke:gray"] * bool(grey)
    for level in plan.levels:
        fill, stroke = LIGHT[level.number % len(LIGHT)]
        lines.append(f"  style {_box(level)} fill:none,stroke:{stroke}")
        lines += [f"  style {_identity(n.name)} fill:{fill},color:#111" for n in plan.nodes if n.level == level.name]
    return "\n".join([*lines, ""])


def _subgraph(plan: Document, level: Level, indent: str) -> list[str]:
    lines = [f'{indent}subgraph {_box(level)}["{_quoted(f"{level.name}: {level.solver}, {level.duration}")}"]']
    lines += [f'{indent}  {_identity(n.name)}["{_quoted(_label(n))}"]' for n in plan.nodes if n.level == level.name]
    for inner in (one for one in plan.levels if one.inside == level.name):
        lines += _subgraph(plan, inner, f"{indent}  ")
    return [*lines, f"{indent}end"]


def _label(node: Node) -> str:
    return node.operation + (f" x{node.repeats}" if node.repeats != "1" else "")


def _box(level: Level) -> str:
    """A name that no step has: steps are called LEVEL_OPERATION."""
    return f"level_{level.name}"


def _identity(name: str) -> str:
    return f"s_{name.replace('.', '_')}"


def _quoted(text: str) -> str:
    """Mermaid's own escape of a quotation mark."""
    return text.replace('"', "#quot;")
