"""What a workload is: cases, sides that compute the same hypergradient, and the least work that it can take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[Any]
Arrays: TypeAlias = Mapping[str, Numbers]
Values: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Work:
    """What one side does: `run` computes one hypergradient and waits for it, `numbers` makes arrays of what it gave.

    Arrays are in the order of the start that all sides were given. `before`: seconds by the name of what was done once.
    `allocated`: bytes that its compiler plans for one run, for a library that keeps memory between runs.
    """

    run: Callable[[], Any]
    numbers: Callable[[Any], list[Numbers]]
    before: Mapping[str, float] | None = None
    allocated: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One way of computing it; `needs` is the package that has to be there, empty for our own."""

    name: str
    make: Callable[[Values, Arrays], Work]
    needs: str = ""
    known: str = ""
    """why it is known to compute something else: then it is not timed, and that is no failure of a run"""
    only: str = ""
    """the one kind of device on which it runs, where it would take minutes on others"""


@dataclass(frozen=True, slots=True)
class Floor:
    """The least work of one hypergradient: operations of matrix products, and bytes that must be moved."""

    operations: float
    bytes: float = 0.0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """`cases`: numbers by name, the first of them named in tables. `tolerance`: relative, between the first side and any other."""

    name: str
    title: str
    cases: tuple[Values, ...]
    short: tuple[Values, ...]
    """cases of the same kind that take little time"""
    sides: tuple[Side, ...]
    arrays: Callable[[Values], Arrays]
    floor: Callable[[Values], Floor] | None
    tolerance: float | Callable[[Values], float]
    exact: Callable[[Values, Arrays], list[Numbers]] | None = None
    """the hypergradient that all are compared with, in place of that of the first side"""
    threads: int = 0
    """threads of torch, 0 for as many as there are cores"""
    devices: tuple[str, ...] = ("cpu",)
    """what it can run on"""
    memory: bool = False
    """whether extra peak memory is measured; below some megabytes the figure is noise"""
    limits: str = ""
    """what keeps our time or memory from the target, where it is missed after real effort"""


def list_of(start: Arrays) -> list[tuple[str, Numbers]]:
    """The parameters of a network, in the order of its layers: those whose names begin with `start.`."""
    return [(name.removeprefix("start."), value) for name, value in start.items() if name.startswith("start.")]


def layers(widths: tuple[int, ...], seed: int = 0) -> dict[str, Numbers]:
    """Weights real[out, in] and biases of a fully connected network, uniform as torch draws them."""
    random = np.random.default_rng(seed)
    found: dict[str, Numbers] = {}
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        bound = inputs**-0.5
        found[f"start.{place}.weight"] = random.uniform(-bound, bound, (outputs, inputs)).astype("float32")
        found[f"start.{place}.bias"] = random.uniform(-bound, bound, outputs).astype("float32")
    return found


def multiplications(widths: tuple[int, ...]) -> tuple[int, int]:
    """Products of a forward pass for one sample, and those of its first layer."""
    pairs = [a * b for a, b in pairwise(widths)]
    return sum(pairs), pairs[0]


def step_operations(widths: tuple[int, ...], samples: int) -> int:
    """Operations of a loss and its gradient: forward, back to weights, back to inputs except those of the first layer."""
    every, first = multiplications(widths)
    return 2 * samples * (3 * every - first)


def unrolled_operations(widths: tuple[int, ...], samples: int) -> int:
    """Operations of a step and of the way back through it, with every value of the step kept.

    Forward over reverse: each of the three products of a layer has two tangents. The first layer's inputs are data: they
    have no tangent and no cotangent, which leaves two products there and back one tangent of each.
    """
    every, first = multiplications(widths)
    return 2 * samples * (9 * (every - first) + 4 * first)
