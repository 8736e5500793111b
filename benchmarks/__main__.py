"""Measures the workloads and writes BENCHMARKS.md, benchmarks/results.json and a plot for each.

    python -m benchmarks [W0 W2 ...] [--short] [--rounds 3] [--seconds 0.5] [--skip Inductor] [--device cuda] [--out DIR]

Needs the optional packages `peers`; a peer that is missing is reported as missing. `--short` takes small cases, to see
that all works, and writes to build/benchmarks. Workloads that are not named keep the figures of an earlier run, and so
do those of the other device. Ends with 1 where sides that ran do not compute the same, or fail; a side that is known
to differ is shown with the reason. `--report` measures nothing and writes anew what results.json has.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.catalogue import ALONE, MODULES, workload
from benchmarks.machine import Busy, machine, others
from benchmarks.report import CUDA, growth_plot, markdown, plot, table
from benchmarks.side_by_side import measure
from benchmarks.targets import verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; see above for the result."""
    options = _options(arguments)
    places = _places(options)
    path = places["results"]
    places["plots"].mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    problems = []
    for name in [] if options.report else options.names or _able(options.device):
        began, before, about = time.monotonic(), Busy.now(), machine()
        found = _measured(name, options)
        about["others"] = others(before)
        shown = name if options.device == "cpu" else name + CUDA
        results[shown] = {"machine": about, "minutes": round((time.monotonic() - began) / 60, 2), "found": found}
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        problems += _show(shown, found, places["plots"])
        _write_page(results, places)
    if options.report:
        for name in results:
            _show(name, results[name]["found"], places["plots"])
        _write_page(results, places)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _places(options: argparse.Namespace) -> dict[str, Path]:
    """Where things are written: beside the project, or all in one folder."""
    out = options.out or (Path("build/benchmarks") if options.short else None)
    folder = out or Path("benchmarks")
    return {
        "page": (out or Path()) / "BENCHMARKS.md",
        "results": folder / "results.json",
        "plots": folder / "plots",
    }


def _write_page(results: dict[str, Any], places: dict[str, Path]) -> None:
    """BENCHMARKS.md with all figures so far, so that a run that is broken off leaves it."""
    plots = os.path.relpath(places["plots"], places["page"].parent)
    places["page"].write_text(markdown(results, plots), encoding="utf-8")


def _able(device: str) -> list[str]:
    """The workloads that a device is measured with."""
    return sorted([*(n for n in MODULES if device in workload(n).devices), *(ALONE if device == "cpu" else ())])


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    if name in ALONE:
        found: dict[str, Any] = importlib.import_module(f"benchmarks.{ALONE[name]}").measure(options.short)
        return found
    return measure(workload(name), options.short, options.rounds, options.seconds, options.skip, options.device)


def _show(name: str, found: dict[str, Any], out: Path) -> list[str]:
    """Print the figures and draw them; what went wrong, a missing peer apart."""
    print(f"\n{name}: {found['title']}")
    if name in ALONE:
        if "T" in found:
            growth_plot(found, out / f"{name}.png")
        print("\n".join(importlib.import_module(f"benchmarks.{ALONE[name]}").lines(found)))
        return []
    for case in found["cases"]:
        print("\n".join([*table(case), *verdicts(name, case)]))
    plot(found, out / f"{name.replace(' ', '_')}.png")
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: W0, W1, W5 and W7 on a GPU")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the page and the plots anew")
    parser.add_argument(
        "--out", type=Path, help="one folder for all that is written (the project; short: build/benchmarks)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"there is no workload {', '.join(unknown)}; one of {', '.join(known)}")
    unable = [name for name in options.names if name not in _able(options.device)]
    if unable:
        parser.error(f"{', '.join(unable)} is measured on the processor only; on a GPU {', '.join(_able('cuda'))}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"--device cuda: PyTorch {torch.__version__} sees no GPU here; without --device the processor is taken"
        )
    return options


if __name__ == "__main__":
    raise SystemExit(main())
