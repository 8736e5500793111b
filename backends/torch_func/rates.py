"""Rates that change over the steps of a level: `linear(rate)`, `cosine(rate)`, `steps(rate, at, factor)` after `lr =`.

Steps are counted from 0; a level that is solved anew, or goes on warm, begins its schedule again with every solve.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.tree import Tree, multiply, power


def linear_rate(rate: Tree, count: Any, total: int) -> Tree:
    """The rate times 1 - t / T: the whole rate in the first step, a T-th of it in the last."""
    return multiply(1.0 - count % total / total, rate)


def cosine_rate(rate: Tree, count: Any, total: int) -> Tree:
    """The rate times (1 + cos(pi t / T)) / 2 (Loshchilov and Hutter 2017, eq. 5, one cycle, least rate 0)."""
    passed = math.pi * (count % total) / total
    return multiply(0.5 * (1.0 + (torch.cos(passed) if isinstance(passed, Tensor) else math.cos(passed))), rate)


def steps_rate(rate: Tree, count: Any, total: int, factor: Tree, milestones: tuple[int, ...]) -> Tree:
    """The rate times factor to the number of milestones that have been reached.

    Milestone m is reached in the step that has m steps before it. Both rate and factor may be differentiated.
    """
    reached: Any = sum(count % total >= milestone for milestone in milestones)
    if isinstance(reached, Tensor):  # in a kernel, where the count is one
        return multiply(power(factor, reached.to(count.dtype)), rate)
    return multiply(power(factor, reached), rate) if reached else rate
