"""Flattening: what a child replaces, what it adds, and which chains of recipes are refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bilevel.dsl import nodes
from bilevel.dsl.flatten import LONGEST_CHAIN, Find, flatten, folder_finder
from bilevel.dsl.format import print_recipe
from bilevel.dsl.parse import load, parse
from bilevel.dsl.paths import settings
from bilevel.errors import Diagnostic, RecipeError, Span, fail

CORPUS = Path(__file__).parents[1] / "corpus"
GOOD = sorted((CORPUS / "good").glob("*.bl"))

BASE = """recipe base
use net = f(width = 3)
param lam = 1
let L(w) = w
level outer {
    a, b : real
    each i ~ S.train[4]
    d ~ S.val[2]
    level inner {
        x : real from a
        minimize L(x)
        by sgd(lr = 0.1) for 5 steps
    }
    minimize mean[i] x
    by adam(lr = 1) for 3 steps
    report val = x every 10 steps
}
schedule { inner : rmd }
"""


def finder(*texts: str) -> Find:
    """Finds the recipes written in `texts`."""
    known = {recipe.name: recipe for recipe in map(parse, texts)}

    def find(name: str, at: Span) -> nodes.Recipe:
        if name not in known:
            raise fail("B122", f"there is no recipe `{name}`", at)
        return known[name]

    return find


def flat(child: str, *others: str) -> str:
    """The child flattened, without the header's line."""
    return print_recipe(flatten(parse(child), finder(BASE, *others)))


def expected(*changes: tuple[str, str]) -> str:
    """BASE with parts replaced, printed."""
    text = BASE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return print_recipe(parse(text)).replace("recipe base", "recipe child")


def refused(child: str, *others: str) -> list[Diagnostic]:
    with pytest.raises(RecipeError) as caught:
        flat(child, *others)
    return list(caught.value.diagnostics)


# ---- replacing and adding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("child", "old", "new"),
    [
        ("use net = g()", "use net = f(width = 3)", "use net = g()"),
        ("param lam = 2", "param lam = 1", "param lam = 2"),
        ("use lam : model", "param lam = 1", "use lam : model"),
        ("let L = 2", "let L(w) = w", "let L = 2"),
        ("level outer { a : real[2] }", "a, b : real\n", "a : real[2] b : real\n"),
        ("level outer { b, a : real[2] }", "a, b : real\n", "b, a : real[2]\n"),
        ("level outer { a : real[2] b : real[3] }", "a, b : real\n", "a : real[2] b : real[3]\n"),
        ("level outer { each i in list }", "each i ~ S.train[4]", "each i in list"),
        ("level outer { d ~ S.test[1] }", "d ~ S.val[2]", "d ~ S.test[1]"),
        ("level outer { each d ~ S.test[1] }", "d ~ S.val[2]", "each d ~ S.test[1]"),
        ("level outer { maximize x }", "minimize mean[i] x", "maximize x"),
        ("level outer { by cmaes for 2 generations }", "by adam(lr = 1) for 3 steps", "by cmaes for 2 generations"),
        ("level outer { report val = a }", "report val = x every 10 steps", "report val = a"),
        ("schedule { inner : fmd }", "inner : rmd", "inner : fmd"),
        ("level inner { minimize x }", "minimize L(x)", "minimize x"),
        ("level outer { level inner { minimize x } }", "minimize L(x)", "minimize x"),
    ],
)
def test_a_statement_replaces_the_one_of_its_slot(child: str, old: str, new: str) -> None:
    assert flat(f"recipe child extends base {child}") == expected((old, new))


@pytest.mark.parametrize(
    ("child", "place", "addition"),
    [
        ("use sets = g()", "schedule { inner : rmd }\n", "use sets = g()"),
        ("level outer { c : real }", "report val = x every 10 steps", "c : real"),
        ("level outer { report more = x }", "report val = x every 10 steps", "report more = x"),
        ("level inner { y : real }", "for 5 steps", "y : real"),
        ("schedule { i : loop }", "inner : rmd", "i : loop"),
        ("schedule laptop { inner : fmd }", "schedule { inner : rmd }", "schedule laptop { inner : fmd }"),
        (
            "level other { z : real minimize z by s for 1 step }",
            "inner : rmd }",
            "level other { z : real minimize z by s for 1 step }",
        ),
    ],
)
def test_other_statements_are_added_at_the_end_of_their_block(child: str, place: str, addition: str) -> None:
    assert flat(f"recipe child extends base {child}") == expected((place, f"{place}\n{addition}"))


def test_nothing_of_a_child_is_lost() -> None:
    text = flat("recipe child extends base level outer { a : real[2] d ~ S.test[1] a : real[3] }")
    assert "a : real[2]" in text
    assert "a : real[3]" in text


def test_a_level_that_is_new_may_have_a_name_like_an_old_one() -> None:
    text = flat("recipe child extends base level inner2 { z : real minimize z by s for 1 step }")
    assert "level inner2" in text


def test_a_misspelt_level_is_an_error() -> None:
    problem, other = refused("recipe child extends base level iner { by s for 1 step } x.y = 3")
    assert (problem.code, problem.label, other.code) == ("B124", "did you mean `inner`?", "B204")
    assert problem.edit is not None
    assert problem.edit.text == "inner"


# ---- overrides -----------------------------------------------------------------------------------------------


def test_overrides_of_a_parent_come_before_the_text_of_its_child() -> None:
    middle = "recipe middle extends base inner.steps = 7 lam = 9"
    assert "for 7 steps" in flat("recipe child extends middle", middle)
    text = flat("recipe child extends middle level inner { by sgd(lr = 0.1) for 2 steps }", middle)
    assert "for 2 steps" in text
    assert "param lam = 9" in text


