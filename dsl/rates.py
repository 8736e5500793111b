"""Rates that change over the steps of a level: `linear(rate)`, `cosine(rate)` and `steps(rate, at = [...])` after `lr =`.

Takes the value of an argument called `lr`; gives a call of the schedule, or nothing where it is a plain expression.
Reports B309. The milestones of `steps` are whole numbers that are known before the run.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place, joined
from bilevel.dsl.expressions import check_expr
from bilevel.dsl.parts import constant
from bilevel.dsl.solvers import RATES
from bilevel.errors import Diagnostic, Span

EXAMPLES = {"linear": "linear(0.1)", "cosine": "cosine(0.1)", "steps": "steps(0.1, at = [30, 60], factor = 0.1)"}


def check_rate(checker: Checker, place: Place, value: nodes.Expr) -> ir.Expr | None:
    """A schedule as a call: the rate, then for `steps` the factor and the milestones; None for anything else."""
    if not isinstance(value, nodes.Call) or not isinstance(value.function, nodes.Name):
        return None
    name = value.function.identifier
    if name not in RATES:
        return None
    allowed = ("at", "factor") if name == "steps" else ()
    given = {argument.name: argument.value for argument in value.arguments}
    unnamed = sum(argument.name is None for argument in value.arguments)
    if unnamed != 1 or len(given) < len(value.arguments) or not given.keys() <= {None, *allowed}:
        checker.report(_misspelt(name, value.span))
        return check_expr(checker, place, nodes.Number("1", span=value.span))
    parts = [check_expr(checker, place, given[None])]
    if name == "steps":
        parts += _stepwise(checker, place, value, given)
    call = ir.Builtin(span=value.span, type=parts[0].type, function=name, arguments=tuple(parts))
    return joined(call, tuple(parts))


def _stepwise(checker: Checker, place: Place, value: nodes.Call, given: dict[str | None, nodes.Expr]) -> list[ir.Expr]:
    """The factor, 0.1 where nothing is said, and the milestones in order."""
    factor = check_expr(checker, place, given.get("factor", nodes.Number("0.1", span=value.span)))
    at = given.get("at")
    listed = at.items if isinstance(at, nodes.ListOf) else ()
    found = [constant(item, checker.constants) for item in listed]
    checked = [check_expr(checker, place, item) for item in listed]
    numbers = [number for number in found if isinstance(number, int) and number >= 1]
    if not numbers or len(numbers) < len(found) or numbers != sorted(set(numbers)):
        checker.report(_no_milestones(value.span if at is None else at.span))
        return [factor]
    places = [
        ir.Constant(span=e.span, type=e.type, value=n, reads=e.reads) for e, n in zip(checked, numbers, strict=True)
    ]
    return [factor, *places]


def _misspelt(name: str, span: Span) -> Diagnostic:
    takes = "a rate, `at` and `factor`" if name == "steps" else "one rate"
    return Diagnostic("B309", f"`{name}` takes {takes}", span, fix=f"lr = {EXAMPLES[name]}")


def _no_milestones(span: Span) -> Diagnostic:
    return Diagnostic(
        "B309",
        "`at` lists the steps from which on the rate is smaller",
        span,
        why="they are whole numbers, 1 or more, each larger than the one before, known before the run",
        fix=f"lr = {EXAMPLES['steps']}",
    )
