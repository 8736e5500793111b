"""Names: which are declared where, what is in sight of a level, and over which indices everything is copied.

Takes a flattened recipe; gives a `Scope` that answers `look(level, name)`. Reports B205. Types are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from bilevel.dsl import nodes
from bilevel.dsl.functions import FUNCTIONS
from bilevel.dsl.solvers import SOLVERS
from bilevel.dsl.walk import children, header_span, name_span, walk
from bilevel.errors import Diagnostic, Related, Span

SymbolKind = Literal["use", "param", "let", "variable", "draw", "index", "counter"]
TESTS = {"stationary", "plateau", "below"}
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
    excused: set[str] = field(default_factory=set)
    """names that are unknown only because of a mistake that is reported elsewhere"""
    _known: dict[tuple[str | None, str, str | None], set[str]] = field(default_factory=dict)
    """the indices that names mention, as far as they were asked for; a name that is being followed has none"""

    def in_sight(self, level: str | None) -> dict[str, Symbol]:
        """Every name that an expression of `level` may use (language reference, section 5)."""
        found: dict[str, Symbol] = {}
        before: Block | None = None
        if level is None:
            return dict(self.blocks[None].symbols)
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

    def axes(self, symbol: Symbol, reader: str | None = None) -> tuple[str, ...]:
        """The open indices over which the value of a symbol is copied, outermost first.

        Within a level that judges a population its variables have the members as an axis; from outside (`reader`) its
        solution is one value.
        """
        if symbol.level is None:
            return ()
        around = self.copies.get(symbol.level, ())
        # All members of a population share every draw of their generation.
        shared = tuple(a for a in around if not a.startswith("@"))
        if symbol.kind == "index":
            source = symbol.node.index.source if isinstance(symbol.node, nodes.Each) else None
            from_others = self.mentioned(source, symbol.level) - {symbol.name} if source is not None else set()
            return (*self.order({*shared, *from_others}), symbol.name)
        if symbol.kind == "draw" and isinstance(symbol.node, nodes.Draw):
            return self.order({*shared, *self.mentioned(symbol.node.source, symbol.level)})
        if symbol.kind != "variable":
            return ()
        inside = reader is not None and any(b.name == symbol.level for b in self.blocks[reader].ancestors())
        return (f"@{symbol.level}", *around) if inside and self._is_searched(symbol.level) else around

    def _is_searched(self, level: str) -> bool:
        """Whether a level is moved by a solver that compares the members of a population."""
        node = self.blocks[level].node
        bys = [s for s in node.body if isinstance(s, nodes.By)] if node is not None else []
        solvers = [m.solver for by in bys[:1] for m in by.phases[0].moves]
        names = [s.function.span.text for s in solvers if isinstance(s, nodes.Call)]
        return any(name in SOLVERS and SOLVERS[name].needs == "values" for name in names)

    def order(self, axes: set[str]) -> tuple[str, ...]:
        """Axes in the order in which their indices are opened, outermost first; before them members, innermost first."""
        opened = [s.name for b in self.blocks.values() for s in b.symbols.values() if s.kind == "index"]
        searched = {f"@{n}": -1 - len(list(b.ancestors())) for n, b in self.blocks.items() if n is not None}
        return tuple(sorted(axes, key=lambda a: opened.index(a) if a in opened else searched.get(a, -1)))

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
                return {a for child in children(node) for a in self.mentioned(child, level, bound)}
        return set()

    def _mentioned_name(self, name: str, level: str | None) -> set[str]:
        symbol = self.look(level, name)
        if symbol is None:
            return set()
        key = (symbol.level, name, level if symbol.kind == "variable" else None)
        if key not in self._known:
            self._known[key] = set()  # for lets and draws that are defined by themselves (B210)
            self._known[key] = self._mentioned_symbol(symbol, level)
        return self._known[key]

    def _mentioned_symbol(self, symbol: Symbol, level: str | None) -> set[str]:
        if symbol.kind == "let" and isinstance(symbol.node, nodes.Let):
            return self.mentioned(symbol.node.body, symbol.level, frozenset(symbol.node.parameters or ()))
        return set(self.axes(symbol, level))

    def copy(self, level: str, axes: set[str]) -> None:
        """Say over which indices a level is copied, in place of what was said before."""
        self.copies[level] = self.order(axes)
        self._known.clear()


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
            _check_shadows(scope, block, problems)
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
        problems.append(_twice(level, first))
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


def _twice(level: nodes.Level, first: nodes.Level) -> Diagnostic:
    related = (Related(header_span(first), "first declaration"),)
    return Diagnostic(
        "B205",
        f"`{level.name}` is already the name of a level",
        name_span(level, level.name),
        "second declaration",
        related,
        why="paths, schedules and a child recipe find a level by its name alone",
        fix=f"level {level.name}_2 {{ ... }}, or one level with the statements of both",
    )


def _again(symbol: Symbol, known: Symbol, level: str | None, instead: str | None = None) -> Diagnostic:
    """B205; `instead` is a name that is used and declared nowhere, so that it was probably meant."""
    where = f"inside {level} both would be in sight" if level else "both would be in sight"
    span = name_span(symbol.node, symbol.name)
    text = symbol.span.text
    before = span.start - symbol.span.start
    renamed = f"{text[:before]}{instead}{text[before + len(span.text) :]}" if instead and "\n" not in text else ""
    return Diagnostic(
        "B205",
        f"`{symbol.name}` is already the {known}",
        span,
        "second declaration",
        (Related(known.span, "first declaration"),),
        why=f"{where}, and `{symbol.name}` could mean either",
        fix=renamed or "another name for one of the two",
    )


def _check_shadows(scope: Scope, block: Block, problems: list[Diagnostic]) -> None:
    """No name of a level may stand for something else in sight around it."""
    assert block.parent is not None
    around = {name: symbol for b in block.parent.inner[: block.position] for name, symbol in b.solutions.items()}
    for outer in block.parent.ancestors():
        around = outer.symbols | around
    for symbol in block.symbols.values():
        known = around.get(symbol.name)
        if known is not None:
            undeclared = _undeclared(scope, block)
            instead = undeclared[0] if len(undeclared) == 1 and symbol.kind == "variable" else None
            scope.excused.update({instead} if instead else ())
            problems.append(_again(symbol, known, block.name, instead))


def _undeclared(scope: Scope, block: Block) -> list[str]:
    """The names that a level uses and that nothing in the recipe declares."""
    assert block.node is not None
    known = {name for b in scope.blocks.values() for name in b.symbols} | FUNCTIONS.keys() | SOLVERS.keys()
    known |= {n.name for n in walk(block.node) if isinstance(n, nodes.Binder)} | TESTS
    known |= {p for n in walk(block.node) if isinstance(n, nodes.Let) for p in n.parameters or ()}
    return sorted({n.identifier for n in walk(block.node) if isinstance(n, nodes.Name)} - known)


# ---- copies --------------------------------------------------------------------------------------------------


def _find_copies(scope: Scope, root: Block) -> None:
    """Fill `scope.copies`, outermost level first: a level is copied over the outer indices it depends on."""
    waiting = list(root.inner)
    while waiting:
        block = waiting.pop(0)
        assert block.name is not None
        own = {s.name for s in block.symbols.values() if s.kind == "index"} | {f"@{block.name}"}
        scope.copy(block.name, set())
        scope.copy(block.name, _raw(scope, block) - own)
        waiting.extend(block.inner)


def _raw(scope: Scope, block: Block) -> set[str]:
    """The indices that the statements of a level mention, its own variables counted as free of copies."""
    assert block.node is not None and block.name is not None
    for inner in block.inner:
        assert inner.name is not None
        scope.copy(inner.name, set())
        opened = {s.name for s in inner.symbols.values() if s.kind == "index"} | {f"@{inner.name}"}
        scope.copy(inner.name, _raw(scope, inner) - opened)
    found: set[str] = set()
    for statement in block.node.body:
        if not isinstance(statement, nodes.Level | nodes.Report | nodes.Let):
            found |= scope.mentioned(statement, block.name)
    return found
