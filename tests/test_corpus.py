"""The corpus: good recipes parse and survive printing, bad ones give exactly the messages beside them.

A bad recipe is `tests/corpus/bad/CODE_what.bl`, with the whole expected text in `CODE_what.expected`. To add one,
write the recipe and run `pytest tests/test_corpus.py --update-golden`, then read the diff.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bilevel.dsl.checks import check_words
from bilevel.dsl.flatten import flatten, folder_finder
from bilevel.dsl.format import format_text, print_recipe
from bilevel.dsl.parse import load, parse
from tests.corpus_messages import messages

CORPUS = Path(__file__).parent / "corpus"
GOOD = sorted((CORPUS / "good").glob("*.bl"))
BAD = sorted((CORPUS / "bad").glob("*.bl"))
SYNTAX = Path(__file__).parents[1] / "dsl"

# Codes of syntax that need files on a disk; tests/dsl/test_parse.py and test_flatten.py have them.
ON_DISK = {"B110", "B112", "B115", "B120"}
SYNTAX_FILES = ("parse", "build", "checks", "blocks", "mistakes", "unexpected", "flatten", "paths")


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_recipes_give_exactly_these_messages(path: Path, update_golden: bool) -> None:
    golden = path.with_suffix(".expected")
    found = messages(path)
    if update_golden:
        golden.write_text(found, "utf-8")
    if not golden.exists():
        pytest.fail(f"{golden.name} is missing; run: pytest tests/test_corpus.py --update-golden")
    assert found == golden.read_text("utf-8")
    assert f"[{path.stem.split('_')[0]}]" in found


def test_every_expected_text_has_its_recipe() -> None:
    recipes = {path.stem for path in BAD}
    assert {path.stem for path in (CORPUS / "bad").glob("*.expected")} <= recipes


def test_every_code_of_syntax_has_a_bad_recipe() -> None:
    written = {code for name in SYNTAX_FILES for code in codes(SYNTAX / f"{name}.py")}
    covered = {path.stem.split("_")[0] for path in BAD}
    assert len(written) > 15
    assert written - covered - ON_DISK == set()


def codes(path: Path) -> set[str]:
    return set(re.findall(r'"(B[12]\d\d)"', path.read_text("utf-8")))


def test_the_corpus_is_not_empty() -> None:
    assert len(GOOD) >= 27
    assert len(BAD) >= 20


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_recipes_survive_printing(path: Path) -> None:
    recipe = load(path)
    assert check_words(recipe) == []
    assert parse(print_recipe(recipe)) == recipe
    assert parse(format_text(path.read_text("utf-8"))) == recipe


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_recipes_flatten_to_a_recipe_of_their_own(path: Path) -> None:
    flat = flatten(load(path), folder_finder(path.parent, CORPUS))
    assert flat.parent is None
    assert parse(print_recipe(flat)) == flat
