"""Networks applied to inputs: which parameters, one sample or several, and the shape of the output.

Takes expressions that are checked; gives `ir.Apply`. Reports B303 (no parameters), B309 (the number of inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.context import Checker, joined, unknown
from bilevel.dsl.datatypes import Array, ListType, Model, Size, Tree, Type, Union, Unknown
from bilevel.errors import Diagnostic


def apply_network(checker: Checker, node: nodes.Call, function: ir.Expr, arguments: tuple[ir.Expr, ...]) -> ir.Expr:
    """`net[w](x)`; a network whose output is not declared, such as a learned loss, may take several."""
    network, parameters = _without_brackets(function)
    output: str | None = None
    if isinstance(network, ir.Field) and isinstance(network.base.type, Model):
        output = network.name
        network = network.base
    model = function.type
    assert isinstance(model, Model)
    if not arguments or (len(arguments) > 1 and model.output is not None):
        message = f"`{function.span.text}` takes one input, not {len(arguments)}"
        checker.report(Diagnostic("B309", message, node.span, fix=f"{function.span.text}(x)"))
        return unknown(node.span)
    _check_groups(checker, network, parameters)
    given = arguments[0] if len(arguments) == 1 else _several(node, arguments)
    single = _is_single(checker, model, given.type)
    type_ = _output(model, given.type, single)
    applied = ir.Apply(
        span=node.span,
        type=type_,
        network=network,
        parameters=parameters,
        input=given,
        single=single,
        output=output,
    )
    return joined(applied, (network, *parameters, given))


def named_output(network: Model, name: str) -> Model | None:
    """`net.features` as a network with that output, None where it has no such output."""
    if network.outputs is None:
        return replace(network, output=None)
    shape = dict(network.outputs).get(name)
    return None if shape is None else replace(network, output=shape)


def _without_brackets(function: ir.Expr) -> tuple[ir.Expr, tuple[ir.Expr, ...]]:
    """`net` and w of `net[w]`."""
    if isinstance(function, ir.Item):
        return function.base, flat_groups(function.items)
    return function, ()


def _several(node: nodes.Call, arguments: tuple[ir.Expr, ...]) -> ir.Expr:
    types = ListType(tuple(a.type for a in arguments))
    return joined(ir.Several(span=node.span, type=types, items=arguments), arguments)


def flat_groups(parameters: tuple[ir.Expr, ...]) -> tuple[ir.Expr, ...]:
    """Parameter groups with unions opened: `net[[a, b]]` is `net[a, b]`."""
    found: list[ir.Expr] = []
    for group in parameters:
        found.extend(group.items if isinstance(group, ir.Several) else (group,))
    return tuple(found)


def _check_groups(checker: Checker, network: ir.Expr, parameters: tuple[ir.Expr, ...]) -> None:
    """What stands in the brackets of a network is parameters; whose they are is asked once it is built (B304)."""
    for group in parameters:
        if not isinstance(group.type, Tree | Union | Unknown):
            name = network.span.text
            problem = Diagnostic(
                "B303",
                f"`{group.span.text}` is {group.type}, and `{name}[ ]` takes parameters",
                group.span,
                str(group.type),
                why="subscripts of a network are its parameters; inputs follow in ( )",
                fix=f"declare a variable of type params({name}), as in {name}[w](x)",
            )
            checker.report(problem)


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
