"""How each form of the language is written: documents for expressions, types and statements.

Takes nodes, gives documents of `layout`. Parentheses are written only where the grammar needs them.
"""

from __future__ import annotations

from bilevel.dsl import nodes
from bilevel.dsl.layout import Break, Document, Group, Nest, bracketed, flat, join

# How tightly a form binds, loosest first; named after the rules of bilevel.lark.
EXPR, TERM, PRODUCT, UNARY, POWER, POSTFIX, ATOM = range(7)


def binding(expr: nodes.Expr) -> int:
    """The rule of the grammar that reads `expr`."""
    match expr:
        case nodes.Binary("+" | "-"):
            return EXPR
        case nodes.Reduce() | nodes.Binary("*", _, nodes.Reduce()) | nodes.Negate(nodes.Reduce()):
            return TERM
        case nodes.Binary("*" | "/"):
            return PRODUCT
        case nodes.Negate():
            return UNARY
        case nodes.Binary():
            return POWER
        case nodes.Attribute() | nodes.Subscript() | nodes.Call() | nodes.Iterate():
            return POSTFIX
        case _:
            return ATOM


# ---- expressions ---------------------------------------------------------------------------------------------


def expression(expr: nodes.Expr, least: int = EXPR, tight: bool = False) -> Document:
    """`expr` where the grammar expects something that binds at least as tightly as `least`.

    `tight` leaves out the spaces around operators: `1..K-1`, `phi@(k+1)`.
    """
    if binding(expr) < least:
        if least == PRODUCT and isinstance(expr, nodes.Binary) and expr.operator == "*":
            return _product(expr, UNARY, tight)
        return ("(", expression(expr, tight=tight), ")")
    match expr:
        case nodes.Name():
            return expr.identifier
        case nodes.Number():
            return expr.text
        case nodes.String():
            return f'"{expr.value}"'
        case nodes.ListOf():
            return bracketed("[", map(expression, expr.items), "]")
        case nodes.Binary():
            return _binary(expr, tight)
        case nodes.Negate(operand):
            return ("-", expression(operand, TERM if isinstance(operand, nodes.Reduce) else UNARY, tight))
        case nodes.Attribute():
            return (expression(expr.base, POSTFIX), ".", expr.name)
        case nodes.Subscript():
            return (expression(expr.base, POSTFIX), bracketed("[", map(expression, expr.items), "]"))
        case nodes.Call():
            return (expression(expr.function, POSTFIX), bracketed("(", map(argument, expr.arguments), ")"))
        case nodes.Iterate():
            return (expression(expr.base, POSTFIX), "@", expression(expr.at, ATOM, tight=True))
        case nodes.Reduce():
            return (f"{expr.kind}[", join(map(_binder, expr.binders), ", "), "] ", expression(expr.body, TERM, tight))


def _binary(expr: nodes.Binary, tight: bool) -> Document:
    if expr.operator == "^":
        return (expression(expr.left, POSTFIX, tight), "^", expression(expr.right, UNARY, tight))
    if expr.operator in ("+", "-"):
        left, right = expression(expr.left, EXPR, tight), expression(expr.right, TERM, tight)
        if not tight:
            return Group((left, Nest((Break(), f"{expr.operator} ", right))))
        return (left, expr.operator, right)
    return _product(expr, TERM if expr.operator == "*" and isinstance(expr.right, nodes.Reduce) else UNARY, tight)


def _product(expr: nodes.Binary, last: int, tight: bool) -> Document:
    """A product or quotient whose last factor binds at least as tightly as `last`."""
    sign = expr.operator if tight else f" {expr.operator} "
    return (expression(expr.left, PRODUCT, tight), sign, expression(expr.right, last, tight))


def argument(node: nodes.Argument) -> Document:
    """One argument of a call."""
    value = expression(node.value)
    return value if node.name is None else (f"{node.name} = ", value)


def _binder(node: nodes.Binder) -> Document:
    return node.name if node.source is None else (f"{node.name} in ", source(node.source))


def source(node: nodes.Expr | nodes.Range) -> Document:
    """What an index runs over."""
    if isinstance(node, nodes.Range):
        return (expression(node.low, tight=True), "..", expression(node.high, tight=True))
    return expression(node)


# ---- types ---------------------------------------------------------------------------------------------------


def type_of(node: nodes.Type) -> Document:
    """`real[n]` or `params(net)[n]`."""
    sizes = node.sizes if isinstance(node, nodes.RealType) else node.count
    after = bracketed("[", map(expression, sizes), "]") if sizes else ""
    if isinstance(node, nodes.RealType):
        return ("real", after)
    return (node.kind, bracketed("(", map(argument, node.arguments), ")"), after)


