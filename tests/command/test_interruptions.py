"""What an interruption, a full disk or a second process does to files that are being written: nothing."""

from __future__ import annotations

import importlib
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from bilevel import files
from bilevel.commands.watch import LastSeen
from bilevel.errors import RecipeError, fail, pass_on
from bilevel.files import held, write_whole
from bilevel.run import Event
from tests.command.tools import Command, equal, saved, start, stop, wait_for_lines

SLOW = "import time, bilevel.run as r; one = r._one_step; r._one_step = lambda *a: (time.sleep(0.05), one(*a))[1]"


# ---- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_is_cut_short_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old", "utf-8")
    whole = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        whole(self, data[:1])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(RecipeError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_whole(path, "new")
    assert not isinstance(caught.value, RecipeError) or caught.value.diagnostics[0].code == "B709"
    assert not list(tmp_path.glob(".*"))
    assert path.read_text("utf-8") == "old"


@pytest.mark.parametrize("name", ["state.pt", "curves.png", "sine.png"])
def test_a_full_disk_is_a_message_at_every_file(bilevel: Command, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if name in self.name:
            raise OSError(28, "No space left on device")
        return whole(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    said = bilevel("run", "tiny.bl", "--out", "part")
    assert said.code == 1
    assert f"error[B709]: cannot write to `part/{name}`: No space left on device" in said.err


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    path.write_text("old", "utf-8")
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, "new")
    assert link.is_symlink()
    assert path.read_text("utf-8") == "new"
    assert path.stat().st_mode & 0o777 == 0o640


# ---- two at once ---------------------------------------------------------------------------------------------


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with held(tmp_path):
        with pytest.raises(RecipeError) as caught, held(tmp_path):
            pass
        assert caught.value.diagnostics[0].code == "B708"
    with held(tmp_path):
        pass


def test_a_run_in_progress_is_not_resumed_and_not_overwritten(bilevel: Command, here: Path) -> None:
    process = start("run", "tiny.bl", "meta.steps=4000", "--compile", "none", "--out", "part", python=SLOW)
    wait_for_lines(here / "part" / "metrics.jsonl", 5)
    said = bilevel("resume", "part")
    assert said.code == 1
    assert "error[B708]: another process runs in `part` now" in said.err
    again = bilevel("run", "tiny.bl", "--out", "part")
    assert again.code == 1
    assert "error[B708]: `part` exists already; nothing was overwritten" in again.err
    stop(process, signal.SIGINT)
    lines = (here / "part" / "metrics.jsonl").read_text("utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(len(steps)))


def test_a_resume_takes_no_other_kernels(bilevel: Command) -> None:
    """Kernels of another kind round otherwise: the numbers of the run would change in the middle."""
    assert bilevel("run", "line.bl", "--with", "points_module", "--out", "fit").code == 0
    said = bilevel("resume", "fit", "--compile", "fx")
    assert said.code == 2
    assert "there is no option `--compile`" in said.err


# ---- Ctrl-C --------------------------------------------------------------------------------------------------


def test_an_interruption_while_a_picture_is_drawn_loses_nothing(
    bilevel: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bilevel("run", "tiny.bl", "--out", "whole").code == 0
    whole = files.write_whole

    def pressed(path: Path, *rest: object) -> None:
        if path.suffix == ".png":
            os.kill(os.getpid(), signal.SIGINT)
        whole(path, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_whole", pressed)
        said = bilevel("run", "tiny.bl", "--out", "part")
    assert said.code == 130
    assert "interrupted after the last step; state saved" in said.err
    assert said.err.splitlines()[-1].startswith("next: bilevel resume part")
    assert not list((here / "part").glob("*.png*")) + list((here / "part").glob(".*"))
    assert equal(saved(here / "part"), saved(here / "whole"))
    assert bilevel("resume", "part").code == 0
    assert sorted(p.name for p in (here / "part").iterdir()) == sorted(p.name for p in (here / "whole").iterdir())


def test_an_error_that_takes_the_place_of_an_interruption_is_one() -> None:
    masked = RuntimeError("the stack of transforms is not what it was")
    masked.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        pass_on(masked)
    pass_on(RuntimeError("one of its own"))
    pass_on(fail("B101", "nothing was interrupted"))


SCRIPT = """import torch

@torch.jit.ignore
def pressed(x: torch.Tensor) -> torch.Tensor:
    raise KeyboardInterrupt

def scripted(x: torch.Tensor) -> torch.Tensor:
    return pressed(x)
"""


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_an_interruption_that_torch_makes_an_error_of_is_one(
    bilevel: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Ctrl-C is pressed while TorchScript, which runs some of torch's forward derivatives, calls Python."""
    (here / "script.py").write_text(SCRIPT, "utf-8")
    monkeypatch.syspath_prepend(here)
    scripted = torch.jit.script(importlib.import_module("script").scripted)
    with pytest.raises(RuntimeError) as caught:
        scripted(torch.zeros(1))
    with pytest.raises(KeyboardInterrupt):
        pass_on(caught.value)

    def pressed(seen: LastSeen, event: Event) -> None:
        seen.event = event
        if event.step == 3:
            raise caught.value

    monkeypatch.setattr(LastSeen, "__call__", pressed)
    said = bilevel("run", "tiny.bl", "--out", "part")
    assert said.code == 130
    assert "interrupted in meta after step 3 of 6; state saved" in said.err
    assert said.err.splitlines()[-1].startswith("next: bilevel resume part")


def test_an_interruption_in_a_plan_is_not_taken_for_a_part_that_cannot_be_counted(
    bilevel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bilevel import tracing

    def unwinding(*arguments: object) -> object:
        try:
            raise KeyboardInterrupt
        finally:
            raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(tracing, "_run", unwinding)
    said = bilevel("run", "tiny.bl", "--compile", "fx", "--out", "part")
    assert (said.code, said.err.splitlines()[-1]) == (130, "interrupted")
