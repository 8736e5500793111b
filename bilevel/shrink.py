"""A small copy of a problem for gradient checks: fewer copies, smaller batches, fewer steps, sharper stopping.

Only settings change. Every change is tried alone and kept where the recipe still checks and every level keeps its
mode and class, so that what is checked is the derivative that the recipe asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bilevel import ir, pipeline
from bilevel.dsl import nodes
from bilevel.dsl.paths import Setting
from bilevel.errors import RecipeError
from bilevel.modes import Implicit
from bilevel.plan import Choice, Plan
from bilevel.recipe import Recipe

COPIES, BATCH, STEPS = 2, 4, (3, 5, 8)
TOLERANCE, CAP, SOLVE = 1e-12, 20_000, 2_000
"""Stationarity and linear systems are met this sharply: a hypergradient by the implicit function theorem is as good
as the point is stationary, and a difference quotient would see the rest. An inner level may take CAP steps for it, a
linear system SOLVE: without a number it would stop at 100."""


@dataclass(frozen=True, slots=True)
class Small:
    """The changed recipe with its plan, and each change as `path: before -> after`."""

    recipe: Recipe
    plan: Plan
    changes: tuple[str, ...]
    decided: Mapping[str, str]
    """modes that the planner took for the recipe as it is written"""


@dataclass(frozen=True, slots=True)
class _Change:
    """One setting with the values to try, the smallest first; `draws` where data are drawn."""

    path: str
    values: tuple[object, ...]


def shrink(recipe: Recipe, plan: Plan, draws: bool = True, sharp: bool = True) -> Small:
    """The recipe made small; `draws` False leaves numbers of copies and samples as they are, `sharp` False tolerances.

    Tolerances are those of float64: in single precision a level would never get there.
    """
    small = Small(recipe, plan, (), plan.decided)
    for change in _changes(plan, recipe, draws, sharp):
        small = next((s for value in change.values if (s := _tried(small, change.path, value))), small)
    return small


def _tried(small: Small, path: str, value: object) -> Small | None:
    """The problem with one setting replaced, None where that is refused or another problem."""
    before = small.recipe.settings.get(path)
    try:
        recipe = small.recipe.with_({path: value})
        plan = pipeline.plan(recipe.program, decided=small.decided, derivatives=small.plan.facts.derivatives)
    except RecipeError:
        return None
    if _modes(plan) != _modes(small.plan) and not path.startswith("schedule."):
        return None
    old = before.value.span.text if before is not None else "unset"
    return replace(small, recipe=recipe, plan=plan, changes=(*small.changes, f"{path}: {old} -> {value}"))


def _modes(plan: Plan) -> dict[str, tuple[str, str]]:
    return {name: (choice.mode, choice.exactness) for name, choice in plan.choices.items()}


def _changes(plan: Plan, recipe: Recipe, draws: bool, sharp: bool) -> Iterator[_Change]:
    """What may be changed, in the order of the recipe."""
    for level in plan.program.walk_levels():
        if draws:
            yield from _counts(level, recipe.settings)
        if level.parent is not None and not plan.facts[level.name].iterates:
            yield from _steps(level, recipe.settings)
        if sharp:
            yield from _sharper(level, plan, recipe.settings, recipe.schedule)


def _counts(level: ir.Level, settings: Mapping[str, Setting]) -> Iterator[_Change]:
    """Copies of an index and samples of a draw; passes over a data set keep their batches."""
    counted = [(index.name, COPIES) for index in level.indices if index.drawn]
    if not _counts_epochs(level):
        counted += [(draw.name, BATCH) for draw in level.draws]
    for name, small in counted:
        for path in (f"{name}.count", f"{level.name}.{name}.count"):
            if (number := _whole(settings, path)) is not None and number > small:
                yield _Change(path, (small,))


def _steps(level: ir.Level, settings: Mapping[str, Setting]) -> Iterator[_Change]:
    """Steps of an inner level, as few as leave windows and checkpoints their meaning."""
    for unit, few in (("steps", STEPS), ("epochs", (1,))):
        path = f"{level.name}.{unit}"
        if (number := _whole(settings, path)) is not None and number > few[0]:
            yield _Change(path, tuple(n for n in few if n < number))


def _sharper(level: ir.Level, plan: Plan, settings: Mapping[str, Setting], schedule: str | None) -> Iterator[_Change]:
    """Stopping tests and linear systems met to the last digits, where the class rests on them."""
    choice = plan.choices.get(level.name)
    path = f"{level.name}.until.tol"
    if choice is None or choice.exactness != "exact" or path not in settings:
        return
    yield _Change(path, (TOLERANCE,))
    if (cap := _whole(settings, f"{level.name}.cap")) is not None and cap < CAP:
        yield _Change(f"{level.name}.cap", (CAP,))
    if (mode := sharp_mode(choice)) is not None:
        yield _Change(schedule_path(settings, level.name, schedule), (mode,))


def sharp_mode(choice: Choice) -> str | None:
    """`ift` with the same linear solver and a tight tolerance, None for what has no tolerance."""
    adjoint = choice.adjoint
    if not isinstance(adjoint, Implicit) or adjoint.method not in ("cg", "gmres", "neumann"):
        return None
    if adjoint.method == "neumann":
        tail = "" if adjoint.scale is None else f", scale = {adjoint.scale!r}"
        return f"ift(linear = neumann(tol = {TOLERANCE!r}{tail}))"
    return f"ift(linear = {adjoint.method}(tol = {TOLERANCE!r}, steps = {SOLVE}))"


def schedule_path(settings: Mapping[str, Setting], level: str, schedule: str | None = None) -> str:
    """The path of the schedule line of a level."""
    named = f"schedule.{schedule}.{level}"
    return named if schedule is not None and named in settings else f"schedule.{level}"


def _counts_epochs(level: ir.Level) -> bool:
    duration = level.phases[-1].duration if level.phases else None
    return isinstance(duration, ir.Steps) and duration.unit == "epochs"


def _whole(settings: Mapping[str, Setting], path: str) -> int | None:
    """The whole number written at a path, None where something else is."""
    setting = settings.get(path)
    value = setting.value if setting is not None else None
    number = value.value if isinstance(value, nodes.Number) else None
    return number if isinstance(number, int) else None
