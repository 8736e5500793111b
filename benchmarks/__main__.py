"""Measures the workloads and writes results.json, BENCHMARKS.md and a plot for each.

    python -m benchmarks [W0 W2 ...] [--short] [--rounds 3] [--seconds 0.5] [--skip Inductor] [--out benchmarks]

Needs the optional packages `peers`; a peer that is missing is reported as missing. `--short` takes small cases, to see
that all works. Workloads that are not named keep the figures of an earlier run. Ends with 1 where sides that ran do
not compute the same, or fail; a side that is known to differ is shown with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.catalogue import ALONE, MODULES, workload
from benchmarks.machine import machine
from benchmarks.report import markdown, plot, table
from benchmarks.side_by_side import measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; see above for the result."""
    options = _options(arguments)
    path = options.out / "results.json"
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    problems = []
    for name in options.names or sorted([*MODULES, *ALONE]):
        began, about = time.monotonic(), machine()
        found = _measured(name, options)
        results[name] = {"machine": about, "minutes": round((time.monotonic() - began) / 60, 2), "found": found}
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (options.out / "BENCHMARKS.md").write_text(markdown(results), encoding="utf-8")
        problems += _show(name, found, options.out)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name in ALONE:
        found: dict[str, Any] = importlib.import_module(f"benchmarks.{ALONE[name]}").measure(options.short)
        return found
    return measure(workload(name), options.short, options.rounds, options.seconds, options.skip)


def _show(name: str, found: dict[str, Any], out: Path) -> list[str]:
    """Print the figures and draw them; what went wrong, a missing peer apart."""
    print(f"\n{name}: {found['title']}")
    if name in ALONE:
        print("\n".join(importlib.import_module(f"benchmarks.{ALONE[name]}").lines(found)))
        return []
    for case in found["cases"]:
        print("\n".join(table(case)))
    plot(name, found, out / f"{name}.png")
    rows = [row for case in found["cases"] for row in case["sides"] if "problem" in row]
    return [
        f"{name}, {r['side']}: {r['problem']}"
        for r in rows
        if not r["problem"].startswith(("missing", "left out", "not comparable"))
    ]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted([*MODULES, *ALONE])
    parser.add_argument("names", metavar="W", nargs="*", help=f"of {', '.join(known)}; all without it")
    parser.add_argument("--short", action="store_true", help="small cases: does all work?")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side (3)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn (0.5); one hypergradient at least")
    parser.add_argument("--skip", nargs="*", default=[], metavar="TEXT", help="leave out sides whose name has it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of what is written (benchmarks)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"there is no workload {', '.join(unknown)}; one of {', '.join(known)}")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
