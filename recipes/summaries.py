"""Summaries that belong to a part: what a run is to show at its end when its recipe uses that part.

One literal table from the name of a registered constructor to a function of the finished run; None where the recipe
is not of the kind that the summary is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bilevel.outcome import Table
    from bilevel.run import Run


@dataclass(frozen=True, slots=True)
class Summary:
    """A table in place of that of the reports and, with a caption, a picture that `draw` puts into a folder."""

    table: Table
    caption: str = ""
    draw: Callable[[Path], Path] | None = None


def special(run: Run) -> Summary | None:
    """The summary of the first part that has one for this run."""
    from bilevel.recipes.attack_summary import attack_summary
    from bilevel.recipes.control_summary import control_summary
    from bilevel.recipes.sine_summary import sine_summary

    summaries: dict[str, Callable[[Run], Summary | None]] = {
        "pendulum": control_summary,
        "sine": sine_summary,
        "victim_gradients": attack_summary,
    }
    for use in run.program.plan.program.uses:
        if use.description is not None and use.description.name in summaries:
            return summaries[use.description.name](run)
    return None
