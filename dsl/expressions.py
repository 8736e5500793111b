"""Expressions: from syntax to checked expressions with type, copies, dependence and smoothness.

Takes syntax and the level it stands in; gives `ir.Expr`. Lets are instantiated at every call, because their type
depends on the arguments. Reports B201, B206-B210, B303, B306, B309; a part that is in error becomes Unknown, so that
one mistake gives one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.functions import FUNCTIONS, Signature
from bilevel.dsl.scope import Scope, Symbol, not_found
from bilevel.dsl.types import (
    UNKNOWN_SIZE,
    Array,
    Function,
    ListType,
    Model,
    Record,
    Records,
    Size,
    Stream,
    Text,
    Tree,
    Type,
    Union,
    Unknown,
)
from bilevel.errors import Diagnostic, Related, Span
from bilevel.ir import Smoothness
from bilevel.dsl.nearest import nearest

LARGEST_PROGRAM = 20_000
"""lets called by lets can double at every step; beyond this many calls the recipe is refused"""
E = TypeVar("E", bound=ir.Expr)
SMOOTHNESS = {"smooth": Smoothness.SMOOTH, "piecewise": Smoothness.PIECEWISE, "flat": Smoothness.FLAT}


@dataclass(slots=True)
class Checker:
    """What the checking of one recipe knows and has found so far."""

    scope: Scope
    types: dict[tuple[str | None, str], Type] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    constants: dict[str, int | float] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    used: set[tuple[str | None, str]] = field(default_factory=set)
    calls: int = 0

    def report(self, diagnostic: Diagnostic) -> None:
        """Keep a message once, however often a let around it is instantiated."""
        if all(d.code != diagnostic.code or d.span != diagnostic.span for d in self.problems):
            self.problems.append(diagnostic)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands: its level, and names bound by lets and reducers around it."""

    level: str | None
    bound: Mapping[str, ir.Expr] = field(default_factory=dict)
    replaced: Mapping[str, Type] = field(default_factory=dict)
    lets: tuple[str, ...] = ()

    def binding(self, more: Mapping[str, ir.Expr]) -> Place:
        return replace(self, bound={**self.bound, **more})


def check_expr(checker: Checker, place: Place, node: nodes.Node) -> ir.Expr:
    """The checked form of an expression."""
    match node:
        case nodes.Number():
            element = "integer" if isinstance(node.value, int) else "real"
            return ir.Constant(span=node.span, type=Array((), element), value=node.value)
        case nodes.String(value):
            return ir.Constant(span=node.span, type=Text(), value=value)
        case nodes.Name():
            return _name(checker, place, node)
        case nodes.Negate(operand):
            inner = check_expr(checker, place, operand)
            return _joined(ir.Operate(span=node.span, type=inner.type, operator="neg", operands=(inner,)), (inner,))
        case nodes.Binary():
            return _binary(checker, place, node)
        case nodes.Attribute():
            return _attribute(checker, place, node)
        case nodes.Subscript():
            return _subscript(checker, place, node)
        case nodes.Call():
            return _call(checker, place, node)
        case nodes.Iterate():
            return _iterate(checker, place, node)
        case nodes.Reduce():
            return _reduce(checker, place, node)
        case nodes.ListOf(items):
            return _several(node, tuple(check_expr(checker, place, item) for item in items))
        case nodes.Range(low, high):
            ends = (check_expr(checker, place, low), check_expr(checker, place, high))
            return ir.Counting(span=node.span, type=Stream(Array((), "integer")), low=ends[0], high=ends[1])
    raise TypeError(f"not an expression: {node!r}")


def ordered_axes(expressions: Iterable[ir.Expr]) -> tuple[str, ...]:
    """The axes of several expressions together, in the order in which they are first met, longest first."""
    axes: list[str] = []
    for expression in sorted(expressions, key=lambda e: -len(e.axes)):
        axes += [a for a in expression.axes if a not in axes]
    return tuple(axes)


def joined_smoothness(parts: Iterable[ir.Expr]) -> Smoothness:
    """A flat part beside one that has a derivative does not matter; parts that depend on nothing never do."""
    kinds = [p.smooth for p in parts if p.depends]
    if not kinds:
        return Smoothness.SMOOTH
    live = [k for k in kinds if k is not Smoothness.FLAT]
    return max(live) if live else Smoothness.FLAT


