"""A plan as one page of HTML that needs nothing else: no script, no font, no file from elsewhere.

The recipe stands on the left, graph and modes on the right. A step that is hovered, or reached by the keyboard, marks
its line, and a line its steps, by style rules alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape

from bilevel.views.colours import LIGHT
from bilevel.views.document import Document, Hypergradient, Place
from bilevel.views.layout import layout
from bilevel.views.svg import SPACE, body, style

KEYWORDS = (
    "then recipe extends use param let import level each in minimize maximize by with for until within report every "
    "schedule from real params steps step epochs generations"
).split()
WORDS = re.compile(r"(?P<comment>#.*)|(?P<word>[^\W\d]\w*)|(?P<other>\s+|.)")


def page(plan: Document) -> str:
    """The page."""
    title = escape(f"{plan.recipe}: plan {plan.plan}")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>{style()}\n{STYLE}\n{links(plan)}</style></head><body>",
            f"<header><h1>{escape(plan.recipe)}</h1><p>{_headline(plan)}</p></header>",
            '<div class="columns"><section class="recipe" aria-label="the recipe">',
            *_sources(plan),
            '</section><section class="plan" aria-label="the plan">',
            *_problem(plan),
            *_graph(plan),
            *[line for one in plan.hypergradients for line in _modes(plan, one)],
            *[f'<p class="legend">{escape(text)}</p>' for text in plan.totals],
            *_measured(plan),
            *_facts(plan),
            "</section></div></body></html>",
            "",
        ]
    )


STYLE = """
*{box-sizing:border-box}
:root{color-scheme:light dark}
body{margin:0;font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
header{padding:14px 20px 0}h1{margin:0;font-size:22px}h2{font-size:16px;margin:22px 0 6px}p{margin:2px 0}
.columns{display:grid;grid-template-columns:minmax(320px,38%) 1fr;gap:20px;padding:12px 20px 28px}
@media (max-width:900px){.columns{grid-template-columns:minmax(0,1fr)}}
section{min-width:0}
pre{margin:0;overflow-x:auto;font:13px/1.5 ui-monospace,monospace}
.file{margin:12px 0 4px;font-size:12px;opacity:.75}
.line{display:block;padding:0 6px;border-left:3px solid transparent;min-height:1.5em;white-space:pre;width:max-content;
min-width:100%}
.number{display:inline-block;width:2.6em;opacity:.45;user-select:none}
.keyword{font-weight:600}.comment{opacity:.6}
.line:target,.line:hover{background:color-mix(in srgb,var(--ink) 8%,transparent)}
.scroll{overflow-x:auto;border:1px solid color-mix(in srgb,var(--ink) 18%,transparent);border-radius:8px}
.scroll:focus-visible,a:focus-visible,pre:focus-visible,.equations:focus-visible{outline:2px solid var(--stroke-0)}
svg{display:block;max-width:100%;min-width:min(760px,var(--own));height:auto}
table{border-collapse:collapse;font-size:13px;width:100%}
th,td{text-align:left;padding:4px 10px 4px 10px;vertical-align:top;
border-bottom:1px solid color-mix(in srgb,var(--ink) 14%,transparent)}
tr:last-child td{border-bottom:0}
td.mode{min-width:15em}td.mode code{font:inherit;font-family:ui-monospace,monospace}
tr.chosen{font-weight:600;background:color-mix(in srgb,var(--ink) 6%,transparent)}tr.chosen small{font-weight:400}
td.number-cell{white-space:nowrap}
small{display:block;font-size:12px;opacity:.8}
.facts a{color:inherit}.facts td:first-child{white-space:nowrap}
.equations{font:13px/1.6 ui-monospace,monospace;white-space:pre-wrap;margin:0;overflow-wrap:anywhere}
.equations span.one{display:block;padding-left:3em;text-indent:-3em}
ul{margin:4px 0;padding-left:1.3em;font-size:13px}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em;border:1px solid}
.legend{font-size:12px;opacity:.8}
"""


def links(plan: Document) -> str:
    """A rule for each step: when it is hovered or focused its line is marked, and the other way round."""
    rules = []
    for node in plan.nodes:
        number = plan.level(node.level).number % len(LIGHT)
        mark = f"background:var(--fill-{number});border-left-color:var(--stroke-{number})"
        at, line = f"#{node.identity}", f"#{node.place.identity}"
        rules.append(f"body:has({at}:hover,{at}:focus) {line}{{{mark}}}")
        rules.append(f"body:has({line}:hover) {at} rect{{stroke-width:3}}")
    return "\n".join(rules)


def _headline(plan: Document) -> str:
    count = len(plan.hypergradients)
    parts = f"{len(plan.levels)} levels, {count} hypergradient{'s' * (count != 1)}"
    return escape(f"{parts}, exactness: {plan.exactness}, plan {plan.plan}")


# ---- the recipe ----------------------------------------------------------------------------------------------


def _sources(plan: Document) -> Iterator[str]:
    """Every file of the recipe, line by line; a line that steps stand on has the colour of the level."""
    colours = {node.place.identity: plan.level(node.level).number % len(LIGHT) for node in plan.nodes}
    for file, text in plan.sources.items():
        yield f'<p class="file">{escape(file)}</p>'
        lines = [_line(Place(file, n), line, colours) for n, line in enumerate(text.rstrip("\n").split("\n"), 1)]
        yield f'<pre tabindex="0" aria-label="{escape(file)}">{"".join(lines)}</pre>'


def _line(place: Place, text: str, colours: Mapping[str, int]) -> str:
    number = colours.get(place.identity)
    border = "" if number is None else f' style="border-left-color:var(--stroke-{number})"'
    counted = f'<span class="number">{place.line}</span>'
    return f'<span class="line" id="{place.identity}"{border}>{counted}{_coloured(text)}</span>'


def _coloured(line: str) -> str:
    """Keywords and comments told apart."""
    found = []
    for match in WORDS.finditer(line):
        text = escape(match.group())
        kind = "comment" if match["comment"] else "keyword" if match.group() in KEYWORDS else ""
        found.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return "".join(found)


# ---- the plan ------------------------------------------------------------------------------------------------


def _problem(plan: Document) -> Iterator[str]:
    yield "<h2>The problem</h2>"
    lines = [f"{_swatch(plan, level.name)}{'  ' * level.depth}{escape(level.equation)}" for level in plan.levels]
    yield f'<p class="equations">{"".join(f"""<span class="one">{line}</span>""" for line in lines)}</p>'


def _swatch(plan: Document, level: str) -> str:
    number = plan.level(level).number % len(LIGHT)
    return f'<span class="swatch" style="background:var(--fill-{number});border-color:var(--stroke-{number})"></span>'


def _graph(plan: Document) -> Iterator[str]:
    placed = layout(plan)
    size = f'width="{placed.width:g}" height="{placed.height:g}" viewBox="0 0 {placed.width:g} {placed.height:g}"'
    yield "<h2>One step</h2>"
    own = f'style="--own:{placed.width:g}px"'
    yield f'<div class="scroll" tabindex="0"><svg xmlns="{SPACE}" {size} {own} role="group" aria-label="the steps of the plan">'
    yield from body(plan, placed)
    yield "</svg></div>"
    yield '<p class="legend">solid: values; dotted: derivatives; grey: stopped. A step links to its line.</p>'


def _modes(plan: Document, found: Hypergradient) -> Iterator[str]:
    """The table of modes; what is said of a mode stands below its name, where it is read without scrolling."""
    yield f"<h2>{_swatch(plan, found.level)}How {escape(found.level)} is differentiated</h2>"
    costs = any(any(one.work) or any(one.memory) for one in found.candidates)
    heads = ["mode", "class", *(["time", "peak memory", "work"] if costs else [])]
    yield '<div class="scroll" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    for one in found.candidates:
        numbers = [(one.seconds, ""), one.memory, one.work] if costs else []
        cells = [f'<td class="mode"><code>{escape(one.mode)}</code>{_small(one.remark)}</td>']
        cells += [f"<td>{escape(one.exactness)}</td>"]
        cells += [f'<td class="number-cell">{escape(number)}{_small(formula)}</td>' for number, formula in numbers]
        row = '<tr class="chosen">' if one.chosen else "<tr>"
        yield f"{row}{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if found.changes:
        yield f"<p>Would change the choice:</p><ul>{''.join(f'<li>{escape(c)}</li>' for c in found.changes)}</ul>"


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _facts(plan: Document) -> Iterator[str]:
    """What the plan rests on, each with its origin and a link to its line."""
    if not plan.facts:
        return
    yield '<h2>Facts</h2><div class="scroll" tabindex="0"><table class="facts"><thead><tr>'
    yield (
        "".join(f'<th scope="col">{head}</th>' for head in ("level", "fact", "origin", "line")) + "</tr></thead><tbody>"
    )
    for one in plan.facts:
        where = f"{one.place.file.rpartition('/')[2]}:{one.place.line}"
        link = f'<a href="#{one.place.identity}">{escape(where)}</a>'
        name = f"{_swatch(plan, one.level)}{escape(one.level)}"
        yield f"<tr><td>{name}</td><td>{escape(one.text)}</td><td>{escape(one.origin)}</td><td>{link}</td></tr>"
    yield "</tbody></table></div>"


def _indented(text: str) -> str:
    """Spaces before a word stay, so that functions stand below those that call them."""
    return "&nbsp;" * (len(text) - len(text.lstrip())) + escape(text.lstrip())


def _measured(plan: Document) -> Iterator[str]:
    """Estimates beside measurements, once `bilevel analyze` has run."""
    if not plan.measured:
        return
    heads = list(plan.measured[0])
    yield '<h2>Estimated and measured</h2><div class="scroll" tabindex="0"><table><thead><tr>'
    yield "".join(f'<th scope="col">{escape(head)}</th>' for head in heads) + "</tr></thead><tbody>"
    for row in plan.measured:
        yield "<tr>" + "".join(f'<td class="number-cell">{_indented(row[head])}</td>' for head in heads) + "</tr>"
    yield "</tbody></table></div>"
