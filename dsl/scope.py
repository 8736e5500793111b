"""Names: which are declared where, what is in sight of a level, and over which indices everything is copied.

Takes a flattened recipe; gives a `Scope` that answers `look(level, name)`. Reports B201, B202, B203, B205. Types
are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from bilevel.dsl import nodes
from bilevel.dsl.functions import FUNCTIONS
from bilevel.errors import Diagnostic, Related, Span
from bilevel.dsl.nearest import nearest

SymbolKind = Literal["use", "param", "let", "variable", "draw", "index", "counter"]
WORDS = {"use": "part", "param": "param", "let": "let", "variable": "variable", "draw": "draw", "index": "index"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A declared name; `level` is None for what stands at the top of the recipe."""

    name: str
    kind: SymbolKind
    level: str | None
    span: Span
    node: nodes.Node

    def __str__(self) -> str:
        return f"{WORDS.get(self.kind, self.kind)} of level {self.level}" if self.level else WORDS[self.kind]


@dataclass(slots=True)
class Block:
    """One level of the text: its node, what it declares, and the levels inside it in order."""

    node: nodes.Level | None
    name: str | None
    parent: Block | None
    position: int
    symbols: dict[str, Symbol] = field(default_factory=dict)
    inner: list[Block] = field(default_factory=list)

    def ancestors(self) -> Iterator[Block]:
        """This block and all around it, innermost first."""
        block: Block | None = self
        while block is not None:
            yield block
            block = block.parent

    @property
    def solutions(self) -> dict[str, Symbol]:
        return {n: s for n, s in self.symbols.items() if s.kind == "variable"}


@dataclass(slots=True)
class Scope:
    """All blocks of a recipe by the name of their level; the recipe itself is `blocks[None]`."""

    recipe: nodes.Recipe
    blocks: dict[str | None, Block]
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def in_sight(self, level: str | None) -> dict[str, Symbol]:
        """Every name that an expression of `level` may use (language reference, section 5)."""
        found: dict[str, Symbol] = {}
        before: Block | None = None
        for block in self.blocks[level].ancestors():
            for inner in block.inner:
                if inner is before:
                    break
                found = inner.solutions | found
            found = block.symbols | found
            before = block
        return found

    def look(self, level: str | None, name: str) -> Symbol | None:
        return self.in_sight(level).get(name)

    def axes(self, symbol: Symbol) -> tuple[str, ...]:
        """The open indices over which the value of a symbol is copied, outermost first."""
        if symbol.level is None:
            return ()
        around = self.copies.get(symbol.level, ())
        if symbol.kind == "index":
            return (*around, symbol.name)
        if symbol.kind == "draw" and isinstance(symbol.node, nodes.Draw):
            return self.order({*around, *self.mentioned(symbol.node.source, symbol.level)})
        return around if symbol.kind == "variable" else ()

    def order(self, axes: set[str]) -> tuple[str, ...]:
        """Axes in the order in which their indices are opened, outermost first."""
        opened = [s.name for b in self.blocks.values() for s in b.symbols.values() if s.kind == "index"]
        return tuple(sorted(axes, key=lambda a: opened.index(a) if a in opened else -1))

    def mentioned(self, node: object, level: str | None, bound: frozenset[str] = frozenset()) -> set[str]:
        """The open indices that an expression depends on; a reducer closes those it names."""
        match node:
            case nodes.Name(identifier):
                return set() if identifier in bound else self._mentioned_name(identifier, level)
            case nodes.Reduce(_, binders, body):
                inner = bound | {b.name for b in binders if b.source is not None}
                closed = {b.name for b in binders if b.source is None}
                outside = {a for b in binders for a in self.mentioned(b.source, level, bound)}
                return (self.mentioned(body, level, inner) - closed) | outside
            case nodes.Argument(_, value):
                return self.mentioned(value, level, bound)
            case nodes.Node():
                return {a for child in parts(node) for a in self.mentioned(child, level, bound)}
        return set()

    def _mentioned_name(self, name: str, level: str | None) -> set[str]:
        symbol = self.look(level, name)
        if symbol is None:
            return set()
        if symbol.kind == "let" and isinstance(symbol.node, nodes.Let):
            own = frozenset(symbol.node.parameters or ())
            return self.mentioned(symbol.node.body, symbol.level, own | {name})
        return set(self.axes(symbol))


def parts(node: nodes.Node) -> Iterator[object]:
    """The nodes directly inside one."""
    for name in node.__dataclass_fields__:
        value = getattr(node, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, nodes.Node):
                yield item


