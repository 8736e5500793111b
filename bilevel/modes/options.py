"""Options of modes as a schedule spells them, turned into plain values. Reports B506."""

from __future__ import annotations

from typing import Literal

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.nearest import nearest
from bilevel.errors import Diagnostic, RecipeError
from bilevel.modes.ift import ImplicitMode, Linear, Method

LINEAR: dict[Method, tuple[str, ...]] = {
    "cg": ("tol", "steps"),
    "neumann": ("tol", "terms", "scale"),
    "gmres": ("tol", "steps"),
    "nystrom": ("rank", "damping"),
    "exact": (),
}


def implicit_mode(entry: ir.Entry) -> ImplicitMode:
    """`ift` with its options."""
    values = {a.name or "": a.value for a in entry.options}
    linear = values.get("linear")
    return ImplicitMode(None if linear is None else _linear(linear), whole(values, "batch"))


def _linear(node: nodes.Expr) -> Linear:
    """`cg(tol = 1e-8, steps = 20)`; the first argument may stand without a name."""
    called = node.function if isinstance(node, nodes.Call) else node
    name = called.identifier if isinstance(called, nodes.Name) else ""
    method = next((m for m in LINEAR if m == name), None)
    if method is None:
        guess = nearest(name, LINEAR)
        label = f"did you mean `{guess}`?" if guess else ""
        note = f"linear solvers: {', '.join(LINEAR)}"
        raise RecipeError([Diagnostic("B506", f"`{node.span.text}` is not a linear solver", node.span, label, note=note)])
    arguments = node.arguments if isinstance(node, nodes.Call) else ()
    values = _named(method, arguments)
    return Linear(
        method,
        _number(values, "tol"),
        whole(values, "steps"),
        whole(values, "terms"),
        None if _is_auto(values.get("scale")) else _number(values, "scale"),
        whole(values, "rank"),
        _number(values, "damping"),
    )


def _is_auto(node: nodes.Expr | None) -> bool:
    return isinstance(node, nodes.Name) and node.identifier == "auto"


def _named(method: Method, arguments: tuple[nodes.Argument, ...]) -> dict[str, nodes.Expr]:
    known = LINEAR[method]
    values: dict[str, nodes.Expr] = {}
    for place, argument in enumerate(arguments):
        name = argument.name if argument.name is not None else (known[place] if place < len(known) else "")
        if name not in known:
            note = f"its options: {', '.join(known) or 'none'}"
            message = f"`{method}` has no option `{argument.span.text}`"
            raise RecipeError([Diagnostic("B506", message, argument.span, note=note)])
        values[name] = argument.value
    return values


def _number(values: dict[str, nodes.Expr], name: str) -> float | None:
    """A number above zero."""
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, nodes.Number) or value.value <= 0:
        raise RecipeError([Diagnostic("B506", f"`{name}` is a number above 0", value.span)])
    return float(value.value)


def checkpoint(values: dict[str, nodes.Expr]) -> int | Literal["sqrt", "binomial", "auto"] | None:
    match word(values, "checkpoint", ("sqrt", "binomial", "auto")) if not is_number(values, "checkpoint") else "":
        case "sqrt":
            return "sqrt"
        case "binomial":
            return "binomial"
        case "auto":
            return "auto"
    return whole(values, "checkpoint")


def is_number(values: dict[str, nodes.Expr], name: str) -> bool:
    return isinstance(values.get(name), nodes.Number)


def whole(values: dict[str, nodes.Expr], name: str, allowed: tuple[int, ...] = ()) -> int | None:
    """A whole number from 1, or one of those allowed."""
    value = values.get(name)
    if value is None:
        return None
    number = value.value if isinstance(value, nodes.Number) else None
    if not isinstance(number, int) or number < 1 or (allowed and number not in allowed):
        wanted = " or ".join(map(str, allowed)) if allowed else "a whole number from 1"
        raise RecipeError([Diagnostic("B506", f"`{name}` is {wanted}", value.span)])
    return number


def word(values: dict[str, nodes.Expr], name: str, allowed: tuple[str, ...]) -> str | None:
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, nodes.Name) or value.identifier not in allowed:
        numbers = "a whole number, " if name == "checkpoint" else ""
        raise RecipeError([Diagnostic("B506", f"`{name}` is {numbers}{' or '.join(allowed)}", value.span)])
    return value.identifier
