"""Objects that show themselves in a notebook, and the cell magic that checks a recipe without running it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pytest

import bilevel
from bilevel import pipeline
from bilevel.errors import RecipeError

IPython = pytest.importorskip("IPython")

CELL = "recipe maml_small extends maml\ntask.count = 4\n"


@pytest.fixture
def shell() -> Iterator[Any]:
    from IPython.testing.globalipapp import start_ipython

    found = start_ipython() or IPython.get_ipython()
    found.run_line_magic("load_ext", "bilevel")
    yield found
    found.user_ns.pop("maml_small", None)


def test_a_cell_binds_its_recipe(shell: Any) -> None:
    made = shell.run_cell_magic("recipe", "adapt.steps=10", CELL)
    assert shell.user_ns["maml_small"] is made
    assert made.settings["adapt.steps"].value.span.text == "10" and made.settings["task.count"].value.span.text == "4"


def test_a_cell_takes_a_schedule_by_name(shell: Any) -> None:
    cell = CELL + "schedule laptop { adapt : rmd(checkpoint = 2) }\n"
    made = shell.run_cell_magic("recipe", "--schedule laptop", cell)
    assert pipeline.plan(made.program).choices["adapt"].mode == "rmd(checkpoint = 2)"


@pytest.mark.parametrize(
    ("line", "cell", "said"),
    [
        ("", CELL.replace("count", "cuont"), "error[B204]"),
        ("", "recipe maml_small extends maml\nlevel adapt { minimise 3 }\n", "did you mean `minimize`?"),
        ("adapt.step=10", CELL, "error[B204]"),
        ("--wrong", CELL, "error[B129]"),
        ("'open", CELL, "error[B129]"),
    ],
)
def test_mistakes_are_shown_under_the_cell(shell: Any, capsys: Any, line: str, cell: str, said: str) -> None:
    assert shell.run_cell_magic("recipe", line, cell) is None
    assert said in capsys.readouterr().err
    assert "maml_small" not in shell.user_ns


def test_an_error_is_no_traceback() -> None:
    with pytest.raises(RecipeError) as met:
        bilevel.parse("recipe wrong\nlevel top { minimise 3 }").program  # noqa: B018
    shown = "\n".join(met.value._render_traceback_())
    assert shown == str(met.value) and "Traceback" not in shown
    assert "minimise" in met.value._repr_mimebundle_()["text/html"]


def test_a_recipe_shows_text_and_equations() -> None:
    bundle = bilevel.load("maml")._repr_mimebundle_()
    assert bundle["text/plain"].startswith("recipe maml")
    assert bundle["text/latex"].startswith("$$\n\\begin{aligned}") and "\\theta" in bundle["text/latex"]


def test_a_recipe_with_errors_shows_them() -> None:
    wrong = bilevel.parse("recipe wrong\nlevel top {\n x : real from 1\n minimize y^2\n by sgd(lr = 1) for 2 steps\n}")
    assert "error[B201]" in wrong._repr_mimebundle_()["text/plain"]


def test_a_plan_shows_page_and_picture() -> None:
    plan = pipeline.plan(bilevel.load("maml_sine").program)
    bundle = plan._repr_mimebundle_()
    assert bundle["text/plain"] == str(plan)
    assert "How adapt is differentiated" in unescape(bundle["text/html"])
    assert ElementTree.fromstring(bundle["image/svg+xml"]).tag.endswith("svg")
    assert bundle["text/latex"] == bilevel.load("maml_sine")._repr_mimebundle_()["text/latex"]


def test_a_program_and_its_run_show_themselves() -> None:
    program = bilevel.compile(bilevel.load("maml_sine").with_({"meta.steps": 2, "task.count": 2, "val.task.count": 3}))
    assert "1,761 numbers" in program._repr_mimebundle_()["text/plain"]
    bundle = program.run()._repr_mimebundle_()
    assert "2 steps, seed 0" in bundle["text/plain"] and "val" in bundle["text/html"]


def test_nothing_of_it_is_imported_without_a_notebook() -> None:
    import subprocess

    code = "import bilevel, sys; bilevel.load('maml'); sys.exit('IPython' in sys.modules or 'bilevel.views' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
