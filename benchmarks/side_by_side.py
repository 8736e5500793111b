"""All sides of a workload, each in a process of its own: compared first, then timed in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import rates
from benchmarks.workload import Side, Values, Workload
from bilevel.commands.run import spin_little


class Worker:
    """The process of one side; `state` is what it said when it was ready."""

    def __init__(self, workload: Workload, side: Side, values: Values, device: str) -> None:
        what = [workload.name, side.name, json.dumps(dict(values)), device]
        command = [sys.executable, "-m", "benchmarks.worker", *what]
        self.side = side
        self.noise = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - as long as the process lives
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.noise, text=True, env=_environment()
        )
        self.state: dict[str, Any] = {}

    def wait(self) -> None:
        """Until it is ready, or has failed."""
        if not self.state:
            self.state = self._answer()

    @property
    def ready(self) -> bool:
        """Whether it can be told to work."""
        return "before" in self.state

    def ask(self, command: str) -> dict[str, Any]:
        """What it answers to a command; a failure is kept in `state`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.state = {"failed": self._last_words()}
            return self.state
        found = self._answer()
        if "failed" in found:
            self.state = found
        return found

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.noise.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"failed": self._last_words()}
        return found

    def _last_words(self) -> str:
        code = self.process.wait()
        self.noise.seek(0)
        lines = self.noise.read().strip().splitlines()
        return f"ended with code {code}: {lines[-1] if lines else 'nothing was said'}"


def _environment() -> dict[str, str]:
    """Idle threads soon sleep, as in `bilevel run`: where two sides start at once they would take each other's time."""
    environment = dict(os.environ)
    spin_little(environment)
    return environment


def measure(
    workload: Workload, short: bool, rounds: int, seconds: float, skip: Sequence[str] = (), device: str = "cpu"
) -> dict[str, Any]:
    """Every case of a workload: what is missing, how far the sides are apart, times, memory, and the floor."""
    speed = rates(workload.threads, device)
    chosen = workload.short if short else workload.cases
    cases = [_case(workload, values, rounds, seconds, skip, device) for values in chosen]
    for found, values in zip(cases, chosen, strict=True):
        if workload.floor is not None:
            least = workload.floor(values)
            bound = max(least.operations / speed["operations"], least.bytes / speed["bytes"])
            found["floor"] = {"seconds": bound, "operations": least.operations, "bytes": least.bytes, "of": least.text}
            found["floor"]["mm"] = max(least.operations / speed["mm"], least.bytes / speed["bytes"])
    about = {"title": workload.title, "limits": workload.limits, "threads": workload.threads}
    return {**about, "rates": speed, "cases": cases}


def _case(
    workload: Workload, values: Values, rounds: int, seconds: float, skip: Sequence[str], device: str
) -> dict[str, Any]:
    """One case; the sides start, two at a time, and then take turns."""
    workers: list[Worker] = []
    here = [side for side in workload.sides if side.only in ("", device)]
    left_out = [side for side in here if any(text in side.name for text in skip)]
    try:
        for side in (side for side in here if side not in left_out):
            _say(f"{workload.name} {_title(values)}: starting {side.name}")
            workers.append(Worker(workload, side, values, device))
            for worker in workers[:-1]:
                worker.wait()
        for worker in workers:
            worker.wait()
        known = workload.exact(values, workload.arrays(values)) if workload.exact is not None else []
        apart = _apart([worker for worker in workers if worker.ready], known)
        limit = workload.tolerance(values) if callable(workload.tolerance) else workload.tolerance
        rows = [_row(worker, apart, limit) for worker in workers]
        timed = [(w, r) for w, r in zip(workers, rows, strict=True) if w.ready and "problem" not in r]
        if workload.memory:
            for worker, row in timed:
                row["bytes"] = worker.ask("memory").get("bytes")
        _take_turns(workload, values, timed, rounds, seconds)
        _profile(timed)
    finally:
        for worker in workers:
            worker.close()
    rows += [{"side": side.name, "ours": not side.needs, "problem": "left out (--skip)"} for side in left_out]
    return {"values": dict(values), "sides": rows}


def _take_turns(
    workload: Workload, values: Values, timed: Sequence[tuple[Worker, dict[str, Any]]], rounds: int, seconds: float
) -> None:
    """Adds the times of all rounds to the rows."""
    for turn in range(rounds):
        _say(f"{workload.name} {_title(values)}: round {turn + 1} of {rounds}")
        for worker, row in timed:
            if worker.ready:
                row["seconds"] += worker.ask(f"time {seconds}").get("seconds", [])
            if not worker.ready:
                row["problem"] = worker.state["failed"]
    for _, row in timed:
        if row["seconds"]:
            row.update(summary(row.pop("seconds")))


def _profile(timed: Sequence[tuple[Worker, dict[str, Any]]]) -> None:
    """Adds to our fastest row what its time went to."""
    own = [(worker, row) for worker, row in timed if row["ours"] and worker.ready and "median" in row]
    if own:
        worker, row = min(own, key=lambda pair: float(pair[1]["median"]))
        row |= worker.ask("profile") if worker.ready else {}


def summary(times: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of times, in seconds."""
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (times[0],) * 3
    return {"median": statistics.median(times), "quartiles": [low, high], "runs": len(times)}


def _row(worker: Worker, apart: Mapping[str, float], tolerance: float) -> dict[str, Any]:
    """What is known of a side before it is timed."""
    row: dict[str, Any] = {"side": worker.side.name, "ours": not worker.side.needs, "seconds": []}
    if "missing" in worker.state:
        return {**row, "problem": f"missing: {worker.state['missing']}"}
    if not worker.ready:
        return {**row, "problem": f"failed: {worker.state['failed']}"}
    row |= {"before": worker.state["before"], "apart": apart[worker.side.name]}
    if not apart[worker.side.name] <= tolerance:
        why = f"not comparable: {worker.side.known}" if worker.side.known else "computes something else"
        row["problem"] = f"{why}; its hypergradient is off by {apart[worker.side.name]:.1e}"
    return row


def _apart(workers: Sequence[Worker], known: Sequence[Any]) -> dict[str, float]:
    """How far each hypergradient is from the known one, or that of the first side: norm of the difference over norm."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = list(known)
        for number, worker in enumerate(workers):
            path = Path(folder) / f"{number}.npz"
            if "failed" in worker.ask(f"gradient {path}"):
                continue
            with np.load(path) as file:
                arrays = [np.asarray(file[name], dtype="float64") for name in file.files]
            first = first or arrays
            found[worker.side.name] = _distance(first, arrays)
    return found


def _distance(first: Sequence[Any], second: Sequence[Any]) -> float:
    if [a.shape for a in first] != [b.shape for b in second]:
        return float("inf")
    difference = sum(float(((a - b) ** 2).sum()) for a, b in zip(first, second, strict=True)) ** 0.5
    size: float = sum(float((a**2).sum()) for a in first) ** 0.5
    return difference / size if size > 0 else float("inf")


def _title(values: Values) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
