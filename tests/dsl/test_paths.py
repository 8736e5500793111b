"""Paths: which settings a recipe has, and recipes with one of them changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilevel.dsl import nodes
from bilevel.dsl.flatten import flatten, folder_finder
from bilevel.dsl.format import print_expr, print_recipe
from bilevel.dsl.parse import load, parse, parse_value
from bilevel.dsl.paths import override, settings
from bilevel.errors import Diagnostic, RecipeError, Source, Span

CORPUS = Path(__file__).parents[1] / "corpus"
GOOD = sorted((CORPUS / "good").glob("*.bl"))

TEXT = """recipe a
use net = conv(3, width = 4, init = normal(scale = 1))
use open : model
param lam = 2.0
let f = 3
level search {
    c, x : real
    each task ~ S.train[32]
    each k in 1..5
    each e in list
    v ~ S.val[n]
    two ~ S[2, 3]
    level inner {
        y : real
        b ~ S.train[8]
        minimize y
        by sgd(lr = cosine(start = 0.1)) with zeroth(samples = 20) until stationary(1e-3, batch = 4) within 64 steps
    }
    level numbered {
        z : real
        b ~ S.train[16]
        minimize z
        by z : sgd(lr = 0.2), adam(lr = 0.3) for k in 3..7 epochs
    }
    minimize c
    by cmaes(sigma = 1) for 20 generations then adam(lr = 2) for 200 steps then adam(lr = 3) for 7 steps
    report val = c with task ~ S.test[100], inner.cap = 9 every 50 steps
}
schedule { inner : ift(linear = cg(steps = 5)) }
schedule laptop { inner : rmd(window = 2) }
"""


def values(text: str) -> dict[str, str]:
    return {path: print_expr(setting.value) for path, setting in settings(parse(text)).items()}


def test_all_settings() -> None:
    assert values(TEXT) == {
        "net.width": "4",
        "net.init": "normal(scale = 1)",
        "net.init.scale": "1",
        "lam": "2.0",
        "task.count": "32",
        "v.count": "n",
        "inner.b.count": "8",
        "inner.cap": "64",
        "inner.until.tol": "1e-3",
        "inner.until.batch": "4",
        "inner.by.lr": "cosine(start = 0.1)",
        "inner.by.lr.start": "0.1",
        "inner.with.samples": "20",
        "numbered.b.count": "16",
        "numbered.epochs": "5",
        "numbered.by.z.lr": "0.2",
        "numbered.by.lr": "0.3",
        "search.cmaes.generations": "20",
        "search.by.cmaes.sigma": "1",
        "search.adam.steps": "200",
        "search.by.adam.lr": "2",
        "search.adam_2.steps": "7",
        "search.by.adam_2.lr": "3",
        "val.every": "50",
        "val.task.count": "100",
        "val.inner.cap": "9",
        "schedule.inner": "ift(linear = cg(steps = 5))",
        "schedule.inner.linear": "cg(steps = 5)",
        "schedule.inner.linear.steps": "5",
        "schedule.laptop.inner": "rmd(window = 2)",
        "schedule.laptop.inner.window": "2",
        "schedule.search": "auto",
        "schedule.task": "auto",
        "schedule.k": "auto",
        "schedule.e": "auto",
        "schedule.numbered": "auto",
    }


def test_maml_has_fourteen_settings() -> None:
    assert list(settings(load(CORPUS / "good" / "maml.bl"))) == [
        "net.ways",
        "tasks.ways",
        "tasks.shots",
        "tasks.queries",
        "task.count",
        "adapt.steps",
        "adapt.by.lr",
        "meta.steps",
        "meta.by.lr",
        "val.every",
        "val.task.count",
        "schedule.meta",
        "schedule.task",
        "schedule.adapt",
    ]


def changed(path: str, value: str, text: str = TEXT) -> nodes.Recipe:
    written = Source("<command line>", f"{path}={value}")
    return override(parse(text), path, parse_value(value), Span(written, 0, len(path)))


@pytest.mark.parametrize("path", [path for path in values(TEXT) if not path.startswith("schedule")])
def test_every_setting_can_be_changed(path: str) -> None:
    before, after = values(TEXT), settings(changed(path, "17"))
    assert print_expr(after[path].value) == "17"
    same = [other for other in before if not other.startswith(path) and not path.startswith(other)]
    assert {other: print_expr(after[other].value) for other in same} == {other: before[other] for other in same}


@pytest.mark.parametrize("path", [path for path in values(TEXT) if path.startswith("schedule")])
def test_every_mode_can_be_changed(path: str) -> None:
    assert print_expr(settings(changed(path, "fmd(x = 1)"))[path].value) == "fmd(x = 1)"


@pytest.mark.parametrize("path", list(values(TEXT)))
def test_one_place_of_the_text_changes(path: str) -> None:
    before = print_recipe(parse(TEXT)).splitlines()
    after = print_recipe(changed(path, "fmd")).splitlines()
    different = [line for line in after if line not in before]
    assert 1 <= len(different) <= 3  # a schedule may go from one line to several


@pytest.mark.parametrize(
    ("numbers", "count", "result"),
    [
        ("1..64", "10", "1..10"),
        ("3..7", "10", "3..12"),
        ("a..b", "10", "a..a+10-1"),
        ("1..K", "N", "1..N"),
        ("2..4", "N", "2..2+N-1"),
    ],
)
def test_numbered_steps_keep_their_start(numbers: str, count: str, result: str) -> None:
    text = f"recipe a level m {{ x : real minimize x by s for k in {numbers} steps }}"
    assert f"for k in {result} steps" in print_recipe(changed("m.steps", count, text))


def test_the_length_of_numbered_steps() -> None:
    text = "recipe a level m {{ x : real minimize x by s for k in {} steps }}"
    assert [values(text.format(numbers))["m.steps"] for numbers in ("1..64", "3..7", "1..K", "a..b")] == [
        "64",
        "5",
        "K",
        "b - a + 1",
    ]


def test_a_value_that_is_used_twice_stays_two_values() -> None:
    recipe, value = parse("recipe a param x = 1 param y = 2"), parse_value("5")
    recipe = override(override(recipe, "x", value, value.span), "y", value, value.span)
    recipe = override(recipe, "x", parse_value("6"), value.span)
    assert print_recipe(recipe) == "recipe a\n\nparam x = 6\nparam y = 5\n"


# ---- what is not written yet ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "result"), [("sgd(lr = 1)", "sgd(lr = 1, momentum = 0.9)"), ("sgd", "sgd(momentum = 0.9)")]
)
def test_an_argument_may_be_added_to_the_only_solver(solver: str, result: str) -> None:
    text = f"recipe a level m {{ x : real minimize x by {solver} for 1 step }}"
    assert f"by {result} for 1 step" in print_recipe(changed("m.by.momentum", "0.9", text))


@pytest.mark.parametrize("solver", ["opt[psi]", "x : sgd(lr = 1), adam(lr = 2)", "sgd(lr = 1) for 1 step then adam"])
def test_no_argument_is_added_where_it_is_not_clear_to_what(solver: str) -> None:
    assert refused("m.by.momentum", f"recipe a level m {{ x : real minimize x by {solver} for 1 step }}").code == "B204"


def test_a_line_of_the_schedule_may_be_added() -> None:
    text = "recipe a level m { each i in s level n { } }"
    recipe = override(changed("schedule.n", "fmd", text), "schedule.i", parse_value("loop"), parse(text).span)
    assert recipe.items[-1] == nodes.Schedule(
        None, (nodes.Entry("n", nodes.Name("fmd")), nodes.Entry("i", nodes.Name("loop")))
    )


def test_a_schedule_holds_modes_only() -> None:
    with pytest.raises(RecipeError) as caught:
        changed("schedule.inner", "3")
    assert caught.value.diagnostics[0].code == "B126"


# ---- unknown paths -------------------------------------------------------------------------------------------


def refused(path: str, text: str = TEXT) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        changed(path, "3", text)
    (problem,) = caught.value.diagnostics
    return problem


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("lamm", "lam"),
        ("inner.caps", "inner.cap"),
        ("inner.lr", "inner.by.lr"),
        ("schedule.iner", "schedule.inner"),
        ("numbered.epoch", "numbered.epochs"),
        ("tolerance.tol", "inner.until.tol"),
    ],
)
def test_unknown_paths_have_suggestions(path: str, near: str) -> None:
    problem = refused(path)
    assert problem.code == "B204"
    assert problem.fix == f"{near} = 3"
    assert problem.label == f"did you mean `{near}` (now {values(TEXT)[near]})?"
    assert str(problem).splitlines()[1] == "  --> <command line>:1:1"


def test_paths_that_are_like_none() -> None:
    problem = refused("nothing.at.all")
    assert (problem.label, problem.fix) == ("", "")
    assert problem.note == "`bilevel show a --paths` lists all 36 settings that can be overridden"


@pytest.mark.parametrize("path", ["", ".", "net", "f", "open", "c", "two.count", "k.count", "search", "a.b.c.d.e"])
def test_what_is_no_setting(path: str) -> None:
    assert refused(path).code == "B204"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_all_settings_of_good_recipes_can_be_changed(path: Path) -> None:
    recipe = flatten(load(path), folder_finder(path.parent, CORPUS))
    known = settings(recipe)
    assert len(known) >= 10
    value = parse_value("fmd")
    for name in known:
        after = override(recipe, name, value, value.span)
        assert settings(after)[name].value == value
        assert parse(print_recipe(after)) == after
