"""What the tests of the command share: a recipe of a few milliseconds a step, user modules, and the command itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel.command import main

ROOT = Path(__file__).parents[2]

TINY = """recipe tiny extends maml_sine
use net = mlp(1, 8, 1)
task.count         = 2
meta.steps         = 6
val.every          = 2
val.task.count     = 2
after0.task.count  = 4
after1.task.count  = 4
after5.task.count  = 4
after10.task.count = 4
"""

POINTS = '''import torch
import bilevel
from bilevel.dsl.datatypes import real, record, records
from bilevel.recipes.records import Samples, SampleSplits

SAMPLES = records(8, x=real(1), y=real(1))


@bilevel.data(yields=record(train=SAMPLES, val=SAMPLES, test=SAMPLES))
def points(bad: int = 0) -> SampleSplits:
    """Eight points on a line."""
    if bad < 0:
        raise ValueError("bad must not be negative")
    x = torch.linspace(-1, 1, 8)[:, None]
    y = 2 * x
    y[:bad] = float("nan")
    return SampleSplits(*(Samples(x, y) for _ in range(3)))
'''

LINE = """recipe line                                 # fit a line
use net = mlp(1, 4, 1)
use d   = points(bad = 0)
level train {
    w : params(net)
    minimize mean(mse(net[w](d.train.x), d.train.y))
    by sgd(lr = 0.1) for 5 steps
    report loss = mean(mse(net[w](d.val.x), d.val.y)) every 1 step
}
"""


@dataclass(frozen=True)
class Said:
    """What one command line gave."""

    code: int
    out: str
    err: str


class Command:
    """The command in this process, with its output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str) -> Said:
        self.capsys.readouterr()
        code = main([*words, "--debug"])
        said = self.capsys.readouterr()
        return Said(code, said.out, said.err)


def start(*words: str, python: str = "") -> subprocess.Popen[str]:
    """The command as a process of its own; `python` runs before it."""
    program = f"import sys\n{python}\nfrom bilevel.command import main\nsys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=pipe, stderr=pipe, text=True, env=environment
    )


def finished(process: subprocess.Popen[str]) -> Said:
    out, err = process.communicate(timeout=60)
    return Said(process.returncode, out, err)


def wait_for_lines(path: Path, lines: int) -> None:
    """Until a file has so many lines."""
    end = time.monotonic() + 80
    while time.monotonic() < end:
        if path.exists() and path.read_text("utf-8").count("\n") >= lines:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not get {lines} lines")


def stop(process: subprocess.Popen[str], how: signal.Signals) -> Said:
    process.send_signal(how)
    return finished(process)


def saved(folder: Path) -> Any:
    return torch.load(folder / "state.pt", weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Whether two saved states are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
