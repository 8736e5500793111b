"""`bilevel new NAME --from RECIPE`: a child recipe whose settings wait as comments. Imports no torch."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from bilevel.commands.arguments import Usage
from bilevel.commands.console import Console
from bilevel.commands.recipes import open_recipe
from bilevel.dsl.format import format_text, print_expr
from bilevel.errors import fail
from bilevel.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `new`."""
    parser.add_argument("name", metavar="NAME", help="name of the new recipe; the file is NAME.bl, here")
    parser.add_argument("--from", dest="parent", metavar="RECIPE", required=True, help="the recipe that it extends")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write NAME.bl; a file that exists is left alone."""
    name = arguments.name.removesuffix(".bl")
    if not name.isidentifier():
        raise Usage(f"`{name}` cannot be the name of a recipe: letters, digits and _, no digit first")
    parent = open_recipe(arguments.parent)
    if name == parent.name:
        raise Usage(f"a recipe cannot extend itself: give the child of `{parent.name}` another name")
    path = Path(f"{name}.bl")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(child(name, parent))
    except FileExistsError as error:
        raise fail("B708", f"`{path}` exists already; nothing was overwritten", fix="another NAME") from error
    except OSError as error:
        raise fail("B709", f"cannot write to `{path}`: {error.strerror}", fix="another folder") from error
    console.result(str(path))
    if Path(arguments.parent).parent != Path() and Path(arguments.parent).suffix == ".bl":
        console.say(f"note: `{parent.name}` is found only beside {path}: put the two into one folder")
        folder = Path(arguments.parent).parent
        command = (
            f"{shlex.join(['mv', str(path), str(folder)])} && {shlex.join(['bilevel', 'plan', str(folder / path)])}"
        )
    else:
        command = f"bilevel plan {path}"
    console.next(command, "after taking the # away from what it changes")
    return 0


def child(name: str, parent: Recipe) -> str:
    """The text of a child that changes nothing yet."""
    settings = [
        f"# {path} = {print_expr(one.value)}"
        for path, one in parent.settings.items()
        if not path.startswith("schedule.")
    ]
    return format_text("\n".join([f"recipe {name} extends {parent.name}", "", *settings, ""]), f"{name}.bl")
