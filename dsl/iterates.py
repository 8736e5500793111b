"""B306: an iterate that is read must exist. Levels solved `for S steps` have the iterates 0 (start) to S."""

from __future__ import annotations

from collections.abc import Mapping

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker
from bilevel.errors import Diagnostic, Related, Span

Range = tuple[int | float, int | float]


def check_iterates(checker: Checker, level: ir.Level) -> None:
    """Compare every `x@k` that a level reads with the number of steps of the level inside that solves for x."""
    solved = {name: inner for inner in level.levels for name in inner.names}
    values = [level.objective.value] if level.objective is not None else []
    values += [r.value for r in level.reports if not r.settings]  # settings may change the number of steps
    for value in values:
        _visit(checker, value, solved, {})


def _visit(checker: Checker, expr: ir.Expr, solved: Mapping[str, ir.Level], ranges: Mapping[str, Range]) -> None:
    if isinstance(expr, ir.IterateOf) and expr.name in solved:
        _check(checker, expr, solved[expr.name], ranges)
    if isinstance(expr, ir.Reduced):
        ranges = dict(ranges) | {b.name: r for b in expr.binders if (r := _range_of(checker, b, ranges)) is not None}
    for child in ir.children(expr):
        _visit(checker, child, solved, ranges)


def _range_of(checker: Checker, binder: ir.Binder, ranges: Mapping[str, Range]) -> Range | None:
    if not isinstance(binder.source, ir.Counting):
        return None
    low, high = _bounds(checker, binder.source.low, ranges), _bounds(checker, binder.source.high, ranges)
    return None if low is None or high is None else (low[0], high[1])


def _bounds(checker: Checker, expr: ir.Expr, ranges: Mapping[str, Range]) -> Range | None:
    """Smallest and largest value of a number made of literals, params and counters by + and -."""
    match expr:
        case ir.Constant(value=int() | float() as value):
            return value, value
        case ir.Read(name=name) if name in ranges:
            return ranges[name]
        case ir.Read(name=name) if name in checker.constants:
            return checker.constants[name], checker.constants[name]
        case ir.Operate(operator="+" | "-" as sign, operands=(left, right)):
            a, b = _bounds(checker, left, ranges), _bounds(checker, right, ranges)
            if a is None or b is None:
                return None
            return (a[0] + b[0], a[1] + b[1]) if sign == "+" else (a[0] - b[1], a[1] - b[0])
    return None


def _check(checker: Checker, expr: ir.IterateOf, level: ir.Level, ranges: Mapping[str, Range]) -> None:
    duration = level.phases[-1].duration if level.phases else None
    bounds = _bounds(checker, expr.at, ranges)
    last = _last(duration) if isinstance(duration, ir.Steps) else None
    if not isinstance(duration, ir.Steps) or last is None or bounds is None:
        return
    if bounds[0] >= 0 and bounds[1] <= last:
        return
    reached = int(bounds[1] if bounds[1] > last else bounds[0])
    name, spelled = expr.name, expr.span.text
    count = duration.count.span.text if duration.first is None else str(last)
    counter = next((n for n in ranges if any(isinstance(e, ir.Read) and e.name == n for e in ir.walk(expr.at))), None)
    label = f"this reads {name}@{reached}"
    if counter is not None:
        label = f"{counter} runs to {_end(duration, ranges[counter])}, so {label}"
    checker.report(
        Diagnostic(
            "B306",
            f"`{spelled}` reaches step {reached} of a {last}-step level",
            expr.span,
            label,
            (Related(_duration_span(checker, level, duration), f"`{level.name}` stops here"),),
            why=f"a level solved `for {count} steps` has the iterates {name}@0 (start) to {name}@{count} (solution)",
            fix=_fix(expr, counter, count),
        )
    )


def _last(duration: ir.Steps) -> int | None:
    """The number of steps, where it is written: the steps of an epoch are counted when there is data."""
    if duration.unit != "steps" or not isinstance(duration.count, ir.Constant):
        return None
    if duration.first is None:
        return int(duration.count.value)
    first = duration.first
    return int(duration.count.value) - int(first.value) + 1 if isinstance(first, ir.Constant) else None


def _duration_span(checker: Checker, level: ir.Level, duration: ir.Steps) -> Span:
    """`for S steps`."""
    block = checker.scope.blocks[level.name]
    bys = [s for s in block.node.body if isinstance(s, nodes.By)] if block.node is not None else []
    written = bys[0].phases[-1].duration if bys else None
    return duration.count.span if written is None else written.span


def _end(duration: ir.Steps, bounds: Range) -> str:
    text = duration.count.span.text
    return f"{text} = {bounds[1]}" if text != str(bounds[1]) else text


def _fix(expr: ir.IterateOf, counter: str | None, last: str) -> str:
    if counter is None:
        return f"{expr.name}@{last}, which is {expr.name} itself, or more steps"
    return f"sum[{counter} in 1..{last}] ... {expr.name}@{counter}      or      sum[{counter} in 0..{last}-1] ... {expr.span.text}"
