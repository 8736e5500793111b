"""Subscripts of arrays: numbers, and indices over lists, each of which stands for the place of its element.

Takes a checked subscript; gives it as a position. Reports B303.
"""

from __future__ import annotations

from dataclasses import replace

from bilevel import ir
from bilevel.dsl.context import Checker, Place, unknown
from bilevel.dsl.datatypes import Array, Unknown
from bilevel.errors import Diagnostic


def position(checker: Checker, place: Place, item: ir.Expr) -> ir.Expr:
    """A subscript as a position: an index over a list stands for the place of its element."""
    if isinstance(item.type, Array | Unknown):
        return item
    found = _place_in_list(checker, place, item) if isinstance(item, ir.Read) else None
    if found is not None:
        return found
    why = "a position is a number, or an index over the list whose length the axis has"
    message = f"`{item.span.text}` is {item.type}, and no position"
    checker.report(Diagnostic("B303", message, item.span, str(item.type), why=why))
    return unknown(item.span)


def _place_in_list(checker: Checker, place: Place, item: ir.Read) -> ir.Expr | None:
    """The number of an element, where the name is an index of a level or of a reducer that runs over a list."""
    number = place.bound.get(ir.place_of(item.name))
    if number is not None:
        return replace(number, span=item.span)
    symbol = checker.scope.look(place.level, item.name)
    if item.name in place.bound or symbol is None or symbol.name not in checker.lists:
        return None
    checker.numbered.add(symbol.name)
    return replace(item, type=Array((), "integer"), name=ir.place_of(symbol.name))
