"""The corpus's own parts, and what the compiler says about one of its recipes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import bilevel
from bilevel.dsl.parse import parse
from bilevel.errors import RecipeError
from bilevel.manifest import read_manifest
from bilevel.pipeline import Options, check_text, plan, problems, zoo_manifest
from bilevel.registry import Manifest

# What only built parts can show: parameters given once each, starts of the right shapes, parts left open.
NEED_NETWORKS = {"B304", "B305", "B601"}
PARTS = Path(__file__).parent / "corpus" / "parts.bilevel.json"


@cache
def all_parts() -> Manifest:
    """Every part that a recipe of the corpus names: the corpus's own and, where it has none, the zoo's."""
    return Manifest("corpus", {**zoo_manifest().entries, **read_manifest(PARTS).entries})


@cache
def more_parts() -> Manifest:
    """The corpus's parts that the zoo lacks; to be given besides the zoo."""
    zoo = zoo_manifest().entries
    return Manifest("corpus", {name: d for name, d in read_manifest(PARTS).entries.items() if name not in zoo})


def messages(path: Path) -> str:
    """What a user reads about a recipe: its errors or, without any, its warnings or why there is no plan for it."""
    text = path.read_text("utf-8")
    try:
        program = check_text(text, path.name, [more_parts()])
        warnings = problems(parse(text, path.name), Options(manifests=[more_parts()]))
        if warnings:
            raise RecipeError(warnings)
        plan(program)
        if path.stem.partition("_")[0] in NEED_NETWORKS:
            bilevel.compile(bilevel.parse(text, path.name))
    except RecipeError as error:
        return f"{error}\n"
    return ""
