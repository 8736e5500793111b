"""What a run has to show at its end: a line, tables, and pictures in the run folder.

Takes a finished `Run`. Recipes whose parts have a summary of their own (`bilevel.recipes.summaries`) show that; all
others the first and last value of every report and its curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel import ir
from bilevel.equations import one_line
from bilevel.explain import summary
from bilevel.files import save_figure
from bilevel.progress import duration, number
from bilevel.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bilevel.recipes.summaries import Summary

PICTURE_WIDTH, PICTURE_HEIGHT = 4.2, 3.0
"""Inches of one curve."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the heads of the columns, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is shown: `pictures` are (what, file)."""

    headline: str
    tables: Sequence[Table]
    pictures: Sequence[tuple[str, Path]] = field(default_factory=tuple)


def outcome(run: Run, seconds: float) -> Outcome:
    """The result of a finished run; pictures are drawn where it has a folder.

    Levels are solved as they are for it: once, for a few copies of another size, where a kernel would not pay back.
    """
    from bilevel.recipes.summaries import special

    with run.program.kernels.resting():
        own = special(run)
        tables = [report_table(run)] if own is None else [own.table]
        pictures = [] if run.folder is None else list(_pictures(run, run.folder, own))
    return Outcome(headline(run, seconds), [table for table in tables if table.rows], pictures)


def _pictures(run: Run, folder: Path, own: Summary | None) -> Iterator[tuple[str, Path]]:
    """What each shows, and its file."""
    if own is not None and own.draw is not None:
        yield own.caption, own.draw(folder)
    yield "curves", draw_curves(run, folder / "curves.png")


def headline(run: Run, seconds: float) -> str:
    """The plan in one line, and what was done."""
    steps = sum(state.step for state in run.states.values())
    return f"{summary(run.program.plan)}; {steps:,} steps in {duration(seconds)}, seed {run.seed}"


def document(run: Run, seconds: float, shown: Outcome) -> Mapping[str, object]:
    """The same as plain data."""
    return {
        "ok": True,
        "recipe": run.program.recipe.name,
        "class": run.exactness,
        "plan": run.program.plan.identity,
        "seed": run.seed,
        "steps": {name: state.step for name, state in run.states.items()},
        "seconds": round(seconds, 3),
        "folder": None if run.folder is None else str(run.folder),
        "reports": {name: [list(row) for row in rows] for name, rows in run.reports.items()},
        "tables": [
            {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in shown.tables
        ],
        "pictures": {caption: str(path) for caption, path in shown.pictures},
    }


# ---- reports -------------------------------------------------------------------------------------------------


def report_table(run: Run) -> Table:
    """Every report with its first and its last value."""
    meanings = {r.name: one_line(r.value.span.text) for r in _reports(run.program.plan.program)}
    rows = [
        (name, number(found[0][1]), number(found[-1][1]), meanings.get(name, ""))
        for name, found in run.reports.items()
        if found
    ]
    return Table("reports", ("report", "first", "last", "what"), tuple(rows))


def _reports(program: ir.Program) -> list[ir.Report]:
    return [report for level in program.walk_levels() for report in level.reports]


def draw_curves(run: Run, path: Path) -> Path:
    """The loss and every report that was made more than twice, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {name: rows for name, rows in run.reports.items() if len(rows) > 2}
    curves = curves or {name: rows for name, rows in run.reports.items() if len(rows) == 2}
    panels = 1 + len(curves)
    columns = min(panels, 3)
    lines = -(-panels // columns)
    figure = Figure(figsize=(PICTURE_WIDTH * columns, PICTURE_HEIGHT * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    _draw_losses(axes[0], run)
    for panel, (name, rows) in zip(axes[1:], curves.items(), strict=False):
        _draw_line(panel, [step for step, _ in rows], [value for _, value in rows], name, marker="o")
    for panel in axes[panels:]:
        panel.set_visible(False)
    figure.suptitle(f"{run.program.recipe.name}   (hypergradients {run.exactness}, seed {run.seed})", fontsize=10)
    return save_figure(figure, path)


def _draw_losses(panel: Axes, run: Run) -> None:
    """The objective at every step, faint, with its running mean."""
    losses = run.losses
    window = max(1, len(losses) // 50)
    sums = [0.0]
    for value in losses:
        sums.append(sums[-1] + value)
    smooth = [(sums[i + 1] - sums[max(0, i + 1 - window)]) / min(i + 1, window) for i in range(len(losses))]
    panel.plot(range(len(losses)), losses, color="0.8", linewidth=0.6)
    _draw_line(panel, list(range(len(losses))), smooth, "objective, with its running mean", marker="")
    if losses and min(losses) > 0 and max(losses) > 20 * min(losses):
        panel.set_yscale("log")


def _draw_line(panel: Axes, steps: Sequence[int], values: Sequence[float], title: str, marker: str) -> None:
    panel.plot(steps, values, marker=marker, markersize=3, linewidth=1.3, color="tab:blue")
    panel.set_title(title, fontsize=9)
    panel.set_xlabel("step", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(visible=True, color="0.92")
    panel.spines[["top", "right"]].set_visible(False)


def rich_table(table: Table, plain: bool) -> Any:
    """The table for a rich console, without its title."""
    from rich import box
    from rich.table import Table as Rich

    drawn = Rich(box=box.ASCII2 if plain else box.SIMPLE_HEAD)
    for place, column in enumerate(table.columns):
        last = place == len(table.columns) - 1 and column == "what"
        drawn.add_column(column, justify="left" if place == 0 or last else "right", no_wrap=not last)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
