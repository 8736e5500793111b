"""Where a verb writes: results to stdout, everything else to stderr; one JSON document where that was asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Timer
from typing import TextIO

from bilevel.errors import Diagnostic

RED, YELLOW, BOLD, PLAIN = "\033[1;31m", "\033[1;33m", "\033[1m", "\033[0m"


@dataclass(frozen=True, slots=True)
class Console:
    """What the user asked for: `json` for one document on stdout, `plain` for no colour and no moving line."""

    json: bool = False
    plain: bool = False

    def result(self, text: str) -> None:
        """Text on stdout, with one line break at its end."""
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")

    def document(self, content: Mapping[str, object]) -> None:
        """One JSON document on stdout."""
        sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def say(self, text: str) -> None:
        """A line on stderr."""
        sys.stderr.write(f"{text}\n")

    def next(self, command: str, why: str) -> None:
        """The next likely command, for a person who reads along."""
        if not self.json:
            self.say(f"next: {command:<40}  {why}")

    def diagnostics(self, found: Sequence[Diagnostic]) -> None:
        """Messages on stderr, an empty line between them."""
        if found:
            self.say("\n\n".join(self._coloured(diagnostic) for diagnostic in found))

    def failed(self, found: Sequence[Diagnostic]) -> None:
        """The end of a verb that cannot go on: its messages, in the form that was asked for."""
        if self.json:
            self.document({"ok": False, "diagnostics": [diagnostic.to_json() for diagnostic in found]})
            return
        self.diagnostics(found)
        codes = list(dict.fromkeys(d.code for d in found if d.severity == "error"))
        if codes:
            self.next(f"bilevel explain {codes[0]}", "more about this message")

    def misused(self, message: str) -> None:
        """Wrong usage, or a fault of our own: a message that has no code."""
        if self.json:
            self.document({"ok": False, "diagnostics": [], "message": message})
        else:
            self.say(f"error: {message}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows on stdout, their columns aligned; the last column may be long."""
        for line in aligned([columns, *rows]) if columns else aligned(list(rows)):
            self.result(line)

    def colours(self, stream: TextIO) -> bool:
        """Whether colour is welcome on a stream."""
        return not self.plain and not os.environ.get("NO_COLOR") and stream.isatty()

    def _coloured(self, diagnostic: Diagnostic) -> str:
        text = str(diagnostic)
        if not self.colours(sys.stderr):
            return text
        head, colon, rest = text.partition(": ")
        first, line, more = rest.partition("\n")
        colour = RED if diagnostic.severity == "error" else YELLOW
        return f"{colour}{head}{PLAIN}{BOLD}{colon}{first}{PLAIN}{line}{more}"


PATIENCE = 2.0
"""seconds of silence after which a person wonders"""

PLANNING = "{}: building its parts, and counting what every mode costs on tensors without numbers"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line on stderr if what follows takes longer than a moment."""
    told = Timer(PATIENCE, sys.stderr.write, [f"{text}\n"])
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with their columns below each other."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
