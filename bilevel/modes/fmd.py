"""Forward-mode differentiation through the steps of a level (papers/002, chapter 2, algorithm 4).

One tangent of the state for each outer number is carried along with the steps; nothing is stored, so memory does not
depend on the number of steps, and work grows with the number of outer numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.facts import LevelFacts
from bilevel.kinds import line_searches
from bilevel.modes.base import SEARCHED, Class, Tangents, Verdict


@dataclass(frozen=True, slots=True)
class ForwardMode:
    """`fmd`."""

    @property
    def title(self) -> str:
        return "fmd"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not facts.targets:
            return Verdict(False, "path", "no derivative of its solution is wanted")
        if line_searches(level):
            return Verdict(False, "solver", SEARCHED)
        if not isinstance(level.phases[-1].duration, ir.Steps):
            return Verdict(False, "semantics", "`until` promises the stationary point, not the result of some steps")
        return Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "exact"

    def lower(self, level: ir.Level, facts: LevelFacts) -> Tangents | None:
        return Tangents()
