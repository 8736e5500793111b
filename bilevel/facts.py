"""What is known of a checked program before anything runs, each fact with where it comes from.

Takes `ir.Program`; gives `Facts`. Nothing is decided here: the planner reads these and chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bilevel import ir
from bilevel.dsl.degree import piecewise_degree
from bilevel.dsl.dependence import follow, influences
from bilevel.dsl.passing import passing
from bilevel.dsl.solvers import SOLVERS
from bilevel.errors import Span
from bilevel.kinds import moves_by_next
from bilevel.lacks import Derivatives, Missing, flat_steps, missing_forward, missing_in_steps, missing_second

Entrance = Literal["start", "objective", "solver", "inner"]
Origin = Literal["declared", "derived", "traced", "assumed"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that costs rest on, in the symbols of `costs.Formula`; `unit` "" counts, "B" or "FLOP" of one copy.

    `declared`: written at `span`; `derived`: from shapes; `traced`: counted without numbers; `assumed`: an upper
    bound, where only a run could tell.
    """

    symbol: str
    value: float
    unit: str
    origin: Origin
    span: Span
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One place where a name from outside enters a level; `flat`: only by parts whose derivative is zero."""

    name: str
    through: Entrance
    span: Span
    flat: bool = False


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """Facts of one level.

    `targets`: the names whose cotangents the level around it wants from this level: its own variables and the
    solutions of earlier levels beside this one that are themselves differentiated. Empty: run forward only.
    `enters`: where each differentiable name from outside enters. `symmetric`: the step moves along the gradient of
    a scalar objective in which no level inside is solved, so that one jvp of the gradient gives both products of
    the adjoint (Schwarz). `scalar`: the gradient is that of a scalar, whatever is inside. `linear`: the update is linear in the gradient.
    """

    name: str
    targets: tuple[str, ...]
    enters: tuple[Entry, ...]
    symmetric: bool
    scalar: bool
    linear: bool
    iterates: bool
    unread: bool
    elsewhere: tuple[str, ...] = ()
    """targets that reach the objective of the level around on another path as well"""
    start_alone: bool = False
    """of the iterates only the start is read, which every mode has: it is computed once more"""
    flat: tuple[str, ...] = ()
    """targets that enter by flat parts alone, so that every derivative in them is zero"""
    straight: bool = False
    """the objective is piecewise linear in the level's variables: its second derivative is zero where it exists"""
    attached: bool = False
    """the level around is itself differentiated, and this solution with it"""
    forward: Missing | None = None
    """an operator without a forward derivative, on the way from what is wanted"""
    second: Missing | None = None
    """an operator without a second derivative, in a gradient that is differentiated"""
    steps: tuple[Missing, ...] = ()
    """what the solvers of its steps lack: a registered one, a learned one, an estimator"""
    held: Span | None = None
    """the solver whose steps have the derivative zero in the gradient, so that nothing passes through the objective"""

    def entering(self, *through: Entrance) -> tuple[str, ...]:
        """The targets that enter through any of these places, in order."""
        return tuple(t for t in self.targets if any(e.name == t and e.through in through for e in self.enters))


@dataclass(frozen=True, slots=True)
class Facts:
    levels: Mapping[str, LevelFacts]
    derivatives: Derivatives = field(default_factory=dict)
    """what was found in the parts, by name; empty before they are built"""

    def __getitem__(self, name: str) -> LevelFacts:
        return self.levels[name]


def derive_facts(program: ir.Program, derivatives: Derivatives | None = None) -> Facts:
    """The facts of every level of a program; `derivatives` are those that its parts lack, once they are built."""
    known = derivatives or {}
    found: dict[str, LevelFacts] = {}
    for level in program.walk_levels():
        around = program.level(level.parent) if level.parent is not None else None
        found[level.name] = _level_facts(program, level, around, found, known)
    return Facts(found, known)


def _level_facts(
    program: ir.Program,
    level: ir.Level,
    around: ir.Level | None,
    found: Mapping[str, LevelFacts],
    known: Derivatives,
) -> LevelFacts:
    enters = tuple(_entries(level))
    targets = _targets(level, around, found)
    elsewhere = tuple(t for t in targets if around is not None and t in _other_paths(level, around))
    value = None if level.objective is None else level.objective.value
    held = flat_steps(program, level, known)
    return LevelFacts(
        name=level.name,
        targets=targets,
        enters=enters,
        symmetric=not level.levels and all(p.estimator is None for p in level.phases),
        scalar=level.objective is not None and all(p.estimator is None for p in level.phases),
        linear=all(_is_linear(s) for p in level.phases for s in p.solvers),
        iterates=around is not None and not all(_is_zero(e.at) for e in _iterates_read(level, around)),
        start_alone=around is not None and _reads_start_alone(_iterates_read(level, around)),
        unread=around is not None and not _is_read(level, around),
        elsewhere=elsewhere,
        flat=tuple(t for t in targets if t not in elsewhere and all(_is_flat(e, held) for e in enters if e.name == t)),
        straight=value is not None and _is_straight(level, value),
        attached=around is not None and (bool(found[around.name].targets) or moves_by_next(around)),
        forward=missing_forward(program, level, expressions(level), known) if targets else None,
        second=missing_second(program, level, known) if targets else None,
        steps=missing_in_steps(program, level, known) if targets else (),
        held=held,
    )


def _is_flat(entry: Entry, held: Span | None) -> bool:
    return entry.flat or (held is not None and entry.through in ("objective", "inner"))


