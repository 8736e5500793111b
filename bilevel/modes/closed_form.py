"""A closed form: an objective of degree two, by one linear system, or an elementwise formula, solved by sympy.

The derivative is that of the solution itself, by substitution; nothing is iterated. sympy is imported for levels
whose objective is not of degree two, and for no others.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.costs import Formula
from bilevel.dsl.degree import OTHER, degree
from bilevel.dsl.dependence import influences
from bilevel.facts import LevelFacts
from bilevel.kinds import kind
from bilevel.modes.base import Class, Substitute, Verdict, underived


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """`closed_form`: chosen by itself for levels solved by it."""

    @property
    def title(self) -> str:
        return "closed_form"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if kind(level) != "closed form":
            return Verdict(False, "semantics", "the level is solved by steps")
        found = solvable(level)
        return underived(facts, second=False, steps=False) or found if found.ok else found

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "exact"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        if degree_of(level) == 2:
            return Formula("P*(2*m*v + m**3 + G)", "P*(m*s + A)")
        return Formula("P*(v + G)", "P*(s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> Substitute | None:
        return Substitute() if facts.targets else None


def solvable(level: ir.Level) -> Verdict:
    """Whether the objective has degree two in the level's variables, or is a formula with one minimum."""
    if level.objective is None or any(v.domain is not None for v in level.variables):
        return Verdict(False, "semantics", "a closed form needs an objective and no domain", "B408")
    for inner in level.levels:
        if influences(inner) & set(level.names):
            why = f"`{inner.name}` is solved inside it, and its solution is no formula of `{', '.join(level.names)}`"
            return Verdict(False, "semantics", why, "B408")
    found = degree_of(level)
    if found == 2:
        return Verdict(True)
    if found == OTHER:
        return _by_formula(level)
    spelled = "does not contain" if found == 0 else "is linear in"
    text = level.objective.value.span.text
    return Verdict(False, "semantics", f"`{text}` {spelled} `{', '.join(level.names)}`", "B408")


def degree_of(level: ir.Level) -> int:
    """The degree of the objective of a level in its own variables: 0, 1, 2 or more."""
    return OTHER if level.objective is None else degree(level.objective.value, frozenset(level.names))


def _by_formula(level: ir.Level) -> Verdict:
    """Whether sympy finds the one minimum of an elementwise formula."""
    from bilevel.modes.formulas import Unsolved, minimum

    try:
        minimum(level)
    except Unsolved as error:
        if error.solved:
            return Verdict(False, "formula", str(error), "B408")
        text = "" if level.objective is None else level.objective.value.span.text
        names = ", ".join(level.names)
        return Verdict(False, "semantics", f"`{text}` is not quadratic in `{names}`, and {error}", "B408")
    return Verdict(True)


def formula(level: ir.Level) -> ir.Expr | None:
    """The solution of a level as an expression, None where a linear system gives it."""
    if degree_of(level) == 2:
        return None
    from bilevel.modes.formulas import minimum

    return minimum(level)
