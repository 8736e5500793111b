"""The pullback of a level: cotangents of what it reads, from the cotangents of its iterates.

The walk is that of papers/002, algorithm 3, over t = T..1: the update is pulled back to the iterate, the solver's
state and the gradient; the gradient's cotangent is carried on by one jvp of the gradient (mixed mode: H c and the
mixed product are both directional derivatives, by Schwarz) or by a vjp of it; last, the start.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Comment, Function, If, Loop, Return, Statement
from bilevel.backends.torch_func import stopping
from bilevel.backends.torch_func.coder import (
    Coder,
    carried,
    domain_call,
    is_warm,
    is_windowed,
    own,
    pack,
    slot,
    steps_text,
)
from bilevel.backends.torch_func.forward import checkpoint_count
from bilevel.backends.torch_func.implicit import product_functions, pullback_body
from bilevel.backends.torch_func.steps import (
    count_text,
    gradient_call,
    keys,
    level_parameters,
    over_run,
    run_given,
    runs,
    targets,
    traceable,
)
from bilevel.kinds import moves_by_next
from bilevel.modes import Adjoint, Implicit, Leaping, Perturb, Substitute, Tangents, Unroll
from bilevel.plan import Step


def pullback_functions(coder: Coder, step: Step) -> list[Function]:
    """`LEVEL_pullback`, and before it the functions of the walk through its steps that can become kernels."""
    level = coder.program.level(step.level)
    adjoint = coder.plan.choices[level.name].adjoint
    unroll = adjoint.inner if isinstance(adjoint, Leaping) else adjoint
    walks = isinstance(unroll, Unroll) and unroll.store != "residuals"
    back = [_back_function(coder, level, unroll)] if isinstance(unroll, Unroll) and walks else []
    back += _start_functions(coder, level) if isinstance(unroll, Unroll) else []
    back += product_functions(coder, level) if isinstance(adjoint, Implicit) else []
    return [*back, pullback_function(coder, step)]


def pullback_function(coder: Coder, step: Step) -> Function:
    """Cotangents of the targets of a level, in order, from those of its solution (or of all its iterates)."""
    level = coder.program.level(step.level)
    adjoint = coder.plan.choices[level.name].adjoint
    names = targets(coder, level)
    body: list[Statement] = [*_initial(coder, level)]
    cotangent = _packed_cotangent(own(coder, level))
    residual = ""
    match adjoint:
        case Implicit():
            body += pullback_body(coder, level, adjoint, cotangent)
            residual = ", residual"
            body.append(Return(f"{', '.join(f'd_{t}' for t in names)}{residual}"))
        case Perturb():
            body += _perturbed(coder, level, adjoint, names, cotangent)
        case Leaping(inner=inner):
            body += [Assign(cotangent, f"scaled_each(states[-1][2], {cotangent})"), Assign("states", "states[:-1]")]
            body += _unrolled(coder, level, inner, names)
            body.append(Return(", ".join(f"d_{t}" for t in names)))
        case Substitute():
            body += _substituted(coder, level, names, cotangent)
        case Tangents():
            wanted = f"({', '.join(names)},)"
            if coder.plan.facts[level.name].iterates:
                body = _contract_all(coder, level, names, wanted)
                return coder.function(
                    f"{level.name}_pullback",
                    _parameters(coder, level, names),
                    _doc(coder, level, names),
                    body,
                    step.span,
                )
            body.append(Return(f"contract(states[-1][2][0], {cotangent}, {wanted}){'[0]' * (len(names) == 1)}"))
        case Unroll():
            body += _unrolled(coder, level, adjoint, names)
            body.append(Return(", ".join(f"d_{t}" for t in names)))
    doc = _doc(coder, level, names)
    return coder.function(f"{level.name}_pullback", _parameters(coder, level, names), doc, body, step.span)


def _doc(coder: Coder, level: ir.Level, names: list[str]) -> str:
    title = _title(coder.plan.choices[level.name].adjoint)
    return f"Cotangents of {', '.join(names)} from those of what {level.name} solves for; {title}."


def _contract_all(coder: Coder, level: ir.Level, names: list[str], wanted: str) -> list[Statement]:
    """Products of the cotangents of all iterates with their tangents."""
    own_names = own(coder, level)
    values = [coder.writer.name(n) for n in level.names]
    loop: list[Statement] = [Assign(f"d_{v}", f"d_{v}_at[step]") for v in values]
    loop += _to_free(coder, level, "states[step][0]")
    packed = pack([f"d_{n}" for n in own_names])
    loop.append(Assign("more", f"contract(states[step][2][0], {packed}, {wanted})"))
    loop += [Assign(f"d_{t}", f"add(d_{t}, more[{place}])") for place, t in enumerate(names)]
    zero: list[Statement] = [Assign(f"d_{t}", f"zeros({t})") for t in names]
    return [*zero, Loop("step", "range(len(states))", tuple(loop)), Return(", ".join(f"d_{t}" for t in names))]


def _unrolled(coder: Coder, level: ir.Level, adjoint: Unroll, names: list[str]) -> list[Statement]:
    """The walk from the last step to the first, and the start."""
    cut = adjoint.window is not None
    alone = [] if cut else _start_only(coder, level)
    if adjoint.update:
        zero = [Assign(f"d_{t}", f"zeros({t})") for t in names]
        return [_no_solver(coder, level, adjoint), *zero, *_over_window(coder, level)]
    body: list[Statement] = [_no_solver(coder, level, adjoint)]
    body += [Assign("taken", "states[-1][-1]")] * (stopping.unrolled(coder, level) and adjoint.store != "residuals")
    body += [Assign(f"d_{t}", f"zeros({t})") for t in names if t not in alone]
    match adjoint.store:
        case "iterates":
            body += _over_states(coder, level, adjoint)
        case "residuals":
            body += _over_residuals(coder, level)
        case "even" | "binomial":
            body += _over_checkpoints(coder, level, adjoint)
    return body if cut else [*body, *_pull_start(coder, level)]


def _no_solver(coder: Coder, level: ir.Level, adjoint: Unroll) -> Statement:
    """The cotangent of the last solver's state: nothing reads it. A kept vjp asks for those of warm ends as well."""
    own_state = "[0]" * (bool(carried(coder, level)) and adjoint.store != "residuals")
    return Assign("d_solver", f"zeros(states[-1][1]{own_state})")


