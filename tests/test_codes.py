"""Every code that the program can give has a page, and something that provokes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bilevel
from bilevel.errors import RecipeError
from bilevel.explain_code import codes, page
from bilevel.pipeline import change, changed, flat, read

ROOT = Path(__file__).parents[1]
SOURCES = sorted(f for folder in ("bilevel", "dsl", "backends", "recipes") for f in (ROOT / folder).rglob("*.py"))
CODE = re.compile(r'"(B\d{3})"')
WRITTEN = sorted({code for file in SOURCES for code in CODE.findall(file.read_text("utf-8"))})
BAD = {file.stem.split("_")[0] for file in (ROOT / "tests" / "corpus" / "bad").glob("*.bl")}

# Codes that no text of a recipe can provoke alone: they need files, a machine, built parts or a run.
ELSEWHERE = {
    "B110": "tests/dsl/test_parse.py",
    "B112": "tests/dsl/test_parse.py",
    "B115": "tests/dsl/test_parse.py",
    "B120": "tests/dsl/test_flatten.py",
    "B123": "tests/command/test_run.py",
    "B127": "tests/test_codes.py::test_a_change_without_a_value_is_b127",
    "B128": "tests/test_codes.py::test_an_unknown_code_is_b128",
    "B304": "tests/test_trees.py",
    "B305": "tests/test_trees.py",
    "B502": "tests/test_choose.py",
    "B509": "tests/solvers/test_values_only.py",
    "B510": "tests/test_choose.py",
    "B601": "tests/test_binding.py",
    "B603": "tests/test_binding.py",
    "B604": "tests/test_samples.py",
    "B605": "tests/parts/test_initial.py",
    "B606": "tests/parts/test_networks.py",
    "B607": "tests/parts/test_zoo.py",
    "B608": "tests/test_binding.py",
    "B609": "tests/test_binding.py",
    "B610": "tests/test_codes.py::test_a_device_that_is_not_here_is_b610",
    "B611": "tests/command/test_run.py",
    "B612": "tests/command/test_run.py",
    "B613": "tests/command/test_run.py",
    "B614": "tests/recipes/test_solving.py",
    "B615": "tests/solvers/test_registered.py",
    "B701": "tests/modes/test_defects.py",
    "B702": "tests/modes/test_early_stops.py",
    "B703": "tests/solvers/test_edges.py",
    "B704": "tests/modes/test_early_stops.py",
    "B705": "tests/modes/test_defects.py",
    "B129": "tests/views/test_notebook.py",
    "B706": "tests/modes/test_defects.py",
    "B707": "tests/command/test_run.py",
    "B708": "tests/command/test_run.py",
    "B709": "tests/command/test_run.py",
    "B710": "tests/command/test_run.py",
    "B616": "tests/modes/test_derivatives.py",
    "B617": "tests/test_binding.py",
    "B711": "tests/kernels/test_kernels.py",
    "B712": "tests/kernels/test_compiling.py",
}
# Given by commands and by runs: whoever adds the test of one moves it up.
UNTESTED: set[str] = set()


@pytest.mark.parametrize("code", WRITTEN)
def test_every_code_has_a_page(code: str) -> None:
    text = page(code)
    assert text.startswith(f"# {code}: ")
    assert 10 <= text.count("\n") <= 27
    assert "\nWrong:\n" in text and "\nRight:\n" in text
    assert max(map(len, text.splitlines())) <= 110


def test_every_page_is_about_a_code() -> None:
    assert set(codes()) == set(WRITTEN)


@pytest.mark.parametrize("code", WRITTEN)
def test_every_code_is_provoked(code: str) -> None:
    if code not in BAD | UNTESTED:
        assert code in (ROOT / ELSEWHERE[code].partition("::")[0]).read_text("utf-8")


def test_an_unknown_code_is_b128() -> None:
    with pytest.raises(RecipeError) as caught:
        page("B2O1")
    assert str(caught.value).startswith("error[B128]: there is no message `B2O1`\n   = fix: bilevel explain B201")


def test_a_change_without_a_value_is_b127() -> None:
    with pytest.raises(RecipeError) as caught:
        change("adapt.steps")
    assert caught.value.diagnostics[0].code == "B127"


def test_a_change_of_a_misspelt_path_is_b204() -> None:
    with pytest.raises(RecipeError) as caught:
        changed(flat(read("maml")), [change("adapt.step=20")])
    assert str(caught.value) == (
        """error[B204]: `adapt.step` does not name anything in `maml`
  --> <command line>:1:1
   |
 1 | adapt.step=20
   | ^^^^^^^^^^ did you mean `adapt.steps` (now 5)?
   |
   = fix: adapt.steps = 20
   = note: `bilevel show maml --paths` lists all 14 settings that can be overridden"""
    )


@pytest.mark.parametrize("name", ["nonsense", "", "cpu:7", "meta", "mps:99", "cuda:99"])
def test_a_device_that_is_not_here_is_b610(name: str) -> None:
    """One that keeps no numbers is none either, and what torch says of one is cut to its first sentence."""
    with pytest.raises(RecipeError) as caught:
        bilevel.compile("toy", device=name)
    (found,) = caught.value.diagnostics
    assert found.code == "B610"
    assert len(found.why) < 200
