"""What a level is made of, as words: smoothness, degree, symmetry, and where each outer variable enters it.

The same facts that modes decide by, each with its origin and its place, for people and for the plan's JSON. Imports
no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bilevel import ir
from bilevel.dsl.degree import degree
from bilevel.dsl.unused import idle_options
from bilevel.errors import Span
from bilevel.facts import Entry, Facts, LevelFacts, Origin
from bilevel.ir import Smoothness
from bilevel.kinds import kind
from bilevel.lacks import calls

DEGREES = {0: "constant", 1: "linear", 2: "quadratic"}
PLACES = {"start": "the start", "objective": "the objective", "solver": "the solver", "inner": "a level inside"}


@dataclass(frozen=True, slots=True)
class Property:
    """A fact in words; `what` says which: smooth, degree, symmetric, enters, lacks, idle."""

    what: str
    text: str
    origin: Origin
    span: Span


def properties(program: ir.Program, facts: Facts, level: ir.Level) -> Iterator[Property]:
    """What modes of a level are judged by, in words."""
    own = facts[level.name]
    yield from _objective(program, facts, level)
    if level.parent is not None:
        yield from _gradient(level, own)
        yield from _entrances(own)
    for missing in (own.second, own.forward, *own.steps):
        if missing is not None:
            yield Property("lacks", str(missing), "traced", missing.span)
    for idle in idle_options(program):
        if idle.span is not None and _names(program, level, idle.span):
            yield Property("idle", idle.message, "declared", idle.span)


def _names(program: ir.Program, level: ir.Level, option: Span) -> bool:
    """Whether the line of the schedule that has an option is about a level or one of its indices."""
    own = {level.name, *(index.name for index in level.indices)}
    return any(e.target in own and option in [o.span for o in e.options] for e in program.schedule)


def _objective(program: ir.Program, facts: Facts, level: ir.Level) -> Iterator[Property]:
    if level.objective is None:
        return
    value, names = level.objective.value, frozenset(level.names)
    found = degree(value, names) if names & value.depends and not level.levels else 3
    if found in DEGREES:
        yield Property("degree", f"{DEGREES[found]} in {', '.join(level.names)}", "derived", value.span)
    text, origin, span = _smoothness(program, facts, value)
    random = f", on what `{level.draws[0].name}` draws in each step" if level.draws else ""
    yield Property("smooth", f"{text}{random}", origin, span)


def _smoothness(program: ir.Program, facts: Facts, value: ir.Expr) -> tuple[str, Origin, Span]:
    """Smooth, or the first place with a kink; that networks are smooth is assumed until they are traced."""
    kinked = next((e for e in ir.walk(value) if _has_kink(e)), None)
    if value.smooth is Smoothness.FLAT:
        return "flat", "declared", value.span
    if kinked is not None:
        return f"piecewise smooth: `{kinked.span.text}`", "declared", kinked.span
    called = list(calls(program, value))
    for call in called:
        known = facts.derivatives.get(call.part)
        if known is not None and known.kinks:
            text = f"piecewise smooth: {', '.join(known.kinks)} in `{call.expr.span.text}`"
            return text, "traced", call.expr.span
    return "smooth", "assumed" if called and not facts.derivatives else "declared", value.span


def _has_kink(expr: ir.Expr) -> bool:
    """Whether an expression itself, and nothing inside it, bends."""
    if expr.smooth is not Smoothness.PIECEWISE or isinstance(expr, ir.Read | ir.IterateOf):
        return False
    return not any(
        child.smooth is Smoothness.PIECEWISE for child in ir.children(expr) if not isinstance(child, ir.Read)
    )


def _gradient(level: ir.Level, facts: LevelFacts) -> Iterator[Property]:
    """Whether products with the derivative of what is followed are those of a symmetric matrix."""
    if not facts.targets or level.objective is None or kind(level) == "closed form":
        return
    span = level.objective.value.span
    estimator = next((p.estimator for p in level.phases if p.estimator is not None), None)
    if facts.symmetric:
        yield Property("symmetric", "one product with its Hessian serves both ways", "derived", span)
    elif estimator is not None:
        text = f"not symmetric: `{estimator.name}` stands in place of the gradient"
        yield Property("symmetric", text, "derived", estimator.span)
    else:
        text = f"symmetric only as far as `{level.levels[0].name}` inside is differentiated exactly"
        yield Property("symmetric", text, "derived", level.levels[0].span)


def _entrances(facts: LevelFacts) -> Iterator[Property]:
    """Where the names whose derivative is wanted enter."""
    for target in facts.targets:
        entries = [e for e in facts.enters if e.name == target]
        if entries:
            places = dict.fromkeys(_place(e) for e in entries)
            more = ", and reaches the outer objective on its own" if target in facts.elsewhere else ""
            text = f"{target} enters through {' and '.join(places)}{more}"
            yield Property("enters", text, "derived", entries[0].span)


def _place(entry: Entry) -> str:
    return f"{PLACES[entry.through]}{', by flat parts alone' if entry.flat else ''}"