def _changed(coder: Coder, level: ir.Level) -> list[str]:
    """The cotangents that a walk through some steps changes."""
    alone = [] if _is_cut(coder, level) else _start_only(coder, level)
    names = [t for t in targets(coder, level) if t not in alone]
    return [_packed_cotangent(own(coder, level)), "d_solver", *(f"d_{t}" for t in names)]


def _is_cut(coder: Coder, level: ir.Level) -> bool:
    """Whether the walk ends before the start."""
    adjoint = coder.plan.choices[level.name].adjoint
    return isinstance(adjoint, Unroll) and adjoint.window is not None


def _back_function(coder: Coder, level: ir.Level, adjoint: Unroll) -> Function:
    """The walk back through some steps: a function of tensors without control flow, which can become a kernel."""
    changed = _changed(coder, level)
    given = [coder.writer.name(n) for n in level.names] if coder.plan.facts[level.name].iterates else []
    more = {"state": "states", **{f"given_{n}": f"given_{n}_at" for n in given}}
    body = over_run(coder, level, more, True, _one_step(coder, level, adjoint))
    inner = level_parameters(coder, level, ["objective", "gradient", "update"])
    lists = ["states", "steps", "keys", "drawn", "taken", *more.values(), *changed]
    # A cotangent of a list of iterates has the name that the walk gives to its entries.
    parameters = [*lists, *(p for p in [*inner, *targets(coder, level)] if p not in lists)]
    doc = f"Cotangents of the states of {level.name} before some steps, and of what these read, from those after them."
    lines: list[Statement] = [body, Return(", ".join(changed))]
    return coder.function(f"{level.name}_back", parameters, doc, lines, None, 2, kernel=traceable(coder, level))


def _walk(coder: Coder, level: ir.Level, first: str, last: str, offset: str) -> list[Statement]:
    """Back through the steps first..last-1; `states` begins with the one before step `offset`."""
    shift = "" if offset == "0" else f", {offset}"
    given = {"states": f"within(states, steps{shift})", **run_given(coder, level)}
    if coder.plan.facts[level.name].iterates:
        for name in map(coder.writer.name, level.names):
            some = f"[d_{name}_at.get(step) for step in steps]"  # by number of the step: a window has not all
            given[f"given_{name}_at"] = some if is_windowed(coder.plan, level) else f"within(d_{name}_at, steps)"
    call = coder.call(f"{level.name}_back", **given)
    left = ", ".join(_changed(coder, level))
    return [Loop("steps", f"reversed({runs(level, first, last)})", (Assign(left, call),))]


def _over_window(coder: Coder, level: ir.Level) -> list[Statement]:
    """The steps of one window, which began with step `first`; the start belongs to the first window."""
    start = _pull_start(coder, level)
    last = "first + len(states) - 1"
    lines: list[Statement] = [*keys(coder, level, last), *_walk(coder, level, "first", last, "first")]
    return [*lines, *([If("first == 0", tuple(start))] if start else [])]


