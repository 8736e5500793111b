"""What is known of a checked program before anything runs, each fact with where it comes from.

Takes `ir.Program`; gives `Facts`. Nothing is decided here: the planner reads these and chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bilevel import ir
from bilevel.dsl.dependence import follow, influences
from bilevel.dsl.solvers import SOLVERS
from bilevel.errors import Span

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
    """One place where a name from outside enters a level."""

    name: str
    through: Entrance
    span: Span


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

    def entering(self, *through: Entrance) -> tuple[str, ...]:
        """The targets that enter through any of these places, in order."""
        return tuple(t for t in self.targets if any(e.name == t and e.through in through for e in self.enters))


@dataclass(frozen=True, slots=True)
class Facts:
    levels: Mapping[str, LevelFacts]

    def __getitem__(self, name: str) -> LevelFacts:
        return self.levels[name]


def derive_facts(program: ir.Program) -> Facts:
    """The facts of every level of a program."""
    found: dict[str, LevelFacts] = {}
    for level in program.walk_levels():
        around = program.level(level.parent) if level.parent is not None else None
        found[level.name] = _level_facts(level, around, found)
    return Facts(found)


def _level_facts(level: ir.Level, around: ir.Level | None, found: Mapping[str, LevelFacts]) -> LevelFacts:
    enters = tuple(_entries(level))
    targets = _targets(level, around, found)
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
        elsewhere=tuple(t for t in targets if around is not None and t in _other_paths(level, around)),
    )


def _is_linear(solver: ir.Solver) -> bool:
    """Whether the step is linear in the gradient; a learned one, or one whose gradient is clipped, is not."""
    form = SOLVERS.get(solver.name)
    return form is not None and form.linear and "clip" not in solver.arguments


def _entries(level: ir.Level) -> list[Entry]:
    """Where the names from outside that a derivative can pass to enter a level."""
    own = set(level.names)
    entries = [
        Entry(n, "start", v.start.span) for v in level.variables if v.start is not None for n in sorted(v.start.depends)
    ]
    if level.objective is not None:
        direct = level.objective.value.depends
        entries += [Entry(n, "objective", level.objective.value.span) for n in sorted(direct - _solutions(level))]
        inside = follow(level, direct) - direct
        entries += [Entry(n, "inner", level.span) for n in sorted(inside)]
    for solver in (s for p in level.phases for s in p.solvers):
        through: Entrance = "objective" if solver.name == "next" else "solver"
        for argument in solver.arguments.values():
            given = argument.depends - _solutions(level)
            entries += [Entry(n, through, argument.span) for n in sorted(given)]
            inside = follow(level, argument.depends) - argument.depends
            entries += [Entry(n, "inner", level.span) for n in sorted(inside)]
        if solver.learned is not None:
            entries += [Entry(n, "solver", solver.learned.span) for n in sorted(solver.learned.depends)]
    return [e for e in entries if e.name not in own]


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
