"""`bilevel emit FILE`: the recipe as one readable PyTorch file, on stdout or in a file."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel import pipeline
from bilevel.commands.arguments import follow
from bilevel.commands.console import Console
from bilevel.commands.recipes import add_limits, add_modules, add_recipe, add_schedule, manifests, open_recipe
from bilevel.files import write_whole
from bilevel.limits import read_limits
from bilevel.recipe import Recipe

if TYPE_CHECKING:
    from bilevel.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `emit`."""
    add_recipe(parser)
    parser.add_argument("-o", dest="output", metavar="FILE.py", help="write there in place of stdout")
    add_modules(parser, "import MODULE and let the recipe name what it registers (--symbolic reads its manifest)")
    add_schedule(parser)
    add_limits(parser)
    parser.add_argument(
        "--symbolic", action="store_true", help="build no part: modes by the kind of each level, not by what they cost"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the emitted module: the one that `bilevel run` runs, unless it is symbolic."""
    recipe, plan, text = _emitted(arguments)
    if arguments.output is None:
        console.result(text)
        console.next(follow("emit", arguments, arguments.file, "-o", f"{recipe.name}.py"), "to write it into a file")
        return 0
    write_whole(Path(arguments.output), text, "another -o")
    parts = ", ".join(f"{use.name}=..." for use in plan.program.uses)
    console.result(arguments.output)
    console.say(f"needs torch alone; plan {plan.identity}")
    phases = "".join(f"{level.name}, " for level in plan.program.levels).rstrip()
    console.next(shlex.join(["python", "-i", arguments.output]), f"then  {phases} = build({parts})")
    return 0


def _emitted(arguments: argparse.Namespace) -> tuple[Recipe, Plan, str]:
    """The recipe, its plan, and the text of the module."""
    if arguments.symbolic:
        recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule, manifests(arguments.modules))
        plan = pipeline.plan(recipe.program, arguments.allow)
        return recipe, plan, pipeline.emit(plan)
    from bilevel.commands.run import build

    recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule)
    limit = read_limits(arguments.limits)
    program = build(recipe, arguments.modules, "cpu", "float32", limit, arguments.allow)
    return recipe, program.plan, program.source
