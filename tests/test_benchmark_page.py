"""The page of the benchmarks: targets find the sides that they name, and misses are shown as such."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.catalogue import MODULES, workload
from benchmarks.machine import Busy, others
from benchmarks.report import CUDA, markdown, plot
from benchmarks.targets import TARGETS, verdicts


def _case(name: str, own: float, others: float) -> dict[str, Any]:
    """A case in which all our sides took so long, and all others so long."""
    sides = [
        {
            "side": side.name,
            "ours": not side.needs,
            "median": others if side.needs else own,
            "quartiles": [1.0, 2.0],
            "runs": 3,
            "bytes": 1e6 * (others if side.needs else own),
            "apart": 0.0,
            "before": {"ready": 1.0},
        }
        for side in workload(name.removesuffix(CUDA)).sides
    ]
    floor = {"seconds": own, "operations": 3.3e11, "bytes": 0.0, "of": "work"}
    return {"values": {"T": 100}, "sides": sides, "floor": floor}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_met_far_ahead_of_the_others_and_names_sides_that_exist(name: str) -> None:
    lines = list(verdicts(name, _case(name, 1.0, 100.0)))[2:]
    assert len(lines) == len(TARGETS[name])
    assert all(line.endswith("| met |") for line in lines)


@pytest.mark.parametrize("name", [n for n in TARGETS if n != "W3"])
def test_a_ratio_below_its_target_is_a_miss(name: str) -> None:
    assert any("**missed**" in line for line in verdicts(name, _case(name, 1.0, 0.5)))


def test_a_mode_that_is_off_is_a_miss() -> None:
    case = _case("W3", 1.0, 100.0)
    case["sides"][0]["apart"] = 1e-6
    assert any("**missed**" in line for line in verdicts("W3", case))


def test_the_page_has_table_floor_and_plot_of_every_workload(tmp_path: Path) -> None:
    machine = {
        "date": "today",
        "processor": "p",
        "cores": 2,
        "system": "s",
        "others": 0.2,
        "versions": {},
        "absent": ["jax"],
    }
    found = {n: {"title": f"about {n}", "cases": [_case(n, 1.0, 100.0)]} for n in MODULES}
    page = markdown({n: {"machine": machine, "minutes": 1.0, "found": f} for n, f in found.items()}, "plots")
    assert page.count("\n## ") == page.count("![") == page.count("gap 1.0") == len(MODULES)
    assert page.count("not to be quoted") == len(MODULES)
    plot(found["W2"], tmp_path / "W2.png")
    assert (tmp_path / "W2.png").stat().st_size > 0


@pytest.mark.parametrize(("others", "shown"), [(100.0, 0), (0.5, 1)])
def test_the_page_says_what_is_in_the_way_of_a_target_that_is_missed(others: float, shown: int) -> None:
    machine = {
        "date": "today",
        "processor": "p",
        "cores": 2,
        "system": "s",
        "others": 0.02,
        "versions": {},
        "absent": [],
    }
    found = {"title": "about W4", "limits": "the products", "cases": [_case("W4", 1.0, others)]}
    page = markdown({"W4": {"machine": machine, "minutes": 1.0, "found": found}}, "plots")
    assert page.count("What is in the way: the products") == shown
    assert "not to be quoted" not in page


def test_the_work_of_others_is_told_from_our_own() -> None:
    spin = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.6: pass"]
    before = Busy.now()
    if before is None:
        pytest.skip("no /proc/stat")
    subprocess.run(spin, check=True)  # waited for: ours
    after = Busy.now()
    assert after is not None
    assert after.own - before.own >= 0.55
    assert after.all - before.all >= after.own - before.own - 0.1
    assert others(before) is not None


@pytest.mark.parametrize(
    ("given", "said"), [(["W99"], "no workload W99"), (["W2", "--device", "cuda"], "processor only")]
)
def test_what_cannot_be_measured_is_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert said in capsys.readouterr().err
