"""The packaged recipes: where each comes from, what it does, and the class of its hypergradients. Imports no torch.

The first line of a packaged recipe is `recipe NAME ...   # SOURCE: what it does`. `recipes/PAPERS.md` says in full what
a source stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilevel import pipeline
from bilevel.pipeline import ZOO
from bilevel.recipe import load


@dataclass(frozen=True, slots=True)
class Packaged:
    """One packaged recipe; `quick` says whether it has a small child for `--quick`."""

    name: str
    source: str
    line: str
    quick: bool

    @property
    def exactness(self) -> str:
        """The class of its hypergradients; cost: one symbolic plan, some milliseconds."""
        return pipeline.plan(load(self.name).program).exactness


def catalogue() -> tuple[Packaged, ...]:
    """Every packaged recipe that is not the small child of another, by name."""
    quick = set(names("quick"))
    return tuple(Packaged(name, *headline(name), f"{name}_quick" in quick) for name in names())


def names(folder: str = "") -> list[str]:
    """The names of the packaged recipes, or of those in a folder of theirs."""
    return sorted(file.stem for file in (ZOO / folder).glob("*.bl"))


def headline(name: str) -> tuple[str, str]:
    """Source and line of a packaged recipe, from the comment in its first line."""
    first = (ZOO / f"{name}.bl").read_text(encoding="utf-8").partition("\n")[0]
    source, _, line = first.partition("#")[2].partition(":")
    return source.strip(), line.strip()
