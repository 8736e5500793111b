"""The lookahead leap of lazy meta-learning (papers/001, algorithms 1 and 2).

The first `teacher` steps keep what a derivative needs, the others (the student's) do not. The result is put between
the teacher's end and a point of the hull of the student's last iterates, gamma * teacher + (1 - gamma) * student, and
derivatives pass through the teacher's part only: a surrogate, because another value stands in place of the solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts
from bilevel.modes.base import Class, Leaping, Verdict, underived
from bilevel.modes.rmd import Reverse, steps_of

Choice = tuple[Literal["max", "min"], ir.Expr]


@dataclass(frozen=True, slots=True)
class Leap:
    """`leap` with its options; `choose` picks gamma and weights for every copy where there are several."""

    teacher: int
    keep: int
    gammas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    choose: Choice | None
    spelled: str

    @property
    def title(self) -> str:
        return self.spelled

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not isinstance(level.phases[-1].duration, ir.Steps):
            return Verdict(False, "semantics", "a leap looks ahead by steps; `until` has no number of them")
        if facts.iterates or any(v.domain is not None for v in level.variables):
            return Verdict(False, "semantics", "a leap needs a variable without a domain, and no iterates read")
        if self.keep > steps_of(level) - self.teacher:
            why = f"{level.name} makes {steps_of(level):g} steps, {self.teacher} of them the teacher's"
            return Verdict(False, "semantics", f"`keep = {self.keep}` asks for more checkpoints: {why}", "B503")
        cut = [t for t in facts.targets if t not in (*facts.entering("start"), *facts.elsewhere)]
        if cut and self.teacher == 0:
            why = f"`{cut[0]}` acts only through the steps, and no differentiable step is left; teacher = 1 keeps one"
            return Verdict(False, "path", why, "B405")
        return underived(facts, second=self.teacher > 0, steps=self.teacher > 0) or Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "surrogate"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        """`teacher` steps are pulled back through; the points of gamma and hull are compared in G."""
        points = len(self.gammas) * len(self.weights)
        held = self.teacher + self.keep + max(points, 1)
        return Formula(f"P*(T*g + {self.teacher}*b + G)", f"P*({held}*s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> Leaping | None:
        inner = Reverse().lower(level, facts)
        if inner is None:
            return None
        return Leaping(self.teacher, self.keep, self.gammas, self.weights, self.choose, inner)
