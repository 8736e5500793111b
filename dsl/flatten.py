"""One self-contained recipe from a recipe, its parents and its imports.

Takes parsed recipes and a function that finds others by name; gives a recipe without parent, imports and overrides.
Only texts are merged here: whether the result means anything is checked afterwards, on the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from bilevel.dsl import nodes
from bilevel.dsl.nearest import nearest
from bilevel.dsl.parse import load
from bilevel.dsl.paths import override
from bilevel.dsl.tokens import words
from bilevel.dsl.walk import header_span, name_span, substitute, walk
from bilevel.errors import Diagnostic, Edit, RecipeError, Related, Source, Span, fail

LONGEST_CHAIN = 16
"""Recipes that extend or import one another in a row."""

Find = Callable[[str, Span], nodes.Recipe]
Slot = tuple[str, str]
Part = nodes.Item | nodes.Statement


def flatten(recipe: nodes.Recipe, find: Find) -> nodes.Recipe:
    """`recipe` with everything it extends and imports written out, and all overrides applied.

    `find` gives the recipe of a name that is written at a span; it raises `RecipeError` where there is none.
    """
    return _flatten(recipe, find, (recipe.name,))


def _flatten(recipe: nodes.Recipe, find: Find, chain: tuple[str, ...]) -> nodes.Recipe:
    items = _with_imports(recipe, find, chain)
    text = [item for item in items if not isinstance(item, nodes.Override)]
    problems: list[Diagnostic] = []
    flat = replace(recipe, parent=None, items=tuple(text))
    parent: nodes.Recipe | None = None
    if recipe.parent is not None:
        parent = _fetch("extend", recipe.parent, _parent_span(recipe), find, chain)
        flat = replace(flat, items=_merge_items(parent, text, problems))
    for item in items:
        if isinstance(item, nodes.Override):
            flat = _apply(flat, item, parent, problems)
    if problems:
        raise RecipeError(problems)
    return flat


def _apply(
    flat: nodes.Recipe, item: nodes.Override, parent: nodes.Recipe | None, problems: list[Diagnostic]
) -> nodes.Recipe:
    try:
        return override(flat, ".".join(item.path), item.value, header_span(item, "="), parent)
    except RecipeError as error:
        problems.extend(error.diagnostics)
        return flat


# ---- other recipes -------------------------------------------------------------------------------------------


def _fetch(verb: str, name: str, at: Span, find: Find, chain: tuple[str, ...]) -> nodes.Recipe:
    """The flattened recipe `name`, which the last recipe of `chain` extends or imports."""
    if name in chain:
        raise _circular(verb, name, at, chain)
    if len(chain) >= LONGEST_CHAIN:
        raise fail(
            "B120",
            f"more than {LONGEST_CHAIN} recipes {verb} one another",
            at,
            why=" > ".join((*chain, name)),
            fix="write the middle of the chain out:  bilevel show NAME --flat",
        )
    return _flatten(find(name, at), find, (*chain, name))


def _circular(verb: str, name: str, at: Span, chain: tuple[str, ...]) -> RecipeError:
    circle = (*chain[chain.index(name) :], name)
    itself = len(circle) == 2
    return fail(
        "B121",
        f"`{name}` {verb}s itself" if itself else f"these recipes {verb} one another in a circle",
        at,
        label="" if itself else " > ".join(circle),
        why="a recipe and its parent are merged, so the parent must be complete without it",
        fix="name another recipe, or give this one another name" if itself else f"write `recipe {name}` without it",
    )


def _parent_span(recipe: nodes.Recipe) -> Span:
    source, start = recipe.span.source, recipe.span.start
    header = words(source.text, start, recipe.span.end)[:4]
    return Span(source, header[3].start, header[3].end) if len(header) == 4 else recipe.span


def _with_imports(recipe: nodes.Recipe, find: Find, chain: tuple[str, ...]) -> list[nodes.Item]:
    """The items of a recipe with the `let`s of another recipe in place of each `import`."""
    items: list[nodes.Item] = []
    origins: dict[str, nodes.Item] = {item.name: item for item in recipe.items if isinstance(item, nodes.Let)}
    for item in recipe.items:
        if not isinstance(item, nodes.Import):
            items.append(item)
            continue
        common = _fetch("import", item.name, name_span(item, item.name), find, chain)
        for let in common.items:
            if isinstance(let, nodes.Let):
                if let.name in origins:
                    raise _imported_twice(let.name, item, origins[let.name])
                origins[let.name] = item
                items.append(let)
    return items


def _imported_twice(name: str, item: nodes.Import, first: nodes.Item) -> RecipeError:
    return fail(
        "B125",
        f"`{name}` is also imported from `{item.name}`",
        first.span,
        label="imported here, too" if isinstance(first, nodes.Import) else "defined here",
        related=(Related(item.span, f"`{item.name}` has a `let {name}`"),),
        why="nothing says which of the two is meant",
        fix="rename one of them",
    )


def folder_finder(folder: Path, packaged: Path) -> Find:
    """Looks for recipes in `folder` and then among the packaged ones; packaged recipes see only each other."""
    ours: set[Source] = set()

    def find(name: str, at: Span) -> nodes.Recipe:
        zoo = (packaged, packaged / "quick")
        for place in zoo if at.source in ours else (folder, *zoo):
            file = place / f"{name}.bl"
            if name.isidentifier() and file.is_file() and _is_inside(file, place):
                recipe = load(file, file.name if place in zoo else None)
                if place in zoo:
                    ours.add(recipe.span.source)
                return recipe
        raise _no_recipe(name, at, [folder, *zoo])

    return find


def _is_inside(file: Path, folder: Path) -> bool:
    """A link may not lead out of the folder."""
    return file.resolve().is_relative_to(folder.resolve())


def _no_recipe(name: str, at: Span, places: Iterable[Path]) -> RecipeError:
    known = [file.stem for place in places if place.is_dir() for file in sorted(place.glob("*.bl"))]
    near = nearest(name, known)
    python = at.source.text[: at.start].rstrip().endswith("import") and not near
    return fail(
        "B122",
        f"there is no recipe `{name}`",
        at,
        label=f"did you mean `{near}`?" if near else "",
        why=f"{name}.bl is neither beside this file nor among the packaged recipes (bilevel list)",
        fix=near or "",
        note="`import` takes the name of a recipe; Python is loaded by whoever runs it (--with)" if python else "",
        edit=Edit(at, near) if near else None,
    )


# ---- slots ---------------------------------------------------------------------------------------------------


def _slots(node: Part) -> frozenset[Slot]:
    """What a statement gives; a child's statement replaces those of the parent that give the same."""
    if isinstance(node, nodes.Variable):
        return frozenset(("name", name) for name in node.names)
    if isinstance(node, nodes.Each):
        return frozenset({("name", node.index.name)})
    if isinstance(node, nodes.Use | nodes.Param | nodes.Let | nodes.Draw):
        return frozenset({("name", node.name)})
    if isinstance(node, nodes.Report):
        return frozenset({("report", node.name)})
    return frozenset({(type(node).__name__, "")})


