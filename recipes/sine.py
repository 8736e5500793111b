"""Regression of sine waves from a few points: tasks made from keys, exact, nothing stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, fold_each, uniform
from bilevel.dsl.datatypes import real, record, records, stream
from bilevel.recipes.records import Samples, Task, TaskSplits, interval, require_positive
from bilevel.registry import tasks

TASK = record(
    support=records("shots", x=real(1), y=real(1)),
    query=records("queries", x=real(1), y=real(1)),
)

DRAWN = ("amplitude", "phase", "support", "query")
"""what is drawn of a wave, each by a key of its own"""


@dataclass(frozen=True, slots=True)
class SineTasks:
    """The waves of one split; two splits share none because the split's name is folded into every key."""

    split: str
    amplitude: tuple[float, float]
    phase: tuple[float, float]
    inputs: tuple[float, float]
    shots: int
    queries: int
    device: torch.device
    dtype: torch.dtype

    def sample(self, keys: Tensor) -> Task:
        """One wave per key: x and y are real[..., shots, 1] in the support, real[..., queries, 1] in the query."""
        keys = fold(keys.to(self.device), "sine", self.split)
        # In float64, so that a wave in float32 is the rounded wave in float64.
        unit = uniform(fold_each(keys, *DRAWN), max(self.shots, self.queries), dtype=torch.float64)[..., None]
        amplitude, phase = (_within(unit[..., i, :1, :], b) for i, b in enumerate((self.amplitude, self.phase)))
        support = _within(unit[..., 2, : self.shots, :], self.inputs)
        query = _within(unit[..., 3, : self.queries, :], self.inputs)
        return Task(*(self._samples(x, amplitude * torch.sin(x + phase)) for x in (support, query)))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> SineTasks:
        """The same waves on `device`, in `dtype`."""
        return replace(self, device=torch.device(device), dtype=dtype)

    def _samples(self, x: Tensor, y: Tensor) -> Samples:
        return Samples(x.to(self.dtype), y.to(self.dtype))


def _within(unit: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Numbers in [0, 1) moved into bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * unit


@tasks(yields=record(train=stream(TASK), val=stream(TASK), test=stream(TASK)))
def sine(
    amplitude: Sequence[float] = (0.1, 5.0),
    phase: Sequence[float] = (0.0, math.pi),
    shots: int = 10,
    queries: int = 10,
    inputs: Sequence[float] = (-5.0, 5.0),
) -> TaskSplits:
    """Regression tasks y = A sin(x + phase): amplitude, phase and inputs uniform in their intervals, radians.

    A task is record(support, query) of real[shots, 1] and real[queries, 1]. Source: papers/004, appendix G,
    eq. S28. Cost: one hash for each number.
    """
    require_positive("sine", {"shots": shots, "queries": queries})
    bounds = (
        interval("sine", "amplitude", amplitude),
        interval("sine", "phase", phase),
        interval("sine", "inputs", inputs),
    )
    made = (
        SineTasks(split, *bounds, shots, queries, torch.device("cpu"), torch.get_default_dtype())
        for split in TaskSplits._fields
    )
    return TaskSplits(*made)
