"""Damaged recipes: whatever is done to the words of a good recipe, checking it ends in a program or in messages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bilevel.dsl.parse import parse
from bilevel.dsl.tokens import scan
from bilevel.errors import RecipeError
from bilevel.pipeline import Options, check_text, plan, problems
from tests.corpus_messages import more_parts

GOOD = sorted((Path(__file__).parent / "corpus" / "good").glob("*.bl"))
DAMAGES = 40


def damaged(text: str, chance: random.Random) -> str:
    """The text with one to three of its words deleted, doubled, swapped or replaced, or lines of it moved about."""
    if chance.random() < 0.2:
        return _shuffled(text, chance)
    words = [(t.kind, t.text) for t in scan(text) if t.kind != "comment"]
    for _ in range(chance.choice((1, 1, 2, 3))):
        i, j = chance.randrange(len(words)), chance.randrange(len(words))
        alike = [k for k, word in enumerate(words) if word[0] == words[i][0]]
        match chance.randrange(7):
            case 0:
                words[i] = ("", "")
            case 1:
                words.insert(i, words[j])
            case 2:
                words[i], words[j] = words[j], words[i]
            case _:  # a word of the same kind leaves the syntax whole more often
                words[i] = words[chance.choice(alike)]
    return " ".join(word for _, word in words)


def _shuffled(text: str, chance: random.Random) -> str:
    """The text with a line left out, doubled or moved."""
    lines = text.splitlines()
    line = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.randrange(3)):
        lines.insert(chance.randrange(len(lines) + 1), line)
    return "\n".join(lines)


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
            if not all(d.message and str(d) for d in error.diagnostics):
                raise AssertionError(f"an empty message for\n{text}") from error
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for\n{text}") from error
