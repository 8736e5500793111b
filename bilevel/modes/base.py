"""What every hypergradient mode answers: may it be used here, what is its class, how is it carried out.

`accepts` refuses with a reason code, so that a plan can print why a mode was not taken; `lower` gives the steps
that the backend emits. A mode is a frozen object with its own options; there is no shared bag of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from bilevel import ir
from bilevel.facts import LevelFacts

Class = Literal["exact", "biased", "surrogate", "values", "-"]
Reason = Literal["", "class", "semantics", "solver", "path", "smooth", "version", "pinned"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mode can be used for a level; else a reason code and a sentence."""

    ok: bool
    reason: Reason = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Adjoint:
    """How one level is differentiated.

    `product`: `mixed` takes both products with the Hessian from one jvp of the gradient, `reverse` from a vjp of
    the gradient, `none` holds the gradient constant. `gradient`: where the update's vjp takes the value of the
    gradient from: computed `again`, `kept` from the forward pass, or `unused` because the update is linear in it.
    """

    product: Literal["mixed", "reverse", "none"]
    gradient: Literal["again", "kept", "unused"]


class Mode(Protocol):
    """One way to differentiate a level."""

    @property
    def title(self) -> str:
        """The mode as a schedule spells it."""

    def accepts(self, level: ir.Level, facts: LevelFacts) -> Verdict:
        """Whether the mode can be used for this level."""

    def exactness(self, level: ir.Level, facts: LevelFacts) -> Class:
        """The class of the hypergradient that it gives (language reference, section 8)."""

    def lower(self, level: ir.Level, facts: LevelFacts) -> Adjoint | None:
        """How it is carried out; None where nothing is differentiated."""
