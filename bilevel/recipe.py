"""A recipe as users hold it in Python: text, syntax tree and checked program, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from bilevel import ir, pipeline
from bilevel.dsl import nodes
from bilevel.dsl.format import print_recipe
from bilevel.dsl.latex import to_latex
from bilevel.dsl.parse import parse as parse_text
from bilevel.dsl.paths import Setting, settings
from bilevel.pipeline import Change, Options
from bilevel.registry import Manifest


@dataclass(frozen=True)
class Recipe:
    """One recipe with its replaced settings; immutable, so `with_` gives another.

    `manifests` describe registries besides the built-in one. The program is checked when it is first asked for.
    """

    written: nodes.Recipe
    folder: Path = field(default_factory=Path.cwd)
    changes: tuple[Change, ...] = ()
    schedule: str | None = None
    manifests: tuple[Manifest, ...] = ()

    @property
    def name(self) -> str:
        return self.written.name

    @cached_property
    def syntax(self) -> nodes.Recipe:
        """The tree with everything that the recipe extends written out and all settings replaced."""
        return pipeline.changed(pipeline.flat(self.written, self.folder), self.changes)

    @cached_property
    def program(self) -> ir.Program:
        """The checked program; raises RecipeError with every error of the recipe."""
        return pipeline.check(self.written, self._options, self.folder)

    @property
    def _options(self) -> Options:
        return Options(self.changes, self.schedule, self.manifests)

    @property
    def levels(self) -> Mapping[str, ir.Level]:
        """The levels by name, outermost first."""
        return {level.name: level for level in self.program.walk_levels()}

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Every path that can be overridden, with its value and place."""
        return settings(self.syntax)

    def with_(self, values: Mapping[str, object] | None = None, schedule: Mapping[str, str] | None = None) -> Recipe:
        """The recipe with settings replaced (`{"adapt.steps": 20}`) and schedule lines (`{"adapt": "rmd"}`)."""
        lines = {f"schedule.{name}": mode for name, mode in (schedule or {}).items()}
        made = pipeline.settings_text({**(values or {}), **lines})
        return replace(self, changes=(*self.changes, *made))

    def changed(self, texts: Sequence[str]) -> Recipe:
        """The recipe with `path=value` texts applied, as on the command line."""
        return replace(self, changes=(*self.changes, *(pipeline.change(t) for t in texts)))

    def knowing(self, *manifests: Manifest) -> Recipe:
        """The recipe checked with more manifests."""
        return replace(self, manifests=(*self.manifests, *manifests))

    def to_latex(self) -> str:
        """The nested problem as equations."""
        return to_latex(self.program)

    def __str__(self) -> str:
        """The flattened recipe in the one layout."""
        return print_recipe(self.syntax)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from bilevel.display import recipe_bundle

        return recipe_bundle(self)


def load(path: str | Path) -> Recipe:
    """A recipe from its file, or by its name from the packaged zoo; raises RecipeError."""
    written = pipeline.read(path)
    here = Path(path)
    return Recipe(written, here.parent if here.suffix == ".bl" else pipeline.ZOO)


def parse(text: str, name: str = "<recipe>") -> Recipe:
    """A recipe from its text; parents are looked for in the working directory and the packaged zoo."""
    return Recipe(parse_text(text, name))
