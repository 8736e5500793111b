"""Expressions: from syntax to checked expressions with type, copies, dependence and smoothness.

Takes syntax and the level it stands in; gives `ir.Expr`. Lets are instantiated at every call, because their type
depends on the arguments. Reports B201-B203, B206-B208, B303, B307-B309; a part that is in error becomes Unknown, so
that one mistake gives one message.
"""

from __future__ import annotations

from dataclasses import replace

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.context import Checker, Place, joined, size_of, unknown
from bilevel.dsl.datatypes import (
    Array,
    Function,
    ListType,
    Model,
    Record,
    Records,
    Stream,
    Text,
    Tree,
    Type,
    Union,
    Unknown,
)
from bilevel.dsl.functions import FUNCTIONS, Signature
from bilevel.dsl.lets import as_parameter, can_unfold, free_names
from bilevel.dsl.mismatch import blame, check_count, mismatched
from bilevel.dsl.nearest import nearest
from bilevel.dsl.networks import apply_network, named_output
from bilevel.dsl.positions import position
from bilevel.dsl.scope import Symbol
from bilevel.dsl.unseen import not_found
from bilevel.errors import Diagnostic, Related, Span
from bilevel.ir import Smoothness

SMOOTHNESS = {"smooth": Smoothness.SMOOTH, "piecewise": Smoothness.PIECEWISE, "flat": Smoothness.FLAT}


def check_expr(checker: Checker, place: Place, node: nodes.Node) -> ir.Expr:
    """The checked form of an expression."""
    match node:
        case nodes.Number():
            type_ = Array((), "integer") if isinstance(node.value, int) else Array()
            return ir.Constant(span=node.span, type=type_, value=node.value)
        case nodes.String(value):
            return ir.Constant(span=node.span, type=Text(), value=value)
        case nodes.Name():
            return _name(checker, place, node)
        case nodes.Negate(operand):
            inner = check_expr(checker, place, operand)
            return joined(ir.Operate(span=node.span, type=inner.type, operator="neg", operands=(inner,)), (inner,))
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


# ---- names ---------------------------------------------------------------------------------------------------


def _name(checker: Checker, place: Place, node: nodes.Name) -> ir.Expr:
    name = node.identifier
    if name in place.bound:
        return replace(place.bound[name], span=node.span)
    symbol = checker.scope.look(place.level, name)
    if symbol is None:
        _no_symbol(checker, place, node)
        return unknown(node.span)
    checker.used.add((symbol.level, name))
    if symbol.kind == "let":
        return _call_let(checker, place, symbol, (), node.span)
    return _read(checker, place, symbol, node.span)


def _no_symbol(checker: Checker, place: Place, node: nodes.Name) -> None:
    name = node.identifier
    if name in FUNCTIONS or name == "grad":
        checker.report(_bare_function(node))
    elif name not in checker.scope.excused and (place.level, name) not in checker.missing:
        checker.missing.add((place.level, name))
        checker.report(not_found(checker.scope, place.level, name, node.span, frozenset(place.bound)))


def _bare_function(node: nodes.Name) -> Diagnostic:
    name = node.identifier
    used = "grad(f)(a, ...)" if name == "grad" else f"{name}(...)"
    return Diagnostic("B207", f"`{name}` is a function, and stands here without arguments", node.span, fix=used)


def _read(checker: Checker, place: Place, symbol: Symbol, span: Span) -> ir.Expr:
    type_ = place.replaced.get(symbol.name) or checker.types.get((symbol.level, symbol.name), Unknown())
    # A derivative passes to variables, and not through draws; an index over a stream of trees is a draw too.
    carries = symbol.kind == "variable"
    return ir.Read(
        span=span,
        type=type_,
        name=symbol.name,
        axes=checker.scope.axes(symbol, place.level),
        reads=frozenset({symbol.name}),
        depends=frozenset({symbol.name}) if carries else frozenset(),
    )


def _several(node: nodes.Node, items: tuple[ir.Expr, ...]) -> ir.Expr:
    types = tuple(i.type for i in items)
    trees = tuple(m for t in types for m in (t.members if isinstance(t, Union) else (t,)) if isinstance(m, Tree))
    type_: Type = Union(trees) if items and len(trees) >= len(items) else ListType(types)
    if items and all(shapes.is_number(t) for t in types):
        type_ = Array((len(items),), "real")
    return joined(ir.Several(span=node.span, type=type_, items=items), items)


