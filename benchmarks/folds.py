"""The gain of a report over parts of the samples that it asks: for recipes that draw nothing, where all seeds agree.

A report that is a mean over all samples of a split is the mean of its values on disjoint parts of that split. Their
gains, each on the same samples at both ends, say how sure the gain is. Runs nothing again but the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from bilevel import ir
from bilevel.backends.torch_func.keyed import make_key, permutation
from bilevel.backends.torch_func.tree import leaves, tree_map
from bilevel.program import load_phases
from bilevel.run import Run

FOLDS = 20


def fold_gains(run: Run, report: ir.Report) -> list[float] | None:
    """How far a report rose on each of `FOLDS` disjoint parts of its samples; None where it is no mean over a split.

    Cost: the report, `FOLDS` times at both ends. The start is that of the run's seed.
    """
    asked = _split_of(report, run.program.parts.objects)
    if asked is None:
        return None
    name, split = asked
    data = run.program.parts.objects[name]
    count = len(leaves(getattr(data, split))[0])
    order = permutation(make_key(0), count)  # data may be sorted by class
    ends = [_ends(run, report.name, name, _only(data, split, order[fold::FOLDS])) for fold in range(FOLDS)]
    shares = [len(order[fold::FOLDS]) / count for fold in range(FOLDS)]
    last = sum(share * end[1] for share, end in zip(shares, ends, strict=True))
    if not math.isclose(last, run.reports[report.name][-1][1], rel_tol=1e-4):
        return None  # the report of all samples is not the mean of its values on parts of them
    return [after - before for before, after in ends]


def _split_of(report: ir.Report, parts: Mapping[str, Any]) -> tuple[str, str] | None:
    """The one split `data.test` that a report reads, by name; None where there is none, or several."""
    read = [
        (e.base.name, e.name) for e in ir.walk(report.value) if isinstance(e, ir.Field) and isinstance(e.base, ir.Read)
    ]
    found = {(part, name) for part, name in read if hasattr(getattr(parts.get(part), name, None), "_fields")}
    return found.pop() if len(found) == 1 else None


def _only(data: Any, split: str, chosen: torch.Tensor) -> Any:
    """The data set with some samples of a split in place of all."""
    return data._replace(**{split: tree_map(lambda leaf: leaf[chosen], getattr(data, split))})


def _ends(run: Run, report: str, name: str, data: Any) -> tuple[float, float]:
    """The report with other data, at the start and at the end of the run."""
    parts = replace(run.program.parts, objects={**run.program.parts.objects, name: data})
    phase = next(p for p in load_phases(run.program.source, parts) if report in p.reports)
    key = make_key(run.seed, parts.device)
    given = [run.state[n] for n in phase.reads]
    states = phase.begin(key, *given), run.states[phase.name]
    before, after = (float(phase.reports[report][1](state, key, *given)) for state in states)
    return before, after
