"""`%load_ext bilevel` and the cell magic `%%recipe`: a recipe written in a cell, checked at once, never run.

    %%recipe adapt.steps=10 --schedule laptop
    recipe maml_small extends maml
    task.count = 4

binds `maml_small` to a `Recipe`. The line takes settings and `--schedule`, as `bilevel plan` does. Errors are shown
under the cell as everywhere else, and then nothing is bound.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from typing import Any

from bilevel.errors import RecipeError, fail
from bilevel.recipe import Recipe, parse


class Words(argparse.ArgumentParser):
    """Says what is wrong with a line in place of ending the interpreter."""

    def error(self, message: str) -> Any:
        """Raise what `%%recipe` shows."""
        raise fail("B129", f"%%recipe: {message}", fix="%%recipe adapt.steps=10 --schedule laptop")


def register(shell: Any) -> None:
    """Make the magic known to an interactive shell."""

    def recipe(line: str, cell: str) -> Recipe | None:
        """Check a recipe and bind it to its name."""
        try:
            made = read(line, cell)
            made.program  # noqa: B018 - checking is what this is for
        except RecipeError as error:
            sys.stderr.write(f"{error}\n")
            return None
        shell.user_ns[made.name] = made
        return made

    shell.register_magic_function(recipe, "cell", "recipe")


def read(line: str, cell: str) -> Recipe:
    """The recipe of a cell with the settings of its line; reports errors of syntax and of the line."""
    parser = Words(prog="%%recipe", add_help=False)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--schedule")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise fail("B129", f"%%recipe: {error}", fix="close the quotation mark") from error
    given = parser.parse_args(words)
    made = parse(cell, "<cell>").changed(given.settings)
    return made if given.schedule is None else replace(made, schedule=given.schedule)
