"""What meta-learning on sine waves shows: how well, and how, each start adapts to waves it has not seen.

The numbers are the recipe's own reports `... with task ~ tasks.test[n], LEVEL.steps = k`, at the end and at the state
before training; the picture is drawn from iterates of the emitted module. Adds no step and trains nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from bilevel import ir
from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.dsl.datatypes import Tree
from bilevel.files import save_figure
from bilevel.outcome import Table
from bilevel.recipes.records import Task
from bilevel.recipes.sine import SineTasks
from bilevel.recipes.summaries import Summary
from bilevel.run import Run
from bilevel.spread import Estimate, Estimator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID = 400
"""Points at which a curve is drawn."""

CANDIDATES = 25
"""Test waves of which the one of median error is drawn."""

STARTS = ("meta-learned start", "random start")


@dataclass(frozen=True, slots=True)
class Adapted:
    """The reports of one outermost level after `steps` (by count) of one inner level."""

    phase: Any
    level: str
    index: str
    steps: Mapping[int, ir.Report]


def sine_summary(run: Run) -> Summary | None:
    """Error after each number of steps that the recipe reports, for the learned and for a random start."""
    found = _adapted(run)
    if found is None:
        return None
    states = _starts(run, found)
    with torch.no_grad():
        errors = _errors(run, found, states)
    count = min(one.count for row in errors.values() for one in row)
    rows = [(str(steps), *map(str, row), f"{row[1].mean / row[0].mean:.1f}x") for steps, row in errors.items()]
    title = f"mean squared error on {count} waves not seen in training (mean ± standard error)"
    table = Table(title, ("steps", *STARTS, "better by"), tuple(rows))
    if _forward(found) is None:
        return Summary(table)
    return Summary(table, "one wave", lambda folder: _draw(run, found, states, folder / "sine.png"))


def _adapted(run: Run) -> Adapted | None:
    """The outermost level, and inner level, for which reports with two or more counts of steps were asked."""
    for phase in run.program.phases:
        by_level: dict[str, dict[int, ir.Report]] = {}
        for report in run.program.plan.program.level(phase.name).reports:
            steps = _steps(report)
            if steps is not None:
                by_level.setdefault(report.settings[0].path[0], {})[steps] = report
        for level, reports in by_level.items():
            if len(reports) > 1 and not phase.reads:
                index = next(iter(reports.values())).indices[0].name
                return Adapted(phase, level, index, dict(sorted(reports.items())))
    return None


def _steps(report: ir.Report) -> int | None:
    """The N of a report over drawn test waves that says `LEVEL.steps = N` and changes nothing else."""
    if len(report.settings) != 1 or len(report.indices) != 1 or report.settings[0].path[1:] != ("steps",):
        return None
    source = report.indices[0].source
    if not isinstance(source, ir.Sample) or not source.source.span.text.endswith(".test"):
        return None
    text = report.settings[0].value.span.text.replace("_", "")
    return int(text) if text.isdigit() else None


def _starts(run: Run, found: Adapted) -> tuple[Any, Any]:
    """The state at the end and that before training."""
    key = make_key(run.seed, run.program.parts.device)
    return run.states[found.phase.name], found.phase.begin(key)


def _errors(run: Run, found: Adapted, states: tuple[Any, Any]) -> dict[int, tuple[Estimate, Estimate]]:
    key = make_key(run.seed, run.program.parts.device)
    estimator = Estimator(run.program)
    return {
        steps: (
            estimator.estimate(found.phase.name, report.name, states[0], key),
            estimator.estimate(found.phase.name, report.name, states[1], key),
        )
        for steps, report in found.steps.items()
        if report.name in estimator.counts
    }


# ---- the picture ---------------------------------------------------------------------------------------------


def _forward(found: Adapted) -> Any:
    """The emitted function that solves the inner level, if it needs nothing but starts, tasks and a count."""
    report = next(iter(found.steps.values()))
    function = inspect.getclosurevars(found.phase.reports[report.name][1]).nonlocals.get(f"{found.level}_forward")
    known = {*found.phase.variables, found.index, f"{found.level}_steps", "keep"}
    return function if function is not None and set(inspect.signature(function).parameters) <= known else None


def _weights(found: Adapted, state: Any, waves: Task, steps: int) -> Any:
    """The weights after some steps on some waves, from one start; the waves are the leading axis.

    Solved anew for every number of steps: which iterates a solve keeps is the mode's own affair.
    """
    forward = _forward(found)
    known = {**found.phase.values(state), found.index: waves, f"{found.level}_steps": steps, "keep": False}
    wanted = {name: known[name] for name in inspect.signature(forward).parameters}
    return forward(**wanted)[-1][0]


def _split(run: Run, found: Adapted) -> SineTasks:
    """The test waves that the reports draw from."""
    use = next(u for u in run.program.plan.program.uses if u.description is not None and u.description.name == "sine")
    split = run.program.parts.objects[use.name].test
    assert isinstance(split, SineTasks)
    return split


def _network(run: Run, found: Adapted) -> Any:
    """The network that the inner level adapts."""
    (variable, *_) = run.program.plan.program.level(found.level).variables
    assert isinstance(variable.type, Tree)
    return run.program.parts.objects[variable.type.net]


def _draw(run: Run, found: Adapted, states: tuple[Any, Any], path: Path) -> Path:
    """True wave, support points and predictions, for both starts side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with torch.no_grad():
        wave, curve, predictions = _picture(run, found, states)
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, start, lines in zip(panels, STARTS, predictions, strict=True):
        _panel(panel, f"{start}: {_improvement(curve, lines)}", wave, curve, lines)
    panels[0].set_ylabel("y")
    title = f"A wave not seen in training, learned from {len(wave.support.x)} points (of {CANDIDATES} the one of median error)"
    figure.suptitle(title, fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return save_figure(figure, path)


def _picture(run: Run, found: Adapted, states: tuple[Any, Any]) -> tuple[Task, Tensor, list[dict[int, Tensor]]]:
    """A wave, its true curve real[GRID, 2], and for each start the predictions there by number of steps."""
    split, network = _split(run, found), _network(run, found)
    keys = fold(make_key(run.seed, split.device), "picture", torch.arange(CANDIDATES, device=split.device))
    waves = split.sample(keys)
    dense = replace(split, queries=GRID).sample(keys).query
    last = max(found.steps)
    solved = [{steps: _weights(found, state, waves, steps) for steps in found.steps} for state in states]
    chosen = _typical(network, solved[0][last], dense.x, dense.y)
    order = dense.x[chosen, :, 0].argsort()
    x, y = dense.x[chosen][order], dense.y[chosen][order]
    predictions = [
        {steps: functional_call(network, _one(weights[steps], chosen), (x,))[:, 0] for steps in found.steps}
        for weights in solved
    ]
    wave = Task(*(type(part)(part.x[chosen], part.y[chosen]) for part in waves))
    return wave, torch.cat([x, y], 1), predictions


def _typical(network: Any, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> int:
    """The wave whose error after the last step is the median."""
    errors = [
        float((functional_call(network, _one(weights, i), (x[i],)) - y[i]).square().mean()) for i in range(len(x))
    ]
    return sorted(range(len(errors)), key=errors.__getitem__)[len(errors) // 2]


def _one(weights: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: leaf[place] for name, leaf in weights.items()}


def _improvement(curve: Tensor, lines: Mapping[int, Tensor]) -> str:
    """`error 3.1 before, 0.25 after 10 steps`."""
    errors = {steps: float((values - curve[:, 1]).square().mean()) for steps, values in lines.items()}
    first, *_, last = errors
    return f"error {errors[first]:.2g} {_label(first)}, {errors[last]:.2g} after {_label(last)}"


def _panel(panel: Axes, title: str, wave: Task, curve: Tensor, lines: Mapping[int, Tensor]) -> None:
    """One start: the more steps, the darker the line."""
    x = curve[:, 0].cpu()
    panel.plot(x, curve[:, 1].cpu(), color="0.55", linewidth=5, alpha=0.35, label="true wave")
    for (steps, values), (colour, dashes) in zip(lines.items(), _styles(list(lines)), strict=True):
        panel.plot(x, values.cpu(), color=colour, linestyle=dashes, linewidth=1.6, label=_label(steps))
    support = wave.support
    panel.plot(support.x[:, 0].cpu(), support.y[:, 0].cpu(), "o", color="black", markersize=5, label="support points")
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("x")
    panel.grid(visible=True, color="0.93")
    panel.spines[["top", "right"]].set_visible(False)


def _label(steps: int) -> str:
    return "before" if steps == 0 else f"{steps} step{'s' * (steps != 1)}"


def _styles(steps: Sequence[int]) -> list[tuple[Any, str]]:
    """Light and dotted before the first step, darker and solid after."""
    from matplotlib import colormaps

    shades = colormaps["plasma_r"]
    places = [0.2 + 0.6 * i / max(1, len(steps) - 1) for i in range(len(steps))]
    return [(shades(place), ":" if count == 0 else "-") for place, count in zip(places, steps, strict=True)]
