"""Messages for names that an expression cannot use: unknown (B201), out of sight (B202), solved later (B203).

Takes a `Scope` and the place of the name; gives one `Diagnostic`. What is in sight is decided in `scope.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bilevel.dsl import nodes
from bilevel.dsl.functions import FUNCTIONS
from bilevel.dsl.nearest import nearest
from bilevel.dsl.scope import Block, Scope, Symbol
from bilevel.dsl.walk import name_span, walk
from bilevel.errors import Diagnostic, Edit, Related, Span

LONGEST_FIX = 80


def not_found(scope: Scope, level: str | None, name: str, span: Span, local: frozenset[str]) -> Diagnostic:
    """The message for a name that an expression of `level` cannot use."""
    elsewhere = [(b, s) for b in scope.blocks.values() for s in b.symbols.values() if s.name == name]
    if elsewhere and level is None:
        return _not_at_the_top(*elsewhere[0], span)
    if elsewhere and level is not None:
        block, symbol = elsewhere[0]
        if _solved_beside(scope, level, block) and symbol.kind == "variable":
            return _later(scope, level, symbol, span)
        return _out_of_sight(scope, level, block, symbol, span)
    return _unknown(scope, level, name, span, local)


# ---- the text around a name ----------------------------------------------------------------------------------


def corrected(scope: Scope, span: Span, text: str) -> str:
    """The term that the name at `span` stands in, with `text` in place of the name; empty where it is too long."""
    term = _term(scope, span)
    return "" if term is None else _replaced(term.span, span, text)


def _term(scope: Scope, span: Span) -> nodes.Node | None:
    """The largest expression around a place that is not itself a sum."""
    found = (n for n in _around(scope.recipe, span) if isinstance(n, nodes.Expr | nodes.Range))
    return next((node for node in found if not _is_sum(node)), None)


def _is_sum(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Binary) and node.operator in ("+", "-")


def _around(recipe: nodes.Recipe, span: Span) -> Iterator[nodes.Node]:
    """The nodes that contain a place, outermost first; a flattened recipe has statements of several files."""
    for node in walk(recipe):
        if node.span.source == span.source and node.span.start <= span.start and span.end <= node.span.end:
            yield node


def _replaced(whole: Span, part: Span, text: str) -> str:
    result = f"{whole.source.text[whole.start : part.start]}{text}{whole.source.text[part.end : whole.end]}"
    return result if "\n" not in result and len(result) <= LONGEST_FIX else ""


# ---- B201 ----------------------------------------------------------------------------------------------------


def _unknown(scope: Scope, level: str | None, name: str, span: Span, local: frozenset[str]) -> Diagnostic:
    seen = scope.in_sight(level)
    guess = nearest(name, [*seen, *local, *FUNCTIONS])
    label, fix = "", ""
    if guess is not None:
        what = str(seen[guess]) if guess in seen else ("an argument here" if guess in local else "a function")
        label, fix = f"did you mean `{guess}` ({what})?", corrected(scope, span, guess) or f"write `{guess}`"
    return Diagnostic(
        "B201",
        f"unknown name `{name}`",
        span,
        label,
        fix=fix or "declare it: a variable `:`, a draw `~`, a `let`, a `param` or a `use`",
        note=f"in sight here: {_listed(scope, level, seen, local)}",
        edit=None if guess is None else Edit(span, guess),
    )


def _listed(scope: Scope, level: str | None, seen: dict[str, Symbol], local: frozenset[str]) -> str:
    """Names in sight, innermost level first."""
    groups: list[str] = [f"{_and(sorted(local))} (here)"] if local else []
    owners = [b.name for b in scope.blocks[level].ancestors()] if level else [None]
    inner = [b.name for b in scope.blocks[level].inner] if level else []
    for owner in dict.fromkeys((*inner, *owners, *(s.level for s in seen.values()))):
        names = [s.name for s in seen.values() if s.level == owner]
        if names and owner is not None:
            groups.append(f"{_and(names)} ({owner})")
        else:
            groups.extend(names)
    return ", ".join(groups) or "nothing"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---- B202 ----------------------------------------------------------------------------------------------------


def _out_of_sight(scope: Scope, level: str, block: Block, symbol: Symbol, span: Span) -> Diagnostic:
    path = [b.name for b in block.ancestors() if b.name is not None][::-1]
    chain = " > ".join(path[path.index(level) :] if level in path else path)
    solved = symbol.kind == "variable"
    why = "a level hands its solution to the level around it, and no further"
    if not solved:
        why = f"a {symbol.kind} is in sight in its own level and inside it only"
    return Diagnostic(
        "B202",
        f"`{symbol.name}` is out of sight in level `{level}`",
        span,
        f"used here, in {level}",
        (_declaration(block, symbol),),
        why=f"{why}: {chain}",
        fix=_into_sight(scope, level, block, symbol, span),
    )


def _not_at_the_top(block: Block, symbol: Symbol, span: Span) -> Diagnostic:
    return Diagnostic(
        "B202",
        f"`{symbol.name}` is out of sight outside of level `{block.name}`",
        span,
        "used here, outside of all levels",
        (_declaration(block, symbol),),
        why="what stands above the levels sees parts, params and lets only",
        fix=f"make it an argument of the let, or move the line into level `{block.name}`",
    )


def _declaration(block: Block, symbol: Symbol) -> Related:
    around = f", inside {block.parent.name}" if block.parent is not None and block.parent.name is not None else ""
    if symbol.kind == "variable" and block.node is not None:
        return Related(name_span(block.node, block.node.name), f"`{symbol.name}` is solved here{around}")
    return Related(name_span(symbol.node, symbol.name), f"`{symbol.name}` is declared here, inside {block.name}")


def _into_sight(scope: Scope, level: str, block: Block, symbol: Symbol, span: Span) -> str:
    """What to do: another name of the same type, or another place for the term."""
    if symbol.kind != "variable":
        return f"move this term into `{block.name}`"
    own = _same_type(scope, level, symbol)
    instead = own and _call_with(scope, span, own)
    first = f"use {instead}, or " if instead else ""
    if block.parent is None or block.parent.name is None:
        return first + f"move this term into `{block.name}`"
    return f"{first}move this term into `{block.parent.name}`, where {symbol.name} is in sight"


def _same_type(scope: Scope, level: str, symbol: Symbol) -> str | None:
    """A variable of `level` that is declared with the type of `symbol`."""
    wanted = symbol.node.type if isinstance(symbol.node, nodes.Variable) else None
    own = scope.blocks[level].solutions.values()
    return next((s.name for s in own if isinstance(s.node, nodes.Variable) and s.node.type == wanted), None)


def _call_with(scope: Scope, span: Span, name: str) -> str:
    """The innermost call around a place, with `name` in that place."""
    calls = [n for n in _around(scope.recipe, span) if isinstance(n, nodes.Call)]
    return _replaced(calls[-1].span, span, name) if calls else name


# ---- B203 ----------------------------------------------------------------------------------------------------


def _solved_beside(scope: Scope, level: str, block: Block) -> bool:
    """Whether `block` stands beside `level` or beside a level around it, further down the text."""
    return any(outer.parent is not None and block in outer.parent.inner for outer in scope.blocks[level].ancestors())


def _later(scope: Scope, level: str, symbol: Symbol, span: Span) -> Diagnostic:
    other = scope.blocks[symbol.level]
    backward = _first_use(scope, other, level)
    label = f"{level} needs {symbol.name}, solved by {symbol.level} below"
    if backward is None:
        return Diagnostic(
            "B203",
            f"`{symbol.name}` is solved by `{symbol.level}`, which comes later",
            span,
            label,
            (Related(name_span(symbol.node, symbol.name), "solved here"),),
            why="levels side by side run from top to bottom",
            fix=f"put level `{symbol.level}` above level `{level}`",
        )
    return Diagnostic(
        "B203",
        f"levels `{level}` and `{symbol.level}` each need the other's solution",
        span,
        label,
        (Related(backward, f"{symbol.level} needs {backward.text}, solved by {level}"),),
        why="levels side by side run from top to bottom; a cycle is a game, not a nesting",
        fix="put one inside the other to say who leads. Equilibria are not supported (bilevel explain B203)",
    )


def _first_use(scope: Scope, block: Block, level: str) -> Span | None:
    """Where a block first reads a variable of `level`."""
    wanted = scope.blocks[level].solutions
    used = walk(block.node) if block.node is not None else iter(())
    return next((n.span for n in used if isinstance(n, nodes.Name) and n.identifier in wanted), None)
