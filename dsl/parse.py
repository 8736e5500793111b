"""From text to the syntax tree of one recipe, or to all of its syntax errors at once.

Input is a text or a file, output a `Recipe` as it was written: what it extends and imports is not looked up here,
and nothing named by a recipe is ever imported or run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from lark.exceptions import UnexpectedInput

from bilevel.dsl import nodes
from bilevel.dsl.build import build
from bilevel.dsl.checks import check_duplicates, check_words
from bilevel.dsl.nearest import nearest
from bilevel.dsl.statements import LEADERS
from bilevel.dsl.tables import grammar
from bilevel.errors import Diagnostic, RecipeError, Source, Span, fail

LARGEST = 1_000_000
"""Bytes of one recipe file."""

DEEPEST_BRACKETS = 64
"""Brackets and braces inside each other."""

_BRACKETS = re.compile(r'"[^"\n]*"|#[^\n]*|[()\[\]{}]')
# Control characters, and the marks that let a text look different from what it says.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]|\r(?!\n)")


def parse(text: str, name: str = "<recipe>") -> nodes.Recipe:
    """The recipe written in `text`; raises `RecipeError` with every syntax error it has.

    `name` is what messages call the text. Every node of the result has the span it was read from.
    """
    source = Source(name, text.removeprefix("\ufeff"))
    _check_text(source)
    _check_not_empty(source)
    try:
        tree = grammar().parse(source.text, start="start")
    except UnexpectedInput:
        from bilevel.dsl.mistakes import explain

        raise RecipeError(explain(source)) from None
    recipe = cast(nodes.Recipe, build(tree, source))
    problems = [*check_words(recipe), *check_duplicates(recipe)]
    if problems:
        raise RecipeError(sorted(problems, key=_place))
    return recipe


def parse_value(text: str, name: str = "<command line>") -> nodes.Expr:
    """The value of an override given outside of a recipe: `20`, `fmd`, `rmd(order = 1)`, `"all"`, `[1, 2]`."""
    source = Source(name, text)
    _check_text(source)
    if not text.strip():
        raise fail("B100", "a value is missing", fix="path=value, for instance adapt.steps=20")
    try:
        value = cast(nodes.Expr, build(grammar().parse(text, start="value"), source))
    except UnexpectedInput as error:
        from bilevel.dsl.mistakes import explain_value

        raise RecipeError([explain_value(source, error)]) from None
    if problems := check_words(nodes.Argument("value", value, span=value.span)):
        raise RecipeError(problems)
    return value


def load(path: str | Path, name: str | None = None) -> nodes.Recipe:
    """The recipe in a file; the name in its header must be the stem of the file's name."""
    path = Path(path)
    recipe = parse(_read(path), name or str(path))
    if recipe.name != path.stem:
        raise _wrong_name(recipe, path)
    return recipe


def _place(problem: Diagnostic) -> int:
    return problem.span.start if problem.span else 0


# ---- limits --------------------------------------------------------------------------------------------------


def _check_text(source: Source) -> None:
    """Raise where the text is no text, too long or too deep to be worth parsing."""
    if len(source.text) > LARGEST or len(source.text.encode("utf-8", "replace")) > LARGEST:
        raise _too_large(source.name)
    if found := _NOT_TEXT.search(source.text):
        raise _not_text(Span(source, found.start(), found.end()))
    _check_nesting(source)


def _check_not_empty(source: Source) -> None:
    if not re.sub(r"#[^\n]*", "", source.text).strip():
        raise fail("B114", f"{source.name} is empty", fix=f"start with `recipe {stem(source.name)}`")


def stem(name: str) -> str:
    """The name of a recipe in a file of that name."""
    stem = Path(name).stem
    return stem if stem.isidentifier() else "my_recipe"


def _too_large(name: str) -> RecipeError:
    return fail(
        "B112",
        f"{name} is larger than {LARGEST // 1_000_000} MB",
        why="a recipe is read in full by every command and by the editor",
        fix="leave data out of recipes: register a source and name it with `use`",
    )


def _not_text(span: Span) -> RecipeError:
    character = ord(span.text[0])
    return fail(
        "B111",
        f"the character U+{character:04X} cannot stand in a recipe",
        span,
        why="recipes are UTF-8 text without control characters or invisible marks",
        fix="remove it" if character else "this is a binary file; give the path of a .bl file",
    )


def _check_nesting(source: Source) -> None:
    depth = 0
    for found in _BRACKETS.finditer(source.text):
        if found[0] in "([{":
            depth += 1
            if depth > DEEPEST_BRACKETS:
                raise _nested(Span(source, found.start(), found.end()))
        elif found[0] in ")]}":
            depth = max(0, depth - 1)


def _nested(span: Span) -> RecipeError:
    return fail(
        "B113",
        f"more than {DEEPEST_BRACKETS} brackets inside each other",
        span,
        label=f"bracket number {DEEPEST_BRACKETS + 1}",
        fix="give an inner part a name:  let part = ...",
    )


# ---- files ---------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(content) > LARGEST:
        raise _too_large(str(path))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content, error.start) from None


def _unreadable(path: Path, error: OSError) -> RecipeError:
    if isinstance(error, IsADirectoryError):
        first = next(iter(sorted(path.glob("*.bl"))), None)
        fix = f"name a file in it, for instance {first}" if first else "name a file that ends in .bl"
        return fail("B110", f"`{path}` is a folder, not a recipe", fix=fix)
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return fail("B110", f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    near = _near_file(path)
    return fail("B110", f"there is no file `{path}`", fix=f"did you mean `{near}`?" if near else "")


def _near_file(path: Path) -> Path | None:
    """A recipe beside the missing one whose name is nearly the same."""
    if not path.parent.is_dir():
        return None
    near = nearest(path.stem, sorted(file.stem for file in path.parent.glob("*.bl")))
    exact = path.with_suffix(".bl")
    return exact if exact != path and exact.is_file() else path.with_name(f"{near}.bl") if near else None


def _not_utf8(path: Path, content: bytes, offset: int) -> RecipeError:
    line = content.count(b"\n", 0, offset) + 1
    binary = b"\0" in content
    return fail(
        "B111",
        f"`{path}` is not a text file" if binary else f"`{path}` is not UTF-8 (line {line})",
        fix="give the path of a .bl file" if binary else "save it with the encoding UTF-8",
    )


def _wrong_name(recipe: nodes.Recipe, path: Path) -> RecipeError:
    from bilevel.dsl.walk import name_span

    place = name_span(recipe, recipe.name)
    could = path.stem.isidentifier() and path.stem not in LEADERS
    return fail(
        "B115",
        f"the recipe in `{path.name}` is called `{recipe.name}`",
        place,
        label="not the name of its file",
        why="`extends` and `import` find a recipe by the name of its file",
        fix=f"{f'recipe {path.stem}, or ' if could else ''}rename the file to {recipe.name}.bl",
    )
