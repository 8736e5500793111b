"""Every packaged recipe: it says where it comes from, is short, checks, plans as before, emits, and takes ten outer steps.

What its numbers are worth is asked elsewhere: `bilevel gradcheck NAME`, and `python -m benchmarks.every_recipe` for
the quick children at their own sizes.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import bilevel
from bilevel import pipeline
from bilevel.catalogue import catalogue, headline, names
from bilevel.explain import plan_text
from bilevel.pipeline import ZOO, Options
from bilevel.recipe import Recipe
from bilevel.run import Event
from bilevel.shrink import shrink

GOLDEN = Path(__file__).parents[1] / "golden" / "plans"
BASE, CHILD, STEPS = 35, 10, 10
"""Lines of a recipe of its own, lines of one that extends another, outer steps that are taken here."""

EVERY = names()
QUICK = names("quick")


def test_every_recipe_has_a_quick_child() -> None:
    assert [one.name for one in catalogue() if not one.quick] == []


@pytest.mark.parametrize("name", EVERY)
def test_it_says_where_it_comes_from(name: str) -> None:
    source, line = headline(name)
    assert source and line, f"the first line of {name}.bl is `recipe {name}   # SOURCE: what it does`"


@pytest.mark.parametrize("name", EVERY)
def test_it_is_short(name: str) -> None:
    """Reports and closing braces are not counted: what is measured is not the method."""
    written = [x.partition("#")[0].strip() for x in (ZOO / f"{name}.bl").read_text("utf-8").splitlines()]
    lines = [x for x in written if x not in ("", "}") and not x.startswith("report ")]
    assert len(lines) <= (BASE if pipeline.read(name).parent is None else CHILD)


@pytest.mark.parametrize("name", [*EVERY, *QUICK])
def test_it_checks_without_a_warning(name: str) -> None:
    recipe = bilevel.load(name)
    assert recipe.program.name == name
    assert [str(found) for found in pipeline.problems(recipe.written, Options(), recipe.folder)] == []


@pytest.mark.parametrize("name", EVERY)
def test_its_plan_is_the_golden_one(name: str, update_golden: bool) -> None:
    text = plan_text(pipeline.plan(bilevel.load(name).program))
    golden = GOLDEN / f"{name}.plan"
    if update_golden:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, "utf-8")
    assert golden.exists() and golden.read_text("utf-8") == text, (
        "read the difference, then: pytest tests/recipes/test_every.py --update-golden"
    )


def test_no_golden_plan_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.glob("*.plan")} == set(EVERY)


@pytest.mark.parametrize("name", QUICK)
def test_it_takes_ten_outer_steps(name: str) -> None:
    """On few copies and samples; all phases come to their turn."""
    program = bilevel.compile(few_steps(name))
    seen: list[Event] = []
    run = program.run(seed=1, callbacks=[seen.append])
    losses = [event.value for event in seen if not math.isnan(event.value)]
    assert len(losses) == sum(phase.steps for phase in program.phases) and all(map(math.isfinite, losses))
    assert program.phases[-1].steps == STEPS
    assert run.reports and all(math.isfinite(value) for rows in run.reports.values() for _, value in rows)


def few_steps(name: str) -> Recipe:
    """A quick recipe on few copies and samples, its outermost levels cut to ten steps."""
    recipe = bilevel.load(name)
    small = shrink(recipe, pipeline.plan(recipe.program), sharp=False).recipe
    outermost = {level.name for level in small.program.levels}
    units = ("steps", "epochs", "generations")  # of a level with `then` under the names of its solvers
    paths = [path.split(".") for path in small.settings]
    counts = [".".join(p) for p in paths if p[0] in outermost and p[-1] in units and len(p) <= 3]
    return small.with_(dict.fromkeys(counts, STEPS))