# ---- operators -----------------------------------------------------------------------------------------------


def _binary(checker: Checker, place: Place, node: nodes.Binary) -> ir.Expr:
    left, right = check_expr(checker, place, node.left), check_expr(checker, place, node.right)
    if node.operator in "+-" and isinstance(node.right, nodes.Number) and isinstance(left.type, Tree):
        if isinstance(node.left, nodes.Iterate):
            checker.report(_tree_plus_number(node))
    type_ = _combined(checker, node.span, f" {node.operator} ", left, right)
    return joined(ir.Operate(span=node.span, type=type_, operator=node.operator, operands=(left, right)), (left, right))


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
        blame(checker, (left, right))
        return Unknown("error")


def _attribute(checker: Checker, place: Place, node: nodes.Attribute) -> ir.Expr:
    base = check_expr(checker, place, node.base)
    type_ = shapes.field_of(base.type, node.name)
    if isinstance(base.type, Model):
        type_ = named_output(base.type, node.name)
    if type_ is None:
        checker.report(_no_field(base, node))
        type_ = Unknown("error")
    return joined(ir.Field(span=node.span, type=type_, base=base, name=node.name), (base,))


def _no_field(base: ir.Expr, node: nodes.Attribute) -> Diagnostic:
    known: list[str] = []
    match base.type:
        case Record(fields) | Records(_, Record(fields)):
            known = [name for name, _ in fields]
        case Model(outputs=outputs):
            return _no_output(base, node, [name for name, _ in outputs or ()])
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


def _no_output(base: ir.Expr, node: nodes.Attribute, known: list[str]) -> Diagnostic:
    """A network has outputs in place of fields."""
    name, guess = base.span.text, nearest(node.name, known)
    return Diagnostic(
        "B206",
        f"`{name}` has no output `{node.name}`",
        Span(node.span.source, node.span.end - len(node.name), node.span.end),
        f"did you mean `{guess}`?" if guess else "",
        why="a network has the outputs that its registration names, beside its own: net[w](x)",
        fix=f"{name}.{guess}" if guess else "",
        note=f"its outputs: {', '.join(known)}" if known else f"`{name}` names none: @bilevel.model(outputs = ...)",
    )


# ---- brackets ------------------------------------------------------------------------------------------------


def _subscript(checker: Checker, place: Place, node: nodes.Subscript) -> ir.Expr:
    base = check_expr(checker, place, node.base)
    items = tuple(check_expr(checker, place, item) for item in node.items)
    if isinstance(base.type, Stream | Records):
        return sampled(checker, node, base)
    if isinstance(base.type, Array | Tree):
        items = tuple(position(checker, place, item) for item in items)
    if isinstance(base.type, Model | Function):
        return joined(ir.Item(span=node.span, type=base.type, base=base, items=items), (base, *items))
    type_ = shapes.subscripted(base.type, tuple(i.type for i in items))
    if type_ is None:
        reason = "has no axis to subscript" if isinstance(base.type, Array) else "cannot be subscripted"
        problem = Diagnostic("B303", f"{base.type} {reason}", node.span, str(base.type))
        checker.report(problem)
        type_ = Unknown("error")
    return joined(ir.Item(span=node.span, type=type_, base=base, items=items), (base, *items))


def sampled(checker: Checker, node: nodes.Subscript, base: ir.Expr) -> ir.Expr:
    """`source[n]`: n fresh draws."""
    counts = tuple(size_of(checker, item) for item in node.items)
    type_ = shapes.drawn(base.type, counts)
    place = Place(None)
    count = check_expr(checker, place, node.items[0]) if len(node.items) == 1 else None
    if type_ is None:
        checker.report(Diagnostic("B303", f"{base.type} is drawn with one number, not {len(counts)}", node.span))
        type_ = Unknown("error")
    check_count(checker, node, base.type, count)
    return ir.Sample(span=node.span, type=type_, source=base, count=count, axes=base.axes, reads=base.reads)


# ---- calls ---------------------------------------------------------------------------------------------------


