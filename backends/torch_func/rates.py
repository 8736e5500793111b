"""Rates that change over the steps of a level: `linear(rate)` and `cosine(rate)` after `lr =`.

Steps are counted from 0; a level that is solved anew, or goes on warm, begins its schedule again with every solve.
"""

from __future__ import annotations

import math

from bilevel.backends.torch_func.tree import Tree, multiply


def linear_rate(rate: Tree, count: int, total: int) -> Tree:
    """The rate times 1 - t / T: the whole rate in the first step, a T-th of it in the last."""
    return multiply(1.0 - count % total / total, rate)


def cosine_rate(rate: Tree, count: int, total: int) -> Tree:
    """The rate times (1 + cos(pi t / T)) / 2 (Loshchilov and Hutter 2017, eq. 5, one cycle, least rate 0)."""
    return multiply(0.5 * (1.0 + math.cos(math.pi * (count % total) / total)), rate)