def build_scope(recipe: nodes.Recipe) -> tuple[Scope, list[Diagnostic]]:
    """Collect all declarations of a flattened recipe and the indices each level is copied over."""
    problems: list[Diagnostic] = []
    root = Block(None, None, None, 0)
    scope = Scope(recipe, {None: root})
    for item in recipe.items:
        match item:
            case nodes.Use(name) | nodes.Param(name) | nodes.Let(name):
                _declare(root, Symbol(name, _kind(item), None, item.span, item), problems)
            case nodes.Level():
                _collect(scope, root, item, problems)
    for block in list(scope.blocks.values()):
        if block.name is not None:
            _check_shadows(block, problems)
    _find_copies(scope, root)
    return scope, problems


def _kind(item: nodes.Node) -> SymbolKind:
    match item:
        case nodes.Use():
            return "use"
        case nodes.Param():
            return "param"
        case _:
            return "let"


def _collect(scope: Scope, parent: Block, level: nodes.Level, problems: list[Diagnostic]) -> None:
    block = Block(level, level.name, parent, len(parent.inner))
    if level.name in scope.blocks:
        first = scope.blocks[level.name].node
        assert first is not None
        problems.append(_twice(level.name, "a level", level.span, first.span))
        return
    parent.inner.append(block)
    scope.blocks[level.name] = block
    for statement in level.body:
        for symbol in _declared(statement, level.name):
            _declare(block, symbol, problems)
        if isinstance(statement, nodes.Level):
            _collect(scope, block, statement, problems)


def _declared(statement: nodes.Statement, level: str) -> list[Symbol]:
    match statement:
        case nodes.Variable(names):
            return [Symbol(n, "variable", level, statement.span, statement) for n in names]
        case nodes.Each(nodes.Index(name)):
            return [Symbol(name, "index", level, statement.span, statement)]
        case nodes.Draw(name):
            return [Symbol(name, "draw", level, statement.span, statement)]
        case nodes.Let(name):
            return [Symbol(name, "let", level, statement.span, statement)]
        case nodes.By(phases):
            counted = [p.duration for p in phases if isinstance(p.duration, nodes.ForEach)]
            return [Symbol(d.name, "counter", level, d.span, d) for d in counted]
    return []


def _declare(block: Block, symbol: Symbol, problems: list[Diagnostic]) -> None:
    known = block.symbols.get(symbol.name)
    if known is not None:
        problems.append(_again(symbol, known, block.name))
        return
    block.symbols[symbol.name] = symbol


def _twice(name: str, what: str, span: Span, first: Span) -> Diagnostic:
    message = f"`{name}` is already the name of {what}"
    return Diagnostic("B205", message, span, "second declaration", (Related(first, "first declaration"),))


def _again(symbol: Symbol, known: Symbol, level: str | None) -> Diagnostic:
    where = f"inside {level} both would be in sight" if level else "both would be in sight"
    return Diagnostic(
        "B205",
        f"`{symbol.name}` is already the {known}",
        _name_span(symbol),
        "second declaration",
        (Related(known.span, "first declaration"),),
        why=f"{where}, and `{symbol.name}` could mean either",
        fix="another name for one of the two",
    )


def _name_span(symbol: Symbol) -> Span:
    """The name itself, where the declaration starts with it or with a keyword before it."""
    start = symbol.span.text.find(symbol.name)
    begin = symbol.span.start + max(start, 0)
    return Span(symbol.span.source, begin, begin + len(symbol.name))


def _check_shadows(block: Block, problems: list[Diagnostic]) -> None:
    """No name of a level may stand for something else in sight around it."""
    assert block.parent is not None
    around: dict[str, Symbol] = {}
    for outer in block.parent.ancestors():
        around = outer.symbols | around
    for symbol in block.symbols.values():
        known = around.get(symbol.name)
        if known is not None:
            problems.append(_again(symbol, known, block.name))


# ---- copies --------------------------------------------------------------------------------------------------


def _find_copies(scope: Scope, root: Block) -> None:
    """Fill `scope.copies`, outermost level first: a level is copied over the outer indices it depends on."""
    waiting = list(root.inner)
    while waiting:
        block = waiting.pop(0)
        assert block.name is not None
        own = {s.name for s in block.symbols.values() if s.kind == "index"}
        scope.copies[block.name] = ()
        scope.copies[block.name] = scope.order(_raw(scope, block) - own)
        waiting.extend(block.inner)


def _raw(scope: Scope, block: Block) -> set[str]:
    """The indices that the statements of a level mention, its own variables counted as free of copies."""
    assert block.node is not None and block.name is not None
    for inner in block.inner:
        assert inner.name is not None
        scope.copies[inner.name] = ()
        opened = {s.name for s in inner.symbols.values() if s.kind == "index"}
        scope.copies[inner.name] = scope.order(_raw(scope, inner) - opened)
    found: set[str] = set()
    for statement in block.node.body:
        if not isinstance(statement, nodes.Level | nodes.Report | nodes.Let):
            found |= scope.mentioned(statement, block.name)
    return found


