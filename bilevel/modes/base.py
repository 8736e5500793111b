"""What every hypergradient mode answers: may it be used here, what is its class, how is it carried out.

`accepts` refuses with a reason code, so that a plan can print why a mode was not taken; `lower` says how the backend
carries it out. A mode is a frozen object with its own options; there is no shared bag of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from bilevel import ir
from bilevel.costs import Formula
from bilevel.facts import LevelFacts

Class = Literal["exact", "biased", "surrogate", "values", "-"]
Reason = Literal["", "semantics", "solver", "path", "smooth", "formula"]


SEARCHED = "step lengths that `lbfgs` searches for have no derivative; the point it ends at has, by `ift`"
UNCOUNTED = "a test decides how many steps there are, for every copy by itself"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a mode can be used for a level; else a reason code, a sentence, and the code of its message."""

    ok: bool
    reason: Reason = ""
    why: str = ""
    code: str = "B507"


def underived(facts: LevelFacts, forward: bool = False, second: bool = True, steps: bool = True) -> Verdict | None:
    """The verdict on a mode that differentiates what has no derivative; None where all that it takes exists.

    `forward`, `second`: whether the mode takes derivatives of these kinds; `steps`: whether it takes those of steps.
    """
    if facts.flat and (steps or facts.held is None):
        name = facts.flat[0]
        way = "through steps" if facts.held is not None else "by parts"
        why = (
            f"`{name}` enters `{facts.name}` only {way} that are flat: the derivative in it is zero wherever it exists"
        )
        return Verdict(False, "smooth", why, "B415")
    missing = (facts.second if second else None) or (facts.forward if forward else None)
    if missing is None and steps:
        needed = {"first"} | ({"forward"} if forward else set()) | ({"second"} if facts.attached else set())
        missing = next((m for m in facts.steps if m.lack.what in needed), None)
    return None if missing is None else Verdict(False, "smooth", str(missing), "B513")


@dataclass(frozen=True, slots=True)
class Unroll:
    """Backwards through the steps.

    `product`: `mixed` takes both products with the Hessian from one jvp of the gradient, `reverse` from a vjp of
    the gradient, `none` holds the gradient constant. `gradient`: where the update's vjp takes the value of the
    gradient from: computed `again`, `kept` from the forward pass, or `unused` because the update is linear in it.
    `store`: all `iterates`, the `residuals` of every step, or states at evenly spread or binomial checkpoints, their
    number in `checkpoints` (None: by the number of steps). `pulled`: a run between checkpoints keeps its residuals when
    it is computed again. `window`: only the last so many steps; with `update` every so many steps, each time followed
    by a step of the outer solver.
    """

    product: Literal["mixed", "reverse", "none"]
    gradient: Literal["again", "kept", "unused"]
    store: Literal["iterates", "residuals", "even", "binomial"] = "iterates"
    checkpoints: int | None = None
    window: int | None = None
    update: bool = False
    pulled: bool = False

    @property
    def sparse(self) -> bool:
        """Whether steps are computed again from checkpoints."""
        return self.store in ("even", "binomial")


@dataclass(frozen=True, slots=True)
class Tangents:
    """Forwards: one tangent of the state for each number that is wanted."""


@dataclass(frozen=True, slots=True)
class Implicit:
    """By the implicit function theorem, at the solution.

    `tol` is relative to the right-hand side (0: exactly `steps` products or terms); `scale` None is found by power
    iteration. `symmetric`: the system is that of a Hessian, so products are jvps of the gradient. `through`: the
    gradient of this expression stands in place of that of the level's own objective.
    """

    method: Literal["cg", "neumann", "gmres", "nystrom", "exact"]
    tol: float
    steps: int
    scale: float | None
    rank: int
    damping: float
    batch: int | None
    symmetric: bool
    through: ir.Expr | None = None
    printed: bool = False
    """the sign of eq. 5.28 as printed, a plus"""


@dataclass(frozen=True, slots=True)
class Substitute:
    """A vjp of the closed form itself."""


@dataclass(frozen=True, slots=True)
class Leaping:
    """A leap: `gammas` and hull `weights` to choose from, by `choose` for every copy; `inner` for the teacher's steps."""

    teacher: int
    keep: int
    gammas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    choose: tuple[Literal["max", "min"], ir.Expr] | None
    inner: Unroll


@dataclass(frozen=True, slots=True)
class Perturb:
    """By solving the level again for `samples` antithetic pairs of perturbed inputs."""

    samples: int
    sigma: float


Adjoint = Unroll | Tangents | Implicit | Substitute | Leaping | Perturb


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

    def cost(self, level: ir.Level, facts: LevelFacts) -> Formula:
        """Work and peak memory of one step of the level around, in the symbols of `Formula`."""
