"""`bilevel plan FILE`: what will be computed and how each level is differentiated; `--symbolic` builds nothing."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel import pipeline
from bilevel.commands.arguments import Usage, follow
from bilevel.commands.console import PLANNING, Console, waiting
from bilevel.commands.recipes import (
    add_device,
    add_kernels,
    add_limits,
    add_modules,
    add_recipe,
    add_schedule,
    manifests,
    open_recipe,
)
from bilevel.recipe import Recipe

if TYPE_CHECKING:
    from bilevel.binding import Parts
    from bilevel.plan import Plan
    from bilevel.program import Program

FORMATS = ("text", "json", "dot", "mermaid", "svg", "html")
STAGES = ("parsed", "typed", "lowered", "scheduled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `plan`."""
    add_recipe(parser)
    add_modules(parser, "import MODULE and let the recipe name what it registers (--symbolic reads its manifest)")
    add_schedule(parser)
    add_limits(parser)
    parser.add_argument("--symbolic", action="store_true", help="build no part, import no torch; sizes stay words")
    parser.add_argument("--stage", choices=STAGES, help="print one stage of the compiler in place of the plan")
    parser.add_argument("--why", nargs=2, metavar=("LEVEL", "MODE"), help="why a level is, or is not, solved by a mode")
    parser.add_argument("--pin", action="store_true", help="write the modes that were chosen into the recipe's file")
    parser.add_argument("--diff", metavar="OTHER", help="compare with the plan of another recipe, or of memory=SIZE")
    add_device(parser)
    add_kernels(
        parser, "kernels as in `run`; named, they are made, and shown function by function (auto: only which, and why)"
    )
    parser.add_argument(
        "--calibration",
        choices=("here", "reference"),
        help="whose speed times are predicted for: this machine's, where it was measured (here), or the reference",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="html is one page that needs nothing else; > plan.html"
    )
    parser.add_argument("--json", action="store_true", help="the same as --format json")


