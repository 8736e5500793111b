"""Walking and rebuilding syntax trees without naming every kind of node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from bilevel.dsl.nodes import Node
from bilevel.dsl.tokens import normal, scan
from bilevel.errors import Source, Span

AnyNode = TypeVar("AnyNode", bound=Node)


_FIELDS: dict[type[Node], tuple[str, ...]] = {}


def field_names(kind: type[Node]) -> tuple[str, ...]:
    """The fields of a kind of node in the order they are written, without its span."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(field.name for field in fields(kind) if field.name != "span")
    return _FIELDS[kind]


def children(node: Node) -> Iterator[Node]:
    """The nodes directly inside `node`, in the order they are written."""
    for name in field_names(type(node)):
        value = getattr(node, name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Node):
                yield part


def walk(node: Node) -> Iterator[Node]:
    """`node` and everything inside it, in the order it is written."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(list(children(node))))


def substitute(node: AnyNode, replacements: Mapping[int, Node]) -> AnyNode:
    """`node` with the nodes of the given `id()`s replaced; parts without any of them are kept as they are."""
    if id(node) in replacements:
        return replacements[id(node)]  # type: ignore[return-value]
    changes: dict[str, Any] = {}
    for name in field_names(type(node)):
        before = getattr(node, name)
        after: Any = before
        if isinstance(before, tuple):
            after = tuple([substitute(part, replacements) if isinstance(part, Node) else part for part in before])
            after = after if any(new is not old for new, old in zip(after, before, strict=True)) else before
        elif isinstance(before, Node):
            after = substitute(before, replacements)
        if after is not before:
            changes[name] = after
    return replace(node, **changes) if changes else node


def name_span(node: Node, name: str) -> Span:
    """Where `name` is written in a declaration: its first occurrence as a word, or all of the node.

    The tree has no nodes for names that are declared, only for names that are used.
    """
    span = node.span
    for token in scan(span.source.text, span.start, span.end):
        if token.kind == "name" and normal(token.text) == name:
            return Span(span.source, token.start, token.end)
    return span


def header_span(node: Node, stop: str = "{") -> Span:
    """The part of a block before its brace: `level adapt` of `level adapt { ... }`."""
    span = node.span
    last = span.start
    for token in scan(span.source.text, span.start, span.end):
        if token.is_symbol(stop):
            return Span(span.source, span.start, last)
        if token.kind != "comment":
            last = token.end
    return span


def relocated(node: AnyNode, source: Source, shift: int) -> AnyNode:
    """The node with every span moved to `source`, `shift` characters further on."""
    changes: dict[str, Any] = {f.name: _relocated_field(getattr(node, f.name), source, shift) for f in fields(node)}
    return replace(node, **changes)


def _relocated_field(value: object, source: Source, shift: int) -> object:
    match value:
        case Span():
            return Span(source, value.start + shift, value.end + shift)
        case Node():
            return relocated(value, source, shift)
        case tuple():
            return tuple(_relocated_field(item, source, shift) for item in value)
    return value