def _is_straight(level: ir.Level, value: ir.Expr) -> bool:
    """Piecewise linear in the coordinates that the solver moves, which a domain bends."""
    if level.levels or any(v.domain is not None for v in level.variables):
        return False
    return piecewise_degree(value, frozenset(level.names)) < 2


def _is_linear(solver: ir.Solver) -> bool:
    """Whether the step is linear in the gradient; a learned one, or one whose gradient is clipped, is not."""
    form = SOLVERS.get(solver.name)
    return form is not None and form.linear and "clip" not in solver.arguments


def _entries(level: ir.Level) -> list[Entry]:
    """Where the names from outside that a derivative can pass to enter a level."""
    own, inside = set(level.names), _solutions(level)
    entries = [e for v in level.variables if v.start is not None for e in _entering(v.start, v.start.depends, "start")]
    if level.objective is not None:
        entries += _entering(level.objective.value, level.objective.value.depends - inside, "objective")
        entries += _followed(level, level.objective.value.depends)
    for solver in (s for p in level.phases for s in p.solvers):
        through: Entrance = "objective" if solver.name == "next" else "solver"
        for argument in solver.arguments.values():
            entries += _entering(argument, argument.depends - inside, through)
            entries += _followed(level, argument.depends)
        if solver.learned is not None:
            entries += _entering(solver.learned, solver.learned.depends, "solver")
    return [e for e in entries if e.name not in own]


def _entering(expr: ir.Expr, names: frozenset[str] | set[str], through: Entrance) -> list[Entry]:
    """An entry for each name, in alphabetical order."""
    live = passing(expr)
    return [Entry(n, through, expr.span, n not in live) for n in sorted(names)]


def _followed(level: ir.Level, direct: frozenset[str]) -> list[Entry]:
    """What enters through the levels inside whose solutions are read."""
    return [Entry(n, "inner", level.span) for n in sorted(follow(level, direct) - direct)]


def _solutions(level: ir.Level) -> set[str]:
    return {n for inner in level.levels for n in inner.names}


def _targets(level: ir.Level, around: ir.Level | None, found: Mapping[str, LevelFacts]) -> tuple[str, ...]:
    """What the level around wants derivatives for; nothing where this level's solution does not reach it."""
    if around is None or not _takes_derivatives(around, found):
        return ()
    wanted = _wanted_solutions(around)
    if not wanted & set(level.names):
        return ()
    given = influences(level)
    earlier = [i for i in around.levels[: around.levels.index(level)] if found[i.name].targets]
    candidates = [*around.names, *(n for i in earlier for n in i.names)]
    return tuple(n for n in candidates if n in given)


def _takes_derivatives(level: ir.Level, found: Mapping[str, LevelFacts]) -> bool:
    """Whether a level asks those inside it for derivatives; one that moves by `next` only if it is itself asked."""
    if level.objective is None:
        return bool(found[level.name].targets)
    forms = [SOLVERS.get(s.name) for p in level.phases for s in p.solvers]
    return any(form is None or form.needs != "values" for form in forms)


def _moving(level: ir.Level) -> frozenset[str]:
    """What the steps of a level depend on: its objective or, without one, the expressions after `next`."""
    if level.objective is not None:
        return level.objective.value.depends
    moved = [a for p in level.phases for s in p.solvers if s.name == "next" for a in s.arguments.values()]
    return frozenset[str]().union(*(a.depends for a in moved))


def _other_paths(level: ir.Level, around: ir.Level) -> frozenset[str]:
    """The names that reach the objective of the level around without passing through this level."""
    direct = set(_moving(around))
    wanted = _wanted_solutions(around)
    others = [i for i in around.levels if i.name != level.name and wanted & set(i.names)]
    return frozenset(direct.union(*(influences(i) for i in others)))


def _wanted_solutions(level: ir.Level) -> frozenset[str]:
    """Solutions of levels inside that the steps of a level depend on, directly or through a later level."""
    found = set(_moving(level))
    for inner in reversed(level.levels):
        if found & set(inner.names):
            found |= influences(inner)
    return frozenset(found) & _solutions(level)


def readers(around: ir.Level) -> list[ir.Expr]:
    """The expressions of a level that may read the solutions of levels inside it, reports left out."""
    found = [around.objective.value] if around.objective is not None else []
    found += [d.source for d in around.draws] + [i.source for i in around.indices]
    found += [s.learned for p in around.phases for s in p.solvers if s.learned is not None]
    found += [a for p in around.phases if isinstance(p.duration, ir.Until) for a in p.duration.arguments.values()]
    return found + [a for p in around.phases for s in p.solvers for a in s.arguments.values()]


def expressions(level: ir.Level) -> list[ir.Expr]:
    """All expressions of a level and the levels inside it, reports left out."""
    found = readers(level) + [v.start for v in level.variables if v.start is not None]
    return found + [e for inner in level.levels for e in expressions(inner)]


def _iterates_read(level: ir.Level, around: ir.Level) -> list[ir.IterateOf]:
    """The iterates of a level that the level around reads."""
    every = [*readers(around), *(r.value for r in around.reports)]
    return [p for e in every for p in ir.walk(e) if isinstance(p, ir.IterateOf) and p.name in level.names]


def _reads_start_alone(found: list[ir.IterateOf]) -> bool:
    return bool(found) and all(_is_zero(e.at) for e in found)


def _is_zero(at: ir.Expr) -> bool:
    return isinstance(at, ir.Constant) and at.value == 0


def _is_read(level: ir.Level, around: ir.Level) -> bool:
    later = around.levels[around.levels.index(level) + 1 :]
    every = [*readers(around), *(e for other in later for e in expressions(other))]
    return any(e.reads & set(level.names) for e in every)
