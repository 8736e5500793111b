"""The one layout of recipes: from text to text with all comments kept, and from trees to text.

Four spaces inside braces, at most one blank line in a row, names of neighbouring statements of one kind aligned,
120 columns. Comments on a line of their own stay before their statement, comments at the end of a line stay there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bilevel.dsl import nodes
from bilevel.dsl.layout import STEP, Document, fit, flat
from bilevel.dsl.parse import parse
from bilevel.dsl.phrases import entry, expression, header, one_line, statement
from bilevel.dsl.tokens import Token, scan, words
from bilevel.errors import Source

WIDTH = 120
SHORT = 60
"""A level with one statement stands on one line if it is no longer than this."""

COMMENT_COLUMN = 44
"""Where comments at the end of a line begin, if the line is shorter."""

Part = nodes.Item | nodes.Statement | nodes.Entry


def format_text(text: str, name: str = "<recipe>") -> str:
    """The text in the one layout; raises `RecipeError` where it has syntax errors."""
    recipe = parse(text, name)
    return _print(recipe, _Layout(recipe.span.source))


def print_recipe(recipe: nodes.Recipe) -> str:
    """The text of a tree, without comments; reading it gives the tree again."""
    return _print(recipe, _Layout(None))


def print_expr(expr: nodes.Expr) -> str:
    """The text of an expression on one line, with as few parentheses as possible."""
    return flat(expression(expr))


# ---- rows ----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One statement, comment or brace of the output; `head` is aligned with the rows around it of the same kind."""

    kind: str
    depth: int
    head: str
    rest: Document = ""
    comment: str = ""
    blank: bool = False  # an empty line before it


class _Layout:
    """The comments of a text in order, and where it has empty lines; nothing of both for a tree without a text."""

    def __init__(self, source: Source | None) -> None:
        self.source = source
        self.comments = [token for token in scan(source.text) if token.kind == "comment"] if source else []
        self.rows: list[Row] = []
        self.last: Token | None = None  # the comment written last

    # -- comments

    def take(self, offset: int | None) -> list[Token]:
        """The comments before `offset` that were not taken yet; all of them for None."""
        taken = [token for token in self.comments if offset is None or token.start < offset]
        self.comments = self.comments[len(taken) :]
        return taken

    def has_comment(self, node: nodes.Node) -> bool:
        """Whether a comment that was not taken yet is inside `node`."""
        return self.source is not None and bool(self.comments) and self.comments[0].start < node.span.end

    def comments_before(self, offset: int | None, depth: int, first: bool = False) -> None:
        """Write the comments up to `offset`: those at the end of a line beside the last row, others as rows."""
        for token in self.take(offset):
            text = token.text.rstrip()
            if self._continues(token):
                self.rows[-1].comment += f"\n{text}"
            elif self.is_own_line(token) or not self.rows:
                blank = self.blank_before(token.start) and not (first or not self.rows)
                self.rows.append(Row("comment", depth, text, blank=blank))
            else:
                self._beside_last(text)
            first, self.last = False, token

    def _continues(self, token: Token) -> bool:
        """Whether a comment stands right below another one that began at the end of a line of code."""
        assert self.source is not None
        last, text = self.last, self.source.text
        if last is None or not (self.rows and self.rows[-1].comment):
            return False
        columns = [comment.start - text.rfind("\n", 0, comment.start) for comment in (last, token)]
        gap = text[last.end : token.start]
        return columns[0] == columns[1] and not gap.strip() and gap.count("\n") == 1

    def _beside_last(self, text: str) -> None:
        last = self.rows[-1]
        if last.kind == "comment":
            self.rows.append(Row("comment", last.depth, text))
            return
        if last.comment:
            moved = Row("comment", last.depth, last.comment, blank=last.blank)
            self.rows.insert(len(self.rows) - 1, moved)
            last.blank = False
        last.comment = text

    def is_own_line(self, token: Token) -> bool:
        assert self.source is not None
        text = self.source.text
        return not text[text.rfind("\n", 0, token.start) + 1 : token.start].strip()

    # -- empty lines

    def blank_before(self, offset: int) -> bool:
        """Whether the text has an empty line just before `offset`."""
        if self.source is None:
            return False
        before = self.source.text[:offset]
        return before[len(before.rstrip()) :].count("\n") > 1

    def gap(self, part: Part, before: Part | None, siblings: Sequence[Part]) -> bool:
        """Whether an empty line separates `part` from the part before it."""
        if before is None:
            return False
        if self.source is not None:
            return self.blank_before(part.span.start)
        roomy = isinstance(part, nodes.Use | nodes.Param | nodes.Override | nodes.Import | nodes.Schedule)
        roomy = roomy or any(isinstance(sibling, nodes.Level) for sibling in siblings)
        return roomy and (FAMILY.get(type(part)) != FAMILY.get(type(before)) or isinstance(part, nodes.Level))


# Kinds of statements that stand together without an empty line when a tree is printed.
FAMILY: dict[type[nodes.Node], str] = {
    nodes.Param: "definition",
    nodes.Let: "definition",
    nodes.Variable: "declaration",
    nodes.Each: "declaration",
    nodes.Draw: "declaration",
    nodes.Use: "use",
    nodes.Import: "import",
    nodes.Override: "override",
    nodes.Level: "level",
    nodes.Report: "report",
    nodes.Schedule: "schedule",
    nodes.Objective: "goal",
    nodes.By: "goal",
}


