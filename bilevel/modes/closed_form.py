"""A closed form: the gradient of the objective is linear, so that one linear system gives the solution.

The derivative is that of the solution of the system, by substitution; nothing is iterated.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.dsl.degree import degree
from bilevel.facts import LevelFacts
from bilevel.kinds import kind
from bilevel.modes.base import Class, Substitute, Verdict


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """`closed_form`: chosen by itself for levels solved by it."""

    @property
    def title(self) -> str:
        return "closed_form"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if kind(level) != "closed form":
            return Verdict(False, "semantics", "the level is solved by steps")
        return quadratic(level)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "exact"

    def lower(self, level: ir.Level, facts: LevelFacts) -> Substitute | None:
        return Substitute() if facts.targets else None


def quadratic(level: ir.Level) -> Verdict:
    """Whether the objective has degree 2 in the level's variables, in their own coordinates."""
    names = frozenset(level.names)
    if level.objective is None or any(v.domain is not None for v in level.variables):
        return Verdict(False, "semantics", "a closed form needs an objective and no domain", "B408")
    found = degree(level.objective.value, names)
    if found != 2:
        spelled = {0: "does not contain", 1: "is linear in"}.get(found, "is not quadratic in")
        text = level.objective.value.span.text
        return Verdict(False, "semantics", f"`{text}` {spelled} `{', '.join(level.names)}`", "B408")
    return Verdict(True)
