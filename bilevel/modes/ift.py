"""Implicit differentiation of a stationary point (papers/002, eq. 2.23-2.33).

At u with grad f(u, w) = 0 the cotangent c of u gives -(d grad / dw)' v for w, where H v = c. For a fixed point
u = e(u, w) it gives (de/dw)' v, where (I - de/du)' v = c. The linear system is solved by products alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts
from bilevel.kinds import kind, stops, tests_gradient
from bilevel.modes.base import Class, Implicit, Verdict, underived

Method = Literal["cg", "neumann", "gmres", "nystrom", "exact"]


@dataclass(frozen=True, slots=True)
class Linear:
    """How the linear system is solved; an option that a method does not have stays None.

    `damping` adds that multiple of the identity to the system: solvable where the level is not convex, and biased.
    """

    method: Method = "cg"
    tol: float | None = None
    steps: int | None = None
    terms: int | None = None
    scale: float | None = None
    rank: int | None = None
    damping: float | None = None

    @property
    def title(self) -> str:
        given = [(n, getattr(self, n)) for n in ("tol", "steps", "terms", "scale", "rank", "damping")]
        inner = ", ".join(f"{n} = {v:g}" if isinstance(v, float) else f"{n} = {v}" for n, v in given if v is not None)
        return f"{self.method}({inner})" if inner else self.method


@dataclass(frozen=True, slots=True)
class ImplicitMode:
    """`ift`; `linear` None lets the level decide: cg where the system is symmetric, gmres where it is not."""

    linear: Linear | None = None
    batch: int | None = None
    through: ir.Expr | None = None
    printed: bool = False

    @property
    def title(self) -> str:
        options = [f"linear = {linear.title}" for linear in (self.linear,) if linear is not None]
        options += [f"batch = {self.batch}"] * (self.batch is not None)
        options += [f"through = {e.span.text}" for e in (self.through,) if e is not None]
        options += ["sign = printed"] * self.printed
        return f"ift({', '.join(options)})" if options else "ift"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not facts.targets:
            return Verdict(False, "path", "no derivative of its solution is wanted")
        if kind(level) == "closed form":
            return Verdict(False, "semantics", "a closed form is differentiated by substitution")
        if stops(level) and not tests_gradient(level):
            return Verdict(False, "semantics", "this test promises no stationary point, only as many steps as it took")
        if facts.iterates:
            return Verdict(False, "path", "an iterate is read, and `ift` knows only the solution", "B505")
        if self.through is not None:
            return self._through(level, facts)
        zero = [t for t in facts.targets if t not in (*facts.entering("objective", "inner"), *facts.elsewhere)]
        if zero:
            why = f"`{zero[0]}` enters only through the start or the solver: at a stationary point the answer does not depend on it"
            return Verdict(False, "path", why, "B404")
        missing = underived(facts, forward=facts.attached, steps=False)
        if missing is None and facts.straight:
            why = f"the objective is piecewise linear in `{', '.join(level.names)}`: the matrix of the linear system is zero"
            return Verdict(False, "smooth", why, "B513")
        return missing or Verdict(True)

    def _through(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        """The expression has to contain what is wanted, and the level's variables in their own coordinates."""
        assert self.through is not None
        missing = [
            n for n in (*level.names, *facts.targets) if n not in self.through.depends and n not in facts.elsewhere
        ]
        if missing or any(v.domain is not None for v in level.variables):
            why = (
                f"`{self.through.span.text}` does not contain `{missing[0]}`"
                if missing
                else "the variable has a domain"
            )
            return Verdict(False, "path", why, "B404")
        return underived(facts, forward=facts.attached, steps=False) or Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        """Exact where a tolerance is promised for both residuals and nothing is drawn; measured in every step."""
        stationary = tests_gradient(level)
        linear = self.linear or Linear()
        promised = linear.method == "exact" or (
            linear.method != "nystrom" and (linear.tol is not None or _bare(linear))
        )
        if self.through is not None or linear.damping is not None:
            return "biased"
        return "exact" if stationary and promised and not level.draws and self.batch is None else "biased"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        method = (self.lower(level, facts) or Implicit("cg", 0.0, 0, None, 0, 0.0, None, True)).method
        if method == "exact":
            return Formula("P*(T*g + m*v + m**3 + G)", "P*(m*s + A)")
        if method == "nystrom":
            return Formula("P*(T*g + k*v + G)", "P*(k*s + A)")
        return Formula("P*(T*g + K*v + G)", "P*(K*s + A)" if method == "gmres" else "P*(4*s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> Implicit | None:
        linear = self.linear or Linear("cg" if kind(level) != "fixed point" and facts.scalar else "gmres")
        return Implicit(
            linear.method,
            linear.tol if linear.tol is not None else (1e-6 if _bare(linear) or linear.method == "exact" else 0.0),
            linear.steps if linear.steps is not None else (linear.terms if linear.terms is not None else 100),
            linear.scale,
            linear.rank if linear.rank is not None else 10,
            linear.damping if linear.damping is not None else (0.01 if linear.method == "nystrom" else 0.0),
            self.batch,
            facts.forward is None and (self.through is not None or (facts.scalar and kind(level) != "fixed point")),
            self.through,
            self.printed,
        )


def _bare(linear: Linear) -> bool:
    """Neither a number of steps nor of terms was fixed, so a tolerance decides."""
    return linear.steps is None and linear.terms is None and linear.method != "nystrom"
