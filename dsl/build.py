"""From the parser's tree to the syntax tree: one small function per rule of `bilevel.lark`.

Input is a tree of lark with positions, output the nodes of `dsl/nodes.py` with exact spans. Works from the leaves
up in a loop, so that no input can exhaust the stack; decides nothing about names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from lark import Token, Tree

from bilevel.dsl import nodes
from bilevel.dsl.tokens import normal
from bilevel.errors import Source, Span, fail

DEEPEST = 150
"""Nodes inside each other; every later pass may walk the tree by recursion because of this bound."""

Build = Callable[..., Any]


def build(tree: Tree[Token], source: Source) -> Any:
    """The node for `tree`: a `Recipe` for the rule start, a tuple of items for body, an expression for value."""
    built: dict[int, Any] = {}
    depth: dict[int, int] = {}
    for part in tree.iter_subtrees():
        span = _span(part, source)
        children = [built[id(child)] if isinstance(child, Tree) else child for child in part.children]
        built[id(part)] = node = RULES[part.data](span, *children)
        below = max((depth[id(child)] for child in part.children if isinstance(child, Tree)), default=0)
        depth[id(part)] = below + isinstance(node, nodes.Node)
        if depth[id(part)] > DEEPEST:
            raise _too_deep(span)
    return built[id(tree)]


def _span(tree: Tree[Token], source: Source) -> Span:
    if tree.meta.empty:
        return Span(source, 0, 0)
    return Span(source, tree.meta.start_pos, tree.meta.end_pos)


def _too_deep(span: Span) -> Exception:
    return fail(
        "B113",
        f"more than {DEEPEST} operations inside each other",
        span,
        why="a limit, so that no recipe can exhaust the memory of those who read it",
        fix="give a part of it a name:  let part = ...",
    )


def _word(token: Token | None) -> str | None:
    return None if token is None else normal(token)


# ---- a file --------------------------------------------------------------------------------------------------


def _recipe(span: Span, header: tuple[str, str | None], *items: nodes.Item) -> nodes.Recipe:
    name, parent = header
    return nodes.Recipe(name, parent, items, span=span)


def _header(span: Span, name: Token, parent: Token | None) -> tuple[str, str | None]:
    return normal(name), _word(parent)


def _use_open(span: Span, name: Token, kind: nodes.Type | nodes.Name) -> nodes.Use:
    return nodes.Use(normal(name), kind, None, span=span)


def _use_value(span: Span, name: Token, value: nodes.Expr) -> nodes.Use:
    return nodes.Use(normal(name), None, value, span=span)


def _let(span: Span, name: Token, parameters: tuple[str, ...] | None, body: nodes.Expr) -> nodes.Let:
    return nodes.Let(normal(name), parameters, body, span=span)


def _path(span: Span, *names: Token) -> tuple[str, ...]:
    return tuple(normal(name) for name in names)


# ---- levels --------------------------------------------------------------------------------------------------


def _level(span: Span, name: Token, *body: nodes.Statement) -> nodes.Level:
    return nodes.Level(normal(name), body, span=span)


def _tree_type(
    span: Span, kind: Token, arguments: tuple[nodes.Argument, ...], count: tuple[nodes.Expr, ...] | None
) -> nodes.TreeType:
    return nodes.TreeType(normal(kind), arguments, count or (), span=span)


def _index(drawn: bool, span: Span, name: Token, source: nodes.Expr | nodes.Range) -> nodes.Index:
    return nodes.Index(normal(name), drawn, source, span=span)


def _objective(span: Span, sense: Token, value: nodes.Expr) -> nodes.Objective:
    return nodes.Objective(cast(Any, str(sense)), value, span=span)


# ---- solvers, reports, schedule ------------------------------------------------------------------------------


def _unit(token: Token) -> Any:
    return str(token) if token.endswith("s") else f"{token}s"


def _for_count(span: Span, count: nodes.Expr, unit: Token) -> nodes.For:
    return nodes.For(count, _unit(unit), span=span)


def _for_each(span: Span, name: Token, numbers: nodes.Range, unit: Token) -> nodes.ForEach:
    return nodes.ForEach(normal(name), numbers, _unit(unit), span=span)


def _until(span: Span, test: nodes.Call, cap: nodes.Expr, unit: Token) -> nodes.Until:
    return nodes.Until(test, cap, _unit(unit), span=span)


def _every(span: Span, count: nodes.Expr, unit: Token) -> nodes.Every:
    return nodes.Every(count, _unit(unit), span=span)


def _report(
    span: Span,
    name: Token,
    value: nodes.Expr,
    changes: tuple[nodes.Index | nodes.Override, ...] | None,
    every: nodes.Every | None,
) -> nodes.Report:
    return nodes.Report(normal(name), value, changes or (), every, span=span)


def _schedule(span: Span, _keyword: Token, name: Token | None, *entries: nodes.Entry) -> nodes.Schedule:
    return nodes.Schedule(_word(name), entries, span=span)


# ---- expressions ---------------------------------------------------------------------------------------------


def _binary(operator: Any, span: Span, left: nodes.Expr, right: nodes.Expr) -> nodes.Binary:
    return nodes.Binary(operator, left, right, span=span)


def _reduced(span: Span, kind: Token, binders: tuple[nodes.Binder, ...], body: nodes.Expr) -> nodes.Reduce:
    return nodes.Reduce(cast(Any, kind.rstrip("[ \t\r\n")), binders, body, span=span)


def _name(span: Span, identifier: Token) -> nodes.Name:
    return nodes.Name(normal(identifier), span=span)


def _plain_call(span: Span, function: Token, arguments: tuple[nodes.Argument, ...]) -> nodes.Call:
    name = nodes.Name(normal(function), span=Span(span.source, span.start, span.start + len(function)))
    return nodes.Call(name, arguments, span=span)


def _list_of(span: Span, items: tuple[nodes.Expr, ...] | None) -> nodes.ListOf:
    return nodes.ListOf(items or (), span=span)


def _positional(span: Span, value: nodes.Expr) -> nodes.Argument:
    return nodes.Argument(None, value, span=value.span)


def _tuple(span: Span, *parts: Any) -> tuple[Any, ...]:
    return tuple(part for part in parts if part is not None)


RULES: dict[str, Build] = {
    "start": _recipe,
    "header": _header,
    "body": _tuple,
    "value": lambda span, value: value,
    "use_open": _use_open,
    "use_value": _use_value,
    "param": lambda span, name, value: nodes.Param(normal(name), value, span=span),
    "let": _let,
    "import_": lambda span, name: nodes.Import(normal(name), span=span),
    "override": lambda span, path, value: nodes.Override(path, value, span=span),
    "path": _path,
    "level": _level,
    "variable": lambda span, *parts: nodes.Variable(*parts, span=span),
    "real_type": lambda span, sizes: nodes.RealType(sizes or (), span=span),
    "tree_type": _tree_type,
    "domain": lambda span, name, arguments: nodes.Domain(normal(name), arguments or (), span=span),
    "each": lambda span, index: nodes.Each(index, span=span),
    "index_drawn": partial(_index, True),
    "index_every": partial(_index, False),
    "range": lambda span, low, high: nodes.Range(low, high, span=span),
    "draw": lambda span, name, source: nodes.Draw(normal(name), source, span=span),
    "objective": _objective,
    "by": lambda span, *phases: nodes.By(phases, span=span),
    "phase": lambda span, *parts: nodes.Phase(*parts, span=span),
    "moves": _tuple,
    "move": lambda span, name, solver: nodes.Move(_word(name), solver, span=span),
    "for_count": _for_count,
    "for_each": _for_each,
    "until": _until,
    "report": _report,
    "every": _every,
    "changes": _tuple,
    "schedule": _schedule,
    "entry": lambda span, name, mode: nodes.Entry(normal(name), mode, span=span),
    "names": _path,
    "exprs": _tuple,
    "args": _tuple,
    "named": lambda span, name, value: nodes.Argument(normal(name), value, span=span),
    "positional": _positional,
    "plain_call": _plain_call,
    "add": partial(_binary, "+"),
    "subtract": partial(_binary, "-"),
    "multiply": partial(_binary, "*"),
    "divide": partial(_binary, "/"),
    "raise": partial(_binary, "^"),
    "negate": lambda span, operand: nodes.Negate(operand, span=span),
    "reduced": _reduced,
    "binders": _tuple,
    "binder": lambda span, name, source: nodes.Binder(normal(name), source, span=span),
    "attribute": lambda span, base, name: nodes.Attribute(base, normal(name), span=span),
    "subscript": lambda span, base, items: nodes.Subscript(base, items, span=span),
    "call": lambda span, function, arguments: nodes.Call(function, arguments, span=span),
    "iterate": lambda span, base, at: nodes.Iterate(base, at, span=span),
    "name": _name,
    "number": lambda span, text: nodes.Number(str(text), span=span),
    "string": lambda span, text: nodes.String(text[1:-1], span=span),
    "list_of": _list_of,
}
