"""The `use` and `param` lines: what Python provides, looked up in manifests, and named numbers.

Takes the top of a recipe and a manifest; fills the checker's types, sizes and constants. Reports B602, B309, B212.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker
from bilevel.dsl.datatypes import (
    Array,
    Function,
    ListType,
    Model,
    Record,
    Records,
    Size,
    Stream,
    Text,
    Type,
    Unknown,
)
from bilevel.dsl.nearest import nearest
from bilevel.errors import Diagnostic, Edit, Span
from bilevel.registry import Description, Manifest

ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}


def constant(node: nodes.Node, known: Mapping[str, int | float]) -> int | float | None:
    """The number an expression of numbers and params stands for, None where it is none."""
    match node:
        case nodes.Number():
            return node.value
        case nodes.Name(identifier):
            return known.get(identifier)
        case nodes.Negate(operand):
            inner = constant(operand, known)
            return None if inner is None else -inner
        case nodes.Binary(sign, left, right):
            a, b = constant(left, known), constant(right, known)
            if a is None or b is None or (sign == "/" and b == 0):
                return None
            value = ARITHMETIC[sign](a, b)
            whole = isinstance(a, int) and isinstance(b, int) and value == int(value) and sign != "/"
            return int(value) if whole else value
    return None


def check_params(checker: Checker) -> tuple[ir.Param, ...]:
    """Every `param` as a number (or a string)."""
    found: list[ir.Param] = []
    for item in checker.scope.recipe.items:
        if not isinstance(item, nodes.Param):
            continue
        value = item.value.value if isinstance(item.value, nodes.String) else constant(item.value, checker.constants)
        if value is None:
            checker.report(_not_constant(item))
            value = 1
        if isinstance(value, int | float):
            checker.constants[item.name] = value
            checker.types[(None, item.name)] = Array((), "integer" if isinstance(value, int) else "real")
        else:
            checker.types[(None, item.name)] = Text()
        if isinstance(value, int):
            checker.sizes[item.name] = value
        found.append(ir.Param(item.name, value, item.span))
    return tuple(found)


def _not_constant(item: nodes.Param) -> Diagnostic:
    return Diagnostic(
        "B212",
        f"`{item.name}` is not a number",
        item.value.span,
        "not known before the run",
        why="a param is a number, a string, or computed from params above it",
        fix=f"let {item.name} = {item.value.span.text}",
    )


def check_uses(checker: Checker, manifest: Manifest) -> tuple[ir.Use, ...]:
    """Every `use` with its description and type."""
    found: list[ir.Use] = []
    for item in checker.scope.recipe.items:
        if isinstance(item, nodes.Use):
            description, type_ = _use(checker, manifest, item)
            checker.types[(None, item.name)] = type_
            found.append(ir.Use(item.name, item.value, description, type_, item.span))
    return tuple(found)


def _use(checker: Checker, manifest: Manifest, item: nodes.Use) -> tuple[Description | None, Type]:
    if item.value is None:
        return None, _open_type(checker, item)
    return _value(checker, manifest, item.value, item.name)


def _open_type(checker: Checker, item: nodes.Use) -> Type:
    """What is known of a part that the caller gives: its kind or its shape."""
    match item.kind:
        case nodes.Name("model"):
            return Model(item.name, outputs=None)
        case nodes.RealType(sizes):
            return Array(tuple(_open_size(s) for s in sizes))
        case nodes.Name("func"):
            return Function(item.name, True, Unknown())
    return Unknown("open")


def _open_size(node: nodes.Node) -> Size:
    match node:
        case nodes.Number():
            return node.value if isinstance(node.value, int) else "?"
        case nodes.Name(identifier):
            return identifier
    return "?"


def _value(checker: Checker, manifest: Manifest, value: nodes.Expr, name: str) -> tuple[Description | None, Type]:
    match value:
        case nodes.ListOf(items):
            return None, ListType(tuple(_value(checker, manifest, i, name)[1] for i in items))
        case nodes.Call(nodes.Name("pair"), arguments):
            return None, _pair(checker, manifest, value, arguments, name)
        case nodes.Call(nodes.Name(called), arguments):
            return _constructed(checker, manifest, value, called, arguments, name)
        case nodes.Name(identifier):
            return None, _named(checker, manifest, value, identifier)
        case nodes.Number():
            return None, Array((), "integer" if isinstance(value.value, int) else "real")
        case nodes.String():
            return None, Text()
    return None, Unknown()


def _pair(
    checker: Checker, manifest: Manifest, value: nodes.Expr, arguments: tuple[nodes.Argument, ...], name: str
) -> Type:
    """`pair(net = ..., tasks = ...)`: several parts under one name, each a field of it."""
    unnamed = next((a for a in arguments if a.name is None), None)
    if unnamed is not None:
        why = "the parts of a pair are fields: p.net, p.tasks"
        fix = "pair(net = ..., tasks = ...)"
        checker.report(Diagnostic("B309", "a part of `pair` has no name", unnamed.span, why=why, fix=fix))
        return Unknown("error")
    if not arguments:
        message = "`pair` has no parts"
        checker.report(Diagnostic("B309", message, value.span, fix="pair(net = ..., tasks = ...)"))
        return Unknown("error")
    return Record(tuple((a.name or "", _value(checker, manifest, a.value, a.name or name)[1]) for a in arguments))


def _named(checker: Checker, manifest: Manifest, value: nodes.Name, identifier: str) -> Type:
    """A name alone: another use, a param, or a registered function."""
    known = checker.types.get((None, identifier))
    if known is not None:
        checker.used.add((None, identifier))
        return known
    description = manifest.entries.get(identifier)
    if description is None:
        checker.report(not_registered(identifier, value.span, manifest))
        return Unknown("error")
    return Function(identifier, description.smooth, description.yields)


def _constructed(
    checker: Checker,
    manifest: Manifest,
    value: nodes.Call,
    called: str,
    arguments: tuple[nodes.Argument, ...],
    name: str,
) -> tuple[Description | None, Type]:
    description = manifest.entries.get(called)
    if description is None:
        checker.report(not_registered(called, value.function.span, manifest, value))
        return None, Unknown("error")
    for argument in arguments:
        _check_argument(checker, manifest, argument.value, name)
    bound = bind_arguments(checker, description, arguments, value.span)
    type_ = _described(description, name, bound)
    if isinstance(type_, Model):
        type_ = replace(type_, noisy=_is_noisy(checker, description, arguments))
        type_ = _alike(type_, [_value(checker, manifest, a, name)[1] for a in _given(description, arguments, "like")])
    return description, type_


def _alike(model: Model, given: list[Type]) -> Model:
    """The network with shapes, named outputs and dropout of the one that it was made from, if any."""
    if len(given) != 1 or not isinstance(given[0], Model):
        return model
    source = given[0]
    return replace(model, input=source.input, output=source.output, outputs=source.outputs, noisy=source.noisy)


def _given(
    description: Description, arguments: tuple[nodes.Argument, ...], role: Literal["like", "noisy"]
) -> list[nodes.Expr]:
    """The argument that the registration names for `like` or `noisy`, if it was given."""
    places = [p.name for p in description.by_place]
    given = [(places[i] if i < len(places) else "", a) for i, a in enumerate(a for a in arguments if a.name is None)]
    given += [(a.name, a) for a in arguments if a.name is not None]
    return [a.value for name, a in given if name and name == getattr(description, role)]


def _is_noisy(checker: Checker, description: Description, arguments: tuple[nodes.Argument, ...]) -> bool:
    """Whether a network has dropout: by its registration, or by the argument that the registration names."""
    if isinstance(description.noisy, bool):
        return description.noisy
    return any(constant(value, checker.constants) != 0 for value in _given(description, arguments, "noisy"))


def _check_argument(checker: Checker, manifest: Manifest, value: nodes.Expr, name: str) -> None:
    """Arguments are data: numbers, strings, names of params and uses, constructors, lists of these."""
    match value:
        case nodes.Call() | nodes.ListOf() | nodes.Name():
            _value(checker, manifest, value, name)
        case nodes.Number() | nodes.String():
            return
        case _ if constant(value, checker.constants) is None:
            message = f"`{value.span.text}` is not data"
            why = "arguments of a part are numbers, strings, lists, params and other parts"
            checker.report(Diagnostic("B212", message, value.span, why=why))


def not_registered(called: str, span: Span, manifest: Manifest, call: nodes.Call | None = None) -> Diagnostic:
    """B602."""
    guess = nearest(called, manifest.entries)
    names = ", ".join(_parameter_names(call)) if call is not None else "..."
    define = f"register it:  @bilevel.model  def {called}({names}): ...   and run with  --with that_module"
    count = len(manifest.entries)
    return Diagnostic(
        "B602",
        f"nothing called `{called}` is registered",
        span,
        f"did you mean `{guess}`?" if guess else "",
        why=f"loaded registries: {manifest.name} ({count} names). Recipes cannot reach other Python names",
        fix=f"{_line_with(span, guess)}\nor {define}" if guess else define,
        edit=Edit(span, guess) if guess else None,
    )


def _line_with(span: Span, name: str) -> str:
    """The user's line, without its comment, with another name at the place of the message."""
    text = span.source.text
    line = text[text.rfind("\n", 0, span.start) + 1 : span.start] + name
    rest = text[span.end :].partition("\n")[0].partition("#")[0]
    return " ".join(f"{line}{rest}".split())


