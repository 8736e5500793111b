"""Starts and draws of one copy, with the very numbers that the emitted module draws.

Only the hashes are shared: which key each draw of each copy in each step has is said here once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends.reference.domains import to_free
from bilevel.backends.reference.expressions import evaluate, part_of
from bilevel.backends.reference.scope import Scope, every_copy, lists_of
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import Copies, Tree, leafwise, number, plain
from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold
from bilevel.backends.torch_func.sampling import draw as take
from bilevel.backends.torch_func.sampling import draw_epoch, draw_normal, draw_uniform, everything
from bilevel.dsl.datatypes import Array, Records
from bilevel.dsl.datatypes import Tree as TreeType

NOTHING = torch.empty(0, dtype=torch.float64)
DISTRIBUTIONS = {"normal": draw_normal, "uniform": draw_uniform}


def copy_key(key: Tensor, axes: tuple[str, ...], at: Mapping[str, int]) -> Tensor:
    """The key of one copy, from that which all copies share."""
    for axis in axes:
        key = fold(key, at[axis])
    return key


def own_key(key: Tensor, level: ir.Level, scope: Scope) -> Tensor:
    """The key of one copy of a level: elements of lists are part of the level's own key already.

    Members of a population have no keys of their own: they are compared on the same draws.
    """
    return copy_key(key, _apart(level.batched), scope.at)


def _apart(axes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(a for a in axes if not a.startswith("@"))


def listed_key(key: Tensor, level: ir.Level, scope: Scope) -> Tensor:
    """The key of a level solved for one element of the lists that the level around runs over."""
    around = scope.program.level(level.parent or "")
    return copy_key(key, tuple(a for a in level.lists if a not in around.copies), scope.at)


def distribution(source: ir.Builtin, key: Tensor, scope: Scope, like: Tree, shape: tuple[int, ...]) -> Tree:
    """Numbers of `normal(...)` or `uniform(...)`; no derivative passes through them."""
    first, second = (plain(evaluate(a, scope)) for a in source.arguments)
    return DISTRIBUTIONS[source.function](key, first, second, like, shape)


# ---- draws ---------------------------------------------------------------------------------------------------


def step_scope(scope: Scope, level: ir.Level, level_key: Tensor, step: int, word: str | None = None) -> Scope:
    """The scope of one step of a level: its counter and its draws; `word` stands for draws that are made once."""
    key = fold(level_key, step if word is None else word)
    scope = scope.having(_counter(level, step, scope))
    for index in level.indices:
        scope = scope.having({index.name: _index(index, level, key, scope)})
    for one in level.draws:
        if isinstance(one.source, ir.NoiseKeys):
            scope = scope.having({one.name: own_key(fold(key, one.name), level, scope)})
        elif _counts_epochs(level) and _is_finite(one.source):
            scope = scope.having({one.name: _of_epoch(one, own_key(level_key, level, scope), step, scope)})
        else:
            scope = scope.having({one.name: _draw(one, level, key, scope)})
    return scope


def equation_scope(scope: Scope, level: ir.Level, level_key: Tensor, batch: int | None) -> Scope:
    """The scope of the test and of the linear system: draws made once for each solve, `batch` samples where it is said."""
    duration = level.phases[0].duration
    if isinstance(duration, ir.Until) and "batch" in duration.arguments:
        batch = int(evaluate(duration.arguments["batch"], scope))
    if batch is None or level.indices:
        return step_scope(scope, level, level_key, 0, "implicit")
    scope = scope.having(_counter(level, 0, scope))
    return scope.having({one.name: _draw(one, level, level_key, scope, batch) for one in level.draws})


def _counter(level: ir.Level, step: int, scope: Scope) -> dict[str, int]:
    """The number that the recipe has for a step, or for the pass over the data that the step is in."""
    duration = level.phases[0].duration if level.phases else None
    if not isinstance(duration, ir.Steps) or duration.counter is None:
        return {}
    first = evaluate(duration.first, scope) if duration.first is not None else 1
    return {duration.counter: first + (step // batches(level, scope) if duration.unit == "epochs" else step)}


def batches(level: ir.Level, scope: Scope) -> int:
    """The batches of one pass over the finite source that the level draws from."""
    for draw in level.draws:
        if isinstance(draw.source, ir.Sample) and draw.source.count is not None:
            source = evaluate(draw.source.source, scope)
            if isinstance(source, tuple):
                return len(source[0]) // int(evaluate(draw.source.count, scope))
    raise Unsupported("epochs without a finite source")


def _index(index: ir.Index, level: ir.Level, key: Tensor, scope: Scope) -> Copies:
    """What an index runs over, one item for each copy; drawn from a list's elements, one row for each of those."""
    if not index.drawn or not isinstance(index.source, ir.Sample) or index.source.count is None:
        source = evaluate(index.source, scope)
        items = source if isinstance(source, list) else _items(everything(source))
        return Copies(index.name, tuple(items))
    source, count = index.source.source, evaluate(index.source.count, scope)
    opened = _opened(level, index.source.axes)

    def of_element(inside: Scope) -> Copies:
        own = copy_key(own_key(fold(key, index.name), level, inside), opened, inside.at)
        return Copies(index.name, tuple(_items(_sample(source, (count,), own, inside))))

    return every_copy(scope, opened, of_element)  # type: ignore[no-any-return]


