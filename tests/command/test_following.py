"""What a verb prints after `next:` can be typed as it stands, and is about the same recipe with the same options."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command.tools import ROOT, Command, Said

CHILD = """recipe two_level
use d = points(bad = 0)
level top {
  x : real from 0.3
  level fit {
    w : real from x
    minimize mean((w * d.train.x - d.train.y)^2)
    by sgd(lr = 0.1) for 4 steps
  }
  minimize (w - 1)^2
  by sgd(lr = 0.1) for 2 steps
}
schedule careful { fit : rmd(checkpoint = 2) }
"""
FILE = ("two level/two_level.bl",)
PARTS = ("--with", "two level/some parts.py")
CHANGED = (*FILE, "fit.steps=5", *PARTS)
NAMED = (*FILE, "schedule.careful.fit=rmd(checkpoint = 3)", *PARTS, "--schedule", "careful")
SAID = re.compile(r"^next: (.*?)  ", re.MULTILINE)


@pytest.fixture(autouse=True)
def folder(here: Path) -> Path:
    place = here / "two level"
    place.mkdir()
    (place / "two_level.bl").write_text(CHILD, "utf-8")
    (here / "points_module.py").rename(place / "some parts.py")
    (here / "line.bl").unlink()
    return here


def following(said: Said) -> str:
    (command,) = SAID.findall(said.err)
    return str(command)


def followed(bilevel: Command, command: str) -> None:
    """The command can be typed; those of `bilevel` alone run in this process, which has torch already."""
    if command.startswith("bilevel ") and "*" not in command:
        said = bilevel(*shlex.split(command)[1:])
        assert said.code == 0, said.err
        return
    ran = typed(command)
    assert ran.returncode == 0, ran.stderr


def typed(command: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command; `bilevel` and `python` are those of this test."""
    own = f'bilevel() {{ {sys.executable} -m bilevel "$@"; }}; python() {{ {sys.executable} "$@"; }}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["bash", "-c", f"{own}\n{command}"]
    return subprocess.run(
        words, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("plan", *CHANGED, "--limit", "memory=1GB"),
            "run",
        ),
        (("plan", *NAMED, "--allow", "biased"), "run"),
        (("plan", *FILE, *PARTS, "--pin"), "run"),
        (("gradcheck", *NAMED, "--seed", "3"), "run"),
        (("analyze", *CHANGED, "--steps", "1"), "plan"),
        (("emit", *NAMED), "emit"),
        (("emit", *NAMED, "-o", "a module.py"), "python"),
        (("run", *NAMED, "--out", "the run", "--seed", "2"), "emit"),
        (("check", "tiny.bl"), "plan"),
        (("show", "tiny.bl", "adapt.steps=3"), "plan"),
        (("show", "tiny.bl", "--paths"), "plan"),
        (("fmt", "tiny.bl"), "check"),
        (("fmt", "--check", *FILE), "fmt"),
        (("new", "child", "--from", "tiny.bl"), "plan"),
        (("new", "child", "--from", "elsewhere/tiny.bl"), "mv"),
        (("manifest", "two level/some parts.py"), "check"),
        (("explain", "B101"), "check"),
        (("list", "models"), "show"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:1]),
)
def test_what_follows_can_be_typed(
    bilevel: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    if "elsewhere/tiny.bl" in words:
        (folder / "elsewhere").mkdir()
        (folder / "tiny.bl").rename(folder / "elsewhere" / "tiny.bl")
    said = bilevel(*words)
    assert said.code in ((0, 1) if "--check" in words else (0,))
    command = following(said)
    assert command.startswith(expected if expected in ("mv", "python") else f"bilevel {expected} ")
    if expected in ("run", "emit", "plan"):
        options = ["--schedule", "--with", "--limit", "--allow", *["--seed"] * (expected != "emit")]
        assert [o for o in options if o in command] == [o for o in options if o in words]
    followed(bilevel, command)


def test_the_module_that_follows_is_the_one_that_ran(bilevel: Command, folder: Path) -> None:
    said = bilevel("run", *NAMED, "--out", "the run", "--allow", "biased", "--limit", "memory=1GB")
    followed(bilevel, following(said))
    assert (folder / "two_level.py").read_text("utf-8") == (folder / "the run" / "step.py").read_text("utf-8")


def test_a_resumed_run_names_the_module_that_goes_on(bilevel: Command, folder: Path) -> None:
    assert bilevel("run", *NAMED, "--out", "the run").code == 0
    before = (folder / "the run" / "step.py").read_text("utf-8")
    said = bilevel("resume", "the run", "fit.steps=7")
    shown = typed(following(said)).stdout
    assert shown != before
    assert shown == (folder / "the run" / "step.py").read_text("utf-8")
    assert "7" in (folder / "the run" / "plan.txt").read_text("utf-8")
