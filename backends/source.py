"""Source code as values, and the one printer that turns them into text.

A backend builds a `Module`; tests and users read its text. Expressions are text already; what has structure is what
the printer must lay out: functions, loops, long calls, and the recipe line each statement came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

WIDTH = 110


@dataclass(frozen=True, slots=True)
class Comment:
    text: str


@dataclass(frozen=True, slots=True)
class Assign:
    """`target = value`, or the bare `value` where the target is empty; `at` is a recipe line."""

    target: str
    value: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Return:
    value: str


@dataclass(frozen=True, slots=True)
class Loop:
    """`for target in iterable:`"""

    target: str
    iterable: str
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class If:
    condition: str
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    parameters: tuple[str, ...]
    doc: str
    body: tuple[Statement, ...]
    at: str = ""
    kernel: bool = False
    """whether it may be traced and compiled"""
    pulled: bool = False
    """whether it gives its results with a vjp of them"""


@dataclass(frozen=True, slots=True)
class Class:
    """A named tuple with these fields."""

    name: str
    fields: tuple[tuple[str, str], ...]
    doc: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text taken over as it is."""

    text: str


Statement = Comment | Assign | Return | Loop | If | Function | Class | Text


@dataclass(frozen=True, slots=True)
class Module:
    doc: str
    body: tuple[Statement, ...]


def to_text(module: Module) -> str:
    """The module as Python source, ending in one line break."""
    lines = [f'"""{module.doc}"""', ""]
    for statement in module.body:
        lines += _lines(statement, 0)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def words(body: tuple[Statement, ...]) -> set[str]:
    """All names that a block of statements mentions in code."""
    code = [line.partition("  # ")[0] for line in _block(body, 0) if not line.lstrip().startswith("#")]
    return set(re.findall(r"[^\W\d]\w*", "\n".join(code)))


def _lines(statement: Statement, depth: int) -> Iterator[str]:
    pad = "    " * depth
    match statement:
        case Comment(text):
            yield f"{pad}# {text}" if text else ""
        case Text(text):
            yield from (pad + line if line else "" for line in text.split("\n"))
        case Assign(target, value, at):
            head = f"{target} = " if target else ""
            yield from _noted(_wrapped(pad, head + value), at)
        case Return(value):
            yield from _wrapped(pad, f"return {value}")
        case Loop(target, iterable, body):
            yield f"{pad}for {target} in {iterable}:"
            yield from _block(body, depth + 1)
        case If(condition, body):
            yield f"{pad}if {condition}:"
            yield from _block(body, depth + 1)
        case Function():
            yield from _function(statement, depth)
        case Class(name, fields, doc):
            yield f"{pad}class {name}(NamedTuple):"
            yield f'{pad}    """{doc}"""'
            yield ""
            yield from (f"{pad}    {field}: {kind}" for field, kind in fields)
            yield ""


def _block(body: tuple[Statement, ...], depth: int) -> Iterator[str]:
    for statement in body:
        yield from _lines(statement, depth)


def _function(function: Function, depth: int) -> Iterator[str]:
    pad = "    " * depth
    if function.kernel:
        yield f"{pad}@kernels.{'pulled' if function.pulled else 'kernel'}"
    head = f"def {function.name}({', '.join(function.parameters)}):"
    yield from _noted(_wrapped(pad, head), function.at)
    if function.doc:
        yield f'{pad}    """{function.doc}"""'
    yield from _block(function.body, depth + 1)
    yield ""


def _noted(lines: list[str], at: str) -> list[str]:
    """The recipe line as a comment beside the first line."""
    if not at:
        return lines
    return [f"{lines[0]}  # {at}", *lines[1:]]


def _wrapped(pad: str, text: str) -> list[str]:
    """A line, broken inside its outermost brackets where it is too long."""
    if len(pad) + len(text) <= WIDTH or "(" not in text:
        return [pad + text]
    begin, end = _longest_brackets(text)
    if end - begin < 20:
        return [pad + text]
    inner = _split(text[begin + 1 : end])
    # A comma behind a single item would make a tuple of what is only grouped.
    called = begin > 0 and (text[begin - 1].isalnum() or text[begin - 1] in "_)]")
    comma = "," if len(inner) > 1 or called or text[begin + 1 : end].rstrip().endswith(",") else ""
    middle = [line for item in inner for line in _wrapped(pad + "    ", f"{item}{comma}")]
    return [pad + text[: begin + 1], *middle, *_wrapped(pad, text[end:])]


def _longest_brackets(text: str) -> tuple[int, int]:
    """The widest pair of outermost round brackets."""
    best, depth, begin = (0, 0), 0, 0
    for place, character in enumerate(text):
        if character in "([{":
            if depth == 0:
                begin = place
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0 and text[begin] == "(" and place - begin > best[1] - best[0]:
                best = (begin, place)
    return best


def _split(text: str) -> list[str]:
    """The arguments of a call: split at commas outside all brackets, and not in the head of a lambda."""
    items, depth, start, in_lambda = [], 0, 0, False
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and text.startswith("lambda ", place):
            in_lambda = True
        elif depth == 0 and character == ":":
            in_lambda = False
        elif depth == 0 and character == "," and not in_lambda:
            items.append(text[start:place].strip())
            start = place + 1
    rest = text[start:].strip()
    return [*items, rest] if rest else items
