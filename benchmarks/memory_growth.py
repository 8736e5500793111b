"""How the memory of a hypergradient grows with the number of inner steps, mode by mode.

    python -m benchmarks.memory_growth [--steps 16 64 256 1024] [--json memory_growth.json]

Counts bytes of tensors that are alive at once (`live_bytes`), so the figures depend on no allocator and no machine.
The problem: a small network fitted by momentum to 8 samples, from a learned start; for fmd and the window, which a start
does not reach, by a learned rate. The last column is the exponent of what grows in T, from the differences between the
largest three T (steps of equal ratio): 1 is linear, 0.5 a root, 0 flat.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.live_bytes import peak_bytes
from bilevel import pipeline
from bilevel.binding import bind
from bilevel.dsl.parse import parse
from bilevel.recipes import zoo
from bilevel.registry import collect

RECIPE = """recipe growth
use net = mlp(1, WIDTH, WIDTH, 1)
use tasks = sine(shots = 8, queries = 8)
level meta {
  OUTER
  each task ~ tasks.train[1]
  level adapt {
    w : params(net) from START
    minimize mean(mse(net[w](task.support.x), task.support.y))
    by sgd(lr = RATE, momentum = 0.5) for STEPS steps
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by sgd(lr = 0.01) for 2 steps
  report test = mean[task] mean(mse(net[w](task.query.x), task.query.y)) with task ~ tasks.val[1]
}
SCHEDULE"""
START = ("theta : params(net)", "theta", "0.01")
ONE_RATE = ("r : real in positive from 0.01", "init(net)", "r")
MODES: dict[str, tuple[str, tuple[str, str, str]]] = {
    "rmd": ("rmd", START),
    "rmd(store = residuals)": ("rmd(store = residuals)", START),
    "rmd(checkpoint = sqrt)": ("rmd(checkpoint = sqrt)", START),
    "rmd(checkpoint = binomial)": ("rmd(checkpoint = binomial)", START),
    "rmd(checkpoint = 4)": ("rmd(checkpoint = 4)", START),
    "rmd(window = 4)": ("rmd(window = 4)", ONE_RATE),
    "fmd, one number": ("fmd", ONE_RATE),
    "leap(gamma = 0.9)": ("leap(gamma = 0.9)", START),
    "leap(teacher = 1, keep = 3)": ("leap(teacher = 1, keep = 3, hull = mean, gamma = 0.9)", START),
    "forward only": ("rmd", START),
}
FORWARD = "forward only"


@dataclass(frozen=True)
class Row:
    """One mode: peak bytes for each number of steps."""

    mode: str
    steps: tuple[int, ...]
    peak: tuple[int, ...]

    @property
    def exponent(self) -> float:
        """Of c in a + b T^c, from the last three points; 0 where nothing grows."""
        low, middle, high = self.peak[-3:]
        if high - middle <= 0.01 * middle or middle <= low:
            return 0.0
        return math.log((high - middle) / (middle - low)) / math.log(self.steps[-1] / self.steps[-2])


def program(mode: str, steps: int, width: int) -> tuple[Any, torch.Tensor]:
    """The outermost level under a mode, and its key."""
    schedule, (outer, start, rate) = MODES[mode]
    text = RECIPE.replace("WIDTH", str(width)).replace("STEPS", str(steps)).replace("OUTER", outer)
    text = text.replace("START", start).replace("RATE", rate).replace("SCHEDULE", f"schedule {{ adapt : {schedule} }}")
    checked = pipeline.check(parse(text, "growth.bl"), pipeline.Options())
    module = ModuleType("growth")
    exec(compile(pipeline.emit(pipeline.plan(checked)), "growth.py", "exec"), module.__dict__)
    parts = bind(checked, collect([zoo]), {}, torch.device("cpu"), torch.float32).objects
    (phase,) = module.build(*parts.values(), dtype=torch.float32)
    return phase, module.make_key(0)


def work(mode: str, steps: int, width: int) -> Callable[[], object]:
    """One hypergradient, or one report, from a state that is made beforehand."""
    phase, key = program(mode, steps, width)
    state = phase.begin(key)
    if mode == FORWARD:
        return lambda: phase.reports["test"][1](state, key)
    return lambda: phase.hypergradient(state, key)


def measure(mode: str, steps: Sequence[int], width: int = 32) -> Row:
    """Peak live bytes of one mode over numbers of steps."""
    return Row(mode, tuple(steps), tuple(peak_bytes(work(mode, count, width)) for count in steps))


def adaptations(count: int, steps: int = 16, width: int = 32) -> int:
    """Peak bytes of so many adaptations one after the other, each result kept as one number."""
    one = work(FORWARD, steps, width)

    def many() -> None:
        losses = [float(one()) for _ in range(count)]  # type: ignore[arg-type]
        assert len(losses) == count

    return peak_bytes(many)


def table(rows: Sequence[Row]) -> str:
    head = f"{'mode':<30}" + "".join(f"{f'T = {t}':>12}" for t in rows[0].steps) + f"{'exponent':>10}"
    lines = [f"{r.mode:<30}" + "".join(f"{b / 1024:>9.0f} KB" for b in r.peak) + f"{r.exponent:>10.2f}" for r in rows]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--json", type=Path, default=Path("memory_growth.json"))
    given = parser.parse_args()
    rows = [measure(mode, given.steps, given.width) for mode in MODES]
    runs = {count: adaptations(count, width=given.width) for count in (1, 10, 100)}
    print(table(rows))
    print("forward-only adaptations of 16 steps:", ", ".join(f"{n}: {b / 1024:.0f} KB" for n, b in runs.items()))
    content = {
        "modes": {r.mode: {"steps": r.steps, "bytes": r.peak, "exponent": round(r.exponent, 3)} for r in rows},
        "adaptations": runs,
        "width": given.width,
        "torch": torch.__version__,
    }
    given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
