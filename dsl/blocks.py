"""Messages about braces: blocks that are never closed (B105), never opened, or closed twice."""

from __future__ import annotations

from bilevel.dsl.recovery import Mistake, Trouble
from bilevel.dsl.statements import Statement, indentation, is_first_on_line
from bilevel.dsl.tokens import Token
from bilevel.errors import Diagnostic, Edit, Span


def missing_brace(trouble: Trouble) -> Mistake | None:
    """`level adapt` without a block."""
    for statement in trouble.statements:
        tokens = trouble.tokens[statement.first : statement.last]
        header = tokens[0].is_word("level") and [token.kind for token in tokens] == ["name", "name"]
        header = header or (tokens[0].is_word("schedule") and len(tokens) == 1)
        if header and not statement.opens:
            return _not_opened(trouble, tokens[0], tokens[-1])
    return None


def _not_opened(trouble: Trouble, first: Token, last: Token) -> Mistake:
    written = trouble.written(first, last)
    diagnostic = Diagnostic(
        "B100",
        f"`{written}` needs a block",
        trouble.span(first, last),
        "`{` is missing after this",
        fix=f"{written} {{",
        edit=Edit(Span(trouble.source, last.end, last.end), " {"),
    )
    if last.end < len(trouble.text):
        return Mistake(diagnostic, ((last.end, last.end + 1, "{"),))
    return Mistake(diagnostic, append=" {")


def extra_brace(trouble: Trouble) -> Mistake | None:
    """A `}` too many: the first that stands where it does not belong, or else the one that closes nothing."""
    depth = 0
    for token in trouble.tokens:
        depth += token.is_symbol("{") - token.is_symbol("}")
        if depth < 0:
            brace = _displaced_brace(trouble) or token
            label, fix = "one too many", "remove it, or open the block it belongs to"
            diagnostic = Diagnostic("B100", "this `}` closes nothing", trouble.span(brace), label, fix=fix)
            return Mistake(diagnostic, ((brace.start, brace.end, " "),))
    return None


def _displaced_brace(trouble: Trouble) -> Token | None:
    """The first `}` that is not indented like the line of its `{`."""
    opened: list[Token] = []
    for token in trouble.tokens:
        if token.is_symbol("{"):
            opened.append(token)
        elif token.is_symbol("}"):
            if not opened:
                return token
            if _is_displaced(opened.pop(), token, trouble.text):
                return token
    return None


def _is_displaced(opening: Token, closing: Token, text: str) -> bool:
    if "\n" not in text[opening.end : closing.start]:
        return False
    first = is_first_on_line(closing, text)
    return not first or indentation(opening.start, text) != indentation(closing.start, text)


def unclosed_block(trouble: Trouble) -> Mistake | None:
    """A `{` without its `}`: the one that the indentation tells of, or else the innermost one."""
    opened: list[int] = []
    for i, token in enumerate(trouble.tokens):
        if token.is_symbol("{"):
            opened.append(i)
        elif token.is_symbol("}") and opened:
            opened.pop()
    if not opened:
        return None
    for i, token in enumerate(trouble.tokens):
        if token.is_symbol("{") and (after := _left_by_indentation(trouble, i)):
            return _not_closed(trouble, i, after)
    return _not_closed(trouble, opened[-1], None)


def _left_by_indentation(trouble: Trouble, brace: int) -> int | None:
    """The first token after the block by its indentation, if no `}` stands there or before."""
    tokens, text = trouble.tokens, trouble.text
    header = _header(trouble, brace)
    if header is None or not is_first_on_line(tokens[header.first], text):
        return None
    own = indentation(tokens[header.first].start, text)
    depth = 0
    for i in range(brace, len(tokens)):
        depth += tokens[i].is_symbol("{") - tokens[i].is_symbol("}")
        if depth == 0:
            return None
        if i > brace and is_first_on_line(tokens[i], text) and indentation(tokens[i].start, text) <= own:
            return None if tokens[i].is_symbol("}") else i
    return None


def _header(trouble: Trouble, brace: int) -> Statement | None:
    return next((s for s in trouble.statements if s.opens and s.last == brace), None)


def _not_closed(trouble: Trouble, brace: int, after: int | None) -> Mistake:
    tokens, source = trouble.tokens, trouble.source
    written = [token for token in tokens if token.start < len(source.text)]
    last = written[-1] if after is None else tokens[after - 1]
    last_line = source.position(last.start)[0]
    why = "the end of the file was reached inside this block"
    if after is not None:
        why += "; the next line indented like\nits parent is line " + str(source.position(tokens[after].start)[0])
    diagnostic = Diagnostic(
        "B105",
        f"{_called(trouble, brace)} is never closed",
        trouble.span(tokens[brace]),
        "opened here",
        why=why,
        fix=f"add `}}` after line {last_line}",
    )
    if after is None:
        return Mistake(diagnostic, append="\n}")
    gap = trouble.text[last.end : tokens[after].start]
    if not gap:
        return Mistake(diagnostic, append="\n}")
    return Mistake(diagnostic, ((last.end, tokens[after].start, " " * (len(gap) - 1) + "}"),))


def _called(trouble: Trouble, brace: int) -> str:
    header = _header(trouble, brace)
    words = trouble.tokens[header.first : header.last] if header else ()
    if not words:
        return "this block"
    return "the schedule" if words[0].is_word("schedule") else f"the level `{words[-1].text}`"
