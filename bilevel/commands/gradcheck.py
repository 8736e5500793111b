"""`bilevel gradcheck FILE`: hypergradients against difference quotients and against every other exact mode."""

from __future__ import annotations

import argparse

from bilevel.commands.arguments import follow
from bilevel.commands.console import Console
from bilevel.commands.recipes import add_modules, add_recipe, add_schedule, open_recipe, read_positive, read_seed

WRONG = 5
"""exit code of a failed check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gradcheck`."""
    add_recipe(parser)
    add_modules(parser, "import MODULE and let the recipe name what it registers; may be given again")
    add_schedule(parser)
    parser.add_argument("--level", metavar="L", help="vary only how this level is differentiated")
    parser.add_argument("--against", metavar="MODE", help="fd (difference quotients), or rmd, fmd, ... (all)")
    parser.add_argument("--directions", metavar="N", type=read_positive, default=3, help="difference quotients (3)")
    parser.add_argument("--seed", metavar="N", type=read_seed, default=0, help="of draws, starts and directions (0)")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document on stdout")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Check, and print a table; 5 where something is wrong."""
    from bilevel.commands.run import build

    recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule)
    program = build(recipe, arguments.modules, "cpu", "float64")
    found = program.gradcheck(arguments.directions, arguments.seed, arguments.level, arguments.against)
    if arguments.json:
        console.document(found.to_json())
    else:
        console.result(str(found))
    if found.ok:
        console.next(follow("run", arguments, arguments.file), "to follow these hypergradients")
    else:
        level = next((lv.name for lv in program.plan.program.walk_levels() if lv.parent is not None), None)
        if level is not None and arguments.level is None:
            console.next(
                follow("gradcheck", arguments, arguments.file, "--level", level), "to see which level is wrong"
            )
    return 0 if found.ok else WRONG
