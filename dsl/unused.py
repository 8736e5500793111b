"""Lints of a checked recipe: things that are allowed and probably not meant. Reports B801-B803 as warnings."""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker
from bilevel.errors import Diagnostic


def unused(checker: Checker, program: ir.Program) -> Iterator[Diagnostic]:
    """Warnings for names that nothing reads and for `stop` around what is constant anyway."""
    own = {id(item) for item in program.recipe.items}
    for block in checker.scope.blocks.values():
        for symbol in block.symbols.values():
            if symbol.kind in ("use", "param", "let") and (symbol.level, symbol.name) not in checker.used:
                if block.name is not None or id(symbol.node) in own:
                    yield _never_read(symbol.name, symbol.kind, symbol.node)
    for level in program.walk_levels():
        if level.objective is not None:
            yield from _stopped_constants(level.objective.value)


def _never_read(name: str, kind: str, node: nodes.Node) -> Diagnostic:
    return Diagnostic("B801", f"nothing uses the {kind} `{name}`", node.span, fix="remove it", severity="warning")


def _stopped_constants(value: ir.Expr) -> Iterator[Diagnostic]:
    for part in ir.walk(value):
        if isinstance(part, ir.Builtin) and part.function == "stop" and not part.arguments[0].depends:
            message = f"`{part.span.text}` stops nothing: no derivative passes through it"
            yield Diagnostic("B802", message, part.span, fix=part.arguments[0].span.text, severity="warning")
