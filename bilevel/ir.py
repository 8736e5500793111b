"""The checked program on one page: what every later stage reads.

Immutable; every node knows its place in the recipe. Names are resolved, types and copies are known, lets are
instantiated where they are called. Nothing here says how a derivative is taken: that is the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Literal

from bilevel.dsl import nodes
from bilevel.dsl.datatypes import Type
from bilevel.errors import Span
from bilevel.registry import Description


class Smoothness(IntEnum):
    """How much of a derivative an expression has; the worst part of an expression decides."""

    SMOOTH = 0
    PIECEWISE = 1
    FLAT = 2
    """piecewise constant: the derivative is zero wherever it exists"""
    RANDOM = 3


# ---- expressions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Expr:
    """Common to all expressions.

    `axes`: the open indices, outermost first, over which the value is copied. `reads`: all names it uses.
    `depends`: those of `reads` that a derivative can pass to (not under `stop`, not through a draw).
    """

    span: Span = field(compare=False, repr=False)
    type: Type
    axes: tuple[str, ...] = ()
    reads: frozenset[str] = frozenset()
    depends: frozenset[str] = frozenset()
    smooth: Smoothness = Smoothness.SMOOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Expr):
    value: int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Expr):
    """The value of a name: variable, solution, draw, index, counter, parameter of a let, param or use."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operate(Expr):
    operator: Literal["+", "-", "*", "/", "^", "neg"]
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin(Expr):
    """A function of the language's own table."""

    function: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Noise:
    """Which part of the noise of its level's step an application has: its number, and the copies that differ in it."""

    place: int
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply(Expr):
    """`net[w](x)`; `single` where x is one sample without a leading axis. Without `noise` there is no dropout."""

    network: Expr
    parameters: tuple[Expr, ...]
    input: Expr
    single: bool
    output: str | None = None
    noise: Noise | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLet(Expr):
    """A call of a let, with its body checked for these arguments; `free` are the names the body reads from outside."""

    name: str
    parameters: tuple[str, ...]
    arguments: tuple[Expr, ...]
    body: Expr
    free: tuple[str, ...]
    noise: Noise | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPart(Expr):
    """A call of a registered function or of something the caller binds."""

    function: Expr
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientOf(Expr):
    """`grad(f)(a, ...)`: the derivative of a let or registered function in its first argument."""

    call: CallLet | CallPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(Expr):
    base: Expr
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Expr):
    """`base[items]` of an array or of several trees."""

    base: Expr
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IterateOf(Expr):
    """`phi@k`: an iterate of the level that solves for `name`."""

    name: str
    at: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Several(Expr):
    """A list: a union of parameter groups, or things an index runs over."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting(Expr):
    """`low..high`, both ends included."""

    low: Expr
    high: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Expr):
    """`source[count]`: what a draw takes; `count` None takes one item (a start drawn from a distribution)."""

    source: Expr
    count: Expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseKeys(Expr):
    """What the noise of a step is drawn from: one key for each copy of the level, shared by members of a population."""


NOISE = "dropout noise"
"""the name of that draw, which no name of a recipe can be"""


def place_of(index: str) -> str:
    """The name for where the element of an index over a list stands in it, which no name of a recipe can be."""
    return f"place of {index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binder:
    """An index of a reducer; `source` None closes an index that is open around it."""

    name: str
    source: Expr | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced(Expr):
    kind: Literal["mean", "sum", "max", "min", "worst", "pcgrad"]
    binders: tuple[Binder, ...]
    body: Expr


def children(expr: Expr) -> Iterator[Expr]:
    """The expressions directly inside one, the body of a called let included."""
    for f in fields(expr):
        value = getattr(expr, f.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Expr):
                yield item
            elif isinstance(item, Binder) and item.source is not None:
                yield item.source


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and all inside it, outermost first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


# ---- the program ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """A part that Python provides: a registered constructor with its arguments, or left open (`value` None)."""

    name: str
    value: nodes.Expr | None
    description: Description | None
    type: Type
    span: Span


@dataclass(frozen=True, slots=True)
class Param:
    name: str
    value: int | float | str
    span: Span


@dataclass(frozen=True, slots=True)
class Variable:
    """What a level optimises; `start` None starts parameters from `init(net)`."""

    name: str
    type: Type
    domain: str | None
    domain_arguments: tuple[float, ...]
    start: Expr | None
    span: Span
    kept: tuple[str, tuple[float, ...]] | None = None
    """a domain that the variable's solver keeps by itself; then `domain` is None and no coordinates are changed"""
    sizes: tuple[Expr, ...] = ()
    """what stands in the brackets of `real[src.shape]`, where the parts say the shape; `type` is unranked then"""