def _joined(expression: E, parts: tuple[ir.Expr, ...]) -> E:
    """The expression with axes, reads, dependence and smoothness gathered from its parts."""
    return replace(
        expression,
        axes=ordered_axes(parts),
        reads=frozenset().union(*(p.reads for p in parts)),
        depends=frozenset().union(*(p.depends for p in parts)),
        smooth=joined_smoothness(parts),
    )


def unknown(span: Span) -> ir.Expr:
    """What stands for an expression in error."""
    return ir.Constant(span=span, type=Unknown("error"), value=0)


# ---- names ---------------------------------------------------------------------------------------------------


def _name(checker: Checker, place: Place, node: nodes.Name) -> ir.Expr:
    name = node.identifier
    if name in place.bound:
        return replace(place.bound[name], span=node.span)
    symbol = checker.scope.look(place.level, name)
    if symbol is None:
        local = frozenset(place.bound)
        checker.report(not_found(checker.scope, place.level, name, node.span, local))
        return unknown(node.span)
    checker.used.add((symbol.level, name))
    if symbol.kind == "let":
        return _call_let(checker, place, symbol, (), node.span)
    return _read(checker, place, symbol, node.span)


def _read(checker: Checker, place: Place, symbol: Symbol, span: Span) -> ir.Expr:
    type_ = place.replaced.get(symbol.name) or checker.types.get((symbol.level, symbol.name), Unknown())
    # A derivative passes to variables, and not through draws; an index over a stream of trees is a draw too.
    carries = symbol.kind == "variable"
    return ir.Read(
        span=span,
        type=type_,
        name=symbol.name,
        axes=checker.scope.axes(symbol),
        reads=frozenset({symbol.name}),
        depends=frozenset({symbol.name}) if carries else frozenset(),
    )


def _several(node: nodes.Node, items: tuple[ir.Expr, ...]) -> ir.Expr:
    types = tuple(i.type for i in items)
    trees = tuple(m for t in types for m in (t.members if isinstance(t, Union) else (t,)) if isinstance(m, Tree))
    type_: Type = Union(trees) if items and len(trees) >= len(items) else ListType(types)
    if items and all(shapes.is_number(t) for t in types):
        type_ = Array((len(items),), "real")
    return _joined(ir.Several(span=node.span, type=type_, items=items), items)


# ---- operators -----------------------------------------------------------------------------------------------


def _binary(checker: Checker, place: Place, node: nodes.Binary) -> ir.Expr:
    left, right = check_expr(checker, place, node.left), check_expr(checker, place, node.right)
    if node.operator in "+-" and isinstance(node.right, nodes.Number) and isinstance(left.type, Tree):
        if isinstance(node.left, nodes.Iterate):
            checker.report(_tree_plus_number(node))
    type_ = _combined(checker, node.span, f" {node.operator} ", left, right)
    return _joined(ir.Operate(span=node.span, type=type_, operator=node.operator, operands=(left, right)), (left, right))


def _tree_plus_number(node: nodes.Binary) -> Diagnostic:
    assert isinstance(node.left, nodes.Iterate)
    base, at = node.left.base.span.text, node.left.at.span.text
    spelled = f"{base}@{at} {node.operator} {node.right.span.text}"
    return Diagnostic(
        "B307",
        f"number plus parameter tree: `{node.span.text}` reads ({base}@{at}) {node.operator} {node.right.span.text}",
        node.span,
        f"`@` takes the next name or number only: {spelled}",
        fix=f"{base}@({at}{node.operator}{node.right.span.text})",
    )


def _combined(checker: Checker, span: Span, sign: str, left: ir.Expr, right: ir.Expr) -> Type:
    try:
        return shapes.combine(left.type, right.type, checker.sizes)
    except shapes.Mismatch as mismatch:
        checker.report(mismatched(checker, mismatch, sign, span, (left, right)))
        return Unknown("error")


def mismatched(
    checker: Checker, mismatch: shapes.Mismatch, sign: str, span: Span, operands: tuple[ir.Expr, ...] = ()
) -> Diagnostic:
    """B303, with the places where the sizes of both sides come from."""
    left, right = str(mismatch.left), str(mismatch.right)
    message = f"shapes do not match: {left}{sign}{right}" if mismatch.right else f"{left} {mismatch.reason}"
    spelled = f"{with_values(mismatch.left, checker.sizes)}{sign}{with_values(mismatch.right, checker.sizes)}"
    related = [r for o in operands for r in _origins(checker, o)]
    why = "" if mismatch.right else f"this function {mismatch.reason}"
    return Diagnostic("B303", message, span, spelled if mismatch.right else left, tuple(related[:2]), why=why)


