"""The benchmark of the planner: its problems are planned, and its figures are what they say."""

from __future__ import annotations

import pytest

from benchmarks.planner_cells import cells
from benchmarks.planner_regret import Judged, Measured, judge, summary
from bilevel import pipeline
from bilevel.costs import reference
from bilevel.limits import Limit


def test_there_are_enough_problems_and_each_has_a_plan() -> None:
    found = cells(quick=False)
    assert len(found) >= 40
    assert len({(cell.kind, cell.name) for cell in found}) == len(found)
    for cell in found:
        (choice,) = pipeline.plan(pipeline.check_text(cell.text)).choices.values()
        assert choice.exactness == "exact", cell.name


def test_every_admissible_mode_of_a_problem_is_measured() -> None:
    found = judge(cells(quick=True)[0], Limit(8e9), reference())
    assert [one.mode for one in found.run][:2] == ["rmd", "rmd(checkpoint = sqrt)"]
    assert sum(one.chosen for one in found.modes) == 1
    assert found.regret is not None and found.regret >= 1.0


def test_figures() -> None:
    def row(mode: str, chosen: bool, said: float, took: float, held: float = 100.0) -> Measured:
        return Measured(mode, chosen, said, 100.0, took, held)

    right = Judged("k", "right", (row("a", True, 1.0, 2.0), row("b", False, 2.0, 4.0)))
    wrong = Judged("k", "wrong", (row("a", True, 1.0, 3.0), row("b", False, 2.0, 1.0, 200.0)))
    unrun = Judged("k", "unrun", (Measured("a", True, 99.0, 1.0, skipped="predicted 99 s"),))
    assert (right.regret, wrong.regret, unrun.regret) == (1.0, 3.0, None)
    assert (right.tau, wrong.tau, unrun.tau) == (pytest.approx(1.0), pytest.approx(-1.0), None)
    figures = summary([right, wrong, unrun])
    assert figures["modes_run"] == 4
    assert figures["regret_close"] == 0.5 and figures["regret_worst"] == 3.0
    assert figures["peaks_near"] == 0.75
    assert figures["time_factor_median"] == pytest.approx(2.0)
