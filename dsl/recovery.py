"""All syntax errors of a text at once: explain the first, take it out of the text, and read the rest again.

What is taken out is replaced by as many blanks, so that every later place is a place in the user's own text. Line
breaks and braces stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from lark.exceptions import UnexpectedInput
from lark.lexer import PatternStr

from bilevel.dsl.statements import Context, Statement, is_dangling, split
from bilevel.dsl.tokens import Token, words
from bilevel.errors import Diagnostic, Source, Span

MOST_MISTAKES = 20


def most_mistakes(text: str) -> int:
    """How many mistakes are looked for; a long text is not read again twenty times, since the user waits."""
    return MOST_MISTAKES if len(text) < 50_000 else 3 if len(text) < 200_000 else 1


Change = tuple[int, int, str]


@dataclass(frozen=True)
class Mistake:
    """What is wrong, and how the text is changed to read on; without changes the statement is blanked."""

    diagnostic: Diagnostic
    changes: tuple[Change, ...] = ()
    append: str = ""


@dataclass(frozen=True)
class Trouble:
    """A text that does not parse: its words, where the parser stopped, and what it would have accepted there."""

    source: Source
    text: str
    tokens: Sequence[Token]
    stop: int  # index of the token that could not be read; the number of tokens at the end of the text
    accepts: frozenset[str]
    context: Context | None = field(default=None)

    @cached_property
    def statements(self) -> list[Statement]:
        return [Statement(0, len(self.tokens), "value")] if self.context == "value" else split(self.tokens, self.text)

    @cached_property
    def statement(self) -> Statement:
        """The statement at fault: the one before where the parser only noticed at the next that it was not over."""
        reached = [statement for statement in self.statements if statement.first <= self.stop]
        if not reached:
            return Statement(0, len(self.tokens), "top")
        statement = reached[-1]
        before = reached[-2] if len(reached) > 1 else None
        if before is not None and before.last == statement.first and self._is_unfinished(before, statement):
            return before
        return statement

    def _is_unfinished(self, before: Statement, statement: Statement) -> bool:
        """Whether `statement` could only not begin because the one before it had not ended."""
        complete = self.accepts & {"LET", "LEVEL", "RBRACE", "$END"}
        return is_dangling(self.tokens[before.last - 1]) or (self.stop == statement.first and not complete)

    @property
    def found(self) -> Token | None:
        """The token that could not be read; None at the end of the text."""
        return self.tokens[self.stop] if self.stop < len(self.tokens) else None

    @property
    def own(self) -> Sequence[Token]:
        """The tokens of the statement at fault."""
        return self.tokens[self.statement.first : self.statement.last]

    def span(self, first: Token, last: Token | None = None) -> Span:
        """From the start of one token to the end of another."""
        return Span(self.source, first.start, (last or first).end)

    def written(self, first: Token, last: Token) -> str:
        """The user's text from one token to another on one line, without comments."""
        inside = [token for token in self.tokens if first.start <= token.start and token.end <= last.end]
        parts = [inside[0].text]
        for before, token in pairwise(inside):
            parts.append((" " if token.start > before.end else "") + token.text)
        return "".join(parts)


def trouble(source: Source, text: str, error: UnexpectedInput, context: Context | None = None) -> Trouble:
    """The place where the parser stopped, in our own words."""
    tokens = words(text)
    where = getattr(error, "pos_in_stream", None)  # None at the end of the text
    offset = where if isinstance(where, int) and where >= 0 else len(text)
    stop = next((i for i, token in enumerate(tokens) if token.end > offset), len(tokens))
    parser = getattr(error, "interactive_parser", None)
    accepts = frozenset(parser.accepts()) if parser is not None else frozenset(getattr(error, "allowed", None) or ())
    if getattr(getattr(error, "token", None), "type", "") == "$END":
        stop = len(tokens)
    return Trouble(source, text, tokens, stop, accepts, context)


def recover(trouble: Trouble, mistake: Mistake) -> str:
    """The text to read on with."""
    if mistake.changes or mistake.append:
        return change(trouble.text, mistake.changes) + mistake.append
    return _without_statement(trouble)


def change(text: str, changes: Sequence[Change]) -> str:
    """The text with parts replaced by others, filled up with blanks to the same length; line breaks stay."""
    for start, end, new in changes:
        blank = "".join(c if c in "\r\n" else " " for c in text[start + len(new) : end])
        text = text[:start] + new + blank + text[start + len(new) + len(blank) :]
    return text


def _without_statement(trouble: Trouble) -> str:
    """The text with the statement blanked; a block whose header was at fault is kept as a block."""
    statement, tokens = trouble.statement, trouble.tokens
    if not tokens or statement.first >= len(tokens):
        return trouble.text
    start, end = tokens[statement.first].start, tokens[max(statement.first, statement.last - 1)].end
    if not statement.opens:
        return change(trouble.text, [(start, end, "")])
    header = "level _" if statement.context == "level" or tokens[statement.first].text != "schedule" else "schedule"
    if end - start >= len(header):
        return change(trouble.text, [(start, end, header)])
    return change(trouble.text, [(start, _block_end(trouble), "")])


def _block_end(trouble: Trouble) -> int:
    depth = 0
    for token in trouble.tokens[trouble.statement.last :]:
        depth += token.is_symbol("{") - token.is_symbol("}")
        if depth == 0:
            return token.end
    return len(trouble.text)


def spelling(terminal: object) -> str | None:
    """The text of a keyword or sign of the grammar; None for words of many texts."""
    pattern = getattr(terminal, "pattern", None)
    return pattern.value if isinstance(pattern, PatternStr) else None
