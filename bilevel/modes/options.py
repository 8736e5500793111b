"""Options of modes as a schedule spells them, turned into plain values. Reports B506."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.nearest import nearest
from bilevel.errors import Diagnostic, RecipeError
from bilevel.modes.base import Mode
from bilevel.modes.closed_form import ClosedForm
from bilevel.modes.es import Strategies
from bilevel.modes.evolve import Evolve
from bilevel.modes.fmd import ForwardMode
from bilevel.modes.forward import Forward
from bilevel.modes.ift import ImplicitMode, Linear, Method
from bilevel.modes.leap import Choice, Leap
from bilevel.modes.rmd import Reverse

LINEAR: dict[Method, tuple[str, ...]] = {
    "cg": ("tol", "steps", "damping"),
    "neumann": ("tol", "terms", "scale", "damping"),
    "gmres": ("tol", "steps", "damping"),
    "nystrom": ("rank", "damping"),
    "exact": ("damping",),
}


def implicit_mode(entry: ir.Entry) -> ImplicitMode:
    """`ift` with its options."""
    values = {a.name or "": a.value for a in entry.options}
    linear = values.get("linear")
    method = None if linear is None else _linear(linear)
    printed = word(values, "sign", ("printed", "derived")) == "printed"
    return ImplicitMode(method, whole(values, "batch"), entry.checked.get("through"), printed)


def _linear(node: nodes.Expr) -> Linear:
    """`cg(tol = 1e-8, steps = 20)`; the first argument may stand without a name."""
    called = node.function if isinstance(node, nodes.Call) else node
    name = called.identifier if isinstance(called, nodes.Name) else ""
    method = next((m for m in LINEAR if m == name), None)
    if method is None:
        guess = nearest(name, LINEAR)
        label = f"did you mean `{guess}`?" if guess else ""
        note = f"linear solvers: {', '.join(LINEAR)}"
        raise RecipeError(
            [Diagnostic("B506", f"`{node.span.text}` is not a linear solver", node.span, label, note=note)]
        )
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
    """How many checkpoints, or the rule that says it."""
    match word(values, "checkpoint", ("sqrt", "binomial", "auto")) if not is_number(values, "checkpoint") else "":
        case "sqrt":
            return "sqrt"
        case "binomial":
            return "binomial"
        case "auto":
            return "auto"
    return whole(values, "checkpoint")


def store(values: dict[str, nodes.Expr]) -> Literal["iterates", "gradients", "residuals"]:
    """What is kept of every step."""
    match word(values, "store", ("iterates", "gradients", "residuals")):
        case "gradients":
            return "gradients"
        case "residuals":
            return "residuals"
    return "iterates"


def is_number(values: dict[str, nodes.Expr], name: str) -> bool:
    """Whether an option is a plain number."""
    return isinstance(values.get(name), nodes.Number)


def leap_mode(entry: ir.Entry) -> Leap:
    """`leap` with its options; gamma has no default, and a grid needs `choose`."""
    values = {a.name or "": a.value for a in entry.options}
    if "gamma" not in values:
        why = "nothing says where between teacher and student the leap lands"
        raise RecipeError([Diagnostic("B506", "`leap` needs `gamma`", entry.span, why=why, fix="leap(gamma = 0.9)")])
    teacher = values.get("teacher")
    none = isinstance(teacher, nodes.Number) and teacher.value == 0
    keep = whole(values, "keep") or 1
    gammas, weights = _gammas(values["gamma"]), _weights(values.get("hull"), keep)
    choose = entry.checked.get("choose")
    several = len(gammas) * len(weights) > 1
    if several and choose is None:
        why = "a grid has several points, and nothing says which is taken"
        fix = "choose = max(acc(phi, task.query))"
        raise RecipeError([Diagnostic("B506", "a grid needs `choose`", entry.span, why=why, fix=fix)])
    sense = values["choose"].span.text.partition("(")[0] if choose is not None else "max"
    picked: Choice | None = None if choose is None else ("min" if sense == "min" else "max", choose)
    spelled = " ".join(entry.span.text.split())
    return Leap(0 if none else whole(values, "teacher") or 0, keep, gammas, weights, picked, spelled)


def auto_leap(entry: ir.Entry) -> Leap | None:
    """The leap that is written beside `auto`, to be weighed with the modes of the planner's own."""
    value = next((a.value for a in entry.options if a.name == "leap"), None)
    if value is None:
        return None
    if not isinstance(value, nodes.Call) or value.function.span.text != "leap":
        raise RecipeError(
            [Diagnostic("B506", "`leap` is a leap with its options", value.span, fix="leap(gamma = 0.9)")]
        )
    return leap_mode(replace(entry, mode="leap", options=value.arguments, span=value.span))


