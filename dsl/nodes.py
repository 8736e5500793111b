"""The syntax tree: one frozen dataclass per form of the grammar, each with the span it was read from.

Takes nothing, decides nothing: names are not resolved here and sizes are not known. Spans do not take part
in equality, so that `parse(format(tree)) == tree` is a statement about meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bilevel.errors import NOWHERE, Span


@dataclass(frozen=True, slots=True)
class Node:
    """Anything with a place in a recipe."""

    span: Span = field(default=NOWHERE, compare=False, kw_only=True, repr=False)


# ---- expressions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name(Node):
    identifier: str


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal; `text` keeps the spelling (`60_000`, `1e-3`), `value` is an int where the spelling is one."""

    text: str

    @property
    def value(self) -> int | float:
        plain = self.text.replace("_", "")
        return int(plain) if plain.isdigit() else float(plain)


@dataclass(frozen=True, slots=True)
class String(Node):
    value: str


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: Literal["+", "-", "*", "/", "^"]
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Negate(Node):
    operand: Expr


@dataclass(frozen=True, slots=True)
class Attribute(Node):
    """`base.name`."""

    base: Expr
    name: str


@dataclass(frozen=True, slots=True)
class Subscript(Node):
    """`base[items]`: parameters of a network, entries of an array, a number of draws."""

    base: Expr
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """One argument of a call; `name` is None where it is positional."""

    name: str | None
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Node):
    function: Expr
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Iterate(Node):
    """`base@at`: the iterate of a level's variable after `at` steps."""

    base: Expr
    at: Expr


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`low..high`, both ends included."""

    low: Expr
    high: Expr


@dataclass(frozen=True, slots=True)
class Binder(Node):
    """One index of a reducer; `source` is None where the index is opened by an `each` around it."""

    name: str
    source: Expr | Range | None


@dataclass(frozen=True, slots=True)
class Reduce(Node):
    """`mean[task] body`, `sum[k in 1..K] body`."""

    kind: Literal["mean", "sum", "max", "min", "worst", "pcgrad"]
    binders: tuple[Binder, ...]
    body: Expr


Expr = Name | Number | String | ListOf | Binary | Negate | Attribute | Subscript | Call | Iterate | Reduce


# ---- types ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RealType(Node):
    """`real` or `real[n, 3]`."""

    sizes: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class TreeType(Node):
    """`params(net, only = "cn")`, `layers(net)`, `factors(net)`, `kron(net)`; `count` holds sizes after it."""

    kind: str
    arguments: tuple[Argument, ...]
    count: tuple[Expr, ...]


Type = RealType | TreeType


@dataclass(frozen=True, slots=True)
class Domain(Node):
    """`in positive`, `in between(0, 1)`."""

    name: str
    arguments: tuple[Expr, ...]


# ---- statements ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use(Node):
    """`use net = conv4(ways = 5)` or, left open, `use net : model`; exactly one of `kind` and `value` is given."""

    name: str
    kind: Type | Name | None
    value: Expr | None


@dataclass(frozen=True, slots=True)
class Param(Node):
    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Let(Node):
    """`let f(u) = body`; `parameters` is None for `let f = body`."""

    name: str
    parameters: tuple[str, ...] | None
    body: Expr


@dataclass(frozen=True, slots=True)
class Import(Node):
    name: str


@dataclass(frozen=True, slots=True)
class Override(Node):
    """`adapt.steps = 20` at the top of a file, or inside the `with` of a report."""

    path: tuple[str, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """One or several variables of one type: `a, b : real in positive from 1`."""

    names: tuple[str, ...]
    type: Type
    domain: Domain | None
    start: Expr | None


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`task ~ tasks.train[32]` (drawn) or `net in nets`, `k in 1..5` (every element)."""

    name: str
    drawn: bool
    source: Expr | Range


@dataclass(frozen=True, slots=True)
class Each(Node):
    index: Index


@dataclass(frozen=True, slots=True)
class Draw(Node):
    name: str
    source: Expr


@dataclass(frozen=True, slots=True)
class Objective(Node):
    sense: Literal["minimize", "maximize"]
    value: Expr


@dataclass(frozen=True, slots=True)
class Move(Node):
    """One solver, for the variable `name` or, with None, for all that no other move names."""

    name: str | None
    solver: Expr


@dataclass(frozen=True, slots=True)
class For(Node):
    """`for 5 steps`."""

    count: Expr
    unit: Literal["steps", "epochs", "generations"]


@dataclass(frozen=True, slots=True)
class ForEach(Node):
    """`for k in 1..64 steps`: the steps are numbered by `name`."""

    name: str
    range: Range
    unit: Literal["steps", "epochs", "generations"]


@dataclass(frozen=True, slots=True)
class Until(Node):
    """`until stationary(1e-3) within 64 steps`."""

    test: Call
    cap: Expr
    unit: Literal["steps", "epochs", "generations"]


@dataclass(frozen=True, slots=True)
class Phase(Node):
    """Solvers, an estimator of their gradient or None, and how long; `duration` is None for `by closed_form`."""

    moves: tuple[Move, ...]
    estimator: Call | None
    duration: For | ForEach | Until | None


@dataclass(frozen=True, slots=True)
class By(Node):
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Every(Node):
    count: Expr
    unit: Literal["steps", "epochs", "generations"]


@dataclass(frozen=True, slots=True)
class Report(Node):
    name: str
    value: Expr
    changes: tuple[Index | Override, ...]
    every: Every | None


@dataclass(frozen=True, slots=True)
class Level(Node):
    name: str
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Entry(Node):
    """One line of a schedule: how the level (or index) `name` is treated."""

    name: str
    mode: Call | Name


@dataclass(frozen=True, slots=True)
class Schedule(Node):
    """`schedule { ... }` or, chosen by the user, `schedule laptop { ... }`."""

    name: str | None
    entries: tuple[Entry, ...]


Statement = Variable | Each | Draw | Let | Level | Objective | By | Report
Item = Use | Param | Let | Import | Override | Level | Schedule


@dataclass(frozen=True, slots=True)
class Recipe(Node):
    """One file."""

    name: str
    parent: str | None
    items: tuple[Item, ...]
