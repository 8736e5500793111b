"""The recipes of the methods: each checks, and what follows from its text is what the method says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilevel import ir
from bilevel.dsl.check import check_program, lint
from bilevel.dsl.flatten import flatten, folder_finder
from bilevel.dsl.parse import load
from bilevel.errors import RecipeError
from bilevel.facts import derive_facts
from bilevel.pipeline import plan
from tests.corpus_messages import all_parts

GOOD = Path(__file__).parent / "corpus" / "good"
NAMES = sorted(path.stem for path in GOOD.glob("*.bl"))


def checked(name: str) -> ir.Program:
    flat = flatten(load(GOOD / f"{name}.bl"), folder_finder(GOOD, GOOD))
    return check_program(flat, all_parts())


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_of_the_corpus_checks(name: str) -> None:
    flat = flatten(load(GOOD / f"{name}.bl"), folder_finder(GOOD, GOOD))
    assert check_program(flat, all_parts()).name == name
    assert [d for d in lint(flat, all_parts()) if d.severity == "error"] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_a_plan_or_a_list_of_what_is_missing(name: str) -> None:
    try:
        made = plan(checked(name))
    except RecipeError as error:
        if any(d.code != "B507" for d in error.diagnostics):
            raise
    else:
        assert made.choices.keys() == {level.name for level in made.program.walk_levels() if level.parent}


COPIES = {
    "maml": {"adapt": ("task",)},
    "reptile": {"adapt": ("task",)},
    "meta_tailoring": {"tailor": ("s",)},
    "arl": {"train": ("net", "data")},
    "itl": {"train": ("held",)},
    "lft": {"fit": ("net", "task")},
    "lft_uap": {"perturb": ("src", "task")},
    "distill": {"train": ("w0",)},
    "hpo": {"train": ()},
    "two_component": {"pretrain": (), "weigh": (), "look": ()},
    "metamd_quadratic": {"descend": ("q",), "mirror": ("q",)},
    "metamd_network": {"descend": ("task",)},
}


@pytest.mark.parametrize("name", COPIES)
def test_levels_are_copied_over_the_indices_they_depend_on(name: str) -> None:
    program = checked(name)
    found = {level.name: level.copies for level in program.walk_levels()}
    assert COPIES[name].items() <= found.items()
    assert all(level.copies == () for level in program.levels)


# Which levels are differentiated, and in what; a level without any name runs forward only.
DIFFERENTIATED = {
    "maml": {"adapt": {"theta"}},
    "meta_sgd": {"adapt": {"theta", "alpha"}},
    "reptile": {"adapt": set()},
    "meta_attack": {"adapt": set()},
    "imaml": {"adapt": {"theta"}},
    "meta_tailoring": {"tailor": {"w"}},
    "tailoring": {"tailor": set()},
    "hpo": {"train": {"decay", "lr"}},
    "distill": {"train": {"x", "lr"}},
    "lft": {"fit": {"psi"}},
    "arl": {"train": set()},  # the level around is solved without derivatives
    "itl": {"train": {"c"}},
    "two_component": {"pretrain": set(), "weigh": set(), "look": {"eps"}},
    "metamd_quadratic": {"descend": {"m"}, "mirror": {"x"}},
    "metamd_network": {"descend": {"M"}},
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_who_is_differentiated_follows_from_the_text(name: str) -> None:
    facts = derive_facts(checked(name))
    found = {level: set(fact.targets) for level, fact in facts.levels.items()}
    assert DIFFERENTIATED[name].items() <= found.items()
