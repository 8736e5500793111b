"""Plans as users read them: golden texts, the same bytes every time, without torch where they are symbolic."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bilevel
from bilevel import pipeline
from bilevel.compiling import kernel_line
from bilevel.costs import reference
from bilevel.explain import plan_text

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]


SIZED = GOLDEN / "sized"
TORCH = SIZED / "torch.txt"
"""the minor version of torch that the sized plans were traced with: the next one may call other operators"""
SKETCHED = """arl cngrad_maml distill fomaml hpo imaml itl l2o lazy_maml lazy_maml_hull lazy_meta_attack lazy_reptile
lazy_two_component lft lft_uap lft_zo maml maml_sine meta_attack meta_sgd meta_tailoring meta_tailoring_second
metamd_network metamd_quadratic reptile tailoring two_component""".split()
"""the recipes of the design; the golden symbolic plans of all are in test_every.py"""
ALWAYS = ("fomaml", "hpo", "maml_sine", "lazy_reptile", "reptile", "distill")
"""in every run of the tests; the others with --every-golden, since they take a minute and a half together"""
NUMBERS = re.compile(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?( ?[kMGTP]?(FLOP|B)\b| ?(us|ms|s|min|h)\b|%)?")


def text_of(name: str, sized: bool) -> str:
    if not sized:
        return plan_text(pipeline.plan(bilevel.load(name).program))
    return bilevel.compile(name, limit="memory=8GB", calibration=reference(), compile="none").explain()


def masked(text: str) -> str:
    """A plan without its numbers, and without the widths that they have."""
    return re.sub(r" +", " ", NUMBERS.sub("#", text))


@pytest.mark.parametrize("name", SKETCHED)
def test_sized_plans_are_the_golden_ones(name: str, update_golden: bool, every_golden: bool) -> None:
    if name not in ALWAYS and not every_golden:
        pytest.skip("long: pytest tests/recipes/test_plans.py --every-golden")
    golden, version = SIZED / f"{name}.plan", ".".join(torch.__version__.split(".")[:2])
    text = text_of(name, sized=True)
    if update_golden:
        golden.write_text(text, "utf-8")
        TORCH.write_text(f"{version}\n", "utf-8")
    if not golden.exists():
        pytest.fail(f"{golden.name} is missing; run: pytest tests/recipes/test_plans.py --every-golden --update-golden")
    expected = golden.read_text("utf-8")
    if version != TORCH.read_text("utf-8").strip():
        text, expected = masked(text), masked(expected)
    assert text == expected, "read the difference, then: pytest tests/recipes/test_plans.py --update-golden"


def test_every_sized_plan_names_the_calibration() -> None:
    for name in SKETCHED:
        text = (SIZED / f"{name}.plan").read_text("utf-8")
        said = f"times of functions as they are, by the calibration `reference` ({reference().identity})\n"
        assert text.endswith(said), name
        assert "rejected" in text or "fits" in text or "pinned" in text or "applicable" in text
    assert {file.stem for file in SIZED.glob("*.plan")} == set(SKETCHED)


def test_masks_leave_decisions_alone() -> None:
    one, other = masked("> rmd  exact  1.50 GB  31 ms  chosen"), masked("> rmd  exact  13 kB  2.5 s  chosen")
    assert one == other == "> rmd exact # # chosen"
    assert masked("> fmd  exact  13 kB  2.5 s  chosen") != one


def test_the_same_plan_twice() -> None:
    assert text_of("maml_sine", sized=True) == text_of("maml_sine", sized=True)


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
    """As `bilevel plan` prints it: with the kernels of a run, and the times of these."""
    readme = ROOT / "README.md"
    program = bilevel.compile("maml_sine", limit="memory=8GB", calibration=reference())
    text = f"{program.explain()}\n{kernel_line(program.kernels)}"
    if update_golden:
        before, head, rest = readme.read_text("utf-8").partition("```\nmaml_sine        2 levels")
        readme.write_text(f"{before}```\n{text}\n```{rest.partition('```')[2]}" if head else before, "utf-8")
    assert text in readme.read_text("utf-8")
