"""Copies of an index in runs of a few at a time: `task : vmap(chunk = 8)`, `task : loop`; what that needs.

The outermost level that opens the index goes through its copies in chunks: levels inside are solved, the objective is
differentiated and pulled back for one chunk before the next begins, so that the memory of a step is that of a chunk.
The hypergradient is the mean over the chunks, each with its share of the copies, which holds where the objective is
affine in means over the index. Work is the same; keys of draws are those of all copies together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.datatypes import ListType
from bilevel.dsl.parse import parse_value
from bilevel.errors import Diagnostic
from bilevel.kinds import is_searched
from bilevel.modes.options import whole, word


def chunk_of(program: ir.Program, index: str) -> int | None:
    """How many copies of an index are computed at a time; None for all. Reports B506."""
    entry = next((e for e in program.schedule if e.target == index), None)
    if entry is None:
        return None
    return 1 if entry.mode == "loop" else whole({a.name or "": a.value for a in entry.options}, "chunk")


def is_ragged(index: ir.Index) -> bool:
    """Whether an index runs over the elements of a list, which may differ in shape: no vmap takes them together."""
    return isinstance(index.source.type, ListType) and not isinstance(index.source, ir.Sample)


def chunked(program: ir.Program, level: ir.Level) -> tuple[str, int] | None:
    """The index of a level whose copies are computed in chunks, and how many at a time."""
    found = ((i.name, chunk_of(program, i.name)) for i in level.indices)
    return next(((name, size) for name, size in found if size is not None), None)


def chunk_problems(program: ir.Program) -> Iterator[Diagnostic]:
    """B507 for the lines of a schedule that name an index whose copies cannot be computed in chunks."""
    levels = {level.name for level in program.walk_levels()}
    for entry in program.schedule:
        if entry.target in levels or chunk_of(program, entry.target) is None:
            continue
        level = next(lv for lv in program.walk_levels() if any(i.name == entry.target for i in lv.indices))
        reason = refusal(program, level, entry.target)
        if reason:
            yield Diagnostic(
                "B507",
                f"`{entry.mode}` of `{entry.target}` cannot be run by this version",
                entry.span,
                why=reason,
                fix=f"remove the line; fewer copies need less memory: {entry.target}.count = ...",
            )


def refusal(program: ir.Program, level: ir.Level, index: str) -> str:
    """Why the copies of an index cannot be computed in chunks; empty where they can."""
    others = [i.name for i in level.indices if i.name != index and chunk_of(program, i.name) is not None]
    opened = next(i for i in level.indices if i.name == index)
    inside = [lv for lv in program.walk_levels() if _is_inside(program, lv, level)]
    if is_ragged(opened):
        return f"[ragged] `{index}` runs over a list, whose elements are computed one after the other as it is"
    if level.parent is not None:
        return (
            f"`{index}` is opened by `{level.name}`, which is inside another level: the way back holds all its copies"
        )
    if others:
        return f"`{level.name}` goes through the copies of `{others[0]}` in chunks, and through those of one index only"
    if is_searched(level) or any(map(is_searched, inside)):
        return "a search compares the members of a population on all copies at once"
    if shared := next((lv.name for lv in inside if index not in lv.copies), None):
        return f"`{shared}` is not solved for each copy of `{index}`: it would be solved again for every chunk"
    if stays := next((lv.name for lv in inside if _carries_on(program, lv)), None):
        return f"`{stays}` carries on from step to step, for all copies of `{index}` together"
    value = level.objective.value if level.objective is not None else None
    if value is None or not _affine(value, index):
        return f"the objective of `{level.name}` is not a mean over `{index}` (plus what does not depend on it)"
    return ""


# ---- the planner's own ---------------------------------------------------------------------------------------

PLANNER = "<planner>"
"""the source of lines that the planner adds to a schedule"""


def with_chunk(program: ir.Program, index: str, mode: str) -> ir.Program:
    """The program with a line of the planner's own for an index: `vmap(chunk = 8)`."""
    value = parse_value(mode, PLANNER)
    options = value.arguments if isinstance(value, nodes.Call) else ()
    return replace(program, schedule=(*program.schedule, ir.Entry(index, mode.partition("(")[0], options, value.span)))


def planned_chunks(program: ir.Program) -> dict[str, int]:
    """The chunks that the planner took by itself, by index."""
    own = [e.target for e in program.schedule if e.span.source.name == PLANNER]
    return {name: size for name in own if (size := chunk_of(program, name)) is not None}


def decided_before(program: ir.Program, decided: Mapping[str, str]) -> ir.Program:
    """The program with the chunks that an earlier plan of the recipe took."""
    indices = {index.name for level in program.walk_levels() for index in level.indices}
    named = {entry.target for entry in program.schedule}
    for name, mode in decided.items():
        if name in indices - named:
            program = with_chunk(program, name, mode)
    return program


def in_chunks(program: ir.Program) -> Iterator[ir.Program]:
    """The program with the copies of a drawn index halved at a time, again and again, the largest chunk first."""
    for level in program.levels:
        for index in level.indices:
            count = index.source.count if isinstance(index.source, ir.Sample) else None
            size = count.value if isinstance(count, ir.Constant) and isinstance(count.value, int) else 1
            if chunk_of(program, index.name) is not None or refusal(program, level, index.name):
                continue
            while size > 1:
                size = -(-size // 2)
                yield with_chunk(program, index.name, f"vmap(chunk = {size})")


def _is_inside(program: ir.Program, level: ir.Level, around: ir.Level) -> bool:
    while level.parent is not None:
        if level.parent == around.name:
            return True
        level = program.level(level.parent)
    return False


def _carries_on(program: ir.Program, level: ir.Level) -> bool:
    """Warm starts, and windows that are followed by a step of the level around."""
    entry = next((e for e in program.schedule if e.target == level.name), None)
    each = entry is not None and word({a.name or "": a.value for a in entry.options}, "update", ("each",)) == "each"
    return each or any(isinstance(v.start, ir.Builtin) and v.start.function == "warm" for v in level.variables)


def _closes(expr: ir.Expr, index: str) -> bool:
    """Whether an index is closed somewhere in an expression."""
    return any(isinstance(e, ir.Reduced) and index in {b.name for b in e.binders} for e in ir.walk(expr))


def _affine(expr: ir.Expr, index: str) -> bool:
    """Whether an expression is affine in means over an index."""
    if not _closes(expr, index):
        return True
    match expr:
        case ir.Reduced(kind="mean", binders=binders, body=body):
            return index in {b.name for b in binders} and not _closes(body, index)
        case ir.Operate(operator="+" | "-" | "neg", operands=operands):
            return all(_affine(one, index) for one in operands)
        case ir.Operate(operator="*", operands=(left, right)):
            return (_affine(left, index) and not _closes(right, index)) or (
                _affine(right, index) and not _closes(left, index)
            )
        case ir.Operate(operator="/", operands=(left, right)):
            return _affine(left, index) and not _closes(right, index)
    return False
