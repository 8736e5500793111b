"""`by A ... then B ...`: a level with several phases as levels in sequence, each with one phase.

Takes a flattened recipe with its settings replaced; gives one in which no level has more than one phase. The last
phase keeps the names of the recipe; those before it get `_1`, `_2`, ... behind the names of levels, variables and
reports, and every phase starts where the one before it ended. A line of the schedule holds for the phases that
differentiate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from bilevel.dsl import nodes
from bilevel.dsl.solvers import SOLVERS
from bilevel.dsl.walk import walk

N = TypeVar("N")


def split_phases(recipe: nodes.Recipe) -> nodes.Recipe:
    """The recipe with every outermost level of several phases written as a sequence; else the recipe itself."""
    items: list[nodes.Item] = []
    lines: list[nodes.Entry] = []
    for item in recipe.items:
        phases = _phases(item) if isinstance(item, nodes.Level) else ()
        if isinstance(item, nodes.Level) and len(phases) > 1:
            items += _sequence(item, phases)
            lines += _lines(recipe, item, phases)
        else:
            items.append(item)
    if not lines:
        return replace(recipe, items=tuple(items)) if len(items) != len(recipe.items) else recipe
    return replace(recipe, items=(*items, nodes.Schedule(None, tuple(lines), span=recipe.span)))


def _phases(level: nodes.Level) -> tuple[nodes.Phase, ...]:
    return next((s.phases for s in level.body if isinstance(s, nodes.By)), ())


def _sequence(level: nodes.Level, phases: tuple[nodes.Phase, ...]) -> list[nodes.Level]:
    """One level for each phase, in order."""
    made: list[nodes.Level] = []
    before: Mapping[str, str] = {}
    for number, phase in enumerate(phases, 1):
        names = {} if number == len(phases) else {n: f"{n}_{number}" for n in _declared(level)}
        body = tuple(_statement(s, phase, before) for s in level.body)
        made.append(renamed(replace(level, body=body), names))
        before = names
    return made


def _declared(level: nodes.Level) -> list[str]:
    """Names that two levels in sequence cannot share."""
    found = [level.name]
    for node in walk(level):
        if isinstance(node, nodes.Variable):
            found += node.names
        elif isinstance(node, nodes.Level | nodes.Report):
            found.append(node.name)
    return found


def _statement(statement: nodes.Statement, phase: nodes.Phase, before: Mapping[str, str]) -> nodes.Statement:
    """A statement of the level in one phase: its own `by`, and starts at the end of the phase before."""
    match statement:
        case nodes.By():
            return replace(statement, phases=(phase,))
        case nodes.Variable((name,)) if name in before:
            return replace(statement, start=nodes.Name(before[name], span=statement.span))
    return statement


def _lines(recipe: nodes.Recipe, level: nodes.Level, phases: tuple[nodes.Phase, ...]) -> list[nodes.Entry]:
    """The lines of the schedule for levels inside, once more for every earlier phase that differentiates."""
    inside = {n.name for n in walk(level) if isinstance(n, nodes.Level)} - {level.name}
    entries = [e for i in recipe.items if isinstance(i, nodes.Schedule) and i.name is None for e in i.entries]
    numbers = [n for n, p in enumerate(phases[:-1], 1) if not _compares(p)]
    return [replace(e, name=f"{e.name}_{n}") for n in numbers for e in entries if e.name in inside]


def _compares(phase: nodes.Phase) -> bool:
    """Whether the phase needs values alone."""
    called = [m.solver.function.span.text for m in phase.moves if isinstance(m.solver, nodes.Call)]
    return any(name in SOLVERS and SOLVERS[name].needs == "values" for name in called)


def renamed(node: N, names: Mapping[str, str]) -> N:
    """The node with names replaced wherever they are declared or read."""
    if not names or not isinstance(node, nodes.Node):
        return node
    changes: dict[str, Any] = {
        f.name: _renamed_field(node, f.name, getattr(node, f.name), names) for f in fields(node) if f.name != "span"
    }
    return replace(node, **changes)


def _renamed_field(node: nodes.Node, field: str, value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, nodes.Node):
        return renamed(value, names)
    if isinstance(value, tuple):
        owned = (type(node), field) in ((nodes.Variable, "names"), (nodes.Override, "path"))
        return tuple(names.get(v, v) if owned and isinstance(v, str) else renamed(v, names) for v in value)
    declares = isinstance(node, nodes.Level | nodes.Report | nodes.Move) and field == "name"
    reads = isinstance(node, nodes.Name) and field == "identifier"
    return names.get(value, value) if (declares or reads) and isinstance(value, str) else value