def with_values(type_: Type | None, sizes: Mapping[str, int]) -> str:
    """A type with the values of its named sizes: `real[n] (n = 128)`."""
    if not isinstance(type_, Array):
        return str(type_)
    names = [s for s in type_.shape if isinstance(s, str) and s in sizes]
    return f"{type_} ({', '.join(f'{n} = {sizes[n]}' for n in names)})" if names else str(type_)


def _origins(checker: Checker, operand: ir.Expr) -> list[Related]:
    """The declarations of the variables and draws that give an operand its shape."""
    found: list[Related] = []
    for part in ir.walk(operand):
        if isinstance(part, ir.Read) and isinstance(part.type, Array | Records) and not shapes.is_number(part.type):
            symbol = next((b.symbols[part.name] for b in checker.scope.blocks.values() if part.name in b.symbols), None)
            if symbol is not None and symbol.kind in ("variable", "draw"):
                found.append(Related(symbol.span, _size_label(part.type, checker.sizes)))
    return found


def _size_label(type_: Type, sizes: Mapping[str, int]) -> str:
    first = type_.length if isinstance(type_, Records) else type_.shape[0] if isinstance(type_, Array) else "?"
    if isinstance(first, str) and first in sizes:
        return f"{first} = {sizes[first]} here"
    return f"{first} fixed here"


def _attribute(checker: Checker, place: Place, node: nodes.Attribute) -> ir.Expr:
    base = check_expr(checker, place, node.base)
    type_ = shapes.field_of(base.type, node.name)
    if isinstance(base.type, Model):
        type_ = base.type  # a named output: `net.features`
    if type_ is None:
        checker.report(_no_field(base, node))
        type_ = Unknown("error")
    return _joined(ir.Field(span=node.span, type=type_, base=base, name=node.name), (base,))


def _no_field(base: ir.Expr, node: nodes.Attribute) -> Diagnostic:
    known: list[str] = []
    match base.type:
        case Record(fields) | Records(_, Record(fields)):
            known = [name for name, _ in fields]
    place = Span(node.span.source, node.span.end - len(node.name), node.span.end)
    guess = nearest(node.name, known)
    return Diagnostic(
        "B206",
        f"`{node.base.span.text}` has no field `{node.name}`",
        place,
        f"did you mean `{guess}`?" if guess else f"this is {base.type}",
        fix=f"{node.base.span.text}.{guess}" if guess else "",
        note=f"its fields: {', '.join(known)}" if known else "",
    )


# ---- brackets ------------------------------------------------------------------------------------------------


def _subscript(checker: Checker, place: Place, node: nodes.Subscript) -> ir.Expr:
    base = check_expr(checker, place, node.base)
    items = tuple(check_expr(checker, place, item) for item in node.items)
    if isinstance(base.type, Stream | Records):
        return sampled(checker, node, base)
    if isinstance(base.type, Model | Function):
        return _joined(ir.Item(span=node.span, type=base.type, base=base, items=items), (base, *items))
    type_ = shapes.subscripted(base.type, tuple(i.type for i in items))
    if type_ is None:
        reason = "has no axis to subscript" if isinstance(base.type, Array) else "cannot be subscripted"
        problem = Diagnostic("B303", f"{base.type} {reason}", node.span, str(base.type))
        checker.report(problem)
        type_ = Unknown("error")
    return _joined(ir.Item(span=node.span, type=type_, base=base, items=items), (base, *items))


def sampled(checker: Checker, node: nodes.Subscript, base: ir.Expr) -> ir.Expr:
    """`source[n]`: n fresh draws."""
    counts = tuple(size_of(checker, item) for item in node.items)
    type_ = shapes.drawn(base.type, counts)
    place = Place(None)
    count = check_expr(checker, place, node.items[0]) if len(node.items) == 1 else None
    if type_ is None:
        checker.report(Diagnostic("B303", f"{base.type} is drawn with one number, not {len(counts)}", node.span))
        type_ = Unknown("error")
    return ir.Sample(span=node.span, type=type_, source=base, count=count, axes=base.axes, reads=base.reads)


def size_of(checker: Checker, node: nodes.Node) -> Size:
    """The size an expression in brackets stands for: a number, a param, the length of a list, or unknown."""
    match node:
        case nodes.Number():
            return node.value if isinstance(node.value, int) else UNKNOWN_SIZE
        case nodes.Name(identifier):
            symbol = checker.scope.look(None, identifier)
            if symbol is None:
                return UNKNOWN_SIZE
            checker.used.add((None, identifier))
            known = checker.types.get((None, identifier))
            return len(known.items) if isinstance(known, ListType) else identifier
        case nodes.Binary("*", left, right):
            factors = (size_of(checker, left), size_of(checker, right))
            return UNKNOWN_SIZE if UNKNOWN_SIZE in factors else f"{factors[0]}*{factors[1]}"
    return UNKNOWN_SIZE


