"""`bilevel analyze FILE`: run some steps on copies, and set what the plan said beside what was measured.

It writes no run folder. What it keeps is the calibration of this machine, which later plans use and name.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel.commands.arguments import follow
from bilevel.commands.console import Console
from bilevel.commands.recipes import (
    add_device,
    add_limits,
    add_modules,
    add_recipe,
    add_schedule,
    open_recipe,
    read_positive,
    read_seed,
)
from bilevel.limits import read_limits

if TYPE_CHECKING:
    from bilevel.analysis import Analysis

FORMATS = ("text", "json", "html")
WRONG = 5
"""exit code of a failed gradient check"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `analyze`."""
    add_recipe(parser)
    add_modules(parser, "import MODULE and let the recipe name what it registers; may be given again")
    add_schedule(parser)
    add_limits(parser)
    parser.add_argument("--steps", metavar="N", type=read_positive, default=20, help="of every outermost level (20)")
    parser.add_argument("--seed", metavar="N", type=read_seed, default=0, help="decides every draw and start (0)")
    add_device(parser)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of real numbers (float32)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="html is one page that needs nothing else")
    parser.add_argument("--json", action="store_true", help="the same as --format json")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure, print, and keep the calibration; 5 where a hypergradient is wrong."""
    from bilevel.commands.run import build, threads_for, use_threads

    recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule)
    limit = read_limits(arguments.limits)
    program = build(recipe, arguments.modules, arguments.device, arguments.dtype, limit, arguments.allow)
    use_threads(threads_for(program))
    from bilevel.analysis import analyze
    from bilevel.costs import store

    found = analyze(program, arguments.steps, arguments.seed)
    path = store(found.after, found.program.parts.device.type)
    _show(found, path, arguments.format, console)
    if found.gradcheck is not None and not found.gradcheck.ok:
        console.next(follow("gradcheck", arguments, arguments.file), "to see which hypergradient is wrong")
        return WRONG
    console.next(follow("plan", arguments, arguments.file), "to plan with what was measured")
    return 0


def _show(found: Analysis, path: Path, format: str, console: Console) -> None:
    from bilevel.analysis_text import analysis_json, analysis_text
    from bilevel.plan_json import plan_json
    from bilevel.views import FORMATS as VIEWS
    from bilevel.views import read

    if format == "text" and not console.json:
        console.result(analysis_text(found))
        console.say(f"calibration kept in {path}")
        return
    document = plan_json(found.program.explained) | analysis_json(found)
    if console.json or format == "json":
        console.document(document)
    else:
        console.result(VIEWS[format](read(document)).rstrip("\n"))