def _parameter_names(call: nodes.Call) -> list[str]:
    """Names for the parameters of a function that would take these arguments."""
    return [a.name or f"value_{place}" for place, a in enumerate(call.arguments, 1)]


def bind_arguments(
    checker: Checker, description: Description, arguments: tuple[nodes.Argument, ...], span: Span
) -> dict[str, int]:
    """The whole numbers among a constructor's arguments, by the name that sizes use for them."""
    values: dict[str, int] = {}
    for parameter in description.parameters:
        default = _literal(parameter.default)
        if isinstance(default, int) and not isinstance(default, bool):
            values[parameter.name] = default
    positional = [a for a in arguments if a.name is None]
    _check_names(checker, description, arguments, span)
    for place, argument in enumerate(positional):
        _bind_positional(checker, description, place, len(positional), argument, values)
    for argument in arguments:
        number = constant(argument.value, checker.constants)
        if argument.name is not None and isinstance(number, int):
            values[argument.name] = number
        elif argument.name is not None:
            values.pop(argument.name, None)
    return values


def _literal(text: str | None) -> object:
    try:
        return None if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _bind_positional(
    checker: Checker, description: Description, place: int, count: int, argument: nodes.Argument, values: dict[str, int]
) -> None:
    number = constant(argument.value, checker.constants)
    if not isinstance(number, int):
        return
    places = description.by_place
    many = next((p for p in description.parameters if p.variadic), None)
    if many is not None and place >= len(places):
        own = place - len(places)
        values[f"{many.name}:{own}"] = number
        values[f"{many.name}:{own - (count - len(places))}"] = number
    elif place < len(places):
        values[places[place].name] = number


