"""What is shown while a program runs."""

from __future__ import annotations

import io
import math

import pytest

from bilevel import progress as module
from bilevel.progress import Lines, Live, duration, progress
from bilevel.run import Event


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_no_moving_line_where_stderr_is_no_terminal() -> None:
    stream = io.StringIO()
    assert isinstance(progress(False, stream), Lines)
    stream.isatty = lambda: True  # type: ignore[method-assign]
    assert isinstance(progress(True, stream), Lines)
    assert isinstance(progress(False, stream), Live)


def test_plain_lines_come_with_reports_and_else_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(module, "time", clock)
    with Lines(stream) as lines:
        for step in range(1, 61):
            clock.now += 0.125
            lines(Event("meta", step, 60, 0.5, {"val": 2.0} if step == 31 else {}, 0.0))
        lines(Event("meta", 60, 60, math.nan, {"val": 1.25}, 0.0))
    assert stream.getvalue().splitlines() == [
        "meta   1/60  loss 0.5",
        "meta  17/60  loss 0.5  8 steps/s  5 s left",
        "meta  30/60  val 2",
        "meta  47/60  loss 0.5  8 steps/s  2 s left",
        "meta  60/60  val 1.25",
    ]


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3600, 3729)] == ["0 s", "59 s", "1:01", "1:00:00", "1:02:09"]


def test_live_line_writes_reports_above_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with Live() as live:
        live(Event("meta", 1, 3, 0.5, {"val": 2.0}, 0.0))
        live(Event("meta", 2, 3, 0.5, {}, 0.0))
        live.note("stopping")
    said = capsys.readouterr()
    assert said.out == ""
    assert "meta  0/3  val 2\n" in said.err
    assert "stopping\n" in said.err
