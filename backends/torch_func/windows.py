"""`rmd(window = w, update = each)`: truncated back-propagation with one outer update for each window of steps.

One step of the outermost level is one solve of the level inside; after every `w` of its steps the outer objective is
evaluated, differentiated through these steps alone, and the outer solver moves. The state of the level inside carries
over the cut without a derivative; draws and copies of the outer step stay the same (papers/000, algorithm 1;
papers/004, appendix C).
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Function, If, Loop, Return, Statement
from bilevel.backends.torch_func.coder import (
    Coder,
    domain_call,
    is_warm,
    is_windowed,
    own,
    pack,
    slot,
    solutions,
    steps_text,
    to_values,
)
from bilevel.backends.torch_func.expressions import list_key
from bilevel.backends.torch_func.gradients import back_to_free, joined, values_with_pulls
from bilevel.backends.torch_func.levels import own_lists, per_element
from bilevel.backends.torch_func.steps import begin
from bilevel.modes import Unroll
from bilevel.plan import Plan, Step


def windowed(plan: Plan, level: ir.Level) -> tuple[ir.Level, Unroll] | None:
    """The level inside that is differentiated window by window, with how; None where there is none."""
    inner = next((i for i in level.levels if is_windowed(plan, i)), None)
    if inner is None:
        return None
    adjoint = plan.choices[inner.name].adjoint
    assert isinstance(adjoint, Unroll)
    return inner, adjoint


def begin_function(coder: Coder, inner: ir.Level) -> Function:
    """The first state of the level inside."""
    x = pack(own(coder, inner))
    body: list[Statement] = [*begin(coder, inner, x), Return(f"({x}, {slot(coder, inner)})")]
    start = [p for p in coder.known[f"{inner.name}_start"] if p != "key"]
    start += [f"{inner.name}_begin"] * is_warm(inner)
    doc = f"The state of {inner.name} before its first step."
    return coder.function(f"{inner.name}_begun", [*start, "key"], doc, body, None)


def gradient_function(coder: Coder, level: ir.Level, inner: ir.Level, adjoint: Unroll, step: Step) -> Function:
    """The gradient of the outer objective through one window, and the state at its end."""
    window = adjoint.window
    body: list[Statement] = [*values_with_pulls(coder, level)]
    lists = own_lists(coder, inner)
    key = list_key("inner_key", lists)
    first = per_element(coder, inner, coder.call(f"{inner.name}_begun", key=key), f"{inner.name}_begun")
    body.append(If("first == 0", (Assign("carried", first),)))
    advance = coder.call(f"{inner.name}_advance", state="carried", last=f"first + {window}", key=key, keep="True")
    more = {"carried": inner.copies}
    body.append(Assign("states", per_element(coder, inner, advance, f"{inner.name}_advance", more=more)))
    body += _values(coder, inner, len(lists))
    body += _objective(coder, level, inner, adjoint)
    body += _pull(coder, level, inner)
    body += back_to_free(coder, level)
    gradient = pack([f"d_{n}" for n in solutions(coder, level)])
    carried = (
        f"each_listed(lambda states: stop(states[-1][:2]), states, {len(lists)})" if lists else "stop(states[-1][:2])"
    )
    body.append(Return(f"{gradient}, value, {carried}"))
    parameters = _parameters(coder, level, inner)
    doc = f"Gradient of the objective of {level.name} through {window} steps of {inner.name}, and the state after them."
    return coder.function(f"{level.name}_gradient", parameters, doc, body, step.span)


def _parameters(coder: Coder, level: ir.Level, inner: ir.Level) -> list[str]:
    local = [*own(coder, level), *solutions(coder, level), *solutions(coder, inner), *own(coder, inner)]
    local += [coder.writer.name(f"@{n}") for n in inner.names]
    local += [f"d_{n}" for n in local] + ["states", "state", "keep", "key", "last", "first"]
    functions = [f"{level.name}_objective", *(f"{inner.name}_{o}" for o in ("begun", "advance", "pullback"))]
    return [*own(coder, level), *coder.needs(*functions, without=local), "carried", "first", "inner_key"]


def _values(coder: Coder, inner: ir.Level, depth: int) -> list[Statement]:
    """The solution, and the iterates of the window by their number; the start belongs to the first window."""
    lines: list[Statement] = [] if depth else [*to_values(coder, inner, "states[-1][0]")]
    for place, variable in enumerate(inner.variables):
        spot = "" if len(inner.variables) == 1 else f"[{place}]"
        name = coder.writer.name(variable.name)
        if depth:
            last = _value(variable, f"states[-1][0]{spot}")
            lines.append(Assign(name, f"each_listed(lambda states: {last}, states, {depth})"))
        if coder.plan.facts[inner.name].iterates:
            one = _value(variable, f"state[0]{spot}")
            found = f"{{first + i: {one} for i, state in enumerate(states) if i > 0 or first == 0}}"
            text = f"each_listed(lambda states: {found}, states, {depth})" if depth else found
            lines.append(Assign(coder.writer.name(f"@{variable.name}"), text))
    return lines


def _value(variable: ir.Variable, text: str) -> str:
    return domain_call(variable, text) if variable.domain else text


def _objective(coder: Coder, level: ir.Level, inner: ir.Level, adjoint: Unroll) -> list[Statement]:
    objective = f"{level.name}_objective"
    parameters = coder.known[objective]
    names = [coder.writer.name(n) for n in inner.names]
    wanted = [*solutions(coder, level), *names, *(coder.writer.name(f"@{n}") for n in inner.names)]
    places = [i for i, p in enumerate(parameters) if p in wanted]
    left = "".join(f"d_{parameters[i]}, " for i in places)
    given = coder.call(objective).removeprefix(objective)
    argnums = f"({', '.join(map(str, places))}{',' * (len(places) == 1)})"
    lines: list[Statement] = [
        Assign(f"({left.rstrip()}), value", f"grad_and_value({objective}, argnums={argnums}){given}")
    ]
    targets = [parameters[i] for i in places]
    lines += [Assign(f"d_{n}", f"zeros({n})") for n in solutions(coder, level) if n not in targets]
    return lines + _complete(coder, inner, adjoint.window, targets)


def _complete(coder: Coder, inner: ir.Level, window: int | None, targets: list[str]) -> list[Statement]:
    """Cotangents of what the objective does not read, and those of the solution joined to those of iterates."""
    lines: list[Statement] = []
    for name in inner.names:
        solution, iterates = coder.writer.name(name), coder.writer.name(f"@{name}")
        if not coder.plan.facts[inner.name].iterates:
            lines += [] if solution in targets else [Assign(f"d_{solution}", f"zeros({solution})")]
            continue
        if iterates not in targets:
            lines.append(Assign(f"d_{iterates}", f"zeros({iterates})"))
        if solution in targets:
            last = f"first + {window}" if own_lists(coder, inner) else "first + len(states) - 1"
            lines.append(joined(coder, inner, iterates, last, f"d_{solution}"))
    return lines


def _pull(coder: Coder, level: ir.Level, inner: ir.Level) -> list[Statement]:
    """What the steps of the window add to the cotangents of the variables."""
    targets = [coder.writer.name(t) for t in coder.plan.facts[inner.name].targets]
    left = ", ".join(f"more_{t}" for t in targets)
    lists = own_lists(coder, inner)
    call = coder.call(f"{inner.name}_pullback", key=list_key("inner_key", lists))
    added = tuple(Assign(f"d_{t}", f"add(d_{t}, more_{t})") for t in targets)
    if not lists:
        return [Assign(left, call), *added]
    names = [coder.writer.name(f"@{n}" if coder.plan.facts[inner.name].iterates else n) for n in inner.names]
    more = {"states": inner.copies} | {f"d_{n}": inner.copies for n in names}
    text = per_element(coder, inner, call, f"{inner.name}_pullback", more=more)
    return [Loop(left, f"all_listed({text}, {len(lists)})", added)]


def windows_body(coder: Coder, level: ir.Level, inner: ir.Level, adjoint: Unroll) -> list[Statement]:
    """The updates of one outer step, one for each window; the value is their mean."""
    x = pack(own(coder, level))
    steps = steps_text(coder, inner)
    gradient = coder.call(f"{level.name}_gradient")
    update = coder.call(f"{level.name}_update", variables=x, count="count")
    loop: tuple[Statement, ...] = (
        Assign("gradient, value, carried", gradient),
        Assign("count", f"state.step * ({steps} // {adjoint.window}) + first // {adjoint.window}"),
        Assign(f"{x}, solver", update),
        Assign("", "values.append(value)"),
    )
    return [
        Assign("carried, solver, values", "None, state.solver, []"),
        Assign("inner_key", f'fold(key, "{inner.name}")'),
        Loop("first", f"range(0, {steps}, {adjoint.window})", loop),
        Assign("value", "torch.stack(values).mean()"),
    ]
