"""An analysis as a page of text and as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bilevel.analysis import Analysis, Row
from bilevel.costs import Calibration, size_text, time_text
from bilevel.differences import DIFFERENCES
from bilevel.gradcheck import Gradcheck

VERSION = 1
HEADS = ("", "estimate", "measured", "ratio", "estimate", "measured", "calls")


def analysis_text(found: Analysis) -> str:
    """A table with a line for every function of a step, the calibration, and the gradient check."""
    lines = list(_table(found.rows))
    untraced = dict.fromkeys(row.untraced for row in found.rows if row.untraced)
    lines += [f"no estimates: {reason}" for reason in untraced]
    if found.program.kernels.kind != "none":
        lines.append(f"functions are measured as they are; a run makes kernels of them ({found.program.kernels.kind})")
    lines += ["", *_calibrations(found.before, found.after)]
    lines += [] if found.gradcheck is None else [gradcheck_line(found.gradcheck)]
    return "\n".join(lines)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    cells = [HEADS, *(_cells(row) for row in rows)]
    notes = ["", *(f"! {' and '.join(row.flags)}" if row.flags else "" for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS))]
    spans = sum(widths[1:4]) + 4
    yield f"{'':<{widths[0]}}  {'time of one step':^{spans}}  {'peak memory':^{sum(widths[4:6]) + 2}}".rstrip()
    for row, note in zip(cells, notes, strict=True):
        numbers = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"{row[0]:<{widths[0]}}  {'  '.join(numbers)}  {note}".rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    times = _or_dash(row.seconds_estimated, time_text), time_text(row.seconds), ratio
    peaks = _or_dash(row.peak_estimated, size_text), size_text(row.peak)
    return (f"{'  ' * row.depth}{row.step}", *times, *peaks, f"{row.calls:,}")


def _or_dash(value: float | None, text: object) -> str:
    return "-" if value is None or not callable(text) else str(text(value))


def _calibrations(before: Calibration, after: Calibration) -> Iterator[str]:
    yield f"estimates by the calibration `{before.name}` ({before.identity})"
    yield f"new calibration `{after.name}` ({after.identity}): {speeds(after)}"


def speeds(calibration: Calibration) -> str:
    """What a calibration says, for people."""
    return (
        f"{time_text(calibration.operator)} an operator, {time_text(calibration.view)} a view, "
        f"{time_text(calibration.layer)} for each transform around one, "
        f"{calibration.products / 1e9:,.3g} GFLOP/s in products, {calibration.convolutions / 1e9:,.3g} in convolutions, "
        f"{calibration.moved / 1e9:,.3g} GB/s"
    )


def gradcheck_line(found: Gradcheck) -> str:
    """The verdict of a gradient check in one line."""
    errors = [row.differences for row in found.rows if row.ok is not None and row.differences is not None]
    if not found.ok:
        worst = f"{max(errors):.1e} relative, " if errors else ""
        return f"gradient check: FAILED ({worst}limit {DIFFERENCES:g}); bilevel gradcheck {found.recipe} says more"
    biased = [row.bias for row in found.rows if row.bias is not None]
    if biased:
        worst_bias = max(biased, key=lambda bias: bias.angle)
        return (
            f"gradient check: not exact, {worst_bias.angle:.2f} degrees from {worst_bias.against}, "
            f"{worst_bias.ratio:.4g} times its norm (float64)"
        )
    if errors:
        return f"gradient check: {max(errors):.1e} relative (float64, {found.directions} directions)"
    return f"gradient check: nothing to compare with ({'; '.join(found.skipped) or 'no differences'})"


def analysis_json(found: Analysis) -> dict[str, object]:
    """Plain data, versioned; seconds of one step and bytes."""
    return {
        "bilevel_analysis": VERSION,
        "steps_run": dict(found.steps),
        "measured": [row_json(row) for row in found.rows],
        "calibrations": {
            name: {**one.to_json(), "hash": one.identity}
            for name, one in (("before", found.before), ("after", found.after))
        },
        "gradcheck": None if found.gradcheck is None else found.gradcheck.to_json(),
    }


def row_json(row: Row) -> dict[str, object]:
    """One row; what was not traced is null."""
    return {
        "step": row.step,
        "level": row.level,
        "depth": row.depth,
        "calls": row.calls,
        "seconds": {"estimate": row.seconds_estimated, "measured": row.seconds, "ratio": row.ratio},
        "bytes": {"estimate": row.peak_estimated, "measured": row.peak},
        "flags": list(row.flags),
    }
