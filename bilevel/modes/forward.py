"""Forward only: the level is solved, nothing is differentiated, and no iterate is kept."""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts
from bilevel.kinds import stops
from bilevel.modes.base import UNCOUNTED, Class, Verdict


@dataclass(frozen=True, slots=True)
class Forward:
    """`none`: chosen by itself where the solution reaches no objective un-stopped."""

    @property
    def title(self) -> str:
        return "none"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if facts.targets:
            names = ", ".join(facts.targets)
            return Verdict(False, "path", f"the objective of `{level.parent}` needs the derivative in {names}")
        if stops(level) and facts.iterates:
            return Verdict(False, "path", UNCOUNTED, "B505")
        return Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "-"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        return Formula("P*(T*g + G)", "P*(s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> None:
        return None