# ---- calls ---------------------------------------------------------------------------------------------------


def _call(checker: Checker, place: Place, node: nodes.Call) -> ir.Expr:
    function = node.function
    if isinstance(function, nodes.Call) and isinstance(function.function, nodes.Name):
        if function.function.identifier == "grad":
            return _gradient(checker, place, node, function)
    if isinstance(function, nodes.Name) and function.identifier not in place.bound:
        symbol = checker.scope.look(place.level, function.identifier)
        if symbol is not None and symbol.kind == "let":
            checker.used.add((symbol.level, symbol.name))
            arguments = tuple(check_expr(checker, place, a.value) for a in node.arguments)
            return _call_let(checker, place, symbol, arguments, node.span)
        if symbol is None and function.identifier in FUNCTIONS:
            return _builtin(checker, place, node, FUNCTIONS[function.identifier])
    return _apply(checker, place, node)


def _apply(checker: Checker, place: Place, node: nodes.Call) -> ir.Expr:
    """A network with its parameters, or a registered function."""
    function = check_expr(checker, place, node.function)
    arguments = tuple(check_expr(checker, place, a.value) for a in node.arguments)
    if isinstance(function.type, Model):
        return _network(checker, node, function, arguments)
    if not isinstance(function.type, Function | Unknown):
        what = f"`{node.function.span.text}` is {function.type}, and cannot be called"
        checker.report(Diagnostic("B207", what, node.function.span, "not a function"))
        return unknown(node.span)
    result = function.type.result if isinstance(function.type, Function) else Unknown()
    parts = (function, *arguments)
    call = _joined(ir.CallPart(span=node.span, type=result, function=function, arguments=arguments), parts)
    if isinstance(function.type, Function) and not function.type.smooth and call.depends:
        call = replace(call, smooth=Smoothness.FLAT)
    return call


def _network(checker: Checker, node: nodes.Call, function: ir.Expr, arguments: tuple[ir.Expr, ...]) -> ir.Expr:
    network, parameters, output = function, (), None
    if isinstance(network, ir.Item):
        network, parameters = network.base, network.items
    if isinstance(network, ir.Field) and isinstance(network.base.type, Model):
        network, output = network.base, network.name
    if len(arguments) != 1:
        message = f"`{function.span.text}` takes one input, not {len(arguments)}"
        checker.report(Diagnostic("B309", message, node.span))
        return unknown(node.span)
    model = function.type
    assert isinstance(model, Model)
    single = _is_single(checker, model, arguments[0].type)
    type_ = Unknown() if output else _output(model, arguments[0].type, single)
    applied = ir.Apply(
        span=node.span,
        type=type_,
        network=network,
        parameters=_flat(parameters),
        input=arguments[0],
        single=single,
        output=output,
    )
    return _joined(applied, (network, *parameters, arguments[0]))


def _flat(parameters: tuple[ir.Expr, ...]) -> tuple[ir.Expr, ...]:
    """Parameter groups with unions opened: `net[[a, b]]` is `net[a, b]`."""
    found: list[ir.Expr] = []
    for group in parameters:
        found.extend(group.items if isinstance(group, ir.Several) else (group,))
    return tuple(found)


def _is_single(checker: Checker, model: Model, given: Type) -> bool:
    """Whether the input is one sample: by rank, else by the number of entries (images given flat)."""
    if not isinstance(given, Array) or not given.ranked or model.input is None:
        return False
    if len(given.shape) == len(model.input) + 1:
        return False
    if len(given.shape) == len(model.input):
        return True
    return _product(given.shape, checker.sizes) == _product(model.input, checker.sizes) is not None


def _product(shape: tuple[Size, ...], sizes: Mapping[str, int]) -> int | None:
    product = 1
    for size in shape:
        value = shapes.value_of(size, sizes)
        if value is None:
            return None
        product *= value
    return product


def _output(model: Model, given: Type, single: bool) -> Type:
    if model.output is None or not isinstance(given, Array) or not given.ranked:
        return Array((), ranked=False)
    return Array(model.output if single else (*given.shape[:1], *model.output))


