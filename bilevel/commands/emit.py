"""`bilevel emit FILE`: the recipe as one readable PyTorch file, on stdout or in a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from bilevel import pipeline
from bilevel.commands.console import Console
from bilevel.commands.recipes import add_modules, add_recipe, add_schedule, open_recipe
from bilevel.errors import fail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `emit`."""
    add_recipe(parser)
    parser.add_argument("-o", dest="output", metavar="FILE.py", help="write there in place of stdout")
    add_modules(parser, "import MODULE and let the recipe name what it registers")
    add_schedule(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the emitted module."""
    from bilevel.commands.modules import import_modules
    from bilevel.registry import collect

    recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule)
    if modules := import_modules(arguments.modules):
        recipe = recipe.knowing(collect(modules).manifest)
    plan = pipeline.plan(recipe.program)
    text = pipeline.emit(plan)
    if arguments.output is None:
        console.result(text)
        console.next(f"bilevel emit {arguments.file} -o {recipe.name}.py", "to write it into a file")
        return 0
    try:
        Path(arguments.output).write_text(text, encoding="utf-8")
    except OSError as error:
        fix = "another -o"
        raise fail("B709", f"cannot write to `{arguments.output}`: {error.strerror}", fix=fix) from error
    parts = ", ".join(f"{use.name}=..." for use in plan.program.uses)
    console.result(arguments.output)
    console.say(f"needs torch alone; plan {plan.identity}")
    console.next(f"from {Path(arguments.output).stem} import build", f"then  phase, = build({parts})")
    return 0