@dataclass(frozen=True, slots=True)
class Made:
    """A plan and, unless it is symbolic, the program with the parts that give it sizes."""

    recipe: Recipe
    plan: Plan
    program: Program | None


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan, the stage that was asked for, or one answer about it."""
    _check(arguments, console)
    if arguments.stage in ("parsed", "typed"):
        console.result(_early_stage(arguments))
        return 0
    made = _planned(arguments, arguments.file, arguments.limits)
    if arguments.pin:
        from bilevel.pinning import pin

        pin(made.recipe, made.plan, arguments.file)
        made = _planned(arguments, arguments.file, arguments.limits)
    if arguments.why:
        console.result(made.plan.why(*arguments.why))
    elif arguments.diff:
        console.result(_difference(made, arguments))
    elif console.json or arguments.format == "json":
        console.document(_document(made))
    elif arguments.format != "text":
        console.result(_view(arguments.format, made))
    else:
        console.result(_text(made, arguments.stage) + _kernels(made, arguments))
    if not (console.json or arguments.format == "json"):
        console.next(follow("run", arguments, arguments.file), "to compute it")
    return 0


def _check(arguments: argparse.Namespace, console: Console) -> None:
    """Refuse what would be ignored: one answer is printed, and without parts there are no sizes."""
    answers = {"--stage": arguments.stage, "--why": arguments.why, "--diff": arguments.diff}
    given = [name for name, value in answers.items() if value]
    if arguments.json or console.json or arguments.format != "text":
        given.append("--json" if arguments.format == "text" else f"--format {arguments.format}")
    if len(given) > 1 and given != ["--stage", "--diff"]:
        raise Usage(f"{given[0]} and {given[1]} ask for two answers: give one of them")
    early = arguments.stage in ("parsed", "typed")
    if early and (arguments.pin or arguments.diff):
        raise Usage(
            f"--stage {arguments.stage} stands before the plan: there is nothing to {'pin' if arguments.pin else 'compare'}"
        )
    if not (arguments.symbolic or early or arguments.stage == "lowered"):
        return
    whose = "--symbolic" if arguments.symbolic else f"--stage {arguments.stage}"
    sized = ["--limit"] * bool(arguments.limits) + ["--calibration"] * (arguments.calibration is not None)
    sized += ["--diff memory=..."] * bool(arguments.diff and arguments.diff.startswith("memory="))
    sized += ["--compile"] * (arguments.compile != "auto") + ["--device"] * (arguments.device != "cpu")
    if sized:
        raise Usage(f"{whose} builds no part, so there are no sizes for {sized[0]} to decide about")


def _planned(arguments: argparse.Namespace, file: str, limits: list[str]) -> Made:
    if arguments.symbolic or arguments.stage == "lowered":
        recipe = open_recipe(file, arguments.settings, arguments.schedule, manifests(arguments.modules))
        return Made(recipe, pipeline.plan(recipe.program, arguments.allow), None)
    from bilevel import compile as compiled
    from bilevel.commands.modules import import_modules
    from bilevel.costs import reference
    from bilevel.limits import read_limits

    recipe = open_recipe(file, arguments.settings, arguments.schedule)
    with waiting(PLANNING.format(recipe.name)):
        program = compiled(
            recipe,
            registry=import_modules(arguments.modules),
            device=arguments.device,
            limit=read_limits(limits),
            allow=arguments.allow,
            calibration=reference() if arguments.calibration == "reference" else None,
            compile=arguments.compile,
        )
    return Made(recipe, program.explained, program)


def _difference(made: Made, arguments: argparse.Namespace) -> str:
    """The lines in which two plans differ, with those around them."""
    from difflib import unified_diff

    limits = [arguments.diff] if arguments.diff.startswith("memory=") else arguments.limits
    other = _planned(arguments, arguments.file if limits == [arguments.diff] else arguments.diff, limits)
    own, its = (_text(one, arguments.stage).splitlines() for one in (made, other))
    lines = list(unified_diff(own, its, arguments.file, arguments.diff, lineterm="", n=1))
    return "\n".join(lines) or "the two plans are the same"


def _early_stage(arguments: argparse.Namespace) -> str:
    from bilevel.commands.stages import parsed, typed

    recipe = open_recipe(arguments.file, arguments.settings, arguments.schedule, manifests(arguments.modules))
    return parsed(recipe) if arguments.stage == "parsed" else typed(recipe.program)


def _text(made: Made, stage: str | None) -> str:
    from bilevel.commands.stages import lowered, scheduled
    from bilevel.explain import plan_text

    if stage is None:
        return plan_text(made.plan, None if made.program is None else made.program.parts)
    return lowered(made.plan) if stage == "lowered" else scheduled(made.plan)


def _kernels(made: Made, arguments: argparse.Namespace) -> str:
    """Which kernels a run has and why; those that are asked for by name one by one."""
    if made.program is None or arguments.stage is not None:
        return ""
    from bilevel.compiling import kernel_line  # imports torch, which a symbolic plan does without

    if arguments.compile != "auto":
        return f"\n{made.program.explain_kernels()}"
    return f"\n{kernel_line(made.program.kernels)}\n"


def _view(format: str, made: Made) -> str:
    """The plan in one of the formats that are made from its document."""
    from bilevel.views import FORMATS as VIEWS
    from bilevel.views import read

    return VIEWS[format](read(_document(made))).rstrip("\n")


def _document(made: Made) -> dict[str, object]:
    from bilevel.plan_json import plan_json

    if made.program is None:
        return plan_json(made.plan)
    kernels = {"kind": made.program.kernels.kind, "why": made.program.kernels.reason}
    return plan_json(made.plan) | {"sizes": _sizes(made.plan, made.program.parts), "kernels": kernels}


def _sizes(plan: Plan, parts: Parts) -> dict[str, int]:
    """Numbers in each variable that is a tree of parameters."""
    from bilevel.dsl.datatypes import Tree
    from bilevel.explain import tree_size

    variables = [variable for level in plan.program.walk_levels() for variable in level.variables]
    return {v.name: tree_size(v.type, parts) for v in variables if isinstance(v.type, Tree)}
