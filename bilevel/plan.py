"""The plan: what is computed, in what order, and how each level is differentiated.

A graph of frozen steps with stable names (`adapt.step` never changes because another level does), each with the
recipe span it came from. The backend emits one function per step, in the order of the plan; the text of a plan is
made from it in `explain.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from bilevel import ir
from bilevel.costs import Calibration, Cost
from bilevel.errors import Span
from bilevel.facts import Fact, Facts
from bilevel.limits import Limit
from bilevel.modes import Adjoint, Class, Verdict

if TYPE_CHECKING:
    import networkx as nx

    from bilevel.backends.torch_func.trace.compilers import Kind
    from bilevel.graph import Flow

Operation = Literal["let", "draw", "start", "objective", "gradient", "update", "forward", "pullback", "step", "report"]


ORDER: tuple[Class, ...] = ("exact", "biased", "surrogate", "values")
"""classes from the best to the worst"""


@dataclass(frozen=True, slots=True)
class Step:
    """One computation; `name` is `LEVEL.OPERATION`, `repeats` how often one step of the level around runs it."""

    name: str
    operation: Operation
    level: str
    span: Span = field(compare=False, repr=False)
    repeats: str = "1"
    copies: tuple[str, ...] = ()
    report: ir.Report | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One mode with its verdict, listed whether or not it was chosen."""

    title: str
    exactness: Class
    verdict: Verdict
    chosen: bool
    cost: Cost | None = None
    reasons: tuple[str, ...] = ()
    """why it was not chosen, as words that a program can read; empty where it was, or was only slower"""
    note: str = ""
    """the same for people"""


@dataclass(frozen=True, slots=True)
class Choice:
    """How one level is differentiated, by whose word, and what else was considered."""

    level: str
    mode: str
    exactness: Class
    adjoint: Adjoint | None
    pinned: bool
    candidates: tuple[Candidate, ...]
    at: Span | None = field(default=None, compare=False)
    changes: tuple[str, ...] = ()
    """what would change the choice"""

    @property
    def cost(self) -> Cost | None:
        """The cost of the mode that was chosen."""
        return next((c.cost for c in self.candidates if c.chosen), None)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a plan rests on once parts are built: facts of every level, the cost of one step of each outermost level."""

    facts: Mapping[str, tuple[Fact, ...]]
    steps: Mapping[str, Cost]
    calibration: Calibration
    limit: Limit | None
    allow: Class
    kernels: Kind = "none"
    """the kind of kernels that times are predicted for"""


@dataclass(frozen=True)
class Plan:
    """A program with a decision for every level and the graph of its steps."""

    program: ir.Program
    facts: Facts
    choices: Mapping[str, Choice]
    settings: Mapping[Span, str] = field(default_factory=dict)
    """literals that a report replaces, by their place in the text: the name they have in the emitted module"""
    numbers: Numbers | None = None
    """None for a symbolic plan"""
    chunks: Mapping[str, int] = field(default_factory=dict)
    """copies at a time that the planner took by itself, by index"""

    @cached_property
    def flow(self) -> Flow:
        """The steps and what flows between them; made when it is first read, since most checks read none of it."""
        from bilevel.graph import flow_of

        return flow_of(self.program, self.facts, self.choices)

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The steps and what flows between them, as a graph of networkx."""
        return self.flow.graph()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, each after those whose values it uses, and the levels inside before the steps of a level.

        What enters a level from those around it does not count: the steps of one level stay together.
        """
        return tuple(self.flow.ordered())

    def why(self, level: str, mode: str) -> str:
        """Why a level is, or is not, differentiated by a mode, in one sentence."""
        from bilevel.explain import why

        return why(self, level, mode)

    def __str__(self) -> str:
        """The plan as a page of text, without sizes."""
        from bilevel.explain import plan_text

        return plan_text(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from bilevel.display import plan_bundle

        return plan_bundle(self)

    @property
    def decided(self) -> dict[str, str]:
        """What the planner took by itself, by level or index: what a later plan of the same recipe may take again."""
        modes = {name: choice.mode for name, choice in self.choices.items() if not choice.pinned}
        return modes | {name: f"vmap(chunk = {size})" for name, size in self.chunks.items()}

    @property
    def exactness(self) -> Class:
        """The worst class of any level; what nobody differentiates leaves the derivative exact."""
        found = [c.exactness for c in self.choices.values() if c.exactness != "-" and not self._aside(c)]
        return max(found, key=ORDER.index, default="exact")

    def _aside(self, choice: Choice) -> bool:
        """Whether a level judges the members of a search that itself is run forward only: no derivative is missed."""
        parent = self.program.level(choice.level).parent
        if choice.exactness != "values" or parent is None or parent not in self.choices:
            return False
        return self.choices[parent].exactness == "-" or self._aside(self.choices[parent])

    @property
    def identity(self) -> str:
        """Six hexadecimal digits that change when the recipe's meaning or a decision changes."""
        words = [repr(self.program.recipe)]
        words += [f"{c.level} {c.mode} {spelled(c.adjoint)}" for c in self.choices.values()]
        words += [f"{s.name} {s.repeats} {s.copies}" for s in self.steps]
        words += [f"{name} {size}" for name, size in self.chunks.items()]
        return hashlib.blake2b("\n".join(words).encode(), digest_size=3).hexdigest()


def spelled(value: object) -> str:
    """As `repr`, with expressions as the recipe spells them: their sets have no order of their own."""
    if isinstance(value, ir.Expr):
        return value.span.text
    if isinstance(value, tuple):
        return f"({', '.join(map(spelled, value))})"
    if is_dataclass(value) and not isinstance(value, type):
        parts = ", ".join(f"{f.name}={spelled(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({parts})"
    return repr(value)


def repeats_of(level: ir.Level) -> str:
    """The number of steps of a level, as the recipe spells it."""
    duration = level.phases[-1].duration
    if isinstance(duration, ir.Steps):
        first = duration.first.span.text if duration.first is not None else None
        count = duration.count.span.text
        number = str(duration.count.value) if isinstance(duration.count, ir.Constant) else count
        return number if first is None else f"{first}..{number}"
    return f"up to {duration.cap.span.text}" if isinstance(duration, ir.Until) else "?"