def _call_let(
    checker: Checker, place: Place, symbol: Symbol, arguments: tuple[ir.Expr, ...], span: Span
) -> ir.Expr:
    let = symbol.node
    assert isinstance(let, nodes.Let)
    checker.calls += 1
    wanted = let.parameters or ()
    problem = _let_problem(checker, place, let, len(arguments), span)
    if problem is not None:
        checker.report(problem)
        return unknown(span)
    bound = {
        name: replace(_parameter(name, argument), span=let.span) for name, argument in zip(wanted, arguments, strict=True)
    }
    inside = Place(symbol.level, bound, place.replaced, (*place.lets, let.name))
    body = check_expr(checker, inside, let.body)
    free = tuple(sorted(_free(body, frozenset(wanted))))
    call = ir.CallLet(
        span=span, type=body.type, name=let.name, parameters=wanted, arguments=arguments, body=body, free=free
    )
    return replace(call, axes=body.axes, reads=body.reads, depends=body.depends, smooth=body.smooth)


def _parameter(name: str, argument: ir.Expr) -> ir.Expr:
    """How the body of a let sees an argument: by the parameter's name, with all that is known of the argument."""
    return ir.Read(
        span=argument.span,
        type=argument.type,
        name=name,
        axes=argument.axes,
        reads=argument.reads,
        depends=argument.depends,
        smooth=argument.smooth,
    )


def _free(body: ir.Expr, bound: frozenset[str]) -> set[str]:
    """The names a let's body takes from around the let."""
    match body:
        case ir.Read(name=name) | ir.IterateOf(name=name):
            here = set() if name in bound else {name}
        case ir.CallLet():
            inner = {n for a in body.arguments for n in _free(a, bound)}
            return inner | (set(body.free) - bound)
        case ir.Reduced():
            bound = bound | {b.name for b in body.binders if b.source is not None}
            here = {b.name for b in body.binders if b.source is None} - bound
        case _:
            here = set()
    return here.union(*(_free(c, bound) for c in ir.children(body)))


def _let_problem(checker: Checker, place: Place, let: nodes.Let, given: int, span: Span) -> Diagnostic | None:
    wanted = len(let.parameters or ())
    if let.name in place.lets:
        return Diagnostic("B210", f"`{let.name}` is defined by itself", span, fix="a let is an abbreviation: unfold it")
    if checker.calls > LARGEST_PROGRAM:
        return Diagnostic("B211", f"the lets of this recipe unfold to more than {LARGEST_PROGRAM} calls", span)
    if given != wanted:
        parameters = f"({', '.join(let.parameters or ())})" if let.parameters else ", without arguments"
        return Diagnostic(
            "B309",
            f"`{let.name}` takes {wanted} argument{'s' * (wanted != 1)}, not {given}",
            span,
            related=(Related(let.span, f"defined here as {let.name}{parameters}"),),
        )
    return None


def _gradient(checker: Checker, place: Place, node: nodes.Call, grad: nodes.Call) -> ir.Expr:
    """`grad(f)(a, ...)`: shaped like a, and depends on all that f's arguments depend on."""
    if len(grad.arguments) != 1 or not node.arguments:
        checker.report(Diagnostic("B309", "`grad` is used as grad(f)(a, ...)", node.span))
        return unknown(node.span)
    inner = nodes.Call(grad.arguments[0].value, node.arguments, span=node.span)
    call = _call(checker, place, inner)
    if not isinstance(call, ir.CallLet | ir.CallPart):
        message = f"`grad` needs a let or a registered function, not `{grad.arguments[0].value.span.text}`"
        checker.report(Diagnostic("B207", message, grad.arguments[0].value.span))
        return unknown(node.span)
    first = call.arguments[0]
    return _joined(ir.GradientOf(span=node.span, type=first.type, call=call), (call,))


def _builtin(checker: Checker, place: Place, node: nodes.Call, signature: Signature) -> ir.Expr:
    named = next((a for a in node.arguments if a.name is not None), None)
    most = signature.most if signature.most is not None else len(node.arguments)
    if not signature.least <= len(node.arguments) <= most or (named is not None and signature.name != "pair"):
        checker.report(_wrong_arguments(node, signature))
        return unknown(node.span)
    arguments = tuple(check_expr(checker, place, a.value) for a in node.arguments)
    type_ = _builtin_type(checker, node, signature, arguments)
    call = _joined(ir.Builtin(span=node.span, type=type_, function=signature.name, arguments=arguments), arguments)
    if signature.name in ("stop", "warm"):
        return replace(call, depends=frozenset(), smooth=Smoothness.SMOOTH)
    own = SMOOTHNESS[signature.smooth]
    return replace(call, smooth=max(own, call.smooth) if call.depends else Smoothness.SMOOTH)


