"""The whole compiler, stage by stage: read, flatten, override, check, plan, emit.

Every stage is a value that can be printed; none reaches back to an earlier one. Nothing here imports torch except
`emit_module`, so that checking and symbolic planning stay quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.check import check_program, lint
from bilevel.dsl.flatten import flatten, folder_finder
from bilevel.dsl.parse import load, parse, parse_value
from bilevel.dsl.paths import override
from bilevel.dsl.phases import split_phases
from bilevel.dsl.walk import relocated
from bilevel.errors import Diagnostic, Source, Span, fail
from bilevel.manifest import read_manifest
from bilevel.registry import Description, Manifest
from bilevel.version import VERSION

if TYPE_CHECKING:
    from bilevel.lacks import Derivatives
    from bilevel.modes import Class
    from bilevel.plan import Plan

ZOO = Path(__file__).parent / "recipes"
"""the packaged recipes"""


@cache
def zoo_manifest() -> Manifest:
    """The built-in registry, as described by its committed manifest."""
    return read_manifest(ZOO / "zoo.bilevel.json")


def merged(manifests: Iterable[Manifest]) -> Manifest:
    """Several manifests as one; a name described twice is B602."""
    entries: dict[str, Description] = {}
    origin: dict[str, str] = {}
    names = []
    for manifest in manifests:
        names.append(manifest.name)
        for name, description in manifest.entries.items():
            if name in entries and entries[name] != description:
                both = f"by `{origin[name]}` and by `{manifest.name}`"
                raise fail("B602", f"`{name}` is registered twice, {both}", fix="rename one of the two")
            entries[name], origin[name] = description, manifest.name
    return Manifest(", ".join(names), entries)


def read(path_or_name: str | Path) -> nodes.Recipe:
    """A recipe by the path of its file or, without the ending, by its name in the packaged zoo."""
    path = Path(path_or_name)
    if path.suffix != ".bl" and len(path.parts) == 1 and not path.is_file():
        for folder in (ZOO, ZOO / "quick"):
            packaged = folder / f"{path.name}.bl"
            if packaged.is_file():
                return load(packaged, packaged.name)
        raise _no_recipe(str(path_or_name))
    return load(path)


def _no_recipe(name: str) -> Exception:
    from bilevel.dsl.nearest import nearest

    known = sorted(p.stem for p in ZOO.glob("*.bl"))
    guess = nearest(name, known)
    hint = f"did you mean `{guess}`? " if guess else ""
    return fail(
        "B110", f"there is no recipe `{name}`", fix=f"{hint}a file (ends in .bl), or one of: {', '.join(known)}"
    )


def flat(recipe: nodes.Recipe, folder: Path | None = None) -> nodes.Recipe:
    """The recipe with everything that it extends and imports written out."""
    return flatten(recipe, folder_finder(folder if folder is not None else Path.cwd(), ZOO))


@dataclass(frozen=True, slots=True)
class Change:
    """One `path = value` from the command line or Python, with the place it was written."""

    path: str
    value: nodes.Expr
    span: Span


def change(text: str, name: str = "<command line>") -> Change:
    """`adapt.steps=20` as a change."""
    path, equals, value = text.partition("=")
    source = Source(name, text)
    if not equals or not path.strip() or not value.strip():
        raise fail(
            "B127", f"`{text}` is not a setting", Span(source, 0, len(text)), fix="path=value, as adapt.steps=20"
        )
    # Two settings may have the same value: its place is in the whole text, which no other setting shares.
    given = relocated(parse_value(value.strip(), name), source, text.index(value.strip(), len(path) + 1))
    return Change(path.strip(), given, Span(source, 0, len(path.rstrip())))


def changed(recipe: nodes.Recipe, changes: Iterable[Change]) -> nodes.Recipe:
    """A flattened recipe with settings replaced, in order."""
    for one in changes:
        recipe = override(recipe, one.path, one.value, one.span)
    return recipe


@dataclass(frozen=True, slots=True)
class Options:
    """What a compilation is asked for: replaced settings, a named schedule, manifests besides the built-in one."""

    changes: Sequence[Change] = ()
    schedule: str | None = None
    manifests: Sequence[Manifest] = ()


def check(recipe: nodes.Recipe, options: Options, folder: Path | None = None) -> ir.Program:
    """The checked program of a recipe; raises RecipeError with all its errors."""
    full = split_phases(changed(flat(recipe, folder), options.changes))
    return check_program(full, merged([zoo_manifest(), *options.manifests]), options.schedule)


def problems(recipe: nodes.Recipe, options: Options, folder: Path | None = None) -> list[Diagnostic]:
    """Errors and warnings of a recipe, in the order of the text."""
    full = split_phases(changed(flat(recipe, folder), options.changes))
    return lint(full, merged([zoo_manifest(), *options.manifests]), options.schedule)


def check_text(text: str, name: str = "<recipe>", manifests: Sequence[Manifest] = ()) -> ir.Program:
    """The checked program of a recipe given as text."""
    return check(parse(text, name), Options(manifests=tuple(manifests)))


def plan(
    program: ir.Program,
    allow: Class = "exact",
    decided: Mapping[str, str] | None = None,
    derivatives: Derivatives | None = None,
) -> Plan:
    """The symbolic plan of a checked program; raises RecipeError where there is none. See `plan_program`."""
    from bilevel.planner import plan_program

    return plan_program(program, allow=allow, decided=decided or {}, derivatives=derivatives)


def emit(made: Plan) -> str:
    """The source text of a plan's module."""
    from bilevel.backends.torch_func.emit import emit as emit_torch

    return emit_torch(made, VERSION)


def settings_text(values: Mapping[str, object]) -> list[Change]:
    """Changes from Python values: numbers, strings, lists of numbers."""
    return [change(f"{path}={_spelled(value)}", "<python>") for path, value in values.items()]


def _spelled(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    return str(value)
