"""How much better a report is at the end of a run than at step 0, in standard errors.

A report that is a mean over drawn copies has its standard error from those copies, at both ends (`bilevel.spread`);
any other is compared over runs with several seeds, and over parts of its samples (`folds.py`) where a recipe draws
nothing, so that all runs are alike. The draws of reports are the same at both ends, so that the
standard error over copies, which takes them for independent, is on the careful side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmarks.folds import fold_gains
from bilevel import ir
from bilevel.backends.torch_func.keyed import make_key
from bilevel.program import Program
from bilevel.run import Run
from bilevel.spread import Estimator

ENOUGH = 3.0
"""Standard errors by which a report has to be better."""


@dataclass(frozen=True, slots=True)
class Improvement:
    """A report at both ends; `errors` is the gain in standard errors, negative where it became worse."""

    report: str
    first: float
    last: float
    errors: float
    over: str

    @property
    def ok(self) -> bool:
        """Whether the gain is more than chance would give."""
        return self.errors >= ENOUGH


def main_report(program: Program) -> ir.Report:
    """The first report of the last phase that has one: fixed by the text, not chosen by its value."""
    levels = reversed(program.plan.program.levels)
    return next(report for level in levels for report in level.reports)


def rises(program: ir.Program, report: ir.Report) -> bool:
    """Whether more is better: an accuracy rises and a loss falls, `1 - accuracy` as well; else as the level says."""
    sign = _sign(report.value)
    if sign:
        return sign > 0
    level = next(lv for lv in program.levels if any(one.name == report.name for one in lv.reports))
    return level.objective is not None and level.objective.sense == "maximize"


def _sign(value: ir.Expr) -> int:
    """+1 where an accuracy inside `value` raises it, -1 where it lowers it, 0 where there is none."""
    if isinstance(value, ir.Builtin) and value.function == "accuracy":
        return 1
    if isinstance(value, ir.Operate) and value.operator == "-" and len(value.operands) == 2:
        return _sign(value.operands[0]) or -_sign(value.operands[1])
    if isinstance(value, ir.Operate) and value.operator == "neg":
        return -_sign(value.operands[0])
    return next((sign for part in _parts(value) if (sign := _sign(part))), 0)


def _parts(value: ir.Expr) -> Sequence[ir.Expr]:
    """What an expression is made of, where that keeps the direction."""
    match value:
        case ir.Reduced():
            return [value.body]
        case ir.CallLet():
            return [value.body]
        case ir.Operate():
            return value.operands
        case ir.Builtin() if value.function in ("mean", "sum"):
            return value.arguments
    return []


def improvement(program: Program, runs: Sequence[Run]) -> Improvement:
    """The main report of finished runs with different seeds; the first alone where it has copies."""
    report = main_report(program)
    sign = 1.0 if rises(program.plan.program, report) else -1.0
    estimator = Estimator(program)
    if report.name in estimator.counts:
        return _over_copies(estimator, runs[0], report.name, sign)
    return _over_seeds(runs, report, sign)


def _over_copies(estimator: Estimator, run: Run, name: str, sign: float) -> Improvement:
    phase = next(p for p in run.program.phases if name in p.reports)
    key = make_key(run.seed, run.program.parts.device)
    given = [run.state[n] for n in phase.reads]
    first = estimator.estimate(phase.name, name, phase.begin(key, *given), key, *given)
    last = estimator.estimate(phase.name, name, run.states[phase.name], key, *given)
    error = math.hypot(first.error, last.error)
    gain = sign * (last.mean - first.mean)
    return Improvement(name, first.mean, last.mean, gain / error if error else math.inf * gain, f"{last.count} copies")


def _over_seeds(runs: Sequence[Run], report: ir.Report, sign: float) -> Improvement:
    ends = [(run.reports[report.name][0][1], run.reports[report.name][-1][1]) for run in runs]
    gains, over = [last - first for first, last in ends], f"{len(runs)} seeds"
    parts = fold_gains(runs[0], report) if len(set(ends)) == 1 else None
    if parts is not None:
        gains, over = parts, f"{len(parts)} parts of its samples"
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    first, last = (fmean(values) for values in zip(*ends, strict=True))
    gain = sign * fmean(gains)
    return Improvement(report.name, first, last, gain / error if error else math.inf * gain, over)
