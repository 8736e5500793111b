"""Damaged recipes: whatever is done to the words of a good recipe, checking it ends in a program or in messages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bilevel.dsl.tokens import scan
from bilevel.errors import RecipeError
from bilevel.pipeline import Options, check_text, problems
from bilevel.dsl.parse import parse
from bilevel.pipeline import plan
from tests.corpus_messages import more_parts

GOOD = sorted((Path(__file__).parent / "corpus" / "good").glob("*.bl"))
DAMAGES = 40


def damaged(text: str, chance: random.Random) -> str:
    """The text with one to three of its words deleted, doubled, swapped or replaced by others of its words."""
    tokens = list(scan(text))
    words = [t.text for t in tokens if t.kind != "comment"]
    for _ in range(chance.choice((1, 1, 2, 3))):
        i, j = chance.randrange(len(words)), chance.randrange(len(words))
        match chance.randrange(4):
            case 0:
                words[i] = ""
            case 1:
                words.insert(i, words[i])
            case 2:
                words[i], words[j] = words[j], words[i]
            case 3:
                words[i] = words[j]
    return " ".join(words)


def variants(path: Path) -> Iterator[str]:
    chance = random.Random(path.stem)
    text = path.read_text("utf-8")
    for _ in range(DAMAGES):
        yield damaged(text, chance)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_damaged_recipes_give_messages_and_nothing_else(path: Path) -> None:
    for text in variants(path):
        try:
            program = check_text(text, path.name, [more_parts()])
            problems(parse(text, path.name), Options(manifests=[more_parts()]))
            plan(program)
        except RecipeError as error:
            assert all(d.message and str(d) for d in error.diagnostics), text
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for\n{text}") from error
