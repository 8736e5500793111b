"""The planner: a mode for every level, and the graph of steps that follows from it.

Takes a checked program and its facts; gives a `Plan` or refuses with B404-B413, B501-B507. Imports no torch.
`choose` is pure and public; its docstring is the decision table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import networkx as nx

from bilevel import ir
from bilevel.dsl.paths import settings as all_settings
from bilevel.errors import RecipeError, Span
from bilevel.facts import Facts, LevelFacts, derive_facts
from bilevel.kinds import is_searched, kind, line_searches
from bilevel.modes import MODES, ClosedForm, Evolve, Forward, ForwardMode, Implicit, ImplicitMode, Leap, Mode, Reverse
from bilevel.modes.options import checkpoint, implicit_mode, leap_mode, strategies_mode, whole, word
from bilevel.plan import Candidate, Choice, Operation, Plan, Step, repeats_of
from bilevel.refusals import inside_next, no_effect, refused, too_deep
from bilevel.support import unsupported


def plan_program(program: ir.Program) -> Plan:
    """The plan of a program; raises RecipeError where no mode can be used or this version lacks a part."""
    facts = derive_facts(program)
    problems = list(unsupported(program, facts))
    if problems:
        raise RecipeError(problems)
    choices = {level.name: choose(program, level, facts[level.name]) for level in program.walk_levels() if level.parent}
    _check_nesting(program, choices)
    return Plan(program, facts, choices, graph_of(program, facts, choices), _replaced(program))


def _check_nesting(program: ir.Program, choices: dict[str, Choice]) -> None:
    """The solution of an `ift` level is a function of what it reads to first order: one differentiated level around."""
    for level in program.walk_levels():
        around = list(_around(program, level))
        differentiated = [a for a in around if a.parent is not None and choices[a.name].adjoint is not None]
        if level.parent is None:
            continue
        if isinstance(choices[level.name].adjoint, Implicit) and len(differentiated) > 1:
            raise too_deep(level, differentiated)
        if (
            around
            and kind(around[0]) in ("next", "fixed point")
            and choices[level.name].exactness not in ("exact", "-")
        ):
            raise inside_next(level, around[0], choices[level.name])


def _around(program: ir.Program, level: ir.Level) -> Iterator[ir.Level]:
    """The levels around a level, innermost first."""
    while level.parent is not None:
        level = program.level(level.parent)
        yield level


def choose(program: ir.Program, level: ir.Level, facts: LevelFacts) -> Choice:
    """How `level` is differentiated.

    1. The schedule names a mode: that one, or an error that says why it cannot be used.
    2. The level around it compares the members of a population: `evolve`.
    3. `by closed_form`: substitution.
    4. The level's solution reaches no objective un-stopped: forward only.
    5. `until stationary`: `ift` by cg; a fixed point of `next`: `ift` by gmres.
    6. `for T steps`, `until plateau`, `until below`: `rmd`.
    7. Nothing exact can be used, and `auto(allow = biased)` allows more: the first such mode that can.

    Costs do not decide yet: by itself the planner takes the first exact mode for each kind of level.
    """
    entry = next((e for e in program.schedule if e.target == level.name), None)
    pinned = None if entry is None or entry.mode == "auto" else _named(entry)
    chosen = pinned or _widened(entry, level, facts, _default(level, facts))
    if (
        pinned is not None
        and entry is not None
        and not facts.targets
        and not isinstance(chosen, Forward | Leap | Evolve | ClosedForm)
    ):
        raise no_effect(level, entry)
    verdict = chosen.accepts(level, facts)
    if not verdict.ok:
        raise refused(program, level, facts, chosen, verdict, (m for m in MODES if m.accepts(level, facts).ok))
    listed = MODES if chosen in MODES else (*MODES, chosen)
    candidates = tuple(_candidate(mode, level, facts, chosen) for mode in listed)
    at = None if entry is None else entry.span
    adjoint = chosen.lower(level, facts)
    return Choice(level.name, chosen.title, chosen.exactness(level, facts), adjoint, pinned is not None, candidates, at)


def _default(level: ir.Level, facts: LevelFacts) -> Mode:
    """What the kind of level asks for."""
    if level.members:
        return Evolve()
    match kind(level):
        case "closed form":
            return ClosedForm()
        case "until" | "fixed point" if facts.targets:
            return ImplicitMode()
    return Reverse() if facts.targets else Forward()


def _widened(entry: ir.Entry | None, level: ir.Level, facts: LevelFacts, default: Mode) -> Mode:
    """The default, or where it cannot be used the first mode of a class that `auto(allow = ...)` allows."""
    options = {} if entry is None else {a.name or "": a.value for a in entry.options}
    allowed = word(options, "allow", ("exact", "biased", "surrogate"))
    if allowed in (None, "exact") or default.accepts(level, facts).ok:
        return default
    return next((m for m in MODES if m.exactness(level, facts) == "biased" and m.accepts(level, facts).ok), default)


def _candidate(mode: Mode, level: ir.Level, facts: LevelFacts, chosen: Mode) -> Candidate:
    return Candidate(mode.title, mode.exactness(level, facts), mode.accepts(level, facts), mode == chosen)


def _named(entry: ir.Entry) -> Mode:
    """The mode that a line of the schedule names, with its options."""
    if entry.mode == "none":
        return Forward()
    if entry.mode == "fmd":
        return ForwardMode()
    if entry.mode == "evolve":
        return Evolve()
    if entry.mode == "closed_form":
        return ClosedForm()
    if entry.mode == "ift":
        return implicit_mode(entry)
    if entry.mode == "es":
        return strategies_mode(entry)
    if entry.mode == "leap":
        return leap_mode(entry)
    values = {a.name or "": a.value for a in entry.options}
    return Reverse(
        order=1 if whole(values, "order", (1, 2)) == 1 else 2,
        window=whole(values, "window"),
        checkpoint=checkpoint(values),
        update=word(values, "update", ("each",)) == "each",
        store="residuals" if word(values, "store", ("iterates", "residuals")) == "residuals" else "iterates",
    )


# ---- the graph -----------------------------------------------------------------------------------------------


def graph_of(program: ir.Program, facts: Facts, choices: dict[str, Choice]) -> nx.DiGraph:
    """The graph of steps that follows from the choices."""
    graph = nx.DiGraph()
    for level in program.levels:
        _add_level(graph, level, facts, choices)
    for before, after in pairwise(program.levels):
        graph.add_edge(f"{before.name}.step", f"{after.name}.start", kind="value")
    return graph


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
    graph: nx.DiGraph, level: ir.Level, facts: Facts, choices: dict[str, Choice], around: ir.Level | None = None
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
    for inner in level.levels:
        if f"{inner.name}.forward" in graph:
            reader = next(o for o in ("gradient", "update", "step") if o in operations)
            graph.add_edge(f"{inner.name}.forward", f"{name}.{reader}", kind="value")
        if f"{inner.name}.pullback" in graph:
            graph.add_edge(f"{inner.name}.pullback", f"{name}.gradient", kind="derivative")


def _replaced(program: ir.Program) -> dict[Span, str]:
    """The literals that reports replace, by place; their path with underscores is their name in emitted code."""
    wanted = {".".join(s.path) for lv in program.walk_levels() for r in lv.reports for s in r.settings}
    if not wanted:
        return {}
    known = all_settings(program.recipe)
    return {known[p].span: p.replace(".", "_") for p in sorted(wanted)}
