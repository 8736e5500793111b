"""Objectives and reports are one number: B301 (an index is still open) and B302 (several numbers).

Takes a checked expression and the level it stands in.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.datatypes import Array, Type, Unknown
from bilevel.dsl.functions import FUNCTIONS
from bilevel.dsl.mismatch import with_values
from bilevel.dsl.scope import Symbol
from bilevel.errors import Diagnostic, Related, Span

LOSSES = ("ce", "bce", "mse", "l1", "kl", "cw")


def check_number(checker: Checker, place: Place, value: ir.Expr, node: nodes.Objective | nodes.Report) -> None:
    """The value of an objective or a report is one number, and no index of its level is open in it."""
    assert place.level is not None
    closed = (*checker.scope.copies.get(place.level, ()), f"@{place.level}")
    left = [a for a in value.axes if a not in closed]
    if left:
        checker.report(_open_index(checker, place.level, value, node, left))
    elif not (isinstance(value.type, Unknown) or shapes.is_number(value.type)):
        if not (isinstance(value.type, Array) and not value.type.ranked):
            checker.report(_several_numbers(checker, place.level, value, node))


def check_tested(checker: Checker, place: Place, value: ir.Expr) -> None:
    """What a test after `until` compares is one number for each copy of its level."""
    assert place.level is not None
    left = [a for a in value.axes if a not in checker.scope.copies.get(place.level, ())]
    what, text = f"what the test of `{place.level}` compares", value.span.text
    if left:
        axes = ", ".join(left)
        why = "every copy of a level stops by a number of its own"
        message = f"{what} is one number per `{left[0]}`, not one number"
        checker.report(Diagnostic("B301", message, value.span, why=why, fix=f"mean[{axes}] {text}"))
    elif isinstance(value.type, Array) and value.type.ranked and not shapes.is_number(value.type):
        message = f"{what} has type {value.type}, not a single number"
        checker.report(Diagnostic("B302", message, value.span, _spelled(checker, value.type), fix=f"mean({text})"))


def _what(level: str, node: nodes.Objective | nodes.Report) -> str:
    return f"the report `{node.name}`" if isinstance(node, nodes.Report) else f"the objective of `{level}`"


def _written(node: nodes.Objective | nodes.Report, value: str) -> str:
    return f"report {node.name} = {value}" if isinstance(node, nodes.Report) else f"{node.sense} {value}"


def _open_index(
    checker: Checker, level: str, value: ir.Expr, node: nodes.Objective | nodes.Report, axes: list[str]
) -> Diagnostic:
    axis, reducer = axes[0], f"mean[{', '.join(axes)}]"
    span, count = _opened(checker.scope.in_sight(level)[axis], node)
    verb = "reports" if isinstance(node, nodes.Report) else f"{node.sense}s".replace("zes", "ses")
    return Diagnostic(
        "B301",
        f"{_what(level, node)} is one number per `{axis}`, not one number",
        value.span,
        f"still indexed by {' and '.join(axes)}",
        (Related(span, f"opens{count} copies here"),),
        why=f"a level {verb} a single number; nothing says how the{count} values are combined",
        fix=f"{_written(node, f'{reducer} {value.span.text}')}          (or sum, max, worst, pcgrad)",
    )


def _opened(symbol: Symbol, node: nodes.Objective | nodes.Report) -> tuple[Span, str]:
    """Where an index is opened, and how many copies that makes if it is written there."""
    changes = node.changes if isinstance(node, nodes.Report) else ()
    again = next((c for c in changes if isinstance(c, nodes.Index) and c.name == symbol.name), None)
    index = again or (symbol.node.index if isinstance(symbol.node, nodes.Each) else None)
    if index is None:
        return symbol.span, ""
    count = f" {index.source.items[0].span.text}" if index.drawn and isinstance(index.source, nodes.Subscript) else ""
    start = index.span.start if again is not None else symbol.span.start
    return Span(index.span.source, start, index.span.start + len(index.name)), count


def _several_numbers(checker: Checker, level: str, value: ir.Expr, node: nodes.Objective | nodes.Report) -> Diagnostic:
    shape = str(value.type)
    if isinstance(value.type, Array):
        shape = f"shape [{', '.join(map(str, value.type.shape))}]"
    else:
        shape = f"type {shape}"
    related, why = _per_example(value)
    return Diagnostic(
        "B302",
        f"{_what(level, node)} has {shape}, not a single number",
        value.span,
        _spelled(checker, value.type),
        related,
        why=why,
        fix=_written(node, f"{'mean' if isinstance(value.type, Array) else 'sum'}({value.span.text})"),
    )


def _spelled(checker: Checker, type_: Type) -> str:
    """`real[n], n = 128`."""
    text = with_values(type_, checker.sizes)
    return text.replace(" (", ", ").removesuffix(")") if " (" in text else text


def _per_example(value: ir.Expr) -> tuple[tuple[Related, ...], str]:
    """Where the example axis comes from: a loss that keeps it."""
    body = value.body if isinstance(value, ir.CallLet) else value
    if not isinstance(body, ir.Builtin) or FUNCTIONS[body.function].rule != "last":
        return (), ""
    why = f"`{body.function}` returns one value per example so that they can be weighted"
    label = "one loss per example" if body.function in LOSSES else "one number per example"
    return ((Related(body.span, label),) if body is not value else ()), why