def domain(node: nodes.Domain) -> Document:
    """`positive`, `between(0, 1)`."""
    return (node.name, bracketed("(", map(expression, node.arguments), ")") if node.arguments else "")


# ---- statements: what stands before the sign that neighbours are aligned at, and the rest ----------------------


def statement(node: nodes.Item | nodes.Statement) -> tuple[str, Document]:
    """A statement that is no block, as its head and its rest; the head is empty where nothing is aligned."""
    match node:
        case nodes.Use(name, kind, value):
            return f"use {name}", _use(kind, value)
        case nodes.Param(name, value):
            return f"param {name}", ("= ", expression(value))
        case nodes.Let(name, parameters, body):
            head = name if parameters is None else f"{name}({', '.join(parameters)})"
            return f"let {head}", ("= ", expression(body))
        case nodes.Import(name):
            return "", f"import {name}"
        case nodes.Override(path, value):
            return ".".join(path), ("= ", expression(value))
        case nodes.Variable():
            return ", ".join(node.names), _variable(node)
        case nodes.Each(index):
            return f"each {index.name}", _index(index)
        case nodes.Draw(name, drawn):
            return name, ("~ ", expression(drawn))
        case nodes.Objective(sense, value):
            return "", (f"{sense} ", expression(value))
        case nodes.By():
            return "", _by(node)
        case nodes.Report():
            return f"report {node.name}", _report(node)
        case _:
            raise TypeError(f"{type(node).__name__} is a block")


def entry(node: nodes.Entry) -> tuple[str, Document]:
    """A line of a schedule."""
    return node.name, (": ", expression(node.mode))


def _use(kind: nodes.Type | nodes.Name | None, value: nodes.Expr | None) -> Document:
    if value is not None:
        return ("= ", expression(value))
    return (": ", kind.identifier if isinstance(kind, nodes.Name) else "" if kind is None else type_of(kind))


def _variable(node: nodes.Variable) -> Document:
    parts: list[Document] = [type_of(node.type)]
    if node.domain is not None:
        parts.append(("in ", domain(node.domain)))
    if node.start is not None:
        parts.append(("from ", expression(node.start)))
    return Group((": ", Nest(join(parts, Break()))))


def _index(node: nodes.Index) -> Document:
    return ("~ " if node.drawn else "in ", source(node.source))


def _report(node: nodes.Report) -> Document:
    parts: list[Document] = [("= ", expression(node.value))]
    if node.changes:
        parts.append(("with ", join(map(_change, node.changes), ", ")))
    if node.every is not None:
        parts.append(("every ", _count(node.every.count, node.every.unit)))
    return Group(Nest(join(parts, Break())))


def _change(node: nodes.Index | nodes.Override) -> Document:
    if isinstance(node, nodes.Index):
        return (f"{node.name} ", _index(node))
    return (".".join(node.path), " = ", expression(node.value))


def _by(node: nodes.By) -> Document:
    phases = [_phase(phase) for phase in node.phases]
    return Group(("by ", Nest(join(phases, (Break(), "then ")))))


def _phase(node: nodes.Phase) -> Document:
    parts: list[Document] = [join(map(_move, node.moves), ", ")]
    if node.estimator is not None:
        parts.append(("with ", expression(node.estimator)))
    if node.duration is not None:
        parts.append(_duration(node.duration))
    return join(parts, Break())


def _move(node: nodes.Move) -> Document:
    return expression(node.solver) if node.name is None else (f"{node.name} : ", expression(node.solver))


def _duration(node: nodes.For | nodes.ForEach | nodes.Until) -> Document:
    match node:
        case nodes.For(count, unit):
            return ("for ", _count(count, unit))
        case nodes.ForEach(name, numbers, unit):
            return (f"for {name} in ", source(numbers), f" {unit}")
        case nodes.Until(test, cap, unit):
            return ("until ", expression(test), " within ", _count(cap, unit))


def _count(count: nodes.Expr, unit: str) -> Document:
    """`5 steps`, but `1 step`."""
    return (expression(count), " ", unit[:-1] if count == nodes.Number("1") else unit)


def header(recipe: nodes.Recipe) -> str:
    """The first statement of a file."""
    return f"recipe {recipe.name}" + (f" extends {recipe.parent}" if recipe.parent else "")


def one_line(node: nodes.Item | nodes.Statement | nodes.Entry) -> str:
    """A statement that is no block, however long."""
    head, rest = entry(node) if isinstance(node, nodes.Entry) else statement(node)
    return f"{head} {flat(rest)}".lstrip()
