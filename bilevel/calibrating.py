"""The speed of a machine, from what was counted and timed: a calibration near the one before that explains the times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from statistics import median

import numpy as np
from scipy.optimize import lsq_linear

from bilevel.costs import EACH, SPEEDS, Calibration, Work

PULL = 0.1
"""how strongly each number is held to what the others say, in the units of one relative error"""
FARTHEST = 30.0
"""times that one number may move apart from the others"""
SYMBOLS = (*EACH, *SPEEDS)


def fitted(before: Calibration, name: str, timed: Sequence[Sequence[tuple[Work, float]]]) -> Calibration:
    """The calibration that explains measured seconds of counted work; `timed`: the functions of each outermost step.

    First one factor for all numbers, then each number by bounded least squares on the functions of a step, as shares
    of that step, held to that factor: what a recipe does not do (convolutions, say) moves with the rest. Last, one
    factor again, so that whole steps are met (their median, where there are several outermost levels).
    """
    steps = [step for step in timed if sum(s for _, s in step) > 0 and _predicted(before, step) > 0]
    if not steps:
        return replace(before, name=name)
    factor = _factor(before, steps)
    rows, wanted = [PULL * np.eye(len(SYMBOLS))], [PULL * np.ones(len(SYMBOLS))]
    for step in steps:
        whole = sum(seconds for _, seconds in step)
        rows.append(factor * np.array([list(before.shares(work).values()) for work, _ in step]) / whole)
        wanted.append(np.array([seconds / whole for _, seconds in step]))
    found = lsq_linear(np.vstack(rows), np.concatenate(wanted), bounds=(1 / FARTHEST, FARTHEST)).x * factor
    near = _scaled(before, name, dict(zip(SYMBOLS, map(float, found), strict=True)))
    return _scaled(near, name, dict.fromkeys(SYMBOLS, _factor(near, steps)))


def _predicted(calibration: Calibration, step: Sequence[tuple[Work, float]]) -> float:
    return sum(calibration.seconds(work) for work, _ in step)


def _factor(calibration: Calibration, steps: Sequence[Sequence[tuple[Work, float]]]) -> float:
    """Measured over predicted seconds of whole steps."""
    return median(sum(seconds for _, seconds in step) / _predicted(calibration, step) for step in steps)


def _scaled(before: Calibration, name: str, times: dict[str, float]) -> Calibration:
    """Every number as many times slower; three digits."""
    values = {
        f.name: _three(getattr(before, f.name) * (1 / times[f.name] if f.name in SPEEDS else times[f.name]))
        for f in fields(before)
        if f.name != "name"
    }
    return Calibration(name, **values)


def _three(value: float) -> float:
    return float(f"{value:.3g}")
