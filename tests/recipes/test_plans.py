"""Plans as users read them: golden texts, the same bytes every time, without torch where they are symbolic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bilevel
from bilevel import pipeline
from bilevel.costs import reference
from bilevel.explain import plan_text

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]


def text_of(name: str, sized: bool) -> str:
    if not sized:
        return plan_text(pipeline.plan(bilevel.load(name).program))
    return bilevel.compile(name, limit="memory=8GB", calibration=reference()).explain()


@pytest.mark.parametrize("sized", [False, True], ids=["symbolic", "sized"])
@pytest.mark.parametrize("name", ["maml_sine", "fomaml", "hpo"])
def test_plans_are_the_golden_ones(name: str, sized: bool, update_golden: bool) -> None:
    golden = GOLDEN / f"{name}.{'sized' if sized else 'symbolic'}.plan"
    text = text_of(name, sized)
    assert text == text_of(name, sized)
    if update_golden:
        golden.write_text(text, "utf-8")
    if not golden.exists():
        pytest.fail(f"{golden.name} is missing; run: pytest tests/recipes/test_plans.py --update-golden")
    expected = golden.read_text("utf-8")
    assert text == expected, "read the difference, then: pytest tests/recipes/test_plans.py --update-golden"


def test_two_processes_print_the_same_plan() -> None:
    program = "import bilevel; print(bilevel.load('reptile').program.name, end=''); import bilevel.command as c; c.main(['plan', 'reptile', '--symbolic'])"
    runs = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert "how `adapt` is differentiated" in runs[0].stdout


def test_the_identity_changes_with_a_decision() -> None:
    plans = [
        pipeline.plan(bilevel.load("maml").with_(schedule={"adapt": m}).program)
        for m in ("rmd", "fmd", "rmd(order = 1)")
    ]
    assert len({p.identity for p in plans}) == 3


def test_the_plan_in_the_readme_is_the_plan(update_golden: bool) -> None:
    readme = ROOT / "README.md"
    text = text_of("maml_sine", sized=True).rstrip()
    if update_golden:
        before, head, rest = readme.read_text("utf-8").partition("```\nmaml_sine        2 levels")
        readme.write_text(f"{before}```\n{text}\n```{rest.partition('```')[2]}" if head else before, "utf-8")
    assert text in readme.read_text("utf-8")
