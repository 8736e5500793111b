"""What a mode's name says about the derivative of a level, read from the plan's words and from nothing else.

The plan also says how the product carries a mode out; that is not looked at, or a wrong choice there would be
repeated here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bilevel.backends.reference.support import Unsupported
from bilevel.plan import Choice, Plan

Kind = Literal["steps", "implicit", "closed", "none"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`held`: the gradient inside a step has no derivative. `window`: only the last so many steps have one."""

    kind: Kind
    held: bool = False
    window: int | None = None

    @property
    def exact(self) -> bool:
        """Whether the derivative is that of all that was computed, or of the equation that the solution solves."""
        return not self.held and self.window is None


def rule_of(plan: Plan, level: str) -> Rule:
    """The rule of a level."""
    return read_rule(plan.choices[level])


def read_rule(choice: Choice) -> Rule:
    """`rmd(order = 1)` as a rule; raises `Unsupported` for modes that the oracle has no definition of."""
    mode, _, options = choice.mode.partition("(")
    match mode.strip():
        case "fmd":
            return Rule("steps")
        case "rmd":
            if "update" in options:
                raise Unsupported("rmd.update")
            return Rule("steps", _number(options, "order") == 1, _number(options, "window"))
        case "ift":
            cut_short = re.search(r"\b(terms|steps)\b", options) and "tol" not in options
            if cut_short or re.search(r"\b(batch|through|sign|nystrom|damping)\b", options):
                raise Unsupported("ift that is no exact solve of the level's own equation")
            return Rule("implicit")
        case "closed_form":
            return Rule("closed")
        case "none":
            return Rule("none")
    raise Unsupported(mode)


def _number(options: str, name: str) -> int | None:
    found = re.search(rf"\b{name} *= *(\d+)", options)
    return int(found[1]) if found else None