def _over_states(coder: Coder, level: ir.Level, adjoint: Unroll) -> list[Statement]:
    """All states (or those of the last steps) are at hand."""
    steps = "len(states) - 1"
    if adjoint.window is not None and coder.plan.facts[level.name].iterates:
        return [*keys(coder, level, steps), *_walk(coder, level, f"max(0, {steps} - {adjoint.window})", steps, "0")]
    if adjoint.window is not None:
        # Numbers of steps count from the start, also where only the last states are kept.
        total = steps_text(coder, level)
        lines: list[Statement] = [Assign("dropped", f"{total} - len(states) + 1"), *keys(coder, level, total)]
        return [*lines, *_walk(coder, level, "dropped", total, "dropped")]
    return [*keys(coder, level, steps), *_walk(coder, level, "0", steps, "0")]


def _over_residuals(coder: Coder, level: ir.Level) -> list[Statement]:
    """Every state carries the vjp of the step that led to it."""
    names, cotangent = targets(coder, level), _packed_cotangent(own(coder, level))
    left = ", ".join([cotangent, "d_solver", *(f"more_{t}" for t in names)])
    alone = _start_only(coder, level)
    body: list[Statement] = [Assign(left, f"states[step + 1][2](({cotangent}, d_solver))")]
    body += _accumulate([t for t in names if t not in alone])
    if coder.plan.facts[level.name].iterates:
        given = [coder.writer.name(n) for n in level.names]
        body += [Assign(f"given_{n}", f"d_{n}_at[step]") for n in given]
        body += [Assign("state", "states[step]"), *_inject(coder, level, cotangent)]
    return [Loop("step", "reversed(range(len(states) - 1))", tuple(body))]


def _over_checkpoints(coder: Coder, level: ir.Level, adjoint: Unroll) -> list[Statement]:
    """States between checkpoints are computed again; `back` walks through some steps."""
    steps = steps_text(coder, level)
    again = (
        Assign("", f"nonlocal {', '.join(_changed(coder, level))}"),
        *_walk(coder, level, "first", "last", "first"),
    )
    back = Function("back", ("states", "first", "last"), "", again)
    advance = coder.call(f"{level.name}_advance", keep="True")
    walk = "walk_back" if adjoint.store == "even" else "walk_back_binomial"
    count = checkpoint_count(adjoint, steps)
    taken = ", most(taken)" * stopping.unrolled(coder, level)
    call = f"{walk}(back, lambda state, first, last: {advance}, states, {steps}, {count}{taken})"
    return [*keys(coder, level, steps), back, Assign("", call)]


def _start_only(coder: Coder, level: ir.Level) -> list[str]:
    """Targets that enter through the start alone: their cotangent is that of the start."""
    facts = coder.plan.facts[level.name]
    if is_warm(level):
        return []
    later = facts.entering("objective", "solver", "inner")
    names = [coder.writer.name(t) for t in facts.entering("start") if t not in later]
    return [n for n in names if n in coder.known[f"{level.name}_start"]]


def _title(adjoint: Adjoint | None) -> str:
    words = {
        "mixed": "forward over reverse: both products from one jvp of the gradient",
        "reverse": "reverse over reverse",
        "none": "the gradient inside a step is held constant (order 1)",
    }
    match adjoint:
        case Unroll(product=product):
            return words[product]
        case Implicit(method=method):
            return f"implicit differentiation, linear system by {method}"
        case Perturb(samples=samples):
            return f"{samples} antithetic pairs of perturbed solves"
        case Leaping(teacher=teacher):
            return f"gamma times that of the {teacher} teacher's steps"
        case Substitute():
            return "the closed form itself is differentiated"
    return "products with the tangents of the solution"


def _perturbed(coder: Coder, level: ir.Level, adjoint: Perturb, names: list[str], cotangent: str) -> list[Statement]:
    """Solutions for perturbed targets, with the same draws; their difference along the cotangent."""
    inner = ", ".join(names)
    solve = coder.call(f"{level.name}_forward", keep="False")
    wanted = f"({inner},)"
    return [
        Assign("solve", f"lambda {inner}: {solve}[-1][0]"),
        Assign(
            "estimate",
            f'perturbed(solve, {wanted}, {cotangent}, fold(key, "es"), {adjoint.samples}, {adjoint.sigma!r})',
        ),
        Return(f"estimate{'[0]' * (len(names) == 1)}"),
    ]


def _substituted(coder: Coder, level: ir.Level, names: list[str], cotangent: str) -> list[Statement]:
    """A vjp of the closed form."""
    call = coder.call(f"{level.name}_forward", keep="False")
    inner = ", ".join(names)
    return [
        Assign("_, pull", f"vjp(lambda {inner}: {call}[-1][0], {inner})"),
        Assign(f"({', '.join(f'd_{t}' for t in names)},)", f"pull({cotangent})"),
        Return(", ".join(f"d_{t}" for t in names)),
    ]


