"""`bilevel check FILES`: every mistake of every recipe, without running anything. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bilevel import ir, pipeline
from bilevel.commands.arguments import follow
from bilevel.commands.console import Console
from bilevel.commands.recipes import add_modules, manifests
from bilevel.errors import Diagnostic, RecipeError
from bilevel.pipeline import Options
from bilevel.registry import Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `check`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="paths of recipes, or names of packaged ones")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    add_modules(parser, "read MODULE.bilevel.json beside that module (bilevel manifest MODULE writes it)")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Report on every file; 3 where one of them has errors."""
    known = manifests(arguments.modules)
    found = {file: findings(file, known) for file in arguments.files}
    counted = ("error", "warning") if arguments.strict else ("error",)
    failed = [file for file, ones in found.items() if any(one.severity in counted for one in ones)]
    if console.json:
        files = [{"file": file, "diagnostics": [one.to_json() for one in ones]} for file, ones in found.items()]
        console.document({"ok": not failed, "files": files})
        return 3 if failed else 0
    console.diagnostics([one for ones in found.values() for one in ones])
    for file, ones in found.items():
        console.result(_verdict(file, ones))
    _next(failed, found, arguments, console)
    return 3 if failed else 0


def findings(file: str, known: Sequence[Manifest]) -> list[Diagnostic]:
    """Errors and warnings of one recipe, in the order of its text; those of planning where it has no others."""
    try:
        written = pipeline.read(file)
        folder = Path(file).parent if Path(file).suffix == ".bl" else pipeline.ZOO
        options = Options(manifests=known)
        found = pipeline.problems(written, options, folder)
        if not any(one.severity == "error" for one in found):
            found += _planned(pipeline.check(written, options, folder))
    except RecipeError as error:
        return list(error.diagnostics)
    return found


def _planned(program: ir.Program) -> list[Diagnostic]:
    """What only the planner finds; what this version cannot run yet is no mistake of the recipe."""
    from bilevel.facts import derive_facts
    from bilevel.support import unsupported

    if missing := list(unsupported(program, derive_facts(program))):
        return [replace(one, severity="warning") for one in missing]
    try:
        pipeline.plan(program)
    except RecipeError as error:
        return list(error.diagnostics)
    return []


def _verdict(file: str, found: Sequence[Diagnostic]) -> str:
    errors = sum(one.severity == "error" for one in found)
    warnings = len(found) - errors
    counts = [f"{n} {word}{'s' * (n != 1)}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{file}: {', '.join(counts) or 'no errors'}"


def _next(
    failed: Sequence[str], found: dict[str, list[Diagnostic]], arguments: argparse.Namespace, console: Console
) -> None:
    first = arguments.files[0]
    unable = [] if failed else [first] * any(one.code == "B507" for one in found[first])  # a plan would say no more
    if told := [*failed, *unable]:
        console.next(f"bilevel explain {found[told[0]][0].code}", "more about the first message")
    else:
        console.next(follow("plan", arguments, first), "what it will compute")
