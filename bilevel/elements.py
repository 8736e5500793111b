"""Elements of lists of parts by the names that indices give them: what `net`, or `p.net` of a pair, stands for in turn.

For checks that need built networks. Cost: one view for each combination of elements that a recipe runs over.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from bilevel import ir
from bilevel.backends.torch_func.tree import leaves
from bilevel.binding import Parts
from bilevel.dsl.datatypes import Records
from bilevel.dsl.mismatch import too_many
from bilevel.errors import Diagnostic, RecipeError, Span, fail
from bilevel.facts import readers


def views(program: ir.Program, parts: Parts) -> Iterator[Parts]:
    """The parts with every index over a list of networks, or of pairs with networks, at one of its elements."""
    lists = {i.name: elements(i, parts) for level in program.walk_levels() for i in level.indices}
    lists = {name: found for name, found in lists.items() if any(map(_has_network, found))}
    for chosen in itertools.product(*lists.values()):
        named = dict(zip(lists, chosen, strict=True))
        yield replace(parts, objects={**parts.objects, **named, **_fields(parts.objects), **_fields(named)})


def elements(index: ir.Index, parts: Parts) -> list[Any]:
    """What an index over a list of parts runs over; nothing for any other index."""
    found = parts.objects.get(index.source.name) if isinstance(index.source, ir.Read) else None
    return found if isinstance(found, list) else []


def _fields(objects: Any) -> dict[str, Any]:
    """`p.net` for the networks of every pair `p`."""
    return {
        f"{name}.{field}": getattr(part, field)
        for name, part in objects.items()
        for field in getattr(part, "_fields", ())
        if isinstance(getattr(part, field), nn.Module)
    }


def _has_network(element: Any) -> bool:
    return isinstance(element, nn.Module) or bool(_fields({"": element}))


# ---- shapes that parts give ----------------------------------------------------------------------------------


def check_sizes(program: ir.Program, parts: Parts) -> None:
    """Raises RecipeError (B310) where a field in `real[src.shape]` is no size: whole numbers, 1 or more."""
    lists = {i.name: elements(i, parts) for level in program.walk_levels() for i in level.indices}
    for size in (s for level in program.walk_levels() for v in level.variables for s in v.sizes):
        for found in _values(size, parts, lists):
            if not _is_size(found):
                message = f"`{size.span.text}` is not a size"
                fix = "a whole number, 1 or more, or a tuple of such"
                raise fail("B310", message, size.span, label=f"{found!r}"[:80], fix=fix)


def _values(size: ir.Expr, parts: Parts, lists: dict[str, list[Any]]) -> list[Any]:
    """What a field is, for every element of the list that it belongs to."""
    match size:
        case ir.Field(base=base, name=name):
            return [getattr(value, name) for value in _values(base, parts, lists) if hasattr(value, name)]
        case ir.Read(name=name):
            return lists.get(name) or ([parts.objects[name]] if name in parts.objects else [])
    return []


def _is_size(found: Any) -> bool:
    whole = found if isinstance(found, tuple | list) else (found,)
    return all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in whole)


# ---- numbers of draws ----------------------------------------------------------------------------------------


def check_counts(program: ir.Program, parts: Parts) -> None:
    """Raises RecipeError (B312) for every draw of more samples than a built data set has, and for sets without any.

    Sets whose registration says their length are checked before; streams have no length.
    """
    numbers = {param.name: param.value for param in program.params}
    lists = {i.name: elements(i, parts) for level in program.walk_levels() for i in level.indices}
    problems: dict[Span, Diagnostic] = {}
    for level in program.walk_levels():
        for read in _sets(level):
            if 0 in map(_length, _values(read, parts, lists)):
                problems.setdefault(read.span, _empty(read))
    for sample in _samples(program):
        count = sample.count
        wanted = count.value if isinstance(count, ir.Constant) else numbers.get(getattr(count, "name", ""))
        found = [_length(source) for source in _values(sample.source, parts, lists)]
        least = min((length for length in found if length is not None), default=None)
        if isinstance(wanted, int) and least is not None and wanted > least:
            problems.setdefault(sample.span, too_many(sample.source.span.text, sample.span, wanted, least))
    if problems:
        raise RecipeError(list(problems.values()))


def _sets(level: ir.Level) -> Iterator[ir.Expr]:
    """The data sets that a level and its reports read, by name or as fields."""
    for expr in (*readers(level), *(report.value for report in level.reports)):
        yield from (e for e in ir.walk(expr) if isinstance(e, ir.Field | ir.Read) and isinstance(e.type, Records))


def _empty(read: ir.Expr) -> Diagnostic:
    """B312 for a data set that has no samples."""
    return Diagnostic(
        "B312",
        f"`{read.span.text}` has no samples",
        read.span,
        "read here",
        why="a mean over no samples is no number, and a level has no copies for them",
        fix="data with one sample or more",
    )


def _samples(program: ir.Program) -> Iterator[ir.Sample]:
    """What the draws and indices of levels and reports take."""
    for level in program.walk_levels():
        indices = (*level.indices, *(index for report in level.reports for index in report.indices))
        for source in (*(draw.source for draw in level.draws), *(index.source for index in indices)):
            if isinstance(source, ir.Sample):
                yield source


def _length(source: Any) -> int | None:
    """The number of samples of a finite source; None for a stream."""
    return len(leaves(source)[0]) if isinstance(source, tuple) and hasattr(source, "_fields") else None
