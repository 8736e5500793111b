"""The schedule of a recipe: its lines name levels or indices, and modes with their options. Reports B501, B504, B506.

Whether a mode can be used for its level is the planner's question.
"""

from __future__ import annotations

from collections.abc import Mapping

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.expressions import check_expr
from bilevel.dsl.nearest import nearest
from bilevel.dsl.scope import Symbol
from bilevel.dsl.solvers import MODES
from bilevel.dsl.walk import name_span, walk
from bilevel.errors import Diagnostic, Edit


def check_schedule(checker: Checker, recipe: nodes.Recipe, chosen: str | None) -> tuple[ir.Entry, ...]:
    """The lines that hold: those of the chosen schedule, and of the unnamed one where that says nothing."""
    blocks = [item for item in recipe.items if isinstance(item, nodes.Schedule)]
    names = [b.name for b in blocks if b.name]
    if chosen is not None and chosen not in names:
        guess = nearest(chosen, names)
        fix = f"--schedule {guess}" if guess else ""
        note = f"schedules of {recipe.name}: {', '.join(names) or 'only the one without a name'}"
        checker.report(Diagnostic("B501", f"there is no schedule called `{chosen}`", fix=fix, note=note))
    found = {b.name: [_entry(checker, e) for e in b.entries] for b in blocks}
    entries = found.get(chosen, []) if chosen is not None else []
    named = {e.target for e in entries}
    return tuple(entries + [e for e in found.get(None, []) if e.target not in named])


def _entry(checker: Checker, node: nodes.Entry) -> ir.Entry:
    levels = [n for n in checker.scope.blocks if n is not None]
    indices = [s.name for b in checker.scope.blocks.values() for s in b.symbols.values() if s.kind == "index"]
    if node.name not in (*levels, *indices):
        checker.report(_no_level(node, levels, indices))
    for part in walk(node):  # names in options are read when the mode is carried out
        if isinstance(part, nodes.Name):
            checker.used.update(
                (s.level, s.name) for b in checker.scope.blocks.values() for s in _called(b.symbols, part)
            )
    mode = node.mode.identifier if isinstance(node.mode, nodes.Name) else node.mode.function.span.text
    arguments = () if isinstance(node.mode, nodes.Name) else node.mode.arguments
    if mode not in MODES:
        checker.report(_no_mode(node, mode))
    elif node.name in (levels if mode in COPYING else indices):
        checker.report(_other_kind(node, mode, node.name in levels))
    else:
        _check_options(checker, node.name, mode, arguments)
    return ir.Entry(node.name, mode, arguments, node.mode.span, _checked(checker, node.name, arguments))


def _checked(checker: Checker, level: str, arguments: tuple[nodes.Argument, ...]) -> dict[str, ir.Expr]:
    """Options that are expressions; they see what the level around sees, the level's solution among it."""
    block = checker.scope.blocks.get(level)
    found: dict[str, ir.Expr] = {}
    if block is None or block.parent is None:
        return found
    for argument in arguments:
        value = argument.value
        if argument.name == "choose" and isinstance(value, nodes.Call) and len(value.arguments) == 1:
            value = value.arguments[0].value
        if argument.name == "leap" and isinstance(value, nodes.Call):
            _check_options(checker, level, "leap", value.arguments)
            found |= _checked(checker, level, value.arguments)
        if argument.name in ("choose", "through"):
            found[argument.name] = check_expr(checker, Place(block.parent.name), value)
    return found


def _called(symbols: Mapping[str, Symbol], name: nodes.Name) -> list[Symbol]:
    return [symbols[name.identifier]] if name.identifier in symbols else []


def _no_mode(node: nodes.Entry, mode: str) -> Diagnostic:
    guess = nearest(mode, MODES)
    span = node.mode.span if isinstance(node.mode, nodes.Name) else node.mode.function.span
    return Diagnostic(
        "B506",
        f"`{mode}` is not a mode",
        span,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"{node.name} : {guess}" if guess else f"{node.name} : auto",
        note=f"modes: {', '.join(MODES)}",
        edit=Edit(span, guess) if guess else None,
    )


def _no_level(node: nodes.Entry, levels: list[str], indices: list[str]) -> Diagnostic:
    guess = nearest(node.name, [*levels, *indices])
    span = name_span(node, node.name)
    mode = node.mode.span.text if isinstance(node.mode, nodes.Name) else f"{node.mode.function.span.text}(...)"
    return Diagnostic(
        "B501",
        f"the schedule names `{node.name}`, but there is no such level",
        span,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"{guess} : {mode}" if guess else "remove the line",
        note=f"levels of this recipe: {', '.join(levels)}",
        edit=Edit(span, guess) if guess else None,
    )


COPYING = ("vmap", "loop")
"""how copies of an index are computed; all other modes are for levels"""


def _other_kind(node: nodes.Entry, mode: str, is_level: bool) -> Diagnostic:
    """B506 for a level where an index is meant, or the other way round."""
    wanted = [m for m in MODES if m not in COPYING] if is_level else COPYING
    what = "says how copies of an index are computed" if is_level else "says how a level is differentiated"
    return Diagnostic(
        "B506",
        f"`{mode}` {what}, and `{node.name}` is {'a level' if is_level else 'an index'}",
        node.mode.span,
        note=f"for {'a level' if is_level else 'an index'}: {', '.join(wanted)}",
    )


CHANGES = frozenset("every at after before from until when step steps epoch epochs generation generations".split())
"""options that no mode has, and that could only say when it is to change"""


def _check_options(checker: Checker, level: str, mode: str, arguments: tuple[nodes.Argument, ...]) -> None:
    counters = {s.name for b in checker.scope.blocks.values() for s in b.symbols.values() if s.kind == "counter"}
    for argument in arguments:
        counted = {n.identifier for n in walk(argument.value) if isinstance(n, nodes.Name)} & counters
        if (argument.name in CHANGES and argument.name not in MODES[mode]) or (
            argument.name in MODES[mode] and counted
        ):
            checker.report(_changing(level, argument))
        elif argument.name not in MODES[mode]:
            checker.report(_no_option(mode, argument))


def _changing(level: str, argument: nodes.Argument) -> Diagnostic:
    """B504: one run has one plan, and one class."""
    return Diagnostic(
        "B504",
        "a mode cannot change during a run",
        argument.span,
        why="the plan, and the class that a result carries, hold for all steps of a run",
        fix=f"two runs, the second by `bilevel resume DIR schedule.{level}=rmd`, with more steps of the level around",
    )


def _no_option(mode: str, argument: nodes.Argument) -> Diagnostic:
    spelled = argument.name or argument.value.span.text
    guess = nearest(spelled, MODES[mode])
    return Diagnostic(
        "B506",
        f"`{mode}` has no option `{spelled}`",
        argument.span,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"{mode}({guess} = {argument.value.span.text})" if guess else f"{mode} without it",
        note=f"its options: {', '.join(MODES[mode]) or 'none'}",
    )
