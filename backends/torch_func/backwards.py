"""One step of the walk back through a level: the update and the gradient inside it, pulled back (papers/002, algorithm 3).

The update's vjp gives the cotangents of the iterate, of the solver's state and of the gradient; that of the gradient is
carried on by one jvp of it (mixed mode) or by a vjp of it. Where the outer objective reads iterates, the cotangent it
gives to the one before the step is added.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Comment, If, Statement
from bilevel.backends.torch_func import stopping
from bilevel.backends.torch_func.coder import Coder, domain_call, is_windowed, own, pack, slot
from bilevel.backends.torch_func.steps import count_text, gradient_call, targets
from bilevel.kinds import moves_by_next
from bilevel.modes import Unroll


def packed_cotangent(names: list[str]) -> str:
    """The name of the cotangent of the packed variables."""
    return f"d_{names[0]}" if len(names) == 1 else "cotangent"


def to_free(coder: Coder, level: ir.Level, state: str) -> list[Statement]:
    """Cotangents of values as cotangents of free coordinates, at a state."""
    lines: list[Statement] = []
    for place, variable in enumerate(level.variables):
        name = coder.writer.name(variable.name)
        free = state if len(level.variables) == 1 else f"{state}[{place}]"
        if variable.domain is not None:
            call = domain_call(variable, "free")
            lines.append(Assign(f"(d_{name}_free,)", f"vjp(lambda free: {call}, {free})[1](d_{name})"))
    return lines


def one_step(coder: Coder, level: ir.Level, adjoint: Unroll) -> list[Statement]:
    """One step of the walk, from the state before the step."""
    names = own(coder, level)
    x, cotangent = pack(names), packed_cotangent(names)
    lines: list[Statement] = [Assign(f"{x}, {slot(coder, level)}", "state[:2]")]
    lines += [stopping.MASK] * stopping.unrolled(coder, level)
    if moves_by_next(level):
        return [*lines, *_pull_next(coder, level, x, cotangent)]
    if adjoint.gradient == "unused":
        lines.append(Comment("the update is linear in the gradient: its vjp does not depend on the value"))
    lines.append(Assign("gradient", _gradient_value(coder, level, adjoint, x)))
    lines += _pull_update(coder, level, x, cotangent)
    if adjoint.product == "mixed":
        lines += _mixed(coder, level, x, cotangent)
    if adjoint.product == "reverse":
        lines += _reverse(coder, level, x, cotangent)
    if coder.plan.facts[level.name].iterates:
        lines += inject(coder, level, cotangent)
    return lines


def _gradient_value(coder: Coder, level: ir.Level, adjoint: Unroll, x: str) -> str:
    match adjoint.gradient:
        case "kept":
            return "state[2]"
        case "again":
            return gradient_call(coder, level, key="step_key")
    return f"zeros({x})"


def _pull_next(coder: Coder, level: ir.Level, x: str, cotangent: str) -> list[Statement]:
    """A step that is an expression, pulled back as a whole."""
    name = x if len(level.variables) == 1 else "variables"
    through = [t for t in targets(coder, level) if t in coder.known[f"{level.name}_update"]]
    call = coder.call(f"{level.name}_update", count="step", key="step_key")
    call = stopping.masked(coder, level, call, name)
    inner = ", ".join([name, *through])
    left = ", ".join([cotangent, *(f"more_{t}" for t in through)])
    lines: list[Statement] = [
        Assign("_, pull", f"vjp(lambda {inner}: {call}, {', '.join([x, *through])})"),
        Assign(f"({left},)", f"pull({cotangent})"),
        *accumulate(through),
    ]
    return [*lines, *(inject(coder, level, cotangent) if coder.plan.facts[level.name].iterates else [])]


def _pull_update(coder: Coder, level: ir.Level, x: str, cotangent: str) -> list[Statement]:
    """The update, pulled back to the state, the gradient, and what the solver's arguments read."""
    through = [coder.writer.name(t) for t in coder.plan.facts[level.name].entering("solver")]
    count = count_text(coder, level)
    inner = "variables" if len(level.variables) > 1 else x
    call = stopping.masked(coder, level, coder.call(f"{level.name}_update", count=count), inner)
    names = ", ".join([inner, "solver", "gradient", *through])
    values = ", ".join([x, "solver", "gradient", *through])
    left = ", ".join([cotangent, "d_solver", "d_grad", *(f"more_{t}" for t in through)])
    lines: list[Statement] = [
        Assign("_, pull", f"vjp(lambda {names}: {call}, {values})"),
        Assign(left, f"pull(({cotangent}, d_solver))"),
    ]
    return lines + accumulate(through)