# ---- from a tree to rows -------------------------------------------------------------------------------------


def _print(recipe: nodes.Recipe, layout: _Layout) -> str:
    layout.comments_before(recipe.span.start if layout.source else 0, 0, first=True)
    blank = bool(layout.rows) and layout.blank_before(recipe.span.start)
    layout.comments_before(_header_end(recipe, layout), 0)
    layout.rows.append(Row("header", 0, "", header(recipe), blank=blank))
    _block(recipe.items, 0, layout, after_header=True)
    layout.comments_before(None, 0)
    return _join(layout.rows)


def _header_end(recipe: nodes.Recipe, layout: _Layout) -> int:
    if layout.source is None:
        return 0
    found = words(layout.source.text, recipe.span.start, recipe.span.end)
    return found[3 if recipe.parent else 1].end


def _block(parts: Sequence[Part], depth: int, layout: _Layout, after_header: bool = False) -> None:
    before: Part | None = None
    for part in parts:
        first = before is None and not after_header
        layout.comments_before(part.span.start if layout.source else 0, depth, first)
        if first and layout.rows[-1].kind != "comment":
            blank = False
        elif before is None and layout.source is None:
            blank = True
        else:
            blank = layout.gap(part, before or part, parts)
        _part(part, depth, blank, layout)
        before = part


def _part(part: Part, depth: int, blank: bool, layout: _Layout) -> None:
    if not isinstance(part, nodes.Level | nodes.Schedule):
        head, rest = entry(part) if isinstance(part, nodes.Entry) else statement(part)
        layout.rows.append(Row(type(part).__name__, depth, head, rest, blank=blank))
        if layout.source is not None:
            _inner_comments(part, layout)
        return
    before = len(layout.rows)
    _comments_of_header(part, depth, layout)
    if (line := _on_one_line(part, depth)) and not layout.has_comment(part):
        layout.rows.append(Row("block", depth, "", line))
    else:
        _open_block(part, depth, layout)
    layout.rows[before].blank = blank


def _inner_comments(part: Part, layout: _Layout) -> None:
    """Comments between the words of one statement: before it, but the last one at the end of a line stays there."""
    row = layout.rows.pop()
    taken = layout.take(part.span.end)
    if taken and not layout.is_own_line(taken[-1]):
        layout.last = taken.pop()
        row.comment = layout.last.text.rstrip()
    for token in taken:
        layout.rows.append(Row("comment", row.depth, token.text.rstrip(), blank=row.blank))
        row.blank = False
    layout.rows.append(row)


def _comments_of_header(part: nodes.Level | nodes.Schedule, depth: int, layout: _Layout) -> None:
    """Comments between `level` and its brace: before the level."""
    if layout.source is not None:
        inside = words(layout.source.text, part.span.start, part.span.end)
        brace = next(token.start for token in inside if token.is_symbol("{"))
        layout.rows += [Row("comment", depth, token.text.rstrip()) for token in layout.take(brace)]


def _open_block(part: nodes.Level | nodes.Schedule, depth: int, layout: _Layout) -> None:
    parts: Sequence[Part] = part.body if isinstance(part, nodes.Level) else part.entries
    layout.rows.append(Row("open", depth, "", f"{_title(part)} {{"))
    _block(parts, depth + 1, layout)
    layout.comments_before(part.span.end - 1 if layout.source else 0, depth + 1)
    layout.rows.append(Row("close", depth, "", "}"))


def _title(part: nodes.Level | nodes.Schedule) -> str:
    word = "level" if isinstance(part, nodes.Level) else "schedule"
    return f"{word} {part.name}" if part.name else word


def _on_one_line(part: nodes.Level | nodes.Schedule, depth: int) -> str:
    """A block of one short statement as one line; empty where it is none."""
    parts: Sequence[Part] = part.body if isinstance(part, nodes.Level) else part.entries
    if len(parts) > 1 or any(isinstance(inner, nodes.Level) for inner in parts):
        return ""
    line = " ".join((_title(part), "{", *map(one_line, parts), "}"))
    room = SHORT if isinstance(part, nodes.Level) else WIDTH
    return line if depth * STEP + len(line) <= room else ""


# ---- from rows to text ---------------------------------------------------------------------------------------


def _join(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and _together(rows[start], rows[end]):
            end += 1
        lines += _aligned(rows[start:end])
        start = end
    return "\n".join(lines) + "\n"


def _together(first: Row, row: Row) -> bool:
    """Whether two rows belong to one run of aligned statements."""
    return row.kind == first.kind and row.depth == first.depth and not row.blank and bool(first.head)


def _aligned(rows: Sequence[Row]) -> Iterable[str]:
    width = max(len(row.head) for row in rows)
    for row in rows:
        if row.blank:
            yield ""
        yield from _row_lines(row, width)


def _row_lines(row: Row, width: int) -> list[str]:
    indent = row.depth * STEP
    if row.kind == "comment":
        return [" " * indent + row.head]
    head = f"{row.head:<{width}} " if row.head else ""
    text = " " * indent + head + fit(row.rest, WIDTH, indent, indent + len(head))
    lines = text.rstrip().split("\n")
    if row.comment:
        column = max(COMMENT_COLUMN, -(-(len(lines[-1]) + 2) // STEP) * STEP)
        first, *more = row.comment.split("\n")
        lines[-1] = f"{lines[-1]:<{column}}{first}"
        lines += [" " * column + comment for comment in more]
    return lines
