"""The machine that figures come from: what it is, what is installed, how busy it is, and how fast it can be."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("bilevel", "torch", "numpy", "higher", "torchopt", "betty-ml", "jax", "jaxopt", "hypergrad", "cma")


def machine() -> dict[str, Any]:
    """Processor, cores, versions, date and load (processes that want a core, mean of the last minute)."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "absent": [name for name in PACKAGES if not _version(name)],
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": load(),
    }


def load() -> float:
    """The load of the last minute."""
    return round(os.getloadavg()[0], 2)


def rates(threads: int = 0) -> dict[str, float]:
    """Operations a second of `torch.mm` on 1024 x 1024 float32, bytes a second read and written by a copy of 256 MB."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    left, right = torch.rand(2, 1024, 1024).unbind()
    source, target = torch.rand(64_000_000), torch.empty(64_000_000)
    multiply = _fastest(lambda: torch.mm(left, right))
    copy = _fastest(lambda: target.copy_(source))
    torch.set_num_threads(before)
    return {"operations": 2 * 1024**3 / multiply, "bytes": 2 * 4 * 64_000_000 / copy}


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
