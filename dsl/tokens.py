"""The words of a recipe, read without the grammar: for messages, for comments, and for limits checked before parsing.

Takes any text and never fails: what is no word is a token of kind `bad`. It does not tell keywords from names,
because in this language most words are keywords only where the grammar expects them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

OPENING = {"(": ")", "[": "]", "{": "}"}
CLOSING = {closing: opening for opening, closing in OPENING.items()}
REDUCERS = ("mean", "sum", "max", "min", "worst", "pcgrad")
UNITS = ("steps", "epochs", "generations")

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<string>"[^"\n]*")
      | (?P<number>[0-9][0-9_]*(\.[0-9][0-9_]*)?([eE][+-]?[0-9]+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<symbol>\.\.|[{}\[\]()=:~,.+\-*/^@])
      | (?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """One word: `kind` is name, number, string, symbol, comment or bad; `start` and `end` are character offsets."""

    kind: str
    text: str
    start: int
    end: int

    def is_symbol(self, *symbols: str) -> bool:
        """Whether this is one of the given signs, and not a string that spells it."""
        return self.kind == "symbol" and self.text in symbols

    def is_word(self, *words: str) -> bool:
        return self.kind == "name" and self.text in words


def scan(text: str, start: int = 0, end: int | None = None) -> Iterator[Token]:
    """All words of `text[start:end]` in order, comments included, white space left out."""
    for match in _TOKEN.finditer(text, start, len(text) if end is None else end):
        kind = match.lastgroup or "bad"
        if kind != "space":
            yield Token(kind, match.group(), match.start(), match.end())


def words(text: str, start: int = 0, end: int | None = None) -> list[Token]:
    """The words of `text[start:end]` without its comments."""
    return [token for token in scan(text, start, end) if token.kind != "comment"]


def normal(name: str) -> str:
    """One spelling for names that Unicode can write in several ways (NFKC)."""
    return str(name) if name.isascii() else unicodedata.normalize("NFKC", name)
