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
        **_accelerator(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": load(),
    }


def _accelerator() -> dict[str, str]:
    """The name of the GPU, where there is one."""
    import torch

    return {"accelerator": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def load() -> float:
    """The load of the last minute."""
    return round(os.getloadavg()[0], 2)


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
