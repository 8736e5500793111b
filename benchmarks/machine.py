"""The machine that figures come from: what it is, what is installed, how busy others keep it, and how fast it can be."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("bilevel", "torch", "numpy", "higher", "torchopt", "betty-ml", "jax", "jaxopt", "hypergrad", "cma")


def machine() -> dict[str, Any]:
    """Processor, cores, versions, date."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "absent": [name for name in PACKAGES if not _version(name)],
        **_accelerator(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _accelerator() -> dict[str, str]:
    """The name of the GPU, where there is one."""
    import torch

    return {"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


WORKING = (1, 2, 3, 6, 7, 8)
"""in a line of /proc/stat: user, nice, system, interrupts, soft interrupts, stolen; idle and waiting are in between"""


@dataclass(frozen=True, slots=True)
class Busy:
    """Seconds of the processors that this process may use, by now: of all processes, and of this one with those that it has started and waited for."""

    at: float
    all: float
    own: float

    @classmethod
    def now(cls) -> Busy | None:
        """None where the system does not tell (it has no /proc/stat)."""
        path = Path("/proc/stat")
        if not path.exists():
            return None
        here = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [line.split()[:9] for line in path.read_text("ascii").splitlines() if line.split(" ", 1)[0] in here]
        ticks = sum(int(row[place]) for row in rows for place in WORKING)
        return cls(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]))


def others(before: Busy | None) -> float | None:
    """How many cores other processes have kept busy since then, on average; None where that is not known."""
    after = Busy.now()
    if before is None or after is None:
        return None
    theirs = (after.all - before.all) - (after.own - before.own)
    return round(max(0.0, theirs / (after.at - before.at)), 2)


def rates(threads: int = 0, device: str = "cpu") -> dict[str, float]:
    """Operations a second of float32 products, by `torch.mm` and by the fastest that torch has; bytes a second copied.

    The matrices are 1024 x 1024, on a GPU 8192 x 8192; the copy is of 256 MB, read and written. On a processor oneDNN,
    which torch has for linear layers, can be twice as fast as what is behind `torch.mm`.
    """
    import torch

    from bilevel.backends.torch_func.trace.onednn import linear

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    size = 1024 if device == "cpu" else 8192
    left, right = torch.rand(2, size, size, device=device).unbind()
    source, target = torch.rand(64_000_000, device=device), torch.empty(64_000_000, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    multiply = _fastest(lambda: (torch.mm(left, right), wait()))
    others = [_fastest(lambda: linear(left, right))] if device == "cpu" and torch.backends.mkldnn.is_available() else []
    copy = _fastest(lambda: (target.copy_(source), wait()))
    torch.set_num_threads(before)
    work = 2 * size**3
    return {"operations": work / min([multiply, *others]), "mm": work / multiply, "bytes": 2 * 4 * 64_000_000 / copy}


def _fastest(work: Callable[[], object]) -> float:
    """The median of the faster half of 12 runs, in seconds."""
    times = []
    for _ in range(12):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(sorted(times)[:6])


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "") or (
        platform.processor() or "unknown"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
