"""Lints of a checked recipe: things that are allowed and probably not meant. Reports B801-B803 as warnings."""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl.context import Checker
from bilevel.dsl.scope import Symbol
from bilevel.dsl.walk import name_span
from bilevel.errors import Diagnostic


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
