"""W8: how our own time and memory grow with inner steps T, tasks P and parameters n, and whether late steps cost more."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks import parts
from benchmarks.memory_growth import measure as measure_memory
from benchmarks.targets import growth_verdicts

TASKS = """recipe tasks
use net = given_net(1, 40, 40, 1)
use waves = fixed_waves(count = COUNT, shots = 10)
level meta {
  theta : params(net) from init(net)
  each task in waves.all
  level adapt {
    phi : params(net) from theta
    minimize mean(mse(net[phi](task.xs), task.ys))
    by sgd(lr = 0.01) for STEPS steps
  }
  minimize mean[task] mean(mse(net[phi](task.xq), task.yq))
  by sgd(lr = 0.001) for 200 steps
}
schedule { adapt : rmd }"""
VECTOR = """recipe vector
level top {
  x : real[COUNT] from 0.3
  level fit {
    w : real[COUNT] from 0.5 * x
    minimize sum(w^4) + sqnorm(w - x)
    by sgd(lr = 0.05) for 10 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 1 steps
}
schedule { fit : rmd }"""


def measure(short: bool) -> dict[str, Any]:
    """Seconds of a hypergradient by T, P and n; peak bytes by T; seconds of late and early outer steps."""
    steps = (10, 30, 100) if short else (10, 30, 100, 300, 1000)
    tasks = (1, 16, 256) if short else (1, 4, 16, 64, 256)
    sizes = (1, 1_000, 100_000) if short else (1, 100, 10_000, 100_000, 1_000_000)
    memory = measure_memory("rmd(checkpoint = sqrt)", (16, 64, 256) if short else (64, 256, 1024))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # growth of the work, not of the number of cores that it is worth
    try:
        return {
            "title": "growth with inner steps T, tasks P and parameters n (kernels fx, one thread)",
            "T": _seconds(lambda t: TASKS.replace("COUNT", "4").replace("STEPS", str(t)), steps),
            "P": _seconds(lambda p: TASKS.replace("COUNT", str(p)).replace("STEPS", "5"), tasks),
            "n": _seconds(lambda n: VECTOR.replace("COUNT", str(n)), sizes),
            "memory": {str(t): size for t, size in zip(memory.steps, memory.peak, strict=True)},
            "memory exponent": memory.exponent,
            "late": _late(30 if short else 110),
        }
    finally:
        torch.set_num_threads(before)


def _seconds(text: Callable[[int], str], values: Sequence[int]) -> dict[str, float]:
    """Median seconds of a hypergradient for each value; the values take turns, so that a busy moment hits all."""
    runs = {value: _work(text(value)) for value in values}
    times: dict[int, list[float]] = {value: [] for value in values}
    for _ in range(7):
        for value, run in runs.items():
            began = time.perf_counter()
            run()
            times[value].append(time.perf_counter() - began)
    return {str(value): statistics.median(found) for value, found in times.items()}


def _work(text: str) -> Callable[[], object]:
    from benchmarks.own import own

    return own(text, "fx").run


def _late(last: int) -> dict[str, float]:
    """Median seconds of outer steps from the third on, and of as many at the end."""
    import bilevel
    from bilevel.backends.torch_func.keyed import make_key
    from bilevel.recipe import parse

    text = TASKS.replace("COUNT", "4").replace("STEPS", "5")
    phase = bilevel.compile(parse(text, "benchmark.bl"), registry=[parts], compile="fx").phases[-1]
    key, times = make_key(0), list[float]()
    with torch.no_grad():
        state = phase.begin(key)
        for _ in range(last):
            began = time.perf_counter()
            state, _ = phase.step(state, key)
            times.append(time.perf_counter() - began)
    return {"early": statistics.median(times[2:12]), "late": statistics.median(times[-10:]), "step": last}


def exponent(found: Mapping[str, float]) -> float:
    """Of c in a T^c, between the last two values: 1 is linear."""
    (low, before), (high, after) = list(found.items())[-2:]
    return math.log(after / before) / math.log(int(high) / int(low))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures as tables."""
    for name, what in (
        ("T", "inner steps, 4 tasks"),
        ("P", "tasks, 5 inner steps"),
        ("n", "parameters, 10 inner steps"),
    ):
        row = found[name]
        yield f"\n| {name} ({what}) | " + " | ".join(f"{int(v):,}" for v in row) + " | exponent at the end |"
        yield "|---" * (len(row) + 2) + "|"
        yield "| median | " + " | ".join(f"{s * 1e3:.3g} ms" for s in row.values()) + f" | {exponent(row):.2f} |"
    memory = found["memory"]
    yield "\n| T (peak memory, checkpoint = sqrt) | " + " | ".join(memory) + " | exponent |"
    yield "|---" * (len(memory) + 2) + "|"
    cells = " | ".join(f"{size / 1e3:.0f} KB" for size in memory.values())
    yield f"| live tensors | {cells} | {found['memory exponent']:.2f} |"
    late = found["late"]
    yield (
        f"\nOuter steps 3 to 12: {late['early'] * 1e3:.3g} ms; the ten before step {late['step']:.0f}: "
        f"{late['late'] * 1e3:.3g} ms, {late['late'] / late['early']:.2f} times as long."
    )
    yield from growth_verdicts(found, exponent)
