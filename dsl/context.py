"""What the checking of one recipe knows: `Checker`, `Place`, and how facts of parts become facts of the whole.

Shared by all modules that check expressions; checks nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.datatypes import UNKNOWN_SIZE, ListType, Size, Type, Unknown
from bilevel.dsl.scope import Scope
from bilevel.errors import Diagnostic, Span
from bilevel.ir import Smoothness
from bilevel.registry import Manifest

E = TypeVar("E", bound=ir.Expr)


@dataclass(slots=True)
class Checker:
    """What the checking of one recipe knows and has found so far."""

    scope: Scope
    types: dict[tuple[str | None, str], Type] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    constants: dict[str, int | float] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    used: set[tuple[str | None, str]] = field(default_factory=set)
    missing: set[tuple[str | None, str]] = field(default_factory=set)
    """names that are not in sight of a level, reported once each"""
    lists: set[str] = field(default_factory=set)
    """indices that run over a list of parts"""
    numbered: set[str] = field(default_factory=set)
    """those of them that stand in a subscript"""
    calls: int = 0
    manifest: Manifest = field(default_factory=lambda: Manifest(""))
    parts: dict[str, ir.Use] = field(default_factory=dict)
    """registered solvers and estimators that are named where they are used, without a `use` line"""

    def report(self, diagnostic: Diagnostic) -> None:
        """Keep a message once, however often a let around it is instantiated."""
        if all(d.code != diagnostic.code or d.span != diagnostic.span for d in self.problems):
            self.problems.append(diagnostic)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands: its level, and names bound by lets and reducers around it."""

    level: str | None
    bound: Mapping[str, ir.Expr] = field(default_factory=dict)
    replaced: Mapping[str, Type] = field(default_factory=dict)
    lets: tuple[str, ...] = ()

    def binding(self, more: Mapping[str, ir.Expr]) -> Place:
        return replace(self, bound={**self.bound, **more})


def ordered_axes(expressions: Iterable[ir.Expr]) -> tuple[str, ...]:
    """The axes of several expressions together, in the order in which they are first met, longest first."""
    axes: list[str] = []
    for expression in sorted(expressions, key=lambda e: -len(e.axes)):
        axes += [a for a in expression.axes if a not in axes]
    return tuple(axes)


def joined_smoothness(parts: Iterable[ir.Expr]) -> Smoothness:
    """A flat part beside one that has a derivative does not matter; parts that depend on nothing never do."""
    kinds = [p.smooth for p in parts if p.depends]
    if not kinds:
        return Smoothness.SMOOTH
    live = [k for k in kinds if k is not Smoothness.FLAT]
    return max(live) if live else Smoothness.FLAT


def joined(expression: E, parts: tuple[ir.Expr, ...]) -> E:
    """The expression with axes, reads, dependence and smoothness gathered from its parts."""
    return replace(
        expression,
        axes=ordered_axes(parts),
        reads=frozenset().union(*(p.reads for p in parts)),
        depends=frozenset().union(*(p.depends for p in parts)),
        smooth=joined_smoothness(parts),
    )


def unknown(span: Span) -> ir.Expr:
    """What stands for an expression in error."""
    return ir.Constant(span=span, type=Unknown("error"), value=0)


def size_of(checker: Checker, node: nodes.Node) -> Size:
    """The size an expression in brackets stands for: a number, a param, the length of a list, or unknown."""
    match node:
        case nodes.Number():
            return node.value if isinstance(node.value, int) else UNKNOWN_SIZE
        case nodes.Name(identifier):
            symbol = checker.scope.look(None, identifier)
            if symbol is None:
                return UNKNOWN_SIZE
            checker.used.add((None, identifier))
            known = checker.types.get((None, identifier))
            return known.size if isinstance(known, ListType) else identifier
        case nodes.Binary("*", left, right):
            factors = (size_of(checker, left), size_of(checker, right))
            return UNKNOWN_SIZE if UNKNOWN_SIZE in factors else f"{factors[0]}*{factors[1]}"
    return UNKNOWN_SIZE
