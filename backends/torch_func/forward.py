"""Solving a level: the loop over its steps, and what it keeps for the way back.

`LEVEL_forward(..., keep)` gives a list whose last entry begins with the solution and the solver's state. With `keep`
the entries before it are what the level's pullback needs; without, there are none and no graph is held.
"""

from __future__ import annotations

import dataclasses

from bilevel import ir
from bilevel.backends.source import Assign, Function, If, Loop, Return, Statement
from bilevel.backends.torch_func import draws, implicit, populations, stopping, windows
from bilevel.backends.torch_func.closed_forms import closed_form_function
from bilevel.backends.torch_func.coder import Coder, carried, is_warm, own, pack, per, slot, steps_text
from bilevel.backends.torch_func.expressions import free_reads, mapped, parameters_of, write
from bilevel.backends.torch_func.steps import (
    begin,
    carry,
    carry_mark,
    count_text,
    each_step,
    first_states,
    given_up,
    gradient_of_step,
    keys,
    level_parameters,
    over_run,
    run_given,
    run_parameters,
    runs,
    step_body,
    targets,
    traceable,
)
from bilevel.dsl.noises import without_noise
from bilevel.kinds import is_searched, kind, moves_by_next, tests_gradient
from bilevel.modes import Implicit, Leaping, Tangents, Unroll
from bilevel.plan import Step


def forward_functions(coder: Coder, step: Step) -> list[Function]:
    """The functions that solve a level, `LEVEL_forward` last."""
    level = coder.program.level(step.level)
    if is_searched(level):
        return populations.nested_functions(coder, level, step)
    match kind(level):
        case "closed form":
            return [closed_form_function(coder, level, step)]
        case "until" | "fixed point" if not stopping.unrolled(coder, level):
            return implicit.until_functions(coder, level, step)
    return [*_slope_functions(coder, level), *_by_steps(coder, level, step)]


def _slope_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """What vanishes at a stationary point that was promised."""
    return implicit.slope_functions(coder, level) if tests_gradient(level) else []


def _by_steps(coder: Coder, level: ir.Level, step: Step) -> list[Function]:
    """The functions of a level that is a number of steps, known before or decided by a test."""
    tested = stopping.unrolled(coder, level)
    match coder.plan.choices[level.name].adjoint:
        case Unroll(update=True):
            return [
                *advance_functions(coder, level),
                windows.begin_function(coder, level),
                _plain(coder, level, step, None),
            ]
        case Unroll(store="residuals"):
            move = move_function(coder, level)
            run = [] if tested else [run_function(coder, level)]
            return [*run, move, _pulled_move(coder, level), _with_residuals(coder, level, step)]
        case Unroll(store="even", pulled=True) as adjoint:
            pulls = [move_function(coder, level), _pulled_move(coder, level), _again_function(coder, level)]
            return [*advance_functions(coder, level), *pulls, _with_checkpoints(coder, level, step, adjoint)]
        case Unroll(store="even" | "binomial") as adjoint:
            return [*advance_functions(coder, level), _with_checkpoints(coder, level, step, adjoint)]
        case Leaping() as leap:
            return [run_function(coder, level), _leaping(coder, level, step, leap)]
        case Tangents():
            return [move_function(coder, level), _with_tangents(coder, level, step)]
        case Unroll() as adjoint:
            run = [] if tested else [run_function(coder, level, adjoint)]
            return [*run, _plain(coder, level, step, adjoint)]
        case Implicit(through=through):
            slopes = implicit.slope_functions(coder, level)
            begun = through is not None or coder.plan.facts[level.name].iterates  # which may read the start
            last = "1 if keep else 0" if begun else "0"
            return [*slopes, run_function(coder, level), _plain(coder, level, step, None, last)]
    return [*([] if tested else [run_function(coder, level)]), _plain(coder, level, step, None)]


def _function(coder: Coder, level: ir.Level, step: Step, body: list[Statement], kept: str) -> Function:
    parameters = level_parameters(coder, level, ["start", "draw", "gradient", "update", "slope"])
    missing = [coder.writer.name(t) for t in coder.plan.facts[level.name].targets]
    adjoint = coder.plan.choices[level.name].adjoint
    missing += leap_reads(coder, level, adjoint) if isinstance(adjoint, Leaping) else []
    missing += [coder.writer.name(a) for a in draws.axis_values(coder.program, level.batched)]
    parameters = [*parameters, *(t for t in missing if t not in parameters), "keep"]
    doc = f"The states (iterate, solver's state) of {level.name}{per(level)}: {kept}, or only the last."
    return coder.function(f"{level.name}_forward", parameters, doc, body, step.span)


