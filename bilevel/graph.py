"""The graph of steps that follows from the choices: what is computed, what for, and in what order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import networkx as nx

from bilevel import ir
from bilevel.errors import Span
from bilevel.facts import Facts
from bilevel.kinds import is_searched, kind, line_searches
from bilevel.plan import Choice, Operation, Step, repeats_of


def graph_of(program: ir.Program, facts: Facts, choices: Mapping[str, Choice]) -> nx.DiGraph:
    """The graph of steps that follows from the choices."""
    graph = nx.DiGraph()
    for level in program.levels:
        _add_level(graph, level, facts, choices)
    for before, after in pairwise(program.levels):
        graph.add_edge(f"{before.name}.step", f"{after.name}.start", kind="value")
    for level in program.walk_levels():
        _enter(graph, program, level)
    return graph


def _enter(graph: nx.DiGraph, program: ir.Program, level: ir.Level) -> None:
    """Edges from the variables and draws of the levels around to the steps of a level that read them."""
    if f"{level.name}.start" not in graph:
        return
    around = level.parent
    while around is not None:
        outer = program.level(around)
        given = {"start": set(outer.names), "draw": {d.name for d in outer.draws} | {i.name for i in outer.indices}}
        for operation, reads in _reads(level):
            for source, names in given.items():
                if names & reads and f"{level.name}.{operation}" in graph:
                    graph.add_edge(f"{around}.{source}", f"{level.name}.{operation}", kind="value", entering=True)
        around = outer.parent


def _reads(level: ir.Level) -> Iterator[tuple[Operation, frozenset[str]]]:
    """What the steps of a level read; a solver without a gradient reads the objective in its update."""
    searched = is_searched(level)
    for variable in level.variables:
        if variable.start is not None:
            yield "start", variable.start.reads
    for source in [d.source for d in level.draws] + [i.source for i in level.indices]:
        yield "draw", source.reads
    if level.objective is not None:
        yield "objective" if searched else "gradient", level.objective.value.reads
    for value in (a for phase in level.phases for solver in phase.solvers for a in solver.arguments.values()):
        yield "update", value.reads


def _operations(level: ir.Level) -> list[Operation]:
    """What one step of a level is made of."""
    operations: list[Operation] = ["start"]
    operations += ["draw"] * bool(level.draws or level.indices)
    if is_searched(level):
        return [*operations, "objective"]
    moves = kind(level) in ("next", "fixed point")
    operations += [] if moves else ["objective", "gradient"]
    return operations + ["update"] * (kind(level) != "closed form" and not line_searches(level))


def _add_level(
    graph: nx.DiGraph, level: ir.Level, facts: Facts, choices: Mapping[str, Choice], around: ir.Level | None = None
) -> None:
    """The steps of a level, those of the levels inside it first."""
    for inner in level.levels:
        if not facts[inner.name].unread or _reported(level, inner):
            _add_level(graph, inner, facts, choices, level)
    operations = _operations(level)
    if level.parent is not None:
        operations.append("forward")
        if choices[level.name].adjoint is not None and facts[level.name].targets and not _inside_next(around):
            operations.append("pullback")
    else:
        operations.append("step")
    for operation in operations:
        _add(graph, level, operation)
    _connect(graph, level, operations)
    for report in level.reports:
        name = f"{level.name}.report.{report.name}"
        graph.add_node(name, step=Step(name, "report", level.name, report.span, report=report))
        graph.add_edge(f"{level.name}.step", name, kind="value")


def _inside_next(around: ir.Level | None) -> bool:
    """Inside a level that moves by an expression, a level is differentiated together with the step."""
    return around is not None and kind(around) in ("next", "fixed point")


def _reported(level: ir.Level, inner: ir.Level) -> bool:
    return any(r.value.reads & set(inner.names) for r in level.reports)


def _add(graph: nx.DiGraph, level: ir.Level, operation: Operation) -> None:
    span = _span_of(level, operation)
    repeats = repeats_of(level) if level.parent is not None and operation in ("draw", "gradient", "update") else "1"
    name = f"{level.name}.{operation}"
    graph.add_node(name, step=Step(name, operation, level.name, span, repeats, level.copies))


def _span_of(level: ir.Level, operation: Operation) -> Span:
    match operation:
        case "start":
            return level.variables[0].span
        case "draw":
            return level.indices[0].span if level.indices else level.draws[0].span
        case "objective" | "gradient" if level.objective is not None:
            return level.objective.span
    return level.phases[0].span if level.phases else level.span


def _connect(graph: nx.DiGraph, level: ir.Level, operations: list[Operation]) -> None:
    """Edges within a level, and from the levels inside it to its gradient."""
    name = level.name
    edges = [("start", "gradient"), ("draw", "gradient"), ("objective", "gradient"), ("gradient", "update")]
    edges += [
        ("start", "update"),
        ("draw", "update"),
        ("gradient", "forward"),
        ("update", "forward"),
        ("update", "step"),
        ("start", "step"),
        ("draw", "step"),
        ("objective", "step"),
        ("forward", "pullback"),
    ]
    for a, b in edges:
        if a in operations and b in operations:
            graph.add_edge(f"{name}.{a}", f"{name}.{b}", kind="value")
    if is_searched(level):
        for a in operations[:-1]:
            graph.add_edge(f"{name}.{a}", f"{name}.{operations[-1]}", kind="value")
    for inner in level.levels:
        if f"{inner.name}.forward" in graph:
            reader = next(o for o in ("gradient", "update", "step", "forward") if o in operations)
            graph.add_edge(f"{inner.name}.forward", f"{name}.{reader}", kind="value")
        if f"{inner.name}.pullback" in graph:
            graph.add_edge(f"{inner.name}.pullback", f"{name}.gradient", kind="derivative")
