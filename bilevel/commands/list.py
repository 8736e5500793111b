"""`bilevel list [KIND]`: everything a recipe can name. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bilevel import support
from bilevel.catalogue import catalogue
from bilevel.commands.arguments import Usage
from bilevel.commands.console import Console
from bilevel.dsl.functions import DOMAINS, FUNCTIONS
from bilevel.dsl.nearest import nearest
from bilevel.dsl.solvers import MODES, SOLVERS
from bilevel.pipeline import zoo_manifest
from bilevel.registry import Description

Row = tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `list`."""
    parser.add_argument("kind", metavar="KIND", nargs="?", help=f"one of {', '.join(KINDS)}; all without it")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print one kind, or all."""
    kind = arguments.kind
    if kind is not None and kind not in KINDS:
        guess = nearest(kind, list(KINDS))
        hint = f"did you mean `{guess}`?" if guess else f"one of {', '.join(KINDS)}"
        raise Usage(f"there is no kind `{kind}`; {hint}")
    kinds = KINDS | ({"recipes": _named} if kind is None else {})
    found = {name: rows() for name, rows in kinds.items() if kind in (None, name)}
    if console.json:
        console.document({name: {row[0]: _plain(row) for row in rows} for name, rows in found.items()})
        return 0
    for place, (name, rows) in enumerate(found.items()):
        if kind is None:
            console.result(f"{'' if place == 0 else chr(10)}{name}")
        console.table((), [("  " * (kind is None) + row[0], *row[1:]) for row in rows])
    console.next("bilevel show maml", "how a recipe uses them")
    return 0


def _plain(row: Row) -> object:
    """What a row says of its first entry: one text, or of a recipe all that is known."""
    names = ("source", "class", "line") if len(row) == 4 else ("source", "line")
    return row[1] if len(row) == 2 else dict(zip(names, row[1:], strict=True))


def _named() -> list[Row]:
    """Recipes without the class of their hypergradients, which only a plan of each would tell."""
    return [(one.name, one.source, one.line + " (--quick)" * one.quick) for one in catalogue()]


def _recipes() -> list[Row]:
    """The class stands last but one: the line may be long."""
    return [(one.name, one.source, one.exactness, one.line + " (--quick)" * one.quick) for one in catalogue()]


def _parts(*kinds: str) -> Callable[[], list[Row]]:
    """Registrations of some kinds, with the arguments of their constructors."""
    return lambda: [(_call(one), one.summary) for one in zoo_manifest().entries.values() if one.kind in kinds]


def _call(one: Description) -> str:
    words = [
        f"*{p.name}" if p.variadic else p.name if p.default is None else f"{p.name} = {p.default}"
        for p in one.parameters
    ]
    return f"{one.name}({', '.join(words)})".replace("'", '"')


def _solvers() -> list[Row]:
    rows: list[Row] = []
    for form in SOLVERS.values():
        words = [name if value is None else f"{name} = {value:g}" for name, value in form.defaults.items()]
        rows.append((f"{form.name}({', '.join(words)})", f"needs {form.needs}" + _later(form.name in support.SOLVERS)))
    return [*rows, *((call, f"registered: {summary}") for call, summary in _parts("solver", "estimator")())]


def _functions() -> list[Row]:
    return [(one.name, f"{one.summary} ({one.smooth})") for one in FUNCTIONS.values()]


def _modes() -> list[Row]:
    return [(name, ", ".join(options) + _later(name in support.MODES)) for name, options in MODES.items()]


def _domains() -> list[Row]:
    takes = {name: f"takes {count} number{'s' * (count != 1)}" if count else "" for name, count in DOMAINS.items()}
    return [(name, text + _later(name in support.DOMAINS)) for name, text in takes.items()]


def _later(ready: bool) -> str:
    """A note on what the language has and this version cannot run."""
    return "" if ready else "  [not in this version]"


KINDS: dict[str, Callable[[], list[Row]]] = {
    "recipes": _recipes,
    "models": _parts("model"),
    "data": _parts("data", "tasks"),
    "registered": _parts("func"),  # functions that a `use` line constructs
    "solvers": _solvers,
    "functions": _functions,
    "modes": _modes,
    "domains": _domains,
}