# ---- merging a child into its parent -------------------------------------------------------------------------


def _merge_items(
    parent: nodes.Recipe, text: Sequence[nodes.Item], problems: list[Diagnostic]
) -> tuple[nodes.Item, ...]:
    """The parent's items with the child's in place of those of the same slot, and the others at the end."""
    block = _Block(parent.items)
    for item in text:
        if isinstance(item, nodes.Level):
            block.reopen(item, parent, problems)
        elif isinstance(item, nodes.Schedule):
            block.schedule(item)
        else:
            block.put(item)
    return cast(tuple[nodes.Item, ...], tuple(block.parts))


class _Block:
    """The statements of one block of the parent while those of the child replace them.

    What the child itself put there is never replaced again: two statements of a child for one slot both stay, and
    the checks that follow report them.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts: list[Part] = list(parts)
        self.fresh: set[int] = set()

    def put(self, new: Part) -> None:
        """Replace the statements that `new` stands for, or add it at the end."""
        slots = _slots(new)
        self.fresh.add(id(new))
        kept: list[Part] = []
        place: int | None = None
        for old in self.parts:
            if id(old) in self.fresh or not _slots(old) & slots:
                kept.append(old)
                continue
            before, after = _around(old, slots)
            kept += before
            place = len(kept) if place is None else place
            kept += after
        kept.insert(len(kept) if place is None else place, new)
        self.parts = kept

    def reopen(self, level: nodes.Level, parent: nodes.Recipe, problems: list[Diagnostic]) -> None:
        """Merge `level` into the level of that name in or below this block, or add it as a new one."""
        old = next((found for found in self._levels() if found.name == level.name), None)
        if old is None:
            problems.extend(_misspelt_level(level, parent))
            self.fresh.add(id(level))
            self.parts.append(level)
            return
        block = _Block(old.body)
        for statement in level.body:
            if isinstance(statement, nodes.Level):
                block.reopen(statement, parent, problems)
            else:
                block.put(statement)
        merged = replace(old, body=cast(tuple[nodes.Statement, ...], tuple(block.parts)))
        self.parts = [substitute(part, {id(old): merged}) for part in self.parts]

    def schedule(self, schedule: nodes.Schedule) -> None:
        """Merge the lines of a schedule into the one of the same name."""
        for i, old in enumerate(self.parts):
            if isinstance(old, nodes.Schedule) and old.name == schedule.name:
                lines = {entry.name: entry for entry in (*old.entries, *schedule.entries)}
                self.parts[i] = replace(old, entries=tuple(lines.values()))
                return
        self.parts.append(schedule)

    def _levels(self) -> Iterator[nodes.Level]:
        for part in self.parts:
            if id(part) not in self.fresh:
                yield from (node for node in walk(part) if isinstance(node, nodes.Level))


def _around(old: Part, slots: frozenset[Slot]) -> tuple[list[Part], list[Part]]:
    """What is left of `a, b, c : real` before and after its place when a child declares `b` anew."""
    if not isinstance(old, nodes.Variable):
        return [], []
    kept = [("name", name) not in slots for name in old.names]
    first = kept.index(False)
    after = tuple(name for name, keep in zip(old.names[first:], kept[first:], strict=True) if keep)
    before = old.names[:first]
    return [replace(old, names=before)] if before else [], [replace(old, names=after)] if after else []


def _misspelt_level(level: nodes.Level, parent: nodes.Recipe) -> Iterator[Diagnostic]:
    """A level that only changes statements, of a name which the parent has nearly, was meant to be the parent's."""
    complete = {nodes.Variable, nodes.By} <= {type(statement) for statement in level.body}
    known = [node.name for node in walk(parent) if isinstance(node, nodes.Level)]
    near = nearest(level.name, known)
    if near is None or complete:
        return
    place = name_span(level, level.name)
    yield Diagnostic(
        "B124",
        f"`{parent.name}` has no level `{level.name}`",
        place,
        f"did you mean `{near}`?",
        fix=f"level {near} {{ ... }}",
        note=f"levels of {parent.name}: {', '.join(known)}",
        edit=Edit(place, near),
    )
