"""What goes wrong, told to the user: places, diagnostics, and their text.

Takes no part in deciding what is an error; every stage makes `Diagnostic`s and raises one `RecipeError` with all
of them. Imports nothing heavy, so that a message costs no start-up time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class Source:
    """A text with a name: a recipe file, a string given from Python, or the command line."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def line_starts(self) -> list[int]:
        return [0, *(i + 1 for i, c in enumerate(self.text) if c == "\n")]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character offset, both counted from 1."""
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of line `number`, counted from 1, without its line break."""
        return self.text.split("\n")[number - 1].rstrip("\r")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (excluded) of a source."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def to(self, other: Span) -> Span:
        """From the start of this span to the end of `other`, which lies in the same source."""
        return Span(self.source, min(self.start, other.start), max(self.end, other.end))


NOWHERE = Span(Source("", ""), 0, 0)


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that a message points at, underlined with dashes."""

    span: Span
    label: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the user's text that is certain to be right: replace `span` by `text`."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message: code, what is wrong, where, and what to do.

    `why` and `fix` may have several lines. `span` is None for what has no place in a recipe (a missing file).
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    related: tuple[Related, ...] = ()
    why: str = ""
    fix: str = ""
    note: str = ""
    edit: Edit | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        from bilevel.render import render

        return render(self)

    def to_json(self) -> dict[str, object]:
        """Plain data with a fixed set of keys, lines and columns counted from 1."""
        place = None if self.span is None else _place(self.span)
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "place": place,
            "label": self.label,
            "related": [{**_place(r.span), "label": r.label} for r in self.related],
            "why": self.why,
            "fix": self.fix,
            "note": self.note,
        }


def _place(span: Span) -> dict[str, object]:
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {"file": span.source.name, "line": line, "column": column, "end_line": end_line, "end_column": end_column}


class RecipeError(Exception):
    """All diagnostics of one stage; `str()` is their text as a user reads it."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n\n".join(str(d) for d in self.diagnostics))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from bilevel.display import error_bundle

        return error_bundle(self)

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback: the mistake is in the recipe, not in Python."""
        return str(self).splitlines()


SCRIPTED = "RuntimeError: KeyboardInterrupt:"
"""what TorchScript, which runs some of torch's forward derivatives, makes of an interruption: an error, its cause as text"""


def pass_on(error: BaseException) -> None:
    """Raise KeyboardInterrupt where an error came of one, to be called wherever an error becomes a mere reason.

    While torch unwinds what Ctrl-C has cut short, its own checks may fail, and their error takes the place of the
    interruption; what goes on from there computes with what was left half done.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, KeyboardInterrupt) or SCRIPTED in str(one):
            raise KeyboardInterrupt from error
        seen.add(id(one))
        waiting += [e for e in (one.__context__, one.__cause__) if e is not None and id(e) not in seen]


def fail(code: str, message: str, span: Span | None = None, **details: object) -> RecipeError:
    """A `RecipeError` with one diagnostic, to be raised; `details` are the other fields of `Diagnostic`."""
    return RecipeError([Diagnostic(code, message, span, **details)])  # type: ignore[arg-type]
