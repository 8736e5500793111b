"""The text of a diagnostic, as `messages.md` of the design lays it out: place, the user's own lines, why, fix.

Takes one `Diagnostic` and gives plain text without colour and without a line break at the end. Equal diagnostics
give equal texts. What a user wrote is shown safely: tabs become spaces, control characters a replacement mark.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from bilevel.errors import Diagnostic, Source, Span

TAB = 4
WIDEST = 160
"""Columns of a line of the user's text; longer ones are cut around the place they are shown for."""


_CODE = re.compile(r'(?:"[^"]*"|[^"#])*')


@dataclass(frozen=True)
class Mark:
    """One underlined place: `sign` is `^` for the place of the message and `-` for a related one."""

    span: Span
    sign: str
    label: str

    @property
    def line(self) -> int:
        return self.span.line


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic as a user reads it."""
    lines = [f"{diagnostic.severity}[{diagnostic.code}]: {_safe(diagnostic.message)}"]
    marks = _marks(diagnostic)
    gutter = max(2, *(len(str(mark.line)) for mark in marks)) if marks else 2
    details = _details(diagnostic, gutter)
    if diagnostic.span is not None:
        lines += _places(marks, diagnostic.span, gutter)
        if details:
            lines.append(_bar(gutter))
    return "\n".join(lines + details)


def _marks(diagnostic: Diagnostic) -> list[Mark]:
    """All places of a message; the first is its own."""
    if diagnostic.span is None:
        return []
    related = [Mark(related.span, "-", related.label) for related in diagnostic.related]
    return [Mark(diagnostic.span, "^", diagnostic.label), *related]


# ---- places --------------------------------------------------------------------------------------------------


def _places(marks: list[Mark], main: Span, gutter: int) -> list[str]:
    """The file of the message and then, where other files are involved, each of those."""
    lines = [f"{' ' * gutter}--> {_safe(str(main))}", _bar(gutter)]
    lines += _excerpt([mark for mark in marks if mark.span.source == main.source], gutter)
    others: dict[Source, list[Mark]] = {}
    for mark in marks:
        if mark.span.source != main.source and mark.span.source.text:
            others.setdefault(mark.span.source, []).append(mark)
    for found in others.values():
        lines += [_bar(gutter), f"{' ' * gutter}::: {_safe(str(found[0].span))}", _bar(gutter)]
        lines += _excerpt(found, gutter)
    return lines


def _excerpt(marks: Iterable[Mark], gutter: int) -> list[str]:
    """The lines of one file that have marks, in order, with `...` where lines are left out."""
    lines: list[str] = []
    before: int | None = None
    by_line: dict[int, list[Mark]] = {}
    for mark in sorted(marks, key=lambda mark: (mark.span.start, mark.span.end)):
        by_line.setdefault(mark.line, []).append(mark)
    for number, found in by_line.items():
        if before is not None and number > before + 1:
            lines.append("...")
        before = number
        lines += _marked_line(number, found, gutter)
    return lines


def _marked_line(number: int, marks: list[Mark], gutter: int) -> list[str]:
    """One line of the user's text and, below it, one line for each of its marks."""
    source = marks[0].span.source
    start = source.line_starts[number - 1]
    ends = [min(mark.span.end, start + len(source.line(number))) - start for mark in marks]
    view = _View(_without_comment(source.line(number), max(ends)), marks[0].span.start - start)
    lines = [f"{number:>{gutter}} | {view.text}".rstrip()]
    for mark in marks:
        first, last = view.columns(mark.span.start - start, mark.span.end - start)
        lines.append(f"{_bar(gutter)} {' ' * first}{mark.sign * (last - first)} {_safe(mark.label)}".rstrip())
    return lines


def _without_comment(line: str, needed: int) -> str:
    """The line without the comment at its end, which says nothing about the mistake; all of it if a mark is there."""
    code = _CODE.match(line)
    length = code.end() if code else 0
    return line[:length] if line[:length].strip() and needed <= length else line


class _View:
    """A line as it is shown, and the columns at which its characters are shown."""

    def __init__(self, line: str, anchor: int) -> None:
        self.offsets = [0]
        shown: list[str] = []
        for character in line:
            piece = _shown(character, self.offsets[-1])
            shown.append(piece)
            self.offsets.append(self.offsets[-1] + sum(_width(part) for part in piece))
        self.cut = self._cut(line, anchor)
        self.text = "".join(shown).rstrip()
        if self.cut or self.offsets[-1] > WIDEST:
            last = max((i for i, offset in enumerate(self.offsets) if offset <= self.offsets[self.cut] + WIDEST))
            tail = "..." if last < len(line) else ""
            self.text = ("..." if self.cut else "") + "".join(shown[self.cut : last]).rstrip() + tail
            self.last = last
        else:
            self.last = len(line)

    def _cut(self, line: str, anchor: int) -> int:
        """How many characters of a very long line are left out before the place."""
        if self.offsets[-1] <= WIDEST or anchor < WIDEST // 2:
            return 0
        return min(anchor, len(line)) - WIDEST // 4

    def columns(self, start: int, end: int) -> tuple[int, int]:
        """Where characters `start` to `end` of the line begin and end on the screen; at least one column."""
        shift = 3 - self.offsets[self.cut] if self.cut else 0
        start = max(self.cut, min(start, self.last))
        first = self.offsets[start]
        last = self.offsets[max(start, min(end, self.last))]
        return first + shift, max(last, first + 1) + shift


def _shown(character: str, column: int) -> str:
    if character == "\t":
        return " " * (TAB - column % TAB)
    return "\ufffd" if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else character


def _width(character: str) -> int:
    """Columns of a character in a terminal."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def _safe(text: str) -> str:
    """Text that may hold a user's words, without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _bar(gutter: int) -> str:
    return f"{' ' * gutter} |"


# ---- why, fix, note ------------------------------------------------------------------------------------------


def _details(diagnostic: Diagnostic, gutter: int) -> list[str]:
    lines: list[str] = []
    for word, text in (("why", diagnostic.why), ("fix", diagnostic.fix), ("note", diagnostic.note)):
        head = f"{' ' * gutter} = {word}: "
        for i, part in enumerate(text.split("\n") if text else ()):
            lines.append(f"{head if i == 0 else ' ' * len(head)}{_safe(part)}".rstrip())
    return lines
