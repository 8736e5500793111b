"""The value of an expression in one copy, by recursion over its form."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bilevel import ir
from bilevel.backends.reference.functions import FUNCTIONS
from bilevel.backends.reference.scope import Delayed, Scope
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import Tree, derivative, leafwise, node, number
from bilevel.backends.torch_func.attention import unfused
from bilevel.backends.torch_func.outputs import with_output
from bilevel.dsl.datatypes import Array, Union
from bilevel.dsl.datatypes import Tree as TreeType

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}


def evaluate(expr: ir.Expr, scope: Scope) -> Any:
    """The value: a Python number, a tensor, a tree, a record, a part, or a list of those."""
    match expr:
        case ir.Constant(value=value):
            return value
        case ir.Read(name=name):
            return _read(name, scope)
        case ir.Operate(operator="neg", operands=(operand,)):
            return leafwise(operator.neg, evaluate(operand, scope))
        case ir.Operate(operator=sign, operands=(left, right)):
            return leafwise(OPERATORS[sign], evaluate(left, scope), evaluate(right, scope))
        case ir.Builtin(function=name, arguments=arguments):
            return _builtin(name)(*(evaluate(a, scope) for a in arguments))
        case ir.Apply():
            return _apply(expr, scope)
        case ir.CallLet():
            return evaluate(expr.body, _inside(expr, scope))
        case ir.CallPart(function=function, arguments=arguments):
            return evaluate(function, scope)(*(evaluate(a, scope) for a in arguments))
        case ir.GradientOf(call=call):
            return _gradient(call, scope)
        case ir.Field(base=base, name=name):
            return getattr(evaluate(base, scope), name)
        case ir.Item(base=base, items=items):
            return evaluate(base, scope)[tuple(evaluate(i, scope) for i in items)]
        case ir.IterateOf(name=name, at=at):
            return scope.read(f"@{name}")[evaluate(at, scope)]
        case ir.Several(items=items):
            return _several(expr, [evaluate(i, scope) for i in items])
        case ir.Reduced():
            return _reduced(expr, scope, expr.binders)
    raise Unsupported(type(expr).__name__)


def _read(name: str, scope: Scope) -> Any:
    value = scope.read(name)
    if isinstance(value, Delayed):
        at = {**value.scope.at, **scope.at}
        return evaluate(value.expr, Scope(value.scope.plan, value.scope.values, at, value.scope.maximised))
    return value


def _builtin(name: str) -> Callable[..., Any]:
    if name not in FUNCTIONS:
        raise Unsupported(name)
    return FUNCTIONS[name]


def _apply(expr: ir.Apply, scope: Scope) -> Any:
    """A network at the parameters of all groups together; one sample gets a leading axis for the call."""
    network = evaluate(expr.network, scope)
    parameters: dict[str, Tensor] = {}
    for group in expr.parameters:
        parameters |= evaluate(group, scope)
    if expr.output is not None:
        network = with_output(network, expr.output)
    x = evaluate(expr.input, scope)
    x = x[None] if expr.single else x
    with unfused():
        found = functional_call(network, parameters, (x,)) if isinstance(network, nn.Module) else network(parameters, x)
    return found[0] if expr.single else found


def _inside(call: ir.CallLet, scope: Scope) -> Scope:
    """The scope of a let's body: its parameters have the values of the arguments."""
    given = {}
    for parameter, argument in zip(call.parameters, call.arguments, strict=True):
        waits = any(axis not in scope.at for axis in argument.axes)
        given[parameter] = Delayed(argument, scope) if waits else evaluate(argument, scope)
    return scope.having(given)


def _gradient(call: ir.CallLet | ir.CallPart, scope: Scope) -> Tree:
    """The derivative of a call in its first argument, which becomes a node of its own."""
    first = node(leafwise(number, evaluate(call.arguments[0], scope)))
    if isinstance(call, ir.CallLet):
        inside = _inside(call, scope).having({call.parameters[0]: first})
        return derivative(evaluate(call.body, inside), first)
    rest = [evaluate(a, scope) for a in call.arguments[1:]]
    return derivative(evaluate(call.function, scope)(first, *rest), first)


def _several(expr: ir.Several, items: list[Any]) -> Any:
    """A list of numbers as an array, groups of parameters as one group, anything else as a list."""
    if isinstance(expr.type, Union):
        return {name: leaf for group in items for name, leaf in group.items()}
    if isinstance(expr.type, Array):
        return torch.stack([number(item) for item in items])
    return items


def _reduced(expr: ir.Reduced, scope: Scope, binders: tuple[ir.Binder, ...]) -> Any:
    """One binder after the other, the outermost first: counters take all their numbers, open indices all copies."""
    if not binders:
        return evaluate(expr.body, scope)
    first, *rest = binders
    if first.source is None:
        scopes = [scope.in_copy(first.name, i) for i in range(scope.size(first.name))]
    elif isinstance(first.source, ir.Counting):
        low, high = evaluate(first.source.low, scope), evaluate(first.source.high, scope)
        scopes = [scope.having({first.name: k}) for k in range(low, high + 1)]
    else:
        raise Unsupported("reducers over lists")
    return _reduce(expr.kind, [_reduced(expr, inside, tuple(rest)) for inside in scopes], scope.maximised)


def _reduce(kind: str, values: list[Any], maximised: bool) -> Any:
    """All values as one, entry by entry; `worst` is the largest of what is minimised."""
    if kind == "worst":
        kind = "min" if maximised else "max"
    if kind not in ("mean", "sum", "max", "min"):
        raise Unsupported(kind)
    return leafwise(lambda *parts: _reduced_leaf(kind, torch.stack([number(p) for p in parts])), *values)


def _reduced_leaf(kind: str, stacked: Tensor) -> Tensor:
    match kind:
        case "mean":
            return stacked.sum(0) / len(stacked)
        case "sum":
            return stacked.sum(0)
        case "max":
            return stacked.amax(0)
    return stacked.amin(0)


# ---- parameters of networks ----------------------------------------------------------------------------------


def part_of(type_: TreeType, scope: Scope) -> dict[str, Tensor]:
    """The network's own parameters that a type names: all, one part, or all but one."""
    network = scope.values[type_.net]
    own = {name: p.detach() for name, p in network.named_parameters()}
    word = type_.part.only if type_.part.only is not None else type_.part.except_
    if word is None:
        return own
    use = next(u for u in scope.program.uses if u.name == type_.net)
    pattern = dict(use.description.parts).get(word, word) if use.description is not None else word
    wanted = type_.part.only is not None
    return {name: p for name, p in own.items() if fnmatchcase(name, pattern) == wanted}
