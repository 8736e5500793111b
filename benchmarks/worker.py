"""One side of one case in a process of its own: makes it once, then computes, times or measures it when told to.

    python -m benchmarks.worker W0 "JAX jit(grad(scan))" '{"T": 5}' cpu

Commands and answers are lines: `gradient FILE`, `time SECONDS`, `memory`, `profile`; each answer is one JSON object on stdout.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import workload
from benchmarks.workload import Work


def main() -> None:
    """Answer until the input ends; what libraries print goes to stderr."""
    name, wanted, values, device = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    chosen = workload(name)
    side = next(side for side in chosen.sides if side.name == wanted)
    if side.needs and importlib.util.find_spec(side.needs) is None:
        print(json.dumps({"missing": f"{side.needs} is not installed"}), file=answers)
        return
    try:
        _prepare(chosen.threads, device)
        began = time.perf_counter()
        work = waiting(side.make(values, chosen.arrays(values)), device)
        found = work.run()
        print(json.dumps({"before": {"ready": time.perf_counter() - began, **(work.before or {})}}), file=answers)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            print(json.dumps(_answer(work, found, command, argument, device)), file=answers)
    except Exception as error:  # noqa: BLE001 - a side that fails is a result, and the others go on
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}), file=answers)


def _prepare(threads: int, device: str) -> None:
    """As many threads as wanted; what the sides make goes to the device, our own side names it for itself."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    if device != "cpu":
        torch.set_default_device(device)


def waiting(work: Work, device: str) -> Work:
    """The same work, done when a GPU has done it."""
    import torch

    if device == "cpu":
        return work

    def run() -> Any:
        found = work.run()
        torch.cuda.synchronize()
        return found

    return replace(work, run=run)


def _answer(work: Work, found: Any, command: str, argument: str, device: str) -> dict[str, Any]:
    if command == "gradient":
        np.savez(Path(argument), *work.numbers(found))
        return {}
    if command == "time":
        return {"seconds": _times(work, float(argument))}
    if command == "memory":
        return {"bytes": extra_peak(work) if device == "cpu" else extra_peak_on_gpu(work)}
    if command == "profile":
        return {"spent": spent(work)} if device == "cpu" else {}
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


def extra_peak_on_gpu(work: Work) -> int | None:
    """The same for tensors of torch on a GPU, or what the compiler of another library planned."""
    import torch

    if work.allocated is not None:
        return work.allocated()
    work.run()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work.run()
    return torch.cuda.max_memory_allocated() - before


OWN = "bilevel::small"
"""The name of the products of our own loop in a profile."""
PRODUCTS = {
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "addbmm",
    "matmul",
    "linear",
    "_mkl_linear",
    "mkldnn::_linear_pointwise",
    OWN,
}


def spent(work: Work) -> dict[str, float]:
    """Seconds of one hypergradient by what they went to, as torch's profiler on the processor saw them.

    What is no operator of torch is Python between them, and kernels that Inductor fused.
    """
    from torch.profiler import ProfilerActivity, profile

    work.run()
    with _small_products_seen(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        work.run()
        whole = time.perf_counter() - began
    found = dict.fromkeys(("products", "convolutions", "other operators"), 0.0)
    for row in profiler.key_averages():
        name = row.key.removeprefix("aten::")
        if row.key.startswith(("aten::", "mkldnn", "mkl", OWN)):
            found[_kind(name)] += row.self_cpu_time_total * 1e-6
    return {**found, "Python and fused kernels": max(0.0, whole - sum(found.values())), "whole": whole}


@contextmanager
def _small_products_seen() -> Iterator[None]:
    """While it lasts, the profiler sees the products of our own loop, which Inductor's code calls past torch."""
    from torch._inductor.select_algorithm import extern_kernels
    from torch.profiler import record_function

    from bilevel.backends.torch_func.trace import small

    call = getattr(extern_kernels, small.NAME, None)

    def recorded(*given: Any, **named: Any) -> None:
        with record_function(OWN):
            small.into(*given, **named)

    if call is not None:
        setattr(extern_kernels, small.NAME, recorded)
    try:
        yield
    finally:
        if call is not None:
            setattr(extern_kernels, small.NAME, call)


def _kind(operator: str) -> str:
    if operator in PRODUCTS:
        return "products"
    return "convolutions" if "conv" in operator else "other operators"


def _status(name: str) -> int:
    """A line of the process's own status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
