"""The settings of a recipe: what each `path = value` names, and recipes with one setting changed.

Takes a flattened recipe. A path names one literal or expression of its text; whether the new value makes sense is
asked by the checks that follow, which see it in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from bilevel.dsl import nodes
from bilevel.dsl.nearest import nearest
from bilevel.dsl.walk import header_span, substitute, walk
from bilevel.errors import Diagnostic, RecipeError, Span, fail

# The arguments of tests, which are usually given by position: `stationary(1e-3)` has the setting `until.tol`.
TESTS = {"stationary": ("tol", "batch", "every"), "plateau": ("value", "patience"), "below": ("value", "bound")}

AUTO = nodes.Name("auto")


@dataclass(frozen=True)
class Setting:
    """One path that can be overridden, where its value is written, and the value."""

    path: str
    span: Span
    value: nodes.Expr
    target: nodes.Node | None = field(default=None, repr=False, compare=False)  # None: a schedule line not written
    make: Callable[[nodes.Expr], nodes.Node] = field(default=lambda value: value, repr=False, compare=False)


def settings(recipe: nodes.Recipe) -> dict[str, Setting]:
    """Every path of a flattened recipe that can be overridden, in the order of its text."""
    found: dict[str, Setting] = {}
    unclear = _names_counted_twice(recipe)
    for item in recipe.items:
        for setting in _item_settings(item, unclear):
            found.setdefault(setting.path, setting)
    for setting in _unwritten_lines(recipe):
        found.setdefault(setting.path, setting)
    return found


def override(
    recipe: nodes.Recipe, path: str, value: nodes.Expr, span: Span, shown: nodes.Recipe | None = None
) -> nodes.Recipe:
    """`recipe` with the setting `path` replaced; B204 where there is none.

    `span` is where the user wrote the path, `shown` the recipe that messages speak of if it is another one.
    """
    value = replace(value)  # a node of its own, so that a later override finds this one place only
    known = settings(recipe)
    if setting := known.get(path):
        if setting.target is None or id(setting.target) in _modes(recipe):
            _check_mode(path, value, span)
        if setting.target is None:
            return _with_line(recipe, path.split(".")[1], value)
        return substitute(recipe, {id(setting.target): setting.make(value)})
    if (changed := _with_argument(recipe, path, value, span)) is not None:
        return changed
    raise RecipeError([_unknown(shown or recipe, path, value, span, known)])


def find_level(recipe: nodes.Recipe, name: str) -> nodes.Level | None:
    """The level of that name, wherever it stands."""
    return next((node for node in walk(recipe) if isinstance(node, nodes.Level) and node.name == name), None)


# ---- what has a path -----------------------------------------------------------------------------------------


def _plain(path: str, value: nodes.Expr) -> Setting:
    return Setting(path, value.span, value, value)


def _item_settings(item: nodes.Item, unclear: frozenset[str]) -> Iterator[Setting]:
    if isinstance(item, nodes.Use) and item.value is not None:
        yield from _arguments(item.name, item.value)
    elif isinstance(item, nodes.Param):
        yield _plain(item.name, item.value)
    elif isinstance(item, nodes.Level):
        yield from _level_settings(item, unclear)
    elif isinstance(item, nodes.Schedule):
        yield from _schedule_settings(item)


def _arguments(prefix: str, call: nodes.Expr | nodes.Type) -> Iterator[Setting]:
    """The named arguments of a call, and of the calls given as their values."""
    if not isinstance(call, nodes.Call):
        return
    for argument in call.arguments:
        if argument.name is not None:
            path = f"{prefix}.{argument.name}"
            yield _plain(path, argument.value)
            yield from _arguments(path, argument.value)


def _level_settings(level: nodes.Level, unclear: frozenset[str]) -> Iterator[Setting]:
    for statement in level.body:
        if isinstance(statement, nodes.Each):
            yield from _count(statement.index.name, statement.index.source, level.name, unclear)
        elif isinstance(statement, nodes.Draw):
            yield from _count(statement.name, statement.source, level.name, unclear)
        elif isinstance(statement, nodes.Level):
            yield from _level_settings(statement, unclear)
        elif isinstance(statement, nodes.By):
            yield from _solver_settings(level.name, statement)
        elif isinstance(statement, nodes.Report):
            yield from _report_settings(statement)


def _names_counted_twice(recipe: nodes.Recipe) -> frozenset[str]:
    """Draws of one name in levels side by side; their paths begin with the level."""
    names = [node.name for node in walk(recipe) if isinstance(node, nodes.Draw)]
    names += [node.index.name for node in walk(recipe) if isinstance(node, nodes.Each)]
    return frozenset(name for name in names if names.count(name) > 1)


def _count(name: str, source: nodes.Expr | nodes.Range, level: str, unclear: frozenset[str]) -> Iterator[Setting]:
    """`task.count`: the N of `S[N]`."""
    if isinstance(source, nodes.Subscript) and len(source.items) == 1:
        prefix = f"{level}.{name}" if name in unclear else name
        yield _plain(f"{prefix}.count", source.items[0])


def _report_settings(report: nodes.Report) -> Iterator[Setting]:
    if report.every is not None:
        yield _plain(f"{report.name}.every", report.every.count)
    for change in report.changes:
        if isinstance(change, nodes.Override):
            yield _plain(".".join((report.name, *change.path)), change.value)
        else:
            yield from _count(f"{report.name}.{change.name}", change.source, "", frozenset())


# ---- solvers -------------------------------------------------------------------------------------------------


def _solver_settings(level: str, by: nodes.By) -> Iterator[Setting]:
    """One phase: `adapt.steps`, `adapt.by.lr`; several: `search.cmaes.generations`, `search.by.adam.lr`."""
    taken: list[str] = []
    for phase in by.phases:
        word = ""
        if len(by.phases) > 1:
            solver = solver_name(phase.moves[0].solver)
            taken.append(solver)
            word = f".{solver}" if taken.count(solver) == 1 else f".{solver}_{taken.count(solver)}"
        yield from _duration_settings(f"{level}{word}", phase.duration)
        for move in phase.moves:
            variable = f".{move.name}" if move.name else ""
            yield from _arguments(f"{level}.by{word}{variable}", move.solver)
        if phase.estimator is not None:
            yield from _arguments(f"{level}{word}.with", phase.estimator)


def solver_name(solver: nodes.Expr) -> str:
    """`sgd` of `sgd`, `sgd(lr = 0.1)` and `opt[psi]`."""
    while isinstance(solver, nodes.Call | nodes.Subscript | nodes.Attribute):
        solver = solver.function if isinstance(solver, nodes.Call) else solver.base
    return solver.identifier if isinstance(solver, nodes.Name) else "solver"


def _duration_settings(prefix: str, duration: nodes.For | nodes.ForEach | nodes.Until | None) -> Iterator[Setting]:
    if isinstance(duration, nodes.For):
        yield _plain(f"{prefix}.{duration.unit}", duration.count)
    elif isinstance(duration, nodes.ForEach):
        numbers = duration.range
        path = f"{prefix}.{duration.unit}"
        yield Setting(path, numbers.span, _length(numbers), numbers, lambda count: _with_length(numbers, count))
    elif isinstance(duration, nodes.Until):
        yield _plain(f"{prefix}.cap", duration.cap)
        yield from _test_settings(f"{prefix}.until", duration.test)


def _test_settings(prefix: str, test: nodes.Call) -> Iterator[Setting]:
    names = TESTS.get(solver_name(test), ())
    positional = [argument.value for argument in test.arguments if argument.name is None]
    for name, value in zip(names, positional, strict=False):
        yield _plain(f"{prefix}.{name}", value)
    yield from _arguments(prefix, test)


def _is_whole(value: nodes.Expr) -> bool:
    return isinstance(value, nodes.Number) and isinstance(value.value, int)


def _length(numbers: nodes.Range) -> nodes.Expr:
    """How many numbers `low..high` has."""
    low, high = numbers.low, numbers.high
    if isinstance(low, nodes.Number) and isinstance(high, nodes.Number) and _is_whole(low) and _is_whole(high):
        return nodes.Number(str(int(high.value) - int(low.value) + 1), span=numbers.span)
    if low == nodes.Number("1"):
        return high
    difference = nodes.Binary("-", high, low, span=numbers.span)
    return nodes.Binary("+", difference, nodes.Number("1", span=numbers.span), span=numbers.span)


def _with_length(numbers: nodes.Range, count: nodes.Expr) -> nodes.Range:
    """`numbers` from the same start on, `count` of them."""
    low = numbers.low
    if low == nodes.Number("1"):
        return replace(numbers, high=count)
    if isinstance(low, nodes.Number) and isinstance(count, nodes.Number) and _is_whole(low) and _is_whole(count):
        return replace(numbers, high=nodes.Number(str(int(low.value) + int(count.value) - 1), span=count.span))
    total = nodes.Binary("+", low, count, span=count.span)
    return replace(numbers, high=nodes.Binary("-", total, nodes.Number("1", span=count.span), span=count.span))


# ---- the schedule --------------------------------------------------------------------------------------------


def _schedule_settings(schedule: nodes.Schedule) -> Iterator[Setting]:
    prefix = f"schedule.{schedule.name}" if schedule.name else "schedule"
    for entry in schedule.entries:
        yield _plain(f"{prefix}.{entry.name}", entry.mode)
        yield from _arguments(f"{prefix}.{entry.name}", entry.mode)


def _unwritten_lines(recipe: nodes.Recipe) -> Iterator[Setting]:
    """Levels and indices may be scheduled; without a line their mode is `auto`."""
    for node in walk(recipe):
        if isinstance(node, nodes.Level):
            yield Setting(f"schedule.{node.name}", header_span(node), AUTO)
        elif isinstance(node, nodes.Each):
            yield Setting(f"schedule.{node.index.name}", node.span, AUTO)


def _modes(recipe: nodes.Recipe) -> set[int]:
    return {id(node.mode) for node in walk(recipe) if isinstance(node, nodes.Entry)}


def _check_mode(path: str, value: nodes.Expr, span: Span) -> None:
    """A line of a schedule holds a mode: a name or a call of one."""
    if isinstance(value, nodes.Name) or (isinstance(value, nodes.Call) and isinstance(value.function, nodes.Name)):
        return
    raise fail(
        "B126",
        f"the value of `{path}` is not a mode",
        span,
        why="a mode is a name (`fmd`) or a name with arguments (`rmd(checkpoint = auto)`)",
        fix=f"{path} = auto",
    )


def _with_line(recipe: nodes.Recipe, name: str, mode: nodes.Expr) -> nodes.Recipe:
    """The recipe with one more line in its schedule."""
    assert isinstance(mode, nodes.Name | nodes.Call)  # checked before
    line = nodes.Entry(name, mode, span=mode.span)
    for item in recipe.items:
        if isinstance(item, nodes.Schedule) and item.name is None:
            longer = replace(item, entries=(*item.entries, line))
            return substitute(recipe, {id(item): longer})
    return replace(recipe, items=(*recipe.items, nodes.Schedule(None, (line,), span=mode.span)))


# ---- arguments that are not written --------------------------------------------------------------------------


def _with_argument(recipe: nodes.Recipe, path: str, value: nodes.Expr, span: Span) -> nodes.Recipe | None:
    """`adapt.by.momentum` where sgd is written without momentum: the argument is added to the only solver."""
    parts = path.split(".")
    level = find_level(recipe, parts[0]) if len(parts) == 3 and parts[1] == "by" else None
    solver = _only_solver(level) if level else None
    if not isinstance(solver, nodes.Call | nodes.Name):
        return None
    written = solver.arguments if isinstance(solver, nodes.Call) else ()
    function = solver.function if isinstance(solver, nodes.Call) else solver
    if not isinstance(function, nodes.Name) or nearest(parts[2], _named(written)):
        return None
    added = nodes.Argument(parts[2], value, span=span)
    return substitute(recipe, {id(solver): nodes.Call(function, (*written, added), span=solver.span)})


def _named(arguments: Iterable[nodes.Argument]) -> list[str]:
    return [argument.name for argument in arguments if argument.name is not None]


def _only_solver(level: nodes.Level) -> nodes.Expr | None:
    moves = [m for part in level.body if isinstance(part, nodes.By) for phase in part.phases for m in phase.moves]
    return moves[0].solver if len(moves) == 1 else None


# ---- the message ---------------------------------------------------------------------------------------------


def _unknown(recipe: nodes.Recipe, path: str, value: nodes.Expr, span: Span, known: dict[str, Setting]) -> Diagnostic:
    from bilevel.dsl.format import print_expr

    near = _near_path(path, known)
    name, count = recipe.name, len(settings(recipe))
    return Diagnostic(
        "B204",
        f"`{path}` does not name anything in `{name}`",
        span,
        f"did you mean `{near}` (now {print_expr(known[near].value)})?" if near else "",
        fix=f"{near} = {print_expr(value)}" if near else "",
        note=f"`bilevel show {name} --paths` lists all {count} settings that can be overridden",
    )


def _near_path(path: str, known: dict[str, Setting]) -> str | None:
    """The nearest path by spelling, or else the only one with the same beginning and end (`adapt.lr`)."""
    if near := nearest(path, known):
        return near
    first, last = path.partition(".")[0], path.rpartition(".")[2]
    ends = [name for name in known if name.rpartition(".")[2] == last]
    same = [name for name in ends if name.partition(".")[0] == first]
    return same[0] if same else ends[0] if len(ends) == 1 else None
