"""Runs the small child of every packaged recipe, checks its hypergradients, and prints one table.

    python -m benchmarks.every_recipe [NAME ...] [--seeds 3] [--markdown recipes/RESULTS.md] [--json every_recipe.json]
    python -m benchmarks.every_recipe --from FILE.json ... [--markdown recipes/RESULTS.md]

For each recipe: class, seconds of one run, its first report at step 0 and at the end, the gain in standard errors
(`improvement.py` says over what), and what `gradcheck` finds. A gain below 3 and a failed check are marked, and end the
program with exit code 1. `--from` runs nothing: it joins the rows of earlier calls; of a recipe in several files the
last counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.improvement import Improvement, improvement, main_report
from bilevel import compile as compile_recipe
from bilevel.catalogue import catalogue
from bilevel.errors import RecipeError
from bilevel.gradcheck import Gradcheck
from bilevel.program import Program
from bilevel.progress import progress
from bilevel.run import Run, execute
from bilevel.spread import Estimator

HEADS = ("recipe", "source", "class", "seconds", "report", "step 0", "end", "gain", "gradcheck", "")


@dataclass(frozen=True, slots=True)
class Result:
    """One row; `problem` in place of numbers where the recipe did not run."""

    recipe: str
    source: str
    exactness: str = ""
    seconds: float = 0.0
    gain: Improvement | None = None
    check: str = ""
    passed: bool = False
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran, gained and passed its gradient check."""
        return self.gain is not None and self.gain.ok and self.passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipes, print the table; 1 where one of them is marked."""
    options = _options(arguments)
    results = joined(options.files) if options.files else _ran(options.names, options.seeds)
    Console(width=180).print(_table(results))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(markdown(results), encoding="utf-8")
    return 0 if all(result.ok for result in results) else 1


def _ran(names: Sequence[str], seeds: int) -> list[Result]:
    """The rows of these recipes, of all where none is named; each is shown as it comes."""
    wanted = [one for one in catalogue() if one.quick and (not names or one.name in names)]
    results = []
    for number, one in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {one.name}", file=sys.stderr, flush=True)
        results.append(_result(one.name, one.source, seeds))
        Console(file=sys.stderr).print(_table(results[-1:]))
    return results


def joined(files: Sequence[Path]) -> list[Result]:
    """The rows that `--json` wrote into several files, by name; of two rows of a recipe the later one."""
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    found = {row["recipe"]: Result(**{**row, "gain": row["gain"] and Improvement(**row["gain"])}) for row in rows}
    return [found[name] for name in sorted(found)]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.every_recipe", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="recipes to run; all without it")
    parser.add_argument("--seeds", type=int, default=3, help="runs of a recipe whose report has no copies (3)")
    parser.add_argument("--from", dest="files", type=Path, nargs="+", metavar="FILE", help="join rows in place of runs")
    parser.add_argument("--json", type=Path, help="write the rows as JSON")
    parser.add_argument("--markdown", type=Path, help="write the table as a page")
    return parser.parse_args(arguments)


# ---- one recipe ----------------------------------------------------------------------------------------------


def _result(name: str, source: str, seeds: int) -> Result:
    """Compile, run and check one recipe; what goes wrong becomes its row."""
    try:
        program = compile_recipe(f"{name}_quick")
        runs, seconds = _runs(program, seeds)
        gain = improvement(program, runs)
        found = None if runs[0].exactness == "values" else program.gradcheck(directions=2)
    except (RecipeError, ArithmeticError, RuntimeError) as error:
        return Result(name, source, problem=str(error).partition("\n")[0])
    return Result(name, source, runs[0].exactness, seconds, gain, _spelled(found), found is None or found.ok)


def _runs(program: Program, seeds: int) -> tuple[list[Run], float]:
    """Finished runs, one where the copies tell the spread, and the seconds of the first."""
    copies = main_report(program).name in Estimator(program).counts
    runs, began = [], time.perf_counter()
    seconds = 0.0
    for seed in range(1 if copies else seeds):
        with progress(plain=not sys.stderr.isatty()) as shown:
            runs.append(execute(program, None, seed, [shown]))
        seconds = seconds or time.perf_counter() - began
    return runs, seconds


def _spelled(found: Gradcheck | None) -> str:
    """The worst error of what was judged, the largest angle of what is not exact; a search has no derivative."""
    if found is None:
        return "nothing to compare"
    errors = [
        e for row in found.rows if row.ok is not None for e in (row.differences, *row.modes.values()) if e is not None
    ]
    angles = [row.bias.angle for row in found.rows if row.bias is not None]
    words = []
    if errors:
        words.append(f"exact to {max(errors):.0e}")
    if angles:
        words.append(f"{max(angles):.1f} degrees off")
    return ", ".join(words) or "nothing to compare"


# ---- the table -----------------------------------------------------------------------------------------------


def _table(results: Sequence[Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(HEADS):
        table.add_column(head, justify="right" if 3 <= place <= 7 and place != 4 else "left")
    for result in results:
        table.add_row(*_cells(result))
    return table


def _cells(result: Result) -> tuple[str, ...]:
    gain = result.gain
    if gain is None:
        return result.recipe, result.source, "", "", "", "", "", "", "", result.problem
    marks = ["no gain beyond chance"] * (not gain.ok) + ["gradcheck failed"] * (not result.passed)
    ends = gain.report, f"{gain.first:.4g}", f"{gain.last:.4g}", f"{gain.errors:.1f} ({gain.over})"
    return (
        result.recipe,
        result.source,
        result.exactness,
        f"{result.seconds:.0f}",
        *ends,
        result.check,
        ", ".join(marks),
    )


def markdown(results: Sequence[Result]) -> str:
    """The table as a page, with the command, the machine and the date."""
    lines = [
        "# Results of the quick recipes",
        "",
        "Written by `python -m benchmarks.every_recipe --markdown recipes/RESULTS.md`: small sizes that run in under a",
        "minute each, to show that every recipe learns. They are no reproduction of the papers' tables. `gain` counts the",
        "standard errors between step 0 and the end, over the report's copies or over runs with several seeds;",
        "`gradcheck` compares hypergradients in float64 with difference quotients and with every other exact mode, and",
        "gives the angle to the exact one where the class is not exact.",
        "",
        f"{_machine()}, {date.today().isoformat()}.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "---|" * len(HEADS),
        *("| " + " | ".join(_cells(result)) + " |" for result in results),
    ]
    return "\n".join(lines) + "\n"


def _machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
