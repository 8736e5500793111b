"""Fitting text into a width: documents with places where a line may be broken, and how to print them.

A document is a string, a tuple of documents, or one of the classes below. A group is printed on one line where it
fits; otherwise all of its own breaks become line breaks (the method of Oppen and Wadler).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Break:
    """A place where the line may be broken; `flat` is what stands there when it is not."""

    flat: str = " "


@dataclass(frozen=True, slots=True)
class Nest:
    """Lines begun inside are indented by four more columns."""

    body: Document


@dataclass(frozen=True, slots=True)
class Group:
    """Printed on one line if it fits."""

    body: Document


Document = str | Break | Nest | Group | tuple["Document", ...]

STEP = 4


def join(parts: Iterable[Document], separator: Document) -> Document:
    """The parts with `separator` between them."""
    joined: list[Document] = []
    for part in parts:
        joined += [separator, part] if joined else [part]
    return tuple(joined)


def bracketed(opening: str, parts: Iterable[Document], closing: str) -> Document:
    """A list in brackets, on one line or with each part on a line of its own."""
    listed = tuple(parts)
    if not listed:
        return opening + closing
    return Group((opening, Nest((Break(""), join(listed, (",", Break())))), Break(""), closing))


def flat(document: Document) -> str:
    """The document on one line, however long."""
    return fit(document, width=None)


def fit(document: Document, width: int | None, indent: int = 0, used: int | None = None) -> str:
    """The document in at most `width` columns where that is possible, without the indentation of its first line.

    `used` columns of the first line are taken already.
    """
    out: list[str] = []
    column = indent if used is None else used
    waiting: list[tuple[int, bool, Document]] = [(indent, False, document)]
    while waiting:
        depth, broken, part = waiting.pop()
        match part:
            case str():
                out.append(part)
                column += len(part)
            case Break():
                out.append(f"\n{' ' * depth}" if broken else part.flat)
                column = depth if broken else column + len(part.flat)
            case Nest():
                waiting.append((depth + STEP, broken, part.body))
            case Group():
                breaks = width is not None and not _fits(part.body, width - column, waiting)
                waiting.append((depth, breaks, part.body))
            case _:
                waiting.extend((depth, broken, piece) for piece in reversed(part))
    return "".join(line.rstrip(" ") + "\n" for line in "".join(out).split("\n"))[:-1]


def _fits(document: Document, room: int, after: list[tuple[int, bool, Document]]) -> bool:
    """Whether `document` on one line, and what follows it up to the next line break, needs at most `room` columns."""
    waiting: list[tuple[bool, Document]] = [(broken, part) for _, broken, part in after]
    waiting.append((False, document))
    while waiting and room >= 0:
        broken, part = waiting.pop()
        match part:
            case str():
                room -= len(part)
            case Break():
                if broken:
                    return True
                room -= len(part.flat)
            case Nest() | Group():
                waiting.append((broken and isinstance(part, Nest), part.body))
            case _:
                waiting.extend((broken, piece) for piece in reversed(part))
    return room >= 0
