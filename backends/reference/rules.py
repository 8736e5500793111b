"""What a mode's name says about the derivative of a level, read from the plan's words and from nothing else.

The plan also says how the product carries a mode out; that is not looked at, or a wrong choice there would be
repeated here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bilevel import ir
from bilevel.backends.reference.leaps import Leap, read_leap
from bilevel.backends.reference.support import Unsupported, is_cut_short
from bilevel.plan import Choice, Plan

Kind = Literal["steps", "implicit", "closed", "none", "leap", "perturbed"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`held`: the gradient inside a step has no derivative. `window`: only the last so many steps have one.

    `update`: the level around moves after every window. `batch`: samples of the equation's own draw. `through`: the
    expression whose gradient stands in place of the equation; `printed`: with the other sign. `samples`, `sigma`: of
    perturbed solves.
    """

    kind: Kind
    held: bool = False
    window: int | None = None
    update: bool = False
    batch: int | None = None
    through: ir.Expr | None = None
    printed: bool = False
    leap: Leap | None = None
    samples: int = 0
    sigma: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether the level is seen as it is: the derivative of all that was computed, or of the level's equation."""
        return not self.held and self.window is None and self.through is None and self.kind != "perturbed"


def rule_of(plan: Plan, level: str) -> Rule:
    """The rule of a level."""
    entries = [entry for entry in plan.program.schedule if entry.target == level]
    return read_rule(plan.choices[level], entries[-1].checked if entries else {})


def read_rule(choice: Choice, checked: Mapping[str, ir.Expr]) -> Rule:
    """`rmd(order = 1)` as a rule; raises `Unsupported` for modes that the oracle has no definition of."""
    mode, _, options = choice.mode.partition("(")
    match mode.strip():
        case "fmd":
            return Rule("steps")
        case "rmd":
            update = re.search(r"\bupdate *= *each", options) is not None
            return Rule("steps", _number(options, "order") == 1, _number(options, "window"), update)
        case "ift":
            return _implicit(options, checked.get("through"))
        case "leap":
            return Rule("leap", leap=read_leap(options, checked.get("choose")))
        case "es":
            sigma = re.search(r"\bsigma *= *([\d.eE+-]+)", options)
            return Rule("perturbed", samples=_number(options, "samples") or 0, sigma=float(sigma[1]) if sigma else 0.0)
        case "closed_form":
            return Rule("closed")
        case "none" | "evolve":  # members of a population are compared by their values
            return Rule("none")
    raise Unsupported(mode)


def _implicit(options: str, through: ir.Expr | None) -> Rule:
    """`ift` with a system that is solved, whatever by."""
    if is_cut_short(options) or "nystrom" in options or "damping" in options:
        raise Unsupported("ift that is no exact solve of the level's own equation")
    printed = re.search(r"\bsign *= *printed", options) is not None
    return Rule("implicit", batch=_number(options, "batch"), through=through, printed=printed)


def _number(options: str, name: str) -> int | None:
    found = re.search(rf"\b{name} *= *(\d+)", options)
    return int(found[1]) if found else None