# ---- messages ------------------------------------------------------------------------------------------------


def not_found(scope: Scope, level: str | None, name: str, span: Span, local: frozenset[str]) -> Diagnostic:
    """The message for a name that an expression of `level` cannot use: unknown, out of sight, or solved later."""
    elsewhere = [(b, s) for b in scope.blocks.values() for s in b.symbols.values() if s.name == name]
    if elsewhere and level is not None:
        block, symbol = elsewhere[0]
        if _solved_beside(scope, level, block):
            return _later(scope, level, symbol, span)
        return _out_of_sight(level, block, symbol, span)
    return _unknown(scope, level, name, span, local)


def _solved_beside(scope: Scope, level: str, block: Block) -> bool:
    """Whether `block` stands beside `level` or beside a level around it, further down the text."""
    return any(outer.parent is not None and block in outer.parent.inner for outer in scope.blocks[level].ancestors())


def _later(scope: Scope, level: str, symbol: Symbol, span: Span) -> Diagnostic:
    other = scope.blocks[symbol.level]
    assert other.node is not None and symbol.level is not None
    backward = _first_use(scope, other, level)
    related = ()
    if backward is not None:
        related = (Related(backward, f"{symbol.level} needs {backward.text}, solved by {level}"),)
    message = f"levels `{level}` and `{symbol.level}` each need the other's solution"
    if backward is None:
        message = f"`{symbol.name}` is solved by `{symbol.level}`, which comes later"
    return Diagnostic(
        "B203",
        message,
        span,
        f"{level} needs {symbol.name}, solved by {symbol.level} below",
        related,
        why="levels side by side run from top to bottom; a cycle is a game, not a nesting",
        fix="put one inside the other to say who leads. Equilibria are not supported (bilevel explain B203)",
    )


def _first_use(scope: Scope, block: Block, level: str) -> Span | None:
    """Where a block first reads a variable of `level`."""
    wanted = scope.blocks[level].solutions
    stack: list[object] = [block.node]
    while stack:
        node = stack.pop()
        if isinstance(node, nodes.Name) and node.identifier in wanted:
            return node.span
        if isinstance(node, nodes.Node):
            stack.extend(reversed(list(parts(node))))
    return None


def _out_of_sight(level: str, block: Block, symbol: Symbol, span: Span) -> Diagnostic:
    path = [b.name for b in block.ancestors() if b.name is not None][::-1]
    chain = " > ".join(path[path.index(level) :] if level in path else path)
    around = f", inside {path[-2]}" if len(path) > 1 else ""
    solved = "solved" if symbol.kind == "variable" else "declared"
    return Diagnostic(
        "B202",
        f"`{symbol.name}` is out of sight in level `{level}`",
        span,
        f"used here, in {level}",
        (Related(_name_span(symbol), f"`{symbol.name}` is {solved} here{around}"),),
        why=f"a level hands its solution to the level around it, and no further: {chain}"
        if symbol.kind == "variable"
        else f"a draw, index or let is in sight in its own level and inside it only: {chain}",
        fix=f"move this term into `{block.parent.name}`, where {symbol.name} is in sight"
        if block.parent is not None and block.parent.name is not None and symbol.kind == "variable"
        else f"move this term into `{block.name}`",
    )


def _unknown(scope: Scope, level: str | None, name: str, span: Span, local: frozenset[str]) -> Diagnostic:
    seen = scope.in_sight(level)
    guess = nearest(name, [*seen, *local, *FUNCTIONS])
    label, fix = "", ""
    if guess is not None:
        what = str(seen[guess]) if guess in seen else ("an argument here" if guess in local else "a function")
        label, fix = f"did you mean `{guess}` ({what})?", f"write `{guess}`"
    return Diagnostic(
        "B201",
        f"unknown name `{name}`",
        span,
        label,
        fix=fix or "declare it: a variable `:`, a draw `~`, a `let`, a `param` or a `use`",
        note=f"in sight here: {_listed(scope, level, seen)}",
    )


def _listed(scope: Scope, level: str | None, seen: dict[str, Symbol]) -> str:
    """Names in sight, innermost level first."""
    groups: list[str] = []
    owners = [b.name for b in scope.blocks[level].ancestors()] if level else [None]
    inner = [b.name for b in scope.blocks[level].inner]
    for owner in (*inner, *owners):
        names = [s.name for s in seen.values() if s.level == owner]
        if names and owner is not None:
            groups.append(f"{_and(names)} ({owner})")
        else:
            groups.extend(names)
    return ", ".join(groups) or "nothing"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