def _check_names(checker: Checker, description: Description, arguments: tuple[nodes.Argument, ...], span: Span) -> None:
    """Every argument has a place, and every place that needs one has an argument."""
    known = [p.name for p in description.parameters if not p.variadic]
    unknown = [a for a in arguments if a.name is not None and a.name not in known]
    for argument in unknown:
        checker.report(_no_parameter(description, argument, known))
    variadic = any(p.variadic for p in description.parameters)
    positional = sum(a.name is None for a in arguments)
    named = {a.name for a in arguments}
    by_place = [p.name for p in description.by_place]
    needed = [p.name for p in description.parameters if p.default is None and not p.variadic]
    missing = [n for n in needed if n not in named and n not in by_place[:positional]]
    if positional > len(by_place) and not variadic:
        unnamed = " without a name" if len(by_place) < len(known) else ""
        most = f"at most {len(by_place)} argument{'s' * (len(by_place) != 1)}" if by_place else "no arguments"
        most += unnamed
        checker.report(Diagnostic("B309", f"`{description.name}` takes {most}", span, note=_takes(description)))
    if missing and not unknown:
        fix = f"{description.name}({', '.join(f'{m} = ...' for m in missing)})"
        message = f"`{description.name}` needs `{missing[0]}`"
        checker.report(Diagnostic("B309", message, span, fix=fix, note=_takes(description)))


def _no_parameter(description: Description, argument: nodes.Argument, known: list[str]) -> Diagnostic:
    guess = nearest(argument.name or "", known)
    return Diagnostic(
        "B309",
        f"`{description.name}` has no argument `{argument.name}`",
        argument.span,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"{guess} = {argument.value.span.text}" if guess else "",
        note=_takes(description),
    )


def _takes(description: Description) -> str:
    """The arguments of a constructor, with the defaults of those that have one."""
    spelled = [
        f"*{p.name}" if p.variadic else p.name + (f" = {p.default}" if p.default else "")
        for p in description.parameters
    ]
    return f"its arguments: {', '.join(spelled) or 'none'}"


def _described(description: Description, name: str, values: Mapping[str, int]) -> Type:
    """The type of what a constructor returns, its sizes filled in."""
    match description.kind:
        case "model":
            shapes = (_shape(description.input, values), _shape(description.output, values))
            outputs = tuple((n, tuple(_size(s, values) for s in shape)) for n, shape in description.outputs)
            return Model(name, shapes[0], shapes[1], description.parts, outputs=outputs)
        case "data" | "tasks":
            return substitute(description.yields, values)
        case "func":
            return Function(name, description.smooth, substitute(description.yields, values))
    return Unknown()


def _shape(shape: tuple[Size, ...] | None, values: Mapping[str, int]) -> tuple[Size, ...] | None:
    return None if shape is None else tuple(_size(s, values) for s in shape)


def _size(size: Size, values: Mapping[str, int]) -> Size:
    """A size with the constructor's arguments filled in; a product with one unknown factor is unknown."""
    if isinstance(size, int):
        return size
    product = 1
    for factor in size.split("*"):
        number = int(factor) if factor.isdigit() else values.get(factor)
        if number is None:
            return "?"
        product *= number
    return product


def substitute(type_: Type, values: Mapping[str, int]) -> Type:
    """The type with all its sizes filled in."""
    match type_:
        case Array(shape, element, ranked):
            return Array(tuple(_size(s, values) for s in shape), element, ranked)
        case Record(fields):
            return Record(tuple((n, substitute(t, values)) for n, t in fields))
        case Records(length, Record(fields)):
            return Records(_size(length, values), Record(tuple((n, substitute(t, values)) for n, t in fields)))
        case Stream(item):
            return Stream(substitute(item, values))
    return type_
