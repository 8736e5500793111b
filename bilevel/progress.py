"""What a user sees while a program runs: a moving line on a terminal, plain lines everywhere else.

A `Progress` is a callback of `run` (it takes `Event`s) and a context; it writes to stderr only. On a terminal the
line shows phase, steps, loss, speed and time left, and reports stay above it. Elsewhere a line is written for every
report, and otherwise at most one in two seconds.
"""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from bilevel.run import Event

EVERY_SECONDS = 2.0


class Progress(Protocol):
    """Shows events as they come, and closes."""

    def __call__(self, event: Event) -> None:
        """Show one event."""

    def note(self, text: str) -> None:
        """A line that is not about a step."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""


def progress(plain: bool, stream: TextIO | None = None) -> Progress:
    """A moving line if `stream` (stderr) is a terminal and nobody asked for plain lines."""
    stream = sys.stderr if stream is None else stream
    return Lines(stream) if plain or not stream.isatty() else Live()


def number(value: float) -> str:
    """A loss or a report in four digits."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """`48 s`, `3:20`, `1:02:09`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Speed:
    """Steps a second of the phase in progress, and the time that is left of it."""

    def __init__(self) -> None:
        self.phase = ""
        self.first = (0, 0.0)
        self.rate = math.nan

    def update(self, event: Event) -> None:
        """Take note of one event."""
        now = time.monotonic()
        if event.phase != self.phase:
            self.phase, self.first = event.phase, (event.step, now)
        elif event.step > self.first[0] and now > self.first[1]:
            self.rate = (event.step - self.first[0]) / (now - self.first[1])

    def text(self, event: Event) -> str:
        """`27.1 steps/s  1:04 left`; slow ones as `3.2 s/step`."""
        if not math.isfinite(self.rate) or self.rate == 0:
            return ""
        speed = f"{self.rate:.3g} steps/s" if self.rate >= 1 else f"{1 / self.rate:.3g} s/step"
        left = (event.steps - event.step) / self.rate
        return f"{speed}  {duration(left)} left" if event.step < event.steps else speed


def _reports(event: Event) -> str:
    return "  ".join(f"{name} {number(value)}" for name, value in event.reports.items())


class Lines:
    """Plain lines, for files and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.speed = Speed()
        self.last = -math.inf

    def __call__(self, event: Event) -> None:
        """A line for a report, or when the last one is two seconds old."""
        self.speed.update(event)
        now = time.monotonic()
        if event.reports:
            self.note(f"{event.phase}  {_of(event.reported, event)}  {_reports(event)}")
        elif now - self.last < EVERY_SECONDS:
            return
        elif not math.isnan(event.value):
            words = [event.phase, _of(event.step, event), f"loss {number(event.value)}", self.speed.text(event)]
            self.note("  ".join(word for word in words if word))
        self.last = now

    def note(self, text: str) -> None:
        """One line."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to restore."""


def _of(step: int, event: Event) -> str:
    total = f"{event.steps:,}"
    return f"{step:>{len(total)},}/{total}"


class Live:
    """One moving line, drawn by rich; reports stay above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"))
        self.bars = Bars(*columns, console=self.console, transient=True, refresh_per_second=5)
        self.tasks: dict[str, int] = {}
        self.speed = Speed()

    def __call__(self, event: Event) -> None:
        """Move the line; write reports above it."""
        self.speed.update(event)
        if event.phase not in self.tasks:
            self.tasks[event.phase] = int(self.bars.add_task(event.phase, total=event.steps, note=""))
        if event.reports:
            self.note(f"{event.phase}  {_of(event.reported, event)}  {_reports(event)}")
        loss = "" if math.isnan(event.value) else f"loss {number(event.value)}  "
        note = f"{_of(event.step, event)}  {loss}{self.speed.text(event)}"
        from rich.progress import TaskID

        self.bars.update(TaskID(self.tasks[event.phase]), completed=event.step, note=note)

    def note(self, text: str) -> None:
        """A line above the moving one."""
        self.bars.console.print(text, highlight=False, markup=False)

    def __enter__(self) -> Self:
        """Draw the line."""
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the line."""
        self.bars.stop()