def _call(checker: Checker, place: Place, node: nodes.Call) -> ir.Expr:
    function = node.function
    if isinstance(function, nodes.Call) and isinstance(function.function, nodes.Name):
        if function.function.identifier == "grad":
            return _gradient(checker, place, node, function)
    if isinstance(function, nodes.Name) and function.identifier not in place.bound:
        if function.identifier == "grad" and checker.scope.look(place.level, "grad") is None:
            checker.report(_wrong_grad(node))
            return unknown(node.span)
        symbol = checker.scope.look(place.level, function.identifier)
        if symbol is not None and symbol.kind == "let":
            checker.used.add((symbol.level, symbol.name))
            arguments = _positional(checker, place, node, symbol)
            return unknown(node.span) if arguments is None else _call_let(checker, place, symbol, arguments, node.span)
        if symbol is None and function.identifier in FUNCTIONS:
            return _builtin(checker, place, node, FUNCTIONS[function.identifier])
    return _apply(checker, place, node)


def _apply(checker: Checker, place: Place, node: nodes.Call) -> ir.Expr:
    """A network with its parameters, or a registered function."""
    function = check_expr(checker, place, node.function)
    arguments = _positional(checker, place, node, None)
    if arguments is None:
        return unknown(node.span)
    if isinstance(function.type, Model):
        return apply_network(checker, node, function, arguments)
    if not isinstance(function.type, Function | Unknown):
        name = node.function.span.text
        what = f"`{name}` is {function.type}, and cannot be called"
        fix = f"{name} * (...)" if shapes.is_number(function.type) else ""
        checker.report(Diagnostic("B207", what, node.function.span, "not a function", fix=fix))
        return unknown(node.span)
    result = function.type.result if isinstance(function.type, Function) else Unknown()
    parts = (function, *arguments)
    call = joined(ir.CallPart(span=node.span, type=result, function=function, arguments=arguments), parts)
    if isinstance(function.type, Function) and not function.type.smooth and call.depends:
        call = replace(call, smooth=Smoothness.FLAT)
    return call


def _positional(checker: Checker, place: Place, node: nodes.Call, let: Symbol | None) -> tuple[ir.Expr, ...] | None:
    """The arguments of a let, a network or a registered function; None where they have names, which is an error."""
    if any(a.name is not None for a in node.arguments):
        checker.report(_named_arguments(node, let))
        return None
    return tuple(check_expr(checker, place, a.value) for a in node.arguments)


def _named_arguments(node: nodes.Call, let: Symbol | None) -> Diagnostic:
    named = next(a for a in node.arguments if a.name is not None)
    order = (let.node.parameters or ()) if let is not None and isinstance(let.node, nodes.Let) else ()
    values = {a.name: a.value.span.text for a in node.arguments}
    ordered = [values[n] for n in order] if set(order) == set(values) else [a.value.span.text for a in node.arguments]
    return Diagnostic(
        "B309",
        f"arguments of `{node.function.span.text}` have no names",
        named.span,
        why="only solvers, modes and the constructors after `use` name their arguments",
        fix=f"{node.function.span.text}({', '.join(ordered)})",
    )


def _call_let(checker: Checker, place: Place, symbol: Symbol, arguments: tuple[ir.Expr, ...], span: Span) -> ir.Expr:
    let = symbol.node
    assert isinstance(let, nodes.Let)
    checker.calls += 1
    wanted = let.parameters or ()
    if not can_unfold(checker, place, let, len(arguments), span):
        return unknown(span)
    pairs = zip(wanted, arguments, strict=True)
    bound = {name: replace(as_parameter(name, argument), span=let.span) for name, argument in pairs}
    inside = Place(symbol.level, bound, place.replaced, (*place.lets, let.name))
    body = check_expr(checker, inside, let.body)
    free = tuple(sorted(free_names(body, frozenset(wanted))))
    call = ir.CallLet(
        span=span, type=body.type, name=let.name, parameters=wanted, arguments=arguments, body=body, free=free
    )
    return replace(call, axes=body.axes, reads=body.reads, depends=body.depends, smooth=body.smooth)


def _wrong_grad(node: nodes.Call) -> Diagnostic:
    why = "grad(f) is a function; its value has the shape of a, the first argument"
    fix = "with  let f(w, d) = ...   grad(f)(w, b)"
    return Diagnostic("B309", "`grad` is used as grad(f)(a, ...)", node.span, why=why, fix=fix)


def _gradient(checker: Checker, place: Place, node: nodes.Call, grad: nodes.Call) -> ir.Expr:
    """`grad(f)(a, ...)`: shaped like a, and depends on all that f's arguments depend on."""
    if len(grad.arguments) != 1 or not node.arguments:
        checker.report(_wrong_grad(node))
        return unknown(node.span)
    inner = nodes.Call(grad.arguments[0].value, node.arguments, span=node.span)
    call = _call(checker, place, inner)
    if not isinstance(call, ir.CallLet | ir.CallPart):
        message = f"`grad` needs a let or a registered function, not `{grad.arguments[0].value.span.text}`"
        checker.report(Diagnostic("B207", message, grad.arguments[0].value.span))
        return unknown(node.span)
    first = call.arguments[0]
    return joined(ir.GradientOf(span=node.span, type=first.type, call=call), (call,))


