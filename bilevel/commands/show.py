"""`bilevel show FILE`: a recipe as written, flattened, as its settings or as equations. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from bilevel.commands.arguments import follow
from bilevel.commands.console import Console, aligned
from bilevel.commands.recipes import add_modules, add_recipe, manifests, open_recipe
from bilevel.dsl.format import format_text, print_expr
from bilevel.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `show`."""
    add_recipe(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--flat", action="store_true", help="with everything that it extends and imports written out")
    form.add_argument("--paths", action="store_true", help="every setting that can be replaced, and its value")
    form.add_argument("--latex", action="store_true", help="the nested problem as equations")
    parser.add_argument("--json", action="store_true", help="all of it as one JSON document")
    add_modules(parser, "read MODULE.bilevel.json beside that module")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print one form of the recipe."""
    recipe = open_recipe(arguments.file, arguments.settings, manifests=manifests(arguments.modules))
    if console.json:
        console.document(_document(recipe))
        return 0
    if arguments.latex:
        console.result(recipe.to_latex())
    elif arguments.paths:
        console.result("\n".join(_paths(recipe)))
    elif arguments.flat or arguments.settings:
        console.result(str(recipe))
    else:
        source = recipe.written.span.source
        console.result(format_text(source.text, source.name))
    if arguments.paths:
        console.next(follow("plan", arguments, arguments.file, *_example(recipe)), "with another value there")
    else:
        console.next(follow("plan", arguments, arguments.file), "what it will compute")
    return 0


def _paths(recipe: Recipe) -> list[str]:
    rows = [(path, "=", print_expr(one.value), f"# {one.span}") for path, one in recipe.settings.items()]
    return aligned(rows)


def _example(recipe: Recipe) -> list[str]:
    """A setting as it is, to be typed with another value; nothing where there is none."""
    first = next(iter(recipe.settings), None)
    path = next((path for path in recipe.settings if path.endswith(".steps")), first)
    return [] if path is None else [f"{path}={print_expr(recipe.settings[path].value)}"]


def _document(recipe: Recipe) -> Mapping[str, object]:
    settings = {path: print_expr(one.value) for path, one in recipe.settings.items()}
    levels = [
        {
            "name": level.name,
            "inside": level.parent,
            "variables": {variable.name: str(variable.type) for variable in level.variables},
            "per": list(level.per),
        }
        for level in recipe.program.walk_levels()
    ]
    return {
        "bilevel_recipe": 1,
        "name": recipe.name,
        "extends": recipe.written.parent,
        "parts": {use.name: None if use.value is None else print_expr(use.value) for use in recipe.program.uses},
        "levels": levels,
        "settings": settings,
        "flat": str(recipe),
        "latex": recipe.to_latex(),
    }