@dataclass(frozen=True, slots=True)
class Index:
    """`each name ~ source[count]` or `each name in source`."""

    name: str
    source: Expr
    drawn: bool
    type: Type
    span: Span
    numbered: bool = False
    """runs over a list and stands in a subscript: `place_of(name)` is read too"""


@dataclass(frozen=True, slots=True)
class Draw:
    name: str
    source: Expr
    type: Type
    span: Span


@dataclass(frozen=True, slots=True)
class Objective:
    sense: Literal["minimize", "maximize"]
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Solver:
    """One move: the solver `name` with its arguments, for `variables`."""

    name: str
    variables: tuple[str, ...]
    arguments: Mapping[str, Expr]
    learned: Expr | None
    span: Span
    part: Expr | None = None
    """the registered solver that takes the step, None for those of the language"""


@dataclass(frozen=True, slots=True)
class Steps:
    """`for count unit`; `counter` names the steps `first`, `first + 1`, ... where the recipe does."""

    count: Expr
    unit: Literal["steps", "epochs", "generations"]
    counter: str | None = None
    first: Expr | None = None


@dataclass(frozen=True, slots=True)
class Until:
    """`until test within cap steps`."""

    test: str
    arguments: Mapping[str, Expr]
    cap: Expr
    unit: Literal["steps", "epochs", "generations"]
    span: Span


@dataclass(frozen=True, slots=True)
class Estimator:
    """`with zeroth(samples, radius)`: what the solver sees in place of the gradient."""

    name: str
    arguments: Mapping[str, Expr]
    span: Span
    part: Expr | None = None
    """the registered estimator"""


@dataclass(frozen=True, slots=True)
class Phase:
    solvers: tuple[Solver, ...]
    estimator: Estimator | None
    duration: Steps | Until | None
    span: Span


@dataclass(frozen=True, slots=True)
class Report:
    """A number to log: `indices` are drawn in place of the level's own, `settings` replace literals by path."""

    name: str
    value: Expr
    indices: tuple[Index, ...]
    settings: tuple[nodes.Override, ...]
    every: int
    span: Span


@dataclass(frozen=True, slots=True)
class Level:
    """One optimisation problem. `copies`: the indices, opened around it, over which it is solved separately."""

    name: str
    parent: str | None
    copies: tuple[str, ...]
    variables: tuple[Variable, ...]
    indices: tuple[Index, ...]
    draws: tuple[Draw, ...]
    levels: tuple[Level, ...]
    objective: Objective | None
    phases: tuple[Phase, ...]
    reports: tuple[Report, ...]
    span: Span
    lists: tuple[str, ...] = ()
    """those of `copies` that run over a list of parts: solved one after the other, since shapes may differ"""

    members: tuple[str, ...] = ()
    """populations around it: `@NAME` for the members that the level NAME judges"""

    @property
    def batched(self) -> tuple[str, ...]:
        """Members of a population and those of `copies` that are solved at once: leading axes of every value."""
        return (*self.members, *(axis for axis in self.copies if axis not in self.lists))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.variables)

    @property
    def per(self) -> tuple[str, ...]:
        return self.copies


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the schedule: the mode named for a level or an index, with its options as they stand."""

    target: str
    mode: str
    options: tuple[nodes.Argument, ...]
    span: Span
    checked: Mapping[str, Expr] = field(default_factory=dict)
    """options that are expressions of the program: what `choose` compares, what `through` differentiates"""


@dataclass(frozen=True, slots=True)
class Program:
    """A recipe whose every name, type and dependence is known."""

    name: str
    recipe: nodes.Recipe
    uses: tuple[Use, ...]
    params: tuple[Param, ...]
    levels: tuple[Level, ...]
    schedule: tuple[Entry, ...]

    def walk_levels(self) -> Iterator[Level]:
        """All levels, each before those inside it, in the order of the text."""
        stack = list(reversed(self.levels))
        while stack:
            level = stack.pop()
            yield level
            stack.extend(reversed(level.levels))

    def level(self, name: str) -> Level:
        return next(level for level in self.walk_levels() if level.name == name)