def _builtin(checker: Checker, place: Place, node: nodes.Call, signature: Signature) -> ir.Expr:
    named = next((a for a in node.arguments if a.name is not None), None)
    most = signature.most if signature.most is not None else len(node.arguments)
    if not signature.least <= len(node.arguments) <= most or (named is not None and signature.name != "pair"):
        checker.report(_wrong_arguments(node, signature))
        return unknown(node.span)
    arguments = tuple(check_expr(checker, place, a.value) for a in node.arguments)
    type_ = _builtin_type(checker, node, signature, arguments)
    call = joined(ir.Builtin(span=node.span, type=type_, function=signature.name, arguments=arguments), arguments)
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


def _builtin_type(checker: Checker, node: nodes.Call, signature: Signature, arguments: tuple[ir.Expr, ...]) -> Type:
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
    if not isinstance(base, ir.Read) or not base.depends or base.name in place.bound:
        if not isinstance(base.type, Unknown):
            checker.report(_no_iterates(node, isinstance(base, ir.Read) and base.name in place.bound))
        return unknown(node.span)
    expression = ir.IterateOf(span=node.span, type=base.type, name=base.name, at=at)
    whole = replace(joined(expression, (base, at)), smooth=base.smooth)
    if isinstance(at, ir.Constant) and at.value == 0 and not _start_depends(checker, place, base.name):
        return replace(whole, depends=frozenset())
    return whole


def _start_depends(checker: Checker, place: Place, name: str) -> bool:
    """Whether a derivative can pass through the start of a variable."""
    symbol = checker.scope.look(place.level, name)
    if symbol is None or not isinstance(symbol.node, nodes.Variable) or symbol.node.start is None:
        return False
    return bool(check_expr(checker, Place(symbol.level), symbol.node.start).depends)


def _no_iterates(node: nodes.Iterate, is_argument: bool) -> Diagnostic:
    base = node.base.span.text
    if is_argument:
        message = f"`{base}` is an argument here, and has no iterates"
        return Diagnostic(
            "B308", message, node.base.span, fix=f"give the iterate to the let: f(w{node.span.text[len(base) :]})"
        )
    message = f"`{base}` is not solved by a level, so it has no iterates"
    why = "`x@k` is the variable x of a level after k steps of it"
    return Diagnostic("B308", message, node.base.span, why=why, fix=f"`{base}` alone")


def _reduce(checker: Checker, place: Place, node: nodes.Reduce) -> ir.Expr:
    bound: dict[str, ir.Expr] = {}
    binders: list[ir.Binder] = []
    for binder in node.binders:
        binders.append(_binder(checker, place, binder, bound))
    body = check_expr(checker, place.binding(bound), node.body)
    closed = {b.name for b in binders if b.source is None}
    expression = ir.Reduced(span=node.span, type=body.type, kind=node.kind, binders=tuple(binders), body=body)
    sources = tuple(b.source for b in binders if b.source is not None)
    whole = joined(expression, (body, *sources))
    smooth = max(whole.smooth, Smoothness.PIECEWISE) if node.kind in ("max", "min", "worst") else whole.smooth
    return replace(whole, axes=tuple(a for a in whole.axes if a not in closed), smooth=smooth)


def _binder(checker: Checker, place: Place, binder: nodes.Binder, bound: dict[str, ir.Expr]) -> ir.Binder:
    """Open an index of the reducer's own, or find the open one it closes."""
    if binder.source is not None:
        source = check_expr(checker, place, binder.source)
        item = shapes.one_of(source.type) or Unknown()
        read = ir.Read(span=binder.span, type=item, name=binder.name)
        bound[binder.name] = replace(read, axes=source.axes, reads=source.reads, depends=source.depends)
        if isinstance(source.type, ListType):
            name = ir.place_of(binder.name)
            bound[name] = ir.Read(span=binder.span, type=Array((), "integer"), name=name, axes=source.axes)
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
        why="a reducer with [ ] closes an index that `each` opened, or opens its own: sum[k in 1..5]",
        fix="mean(...), without brackets, for the mean over a batch",
    )
