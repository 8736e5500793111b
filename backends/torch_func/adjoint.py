"""The pullback of a level: cotangents of what it reads, from the cotangents of its iterates.

The walk is that of papers/002, algorithm 3, over t = T..1: the update is pulled back to the iterate, the solver's
state and the gradient; the gradient's cotangent is carried on by one jvp of the gradient (mixed mode: H c and the
mixed product are both directional derivatives, by Schwarz) or by a vjp of it; last, the start.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Function, If, Loop, Return, Statement
from bilevel.backends.torch_func import stopping
from bilevel.backends.torch_func.backwards import accumulate, inject, one_step, packed_cotangent, to_free
from bilevel.backends.torch_func.coder import (
    Coder,
    carried,
    is_warm,
    is_windowed,
    own,
    pack,
    steps_text,
)
from bilevel.backends.torch_func.forward import checkpoint_count, checkpoint_runs
from bilevel.backends.torch_func.implicit import product_functions, pullback_body
from bilevel.backends.torch_func.steps import (
    carry_mark,
    keys,
    over_run,
    run_given,
    run_parameters,
    runs,
    targets,
    traceable,
)
from bilevel.modes import Adjoint, Implicit, Leaping, Perturb, Substitute, Tangents, Unroll
from bilevel.plan import Step


def pullback_functions(coder: Coder, step: Step) -> list[Function]:
    """`LEVEL_pullback`, and before it the functions of the walk through its steps that can become kernels."""
    level = coder.program.level(step.level)
    adjoint = coder.plan.choices[level.name].adjoint
    unroll = adjoint.inner if isinstance(adjoint, Leaping) else adjoint
    walks = isinstance(unroll, Unroll) and unroll.store != "residuals" and not unroll.pulled
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
    cotangent = packed_cotangent(own(coder, level))
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
    loop += to_free(coder, level, "states[step][0]")
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
        zero: list[Statement] = [Assign(f"d_{t}", f"zeros({t})") for t in names]
        zero += _mark(coder, level, names)
        return [_no_solver(coder, level, adjoint), *zero, *_over_window(coder, level)]
    body: list[Statement] = [_no_solver(coder, level, adjoint)]
    body += [Assign("taken", "states[-1][-1]")] * (stopping.unrolled(coder, level) and adjoint.store != "residuals")
    body += [Assign(f"d_{t}", f"zeros({t})") for t in names if t not in alone]
    if adjoint.store != "residuals" and not adjoint.pulled:
        body += _mark(coder, level, [t for t in names if t not in alone])
    match adjoint.store:
        case "iterates":
            body += _over_states(coder, level, adjoint)
        case "residuals":
            body += _over_residuals(coder, level)
        case "even" if adjoint.pulled:
            body += _over_runs(coder, level, adjoint)
        case "even" | "binomial":
            body += _over_checkpoints(coder, level, adjoint)
    return body if cut else [*body, *_pull_start(coder, level)]


def _mark(coder: Coder, level: ir.Level, names: list[str]) -> list[Statement]:
    """The mark of the cotangents of a walk, which makes all of the first ones but that of the last iterate."""
    return [carry_mark(["d_solver", *(f"d_{t}" for t in names)])] * traceable(coder, level)


def _no_solver(coder: Coder, level: ir.Level, adjoint: Unroll) -> Statement:
    """The cotangent of the last solver's state: nothing reads it. A kept vjp asks for those of warm ends as well."""
    own_state = "[0]" * (bool(carried(coder, level)) and adjoint.store != "residuals" and not adjoint.pulled)
    return Assign("d_solver", f"zeros(states[-1][1]{own_state})")


def _changed(coder: Coder, level: ir.Level) -> list[str]:
    """The cotangents that a walk through some steps changes."""
    alone = [] if _is_cut(coder, level) else _start_only(coder, level)
    names = [t for t in targets(coder, level) if t not in alone]
    return [packed_cotangent(own(coder, level)), "d_solver", *(f"d_{t}" for t in names)]


def _is_cut(coder: Coder, level: ir.Level) -> bool:
    """Whether the walk ends before the start."""
    adjoint = coder.plan.choices[level.name].adjoint
    return isinstance(adjoint, Unroll) and adjoint.window is not None


def _back_function(coder: Coder, level: ir.Level, adjoint: Unroll) -> Function:
    """The walk back through some steps: a function of tensors without control flow, which can become a kernel."""
    changed = _changed(coder, level)
    given = [coder.writer.name(n) for n in level.names] if coder.plan.facts[level.name].iterates else []
    more = {"state": "states", **{f"given_{n}": f"given_{n}_at" for n in given}}
    body = over_run(coder, level, more, True, one_step(coder, level, adjoint))
    inner = run_parameters(coder, level, ["objective", "gradient", "update"])
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
    changed = _changed(coder, level)
    if traceable(coder, level):
        # The first cotangent of the iterate is the caller's: to write over it would take a copy where most is held.
        given |= {name: f"carry({name})" for name in changed[1:]}
    call = coder.call(f"{level.name}_back", **given)
    left = ", ".join(changed)
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
    names, cotangent = targets(coder, level), packed_cotangent(own(coder, level))
    left = ", ".join([cotangent, "d_solver", *(f"more_{t}" for t in names)])
    alone = [] if _is_cut(coder, level) else _start_only(coder, level)
    body: list[Statement] = [Assign(left, f"states[step + 1][2](({cotangent}, d_solver))")]
    body += accumulate([t for t in names if t not in alone])
    if coder.plan.facts[level.name].iterates:
        given = [coder.writer.name(n) for n in level.names]
        body += [Assign(f"given_{n}", f"d_{n}_at[step]") for n in given]
        body += [Assign("state", "states[step]"), *inject(coder, level, cotangent)]
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


def _over_runs(coder: Coder, level: ir.Level, adjoint: Unroll) -> list[Statement]:
    """Runs between checkpoints are computed again with their residuals, which `back` uses up."""
    steps, cotangent = steps_text(coder, level), packed_cotangent(own(coder, level))
    names, changed = targets(coder, level), _changed(coder, level)
    left = ", ".join([cotangent, "d_solver", *(f"more_{t}" for t in names)])
    loop: list[Statement] = [Assign(left, f"pulls.pop()(({cotangent}, d_solver))")]
    loop += accumulate([t for t in names if f"d_{t}" in changed])
    body = (Assign("", f"nonlocal {', '.join(changed)}"), Loop("_", "range(len(pulls))", tuple(loop)))
    again = coder.call(f"{level.name}_again")
    taken = ", most(taken)" * stopping.unrolled(coder, level)
    runs = checkpoint_runs(adjoint, steps)
    call = f"walk_back_pulled(back, lambda state, first, last: {again}, states, {runs}{taken})"
    return [Function("back", ("pulls",), "", body), Assign("", call)]


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
    lines += to_free(coder, level, "states[-1][0]")
    if len(names) > 1:
        lines.append(Assign(packed_cotangent(names), pack([f"d_{n}" for n in names])))
    return lines


def _start_reads(coder: Coder, level: ir.Level) -> list[str]:
    """The targets that the start reads; a warm start is a constant."""
    through = [coder.writer.name(t) for t in coder.plan.facts[level.name].entering("start")]
    return [t for t in through if t in coder.known[f"{level.name}_start"] and not is_warm(level)]


def _start_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """The start, pulled back to what it reads."""
    start, through = f"{level.name}_start", _start_reads(coder, level)
    if not through:
        return []
    cotangent = packed_cotangent(own(coder, level))
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
        *accumulate([t for t in through if t not in alone]),
    ]
