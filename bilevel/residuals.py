"""What implicit differentiation was promised and what it got: residuals of every step, and the class that follows.

A hypergradient through a stationary point is exact where the point is stationary and the linear system solved, both
to the tolerances of the plan. A step that misses one is biased, and counted; nothing is averaged away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bilevel import ir
from bilevel.errors import Diagnostic, Related
from bilevel.modes import Implicit
from bilevel.modes.base import Class
from bilevel.plan import ORDER, Plan


@dataclass
class Residuals:
    """Counts over the steps of a run; `worst` holds the largest residual met, by its name in the metrics."""

    plan: Plan
    steps: int = 0
    missed: dict[str, int] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    biased_steps: int = 0
    """steps in which any residual was missed"""
    classes: dict[Class, int] = field(default_factory=dict)
    """steps by the class of the plan that they followed: a run may be resumed with another schedule"""

    def observe(self, notes: Mapping[str, float]) -> None:
        """Take in the residuals of one step, `LEVEL.stationarity` and `LEVEL.residual`."""
        self.steps += 1
        self.classes[self.plan.exactness] = self.classes.get(self.plan.exactness, 0) + 1
        known = {n: v for n, v in notes.items() if n.rpartition(".")[2] in ("stationarity", "residual")}
        # `not <=`, so that a residual that is no number counts as missed.
        missed = [name for name, value in known.items() if not value <= self.limit(name)]
        for name, value in known.items():
            self.worst[name] = max(self.worst.get(name, 0.0), value)
        for name in missed:
            self.missed[name] = self.missed.get(name, 0) + 1
        self.biased_steps += bool(missed)

    def limit(self, name: str) -> float:
        """The tolerance that a residual has to meet; infinite where none was promised."""
        level_name, _, what = name.rpartition(".")
        level = self.plan.program.level(level_name)
        adjoint = self.plan.choices[level_name].adjoint
        if what == "stationarity":
            return _tolerance(level)
        return adjoint.tol if isinstance(adjoint, Implicit) and adjoint.tol > 0 else float("inf")

    def plain(self) -> list[Any]:
        """The counts as plain data, for the state of a run."""
        return [self.steps, self.missed, self.worst, self.biased_steps, self.classes]

    def restore(self, counts: list[Any]) -> None:
        """Take over the counts that `plain` gave."""
        self.steps, self.missed, self.worst, self.biased_steps, self.classes = counts

    @property
    def exactness(self) -> str:
        """The class of the run: that of the plan, demoted where residuals were not met or steps followed a worse plan."""
        worst = max(self.classes, key=ORDER.index, default=self.plan.exactness)
        if ORDER.index(worst) > ORDER.index(self.plan.exactness):
            return f"{worst} (in {self.classes[worst]} of {self.steps} steps, before the schedule was changed)"
        if self.plan.exactness == "exact" and self.biased_steps:
            return f"biased (residuals missed in {self.biased_steps} of {self.steps} steps)"
        return self.plan.exactness

    def warnings(self) -> list[Diagnostic]:
        """B702 and B704, one for each level whose residuals were missed."""
        return [self._warning(name, count) for name, count in self.missed.items()]

    def _warning(self, name: str, count: int) -> Diagnostic:
        level_name, _, what = name.rpartition(".")
        level = self.plan.program.level(level_name)
        duration = level.phases[-1].duration
        span = duration.span if isinstance(duration, ir.Until) else level.span
        worst = self.worst[name]
        entry = next((e for e in self.plan.program.schedule if e.target == level_name), None)
        related = (Related(entry.span, "exact only at a stationary point"),) if entry is not None else ()
        if what == "stationarity":
            message, code = f"`{level_name}` did not become stationary", "B702"
            label = f"|gradient| = {worst:.2g} at worst, missed in {count} of {self.steps} steps"
            fix = "within more steps, or a larger step size, or say  for N steps  and let auto choose"
        else:
            message, code = f"the linear system of `{level_name}` was not solved", "B704"
            label = f"relative residual {worst:.2g} at worst, missed in {count} of {self.steps} steps"
            fix = (
                f"schedule.{level_name}.linear.steps=1000, or a larger tol, or gmres where the system is not symmetric"
            )
        why = "the class of these hypergradients is biased, not exact"
        return Diagnostic(code, message, span, label, related, why=why, fix=fix, severity="warning")


def _tolerance(level: ir.Level) -> float:
    duration = level.phases[-1].duration
    tol = duration.arguments.get("tol") if isinstance(duration, ir.Until) else None
    return float(tol.value) if isinstance(tol, ir.Constant) else float("inf")


def failure(plan: Plan, error: ArithmeticError, phase: str, step: int) -> Diagnostic | None:
    """The message for a computation that could not go on, None where the error is none of ours."""
    code, text = getattr(error, "code", None), getattr(error, "text", "")
    if not isinstance(code, str):
        return None
    level = next((lv for lv in plan.program.walk_levels() if f"`{lv.name}`" in text), None)
    level = level or next((lv for lv in plan.program.walk_levels() if _implicit(plan, lv)), None)
    entry = next((e for e in plan.program.schedule if level is not None and e.target == level.name), None)
    span = entry.span if entry is not None else (level.span if level is not None else None)
    return Diagnostic(code, f"{text} (step {step} of {phase})", span, fix=FIXES.get(code, ""))


def _implicit(plan: Plan, level: ir.Level) -> bool:
    choice = plan.choices.get(level.name)
    return choice is not None and isinstance(choice.adjoint, Implicit)


FIXES = {
    "B615": "return (x, state), both shaped like those that were given; an estimator returns (estimate, losses(x))",
    "B701": "a smaller scale, scale = auto, or linear = cg(steps = 10)",
    "B705": "add 1e-6 * sqnorm(w) to the objective",
    "B706": "damping = 1 in cg (biased), linear = gmres, a penalty that makes the problem convex, or unroll:  for N steps",
}
