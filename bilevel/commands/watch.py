"""A run under the eyes of a user: progress, a clean stop on Ctrl-C, and the result at the end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bilevel.commands.console import Console
from bilevel.errors import pass_on
from bilevel.outcome import Outcome, document, outcome, rich_table
from bilevel.progress import Progress, progress
from bilevel.run import STATE, Callback, Event, Run, resuming

INTERRUPTED = 130


class Stop:
    """Remembers that Ctrl-C was pressed; the run stops after the step in progress, so that nothing is half done."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, event: Event) -> None:
        """Raise where the run may stop."""
        if self.asked and event.step < event.steps:
            raise KeyboardInterrupt


class LastSeen:
    """The last event, for the message of an interrupt."""

    def __init__(self) -> None:
        self.event: Event | None = None

    def __call__(self, event: Event) -> None:
        """Remember it."""
        self.event = event


def watched(work: Callable[[list[Callback]], Run], folder: Path, console: Console, following: str) -> int:
    """Do the work with progress on stderr, then show its result and a command; 130 where the user stopped it."""
    began = time.monotonic()
    seen, stop = LastSeen(), Stop()
    try:
        with progress(console.plain) as shown, _stopping(stop, shown):
            run = _worked(work, [shown, seen, stop])
    except KeyboardInterrupt:
        return _interrupted(seen.event, folder, console)
    try:
        _show(run, time.monotonic() - began, console, following)
    except KeyboardInterrupt:
        return _stopped("interrupted after the last step; state saved", folder, console, "to see the result")
    return 0


def _worked(work: Callable[[list[Callback]], Run], callbacks: list[Callback]) -> Run:
    """The work done; raises KeyboardInterrupt also where torch made an error of its own of that."""
    try:
        return work(callbacks)
    except Exception as error:
        pass_on(error)
        raise


@contextmanager
def _stopping(stop: Stop, shown: Progress) -> Iterator[None]:
    """Ctrl-C asks for a stop; pressed again, it stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(number: int, frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        shown.note("stopping after this step (Ctrl-C again: at once)")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(event: Event | None, folder: Path, console: Console) -> int:
    at = "before the first step" if event is None else f"in {event.phase} after step {event.step:,} of {event.steps:,}"
    saved = "state saved" if (folder / STATE).exists() else "no state was saved yet"
    return _stopped(f"interrupted {at}; {saved}", folder, console, "to go on to the same bits")


def _stopped(message: str, folder: Path, console: Console, why: str) -> int:
    if console.json:
        console.document({"ok": False, "interrupted": True, "message": message, "folder": str(folder)})
    else:
        console.say(message)
    console.next(resuming(folder), why)
    return INTERRUPTED


def _show(run: Run, seconds: float, console: Console, following: str) -> None:
    """The result on stdout."""
    shown = outcome(run, seconds)
    if console.json:
        console.document(document(run, seconds, shown))
        return
    console.diagnostics(run.warnings)
    _print(shown, console)
    if run.folder is not None:
        console.next(following, "the step that ran, as readable PyTorch")


def _print(shown: Outcome, console: Console) -> None:
    from rich.console import Console as Rich

    console.result(shown.headline)
    plain = not console.colours(sys.stdout)
    rich = Rich(
        file=sys.stdout, no_color=plain, highlight=False, markup=False, width=None if sys.stdout.isatty() else 120
    )
    for table in shown.tables:
        rich.print(f"\n{table.title}", markup=False)
        rich.print(rich_table(table, console.plain))
    for caption, path in shown.pictures:
        console.result(f"{caption}: {path}")
