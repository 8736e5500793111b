"""A plan as a picture: lanes in the colours of their levels, solid value edges, dotted derivative edges.

Drawn with nothing but text, so that no other program is needed. Every step is a link to its line of the recipe, which
a keyboard reaches as well.
"""

from __future__ import annotations

from html import escape

from bilevel.views.colours import DARK, LIGHT
from bilevel.views.document import Document, Edge, Level, Node
from bilevel.views.layout import Box, Layout, layout

SPACE = "http://www.w3.org/2000/svg"


def svg(plan: Document) -> str:
    """A standalone picture, readable on light and on dark backgrounds."""
    placed = layout(plan)
    size = f'width="{placed.width:g}" height="{placed.height:g}" viewBox="0 0 {placed.width:g} {placed.height:g}"'
    head = f'<svg xmlns="{SPACE}" {size} role="img" aria-label="the steps of {escape(plan.recipe)}">'
    return "\n".join([head, f"<style>{style()}</style>", *body(plan, placed), "</svg>", ""])


def style() -> str:
    """Colours and lines, for both kinds of background."""
    rules = [
        ".graph text{font:13px system-ui,sans-serif;fill:var(--ink)}",
        ".graph .small{font-size:11px;opacity:.8}",
        ".graph .edge{fill:none;stroke:var(--ink);stroke-width:1.3;opacity:.55}",
        ".graph .derivative{stroke-dasharray:2 4;stroke-width:2;opacity:.9;stroke-linecap:round}",
        ".graph .stopped{stroke:#999}",
        ".graph a:hover rect,.graph a:focus rect{stroke-width:3}",
        ".graph a:focus{outline:none}",
    ]
    light = ["--ink:#1a1a1a;--paper:#ffffff", *_variables(LIGHT)]
    dark = ["--ink:#ececec;--paper:#16181c", *_variables(DARK)]
    rules.append(f":root{{{';'.join(light)}}}")
    rules.append(f"@media (prefers-color-scheme:dark){{:root{{{';'.join(dark)}}}}}")
    return "\n".join(rules)


def _variables(palette: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"--fill-{n}:{fill};--stroke-{n}:{stroke}" for n, (fill, stroke) in enumerate(palette)]


def body(plan: Document, placed: Layout) -> list[str]:
    """Lanes, edges and steps, in the order in which they cover each other."""
    levels = {level.name: level for level in plan.levels}
    lines = ['<g class="graph">', _arrow()]
    lines += [_lane(level, placed.lanes[level.name]) for level in plan.levels]
    lines += [_edge(edge, placed) for edge in plan.edges]
    lines += [_step(node, placed.steps[node.name], levels[node.level]) for node in plan.nodes]
    return [*lines, "</g>"]


def _arrow() -> str:
    return (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="var(--ink)"/></marker></defs>'
    )


def _lane(level: Level, box: Box) -> str:
    colour = level.number % len(LIGHT)
    per = f", one per {', '.join(level.per)}" if level.per else ""
    title = escape(f"{level.name}: {level.solver}, {level.duration}{per}")
    return (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="8" '
        f'fill="var(--fill-{colour})" fill-opacity=".35" stroke="var(--stroke-{colour})" stroke-opacity=".5"/>'
        f'<text x="{box.x + 10:g}" y="{box.y + 19:g}" class="small">{title}</text>'
    )


def _edge(edge: Edge, placed: Layout) -> str:
    """From the right side of one step to the left side of the other; backwards in a wide bow."""
    one, other = placed.steps[edge.tail], placed.steps[edge.head]
    x, y = one.x + one.width, one.y + one.height / 2
    to_x, to_y = other.x, other.y + other.height / 2
    bend = max(28.0, (to_x - x) / 2)
    path = f"M{x:g} {y:g}C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x:g} {to_y:g}"
    return f'<path class="edge {edge.kind}" d="{path}" marker-end="url(#arrow)"/>'


def _step(node: Node, box: Box, level: Level) -> str:
    colour = level.number % len(LIGHT)
    times = f"{node.repeats} times" if node.repeats != "1" else ""
    middle = box.x + box.width / 2
    lower = f'<text x="{middle:g}" y="{box.y + 32:g}" text-anchor="middle" class="small">{escape(times)}</text>'
    tip = escape(f"{node.name}, {node.place.file} line {node.place.line}")
    return (
        f'<a id="{node.identity}" href="#{node.place.identity}" aria-label="{tip}"><title>{tip}</title>'
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5" '
        f'fill="var(--fill-{colour})" stroke="var(--stroke-{colour})"/>'
        f'<text x="{middle:g}" y="{box.y + (18 if times else 25):g}" text-anchor="middle">{escape(_label(node))}</text>'
        f"{lower if times else ''}</a>"
    )


def _label(node: Node) -> str:
    """The operation; a report by its name."""
    return node.name.split(".", 1)[1].replace("report.", "report ")
