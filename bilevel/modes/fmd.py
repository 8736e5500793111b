"""Forward-mode differentiation through the steps of a level (papers/002, chapter 2, algorithm 4).

One tangent of the state for each outer number is carried along with the steps; nothing is stored, so memory does not
depend on the number of steps, and work grows with the number of outer numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts
from bilevel.kinds import kind, line_searches, stops, tests_gradient
from bilevel.modes.base import SEARCHED, UNCOUNTED, Class, Tangents, Verdict, underived


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
        if kind(level) == "closed form":
            return Verdict(False, "semantics", "the level is solved by no steps")
        if stops(level) and facts.iterates:
            return Verdict(False, "path", UNCOUNTED, "B505")
        return underived(facts, forward=True) or Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "biased" if tests_gradient(level) else "exact"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        return Formula("P*(T*(g + n*d) + G)", "P*((1 + n)*s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> Tangents | None:
        return Tangents()
