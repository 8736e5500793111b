"""Where statements begin and end in a text that does not parse.

The grammar needs no terminators, so in a broken text the borders are guessed: from keywords, from `name :` and
`name ~`, from braces and from line breaks. Only messages and recovery rest on the guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bilevel.dsl.nearest import nearest
from bilevel.dsl.tokens import Token

Context = Literal["top", "level", "schedule", "value"]

TOP_KEYWORDS = ("use", "param", "let", "import", "level", "schedule")
LEVEL_KEYWORDS = ("minimize", "maximize", "by", "each", "let", "level", "report")
LEADERS = frozenset(("recipe", *TOP_KEYWORDS, *LEVEL_KEYWORDS))
FOLLOWERS = frozenset(("for", "until", "within", "with", "every", "then", "from", "in", "extends"))
OPERATORS = ("=", ":", "~", ",", "+", "-", "*", "/", "^", "@", ".", "..")

_PYTHON_IMPORT = re.compile(r"\s*from\s+[\w.]+\s+import\b")


@dataclass(frozen=True)
class Statement:
    """Tokens `first` to `last` (excluded), without the braces around; `opens` where a block follows."""

    first: int
    last: int
    context: Context
    opens: bool = False


def split(tokens: Sequence[Token], text: str) -> list[Statement]:
    """The statements of `tokens` in order; the first is the header."""
    statements: list[Statement] = []
    blocks: list[Context] = []
    first: int | None = None
    depth = 0
    header = _header_length(tokens)
    for i, token in enumerate(tokens):
        brace = token.is_symbol("{", "}")
        if first is not None and (brace or i == header or _starts(tokens, i, text, depth)):
            statements.append(Statement(first, i, blocks[-1] if blocks else "top", token.is_symbol("{")))
            first, depth = None, 0
        if brace:
            _enter_or_leave(token, blocks, tokens, statements)
            continue
        first = i if first is None else first
        depth += token.is_symbol("(", "[")
        depth = max(0, depth - token.is_symbol(")", "]"))
    if first is not None:
        statements.append(Statement(first, len(tokens), blocks[-1] if blocks else "top"))
    return statements


def _header_length(tokens: Sequence[Token]) -> int:
    if not tokens or not tokens[0].is_word("recipe"):
        return 0
    return 4 if len(tokens) > 2 and tokens[2].is_word("extends") else 2


def _enter_or_leave(
    token: Token, blocks: list[Context], tokens: Sequence[Token], statements: Sequence[Statement]
) -> None:
    if token.text == "}":
        if blocks:
            blocks.pop()
        return
    header = statements[-1] if statements and statements[-1].opens else None
    word = tokens[header.first].text if header else ""
    is_schedule = word == "schedule" or nearest(word, ("level", "schedule")) == "schedule"
    blocks.append("schedule" if is_schedule else "level")


def _starts(tokens: Sequence[Token], i: int, text: str, depth: int) -> bool:
    """Whether token `i` begins a statement, the token before it being no brace."""
    token, before = tokens[i], tokens[i - 1]
    if token.kind != "name" or before.is_symbol("."):
        return False
    after = tokens[i + 1] if i + 1 < len(tokens) else None
    new_line = is_first_on_line(token, text)
    if token.text in {"from", "import"} and _PYTHON_IMPORT.match(line_of(token.start, text)):
        return new_line
    if token.text in LEADERS:
        argument = before.is_symbol("=", "(", ",") or (after is not None and after.is_symbol("=", ",", ")"))
        return new_line if depth else new_line or not argument
    if depth and not new_line:
        return False
    dangling = before.is_symbol(*OPERATORS, "(", "[") or before.is_word(*LEADERS, *FOLLOWERS)
    if dangling or token.text in FOLLOWERS:
        return False
    if after is not None and after.is_symbol(":", "~"):
        return True
    return new_line and not depth


def is_first_on_line(token: Token, text: str) -> bool:
    """Whether only white space stands before the token on its line."""
    return not text[text.rfind("\n", 0, token.start) + 1 : token.start].strip()


def line_of(offset: int, text: str) -> str:
    """The line that holds the character at `offset`."""
    end = text.find("\n", offset)
    return text[text.rfind("\n", 0, offset) + 1 : end if end >= 0 else len(text)]


def indentation(offset: int, text: str) -> int:
    """How far the line of `offset` is indented."""
    line = line_of(offset, text)
    return len(line) - len(line.lstrip(" \t"))


def is_dangling(token: Token) -> bool:
    """Whether something must follow this token within its statement."""
    return token.is_symbol(*OPERATORS) or token.is_word(*LEADERS, *FOLLOWERS)
