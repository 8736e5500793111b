"""Derivatives that operators of parts do not have, and the levels that would need them.

`derivatives.py` finds them once parts are built; here is only what follows. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bilevel import ir
from bilevel.dsl.datatypes import ListType
from bilevel.errors import Span
from bilevel.kinds import is_searched

What = Literal["first", "forward", "second", "copies"]


@dataclass(frozen=True, slots=True)
class Lack:
    """An operator that has no derivative of one kind, or (`copies`) cannot run for all copies at once.

    `operator`: its class, or its name in torch; `at`: where the class is defined; `why`: what shows it.
    """

    operator: str
    what: What
    why: str
    at: str = ""

    def __str__(self) -> str:
        place = f" ({self.at})" if self.at else ""
        return f"`{self.operator}`{place} {LACKING[self.what]}"


LACKING: dict[What, str] = {
    "first": "has no derivative",
    "forward": "has no forward derivative",
    "second": "has no second derivative",
    "copies": "cannot be computed for all copies at once",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in a built part: derivatives that it lacks, and operators with kinks."""

    lacks: tuple[Lack, ...] = ()
    kinks: tuple[str, ...] = ()
    flat: bool = False
    """a solver whose step has the derivative zero in the gradient, wherever it exists"""


Derivatives: TypeAlias = Mapping[str, Part]
"""by the name of the part"""


@dataclass(frozen=True, slots=True)
class Missing:
    """A lack, and the call of the recipe that meets it."""

    lack: Lack
    span: Span

    def __str__(self) -> str:
        return f"{self.lack}, and is in `{self.span.text}`"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a part, with the number of `grad(...)` around it."""

    part: str
    expr: ir.Expr
    gradients: int


def calls(program: ir.Program, expr: ir.Expr, gradients: int = 0) -> Iterator[Call]:
    """The calls of networks and functions in an expression that a derivative can pass to."""
    called = expr.network if isinstance(expr, ir.Apply) else expr.function if isinstance(expr, ir.CallPart) else None
    if called is not None and expr.depends and expr.smooth is not ir.Smoothness.FLAT:
        yield from (Call(name, expr, gradients) for name in _parts(program, called))
    for child in ir.children(expr):
        yield from calls(program, child, gradients + isinstance(expr, ir.GradientOf))


def _parts(program: ir.Program, called: ir.Expr) -> Iterator[str]:
    """The names of the parts that an expression stands for; an index over a list stands for the list."""
    lists = {
        i.name: i.source for lv in program.walk_levels() for i in lv.indices if isinstance(i.source.type, ListType)
    }
    for name in sorted(called.reads):
        yield from _parts(program, lists[name]) if name in lists else (name,)


def missing_forward(
    program: ir.Program, level: ir.Level, found: Iterable[ir.Expr], known: Derivatives
) -> Missing | None:
    """The first operator without a forward derivative in these expressions of a level, or in steps of those inside."""
    if not known:
        return None
    inside = [lv for lv in _with_inner(level) if lv is not level]
    met: list[Iterator[Missing]] = [_met(program, expr, known, "forward", 0) for expr in found]
    met += [(m for m in missing_in_steps(program, lv, known) if m.lack.what == "forward") for lv in inside]
    return next((m for one in met for m in one), None)


def _steppers(program: ir.Program, level: ir.Level) -> Iterator[tuple[str, Span]]:
    """The registered solvers, learned ones and estimators that move a level, by the names of their parts."""
    for phase in level.phases:
        for solver in phase.solvers:
            learned = solver.learned.base if isinstance(solver.learned, ir.Item) else None
            for part in (solver.part, learned):
                yield from ((n, solver.span) for n in (_parts(program, part) if part is not None else ()))
        if phase.estimator is not None and phase.estimator.part is not None:
            yield from ((n, phase.estimator.span) for n in _parts(program, phase.estimator.part))


def missing_in_steps(program: ir.Program, level: ir.Level, known: Derivatives) -> tuple[Missing, ...]:
    """What the solvers of a level's own steps lack, apart from its objective."""
    found = _steppers(program, level) if known else ()
    return tuple(Missing(lack, span) for name, span in found if name in known for lack in known[name].lacks)


def flat_steps(program: ir.Program, level: ir.Level, known: Derivatives) -> Span | None:
    """The solver of a level whose steps have the derivative zero in the gradient, all of them; else None."""
    solvers = [s for p in level.phases for s in p.solvers]
    names = [set(_parts(program, s.part)) if s.part is not None else {""} for s in solvers]
    flat = all(name in known and known[name].flat for found in names for name in found)
    return solvers[0].span if known and solvers and flat else None


def missing_second(program: ir.Program, level: ir.Level, known: Derivatives) -> Missing | None:
    """The first operator without a second derivative where the gradient of a level is differentiated."""
    if not known:
        return None
    return next((m for lv in _with_inner(level) for m in _second(program, lv, known)), None)


def _second(program: ir.Program, level: ir.Level, known: Derivatives) -> Iterator[Missing]:
    """In an objective that is followed by its gradient, or under `grad`."""
    own = set(level.names)
    if level.objective is not None:
        depth = 1 if is_searched(level) else 0
        for met in _met(program, level.objective.value, known, "second", depth):
            if depth or met.expr.depends & own:
                yield met
    for solver in (s for p in level.phases for s in p.solvers):
        for argument in solver.arguments.values():
            yield from _met(program, argument, known, "second", 1)


def first_lacks(program: ir.Program, level: ir.Level, wanted: bool, known: Derivatives) -> Iterator[Missing]:
    """Operators that a level cannot do with: without the derivative that its own solver, or the level around, asks for.

    `wanted`: somebody asks for the derivative of its solution.
    """
    found = [] if level.objective is None else [level.objective.value]
    if not is_searched(level) or wanted:
        for expr in found:
            yield from _met(program, expr, known, "first", 0)
            yield from (m for m in _met(program, expr, known, "second", 1) if level.parent is None)
    for expr in found:
        yield from _met(program, expr, known, "copies", 0)
    yield from (m for m in missing_in_steps(program, level, known) if m.lack.what == "copies")


def _with_inner(level: ir.Level) -> Iterator[ir.Level]:
    yield level
    for inner in level.levels:
        yield from _with_inner(inner)


@dataclass(frozen=True, slots=True)
class _Met(Missing):
    expr: ir.Expr


def _met(program: ir.Program, expr: ir.Expr, known: Derivatives, what: What, least: int) -> Iterator[_Met]:
    """Lacks of one kind that an expression meets, in calls with at least so many `grad(...)` around."""
    for call in calls(program, expr):
        for lack in known[call.part].lacks if call.part in known and call.gradients >= least else ():
            if lack.what == what:
                yield _Met(lack, call.expr.span, call.expr)
