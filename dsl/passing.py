"""Which names a derivative really passes to: those that reach a value on some way without a flat part.

`Expr.depends` says where a derivative may pass, and counts `sign(w)`, whose derivative is zero wherever it exists.
"""

from __future__ import annotations

from collections.abc import Mapping

from bilevel import ir
from bilevel.ir import Smoothness

NOTHING: Mapping[str, frozenset[str]] = {}


def passing(expr: ir.Expr, bound: Mapping[str, frozenset[str]] = NOTHING) -> frozenset[str]:
    """The names of `expr.depends` with a way that no flat part is on; `bound` are those of a let's parameters."""
    if expr.smooth is Smoothness.FLAT or not expr.depends:
        return frozenset()
    match expr:
        case ir.Read(name=name):
            return bound.get(name, expr.depends)
        case ir.IterateOf():
            return expr.depends
        case ir.CallLet():
            given = {p: passing(a, bound) for p, a in zip(expr.parameters, expr.arguments, strict=True)}
            return passing(expr.body, {**bound, **given})
    found = frozenset[str]().union(*(passing(child, bound) for child in ir.children(expr)))
    return found & expr.depends


def flat_part(expr: ir.Expr, name: str) -> ir.Expr | None:
    """The outermost flat part of an expression through which a name enters it, None where there is none."""
    if name not in expr.depends:
        return None
    if expr.smooth is Smoothness.FLAT:
        return expr
    found = (flat_part(child, name) for child in ir.children(expr))
    return next((part for part in found if part is not None), None)
