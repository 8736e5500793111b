"""`bilevel plan FILE`: what will be computed and how each level is differentiated; `--symbolic` builds nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bilevel import pipeline
from bilevel.commands.console import Console
from bilevel.commands.recipes import add_modules, add_recipe, add_schedule, manifests, open_recipe
from bilevel.recipe import Recipe

if TYPE_CHECKING:
    from bilevel.binding import Parts
    from bilevel.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `plan`."""
    add_recipe(parser)
    add_modules(parser, "import MODULE and let the recipe name what it registers (--symbolic reads its manifest)")
    add_schedule(parser)
    parser.add_argument("--symbolic", action="store_true", help="build no part, import no torch; sizes stay words")
    parser.add_argument("--stage", choices=STAGES, help="print one stage of the compiler in place of the plan")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="html is one page that needs nothing else; > plan.html"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan, or the stage that was asked for."""
    if arguments.stage in ("parsed", "typed", "lowered"):
        arguments.symbolic = True
    plan, parts = _planned(arguments) if arguments.stage not in ("parsed", "typed") else (None, None)
    if plan is None:
        console.result(_early_stage(arguments))
    elif console.json or arguments.format == "json":
        console.document(_document(plan, parts))
    elif arguments.format != "text":
        console.result(_view(arguments.format, plan, parts))
    else:
        console.result(_text(plan, parts, arguments.stage))
    console.next(f"bilevel run {' '.join([arguments.file, *arguments.settings])}", "to compute it")
    return 0


def _planned(arguments: argparse.Namespace) -> tuple[Plan, Parts | None]:
    """The plan and, unless it is symbolic, the parts that give it sizes."""
    if arguments.symbolic:
        return pipeline.plan(_recipe(arguments).program), None
    from bilevel import program as compiler
    from bilevel.commands.modules import import_modules

    recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule)
    program = compiler.compile(recipe, registry=import_modules(arguments.modules))
    return program.plan, program.parts


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return open_recipe(arguments.file, arguments.settings, arguments.schedule, manifests(arguments.modules))


def _early_stage(arguments: argparse.Namespace) -> str:
    from bilevel.commands.stages import parsed, typed

    recipe = _recipe(arguments)
    return parsed(recipe) if arguments.stage == "parsed" else typed(recipe.program)


def _text(plan: Plan, parts: Parts | None, stage: str | None) -> str:
    from bilevel.commands.stages import lowered, scheduled
    from bilevel.explain import plan_text

    if stage is None:
        return plan_text(plan, parts)
    return lowered(plan) if stage == "lowered" else scheduled(plan)


def _view(format: str, plan: Plan, parts: Parts | None) -> str:
    """The plan in one of the formats that are made from its document."""
    from bilevel.views import FORMATS as VIEWS
    from bilevel.views import read

    return VIEWS[format](read(_document(plan, parts))).rstrip("\n")


def _document(plan: Plan, parts: Parts | None) -> dict[str, object]:
    from bilevel.plan_json import plan_json

    return plan_json(plan) | ({} if parts is None else {"sizes": _sizes(plan, parts)})


def _sizes(plan: Plan, parts: Parts) -> dict[str, int]:
    """Numbers in each variable that is a tree of parameters."""
    from bilevel.dsl.datatypes import Tree
    from bilevel.explain import tree_size

    variables = [variable for level in plan.program.walk_levels() for variable in level.variables]
    return {v.name: tree_size(v.type, parts) for v in variables if isinstance(v.type, Tree)}


FORMATS = ("text", "json", "dot", "mermaid", "svg", "html")
STAGES = ("parsed", "typed", "lowered", "scheduled")
