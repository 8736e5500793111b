"""The degree of an expression in some variables: 0, 1, 2, or 3 for anything else.

Takes checked expressions. A closed form needs an objective of degree 2 in the level's variables, whose gradient is
then linear; the same question tells the planner whether a Hessian is constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from bilevel import ir

OTHER = 3
LINEAR = frozenset({"mean", "sum", "trace", "transpose", "reshape", "concat", "outer_sum"})
PRODUCTS = frozenset({"dot", "outer"})
SQUARES = frozenset({"sqnorm", "mse", "sqdist"})
KINKED = frozenset({"abs", "relu", "max", "min", "norm1", "l1", "clip"})
"""linear between their kinks"""
POLYNOMIAL = LINEAR | PRODUCTS | SQUARES | {"quad"}


def degree(expr: ir.Expr, names: frozenset[str], bound: Mapping[str, int] | None = None) -> int:
    """The degree of `expr` in the variables `names`; `bound` are degrees of a let's parameters."""
    bound = bound or {}
    match expr:
        case ir.Constant():
            return 0
        case ir.Read(name=name):
            return bound[name] if name in bound else int(name in names)
        case ir.IterateOf(name=name):
            return OTHER if name in names else 0
        case ir.Operate():
            return _operator(expr, names, bound)
        case ir.Builtin(function=name, arguments=arguments):
            return _builtin(name, [degree(a, names, bound) for a in arguments])
        case ir.CallLet():
            inner = {p: degree(a, names, bound) for p, a in zip(expr.parameters, expr.arguments, strict=True)}
            return degree(expr.body, names, inner)
        case ir.Field(base=base) | ir.Item(base=base):
            return degree(base, names, bound)
        case ir.Several(items=items):
            return max((degree(i, names, bound) for i in items), default=0)
        case ir.Reduced(kind="mean" | "sum", body=body):
            return degree(body, names, bound)
    return OTHER if any(degree(c, names, bound) for c in ir.children(expr)) else 0


def _operator(expr: ir.Operate, names: frozenset[str], bound: Mapping[str, int]) -> int:
    degrees = [degree(o, names, bound) for o in expr.operands]
    match expr.operator:
        case "neg" | "+" | "-":
            return max(degrees)
        case "*":
            return min(sum(degrees), OTHER)
        case "/":
            return degrees[0] if degrees[1] == 0 else OTHER
    exponent = expr.operands[1]
    if degrees[0] == 0 and degrees[1] == 0:
        return 0
    if isinstance(exponent, ir.Constant) and isinstance(exponent.value, int) and exponent.value >= 1:
        return min(degrees[0] * exponent.value, OTHER)
    return OTHER


def _builtin(name: str, degrees: list[int]) -> int:
    if max(degrees, default=0) == 0:
        return 0
    if name in LINEAR:
        return max(degrees)
    if name in PRODUCTS:
        return min(sum(degrees), OTHER)
    if name in SQUARES:
        return min(2 * max(degrees), OTHER)
    if name == "quad":
        return min(degrees[0] + 2 * degrees[1], OTHER)
    return OTHER


def piecewise_degree(expr: ir.Expr, names: frozenset[str]) -> int:
    """The degree between kinks: that of the expression with `abs`, `relu` and their like taken as linear."""
    return degree(straightened(expr), names)


def straightened(expr: ir.Expr) -> ir.Expr:
    """The expression with every function that is linear between its kinks replaced by the sum of its arguments."""
    changed: dict[str, Any] = {f.name: _straightened(getattr(expr, f.name)) for f in fields(expr)}
    made = replace(expr, **changed)
    if isinstance(made, ir.Builtin) and made.function in KINKED:
        return ir.Builtin(
            span=made.span, type=made.type, function="sum", arguments=made.arguments, depends=made.depends
        )
    if isinstance(made, ir.Reduced) and made.kind in ("max", "min", "worst"):
        return replace(made, kind="sum")
    return made


def _straightened(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_straightened, value))
    return straightened(value) if isinstance(value, ir.Expr) else value
