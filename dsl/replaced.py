"""What a report changes for itself: draws of an index, and literals by path. Reports B204, B208, B218.

Takes the part of a report after `with`; the levels inside run again with what it says.
"""

from __future__ import annotations

from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.nearest import nearest
from bilevel.dsl.parts import constant
from bilevel.dsl.paths import override, settings
from bilevel.dsl.walk import header_span, name_span
from bilevel.errors import Diagnostic, RecipeError

WHOLE = ("steps", "epochs", "generations", "cap", "count")


def is_index(checker: Checker, place: Place, change: nodes.Index) -> bool:
    """Whether the name after `with` is an index that a report can take from elsewhere."""
    symbol = checker.scope.look(place.level, change.name)
    if symbol is not None and symbol.kind == "index":
        return True
    known = [n for n, s in checker.scope.in_sight(place.level).items() if s.kind == "index"]
    guess = nearest(change.name, known)
    checker.report(
        Diagnostic(
            "B208",
            f"`{change.name}` is not an index of `{place.level}`",
            name_span(change, change.name),
            f"did you mean `{guess}`?" if guess else "",
            why="`with` gives a report other draws for an index that is open in its level",
            fix=f"with {change.span.text.replace(change.name, guess, 1)}" if guess else "",
            note=f"indices here: {', '.join(known) or 'none'}",
        )
    )
    return False


def check_setting(checker: Checker, change: nodes.Override) -> None:
    """A setting of a report names a literal of the recipe, and gives a number."""
    recipe, path, span = checker.scope.recipe, ".".join(change.path), header_span(change, "=")
    if path not in settings(recipe):
        try:
            override(recipe, path, change.value, span)
        except RecipeError as error:
            checker.report(error.diagnostics[0])
        else:
            checker.report(_not_written(path, change))
        return
    value = constant(change.value, checker.constants)
    if value is None or (change.path[-1] in WHOLE and not (isinstance(value, int) and value >= 0)):
        what = "a number of steps" if change.path[-1] in WHOLE else "a number"
        message = f"`{change.value.span.text}` is not {what}"
        checker.report(Diagnostic("B218", message, change.value.span, "known before the run, as a literal or a param"))


def _not_written(path: str, change: nodes.Override) -> Diagnostic:
    level, _, argument = path.partition(".by.")
    return Diagnostic(
        "B204",
        f"`{path}` is not written in the recipe",
        header_span(change, "="),
        why="a report replaces a number that stands in the text",
        fix=f"write {argument} into the `by` of {level} as well",
    )
