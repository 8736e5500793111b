"""Solvers and estimators that a registry brings: found by name, with their options.

Takes the name after `by` or `with`; gives the form of its arguments and the part that stands for it. A recipe names them
where it uses them, or gives them a name of its own by `use mine = powersign`.
"""

from __future__ import annotations

from typing import Literal

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.datatypes import Unknown
from bilevel.dsl.solvers import SolverForm
from bilevel.errors import Span
from bilevel.registry import Description

Kind = Literal["solver", "estimator"]


def find(checker: Checker, place: Place, name: str, kind: Kind) -> Description | None:
    """What the registries have under a name, or under the name that a `use` line gives it."""
    symbol = checker.scope.look(place.level, name)
    called = name
    if symbol is not None:
        value = symbol.node.value if isinstance(symbol.node, nodes.Use) else None
        if not isinstance(value, nodes.Name):
            return None
        called = value.identifier
    found = checker.manifest.entries.get(called)
    return found if found is not None and found.kind == kind else None


def names(checker: Checker, kind: Kind) -> list[str]:
    """The names that the registries have."""
    return [e.name for e in checker.manifest.entries.values() if e.kind == kind]


def form_of(description: Description, common: tuple[str, ...] = ("clip",)) -> SolverForm:
    """The arguments of a registration; `common`: those that all of its kind have, 0 by default."""
    defaults: dict[str, float | None] = {
        p.name: None if p.default is None else float(p.default) for p in description.parameters
    }
    return SolverForm(description.name, "gradient", (), {**dict.fromkeys(common, 0.0), **defaults})


def part_of(checker: Checker, place: Place, name: str, description: Description, span: Span) -> ir.Expr:
    """The part, as a value; one that no `use` line names becomes a part of the program by itself."""
    if checker.scope.look(place.level, name) is not None:
        checker.used.add((None, name))
        return ir.Read(span=span, type=Unknown("part"), name=name, reads=frozenset({name}))
    free = description.name
    while any(free in block.symbols for block in checker.scope.blocks.values()):
        free += "_part"
    value = nodes.Name(description.name, span=span)
    checker.parts.setdefault(free, ir.Use(free, value, description, Unknown("part"), span))
    return ir.Read(span=span, type=Unknown("part"), name=free, reads=frozenset({free}))
