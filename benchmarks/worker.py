"""One side of one case in a process of its own: makes it once, then computes, times or measures it when told to.

    python -m benchmarks.worker W0 "JAX jit(grad(scan))" '{"T": 5}'

Commands and answers are lines: `gradient FILE`, `time SECONDS`, `memory`; each answer is one JSON object on stdout.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import workload
from benchmarks.workload import Work


def main() -> None:
    """Answer until the input ends; what libraries print goes to stderr."""
    name, wanted, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    chosen = workload(name)
    side = next(side for side in chosen.sides if side.name == wanted)
    if side.needs and importlib.util.find_spec(side.needs) is None:
        print(json.dumps({"missing": f"{side.needs} is not installed"}), file=answers)
        return
    try:
        _threads(chosen.threads)
        began = time.perf_counter()
        work = side.make(values, chosen.arrays(values))
        found = work.run()
        print(json.dumps({"before": {"ready": time.perf_counter() - began, **(work.before or {})}}), file=answers)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            print(json.dumps(_answer(work, found, command, argument)), file=answers)
    except Exception as error:  # noqa: BLE001 - a side that fails is a result, and the others go on
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}), file=answers)


def _threads(number: int) -> None:
    import torch

    if number:
        torch.set_num_threads(number)


def _answer(work: Work, found: Any, command: str, argument: str) -> dict[str, Any]:
    if command == "gradient":
        np.savez(Path(argument), *work.numbers(found))
        return {}
    if command == "time":
        return {"seconds": _times(work, float(argument))}
    if command == "memory":
        return {"bytes": extra_peak(work)}
    raise ValueError(command)


def _times(work: Work, seconds: float) -> list[float]:
    """Wall times of single hypergradients, one at least; the first does not count where it is short beside the rest."""
    times: list[float] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work.run()
        times.append(time.perf_counter() - start)
    return times[1:] if len(times) > 3 else times


def extra_peak(work: Work) -> int | None:
    """Bytes of memory in use at the worst moment of one hypergradient, beyond those before it; None off Linux.

    Freed memory goes back to the system first, so that what an allocator kept from earlier is not counted as free;
    where a library keeps it all the same, what its compiler planned is the figure, if that is more.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    work.run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins again from now
    except OSError:
        return None
    work.run()
    planned = work.allocated() if work.allocated is not None else 0
    return max(_status("VmHWM") - before, planned)


def _status(name: str) -> int:
    """A line of the process's own status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
