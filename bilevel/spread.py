"""Standard errors of reports: how sure a mean over drawn tasks is.

A report `mean[i] e with i ~ S[n]` gets a twin `mean[i] e^2` in a recipe made from the program's own, which is
compiled like any other. Reports have a stream of their own, so that both see the same draws. Takes nothing else
apart and adds no step to the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from bilevel import ir, pipeline
from bilevel.dsl import nodes
from bilevel.dsl.format import print_recipe
from bilevel.dsl.parse import parse
from bilevel.dsl.walk import substitute, walk
from bilevel.program import Program, load_phases

TWIN = "_squared"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` draws and its standard error."""

    mean: float
    error: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


class Estimator:
    """The reports of a program that are means over draws, each with its standard error."""

    def __init__(self, program: Program) -> None:
        self.counts = dict(_counts(program.plan.program))
        twin = replace(program.recipe, written=_with_twins(program.recipe.syntax, self.counts), changes=())
        source = pipeline.emit(pipeline.plan(twin.program))
        self.phases = {phase.name: phase for phase in load_phases(source, program.parts)}

    def estimate(self, phase: str, report: str, state: Any, key: Any, *given: Any) -> Estimate:
        """A report at a state of its phase."""
        reports = self.phases[phase].reports
        mean, square = (float(reports[name][1](state, key, *given)) for name in (report, report + TWIN))
        count = self.counts[report]
        return Estimate(mean, math.sqrt(max(square - mean * mean, 0.0) / (count - 1)), count)


def _counts(program: ir.Program) -> Iterator[tuple[str, int]]:
    """Reports that are a mean over two or more draws of one index, and how many draws."""
    for level in program.walk_levels():
        for report in level.reports:
            if not isinstance(report.value, ir.Reduced) or report.value.kind != "mean" or len(report.indices) != 1:
                continue
            source = report.indices[0].source
            count = _whole(program, source.count) if isinstance(source, ir.Sample) else None
            if count is not None and count > 1:
                yield report.name, count


def _whole(program: ir.Program, count: ir.Expr | None) -> int | None:
    """A number of draws that is written, or that a param gives."""
    given = {param.name: param.value for param in program.params}
    value = count.value if isinstance(count, ir.Constant) else given.get(getattr(count, "name", ""))
    return value if isinstance(value, int) else None


def _with_twins(recipe: nodes.Recipe, names: dict[str, int]) -> nodes.Recipe:
    """The recipe with the mean of the squares beside each of these reports."""
    changed: dict[int, nodes.Node] = {}
    for level in (node for node in walk(recipe) if isinstance(node, nodes.Level)):
        twins = [_twin(part) for part in level.body if isinstance(part, nodes.Report) and part.name in names]
        if twins:
            changed[id(level)] = replace(level, body=(*level.body, *twins))
    made = substitute(recipe, changed)
    return parse(print_recipe(made), f"{recipe.name}.bl")  # read again, so that every node has a place of its own


def _twin(report: nodes.Report) -> nodes.Report:
    assert isinstance(report.value, nodes.Reduce)
    square = nodes.Binary("^", report.value.body, nodes.Number("2"))
    return replace(report, name=report.name + TWIN, value=replace(report.value, body=square))