def _parameters(coder: Coder, level: ir.Level, targets: list[str]) -> list[str]:
    """States, cotangents, then what the functions of a step need from outside."""
    facts = coder.plan.facts[level.name]
    cotangents = [f"d_{coder.writer.name(f'@{n}' if facts.iterates else n)}" for n in level.names]
    given = [p for p in coder.known[f"{level.name}_forward"] if p not in ("keep", "key")]
    missing = [t for t in targets if t not in given]
    return ["states", *cotangents, *given, *missing, *(["first"] * is_windowed(coder.plan, level)), "key"]


def _initial(coder: Coder, level: ir.Level) -> list[Statement]:
    """The cotangent of the last state, in free coordinates."""
    names = own(coder, level)
    lines: list[Statement] = []
    if coder.plan.facts[level.name].iterates:
        for variable in level.variables:
            value = coder.writer.name(variable.name)
            last = "first + len(states) - 1" if is_windowed(coder.plan, level) else "-1"
            lines.append(Assign(f"d_{value}", f"d_{value}_at[{last}]"))
    lines += _to_free(coder, level, "states[-1][0]")
    if len(names) > 1:
        lines.append(Assign(_packed_cotangent(names), pack([f"d_{n}" for n in names])))
    return lines


def _packed_cotangent(names: list[str]) -> str:
    """The name of the cotangent of the packed variables."""
    return f"d_{names[0]}" if len(names) == 1 else "cotangent"


def _to_free(coder: Coder, level: ir.Level, state: str) -> list[Statement]:
    """Cotangents of values as cotangents of free coordinates, at a state."""
    lines: list[Statement] = []
    for place, variable in enumerate(level.variables):
        name = coder.writer.name(variable.name)
        free = state if len(level.variables) == 1 else f"{state}[{place}]"
        if variable.domain is not None:
            call = domain_call(variable, "free")
            lines.append(Assign(f"(d_{name}_free,)", f"vjp(lambda free: {call}, {free})[1](d_{name})"))
    return lines


def _one_step(coder: Coder, level: ir.Level, adjoint: Unroll) -> list[Statement]:
    """One step of the walk, from the state before the step."""
    names = own(coder, level)
    x, cotangent = pack(names), _packed_cotangent(names)
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
        lines += _inject(coder, level, cotangent)
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
        *_accumulate(through),
    ]
    return [*lines, *(_inject(coder, level, cotangent) if coder.plan.facts[level.name].iterates else [])]


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
    return lines + _accumulate(through)


def _accumulate(names: list[str]) -> list[Statement]:
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
            f"_, ({left}{',' * (len(wanted) == 1)})",
            f"jvp(lambda {arguments}: {gradients}, ({arguments},), {tangent})",
        ),
        Assign(cotangent, f"add({cotangent}, {pack(curvature)})"),
    ]
    return lines + _accumulate(wanted[len(names) :])


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
    return lines + _accumulate(through)


def _inject(coder: Coder, level: ir.Level, cotangent: str) -> list[Statement]:
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
    lines += _to_free(coder, level, "state[0]")
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


def _start_reads(coder: Coder, level: ir.Level) -> list[str]:
    """The targets that the start reads; a warm start is a constant."""
    through = [coder.writer.name(t) for t in coder.plan.facts[level.name].entering("start")]
    return [t for t in through if t in coder.known[f"{level.name}_start"] and not is_warm(level)]


def _start_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """The start, pulled back to what it reads."""
    start, through = f"{level.name}_start", _start_reads(coder, level)
    if not through:
        return []
    cotangent = _packed_cotangent(own(coder, level))
    names = ", ".join(through)
    body: list[Statement] = [
        Assign("_, pull", f"vjp(lambda {names}: {coder.call(start)}, {names})"),
        Return(f"pull({cotangent})"),
    ]
    doc = f"Cotangents of {names} from that of where {level.name} starts."
    parameters = [cotangent, *coder.known[start]]
    return [coder.function(f"{level.name}_start_pullback", parameters, doc, body, None, 1, kernel=True)]


def _pull_start(coder: Coder, level: ir.Level) -> list[Statement]:
    """The start, pulled back to what it reads."""
    through = _start_reads(coder, level)
    if not through:
        return []
    alone = [] if is_windowed(coder.plan, level) else _start_only(coder, level)
    left = ", ".join(f"d_{t}" if t in alone else f"more_{t}" for t in through)
    return [
        Assign(f"({left},)", coder.call(f"{level.name}_start_pullback")),
        *_accumulate([t for t in through if t not in alone]),
    ]
