"""What a user probably meant by a text that does not parse: messages B101 to B108, B114 and B409.

Takes the text; the parser's error only tells where it stopped and what it would have accepted. Messages name the
words of the language, never those of the grammar file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lark.exceptions import UnexpectedInput

from bilevel.dsl import nodes
from bilevel.dsl.blocks import extra_brace, missing_brace, unclosed_block
from bilevel.dsl.build import build
from bilevel.dsl.checks import check_words
from bilevel.dsl.counters import counter_of_until
from bilevel.dsl.nearest import nearest
from bilevel.dsl.parse import stem
from bilevel.dsl.recovery import Mistake, Trouble, change, most_mistakes, recover, trouble
from bilevel.dsl.statements import LEADERS, LEVEL_KEYWORDS, TOP_KEYWORDS, Context
from bilevel.dsl.tables import grammar
from bilevel.dsl.tokens import REDUCERS, UNITS, Token, words
from bilevel.dsl.unexpected import unexpected
from bilevel.errors import Diagnostic, Edit, RecipeError, Source, Span

DERIVATIVE_FREE = ("cmaes", "pbt", "es", "random")


def explain(source: Source) -> list[Diagnostic]:
    """Every syntax error of a text that does not parse, in the order of their places."""
    found, text, start = _header(source)
    attempts = most_mistakes(text)
    while len(found) < attempts:
        try:
            tree = grammar().parse(text, start=start)
        except UnexpectedInput as error:
            place = trouble(source, text, error)
            mistake = find_mistake(place)
            found.append(mistake.diagnostic)
            before, text = text, recover(place, mistake)
            if text == before or not words(text):
                break
        else:
            found += _in_the_rest(tree, source)
            break
    return _in_order(found)


def explain_value(source: Source, error: UnexpectedInput) -> Diagnostic:
    """What is wrong with one value of the command line."""
    return find_mistake(trouble(source, source.text, error, "value")).diagnostic


def find_mistake(trouble: Trouble) -> Mistake:
    """The first explanation that fits."""
    for detect in () if trouble.context == "value" else BLOCKS:
        if mistake := detect(trouble):
            return mistake
    for detect in DETECTORS:
        if mistake := detect(trouble):
            return mistake
    return unexpected(trouble)


def _in_the_rest(tree: Any, source: Source) -> list[Diagnostic]:
    """Wrong words in what could be read at last."""
    try:
        built = build(tree, source)
    except RecipeError as error:
        return list(error.diagnostics)
    parts = [built] if isinstance(built, nodes.Node) else built
    return [problem for part in parts for problem in check_words(part)]


def _in_order(found: Sequence[Diagnostic]) -> list[Diagnostic]:
    unique = {(d.code, d.span.start if d.span else -1): d for d in reversed(found)}
    return sorted(unique.values(), key=lambda d: d.span.start if d.span else -1)


# ---- B114: the header ----------------------------------------------------------------------------------------


def _header(source: Source) -> tuple[list[Diagnostic], str, str]:
    """What is wrong with the first statement, the text without it, and the rule that reads that."""
    tokens = words(source.text)[:4]
    kinds = [token.kind for token in tokens]
    if tokens[0].is_word("recipe") and kinds[1:2] == ["name"] and not tokens[1].is_word(*LEADERS):
        extends = kinds[2:] != [] and tokens[2].is_word("extends")
        if not extends or (kinds[3:] == ["name"] and not tokens[3].is_word(*LEADERS)):
            return [], source.text, "start"
        missing = Span(source, tokens[2].start, tokens[2].end)
        problem = Diagnostic("B114", "`extends` needs the name of a recipe", missing, fix="extends maml")
        return [problem], change(source.text, [(tokens[2].start, tokens[2].end, "")]), "start"
    return _without_header(source, tokens)


def _without_header(source: Source, tokens: Sequence[Token]) -> tuple[list[Diagnostic], str, str]:
    first = tokens[0]
    wrong = first.is_word("recipe")
    near = wrong or (first.kind == "name" and nearest(first.text, ["recipe"], limit=2) is not None)
    place = Span(source, first.start, first.end)
    name = tokens[1].text if near and not wrong and len(tokens) > 1 and tokens[1].kind == "name" else stem(source.name)
    problem = Diagnostic(
        "B114",
        "`recipe` needs a name" if wrong else "a recipe begins with its name",
        place,
        "" if wrong else "did you mean `recipe`?" if near else "the first statement must be `recipe NAME`",
        fix=f"recipe {name}",
        edit=Edit(place, "recipe") if near and not wrong else None,
    )
    if not near:
        return [problem], source.text, "body"
    named = len(tokens) > 1 and tokens[1].kind in {"name", "number", "string"} and not tokens[1].is_word(*LEADERS)
    end = tokens[1].end if named else first.end
    if len(tokens) == 4 and tokens[2].is_word("extends") and not wrong:
        end = tokens[3].end
    return [problem], change(source.text, [(first.start, end, "")]), "body"


# ---- B101: not a statement -----------------------------------------------------------------------------------

_LEVEL_WHY = (
    "a line inside a level starts with a keyword (minimize, by, each, let, level, report)\n"
    "or with a name followed by `:` or `~`"
)
_TOP_WHY = (
    "a line at the top of a recipe starts with a keyword (use, param, let, import, level, schedule)\n"
    "or with a path followed by `=` (adapt.steps = 20)"
)


def not_a_statement(trouble: Trouble) -> Mistake | None:
    """`minimise mean[task] ...`"""
    own, context = trouble.own, trouble.statement.context
    if not own or own[0].kind != "name" or own[0].text in LEADERS or context not in {"top", "level"}:
        return None
    signs = ("=", ".", ":", "~") if context == "top" else (":", "~", ",", "=")
    if trouble.stop > trouble.statement.first + 1 or (len(own) > 1 and own[1].is_symbol(*signs)):
        return None
    word = own[0].text
    near = _near_keyword(word, context)
    place = trouble.span(own[0])
    diagnostic = Diagnostic(
        "B101",
        f"`{word}` is not a statement",
        place,
        f"did you mean `{near}`?" if near else "",
        why=_TOP_WHY if context == "top" else _LEVEL_WHY,
        fix=_with_keyword(trouble, near) if near else "",
        edit=Edit(place, near) if near else None,
    )
    return Mistake(diagnostic)


def _near_keyword(word: str, context: Context) -> str | None:
    own = TOP_KEYWORDS if context == "top" else LEVEL_KEYWORDS
    limit = 2 if len(word) > 4 else 1
    return nearest(word, own, limit) or nearest(word, sorted(LEADERS), limit)


def _with_keyword(trouble: Trouble, keyword: str) -> str:
    own = trouble.own
    rest = f" {trouble.written(own[1], own[-1])}" if len(own) > 1 else ""
    text = f"{keyword}{rest}{' {' if trouble.statement.opens else ''}"
    return f"write `{text}`" if len(text) <= 80 else f"write `{keyword}`"


# ---- B102: named arguments -----------------------------------------------------------------------------------


def colon_in_call(trouble: Trouble) -> Mistake | None:
    """`sgd(lr: 0.4)`"""
    tokens, i = trouble.tokens, trouble.stop
    if not (2 <= i < len(tokens) and tokens[i].is_symbol(":") and tokens[i - 1].kind == "name"):
        return None
    opening = _opening(tokens, i)
    if opening is None or not tokens[i - 2].is_symbol("(", ",") or not tokens[opening].is_symbol("("):
        return None
    last = _argument_end(tokens, i, trouble.statement.last)
    place = trouble.span(tokens[i - 1], tokens[last])
    written = trouble.written(tokens[i - 1], tokens[last])
    fixed = _with_equals(written)
    diagnostic = Diagnostic(
        "B102",
        "named arguments use `=`, not `:`",
        place,
        why="`:` declares a variable (`phi : params(net)`)",
        fix=_with_equals(_call(trouble, opening, last)),
        edit=Edit(place, fixed),
    )
    return Mistake(diagnostic, ((tokens[i].start, tokens[i].end, "="),))


def _with_equals(text: str) -> str:
    """`lr: 0.4` as `lr = 0.4`, also inside of a call."""
    out = ""
    for token in words(text):
        spaced = out.rstrip() + " = " if token.is_symbol(":", "=") else None
        gap = text[: token.start][len(text[: token.start].rstrip()) :]
        out = spaced or (out if out.endswith("= ") else out + gap) + token.text
    return out


def _opening(tokens: Sequence[Token], i: int) -> int | None:
    """The bracket that token `i` stands in."""
    depth = 0
    for j in range(i - 1, -1, -1):
        depth += tokens[j].is_symbol(")", "]") - tokens[j].is_symbol("(", "[")
        if depth < 0:
            return j
        if tokens[j].is_symbol("{", "}"):
            return None
    return None


def _argument_end(tokens: Sequence[Token], i: int, stop: int) -> int:
    """The last token of the argument that token `i` stands in."""
    depth = 0
    for j in range(i, stop):
        depth += tokens[j].is_symbol("(", "[") - tokens[j].is_symbol(")", "]")
        if depth < 0 or (depth == 0 and tokens[j].is_symbol(",")):
            return j - 1
    return stop - 1


def _call(trouble: Trouble, opening: int, last: int) -> str:
    """The text of the call that an argument is in, or of the argument where that is no short call."""
    tokens = trouble.tokens
    depth, end = 0, None
    for j in range(opening, trouble.statement.last):
        depth += tokens[j].is_symbol("(", "[") - tokens[j].is_symbol(")", "]")
        if depth == 0:
            end = j
            break
    first = opening - 1 if opening and tokens[opening - 1].kind == "name" else opening
    text = trouble.written(tokens[first], tokens[end if end is not None else last])
    return text if end is not None and len(text) <= 80 else trouble.written(tokens[opening + 1], tokens[last])


# ---- B103 and B104: how long ---------------------------------------------------------------------------------


def missing_unit(trouble: Trouble) -> Mistake | None:
    """`for 60_000`"""
    if "UNIT" not in trouble.accepts:
        return None
    before = [i for i in range(trouble.statement.first, trouble.stop) if i < trouble.statement.last]
    start = next((i for i in reversed(before) if trouble.tokens[i].is_word("for", "within", "every")), None)
    if start is None or not before:
        return None
    first, last = trouble.tokens[start], trouble.tokens[before[-1]]
    written = trouble.written(first, last)
    fixed = f"{written} {_unit(trouble, first)}"
    cut = next((trouble.tokens[i] for i in before if trouble.tokens[i].is_word("until")), first)
    wrong = trouble.found
    if wrong is not None and wrong.kind == "name" and trouble.stop < trouble.statement.last and _same_line(last, wrong):
        return Mistake(_not_a_unit(trouble, wrong, written), ((cut.start, wrong.end, ""),))
    place = trouble.span(first, last)
    label = "steps, epochs or generations?"
    diagnostic = Diagnostic("B103", f"`{written}` needs a unit", place, label, fix=fixed, edit=Edit(place, fixed))
    return Mistake(diagnostic, ((cut.start, last.end, ""),))


def _same_line(first: Token, second: Token) -> bool:
    return second.start - first.end < 2


def _not_a_unit(trouble: Trouble, wrong: Token, written: str) -> Diagnostic:
    near = nearest(wrong.text, UNITS, limit=2)
    place = trouble.span(wrong)
    return Diagnostic(
        "B103",
        f"`{wrong.text}` is not a unit",
        place,
        f"did you mean `{near}`?" if near else "steps, epochs or generations?",
        fix=f"{written} {near or 'steps'}",
        edit=Edit(place, near) if near else None,
    )


def _unit(trouble: Trouble, keyword: Token) -> str:
    free = keyword.text == "for" and any(token.is_word(*DERIVATIVE_FREE) for token in trouble.own)
    return "generations" if free else "steps"


def missing_cap(trouble: Trouble) -> Mistake | None:
    """`until stationary(1e-3)`"""
    before = [i for i in range(trouble.statement.first, trouble.stop) if i < trouble.statement.last]
    start = next((i for i in reversed(before) if trouble.tokens[i].is_word("until")), None)
    if "WITHIN" not in trouble.accepts or start is None:
        return None
    first, last = trouble.tokens[start], trouble.tokens[before[-1]]
    diagnostic = Diagnostic(
        "B104",
        "`until` needs a cap",
        trouble.span(first, last),
        why="a test alone may never come true, and the planner needs T to bound time and memory",
        fix=f"{trouble.written(first, last)} within 64 steps",
    )
    return Mistake(diagnostic, ((first.start, last.end, ""),))


# ---- B106: Python --------------------------------------------------------------------------------------------


def python_import(trouble: Trouble) -> Mistake | None:
    """`import torchvision.models as models`, `from torch import nn`"""
    own = trouble.own
    imports = len(own) > 2 and own[0].is_word("import") and (own[2].is_symbol(".", ",") or own[2].is_word("as"))
    if not imports and not (len(own) > 2 and own[0].is_word("from") and any(t.is_word("import") for t in own)):
        return None
    diagnostic = Diagnostic(
        "B106",
        "a recipe cannot import Python",
        trouble.span(own[1], own[-1]),
        why="recipes only name things; whoever runs the recipe decides which Python is loaded\n"
        "(`import` takes the name of another recipe)",
        fix="use net = resnet18()      and run with   --with my_bindings\n"
        "or leave `use net : model` open and pass net= from Python",
    )
    return Mistake(diagnostic)


# ---- B107: reducers ------------------------------------------------------------------------------------------


def reducer_as_factor(trouble: Trouble) -> Mistake | None:
    """`x / sum[k] y`"""
    own = trouble.own
    for i in range(1, len(own) - 1):
        if own[i].is_word(*REDUCERS) and own[i + 1].is_symbol("[") and _reads_a_factor(own, i):
            if trouble.statement.first + i < trouble.stop:
                return Mistake(_misplaced(trouble.source, own, i))
    return None


def _reads_a_factor(tokens: Sequence[Token], i: int) -> bool:
    """Whether the grammar wants a factor at token `i`, where a reducer cannot stand."""
    before = tokens[i - 1]
    if before.is_symbol("-") and i > 1:
        return tokens[i - 2].is_symbol("*", "/", "^", "-")
    return before.is_symbol("/", "^", "@")


def misplaced_reducer(span: Span) -> Diagnostic:
    """The message for `sum[k]` at `span`, which was read as a variable called `sum`."""
    tokens = words(span.source.text)
    i = next(i for i, token in enumerate(tokens) if token.end > span.start)
    return _misplaced(span.source, tokens, i)


def _misplaced(source: Source, tokens: Sequence[Token], i: int) -> Diagnostic:
    closing = _closing(tokens, i + 1)
    word = tokens[i].text
    before = tokens[i - 1].text if i and tokens[i - 1].is_symbol("/", "*", "^", "-", "@") else None
    reducer = source.text[tokens[i].start : tokens[closing].end]
    body = source.text[tokens[closing].end : _product_end(tokens, closing + 1)].strip().removeprefix("*").strip()
    left = source.text[_factor_start(tokens, i - 2) : tokens[i - 1].start].strip() if before else ""
    gap = "" if before in {"^", "@"} else " "
    return Diagnostic(
        "B107",
        f"a {word} after `{before}` needs parentheses"
        if before
        else f"`{reducer}` cannot stand here without parentheses",
        Span(source, tokens[i].start, tokens[closing].end),
        f"would be read as a variable called `{word}`",
        fix=f"{left}{gap}{before or ''}{gap}({reducer} {body or '...'})".strip(),
    )


def _closing(tokens: Sequence[Token], opening: int) -> int:
    depth = 0
    for j in range(opening, len(tokens)):
        depth += tokens[j].is_symbol("(", "[") - tokens[j].is_symbol(")", "]")
        if depth == 0:
            return j
    return len(tokens) - 1


def _product_end(tokens: Sequence[Token], start: int) -> int:
    """Where the product that begins at token `start` ends: at a sum, a comma, a bracket or a keyword."""
    depth, end = 0, tokens[start - 1].end
    for token in tokens[start:]:
        depth += token.is_symbol("(", "[") - token.is_symbol(")", "]")
        over = token.is_symbol("+", "-", ",", "{", "}", ":", "~", "=") or token.text in LEADERS
        if depth < 0 or (depth == 0 and (over or token.is_word("with", "every", "for", "until", "within", "then"))):
            break
        end = token.end
    return end


def _factor_start(tokens: Sequence[Token], last: int) -> int:
    """Where the factor ends that has `last` as its last token begins."""
    i = last
    while i > 0:
        if tokens[i].is_symbol(")", "]"):
            opening = _opening(tokens, i)
            i = opening if opening is not None else 0
        joined = tokens[i - 1].is_symbol(".", "@") or (
            tokens[i].is_symbol("(", "[", ".", "@") and tokens[i - 1].kind in {"name", "number"}
        )
        joined = joined or (tokens[i].is_symbol("(", "[") and tokens[i - 1].is_symbol(")", "]"))
        if not joined:
            break
        i -= 1
    return tokens[max(i, 0)].start


# ---- B108: constraints ---------------------------------------------------------------------------------------


def constraint(trouble: Trouble) -> Mistake | None:
    """`minimize f subject to g`"""
    own = trouble.own
    for i, token in enumerate(own):
        after = own[i + 1] if i + 1 < len(own) else None
        two_words = token.is_word("subject", "such") and after is not None and after.is_word("to", "that")
        short = token.is_word("s") and [t.text for t in own[i : i + 4]] == ["s", ".", "t", "."]
        alone = (
            i == 0 and token.is_word("constrain", "constraint", "constraints") and not (after and after.text in ":~")
        )
        if two_words or short or alone:
            diagnostic = Diagnostic(
                "B108",
                "constraints on an inner problem are not part of the language",
                trouble.span(token, own[-1]),
                fix="a domain (nonnegative, simplex, between), a penalty, or a registered solver with its own derivative",
            )
            return Mistake(diagnostic, ((token.start, own[-1].end, ""),))
    return None


Detect = Callable[[Trouble], Mistake | None]

BLOCKS: tuple[Detect, ...] = (missing_brace, extra_brace, unclosed_block)

DETECTORS: tuple[Detect, ...] = (
    python_import,
    constraint,
    colon_in_call,
    counter_of_until,
    missing_unit,
    missing_cap,
    reducer_as_factor,
    not_a_statement,
)
