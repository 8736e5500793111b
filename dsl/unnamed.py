"""B314: what is drawn has a name. A draw inside an expression would have no counter and no copies of its own."""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl.context import Checker
from bilevel.errors import Diagnostic


def check_unnamed(checker: Checker, level: ir.Level) -> None:
    """Report every draw that stands inside the objective, a report, or an argument of a solver."""
    values = [level.objective.value] if level.objective is not None else []
    values += [report.value for report in level.reports]
    values += [a for phase in level.phases for solver in phase.solvers for a in solver.arguments.values()]
    for sample in (found for value in values for found in _samples(value)):
        text = sample.span.text
        checker.report(
            Diagnostic(
                "B314",
                f"`{text}` is drawn inside an expression",
                sample.span,
                why="a draw is refreshed once in each step of its level, which its name stands for",
                fix=f"b ~ {text}      as a line of {level.name}, and b here",
            )
        )


def _samples(expr: ir.Expr) -> Iterator[ir.Sample]:
    """Draws in an expression; what a reducer opens has the name of its index."""
    if isinstance(expr, ir.Sample):
        yield expr
    opened = {id(b.source) for b in expr.binders} if isinstance(expr, ir.Reduced) else set()
    for child in ir.children(expr):
        if id(child) not in opened:
            yield from _samples(child)
