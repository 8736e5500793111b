"""Measuring the functions of an emitted module while they run: which calls which, how long, how many bytes.

The functions of a module are closures of one `build`, which find each other in cells; a cell is given a function that
tells a recorder when it is entered and left. Nothing of the module's text changes, so what is measured is what runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CellType, FunctionType
from typing import Any, Protocol

import torch

from bilevel import ir
from bilevel.backends.torch_func.trace.kernels import Kernel
from bilevel.costs import Work
from bilevel.meter import Meter

Path = tuple[str, ...]
"""a function with those around it, outermost first"""


@dataclass(slots=True)
class Reading:
    """What was read of one function, its own share without the functions inside it; `peak`: bytes, inclusive."""

    calls: int = 0
    seconds: float = 0.0
    work: Work = field(default_factory=Work)
    own_peak: float = 0.0


class Gauge(Protocol):
    """What is read at the moments when functions are entered and left."""

    def read(self) -> tuple[float, Work, float]:
        """Seconds, work, and the most bytes alive since the last reading; bytes start again from what is alive now."""


class Clock:
    """Seconds alone; on a GPU once everything that was asked for is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def read(self) -> tuple[float, Work, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), Work(), 0.0


class Counter:
    """Work and live bytes, by a dispatch mode that is active around."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def read(self) -> tuple[float, Work, float]:
        memory = self.meter.memory
        peak, memory.peak = memory.peak, memory.now
        return 0.0, self.meter.work, float(peak)


class Allocator:
    """Work by a dispatch mode, bytes as the allocator of a GPU has given them out."""

    def __init__(self, meter: Meter, device: torch.device) -> None:
        self.meter, self.device = meter, device
        torch.cuda.synchronize(device)
        self.before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> tuple[float, Work, float]:
        torch.cuda.synchronize(self.device)
        peak = torch.cuda.max_memory_allocated(self.device) - self.before
        torch.cuda.reset_peak_memory_stats(self.device)
        return 0.0, self.meter.work, float(peak)


@dataclass(slots=True)
class Recorder:
    """What every function took by itself; where one is inside another, only the inner one is charged."""

    gauge: Gauge
    found: dict[Path, Reading] = field(default_factory=dict)
    path: Path = ()
    last: tuple[float, Work, float] = (0.0, Work(), 0.0)

    def _charge(self) -> None:
        """What happened since the last moment belongs to the function that is innermost now."""
        now = self.gauge.read()
        if self.path:
            row = self.found[self.path]
            row.seconds += now[0] - self.last[0]
            row.work += now[1] - self.last[1]
            row.own_peak = max(row.own_peak, now[2])
        self.last = now

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Charge what happens meanwhile to `name`."""
        self._charge()
        self.path = (*self.path, name)
        self.found.setdefault(self.path, Reading()).calls += 1
        try:
            yield
        finally:
            self._charge()
            self.path = self.path[:-1]

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which tells when it is entered and left."""

        @functools.wraps(function)
        def told(*given: Any, **named: Any) -> Any:
            with self.inside(name):
                return function(*given, **named)

        return told


def cells(function: Any) -> dict[str, CellType]:
    """The cells of all emitted functions that a function reaches, also behind kernels, by the name of each."""
    found: dict[str, CellType] = {}
    todo = [function]
    while todo:
        inner = todo.pop()
        for name, cell in zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True):
            value = cell.cell_contents
            behind = value.function if isinstance(value, Kernel) else value
            if isinstance(behind, FunctionType) and name not in found:
                found[name] = cell
                todo.append(behind)
    return found


def watched_names(program: ir.Program) -> list[str]:
    """The functions that a person knows by name: draws, gradient and solver outside; solving and the way back inside."""
    names = []
    for level in program.walk_levels():
        operations = ("draw", "gradient", "update") if level.parent is None else ("forward", "pullback")
        names += [f"{level.name}_{operation}" for operation in operations]
    return names


@contextmanager
def watching(program: ir.Program, recorder: Recorder, function: Any) -> Iterator[None]:
    """While it lasts, the functions that `function` reaches tell the recorder; its own time has the name of no other."""
    known = cells(function)
    held = {name: known[name].cell_contents for name in watched_names(program) if name in known}
    for name, inner in held.items():
        known[name].cell_contents = recorder.watched(name, inner)
    try:
        yield
    finally:
        for name, inner in held.items():
            known[name].cell_contents = inner
