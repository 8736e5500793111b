"""Recipes as the verbs take them: a path or the name of a packaged recipe, settings, manifests. Imports no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bilevel.catalogue import names
from bilevel.errors import fail
from bilevel.manifest import read_manifest
from bilevel.recipe import Recipe, load
from bilevel.registry import Manifest

KERNELS = ("none", "fx", "inductor", "fx+graphs", "inductor+graphs", "auto")
"""what `--compile` may be"""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The arguments FILE and `path=value ...`."""
    parser.add_argument("file", metavar="FILE", help="path of a recipe, or name of a packaged one")
    parser.add_argument("settings", metavar="path=value", nargs="*", help="replaced settings: adapt.steps=20")


def add_modules(parser: argparse.ArgumentParser, what: str) -> None:
    """The option `--with`."""
    parser.add_argument("--with", dest="modules", metavar="MODULE", action="append", default=[], help=what)


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """The option `--schedule`."""
    parser.add_argument("--schedule", metavar="NAME", help="a schedule that the recipe has under a name")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The options `--limit` and `--allow`."""
    parser.add_argument(
        "--limit",
        dest="limits",
        metavar="memory=SIZE",
        action="append",
        default=[],
        help="what one step may hold beside data and parameters: memory=8GB (what is free)",
    )
    parser.add_argument(
        "--allow",
        choices=("exact", "biased", "surrogate"),
        default="exact",
        help="the worst class of hypergradient that the planner may choose by itself (exact)",
    )


def add_kernels(parser: argparse.ArgumentParser, what: str) -> None:
    """The option `--compile`."""
    parser.add_argument("--compile", choices=KERNELS, default="auto", help=what)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option `--device`."""
    parser.add_argument("--device", metavar="D", default="cpu", help="cpu, cuda, cuda:1 (cpu)")


def read_seed(text: str) -> int:
    """A seed as typed: a whole number of 64 bits, as keys are made of."""
    try:
        seed = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number") from None
    if not -(2**63) <= seed < 2**63:
        raise argparse.ArgumentTypeError(f"`{text}` is too large: a seed is a whole number below 2^63")
    return seed


def read_positive(text: str) -> int:
    """A number of steps, threads or directions as typed."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number from 1")
    return int(text)


def open_recipe(
    file: str, settings: Sequence[str] = (), schedule: str | None = None, manifests: Sequence[Manifest] = ()
) -> Recipe:
    """The recipe with what the command line changes."""
    recipe = load(file).changed(settings).knowing(*manifests)
    return recipe if schedule is None else replace(recipe, schedule=schedule)


def recipes_here() -> bool:
    """Whether there are recipes in the working directory, which `*.bl` names."""
    return any(Path().glob("*.bl"))


def quick(file: str) -> str:
    """The file of the small child of a recipe: packaged in `quick/`, a user's own beside it."""
    path = Path(file)
    stem = path.stem if path.suffix == ".bl" else path.name
    child = f"{stem}_quick"
    places = [path.parent / f"{child}.bl", path.parent / "quick" / f"{child}.bl"]
    if found := next((str(place) for place in places if path.suffix == ".bl" and place.is_file()), None):
        return found
    if path.suffix != ".bl" and child in names("quick"):
        return child
    load(file)  # a name that is misspelt is told first
    raise fail(
        "B123",
        f"`{stem}` has no quick child",
        why=f"--quick runs the recipe `{child}`, which extends `{stem}` with small sizes, and there is none",
        fix=f"bilevel new {child} --from {stem}     then change its sizes",
        note=f"recipes with a quick child: {', '.join(name.removesuffix('_quick') for name in names('quick'))}",
    )


def manifests(modules: Sequence[str]) -> list[Manifest]:
    """The manifests of modules, found as files beside them; nothing is imported."""
    return [_manifest(module) for module in modules]


def _manifest(module: str) -> Manifest:
    found = next((path for path in manifest_places(module) if path.is_file()), None)
    if found is not None:
        return read_manifest(found)
    raise fail(
        "B607",
        f"there is no manifest of `{module}`",
        why=f"checking imports no Python: it reads {manifest_places(module)[0].name} beside the module",
        fix=f"bilevel manifest {module}",
    )


def manifest_places(module: str) -> list[Path]:
    """Where the manifest of a module may be: beside the file, or along the path that Python imports from."""
    if module.endswith(".py"):
        return [Path(module).with_suffix(".bilevel.json")]
    inside = Path(*module.split("."))
    folders = [Path.cwd(), *(Path(folder) for folder in sys.path if folder)]
    stems = (inside, inside / "__init__")
    return [folder / stem.with_name(f"{stem.name}.bilevel.json") for folder in folders for stem in stems]