def _update(coder: Coder, level: ir.Level, x: str) -> Assign:
    """The update of one step, along `gradient` or for `next` by itself; copies that have stopped stay."""
    if moves_by_next(level):
        call = coder.call(f"{level.name}_update", variables=x, count="counted(step)", key="step_key")
        return Assign(x, stopping.masked(coder, level, call, x))
    call = coder.call(f"{level.name}_update", variables=x, count=f"counted({count_text(coder, level)})")
    return Assign(f"{x}, solver", stopping.masked(coder, level, call, x))


def _gradient(coder: Coder, level: ir.Level) -> list[Statement]:
    """The gradient of one step, of which `next` has none."""
    if moves_by_next(level):
        return []
    return [gradient_of_step(coder, level, "step_key")]


def _move(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """The gradient and the update of one step."""
    return [*_gradient(coder, level), _update(coder, level, x), *_carry(coder, level)]


def _carry(coder: Coder, level: ir.Level) -> list[Statement]:
    return carry(coder, level, stopping.unrolled(coder, level))


def _tested(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """The test before a step, where there is one, with the gradient or the step itself where it asks for that."""
    if not stopping.unrolled(coder, level):
        return []
    asked: list[Statement] = []
    if kind(level) == "fixed point":
        call = coder.call(f"{level.name}_update", variables=x, count="counted(step)", key="step_key")
        asked = [Assign("moved", call)]
    elif tests_gradient(level) and not (level.draws or level.indices):
        asked = _gradient(coder, level)
    return [*asked, *stopping.test(coder, level, x), Assign("taken", "taken + active")]


def _looped(coder: Coder, level: ir.Level, x: str, inside: list[Statement]) -> list[Statement]:
    """The loop over the steps of a level; `inside` follows the draws and the test of each step."""
    steps = steps_text(coder, level)
    loop = each_step(coder, level, f"range({steps})", [*step_body(coder, level), *_tested(coder, level, x), *inside])
    return [*keys(coder, level, steps), *stopping.first(coder, level), loop]


def run_function(coder: Coder, level: ir.Level, adjoint: Unroll | None = None) -> Function:
    """Some steps in one call: a function of tensors without control flow, which can become a kernel."""
    x = pack(own(coder, level))
    gradient, update = _gradient(coder, level), _update(coder, level, x)
    stopped = stopping.unrolled(coder, level)
    held = slot(coder, level)
    body: list[Statement] = [Assign(f"{x}, {held}", "states[-1][:2]"), *[stopping.MASK] * stopped, *gradient]
    if adjoint is not None and adjoint.gradient == "kept" and gradient:
        body.append(Assign("states[-1]", "(*states[-1][:2], gradient)"))
    body += [update, *_carry(coder, level), Assign("", f"states.append(({x}, {held}))")]
    body.append(If("not keep", (Assign("", "del states[0]"),)))
    lines: list[Statement] = [Assign("states", "[state]"), over_run(coder, level, {}, False, body), Return("states")]
    inner = run_parameters(coder, level, ["gradient", "update"])
    parameters = ["state", "steps", "keys", "drawn", "taken", *inner, "keep"]
    doc = f"The states of {level.name} from the one before some steps to the one after them: all, or only the last."
    return coder.function(f"{level.name}_run", parameters, doc, lines, None, 2, kernel=traceable(coder, level))


def run_loop(coder: Coder, level: ir.Level, first: str, last: str, dropped: list[Statement]) -> list[Statement]:
    """The steps first..last-1, run after run; `states` ends with the state before them, dead where none is kept."""
    state = given_up(coder, level, "states[-1]", "not keep")
    run = coder.call(f"{level.name}_run", state=state, **run_given(coder, level))
    loop = (Assign("states[-1:]", run), *dropped)
    return [*keys(coder, level, last), Loop("steps", runs(level, first, last), loop)]


def _last_loop(coder: Coder, level: ir.Level, first: str, last: str, kept: str) -> list[Statement]:
    """The steps first..last-1 of which only the last state stays, behind the first `kept` states."""
    state = given_up(coder, level, "states[-1]", "" if kept == "0" else f"len(states) > {kept}")
    run = coder.call(f"{level.name}_run", state=state, keep="False", **run_given(coder, level))
    loop = Assign("states" if kept == "0" else f"states[{kept}:]", run)
    return [*keys(coder, level, last), Loop("steps", runs(level, first, last), (loop,))]


def _plain(coder: Coder, level: ir.Level, step: Step, adjoint: Unroll | None, ends: str = "") -> Function:
    """All states, those of the last `window` steps, or the last behind the first `ends` states."""
    x = pack(own(coder, level))
    sparse = adjoint is not None and not coder.plan.facts[level.name].iterates
    window = adjoint.window if adjoint is not None and sparse else None
    dropped: list[Statement] = [If("not keep", (Assign("", "del states[:-1]"),))]
    if window is not None:
        dropped = [Assign("", f"del states[: -{window + 1} if keep else -1]")]
    body: list[Statement] = begin(coder, level, x)
    if stopping.unrolled(coder, level):
        body.append(Assign("states", f"[({x}, {slot(coder, level)})]"))
        body += _looped(coder, level, x, [*_one_move(coder, level, x, adjoint), *dropped])
    elif ends:
        body += [*first_states(coder, level, x), *[Assign("kept", ends)] * (ends != "0")]
        body += _last_loop(coder, level, "0", steps_text(coder, level), "0" if ends == "0" else "kept")
    else:
        body += [*first_states(coder, level, x), *run_loop(coder, level, "0", steps_text(coder, level), dropped)]
    body += [*stopping.close(coder, level), Return("states")]
    kept = "all" if window is None else f"those of the last {window} steps"
    return _function(coder, level, step, body, "the first and the last" if ends else kept)


def _one_move(coder: Coder, level: ir.Level, x: str, adjoint: Unroll | None) -> list[Statement]:
    """One step of a level that a test ends, behind the states before it."""
    gradient = _gradient(coder, level)
    if adjoint is not None and adjoint.gradient == "kept" and gradient:
        gradient = [*gradient, Assign("states[-1]", "(*states[-1][:2], gradient)")]
    state = f"({x}, {slot(coder, level)})"
    return [*gradient, _update(coder, level, x), *_carry(coder, level), Assign("", f"states.append({state})")]


def move_function(coder: Coder, level: ir.Level) -> Function:
    """Gradient and update of one step as one function, to be differentiated as a whole."""
    x = own(coder, level)
    name = x[0] if len(x) == 1 else "variables"
    unpack: list[Statement] = [Assign(", ".join(x), name)] if len(x) > 1 else []
    unpack += [Assign(slot(coder, level), "solver")] * bool(carried(coder, level))
    update = coder.call(f"{level.name}_update", variables=pack(x))
    update = stopping.masked(coder, level, update, pack(x))
    if moves_by_next(level):
        body: list[Statement] = [*unpack, Return(f"{update}, ()")]
    else:
        body = [*unpack, gradient_of_step(coder, level, "key"), *_returned_move(coder, level, update)]
    begins = [f"{i.name}_begin" for i in carried(coder, level)]
    needed = coder.needs(
        f"{level.name}_gradient", f"{level.name}_update", without=[*x, "variables", "solver", "gradient", *begins]
    )
    needed += ["active"] * stopping.unrolled(coder, level)
    doc = f"One whole step of {level.name}."
    return coder.function(f"{level.name}_move", [name, "solver", *needed], doc, body, None, 2)


def _returned_move(coder: Coder, level: ir.Level, update: str) -> list[Statement]:
    """What a whole step gives: the next state, with where warm levels inside ended."""
    if not carried(coder, level):
        return [Return(update)]
    moved = pack([f"moved_{n}" for n in own(coder, level)])
    lines: list[Statement] = [Assign(f"{moved}, moved_solver", update), *_carry(coder, level)]
    return [*lines, Return(f"{moved}, {slot(coder, level).replace('solver', 'moved_solver', 1)}")]


def move_lambda(coder: Coder, level: ir.Level) -> tuple[str, str]:
    """The step as a function of state and targets, and those values, as text."""
    x = own(coder, level)
    name = x[0] if len(x) == 1 else "variables"
    call = coder.call(f"{level.name}_move", key="step_key", count=count_text(coder, level))
    names = ", ".join([name, "solver", *targets(coder, level)])
    values = ", ".join([pack(x), slot(coder, level), *targets(coder, level)])
    return f"lambda {names}: {call}", values


def _pulled_move(coder: Coder, level: ir.Level) -> Function:
    """One step with its vjp, which keeps all that it needs."""
    x = own(coder, level)
    name = x[0] if len(x) == 1 else "variables"
    wanted = [name, "solver", *targets(coder, level)]
    parameters = [*wanted, *(p for p in coder.known[f"{level.name}_move"] if p not in wanted)]
    names = ", ".join(wanted)
    text = f"vjp(lambda {names}: {coder.call(f'{level.name}_move')}, {names})"
    doc = f"One whole step of {level.name}, and its vjp with all that it needs."
    function = coder.function(
        f"{level.name}_pulled", parameters, doc, [Return(text)], None, len(wanted), kernel=traceable(coder, level)
    )
    return dataclasses.replace(function, pulled=True)


def _pulled_call(coder: Coder, level: ir.Level) -> str:
    """One whole step with its vjp, as text."""
    x = pack(own(coder, level))
    variables = {own(coder, level)[0] if len(own(coder, level)) == 1 else "variables": x}
    count = f"counted({count_text(coder, level)})"
    return coder.call(f"{level.name}_pulled", **variables, solver=slot(coder, level), key="step_key", count=count)


def _with_residuals(coder: Coder, level: ir.Level, step: Step) -> Function:
    """Every step is kept as its vjp, with all that it needs: more memory, and nothing is computed again."""
    x, held = pack(own(coder, level)), slot(coder, level)
    kept = (
        Assign(f"({x}, {held}), pull", _pulled_call(coder, level)),
        Assign("", f"states.append(({x}, {held}, pull))"),
    )
    body = begin(coder, level, x)
    steps = steps_text(coder, level)
    adjoint = coder.plan.choices[level.name].adjoint
    window = adjoint.window if isinstance(adjoint, Unroll) else None
    if stopping.unrolled(coder, level):
        body.append(Assign("states", f"[({x}, {held})]"))
        plain = (*_move(coder, level, x), Assign("states", f"[({x}, {held})]"))
        late = "keep" if window is None else f"keep and step >= {steps} - {window}"
        left_out = "not keep" if window is None else f"not ({late})"
        body += _looped(coder, level, x, [If(late, kept), If(left_out, plain)])
    else:
        first = "0" if window is None else f"max(0, {steps} - {window})"
        body += [*first_states(coder, level, x), *_unkept(coder, level, f"{first} if keep else {steps}")]
        body.append(Assign(f"{x}, {held}", "states[-1]"))
        body.append(each_step(coder, level, f"range(first, {steps})", [*step_body(coder, level), *kept]))
    body += [*stopping.close(coder, level), Return("states")]
    return _function(coder, level, step, body, "all, each with the vjp of the step before it")


def _unkept(coder: Coder, level: ir.Level, first: str) -> list[Statement]:
    """The steps before the first that is kept, in runs."""
    loop = _last_loop(coder, level, "0", "first", "0")[-1]
    return [*keys(coder, level, steps_text(coder, level)), Assign("first", first), loop]


# ---- checkpoints ---------------------------------------------------------------------------------------------


def advance_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """The states of the steps first..last, from the state before them."""
    run = run_function(coder, level)
    dropped: list[Statement] = [If("not keep", (Assign("", "del states[:-1]"),))]
    mark = [carry_mark([])] if traceable(coder, level) else []  # the first state is the caller's
    body: list[Statement] = [Assign("states", "[state]"), *mark, *run_loop(coder, level, "first", "last", dropped)]
    inner = level_parameters(coder, level, ["draw", "run"])
    parameters = ["state", "first", "last", "taken", *(p for p in inner if p not in ("state", "keep")), "keep"]
    doc = f"The states of {level.name} from step first to step last: all, or only the last."
    return [run, coder.function(f"{level.name}_advance", parameters, doc, [*body, Return("states")], None)]


def _again_function(coder: Coder, level: ir.Level) -> Function:
    """The steps first..last-1 once more, each kept as its vjp with all that it needs."""
    x, held = pack(own(coder, level)), slot(coder, level)
    kept: list[Statement] = [
        *[stopping.MASK] * stopping.unrolled(coder, level),
        Assign(f"({x}, {held}), pull", _pulled_call(coder, level)),
        Assign("", "pulls.append(pull)"),
    ]
    loop = each_step(coder, level, "range(first, last)", [*step_body(coder, level), *kept])
    body: list[Statement] = [Assign(f"{x}, {held}", "state"), Assign("pulls", "[]"), *keys(coder, level, "last"), loop]
    inner = level_parameters(coder, level, ["draw", "gradient", "update"])
    inner += [*targets(coder, level), *(coder.writer.name(a) for a in draws.axis_values(coder.program, level.batched))]
    parameters = ["state", "first", "last", "taken", *(p for p in inner if p != "state")]
    doc = f"The vjps of the steps of {level.name} from step first on, before step last, each with all that it needs."
    return coder.function(f"{level.name}_again", parameters, doc, [*body, Return("pulls")], None)


def checkpoint_count(adjoint: Unroll, steps: str) -> str:
    """The number of checkpoints, as text."""
    return str(adjoint.checkpoints) if adjoint.checkpoints is not None else f"root({steps})"


def checkpoint_runs(adjoint: Unroll, steps: str) -> str:
    """The runs of steps between checkpoints, as text."""
    if adjoint.pulled and adjoint.checkpoints is None:
        return f"falling({steps})"
    count = checkpoint_count(adjoint, steps)
    return f"segments({steps}, {count})" if adjoint.store == "even" else f"binomial_segments({steps}, {count})"


def _with_checkpoints(coder: Coder, level: ir.Level, step: Step, adjoint: Unroll) -> Function:
    """The states at the checkpoints."""
    x, held = pack(own(coder, level)), slot(coder, level)
    if stopping.unrolled(coder, level):
        return _with_checkpoints_tested(coder, level, step, adjoint)
    steps = steps_text(coder, level)
    advance = coder.call(f"{level.name}_advance", state=f"({x}, {held})", keep="False")
    state = f"together(({x}, {held}))" if adjoint.pulled and not carried(coder, level) else f"({x}, {held})"
    loop: tuple[Statement, ...] = (
        If("keep", (Assign("", f"kept.append({state})"),)),
        Assign(f"{x}, {held}", f"{advance}[-1]"),
    )
    body: list[Statement] = [*begin(coder, level, x), Assign("kept", "[]")]
    body += [Loop("first, last", f"{checkpoint_runs(adjoint, steps)} if keep else [(0, {steps})]", loop)]
    body.append(Return(f"[*kept, ({x}, {held})]"))
    return _function(coder, level, step, body, "those at the checkpoints and the last")


def _with_checkpoints_tested(coder: Coder, level: ir.Level, step: Step, adjoint: Unroll) -> Function:
    """The states at the checkpoints that the cap gives, as far as the steps went."""
    x, held = pack(own(coder, level)), slot(coder, level)
    kept = If("keep and step in places", (Assign("", f"kept.append(({x}, {held}))"),))
    places = f"{{first for first, _ in {checkpoint_runs(adjoint, steps_text(coder, level))}}}"
    body: list[Statement] = [*begin(coder, level, x), Assign("kept, places", f"[], {places}")]
    body += _looped(coder, level, x, [kept, *_move(coder, level, x)])
    body += [Assign("states", f"[*kept, ({x}, {held})]"), *stopping.close(coder, level), Return("states")]
    return _function(coder, level, step, body, "those at the checkpoints and the last")


# ---- leaps ---------------------------------------------------------------------------------------------------


def _leaping(coder: Coder, level: ir.Level, step: Step, leap: Leaping) -> Function:
    """The teacher's states, then the point leapt to; of the student only the last iterates are held."""
    x, steps = pack(own(coder, level)), steps_text(coder, level)
    first, last = leap.teacher + 1, leap.keep
    body = [*begin(coder, level, x), *first_states(coder, level, x)]
    if first == last == 1:
        body += [Assign("kept", "1 if keep else 0"), *_last_loop(coder, level, "0", steps, "kept")]
    else:
        dropped: list[Statement] = [If("not keep", (Assign("", "del states[:-1]"),))]
        dropped.append(If("keep", (Assign("", f"del states[{first} : max({first}, len(states) - {last})]"),)))
        body += run_loop(coder, level, "0", steps, dropped)
    body.append(If("not keep", (Return("states"),)))
    student = f"[state[0] for state in states[-{last}:]]"
    points = f"leap_points(states[{leap.teacher}][0], {student}, {leap.gammas!r}, {leap.weights!r})"
    body.append(Assign("points", points))
    body += _chosen(coder, level, leap)
    body.append(Return(f"[*states[:{first}], ({x}, states[-1][1], gamma)]"))
    return _function(coder, level, step, body, "the teacher's, and the point leapt to")


def _chosen(coder: Coder, level: ir.Level, leap: Leaping) -> list[Statement]:
    """One point: the only one, or for every copy the best by the schedule's own measure."""
    names = own(coder, level)
    x, depth = pack(names), len(level.batched)
    if leap.choose is None:
        shape = "".join(f"length(points[0][1], {axis}), " for axis in range(depth))
        return [
            Assign(x, "points[0][1]"),
            Assign("gamma", f"torch.full(({shape}), points[0][0], device=device, dtype=dtype)"),
        ]
    sense, expr = leap.choose
    score = _over_points(coder, level, expr)
    lines: list[Statement] = [Assign("scores", f"-{score}" if sense == "max" else score)]
    tie = _tie(coder, level)
    lines.append(Assign("ties", "torch.zeros_like(scores)" if tie is None else _worse(coder, level, tie)))
    return [*lines, Assign(f"{x}, gamma", f"leap_choice(points, scores, ties, {depth})")]


def _worse(coder: Coder, level: ir.Level, tie: ir.Expr) -> str:
    """The outer objective at every point as something that is to be small."""
    around = coder.program.level(level.parent or "").objective
    sign = "-" * (around is not None and around.sense == "maximize")
    return f"{sign}{_over_points(coder, level, tie)}"


def _over_points(coder: Coder, level: ir.Level, expr: ir.Expr) -> str:
    """An expression of the solution at every point, real[points, *copies]."""
    reads = free_reads(expr) | draws.axis_values(coder.program, level.batched)
    text = mapped(coder.writer, write(coder.writer, expr), level.batched, reads)
    return f"torch.stack([stop({text}) for _, {pack(own(coder, level))} in points])"


def _tie(coder: Coder, level: ir.Level) -> ir.Expr | None:
    """The outer objective of one copy, where the outer objective is a mean or sum over the copies."""
    around = coder.program.level(level.parent or "")
    if around.objective is None:
        return None
    value = without_noise(around.objective.value)
    closed = value.binders if isinstance(value, ir.Reduced) and value.kind in ("mean", "sum") else ()
    if isinstance(value, ir.Reduced) and all(b.source is None for b in closed) and closed:
        value = value.body
    return value if set(value.axes) == set(level.batched) else None


def leap_reads(coder: Coder, level: ir.Level, leap: Leaping) -> list[str]:
    """What the choice of a point reads besides the solution."""
    exprs = [e for e in (leap.choose[1] if leap.choose else None, _tie(coder, level) if leap.choose else None) if e]
    local = [*own(coder, level), *(coder.writer.name(n) for n in level.names)]
    return [p for p in parameters_of(coder.writer, *exprs) if p not in local]


# ---- tangents ------------------------------------------------------------------------------------------------


def _with_tangents(coder: Coder, level: ir.Level, step: Step) -> Function:
    """The last state with one tangent for each number that is wanted (papers/002, algorithm 4)."""
    x, held = pack(own(coder, level)), slot(coder, level)
    names = targets(coder, level)
    wanted = f"({', '.join(names)},)"
    start = x if is_warm(level) else coder.call(f"{level.name}_start")  # nothing passes through a warm start
    function, _ = move_lambda(coder, level)
    carried: tuple[Statement, ...] = (
        Assign("tangents", f"push({function}, ({x}, {held}), tangents, {wanted}, directions)"),
    )
    first: tuple[Statement, ...] = (
        Assign("directions", f"basis({wanted})"),
        Assign("tangents", f"push_into(lambda {', '.join(names)}: {start}, {wanted}, directions, {held})"),
    )
    body: list[Statement] = [*begin(coder, level, x), Assign("tangents", "()"), If("keep", first)]
    loop: list[Statement] = [If("keep", carried), *_move(coder, level, x)]
    if coder.plan.facts[level.name].iterates:
        body.append(Assign("states", f"[({x}, {held}, tangents)]"))
        loop.append(Assign("", f"states.append(({x}, {held}, tangents))"))
        body += [*_looped(coder, level, x, loop), Return("states")]
        return _function(coder, level, step, body, "all, each with its tangents")
    body += [*_looped(coder, level, x, loop), Assign("states", f"[({x}, {held}, tangents)]")]
    body += [*stopping.close(coder, level), Return("states")]
    return _function(coder, level, step, body, "the last with its tangents")
