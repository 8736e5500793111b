"""What the data sets of this folder hand over: named tuples of tensors, and streams that make tasks from keys.

Named tuples, because torch.func takes them apart and puts them together again and `d.x` reads as in a recipe.
Makes no data itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bilevel.errors import RecipeError, fail


class Samples(NamedTuple):
    """Inputs `x` and targets `y` with a common leading axis of samples; class labels are int64."""

    x: Tensor
    y: Tensor


class Task(NamedTuple):
    """What a task learns from (`support`) and what it is judged by (`query`)."""

    support: Samples
    query: Samples


class TaskStream(Protocol):
    """Endlessly many tasks; the task of a key depends on that key alone."""

    def sample(self, keys: Tensor) -> Task:
        """One task per key: every field of the result has the leading axes `keys.shape`."""

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TaskStream:
        """The same tasks on `device`, their real numbers in `dtype`."""


class SampleSplits(NamedTuple):
    """A finite data set in three disjoint parts."""

    train: Samples
    val: Samples
    test: Samples


class TaskSplits(NamedTuple):
    """Three streams that share no task."""

    train: TaskStream
    val: TaskStream
    test: TaskStream


def bad_argument(part: str, argument: str, expected: str, found: object) -> RecipeError:
    """The error of an argument that a registered part cannot use, to be raised."""
    return fail(
        "B606", f"`{part}`: `{argument}` must be {expected}, not {found!r}", fix=f"give {argument} = {expected}"
    )


def require_positive(part: str, counts: Mapping[str, int]) -> None:
    """Refuse counts below one."""
    for name, count in counts.items():
        if count < 1:
            raise bad_argument(part, name, "1 or more", count)


def interval(part: str, argument: str, bounds: Sequence[float]) -> tuple[float, float]:
    """The two ends of an interval, in order."""
    if len(bounds) != 2 or not float(bounds[0]) <= float(bounds[1]):
        raise bad_argument(part, argument, "[low, high] with low <= high", list(bounds))
    return float(bounds[0]), float(bounds[1])