def accumulate(names: list[str]) -> list[Statement]:
    """What a step adds to the cotangents of what the level reads."""
    return [Assign(f"d_{t}", f"add(d_{t}, more_{t})") for t in names]


def _mixed(coder: Coder, level: ir.Level, x: str, cotangent: str) -> list[Statement]:
    """One jvp of the gradient along its cotangent gives the products with the Hessian and the mixed derivative."""
    objective = f"{level.name}_objective"
    parameters = coder.known[objective]
    through = [coder.writer.name(t) for t in coder.plan.facts[level.name].entering("objective")]
    wanted = [*own(coder, level), *(t for t in through if t in parameters)]
    places = [parameters.index(w) for w in wanted]
    argnums = f"({', '.join(map(str, places))}{',' * (len(places) == 1)})"
    call = coder.call(objective).removeprefix(objective)
    names = own(coder, level)
    arguments = ", ".join(names)
    tangent = "(d_grad,)" if len(names) == 1 else "d_grad"
    curvature = [f"curvature_{n}" if len(names) > 1 else "curvature" for n in names]
    left = ", ".join([*curvature, *(f"more_{t}" for t in wanted[len(names) :])])
    gradients = f"grad({objective}, argnums={argnums}){call}"
    lines: list[Statement] = [
        Assign(
            f"({left}{',' * (len(wanted) == 1)})",
            f"along(lambda {arguments}: {gradients}, ({arguments},), {tangent})",
        ),
        Assign(cotangent, f"add({cotangent}, {pack(curvature)})"),
    ]
    return lines + accumulate(wanted[len(names) :])


def _reverse(coder: Coder, level: ir.Level, x: str, cotangent: str) -> list[Statement]:
    """A vjp of the gradient, which for a level with levels inside is itself a hypergradient."""
    gradient = f"{level.name}_gradient"
    facts = coder.plan.facts[level.name]
    parameters = coder.known[gradient]
    through = [t for t in map(coder.writer.name, facts.entering("objective", "inner")) if t in parameters]
    names = [*own(coder, level), *through]
    left = [*(f"more_{n}" for n in own(coder, level)), *(f"more_{t}" for t in through)]
    call = gradient_call(coder, level, key="step_key")
    back = pack([f"more_{n}" for n in own(coder, level)])
    lines: list[Statement] = [
        Assign("_, pull", f"vjp(lambda {', '.join(names)}: {call}, {', '.join(names)})"),
        Assign(f"({', '.join(left)},)", "pull(d_grad)"),
        Assign(cotangent, f"add({cotangent}, {back})"),
    ]
    return lines + accumulate(through)


def inject(coder: Coder, level: ir.Level, cotangent: str) -> list[Statement]:
    """The cotangent that the outer objective gives the iterate before this step."""
    if is_windowed(coder.plan, level):
        # Only the start is an iterate of the window that stands before its first step, and of the first window alone.
        return [
            If(
                " and ".join(f"given_{coder.writer.name(n)} is not None" for n in level.names),
                tuple(_injected(coder, level, cotangent)),
            )
        ]
    return _injected(coder, level, cotangent)


def _injected(coder: Coder, level: ir.Level, cotangent: str) -> list[Statement]:
    lines: list[Statement] = []
    for variable in level.variables:
        value = coder.writer.name(variable.name)
        lines.append(Assign(f"d_{value}" if variable.domain or len(level.variables) > 1 else "moved", f"given_{value}"))
    lines += to_free(coder, level, "state[0]")
    names = own(coder, level)
    if len(names) == 1:
        extra = f"d_{names[0]}" if level.variables[0].domain else "moved"
        if level.variables[0].domain:
            # The name of the running cotangent is that of the free coordinates: keep it while the value's is mapped.
            lines = _inject_restricted(coder, level)
            extra = "moved"
        return [*lines, Assign(cotangent, f"add({cotangent}, {extra})")]
    return [*lines, Assign(cotangent, f"add({cotangent}, {pack([f'd_{n}' for n in names])})")]


def _inject_restricted(coder: Coder, level: ir.Level) -> list[Statement]:
    variable = level.variables[0]
    name = coder.writer.name(variable.name)
    call = domain_call(variable, "free")
    return [Assign("(moved,)", f"vjp(lambda free: {call}, state[0])[1](given_{name})")]
