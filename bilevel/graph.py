"""The graph of steps that follows from the choices: what is computed, what for, and in what order.

Nodes and edges are kept plainly: every plan orders its steps, and to import networkx takes longer than all the rest of
a symbolic plan. Who asks a plan for its graph gets one of networkx.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from bilevel import ir
from bilevel.errors import Span
from bilevel.facts import Facts
from bilevel.kinds import is_searched, kind, line_searches
from bilevel.plan import Choice, Operation, Step, repeats_of

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class Flow:
    """Steps by name, and what flows between two of them; `entering`: edges from the levels around to those inside."""

    nodes: dict[str, Step] = field(default_factory=dict)
    edges: dict[tuple[str, str], Literal["value", "derivative"]] = field(default_factory=dict)
    entering: set[tuple[str, str]] = field(default_factory=set)

    def ordered(self) -> Iterator[Step]:
        """The steps, each after those that it uses by edges that do not enter, else in the order they were added.

        O((nodes + edges) log nodes); raises graphlib.CycleError, which no recipe leads to.
        """
        places, names = {name: place for place, name in enumerate(self.nodes)}, list(self.nodes)
        sorter = TopologicalSorter[str](dict.fromkeys(names, ()))
        for before, after in self.edges:
            if (before, after) not in self.entering:
                sorter.add(after, before)
        sorter.prepare()
        ready: list[int] = []
        while sorter.is_active():
            for name in sorter.get_ready():
                heappush(ready, places[name])
            name = names[heappop(ready)]
            yield self.nodes[name]
            sorter.done(name)

    def graph(self) -> nx.DiGraph:
        """The same as a graph of networkx: `step` of nodes, `kind` and `entering` of edges."""
        import networkx as nx

        made = nx.DiGraph()
        made.add_nodes_from((name, {"step": step}) for name, step in self.nodes.items())
        for edge, what in self.edges.items():
            made.add_edge(*edge, kind=what, entering=edge in self.entering)
        return made


def flow_of(program: ir.Program, facts: Facts, choices: Mapping[str, Choice]) -> Flow:
    """The graph of steps that follows from the choices."""
    flow = Flow()
    for level in program.levels:
        _add_level(flow, level, facts, choices)
    for before, after in pairwise(program.levels):
        flow.edges[f"{before.name}.step", f"{after.name}.start"] = "value"
    for level in program.walk_levels():
        _enter(flow, program, level)
    return flow


def _enter(flow: Flow, program: ir.Program, level: ir.Level) -> None:
    """Edges from the variables and draws of the levels around to the steps of a level that read them."""
    if f"{level.name}.start" not in flow.nodes:
        return
    around = level.parent
    while around is not None:
        outer = program.level(around)
        given = {"start": set(outer.names), "draw": {d.name for d in outer.draws} | {i.name for i in outer.indices}}
        for operation, reads in _reads(level):
            for source, names in given.items():
                if names & reads and f"{level.name}.{operation}" in flow.nodes:
                    edge = f"{around}.{source}", f"{level.name}.{operation}"
                    flow.edges[edge] = "value"
                    flow.entering.add(edge)
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
    flow: Flow, level: ir.Level, facts: Facts, choices: Mapping[str, Choice], around: ir.Level | None = None
) -> None:
    """The steps of a level, those of the levels inside it first."""
    for inner in level.levels:
        if not facts[inner.name].unread or _reported(level, inner):
            _add_level(flow, inner, facts, choices, level)
    operations = _operations(level)
    if level.parent is not None:
        operations.append("forward")
        if choices[level.name].adjoint is not None and facts[level.name].targets and not _inside_next(around):
            operations.append("pullback")
    else:
        operations.append("step")
    for operation in operations:
        _add(flow, level, operation)
    _connect(flow, level, operations)
    for report in level.reports:
        name = f"{level.name}.report.{report.name}"
        flow.nodes[name] = Step(name, "report", level.name, report.span, report=report)
        flow.edges[f"{level.name}.step", name] = "value"


def _inside_next(around: ir.Level | None) -> bool:
    """Inside a level that moves by an expression, a level is differentiated together with the step."""
    return around is not None and kind(around) in ("next", "fixed point")


def _reported(level: ir.Level, inner: ir.Level) -> bool:
    return any(r.value.reads & set(inner.names) for r in level.reports)


def _add(flow: Flow, level: ir.Level, operation: Operation) -> None:
    span = _span_of(level, operation)
    repeats = repeats_of(level) if level.parent is not None and operation in ("draw", "gradient", "update") else "1"
    name = f"{level.name}.{operation}"
    flow.nodes[name] = Step(name, operation, level.name, span, repeats, level.copies)


def _span_of(level: ir.Level, operation: Operation) -> Span:
    match operation:
        case "start":
            return level.variables[0].span
        case "draw":
            return level.indices[0].span if level.indices else level.draws[0].span
        case "objective" | "gradient" if level.objective is not None:
            return level.objective.span
    return level.phases[0].span if level.phases else level.span


def _connect(flow: Flow, level: ir.Level, operations: list[Operation]) -> None:
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
            flow.edges[f"{name}.{a}", f"{name}.{b}"] = "value"
    if is_searched(level):
        for a in operations[:-1]:
            flow.edges[f"{name}.{a}", f"{name}.{operations[-1]}"] = "value"
    for inner in level.levels:
        if f"{inner.name}.forward" in flow.nodes:
            reader = next(o for o in ("gradient", "update", "step", "forward") if o in operations)
            flow.edges[f"{inner.name}.forward", f"{name}.{reader}"] = "value"
        if f"{inner.name}.pullback" in flow.nodes:
            flow.edges[f"{inner.name}.pullback", f"{name}.gradient"] = "derivative"
