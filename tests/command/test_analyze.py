"""`bilevel analyze`: what it prints, what it keeps, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bilevel import gradcheck as checking
from bilevel.costs import read_calibration, reference, stored
from tests.command.tools import Command


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_calibration_is_kept_and_the_next_plan_names_it(bilevel: Command, here: Path) -> None:
    before = sorted(path.name for path in here.iterdir())
    said = bilevel("analyze", "tiny.bl", "--steps", "2")
    assert said.code == 0, said.err
    assert "estimates by the calibration `reference`" in said.out
    kept = read_calibration(stored())
    assert f"new calibration `cpu, measured on tiny` ({kept.identity})" in said.out
    assert kept != reference()
    assert (
        f"times of functions as they are, by the calibration `cpu, measured on tiny` ({kept.identity})"
        in bilevel("plan", "tiny.bl").out
    )
    assert sorted(path.name for path in here.iterdir()) == sorted([*before, "cache"])


def test_json_and_page_have_the_plan_and_the_measurements(bilevel: Command) -> None:
    content = json.loads(bilevel("analyze", "tiny.bl", "--steps", "2", "--json").out)
    assert (content["bilevel_plan"], content["bilevel_analysis"], content["steps_run"]) == (1, 1, {"meta": 2})
    assert content["steps"]["meta"]["seconds"] > 0  # the plan's own, which the analysis leaves alone
    rows = {row["step"].partition(",")[0]: row for row in content["measured"]}
    assert rows["adapt forward"]["calls"] == 2
    assert rows["adapt forward"]["bytes"]["measured"] == rows["adapt forward"]["bytes"]["estimate"]
    assert content["calibrations"]["before"]["hash"] == reference().identity
    assert content["gradcheck"]["ok"] is True
    page = bilevel("analyze", "tiny.bl", "--steps", "1", "--format", "html").out
    assert "Estimated and measured" in page and "&nbsp;&nbsp;adapt forward" in page


def test_a_wrong_hypergradient_is_exit_code_5(bilevel: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    rebuild = checking.build

    def off(plan: object, parts: object) -> object:
        made = rebuild(plan, parts)  # type: ignore[arg-type]
        phase = made[-1]

        def scaled(*given: object) -> object:
            gradient, value = phase.hypergradient(*given)
            return {name: 1.01 * leaf for name, leaf in gradient.items()}, value

        return (*made[:-1], phase._replace(hypergradient=scaled))

    monkeypatch.setattr(checking, "build", off)
    said = bilevel("analyze", "tiny.bl", "--steps", "1")
    assert said.code == 5
    assert "gradient check: FAILED" in said.out


def test_a_number_of_steps_is_a_number(bilevel: Command) -> None:
    assert bilevel("analyze", "tiny.bl", "--steps", "0").code == 2
    assert bilevel("analyze", "nothing").code == 3


def test_a_cache_that_cannot_be_written_is_told(bilevel: Command, cache: Path) -> None:
    cache.write_text("a file", "utf-8")
    said = bilevel("analyze", "tiny.bl", "--steps", "1")
    assert said.code == 1
    assert "B709" in said.err and "XDG_CACHE_HOME=DIR" in said.err
