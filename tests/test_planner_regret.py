"""The benchmark of the planner: its problems are planned, and its figures are what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.planner_cells import cells
from benchmarks.planner_regret import Judged, Measured, content, judge, markdown, resumed, summary, timed
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


def test_a_file_is_taken_up_again(tmp_path: Path) -> None:
    row = Measured("a", True, 1.0, 2.0, (1.0, 2.0, 3.0), 4.0, work={"products": 1.0})
    found = [Judged("k", "one", (row, Measured("b", False, 99.0, 1.0, skipped="predicted 99 s")))]
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content(found, reference(), 1)), "utf-8")
    assert resumed(path, reference(), 1) == found
    assert resumed(path, reference(), 2) == []  # other threads: other times
    assert resumed(tmp_path / "none.json", reference(), 1) == []


def test_slow_modes_run_once_and_quick_ones_at_least_five_times() -> None:
    now = 0.0

    def taking(seconds: float) -> Callable[[], None]:
        def work() -> None:
            nonlocal now
            now += seconds

        return work

    slow, quick, steady = timed([taking(61.0), taking(0.3), taking(1.0)], lambda: now)
    assert slow == (61.0,)
    assert quick == pytest.approx((0.3,) * 5) and steady == pytest.approx((1.0,) * 5)
    assert len(timed([taking(0.001)], lambda: now)[0]) == 50


def test_every_admissible_mode_of_a_problem_is_measured() -> None:
    found = judge(cells(quick=True)[0], Limit(8e9), reference())
    assert [one.mode for one in found.run][:2] == ["rmd", "rmd(checkpoint = sqrt)"]
    assert sum(one.chosen for one in found.modes) == 1
    assert found.regret is not None and found.regret >= 1.0


def test_figures() -> None:
    def row(mode: str, chosen: bool, said: float, took: float, held: float = 100.0) -> Measured:
        return Measured(mode, chosen, said, 100.0, (0.9 * took, took, 1.1 * took), held)

    right = Judged("k", "right", (row("a", True, 1.0, 2.0), row("b", False, 2.0, 4.0)))
    wrong = Judged("k", "wrong", (row("a", True, 1.0, 3.0), row("b", False, 2.0, 1.0, 200.0)))
    unrun = Judged("k", "unrun", (Measured("a", True, 99.0, 1.0, skipped="predicted 99 s"),))
    assert (right.regret, wrong.regret, unrun.regret) == (1.0, 3.0, None)
    assert (right.tau, wrong.tau, unrun.tau) == (pytest.approx(1.0), pytest.approx(-1.0), None)
    near = Judged("k", "near", (row("a", True, 2.0, 2.0), row("b", False, 1.0, 2.1), row("c", False, 3.0, 9.0)))
    assert near.tau == pytest.approx(1 / 3) and near.tau_apart == 1.0  # the quartiles of the first two overlap
    assert (right.tau_apart, wrong.tau_apart, unrun.tau_apart) == (1.0, -1.0, None)
    rows = list(markdown([wrong, unrun]))
    assert rows[-2] == "| k: wrong | 2 of 2 | a | 1,000.00 | 3,000.00 | b | 3.00 | -1.00 | -1.00 |"
    assert rows[-1] == "| k: unrun | 0 of 1 | a | 99,000.00 | - | - | - | - | - |"
    figures = summary([right, wrong, unrun])
    assert figures["modes_run"] == 4
    assert figures["regret_close"] == 0.5 and figures["regret_worst"] == 3.0
    assert figures["peaks_near"] == 0.75
    assert figures["time_factor_median"] == pytest.approx(2.0)


def test_regret_where_memory_is_short() -> None:
    """Of b and c, which fit 200 bytes, b is predicted to be the faster and takes twice the time of c."""
    modes = (("a", 300.0, 1.0, 1.0), ("b", 200.0, 2.0, 5.0), ("c", 100.0, 3.0, 2.5))
    rows = (Measured(mode, mode == "a", said, peak, (took,), peak) for mode, peak, said, took in modes)
    one = Judged("k", "short", tuple(rows))
    assert (one.regret, one.regrets_short) == (1.0, [2.0])
    figures = summary([one])
    assert (figures["short"], figures["short_close"], figures["short_worst"]) == (1, 0.0, 2.0)
