"""The value of an expression in one copy, by recursion over its form."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bilevel import ir
from bilevel.backends.reference.functions import FUNCTIONS
from bilevel.backends.reference.masks import applied
from bilevel.backends.reference.scope import Delayed, Scope
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import Tree, derivative, leafwise, node, number
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
            return evaluate(expr.body, _inside(expr, scope).folded(expr.noise))
        case ir.CallPart(function=function, arguments=arguments):
            return evaluate(function, scope)(*(evaluate(a, scope) for a in arguments))
        case ir.GradientOf(call=call):
            return _gradient(call, scope)
        case ir.Field(base=base, name=name):
            return getattr(evaluate(base, scope), name)
        case ir.Item(base=base, items=items):
            return evaluate(base, scope)[tuple(evaluate(i, scope) for i in items)]
        case ir.IterateOf(name=name, at=at):
            return _iterate(scope.read(f"@{name}"), evaluate(at, scope))
        case ir.Several(items=items):
            return _several(expr, [evaluate(i, scope) for i in items])
        case ir.Reduced():
            return _reduced(expr, scope)
    raise Unsupported(type(expr).__name__)


def _read(name: str, scope: Scope) -> Any:
    value = scope.read(name)
    if isinstance(value, Delayed):
        at = {**value.scope.at, **scope.at}
        return evaluate(value.expr, Scope(value.scope.plan, value.scope.values, at, value.scope.maximised))
    return value


class Outside(Exception):
    """An iterate that belongs to another window of steps than the one at hand."""


def _iterate(path: Any, number: int) -> Tree:
    """An iterate by its number; a path that is a dictionary has those of one window."""
    if isinstance(path, dict) and number not in path:
        raise Outside
    return path[number]


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
    noise = None
    if expr.noise is not None:  # the first application has the key itself
        noise = (scope.folded(expr.noise) if expr.noise.place else scope).values[ir.NOISE]
    is_module = isinstance(network, nn.Module)
    found = applied(network, parameters, x, noise) if is_module else network(parameters, x)
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


def _reduced(expr: ir.Reduced, scope: Scope) -> Any:
    """Copies of open indices, the outermost first, then all numbers of counters: that is how their noise is numbered."""
    opened = [b for axis in expr.body.axes for b in expr.binders if b.source is None and b.name == axis]
    alike = [b for b in expr.binders if b.source is None and b not in opened]
    return _over(expr, scope, [*opened, *alike, *(b for b in expr.binders if b.source is not None)])


def _over(expr: ir.Reduced, scope: Scope, binders: list[ir.Binder]) -> Any:
    """One binder after the other; terms that read an iterate outside the window are left out."""
    if not binders:
        return evaluate(expr.body, scope)
    first, *rest = binders
    if first.source is None:
        places = range(scope.size(first.name))
        return _reduce(expr.kind, [_over(expr, scope.in_copy(first.name, i), rest) for i in places], scope.maximised)
    if not isinstance(first.source, ir.Counting):
        raise Unsupported("reducers over lists")
    values = []
    for count in range(evaluate(first.source.low, scope), evaluate(first.source.high, scope) + 1):
        with suppress(Outside):
            values.append(_over(expr, scope.counted(first.name, count), rest))
    return _reduce(expr.kind, values, scope.maximised)


def _reduce(kind: str, values: list[Any], maximised: bool) -> Any:
    """All values as one, entry by entry; `worst` is the largest of what is minimised."""
    if kind == "worst":
        kind = "min" if maximised else "max"
    kind = "mean" if kind == "pcgrad" else kind  # of gradients something else is made, of values this
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
    """The network's own parameters that a type names: all, one part, or all but one; or zeros in another form."""
    network = scope.read(type_.net)
    own = {name: p.detach() for name, p in network.named_parameters()}
    word = type_.part.only if type_.part.only is not None else type_.part.except_
    if word is not None:
        use = next((u for u in scope.program.uses if u.name == type_.net), None)
        pattern = dict(use.description.parts).get(word, word) if use is not None and use.description else word
        wanted = type_.part.only is not None
        own = {name: p for name, p in own.items() if fnmatchcase(name, pattern) == wanted}
    if type_.kind == "layers":
        return {name: torch.zeros((), dtype=torch.float64) for name in own}
    return own if type_.kind == "params" else _factors(network, own)


def _factors(network: nn.Module, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for the factors of layers with weights: a for inputs (one more for a bias), b for outputs."""
    found: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        start = f"{name}." if name else ""
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and f"{start}weight" in own:
            weight = own[f"{start}weight"]
            inputs = weight[0].numel() + (f"{start}bias" in own)
            found |= {f"{start}a": torch.zeros(inputs, dtype=torch.float64)}
            found |= {f"{start}b": torch.zeros(len(weight), dtype=torch.float64)}
    return found