def _opened(level: ir.Level, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some axes that are lists which this very level runs over."""
    return tuple(a for a in axes if a in lists_of(level))


def _items(record: Any) -> list[Any]:
    """The samples of a record of arrays."""
    first = record
    while isinstance(first, tuple):
        first = first[0]
    return [_item(record, place) for place in range(len(first))]


def _item(record: Any, place: int) -> Any:
    if isinstance(record, tuple) and hasattr(record, "_fields"):
        return type(record)(*(_item(field, place) for field in record))
    return record[place]


def _of_epoch(one: ir.Draw, key: Tensor, step: int, scope: Scope) -> Any:
    """The batch of one step when passes over the source are counted; every copy shuffles for itself."""
    if not isinstance(one.source, ir.Sample):
        raise Unsupported("epochs of what is no sample")
    return draw_epoch(evaluate(one.source.source, scope), _count(one.source, scope), key, step, one.name)


def _draw(one: ir.Draw, level: ir.Level, key: Tensor, scope: Scope, count: int | None = None) -> Any:
    """A draw without an index: of every copy that its source is copied over, or else of every copy of the level."""
    source = one.source
    if isinstance(source, ir.Builtin):
        return distribution(source, own_key(fold(key, one.name), level, scope), scope, NOTHING, ())
    if not isinstance(source, ir.Sample):
        raise Unsupported("draws that are no samples")
    lists = {name for around in scope.program.walk_levels() for name in lists_of(around)}
    axes = tuple(a for a in source.axes if a not in lists) or _apart(level.batched)
    opened = _opened(level, source.axes)

    def of_copy(inside: Scope) -> Any:
        shape = _shape(one, source, inside) if count is None else (count,)
        own = copy_key(copy_key(fold(key, one.name), axes, inside.at), opened, inside.at)
        return _sample(source.source, shape, own, inside)

    return every_copy(scope, source.axes, of_copy)


def _is_finite(source: ir.Expr) -> bool:
    return isinstance(source, ir.Sample) and isinstance(source.source.type, Records)


def _counts_epochs(level: ir.Level) -> bool:
    duration = level.phases[0].duration
    return isinstance(duration, ir.Steps) and duration.unit == "epochs"


def _count(source: ir.Sample, scope: Scope) -> int:
    return 1 if source.count is None else int(evaluate(source.count, scope))


def _shape(one: ir.Draw, source: ir.Sample, scope: Scope) -> tuple[int, ...]:
    if isinstance(one.type, Array):
        return tuple(scope.whole(s) for s in one.type.shape)
    return (_count(source, scope),)


def _sample(source: ir.Expr, shape: tuple[int, ...], key: Tensor, scope: Scope) -> Any:
    """Draws of a distribution, of a finite source or of a stream."""
    if isinstance(source, ir.Builtin) and source.function != "without":
        if source.function not in DISTRIBUTIONS:
            raise Unsupported(f"samples of {source.function}")
        return distribution(source, key, scope, NOTHING, shape)
    return take(evaluate(source, scope), shape[0], key)


# ---- starts --------------------------------------------------------------------------------------------------


def start(level: ir.Level, key: Tensor, scope: Scope) -> dict[str, Tree]:
    """The first iterate of one copy, in free coordinates."""
    return {v.name: to_free(_first(v, level, key, scope), v.domain, v.domain_arguments) for v in level.variables}


def _first(variable: ir.Variable, level: ir.Level, key: Tensor, scope: Scope) -> Tree:
    """The first value of a variable."""
    expr, type_ = variable.start, variable.type
    if isinstance(expr, ir.Builtin) and expr.function == "warm":
        expr = expr.arguments[0]
    own = own_key(fold(key, variable.name), level, scope)
    if isinstance(type_, TreeType):
        like = part_of(type_, scope)
        if expr is None or (isinstance(expr, ir.Builtin) and expr.function == "init"):
            drawn = initial_parameters(scope.read(type_.net), own, torch.float64)
            return {name: drawn[name] for name in like}
        if isinstance(expr, ir.Builtin) and expr.function in DISTRIBUTIONS:
            return distribution(expr, own, scope, like, ())
        return _spread(evaluate(expr, scope), like)
    shape = tuple(scope.whole(s) for s in type_.shape) if isinstance(type_, Array) else ()
    for size in variable.sizes:
        given = evaluate(size, scope)
        shape += tuple(given) if isinstance(given, list | tuple) else (int(given),)
    if isinstance(expr, ir.Builtin) and expr.function in DISTRIBUTIONS:
        return distribution(expr, own, scope, NOTHING, shape)
    zero = torch.zeros(shape, dtype=torch.float64)
    return zero if expr is None else _spread(evaluate(expr, scope), zero)


def _spread(value: Any, like: Tree) -> Tree:
    """A value in the form of the variable: one number goes to every entry."""
    return leafwise(lambda v, zero: number(v) + torch.zeros_like(zero, dtype=torch.float64), value, like)