def _wrong_arguments(node: nodes.Call, signature: Signature) -> Diagnostic:
    wanted = str(signature.least) if signature.most == signature.least else f"{signature.least} or more"
    return Diagnostic(
        "B309",
        f"`{signature.name}` takes {wanted} argument{'s' * (wanted != '1')} without names, not {len(node.arguments)}",
        node.span,
        why=f"{signature.name}: {signature.summary}",
    )


def _builtin_type(
    checker: Checker, node: nodes.Call, signature: Signature, arguments: tuple[ir.Expr, ...]
) -> Type:
    match signature.rule:
        case "square":
            size = size_of(checker, node.arguments[0].value)
            return Array((size, size))
        case "arange":
            return Array((size_of(checker, node.arguments[0].value),), "integer")
        case "reshape":
            return Array(tuple(size_of(checker, a.value) for a in node.arguments[1:]))
        case "source":
            return _source_type(signature, arguments)
    try:
        return shapes.result_of(signature.rule, tuple(a.type for a in arguments), checker.sizes)
    except shapes.Mismatch as mismatch:
        checker.report(mismatched(checker, mismatch, ", ", node.span, arguments))
        return Unknown("error")


def _source_type(signature: Signature, arguments: tuple[ir.Expr, ...]) -> Type:
    if signature.name in ("init", "identity"):
        return Stream(Tree(arguments[0].span.text))
    return Stream(Array())


# ---- iterates and reducers -----------------------------------------------------------------------------------


def _iterate(checker: Checker, place: Place, node: nodes.Iterate) -> ir.Expr:
    base, at = check_expr(checker, place, node.base), check_expr(checker, place, node.at)
    if not isinstance(base, ir.Read) or not base.depends:
        if not isinstance(base.type, Unknown):
            message = f"`{node.base.span.text}` is not solved by a level, so it has no iterates"
            checker.report(Diagnostic("B308", message, node.base.span))
        return unknown(node.span)
    expression = ir.IterateOf(span=node.span, type=base.type, name=base.name, at=at)
    return replace(_joined(expression, (base, at)), smooth=base.smooth)


def _reduce(checker: Checker, place: Place, node: nodes.Reduce) -> ir.Expr:
    bound: dict[str, ir.Expr] = {}
    binders: list[ir.Binder] = []
    for binder in node.binders:
        binders.append(_binder(checker, place, binder, bound))
    body = check_expr(checker, place.binding(bound), node.body)
    closed = {b.name for b in binders if b.source is None}
    expression = ir.Reduced(span=node.span, type=body.type, kind=node.kind, binders=tuple(binders), body=body)
    sources = tuple(b.source for b in binders if b.source is not None)
    joined = _joined(expression, (body, *sources))
    smooth = max(joined.smooth, Smoothness.PIECEWISE) if node.kind in ("max", "min", "worst") else joined.smooth
    return replace(joined, axes=tuple(a for a in joined.axes if a not in closed), smooth=smooth)


def _binder(checker: Checker, place: Place, binder: nodes.Binder, bound: dict[str, ir.Expr]) -> ir.Binder:
    """Open an index of the reducer's own, or find the open one it closes."""
    if binder.source is not None:
        source = check_expr(checker, place, binder.source)
        item = shapes.one_of(source.type) or Unknown()
        bound[binder.name] = ir.Read(span=binder.span, type=item, name=binder.name)
        return ir.Binder(name=binder.name, source=source, span=binder.span)
    symbol = checker.scope.look(place.level, binder.name)
    if symbol is None or symbol.kind != "index":
        span = binder.span
        if symbol is None:
            checker.report(not_found(checker.scope, place.level, binder.name, span, frozenset(place.bound)))
        else:
            checker.report(_not_an_index(symbol, span))
    else:
        checker.used.add((symbol.level, symbol.name))
    return ir.Binder(name=binder.name, source=None, span=binder.span)


def _not_an_index(symbol: Symbol, span: Span) -> Diagnostic:
    return Diagnostic(
        "B208",
        f"`{symbol.name}` is a {symbol}, not an index",
        span,
        related=(Related(symbol.span, "declared here"),),
        fix=f"open an index with `each {symbol.name} ~ ...`, or reduce with {symbol.name} in ...",
    )
