"""Reverse-mode differentiation through the steps of a level (thesis, chapter 2, algorithm 3).

The iterates are stored; the adjoint walks from the last step to the first, t = T..1: first the cotangent of what
the step reads, then that of the iterate before it. (The algorithm as printed ends one step early.)
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.facts import LevelFacts
from bilevel.modes.base import Adjoint, Class, Verdict


@dataclass(frozen=True, slots=True)
class Reverse:
    """`rmd`, or with `order = 1` the gradient inside each step held constant (first-order MAML)."""

    order: int = 2

    @property
    def title(self) -> str:
        return "rmd" if self.order == 2 else "rmd(order = 1)"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not isinstance(level.phases[-1].duration, ir.Steps):
            return Verdict(False, "semantics", "`until` promises the stationary point, not the result of some steps")
        if self.order == 1 and not facts.entering("start", "solver"):
            inside = ", ".join(facts.targets)
            return Verdict(False, "path", f"`{inside}` enters only the inner gradient, which order = 1 holds constant")
        return Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "exact" if self.order == 2 else "biased"

    def lower(self, level: ir.Level, facts: LevelFacts) -> Adjoint | None:
        needs_value = not facts.linear or bool(facts.entering("solver"))
        if self.order == 1:
            return Adjoint("none", "kept" if needs_value else "unused")
        product = "mixed" if facts.symmetric and not _restricted(level) else "reverse"
        return Adjoint(product, "again" if needs_value else "unused")


def _restricted(level: ir.Level) -> bool:
    """Whether the solver works in free coordinates, so that the gradient is not that of the objective itself."""
    return any(v.domain is not None for v in level.variables)
