"""A schedule holds for a whole run; another one is a second run that goes on from the first, and says so."""

from __future__ import annotations

import json
from pathlib import Path

from tests.command.tools import Command, saved


def test_a_mode_cannot_change_during_a_run(bilevel: Command, here: Path) -> None:
    said = bilevel("run", "tiny.bl", "schedule.adapt=rmd(order = 1, until = 3)")
    assert said.code == 3
    assert "error[B504]: a mode cannot change during a run" in said.err
    assert not (here / "runs").exists()


def test_a_second_run_may_have_another_schedule_and_keeps_the_worse_class(bilevel: Command, here: Path) -> None:
    assert bilevel("run", "tiny.bl", "schedule.adapt=rmd(order = 1)", "meta.steps=2", "--out", "part").code == 0
    said = bilevel("resume", "part", "meta.steps=5", "schedule.adapt=rmd", "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert found["class"] == "biased (in 2 of 5 steps, before the schedule was changed)"
    assert saved(here / "part")["states"]["meta"]["step"] == 5
    about = json.loads((here / "part" / "run.json").read_text("utf-8"))
    assert about["resumed"] == [["meta.steps=5", "schedule.adapt=rmd"]]
    # First order again from the start would end elsewhere.
    assert bilevel("run", "tiny.bl", "schedule.adapt=rmd(order = 1)", "meta.steps=5", "--out", "whole").code == 0
    rows = [(here / name / "metrics.jsonl").read_text("utf-8").splitlines() for name in ("part", "whole")]
    losses = [[json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)] for lines in rows]
    assert losses[0][:3] == losses[1][:3]
    assert losses[0][4] != losses[1][4]
