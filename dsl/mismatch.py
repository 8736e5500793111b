"""Messages for types that do not go together (B303) and for draws of more than there is (B312).

Takes the types and the expressions they belong to; finds the declarations that the sizes come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.context import Checker
from bilevel.dsl.datatypes import UNKNOWN_SIZE, Array, Records, Type, Unknown
from bilevel.dsl.scope import Symbol
from bilevel.errors import Diagnostic, Related, Span


def mismatched(
    checker: Checker, mismatch: shapes.Mismatch, sign: str, span: Span, operands: tuple[ir.Expr, ...] = ()
) -> Diagnostic:
    """B303, with the places where the sizes of both sides come from."""
    if mismatch.right is None:
        return _unfit(mismatch, span, operands)
    spelled = f"{with_values(mismatch.left, checker.sizes)}{sign}{with_values(mismatch.right, checker.sizes)}"
    found = Diagnostic("B303", f"shapes do not match: {mismatch.left}{sign}{mismatch.right}", span, spelled)
    origins = [(s, t) for o in operands for s, t in _origins(checker, o)]
    places = {s.name: Related(_size_span(s), _size_label(t, checker.sizes)) for s, t in origins}
    related = tuple(places.values())[:2]
    return replace(found, related=related, why=_why(origins, operands), fix=_fix(mismatch, operands, origins))


def _unfit(mismatch: shapes.Mismatch, span: Span, operands: tuple[ir.Expr, ...]) -> Diagnostic:
    """An argument that a function does not take."""
    name = span.text.partition("(")[0].strip()
    guilty = next((o.span for o in operands if o.type == mismatch.left), span)
    message = f"`{name}` {mismatch.reason}, and `{guilty.text}` is {mismatch.left}"
    return Diagnostic("B303", message, guilty, str(mismatch.left))


def with_values(type_: Type | None, sizes: Mapping[str, int]) -> str:
    """A type with the values of its named sizes: `real[n] (n = 128)`."""
    if not isinstance(type_, Array):
        return str(type_)
    names = [s for s in type_.shape if isinstance(s, str) and s in sizes]
    return f"{type_} ({', '.join(f'{n} = {sizes[n]}' for n in names)})" if names else str(type_)


# ---- where sizes come from -----------------------------------------------------------------------------------


def _origins(checker: Checker, operand: ir.Expr) -> list[tuple[Symbol, Type]]:
    """The variables and draws that give an operand its shape, with their types."""
    found: list[tuple[Symbol, Type]] = []
    for part in ir.walk(operand):
        if isinstance(part, ir.Read) and isinstance(part.type, Array | Records) and not shapes.is_number(part.type):
            symbol = next((b.symbols[part.name] for b in checker.scope.blocks.values() if part.name in b.symbols), None)
            if symbol is not None and symbol.kind in ("variable", "draw"):
                found.append((symbol, part.type))
    return found


def _size_span(symbol: Symbol) -> Span:
    """The type of a variable; the brackets of a draw."""
    match symbol.node:
        case nodes.Variable(type=type_):
            return type_.span
        case nodes.Draw(_, nodes.Subscript(base) as source):
            return Span(source.span.source, base.span.end, source.span.end)
    return symbol.span


def _size_label(type_: Type, sizes: Mapping[str, int]) -> str:
    first = type_.length if isinstance(type_, Records) else type_.shape[0] if isinstance(type_, Array) else UNKNOWN_SIZE
    if isinstance(first, str) and first in sizes:
        return f"{first} = {sizes[first]} here"
    return str(type_) if first == UNKNOWN_SIZE else f"{first} fixed here"


def _variable(operands: tuple[ir.Expr, ...], origins: list[tuple[Symbol, Type]]) -> Symbol | None:
    """The variable that is itself an operand."""
    names = {o.name for o in operands if isinstance(o, ir.Read)}
    return next((s for s, _ in origins if s.kind == "variable" and s.name in names), None)


def blame(checker: Checker, operands: tuple[ir.Expr, ...]) -> None:
    """Forget the type of the variable that a mismatch is put down to, so that it is reported once."""
    symbol = _variable(operands, [o for operand in operands for o in _origins(checker, operand)])
    if symbol is not None:
        checker.types[(symbol.level, symbol.name)] = Unknown("error")


def _why(origins: list[tuple[Symbol, Type]], operands: tuple[ir.Expr, ...]) -> str:
    draws = [s.name for s, t in origins if s.kind == "draw" and isinstance(t, Records)]
    if not draws or _variable(operands, origins) is None:
        return ""
    word = "weight" if any(isinstance(o, ir.Item) for o in operands) else "number"
    return f"there must be one {word} per example of the batch `{draws[0]}`"


def _fix(mismatch: shapes.Mismatch, operands: tuple[ir.Expr, ...], origins: list[tuple[Symbol, Type]]) -> str:
    """The declaration of the variable with the shape of the other side."""
    symbol = _variable(operands, origins)
    other = next((o.type for o in operands if not isinstance(o, ir.Read) or (symbol and o.name != symbol.name)), None)
    if symbol is None or not isinstance(symbol.node, nodes.Variable) or not isinstance(other, Array):
        return ""
    if not other.ranked or UNKNOWN_SIZE in other.shape:
        return ""
    return symbol.span.text.replace(symbol.node.type.span.text, str(other).replace("integer", "real"), 1)


# ---- draws ---------------------------------------------------------------------------------------------------


def check_count(checker: Checker, node: nodes.Subscript, source: Type, count: ir.Expr | None) -> None:
    """B312: a draw takes different samples, so it cannot take more than there are."""
    wanted = _number(checker, count)
    if count is None or wanted is None:
        return
    if not isinstance(wanted, int) or wanted < 1:
        message = f"`{count.span.text}` is not a number of draws"
        checker.report(Diagnostic("B312", message, count.span, "a whole number, 1 or more"))
    elif isinstance(source, Records):
        length = shapes.value_of(source.length, checker.sizes)
        if length is not None and wanted > length:
            checker.report(too_many(node.base.span.text, node.span, wanted, length))


def _number(checker: Checker, count: ir.Expr | None) -> int | float | None:
    match count:
        case ir.Constant(value=int() | float() as value):
            return value
        case ir.Read(name=name):
            return checker.constants.get(name)
    return None


def too_many(name: str, span: Span, wanted: int, length: int) -> Diagnostic:
    """B312 for a draw of `wanted` samples from the data set `name`, which has `length`."""
    return Diagnostic(
        "B312",
        f"`{name}` has {length:_} samples, and {wanted:_} are drawn from it",
        span,
        f"at most {length:_}",
        why="one draw takes different samples: it draws without replacement",
        fix=f"{name}[{length:_}] or fewer; or `{name}` without brackets for all of them" if length else "larger data",
    )
