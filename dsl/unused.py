"""Lints of a checked recipe: things that are allowed and probably not meant. Reports B801-B804 as warnings."""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker
from bilevel.dsl.scope import Symbol
from bilevel.dsl.walk import name_span
from bilevel.errors import Diagnostic

WITHOUT = {
    "window": "a window of all steps is what there is without one",
    "chunk": "a chunk of all copies is what there is without one",
    "checkpoint": "all states are kept, as without checkpoints, and yet the steps are computed a second time",
}
"""what becomes of an option that holds everything"""


def unused(checker: Checker, program: ir.Program) -> Iterator[Diagnostic]:
    """Warnings for names that nothing reads and for `stop` around what is constant anyway."""
    for block in checker.scope.blocks.values():
        for symbol in block.symbols.values():
            if symbol.kind in ("use", "param", "let") and (symbol.level, symbol.name) not in checker.used:
                if symbol.node.span.source == program.recipe.span.source:  # not what a child recipe made useless
                    yield _never_read(symbol)
    for level in program.walk_levels():
        if level.objective is not None:
            yield from _stopped_constants(level.objective.value)
            yield from _idle_reducers(level.objective.value)
    yield from idle_options(program)


def idle_options(program: ir.Program) -> Iterator[Diagnostic]:
    """Warnings for windows, chunks and checkpoints that hold everything, which is what there is without them."""
    for entry in program.schedule:
        for option in entry.options:
            size = option.value.value if isinstance(option.value, nodes.Number) else None
            whole = _whole(program, entry, option.name or "")
            if whole is not None and size is not None and size >= whole[0]:
                yield _idle(entry, option, *whole)


def _whole(program: ir.Program, entry: ir.Entry, option: str) -> tuple[float, str] | None:
    """How many steps or copies an option divides where they are known, and what they are."""
    if option in ("window", "checkpoint"):
        level = next((lv for lv in program.walk_levels() if lv.name == entry.target), None)
        duration = level.phases[-1].duration if level is not None and level.phases else None
        if isinstance(duration, ir.Steps) and duration.unit == "steps" and duration.first is None:
            count = _value(program, duration.count)
            return None if count is None else (count, f"makes {count:g} steps")
    if option == "chunk":
        index = next((i for lv in program.walk_levels() for i in lv.indices if i.name == entry.target), None)
        if index is not None and isinstance(index.source, ir.Sample) and index.source.count is not None:
            count = _value(program, index.source.count)
            return None if count is None else (count, f"has {count:g} copies")
    return None


def _value(program: ir.Program, expr: ir.Expr) -> float | None:
    """A constant, or a param that is a number."""
    value = expr.value if isinstance(expr, ir.Constant) else None
    if isinstance(expr, ir.Read):
        value = next((p.value for p in program.params if p.name == expr.name), None)
    return float(value) if isinstance(value, int | float) else None


def _idle(entry: ir.Entry, option: nodes.Argument, count: float, what: str) -> Diagnostic:
    message = f"`{option.span.text}` has no effect: `{entry.target}` {what}"
    why = WITHOUT[option.name or ""]
    below = f"fewer than {count:g}, or " if count > 1 else ""
    return Diagnostic("B804", message, option.span, why=why, fix=f"{below}remove it", severity="warning")


def _never_read(symbol: Symbol) -> Diagnostic:
    message = f"nothing uses the {symbol.kind} `{symbol.name}`"
    span = name_span(symbol.node, symbol.name)
    return Diagnostic("B801", message, span, fix="remove it", severity="warning")


def _stopped_constants(value: ir.Expr) -> Iterator[Diagnostic]:
    for part in ir.walk(value):
        if isinstance(part, ir.Builtin) and part.function == "stop" and not part.arguments[0].depends:
            message = f"`{part.span.text}` stops nothing: no derivative passes through it"
            yield Diagnostic("B802", message, part.span, fix=part.arguments[0].span.text, severity="warning")


def _idle_reducers(value: ir.Expr) -> Iterator[Diagnostic]:
    for part in ir.walk(value):
        if isinstance(part, ir.Reduced):
            for binder in part.binders:
                if binder.source is None and binder.name not in part.body.axes:
                    message = f"`{part.kind}[{binder.name}]` reduces what does not depend on `{binder.name}`"
                    why = f"all copies are the same number: {part.body.span.text}"
                    yield Diagnostic("B803", message, binder.span, why=why, severity="warning")
