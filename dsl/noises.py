"""Dropout: every application of a noisy network in an objective gets its place in the noise of the level's step.

Takes a checked program; gives it back with one more draw in each level whose steps have such applications: one key for
each copy. Numbers everywhere else (starts, draws, rates, reports, choices of the schedule) come from networks without
noise. A program without noisy networks is returned as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from bilevel import ir
from bilevel.dsl.datatypes import Model, Unknown
from bilevel.errors import Span


def with_noise(program: ir.Program) -> ir.Program:
    """The program with the noise of its networks."""
    return replace(program, levels=tuple(map(_level, program.levels)))


def without_noise(expr: ir.Expr) -> ir.Expr:
    """An expression as reports evaluate it."""

    def quiet(part: ir.Expr) -> ir.Expr:
        match part:
            case ir.CallLet(body=body):
                return replace(part, noise=None, body=without_noise(body))
            case ir.Apply():
                return replace(part, noise=None)
        return part

    return _rebuilt(expr, quiet)


def is_noisy(type_: object) -> bool:
    """Whether a network of this type may have dropout."""
    return isinstance(type_, Model) and type_.noisy


def _level(level: ir.Level) -> ir.Level:
    """A level and those inside it; the objective and the expressions after `next` are what its steps follow."""
    level = replace(level, levels=tuple(map(_level, level.levels)))
    first = next((e for value in _followed(level) for e in _noisy(value)), None)
    if first is None:
        return level
    axes = tuple(a for a in level.batched if not a.startswith("@"))
    numbered = _Numbered(axes)
    objective = level.objective
    if objective is not None:
        objective = replace(objective, value=numbered(objective.value))
    phases = tuple(_phase(phase, numbered) for phase in level.phases)
    return replace(level, objective=objective, phases=phases, draws=(*level.draws, _keys(first.span)))


def _keys(span: Span) -> ir.Draw:
    return ir.Draw(ir.NOISE, ir.NoiseKeys(span=span, type=Unknown()), Unknown(), span)


def _followed(level: ir.Level) -> Iterator[ir.Expr]:
    if level.objective is not None:
        yield level.objective.value
    for solver in (s for p in level.phases for s in p.solvers if s.name == "next"):
        yield from solver.arguments.values()


def _noisy(expr: ir.Expr) -> Iterator[ir.Apply]:
    return (e for e in ir.walk(expr) if isinstance(e, ir.Apply) and is_noisy(e.network.type))


def _phase(phase: ir.Phase, numbered: Callable[[ir.Expr], ir.Expr]) -> ir.Phase:
    solvers = [
        replace(s, arguments={n: numbered(a) for n, a in s.arguments.items()}) if s.name == "next" else s
        for s in phase.solvers
    ]
    return replace(phase, solvers=tuple(solvers))


class _Numbered:
    """Gives the applications of noisy networks, and the calls of lets with such, the numbers 0, 1, ... in order.

    The body of a let counts from 0 again: its key is that of the call.
    """

    def __init__(self, axes: tuple[str, ...]) -> None:
        self.axes, self.count = axes, 0

    def __call__(self, expr: ir.Expr) -> ir.Expr:
        return _rebuilt(expr, self._numbered)

    def _numbered(self, expr: ir.Expr) -> ir.Expr:
        match expr:
            case ir.CallLet(body=body) if any(_noisy(body)):
                return replace(expr, noise=self._next(), body=_Numbered(self.axes)(body))
            case ir.Apply(network=network) if is_noisy(network.type):
                return replace(expr, noise=self._next())
        return expr

    def _next(self) -> ir.Noise:
        self.count += 1
        return ir.Noise(self.count - 1, self.axes)


def _rebuilt(expr: ir.Expr, change: Callable[[ir.Expr], ir.Expr]) -> ir.Expr:
    """An expression with `change` made to all its parts, the innermost first; bodies of lets are left to `change`."""
    names = [f.name for f in fields(expr) if not (isinstance(expr, ir.CallLet) and f.name == "body")]
    parts = {name: _rebuilt_field(getattr(expr, name), change) for name in names}
    changed = {name: value for name, value in parts.items() if value is not getattr(expr, name)}
    return change(replace(expr, **changed) if changed else expr)


def _rebuilt_field(value: Any, change: Callable[[ir.Expr], ir.Expr]) -> Any:
    match value:
        case ir.Expr():
            return _rebuilt(value, change)
        case ir.Binder(source=ir.Expr() as source):
            return replace(value, source=_rebuilt(source, change))
        case tuple() if any(isinstance(item, ir.Expr | ir.Binder) for item in value):
            return tuple(_rebuilt_field(item, change) for item in value)
    return value