def test_own_overrides_come_after_own_text() -> None:
    text = flat("recipe child extends base inner.steps = 8 level inner { by s for 2 steps }")
    assert "by s for 8 steps" in text
    assert flat("recipe child extends base lam = 3") == expected(("lam = 1", "lam = 3"))


def test_a_recipe_without_a_parent_may_override_itself() -> None:
    assert print_recipe(flatten(parse("recipe a param x = 1 x = 2"), finder())) == "recipe a\n\nparam x = 2\n"


def test_unknown_paths_speak_of_the_parent() -> None:
    (problem,) = refused("recipe child extends base inner.step = 3 schedule { i : loop }")
    assert problem.message == "`inner.step` does not name anything in `base`"
    assert problem.label == "did you mean `inner.steps` (now 5)?"
    count = len(settings(parse(BASE)))
    assert problem.note == f"`bilevel show base --paths` lists all {count} settings that can be overridden"


# ---- imports -------------------------------------------------------------------------------------------------


def test_imports_bring_lets_and_nothing_else() -> None:
    common = "recipe common param p = 1 let f = 2 let g(x) = x level l { }"
    flattened = flatten(parse("recipe child import common let h = f"), finder(common))
    assert print_recipe(flattened) == "recipe child\n\nlet f    = 2\nlet g(x) = x\nlet h    = f\n"


def test_imported_lets_replace_those_of_a_parent() -> None:
    assert "let L = 5" in flat("recipe child extends base import common", "recipe common let L = 5")


def test_a_let_that_is_imported_twice_is_an_error() -> None:
    one, two = "recipe one let f = 1", "recipe two let f = 2"
    assert [p.code for p in refused("recipe child import one import two", one, two)] == ["B125"]
    assert [p.code for p in refused("recipe child import one let f = 2", one)] == ["B125"]


# ---- chains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("child", "others"),
    [
        ("recipe a extends a", []),
        ("recipe a extends b", ["recipe b extends a"]),
        ("recipe a extends b", ["recipe b extends c", "recipe c extends b"]),
        ("recipe a import a", []),
        ("recipe a import b", ["recipe b extends a"]),
    ],
)
def test_circles_are_errors(child: str, others: list[str]) -> None:
    assert [problem.code for problem in refused(child, *others)] == ["B121"]


def test_circles_are_shown() -> None:
    (problem,) = refused("recipe a extends b", "recipe b extends c", "recipe c extends a")
    assert problem.label == "a > b > c > a"


def chain(length: int) -> list[str]:
    return [f"recipe r{i} extends r{i + 1}" for i in range(length - 1)] + [f"recipe r{length - 1}"]


def test_long_chains() -> None:
    first, *others = chain(LONGEST_CHAIN)
    flat(first, *others)
    first, *others = chain(LONGEST_CHAIN + 1)
    assert [problem.code for problem in refused(first, *others)] == ["B120"]


# ---- files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    own, packaged = tmp_path / "own", tmp_path / "packaged"
    (packaged / "quick").mkdir(parents=True)
    own.mkdir()
    (packaged / "maml.bl").write_text("recipe maml param p = 1")
    (packaged / "child.bl").write_text("recipe child extends maml")
    (packaged / "quick" / "maml_quick.bl").write_text("recipe maml_quick extends maml p = 2")
    return own, packaged


def found(name: str, folders: tuple[Path, Path]) -> str:
    recipe = parse(f"recipe test extends {name}")
    return print_recipe(flatten(recipe, folder_finder(*folders)))


def test_packaged_recipes_are_found(folders: tuple[Path, Path]) -> None:
    assert "p = 1" in found("maml", folders)
    assert "p = 2" in found("maml_quick", folders)


def test_own_recipes_come_first_but_not_for_packaged_children(folders: tuple[Path, Path]) -> None:
    (folders[0] / "maml.bl").write_text("recipe maml param p = 3")
    assert "p = 3" in found("maml", folders)
    assert "p = 1" in found("child", folders)


def test_a_missing_recipe_has_a_suggestion(folders: tuple[Path, Path]) -> None:
    with pytest.raises(RecipeError) as caught:
        found("mmaml", folders)
    (problem,) = caught.value.diagnostics
    assert (problem.code, problem.label) == ("B122", "did you mean `maml`?")


def test_links_do_not_lead_out_of_the_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "secret.bl").write_text("recipe secret")
    (folders[0] / "secret.bl").symlink_to(tmp_path / "secret.bl")
    with pytest.raises(RecipeError) as caught:
        found("secret", folders)
    assert caught.value.diagnostics[0].code == "B122"


def test_errors_of_a_parent_are_shown_in_its_file(folders: tuple[Path, Path]) -> None:
    (folders[0] / "broken.bl").write_text("recipe broken param = 1")
    with pytest.raises(RecipeError) as caught:
        found("broken", folders)
    place = caught.value.diagnostics[0].span
    assert place is not None
    assert place.source.name == str(folders[0] / "broken.bl")


# ---- the corpus ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_recipes_flatten(path: Path) -> None:
    recipe = load(path)
    merged = flatten(recipe, folder_finder(path.parent, CORPUS))
    assert merged.name == recipe.name
    assert merged.parent is None
    assert not any(isinstance(item, nodes.Override | nodes.Import) for item in merged.items)
    assert parse(print_recipe(merged)) == merged
    assert flatten(merged, finder()) == merged


def test_flattening_is_quick() -> None:
    find = folder_finder(CORPUS / "good", CORPUS)
    flatten(load(CORPUS / "good" / "lazy_maml_hull.bl"), find)
    start = time.perf_counter()
    flatten(load(CORPUS / "good" / "lazy_maml_hull.bl"), find)
    assert time.perf_counter() - start < 0.5
