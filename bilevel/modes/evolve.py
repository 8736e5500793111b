"""Under a derivative-free solver nothing is differentiated: the whole population is solved as one batch."""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts
from bilevel.modes.base import Class, Verdict


@dataclass(frozen=True, slots=True)
class Evolve:
    """`evolve`: chosen by itself for the levels that members of a population are judged by."""

    @property
    def title(self) -> str:
        return "evolve"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not level.members:
            return Verdict(False, "solver", "no derivative-free solver around it needs values alone")
        return Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "values"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        return Formula("P*(T*g + G)", "P*(s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> None:
        return None
