"""Evolution-strategies gradient of the path through a level's solution, with antithetic pairs (Salimans et al. 2017).

What the level reads is moved by +-sigma times a normal direction, the level is solved for both, and the difference of
the solutions along the cotangent weighs the direction. Other paths to the objective keep their own derivative.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts
from bilevel.modes.base import Class, Perturb, Verdict


@dataclass(frozen=True, slots=True)
class Strategies:
    """`es(samples, sigma)`: so many pairs."""

    samples: int = 16
    sigma: float = 0.01

    @property
    def title(self) -> str:
        return f"es(samples = {self.samples}, sigma = {self.sigma:g})"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not facts.targets:
            return Verdict(False, "path", "no derivative of its solution is wanted")
        if facts.iterates:
            return Verdict(False, "path", "the objective reads iterates, and es looks at the solution only")
        return Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        return "biased"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        return Formula(f"P*({1 + 2 * self.samples}*T*g + G)", "P*(2*s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> Perturb | None:
        return Perturb(self.samples, self.sigma)
