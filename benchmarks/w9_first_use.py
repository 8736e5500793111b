"""W9: seconds until something is seen: `check`, `plan --symbolic`, and the first step, each in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.targets import first_use_verdicts

VERB = """import sys
from bilevel.command import main
try:
    code = main({arguments!r})
except SystemExit as error:
    code = error.code or 0
sys.stderr.write("\\ntorch " + ("imported" if "torch" in sys.modules else "not imported"))
raise SystemExit(code)"""
STEP = """import json, time
began = time.perf_counter()
import bilevel
from bilevel.backends.torch_func.keyed import make_key
import torch
imported = time.perf_counter()
torch.set_num_threads(1)
program = bilevel.compile("maml_sine", compile={kernels!r})
compiled = time.perf_counter()
phase, key = program.phases[-1], make_key(0)
with torch.no_grad():
    state, value = phase.step(phase.begin(key), key)
    float(value)
    first = time.perf_counter()
    phase.step(state, key)
    second = time.perf_counter()
print(json.dumps(dict(imported=imported - began, compiled=compiled - imported, first=first - compiled, second=second - first)))"""
HERE = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""the environment of every process: the bytecode of modules is kept after the first, as where the package is installed"""
VERBS = (("check", "maml_sine"), ("plan", "--symbolic", "maml_sine"), ("list",))


def measure(short: bool) -> dict[str, Any]:
    """Medians of whole processes for the verbs and for first steps, of one process with Inductor, its caches empty."""
    runs = 2 if short else 7
    kinds = ("none", "fx") if short else ("none", "fx", "inductor")
    return {
        "title": "first use: seconds of a fresh process",
        "verbs": {" ".join(verb): _verb(list(verb), runs) for verb in VERBS},
        "steps": {kind: _median_step(kind, 1 if short or kind == "inductor" else 5) for kind in kinds},
    }


def _verb(arguments: list[str], runs: int) -> dict[str, Any]:
    """Median seconds of a verb, the start of Python included, and whether it needed torch."""
    times, said = [], ""
    for _ in range(runs + 1):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", VERB.format(arguments=arguments)],
            check=True,
            capture_output=True,
            text=True,
            env=HERE,
        )
        times.append(time.perf_counter() - began)
        said = done.stderr.splitlines()[-1]
    return {"seconds": statistics.median(times[1:]), "slowest": max(times[1:]), "torch": said.removeprefix("torch ")}


def _median_step(kernels: str, runs: int) -> dict[str, float]:
    """The process, of some, that took the median of seconds until its first step was done."""
    found = [_first_step(kernels) for _ in range(runs)]
    return sorted(found, key=lambda row: row["imported"] + row["compiled"] + row["first"])[runs // 2]


def _first_step(kernels: str) -> dict[str, float]:
    """Seconds of import, compile, first and second step.

    TMPDIR: the header that Inductor makes ready is kept in the system's folder, whatever its cache folder is.
    """
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-c", STEP.format(kernels=kernels)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**HERE, "TORCHINDUCTOR_CACHE_DIR": empty, "TMPDIR": empty},
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures as tables."""
    yield "\n| command | median | slowest | torch |"
    yield "|---|---|---|---|"
    for verb, row in found["verbs"].items():
        yield f"| `bilevel {verb}` | {row['seconds']:.2f} s | {row['slowest']:.2f} s | {row['torch']} |"
    yield "\n| `maml_sine`, kernels | import | compile | first step | second step |"
    yield "|---|---|---|---|---|"
    for kind, row in found["steps"].items():
        cells = (f"{row['imported']:.1f} s", f"{row['compiled']:.1f} s", f"{row['first']:.1f} s")
        yield f"| {kind} | {' | '.join(cells)} | {row['second'] * 1e3:.3g} ms |"
    yield from first_use_verdicts(found)
