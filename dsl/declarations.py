"""Declarations of a level: the types of its variables, indices and draws, their domains and starts.

Takes statements and the level they stand in; fills the checker's types and gives `ir.Variable` and the sources of
indices. Reports B210, B216, B303, B309-B311.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.context import Checker, Place, size_of
from bilevel.dsl.datatypes import (
    UNKNOWN_SIZE,
    Array,
    ListType,
    Model,
    Part,
    Record,
    Records,
    Stream,
    Tree,
    Type,
    Union,
    Unknown,
)
from bilevel.dsl.expressions import check_expr
from bilevel.dsl.functions import DOMAINS
from bilevel.dsl.mismatch import check_count
from bilevel.dsl.nearest import nearest
from bilevel.dsl.parts import constant
from bilevel.dsl.scope import Symbol
from bilevel.dsl.walk import name_span, walk
from bilevel.errors import Diagnostic, Edit, Related

TREES = ("params", "layers", "factors", "kron")
TYPES = "real, real[n], params(net), layers(net), factors(net), kron(net)"


def declare_types(checker: Checker, level: nodes.Level) -> None:
    """The types of all variables, indices and draws of a level, in the order of the text."""
    place = Place(level.name)
    for statement in level.body:
        match statement:
            case nodes.Variable(names, type_):
                for name in names:
                    checker.types.setdefault((level.name, name), _variable_type(checker, level.name, type_))
            case nodes.Each(index):
                checker.types.setdefault((level.name, index.name), index_type(checker, place, index))
            case nodes.Draw(name, source):
                checker.types.setdefault((level.name, name), _draw_type(checker, place, name, source))
            case nodes.By(phases):
                for phase in phases:
                    if isinstance(phase.duration, nodes.ForEach):
                        checker.types[(level.name, phase.duration.name)] = Array((), "integer")


# ---- types of variables --------------------------------------------------------------------------------------


def _variable_type(checker: Checker, level: str, type_: nodes.Type) -> Type:
    if isinstance(type_, nodes.RealType):
        found = tuple(_declared_size(checker, level, s) for s in type_.sizes)
        unranked = any(isinstance(s, nodes.Attribute) for s in type_.sizes)
        return Array((), ranked=False) if unranked else Array(found)
    return _tree_type(checker, level, type_)


def _given_sizes(checker: Checker, place: Place, type_: nodes.Type) -> tuple[ir.Expr, ...]:
    """The sizes of `real[src.shape]`, whose fields only the parts know; nothing where the recipe knows all."""
    if not isinstance(type_, nodes.RealType) or not any(isinstance(s, nodes.Attribute) for s in type_.sizes):
        return ()
    return tuple(check_expr(checker, place, size) for size in type_.sizes)


def _declared_size(checker: Checker, level: str, node: nodes.Expr) -> int | str:
    problems = len(checker.problems)
    found = check_expr(checker, Place(level), node)
    _check_shared(checker, level, node, found)
    size = size_of(checker, node)
    value = constant(node, checker.constants)
    if len(checker.problems) == problems and value is not None and (not isinstance(value, int) or value < 1):
        message = f"`{node.span.text}` is not a size"
        checker.report(Diagnostic("B310", message, node.span, "a whole number, 1 or more"))
        return UNKNOWN_SIZE
    return size


def _check_shared(checker: Checker, level: str, node: nodes.Expr, shaped: ir.Expr) -> None:
    """B313 where the variable of a level is shaped like the elements of an index that this very level opens."""
    for name in sorted(shaped.reads):
        symbol = checker.scope.look(level, name)
        if symbol is not None and symbol.kind == "index" and symbol.level == level:
            checker.report(_not_shared(node, symbol))


def _not_shared(node: nodes.Expr, symbol: Symbol) -> Diagnostic:
    return Diagnostic(
        "B313",
        f"one variable of `{symbol.level}` cannot be shaped like every `{symbol.name}`",
        node.span,
        f"differs from one `{symbol.name}` to the next",
        (Related(symbol.span, f"`{symbol.level}` has one value of its variables for all of these"),),
        why="incongruous tasks, which do not share the shapes of what is fitted, have no start in common",
        fix="learn the solver in place of the start, as the recipe lft does:  psi : params(opt), by opt[psi]\n"
        f"or one network for all:  use net = ...  without `each {symbol.name}`",
    )


def _tree_type(checker: Checker, level: str, type_: nodes.TreeType) -> Type:
    net = next((a.value for a in type_.arguments if a.name is None), None)
    if type_.kind not in TREES or net is None:
        checker.report(_no_type(type_))
        return Unknown("error")
    found = check_expr(checker, Place(level), net)
    _check_shared(checker, level, net, found)
    given = found.type
    if isinstance(found, ir.Field) and isinstance(found.base.type, Model):
        checker.report(_output_of(net, found.base))
        return Unknown("error")
    if not isinstance(given, Model | Unknown):
        checker.report(_no_network(net, given))
        return Unknown("error")
    parts = {a.name: a.value.value for a in type_.arguments if a.name and isinstance(a.value, nodes.String)}
    for argument in type_.arguments:
        if argument.value is not net:
            _check_part(checker, argument, given)
    part = Part(parts.get("only"), parts.get("except"))
    counts = [_declared_size(checker, level, c) for c in type_.count]
    numbers = (shapes.value_of(count, checker.sizes) for count in counts)
    whole = tuple(c if number is None else number for c, number in zip(counts, numbers, strict=True))
    return Tree(_path(net), part, type_.kind, whole)


def _no_type(type_: nodes.TreeType) -> Diagnostic:
    guess = nearest(type_.kind, (*TREES, "real")) if type_.kind not in TREES else None
    fix = type_.span.text.replace(type_.kind, guess, 1) if guess else ""
    if type_.kind in TREES:
        fix = f"{type_.kind}(net)"
    label = f"did you mean `{guess}`?" if guess else ""
    return Diagnostic("B310", f"`{type_.span.text}` is not a type", type_.span, label, fix=fix, note=f"types: {TYPES}")


def _no_network(net: nodes.Expr, given: Type) -> Diagnostic:
    if isinstance(given, ListType):
        return _several_networks(net, given)
    return Diagnostic(
        "B310",
        f"`{net.span.text}` is {given}, and has no parameters",
        net.span,
        str(given),
        why="params(net) has the shapes of the parameters of a network",
        fix="the name of a network that stands in a `use` line",
    )


def _several_networks(net: nodes.Expr, given: ListType) -> Diagnostic:
    return Diagnostic(
        "B310",
        f"`{net.span.text}` is {given}, whose networks need not have the same parameters",
        net.span,
        str(given),
        why="params(net) has the shapes of the parameters of one network",
        fix=f"each net in {net.span.text}, and params(net) in a level inside\n"
        "what is shared by all of them is a learned solver, as in the recipe lft, and no start",
    )


def _path(net: nodes.Expr) -> str:
    """The name of a network, as `net`, or as `p.net` in a pair."""
    if isinstance(net, nodes.Attribute):
        return f"{_path(net.base)}.{net.name}"
    return net.identifier if isinstance(net, nodes.Name) else net.span.text


def _output_of(net: nodes.Expr, base: ir.Expr) -> Diagnostic:
    message = f"`{net.span.text}` is an output of `{base.span.text}`, and has no parameters of its own"
    return Diagnostic("B310", message, net.span, fix=f"params({base.span.text})")


def _check_part(checker: Checker, argument: nodes.Argument, net: Type) -> None:
    """`only = "cn"`: a registered part, or a pattern on the names of parameters."""
    if argument.name not in ("only", "except") or not isinstance(argument.value, nodes.String):
        message = f"`{argument.span.text}` does not say which parameters"
        checker.report(Diagnostic("B310", message, argument.span, fix='only = "PART", or except = "PART"'))
        return
    name, known = argument.value.value, dict(net.parts) if isinstance(net, Model) else {}
    if not isinstance(net, Model) or not known or name in known or not name.isidentifier():
        return
    guess = nearest(name, known)
    checker.report(
        Diagnostic(
            "B310",
            f"`{net.name}` has no part `{name}`",
            argument.value.span,
            f"did you mean `{guess}`?" if guess else "",
            fix=f'{argument.name} = "{guess}"' if guess else f'a pattern on names: {argument.name} = "*.{name}.*"',
            note=f"its parts: {', '.join(known)}",
        )
    )


# ---- indices and draws ---------------------------------------------------------------------------------------


def index_type(checker: Checker, place: Place, index: nodes.Index) -> Type:
    """The type of one item of what an index runs over."""
    if _by_itself(checker, index.name, index.source):
        return Unknown("error")
    source = check_source(checker, place, index)
    item = shapes.one_of(source.type)
    endless = not index.drawn and isinstance(source.type, Stream) and not isinstance(index.source, nodes.Range)
    uncounted = index.drawn and not isinstance(source, ir.Sample) and not isinstance(source.type, Unknown)
    if item is None or endless or uncounted:
        checker.report(_no_source(index, source))
        return Unknown("error")
    if not index.drawn and isinstance(source.type, ListType):
        checker.lists.add(index.name)
    return item


def check_source(checker: Checker, place: Place, index: nodes.Index) -> ir.Expr:
    """What an index runs over; `S[N]` draws N of S, one at a time."""
    node = index.source
    if not index.drawn or not isinstance(node, nodes.Subscript) or len(node.items) != 1:
        return check_expr(checker, place, node)
    base = check_expr(checker, place, node.base)
    if not isinstance(base.type, Stream | Records | ListType | Unknown):
        return base
    count = check_expr(checker, Place(None), node.items[0])
    check_count(checker, node, base.type, count)
    return ir.Sample(span=node.span, type=base.type, source=base, count=count, axes=base.axes, reads=base.reads)


def _no_source(index: nodes.Index, source: ir.Expr) -> Diagnostic:
    name, text = index.name, source.span.text
    if index.drawn and isinstance(source.type, Stream | Records | ListType):
        message = f"`each {name} ~ {index.source.span.text}` does not say how many to draw"
        return Diagnostic("B311", message, index.source.span, fix=f"each {name} ~ {text}[32]")
    if isinstance(source.type, Stream):
        message = f"`{text}` is endless, so `in` cannot take every element"
        return Diagnostic("B311", message, index.source.span, fix=f"each {name} ~ {text}[32]")
    return Diagnostic(
        "B311",
        f"`{text}` is {source.type}, which an index cannot run over",
        index.source.span,
        fix=f"each {name} ~ source[n] draws n items; each {name} in list takes every element",
    )


def _draw_type(checker: Checker, place: Place, name: str, source: nodes.Expr) -> Type:
    if _by_itself(checker, name, source):
        return Unknown("error")
    drawn = check_expr(checker, place, source)
    match drawn.type:
        case Stream(item):
            return item
        case Records() | Record() | Unknown():
            return drawn.type
        case _ if isinstance(drawn, ir.Sample):
            return drawn.type
    message = f"`{source.span.text}` is {drawn.type}, and cannot be drawn from"
    checker.report(Diagnostic("B311", message, source.span, fix="a source with a number of draws, as data.train[128]"))
    return Unknown("error")


def _by_itself(checker: Checker, name: str, source: nodes.Node) -> bool:
    """B210 for `b ~ b.x[3]`."""
    again = next((n for n in walk(source) if isinstance(n, nodes.Name) and n.identifier == name), None)
    if again is None:
        return False
    message = f"`{name}` is drawn from itself"
    checker.report(Diagnostic("B210", message, again.span, fix="another name for one of the two"))
    return True


# ---- variables -----------------------------------------------------------------------------------------------


def check_variable(checker: Checker, place: Place, node: nodes.Variable) -> list[ir.Variable]:
    """The variables of one statement."""
    domain, arguments = (None, ()) if node.domain is None else _domain(checker, node.domain)
    start = None if node.start is None else check_expr(checker, place, node.start)
    if start is not None:
        _check_counter(checker, place, start)
    sizes = _given_sizes(checker, place, node.type)
    found: list[ir.Variable] = []
    for name in node.names:
        type_ = checker.types.get((place.level, name), Unknown())
        if start is not None:
            _check_start(checker, node, type_, start)
        elif isinstance(type_, Array) or (isinstance(type_, Tree) and type_.kind != "params"):
            checker.report(_no_start(node, name))
        found.append(ir.Variable(name, type_, domain, arguments, start, node.span, sizes=sizes))
    return found


def _check_counter(checker: Checker, place: Place, start: ir.Expr) -> None:
    """B202 for the number of a step in the start of the very level whose steps it counts."""
    for read in ir.walk(start):
        symbol = checker.scope.look(place.level, read.name) if isinstance(read, ir.Read) else None
        if symbol is not None and symbol.kind == "counter" and symbol.level == place.level:
            message = f"`{symbol.name}` is out of sight in a start of level `{place.level}`"
            related = (Related(symbol.span, f"`{symbol.name}` counts the steps"),)
            why = f"a start is there before the first step; `{symbol.name}` is in sight in the objective, `by`, draws and lets"
            fix = "the number of the first step itself"
            checker.report(Diagnostic("B202", message, read.span, "used here, in a start", related, why=why, fix=fix))


def _domain(checker: Checker, node: nodes.Domain) -> tuple[str | None, tuple[float, ...]]:
    if node.name not in DOMAINS:
        checker.report(_no_domain(node))
        return None, ()
    values = tuple(constant(a, checker.constants) for a in node.arguments)
    if len(values) != DOMAINS[node.name] or None in values:
        count = DOMAINS[node.name]
        message = f"`{node.name}` takes {'two numbers' if count else 'no arguments'}"
        fix = f"{node.name}(0, 1)" if count else node.name
        checker.report(Diagnostic("B309", message, node.span, fix=fix))
        return None, ()
    numbers = tuple(float(v) for v in values if v is not None)
    if node.name == "between" and not numbers[0] < numbers[1]:
        message = f"`{node.span.text}` is empty: the lower end comes first"
        checker.report(Diagnostic("B309", message, node.span, fix="between(0, 1)"))
    return node.name, numbers


def _no_domain(node: nodes.Domain) -> Diagnostic:
    guess = nearest(node.name, DOMAINS)
    span = name_span(node, node.name)
    return Diagnostic(
        "B310",
        f"`{node.name}` is not a domain",
        span,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"in {guess}" if guess else "",
        note=f"domains: {', '.join(DOMAINS)}",
        edit=Edit(span, guess) if guess else None,
    )


def _no_start(node: nodes.Variable, name: str) -> Diagnostic:
    what = f"`{node.type.kind}`" if isinstance(node.type, nodes.TreeType) else "a `real`"
    return Diagnostic(
        "B216",
        f"`{name}` has no start",
        name_span(node, name),
        why=f"params(net) starts from init(net) by itself; {what} has no such rule",
        fix=f"{node.span.text} from {_example(node)}",
    )


def _example(node: nodes.Variable) -> str:
    """A start that fits: factors that are all zero have no derivative."""
    factored = isinstance(node.type, nodes.TreeType) and node.type.kind in ("factors", "kron")
    return "normal(0, 0.1)" if factored else "1" if node.domain is not None else "0"


def _check_start(checker: Checker, node: nodes.Variable, type_: Type, start: ir.Expr) -> None:
    given = start.type.item if isinstance(start.type, Stream) else start.type
    if isinstance(type_, Unknown) or isinstance(given, Unknown) or shapes.is_number(given):
        return  # one number stands for every entry
    if isinstance(given, Tree | Union) and isinstance(type_, Tree):
        if isinstance(given, Tree) and not isinstance(start.type, Stream) and given.count != type_.count:
            checker.report(_other_count(node, type_, given, start))
        return  # trees are compared once the networks are built (B305)
    if isinstance(given, Array) and isinstance(type_, Array):
        try:
            shapes.combine(type_, given, checker.sizes)
        except shapes.Mismatch:
            pass
        else:
            return
    names = ", ".join(node.names)
    related = (Related(node.type.span, str(type_)),)
    message = f"`{names}` is {type_} and cannot start from {given}"
    checker.report(Diagnostic("B303", message, start.span, str(given), related, fix=_start_fix(type_)))


def _other_count(node: nodes.Variable, type_: Tree, given: Tree, start: ir.Expr) -> Diagnostic:
    names = ", ".join(node.names)
    message = f"`{names}` is {type_} and cannot start from {given}"
    related = (Related(node.type.span, str(type_)),)
    fix = f"from {start.span.text}[0]" if given.count and not type_.count else f"from init({type_.net})"
    return Diagnostic("B303", message, start.span, str(given), related, fix=fix)


def _start_fix(type_: Type) -> str:
    return f"from init({type_.net})" if isinstance(type_, Tree) else "from 0"
