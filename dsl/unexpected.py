"""Message B100: everything in a broken text that has no message of its own.

Slips of the pen that are easily told (`**`, `;`, a bracket too few) first, then what was found and what could stand
there instead, in words of the language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bilevel.dsl.nearest import nearest
from bilevel.dsl.recovery import Mistake, Trouble, spelling
from bilevel.dsl.statements import FOLLOWERS, LEADERS, LEVEL_KEYWORDS, TOP_KEYWORDS, is_dangling
from bilevel.dsl.tables import grammar
from bilevel.dsl.tokens import CLOSING, OPENING, Token
from bilevel.errors import Diagnostic, Edit, Related, Span


def unexpected(trouble: Trouble) -> Mistake:
    """The best that can be said about this place."""
    for detect in DETECTORS:
        if mistake := detect(trouble):
            return mistake
    return _generic(trouble)


def _b100(
    trouble: Trouble,
    message: str,
    place: Span,
    label: str = "",
    why: str = "",
    fix: str = "",
    edit: str | None = None,
    related: tuple[Related, ...] = (),
) -> Diagnostic:
    """A message whose `edit`, if there is one, replaces its place."""
    change = None if edit is None else Edit(place, edit)
    return Diagnostic("B100", message, place, label, related, why, fix, edit=change)


# ---- wrong characters ----------------------------------------------------------------------------------------

SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "—": "-", "…": "..", "“": '"', "”": '"', "∼": "~"}


def wrong_character(trouble: Trouble) -> Mistake | None:
    """Signs that are not in the language."""
    token = trouble.found
    if token is None or token.kind != "bad":
        return None
    place, rest = trouble.span(token), ((token.start, token.end, " "),)
    if token.text == '"':
        return _open_string(trouble, token)
    if token.text == ";":
        return Mistake(_b100(trouble, "statements need no `;`", place, fix="remove it", edit=""), rest)
    if token.text == "'":
        return _single_quotes(trouble, token)
    if token.text in SIGNS:
        sign = SIGNS[token.text]
        message = f"`{token.text}` is not a sign of the language"
        diagnostic = _b100(trouble, message, place, f"did you mean `{sign}`?", fix=f"write `{sign}`", edit=sign)
        return Mistake(diagnostic, ((token.start, token.end, sign),) if len(sign) == 1 and sign != '"' else ())
    return Mistake(_b100(trouble, f"`{token.text}` is not a sign of the language", place))


def _single_quotes(trouble: Trouble, token: Token) -> Mistake:
    message, text = "texts stand in double quotes", trouble.text
    end = text.find("'", token.end)
    inside = text[token.end : end] if end >= 0 else "\n"
    if set(inside) & set('"\n'):
        return Mistake(_b100(trouble, message, trouble.span(token), fix='write "text"'))
    place, fixed = Span(trouble.source, token.start, end + 1), f'"{inside}"'
    return Mistake(_b100(trouble, message, place, fix=f"write {fixed}", edit=fixed), ((token.start, end + 1, fixed),))


def _open_string(trouble: Trouble, token: Token) -> Mistake:
    end = trouble.text.find("\n", token.start)
    end = len(trouble.text) if end < 0 else end
    place = Span(trouble.source, token.start, end)
    diagnostic = _b100(
        trouble, "this text is never closed", place, '`"` is missing', fix='close it with `"` on its line'
    )
    return Mistake(diagnostic, ((trouble.own[0].start if trouble.own else token.start, end, ""),))


# ---- brackets ------------------------------------------------------------------------------------------------


def bracket(trouble: Trouble) -> Mistake | None:
    """Brackets of the statement that do not match."""
    opened: list[Token] = []
    for token in trouble.own:
        if token.is_symbol("(", "["):
            opened.append(token)
        elif token.is_symbol(")", "]"):
            if not opened:
                return Mistake(
                    _b100(trouble, f"this `{token.text}` closes nothing", trouble.span(token), fix="remove it")
                )
            if opened[-1].text != CLOSING[token.text]:
                return _wrong_closing(trouble, opened[-1], token)
            opened.pop()
    if not opened:
        return None
    sign = OPENING[opened[-1].text]
    place = trouble.span(opened[-1])
    return Mistake(_b100(trouble, f"this `{opened[-1].text}` is never closed", place, fix=f"add `{sign}`"))


def _wrong_closing(trouble: Trouble, opening: Token, closing: Token) -> Mistake:
    sign = OPENING[opening.text]
    related = (Related(trouble.span(opening), "opened here"),)
    message = f"`{opening.text}` is closed by `{closing.text}`"
    place = trouble.span(closing)
    diagnostic = _b100(trouble, message, place, f"expected `{sign}`", fix=f"write `{sign}`", related=related)
    return Mistake(diagnostic)


# ---- slips ---------------------------------------------------------------------------------------------------


def slip(trouble: Trouble) -> Mistake | None:
    """Habits of other languages: `**`, `//`, `.5`, a comma before a bracket."""
    token = trouble.found
    before = trouble.tokens[trouble.stop - 1] if trouble.stop else None
    if token is None or before is None:
        return None
    after = trouble.tokens[trouble.stop + 1] if trouble.stop + 1 < len(trouble.tokens) else None
    if token.is_symbol("*") and before.is_symbol("*") and before.end == token.start:
        return _power(trouble, before, token)
    if token.is_symbol("/") and before.is_symbol("/") and before.end == token.start:
        return _comment(trouble, before)
    if token.is_symbol("/") and after is not None and after.is_symbol("/") and token.end == after.start:
        return _comment(trouble, token)
    if token.is_symbol(".") and after is not None and after.kind == "number" and after.start == token.end:
        diagnostic = _b100(trouble, "a number begins with a digit", trouble.span(token, after), fix=f"0.{after.text}")
        edit = Edit(trouble.span(token), "0.")
        return Mistake(_with_edit(diagnostic, edit), ((token.start, token.end, " "),))
    if token.is_symbol(")", "]") and before.is_symbol(","):
        diagnostic = _b100(trouble, "one comma too many", trouble.span(before), fix="remove it", edit="")
        return Mistake(diagnostic, ((before.start, before.end, " "),))
    return None


def _with_edit(diagnostic: Diagnostic, edit: Edit) -> Diagnostic:
    return Diagnostic(diagnostic.code, diagnostic.message, diagnostic.span, fix=diagnostic.fix, edit=edit)


def _power(trouble: Trouble, first: Token, second: Token) -> Mistake:
    place = trouble.span(first, second)
    diagnostic = _b100(trouble, "powers are written with `^`", place, fix="x^2", edit="^")
    return Mistake(diagnostic, ((first.start, second.end, "^"),))


def _comment(trouble: Trouble, token: Token) -> Mistake:
    end = trouble.text.find("\n", token.start)
    place = Span(trouble.source, token.start, token.start + 2)
    diagnostic = _b100(trouble, "comments begin with `#`", place, fix="# ...", edit="#")
    return Mistake(diagnostic, ((token.start, end if end >= 0 else len(trouble.text), ""),))


def unfinished(trouble: Trouble) -> Mistake | None:
    """A statement that stops in the middle, noticed only in the next one."""
    own = trouble.own
    if not own or trouble.stop < trouble.statement.last or not is_dangling(own[-1]):
        return None
    place = trouble.span(own[-1])
    label = f"the {'value' if trouble.context == 'value' else 'statement'} ends here"
    return Mistake(_b100(trouble, f"something is missing after `{own[-1].text}`", place, label))


# ---- the wrong place -----------------------------------------------------------------------------------------


def wrong_place(trouble: Trouble) -> Mistake | None:
    """A statement of the top inside a level, or the other way round."""
    own, context = trouble.own, trouble.statement.context
    if not own or own[0].kind != "name" or trouble.stop > trouble.statement.first + 2:
        return None
    word, place = own[0].text, trouble.span(own[0])
    if word == "recipe" and trouble.statement.first > 0:
        why = "a file holds one recipe, and its name comes first"
        return Mistake(_b100(trouble, "a second `recipe` in this file", place, why=why, fix="move it to its own file"))
    if context == "level" and word in TOP_KEYWORDS and word not in LEVEL_KEYWORDS:
        fix = "move it out of the braces"
        return Mistake(_b100(trouble, f"`{word}` stands at the top of a recipe, not inside a level", place, fix=fix))
    if context == "top" and word in LEVEL_KEYWORDS and word not in TOP_KEYWORDS:
        fix = "level NAME { ... }"
        return Mistake(_b100(trouble, f"`{word}` stands inside a level", place, "not inside a level here", fix=fix))
    if context == "top" and len(own) > 1 and own[1].is_symbol(":", "~") and word not in LEADERS:
        sort = "variables" if own[1].text == ":" else "draws"
        fix = "level NAME { ... }"
        return Mistake(_b100(trouble, f"{sort} are declared inside a level", trouble.span(own[0], own[1]), fix=fix))
    return None


def wrong_sign(trouble: Trouble) -> Mistake | None:
    """`=` where a level or a schedule wants `:`."""
    own, context = trouble.own, trouble.statement.context
    token = trouble.found
    if token is None or not token.is_symbol("=") or len(own) < 2 or own[1] != token or own[0].text in LEADERS:
        return None
    name = own[0].text
    if context == "schedule":
        diagnostic = _b100(
            trouble, "lines of a schedule use `:`, not `=`", trouble.span(token), fix=f"{name} : ...", edit=":"
        )
        return Mistake(diagnostic, ((token.start, token.end, ":"),))
    if context != "level":
        return None
    why = "`:` declares a variable, `~` a draw, and `let` a definition"
    fix = f"let {trouble.written(own[0], own[-1])}" if len(own) > 2 else f"let {name} = ..."
    return Mistake(_b100(trouble, f"`{name} =` is not a statement", trouble.span(own[0], token), why=why, fix=fix))


# ---- anything else -------------------------------------------------------------------------------------------

_EXPRESSION = frozenset({"NAME", "NUMBER", "STRING", "LPAR", "LSQB", "MINUS", "REDUCE"})
_OPERATOR = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX", "AT", "DOT", "LSQB", "LPAR"})
_STATEMENT = frozenset({"EACH", "LET", "LEVEL", "SENSE", "BY", "REPORT", "NAME", "USE", "PARAM", "IMPORT", "SCHEDULE"})
_GROUPS = (
    (frozenset({"NUMBER", "LPAR"}), _EXPRESSION, "an expression"),
    (frozenset({"PLUS"}), _OPERATOR, "an operator"),
    (frozenset({"SENSE", "REPORT"}), _STATEMENT, "a new statement"),
    (frozenset({"USE", "PARAM"}), _STATEMENT, "a new statement"),
)
_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a text in quotes",
    "UNIT": "a unit (steps, epochs, generations)",
    "SENSE": "`minimize`",
    "REDUCE": "a sum",
    "$END": "the end of the file",
}


def expected(accepts: frozenset[str]) -> list[str]:
    """What could stand at a place, in words of the language."""
    words: list[str] = []
    rest = set(accepts)
    for sign, group, word in _GROUPS:
        if sign <= rest and word not in words:
            words.append(word)
            rest -= group
    if "a new statement" in words:
        words.remove("a new statement")
        rest -= {"$END"}
        return [*words, *_spelled(rest), "a new statement"]
    return [*words, *_spelled(rest)]


def _spelled(terminals: set[str]) -> list[str]:
    texts = {terminal.name: spelling(terminal) for terminal in grammar().terminals}
    keywords = [_WORDS.get(name) or f"`{texts.get(name) or name.lower()}`" for name in terminals]
    return sorted(keywords, key=lambda word: (not word.startswith("a "), word))


def keyword_slip(trouble: Trouble) -> Mistake | None:
    """`fro 5 steps`: a word that nearly is one of those that could stand here, or just before."""
    here = [
        text for terminal in grammar().terminals if terminal.name in trouble.accepts and (text := spelling(terminal))
    ]
    before = trouble.tokens[trouble.stop - 1] if trouble.stop > trouble.statement.first else None
    for token, known in ((trouble.found, here), (before, FOLLOWERS)):
        if token is None or token.kind != "name" or token.text in known:
            continue
        words = sorted(text for text in known if text.isalpha() and text not in LEADERS)
        if near := nearest(token.text, words, limit=2 if len(token.text) > 3 else 1):
            return _misspelt(trouble, token, near)
    return None


def _misspelt(trouble: Trouble, token: Token, near: str) -> Mistake:
    place = trouble.span(token)
    diagnostic = _b100(
        trouble, f"`{token.text}` cannot stand here", place, f"did you mean `{near}`?", fix=near, edit=near
    )
    fits = len(near) <= token.end - token.start
    return Mistake(diagnostic, ((token.start, token.end, near),) if fits else ())


def _generic(trouble: Trouble) -> Mistake:
    words = expected(trouble.accepts - {"$END"} if trouble.context == "value" else trouble.accepts)
    label = f"expected {_listed(words)}" if 0 < len(words) <= 6 else ""
    token = trouble.found
    if (extra := _taken_for_a_statement(trouble)) is not None:
        label = "an operator or a keyword is missing before this"
        return Mistake(_b100(trouble, f"`{extra.text}` cannot stand here", trouble.span(extra), label))
    if token is not None:
        return Mistake(_b100(trouble, f"`{token.text}` cannot stand here", trouble.span(token), label))
    what = "value" if trouble.context == "value" else "file"
    if not trouble.tokens:  # a comment and nothing else
        whole = Span(trouble.source, 0, len(trouble.source.text))
        return Mistake(_b100(trouble, f"there is no {what} here", whole, label))
    last = trouble.tokens[-1]
    return Mistake(_b100(trouble, f"the {what} ends in the middle of a statement", trouble.span(last), label))


def _taken_for_a_statement(trouble: Trouble) -> Token | None:
    """In `minimize a b * c` the parser takes `b` for a new statement and stops only after it."""
    i = trouble.stop - 1
    texts = _spelled(set(trouble.accepts))
    if not (trouble.statement.first < i < trouble.statement.last and set(texts) <= {"`:`", "`~`", "`,`", "`=`", "`.`"}):
        return None
    token = trouble.tokens[i]
    return token if token.kind == "name" and token.text not in LEADERS else None


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


DETECTORS: tuple[Callable[[Trouble], Mistake | None], ...] = (
    wrong_character,
    slip,
    bracket,
    wrong_place,
    wrong_sign,
    unfinished,
    keyword_slip,
)
