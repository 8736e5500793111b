"""Reverse-mode differentiation through the steps of a level (papers/002, chapter 2, algorithm 3).

The adjoint walks from the last step to the first, t = T..1: first the cotangent of what the step reads, then that of
the iterate before it. (The algorithm as printed ends one step early.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import Entrance, LevelFacts
from bilevel.kinds import kind, line_searches, moves_by_next, stops, tests_gradient
from bilevel.modes.base import SEARCHED, UNCOUNTED, Class, Unroll, Verdict, underived

ALONG: tuple[Entrance, ...] = ("objective", "solver", "inner")
"""where a variable enters every step, and not the first alone"""


@dataclass(frozen=True, slots=True)
class Reverse:
    """`rmd` with its options.

    `order = 1` holds the gradient inside each step constant (first-order MAML). `window` carries derivatives
    through the last so many steps only. `checkpoint` keeps so many states, evenly spread (`sqrt`: the root of the
    number of steps), or by the binomial rule. However many are spread evenly, every step is computed once more, so that
    the root, which holds least, is what a plan weighs, and no other number. `update = each` steps the outer solver after every window;
    `store = residuals` keeps all that the adjoint needs of every step, and with `checkpoint` of the run of steps between
    two checkpoints that is just walked back. `store = gradients` keeps every step's gradient beside its state, so that the
    way back does not compute it again.
    """

    order: Literal[1, 2] = 2
    window: int | None = None
    checkpoint: int | Literal["sqrt", "binomial", "auto"] | None = None
    store: Literal["iterates", "gradients", "residuals"] = "iterates"
    update: bool = False

    @property
    def title(self) -> str:
        options = [f"order = {self.order}"] * (self.order != 2)
        options += [f"window = {self.window}"] * (self.window is not None)
        options += ["update = each"] * self.update
        options += [f"checkpoint = {self.checkpoint}"] * (self.checkpoint is not None)
        options += [f"store = {self.store}"] * (self.store != "iterates")
        return f"rmd({', '.join(options)})" if options else "rmd"

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        if not facts.targets:
            return Verdict(False, "path", "no derivative of its solution is wanted")
        if line_searches(level):
            return Verdict(False, "solver", SEARCHED)
        if kind(level) == "closed form":
            return Verdict(False, "semantics", "the level is solved by no steps")
        if stops(level) and (self.window is not None or facts.iterates):
            return self._uncounted(facts)
        held = [t for t in facts.targets if t not in (*facts.entering("start", "solver"), *facts.elsewhere)]
        if self.order == 1 and held:
            why = f"`{held[0]}` enters only the inner gradient, which order = 1 holds constant"
            return Verdict(False, "path", why, "B413")
        missing = underived(facts, second=self.order == 2)
        if missing is not None:
            return missing
        if self.update and facts.start_alone:
            return Verdict(False, "path", "the objective reads the start, which belongs to the first window only")
        if self.update:
            return self._windows(level)
        if self.window is not None and self.window < steps_of(level) and not facts.start_alone:
            zero = [t for t in facts.targets if t not in (*facts.entering(*ALONG), *facts.elsewhere)]
            if zero:
                why = f"`{zero[0]}` enters only through the start, which the last {self.window} steps do not reach"
                return Verdict(False, "path", why, "B404")
        if self.store == "gradients":
            return self._gradients(level, facts)
        return self._storage(facts)

    def _gradients(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        """Gradients are kept with all states, or those of a window, where there are any and the way back reads them."""
        if self.checkpoint is not None or self.order == 1:
            return Verdict(False, "semantics", "`store = gradients` goes with no other option but `window`")
        if moves_by_next(level):
            return Verdict(False, "semantics", "a step by `next` has no gradient to keep")
        if not _reads_gradients(facts):
            return Verdict(False, "semantics", "its update is linear in the gradient, which the way back does not read")
        return self._storage(facts)

    def _uncounted(self, facts: LevelFacts) -> Verdict:
        """What needs a number of steps that all copies share."""
        if facts.iterates:
            return Verdict(False, "path", UNCOUNTED, "B505")
        return Verdict(False, "semantics", f"a window is a number of steps, and {UNCOUNTED}", "B506")

    def _windows(self, level: ir.Level) -> Verdict:
        """`update = each` cuts a whole number of windows, and goes with `window` and `order` alone."""
        if self.window is None or steps_of(level) % self.window:
            why = f"`update = each` needs a window that divides the {steps_of(level):g} steps of {level.name}"
            return Verdict(False, "semantics", why, "B506")
        if self.checkpoint is not None or self.store != "iterates":
            return Verdict(False, "semantics", "`update = each` goes with `window` and `order` only", "B506")
        return Verdict(True)

    def _storage(self, facts: LevelFacts) -> Verdict:
        """Options that exclude each other, and iterates that are not kept."""
        sparse = self.checkpoint is not None
        if sparse and facts.iterates:
            return Verdict(False, "path", "the objective reads iterates, and these options do not keep them all")
        if self.checkpoint is not None and (self.order == 1 or self.window is not None):
            return Verdict(False, "semantics", "`checkpoint` goes with no other option but `store`")
        if self.checkpoint == "binomial" and self.store == "residuals":
            why = "binomial checkpoints walk back one step at a time, of which residuals save nothing"
            return Verdict(False, "semantics", why)
        if self.store == "residuals" and self.order == 1:
            return Verdict(
                False, "semantics", "`store = residuals` goes with no other option but `window` or `checkpoint`"
            )
        if self.store == "residuals" and self.window is not None and facts.iterates:
            return Verdict(False, "path", "the objective reads iterates, and these options do not keep them all")
        return Verdict(True)

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        if self.update:
            return "surrogate"
        cut = self.window is not None and self.window < steps_of(level)
        return "biased" if self.order == 1 or cut or tests_gradient(level) else "exact"

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        if isinstance(self.checkpoint, int):
            few = self.checkpoint < steps_of(level)
            return self._kept(*((f"{self.checkpoint}", f"T/{self.checkpoint}") if few else ("T", "1")))
        if self.window is not None and not self.update and self.window >= steps_of(level):
            return replace(self, window=None).cost(level, facts)
        if self.store == "residuals" and self.checkpoint is not None:
            return Formula("P*(T*(g + r) + G)", "P*(sqrt(T)*Max(h, 2*s) + A)")
        match self.checkpoint:
            case "binomial":
                return Formula("P*((T + R)*g + T*b + G)", "P*(sqrt(T)*s + A)")
            case "sqrt" | "auto":
                return Formula("P*(T*(2*g + b) + G)", "P*(2*sqrt(T)*s + A)")
        if self.store == "residuals" and self.window is not None:
            return Formula(f"P*((T - {self.window})*g + {self.window}*r + G)", f"P*({self.window}*h + A)")
        if self.store == "residuals":
            return Formula("P*(T*r + G)", "P*(T*h + A)")
        if self.store == "gradients" and self.window is not None:
            return Formula(f"P*((T - {self.window})*g + {self.window}*b + G)", f"P*(2*{self.window}*s + A)")
        if self.store == "gradients":
            return Formula("P*(T*b + G)", "P*(2*T*s + A)")  # a gradient holds no more than a state
        if self.update:
            return Formula(f"P*(T*(g + b) + T/{self.window}*G)", f"P*({self.window}*s + A)")
        if self.order == 1:
            return Formula("P*(T*g + G)", "P*(T*s + A)" if self.window is None else f"P*({self.window}*s + A)")
        if self.window is not None:
            return Formula(f"P*(T*g + {self.window}*b + G)", f"P*({self.window}*s + A)")
        return Formula("P*(T*(g + b) + G)", "P*(T*s + A)")

    def _kept(self, count: str, between: str) -> Formula:
        """Of so many checkpoints with so many steps between two of them."""
        if self.store == "residuals":
            return Formula("P*(T*(g + r) + G)", f"P*({count}*s + {between}*h + A)")
        return Formula("P*(T*(2*g + b) + G)", f"P*(({count} + {between})*s + A)")

    def lower(self, level: ir.Level, facts: LevelFacts) -> Unroll | None:
        needs_value = _reads_gradients(facts)
        store: Literal["iterates", "residuals", "even", "binomial"] = (
            "residuals" if self.store == "residuals" else "iterates"
        )
        if self.checkpoint is not None:
            store = "binomial" if self.checkpoint == "binomial" else "even"
        count = self.checkpoint if isinstance(self.checkpoint, int) else None
        window = self.window if self.window is not None and (self.update or self.window < steps_of(level)) else None
        value: Literal["again", "kept", "unused"]
        if self.order == 1:
            value = "unused" if not needs_value else "again" if self.update else "kept"
            return Unroll("none", value, store, count, window, self.update)
        product: Literal["mixed", "reverse"] = (
            "mixed" if facts.symmetric and facts.forward is None and not _restricted(level) else "reverse"
        )
        pulled = self.checkpoint is not None and self.store == "residuals"
        value = "kept" if self.store == "gradients" else "again" if needs_value else "unused"
        return Unroll(product, value, store, count, window, self.update, pulled)


def _reads_gradients(facts: LevelFacts) -> bool:
    """Whether the way back through an update needs the value of the gradient."""
    return not facts.linear or bool(facts.entering("solver"))


def steps_of(level: ir.Level) -> float:
    """The number of steps of a level; infinitely many where the data decide (epochs)."""
    duration = level.phases[-1].duration
    if not isinstance(duration, ir.Steps) or duration.unit != "steps" or not isinstance(duration.count, ir.Constant):
        return float("inf")
    first = duration.first.value if isinstance(duration.first, ir.Constant) else 1
    return int(duration.count.value) - int(first) + 1


def _restricted(level: ir.Level) -> bool:
    """Whether the solver works in free coordinates, so that the gradient is not that of the objective itself."""
    return any(v.domain is not None for v in level.variables)