LARGEST_GRID = 1_000
"""points of a grid of gammas: the objective is evaluated at each of them"""


def strategies_mode(entry: ir.Entry) -> Strategies:
    """`es` with its options."""
    values = {a.name or "": a.value for a in entry.options}
    return Strategies(whole(values, "samples") or 16, _number(values, "sigma") or 0.01)


def _gammas(node: nodes.Expr) -> tuple[float, ...]:
    """`0.9`, or `grid(lo, hi, step)` with both ends."""
    if isinstance(node, nodes.Number) and 0 <= node.value <= 1:
        return (float(node.value),)
    numbers = _grid(node)
    if numbers is None or len(numbers) != 3 or numbers[2] <= 0 or not 0 <= numbers[0] <= numbers[1] <= 1:
        note = "a number from 0 to 1, or grid(lowest, highest, step)"
        raise RecipeError([Diagnostic("B506", f"`{node.span.text}` is no gamma", node.span, note=note)])
    count = round((numbers[1] - numbers[0]) / numbers[2])
    if count > LARGEST_GRID:
        raise RecipeError([Diagnostic("B506", f"`{node.span.text}` has more than {LARGEST_GRID:_} points", node.span)])
    return tuple(round(numbers[0] + i * numbers[2], 12) for i in range(count + 1))


def _grid(node: nodes.Expr) -> list[float] | None:
    if not isinstance(node, nodes.Call) or node.function.span.text != "grid":
        return None
    values = [a.value.value for a in node.arguments if isinstance(a.value, nodes.Number)]
    return [float(v) for v in values] if len(values) == len(node.arguments) else None


def _weights(node: nodes.Expr | None, keep: int) -> tuple[tuple[float, ...], ...]:
    """Weights of the last `keep` iterates: the last, their mean, or a grid over the simplex."""
    match node:
        case None | nodes.Name("last") if keep == 1:
            return ((1.0,),)
        case nodes.Name("mean"):
            return ((1.0 / keep,) * keep,)
        case nodes.Call(_, (nodes.Argument(None, nodes.Name("simplex")), nodes.Argument(None, nodes.Number() as step))):
            parts = round(1 / float(step.value))
            return tuple(tuple(n / parts for n in split) for split in _splits(parts, keep))
    span = node.span if node is not None else None
    message = "`hull = last` needs keep = 1" if node is None or node == nodes.Name("last") else "this is no hull"
    note = "hull = last with keep = 1, hull = mean, or hull = grid(simplex, 0.25)"
    raise RecipeError([Diagnostic("B506", message, span, note=note)])


def _splits(parts: int, count: int) -> list[tuple[int, ...]]:
    """All ways to put `parts` into `count` boxes, in order."""
    if count == 1:
        return [(parts,)]
    return [(first, *rest) for first in range(parts + 1) for rest in _splits(parts - first, count - 1)]


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
    """One of some words, None where the option is not given."""
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, nodes.Name) or value.identifier not in allowed:
        numbers = "a whole number, " if name == "checkpoint" else ""
        raise RecipeError([Diagnostic("B506", f"`{name}` is {numbers}{' or '.join(allowed)}", value.span)])
    return value.identifier


def named_mode(entry: ir.Entry) -> Mode:
    """The mode that a line of the schedule names, with its options."""
    if entry.mode == "none":
        return Forward()
    if entry.mode == "fmd":
        return ForwardMode()
    if entry.mode == "evolve":
        return Evolve()
    if entry.mode == "closed_form":
        return ClosedForm()
    if entry.mode == "ift":
        return implicit_mode(entry)
    if entry.mode == "es":
        return strategies_mode(entry)
    if entry.mode == "leap":
        return leap_mode(entry)
    values = {a.name or "": a.value for a in entry.options}
    return Reverse(
        order=1 if whole(values, "order", (1, 2)) == 1 else 2,
        window=whole(values, "window"),
        checkpoint=checkpoint(values),
        update=word(values, "update", ("each",)) == "each",
        store=store(values),
    )
