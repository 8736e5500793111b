"""What kind of problem a level is: how long it is solved for, and by what. One place decides."""

from __future__ import annotations

from typing import Literal

from bilevel import ir
from bilevel.dsl.solvers import SOLVERS

Kind = Literal["steps", "until", "next", "fixed point", "closed form"]


def kind(level: ir.Level) -> Kind:
    """`for` N steps of a solver, `until` stationary, `next(e)` for or until, or a closed form.

    `until plateau` and `until below` are as many steps as it took, so they are of the kind of `for`.
    """
    until = tests_gradient(level)
    name = level.phases[-1].solvers[0].name
    if name == "closed_form":
        return "closed form"
    if name == "next":
        return "fixed point" if until else "next"
    return "until" if until else "steps"


def tests_gradient(level: ir.Level) -> bool:
    """Whether the level promises a stationary point."""
    duration = level.phases[-1].duration
    return isinstance(duration, ir.Until) and duration.test == "stationary"


def moves_by_next(level: ir.Level) -> bool:
    """Whether a step is an expression, whatever ends the steps."""
    return kind(level) in ("next", "fixed point")


def stops(level: ir.Level) -> bool:
    """Whether a test ends the steps, for every copy by itself."""
    return isinstance(level.phases[-1].duration, ir.Until)


def line_searches(level: ir.Level) -> bool:
    """Whether the solver looks for its own step lengths, so that there is no update to differentiate."""
    return any(solver.name == "lbfgs" for phase in level.phases for solver in phase.solvers)


def is_searched(level: ir.Level) -> bool:
    """Whether the level is moved by a solver that compares the members of a population."""
    name = level.phases[0].solvers[0].name
    return name in SOLVERS and SOLVERS[name].needs == "values"
