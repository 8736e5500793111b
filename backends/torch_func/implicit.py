"""Levels solved `until` a test: the loop that stops copy by copy, and implicit differentiation at its end.

`LEVEL_slope(variables, ...)` is what vanishes at the solution: the gradient of the objective, or x - e for a fixed
point x = e. The pullback solves one linear system with its derivative in the variables, and pulls the solution of
that system back through its derivative in everything else.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Comment, Function, Return, Statement
from bilevel.backends.torch_func import draws, stopping, valued
from bilevel.backends.torch_func.coder import Coder, drawn, own, pack, per, slot
from bilevel.backends.torch_func.expressions import free_reads, mapped, parameters_of, write
from bilevel.backends.torch_func.steps import (
    begin,
    carry,
    carry_mark,
    count_text,
    each_step,
    gradient_call,
    gradient_of_step,
    keys,
    level_parameters,
    step_body,
    targets,
    zeros_made,
)
from bilevel.kinds import kind, line_searches
from bilevel.modes import Implicit
from bilevel.plan import Step


def until_functions(coder: Coder, level: ir.Level, step: Step) -> list[Function]:
    """Slope and forward pass; inside a differentiated level also the solution as an implicit function."""
    return [*slope_functions(coder, level), _until(coder, level, step)]


def slope_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """What vanishes at the solution; inside a differentiated level also the solution as an implicit function."""
    functions = [_slope(coder, level)]
    adjoint = _adjoint(coder, level)
    if adjoint is not None and adjoint.through is not None:
        functions.append(_through(coder, level, adjoint.through))
    if _is_attached(coder, level):
        functions.append(_attach(coder, level))
    return functions


def _through(coder: Coder, level: ir.Level, expr: ir.Expr) -> Function:
    """The gradient of another expression, which takes the place of the level's own (papers/002, section 5.4.4)."""
    names = own(coder, level)
    x = names[0] if len(names) == 1 else "variables"
    unpack = "" if len(names) == 1 else f"(lambda {', '.join(names)}: "
    reads = free_reads(expr) | draws.axis_values(coder.program, level.batched)
    text = mapped(coder.writer, write(coder.writer, expr), level.batched, reads)
    value = f"{unpack}{text}{f')(*{x})' if unpack else ''}{'.sum()' if level.batched else ''}"
    indices = [coder.writer.name(a) for a in draws.axis_values(coder.program, level.batched)]
    needed = [p for p in dict.fromkeys([*parameters_of(coder.writer, expr), *indices]) if p not in names]
    body: list[Statement] = [Return(f"grad(lambda {x}: {value})({x})")]
    doc = f"The gradient of {expr.span.text}, which stands in place of that of {level.name}'s objective."
    return coder.function(f"{level.name}_through", [x, *needed, "key"], doc, body, None, 1)


def _system(coder: Coder, level: ir.Level) -> str:
    """The function whose derivatives make up the linear system."""
    adjoint = _adjoint(coder, level)
    return f"{level.name}_{'through' if adjoint is not None and adjoint.through is not None else 'slope'}"


def _adjoint(coder: Coder, level: ir.Level) -> Implicit | None:
    found = coder.plan.choices[level.name].adjoint
    return found if isinstance(found, Implicit) else None


def _is_attached(coder: Coder, level: ir.Level) -> bool:
    """Whether somebody differentiates the level around, and with it this solution as a function of what it reads."""
    if level.parent is None or _adjoint(coder, level) is None:
        return False
    around = coder.program.level(level.parent)
    return kind(around) == "next" or (around.parent is not None and coder.plan.choices[around.name].adjoint is not None)


def _slope(coder: Coder, level: ir.Level) -> Function:
    """What is zero at the solution."""
    names = own(coder, level)
    x = names[0] if len(names) == 1 else "variables"
    unpack: list[Statement] = [Assign(", ".join(names), x)] if len(names) > 1 else []
    if kind(level) == "fixed point":
        value = f"subtract({pack(names)}, {coder.call(f'{level.name}_update', variables=pack(names), count='0')})"
    else:
        value = gradient_call(coder, level)
    inner = f"{level.name}_{'update' if kind(level) == 'fixed point' else 'gradient'}"
    needed = coder.needs(inner, without=[*names, "variables", "count", *drawn(coder, level)])
    body = [*unpack, *_draws(coder, level), Return(value)]
    drawing = coder.needs(f"{level.name}_draw", without=[*names, *needed, "key", "step", "level_key"])
    doc = f"What is zero at the solution of {level.name}."
    return coder.function(f"{level.name}_slope", [x, *needed, *drawing, "key"], doc, body, None, 1)


def _draws(coder: Coder, level: ir.Level) -> list[Statement]:
    """One draw of the level's own size, the same for every product."""
    if not (level.draws or level.indices):
        return []
    batch = _batch(coder, level)
    if batch is not None and not level.indices:
        return [_large_draw(coder, level, d, batch) for d in level.draws]
    call = coder.call(f"{level.name}_draw", key='fold(key, "implicit")', step="0", level_key="key")
    return [Assign(", ".join(drawn(coder, level)), call)]


def _batch(coder: Coder, level: ir.Level) -> str | None:
    """How many samples test and linear system use, where the test or the schedule says so."""
    duration = level.phases[-1].duration
    adjoint = _adjoint(coder, level)
    if isinstance(duration, ir.Until) and "batch" in duration.arguments:
        return write(coder.writer, duration.arguments["batch"])
    return str(adjoint.batch) if adjoint is not None and adjoint.batch is not None else None


def _large_draw(coder: Coder, level: ir.Level, draw: ir.Draw, count: str) -> Statement:
    """A draw of its own size for the test and the linear system."""
    text = draws.batch_draw(coder.writer, coder.program, level, draw, count)
    return Assign(coder.writer.name(draw.name), text)


def _until(coder: Coder, level: ir.Level, step: Step) -> Function:
    """Steps until every copy has met the test; a copy that has stays as it is."""
    x = pack(own(coder, level))
    duration = level.phases[-1].duration
    assert isinstance(duration, ir.Until)
    cap = write(coder.writer, duration.cap)
    body: list[Statement] = [*_cold(coder, level, x)]
    searches = line_searches(level)
    adjoint = _adjoint(coder, level)
    start = adjoint is not None and adjoint.through is not None  # which may read where the level began
    body += [Assign("first", x)] * start
    if searches:
        body.append(Assign(x, valued.search_text(coder, level, stopping.tolerance(coder, duration), cap)))
    else:
        body += [carry_mark(zeros_made(level))] if _is_carried(level) else []
        body += [
            *keys(coder, level, cap),
            Assign("active, taken", "True, 0"),
            each_step(coder, level, f"range({cap})", [*_one_step(coder, level, x), Assign("taken", "taken + active")]),
        ]
    body += stopping.last_slope(coder, level)
    if _is_attached(coder, level):
        body += [Comment("from here on a function of what the level reads, whatever path led here")]
        body.append(Assign(x, coder.call(f"{level.name}_attach", **{stopping.packed(coder, level): x})))
    solver = "()" if kind(level) == "fixed point" else slot(coder, level)
    body.append(Return(f"[{'(first,), ' * start}({x}, {solver}, slope, {0 if searches else 'taken'})]"))
    operations = ["start", "draw", "slope", "attach", "update", "losses"]
    operations += [] if kind(level) == "fixed point" else ["gradient"]
    parameters = level_parameters(coder, level, operations)
    parameters = [p for p in parameters if p not in ("slope", "active", "taken")]
    doc = f"The solution of {level.name}{per(level)}, solver's state, and the largest entry of what should be zero."
    return coder.function(f"{level.name}_forward", [*parameters, "keep"], doc, body, step.span)


def _cold(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    if kind(level) == "fixed point":
        return [Assign(x, coder.call(f"{level.name}_start"))]
    return begin(coder, level, x)


def _one_step(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """The test, and a step for the copies that have not met it."""
    if kind(level) == "fixed point":
        call = coder.call(f"{level.name}_update", variables=x, count="counted(step)", key="step_key")
        lines: list[Statement] = [*step_body(coder, level), Assign("moved", call), *stopping.test(coder, level, x)]
        return [*lines, Assign(x, f"where_each(active, moved, {x})")]
    lines = [*step_body(coder, level), gradient_of_step(coder, level, "step_key")]
    given = {"solver": "solver", stopping.packed(coder, level): x}
    given = {name: f"carry({text})" for name, text in given.items()} if _is_carried(level) else given
    moved = coder.call(f"{level.name}_update", **given, count=f"counted({count_text(coder, level)})")
    moved = moved if _is_carried(level) else f"where_each(active, {moved}, ({x}, solver))"
    lines += [*stopping.test(coder, level, x), Assign(f"{x}, solver", moved), Assign("", "del gradient")]
    return [*lines, *carry(coder, level, True)]


def _is_carried(level: ir.Level) -> bool:
    """Whether nothing reads the old state after a step: one copy goes on, where several may have to stay."""
    return not level.batched and kind(level) != "fixed point"


# ---- implicit differentiation --------------------------------------------------------------------------------


def pullback_body(coder: Coder, level: ir.Level, adjoint: Implicit, cotangent: str) -> list[Statement]:
    """One linear system, and its solution pulled back to the targets."""
    names = targets(coder, level)
    x = pack(own(coder, level))
    packed = stopping.packed(coder, level)
    body: list[Statement] = (
        [Assign(packed, "states[-1][0]")] if len(level.variables) > 1 else [Assign(x, "states[-1][0]")]
    )
    begins = slot(coder, level)
    body += [Assign(begins, "states[-1][1]")] * (begins != "solver")
    if adjoint.through is not None:
        spots = [""] if len(level.names) == 1 else [f"[{i}]" for i in range(len(level.names))]
        body += [
            Assign(coder.writer.name(f"@{n}"), f"[states[0][0]{i}]") for n, i in zip(level.names, spots, strict=True)
        ]
    body.append(Assign("product", _damped(adjoint, f"lambda cotangent: {coder.call(f'{level.name}_product')}")))
    if _is_attached(coder, level):
        body.append(Assign("held", product(coder, level, adjoint, packed, _stopped(coder, level, packed))))
        solver = f"lambda product, right: {solver_call(adjoint, 'product', 'right', len(level.batched))}"
        body.append(Assign("solved, residual", f"attached({solver}, product, held, {cotangent}, {len(level.batched)})"))
    else:
        body.append(Assign("solved, residual", solver_call(adjoint, "product", cotangent, len(level.batched))))
    through = [t for t in names if t in coder.known[_system(coder, level)]]
    solved = "solved" if adjoint.printed else "negative(solved)"
    left = f"({', '.join(f'd_{t}' for t in through)},)"
    if through:  # a solution does not depend on what enters through the start alone
        body.append(Assign(left, coder.call(f"{level.name}_cross_product", cotangent=solved)))
    body += [Assign(f"d_{t}", f"zeros({t})") for t in names if t not in through]
    return body


def product_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """The products of the linear system and of its right-hand side, which can become kernels."""
    adjoint = _adjoint(coder, level)
    assert adjoint is not None
    packed, system = stopping.packed(coder, level), _system(coder, level)
    parameters = coder.known[system]
    text = _undamped(coder, level, adjoint, packed, {}).removeprefix("lambda cotangent: ")
    doc = f"The derivative of what is zero at the solution of {level.name}, times a vector."
    names = [packed, "cotangent", *parameters]
    own_product = coder.function(f"{level.name}_product", names, doc, [Return(text)], None, 2, kernel=True)
    through = ", ".join(t for t in targets(coder, level) if t in parameters)
    if not through:
        return [own_product]
    pull = f"vjp(lambda {through}: {coder.call(system)}, {through})[1](cotangent)"
    doc = f"The derivative of the same in {through}, transposed, times a vector."
    cross = coder.function(f"{level.name}_cross_product", names, doc, [Return(pull)], None, 2, kernel=True)
    return [own_product, cross]


def product(coder: Coder, level: ir.Level, adjoint: Implicit, packed: str, replaced: dict[str, str]) -> str:
    """The product with the system: the derivative of the slope in the variables, and the damping."""
    return _damped(adjoint, _undamped(coder, level, adjoint, packed, replaced))


def _undamped(coder: Coder, level: ir.Level, adjoint: Implicit, packed: str, replaced: dict[str, str]) -> str:
    """The product with the derivative of the slope in the variables, transposed where it is not symmetric."""
    call = coder.call(_system(coder, level), **{k: v for k, v in replaced.items() if k != packed})
    at = replaced.get(packed, packed)
    if adjoint.symmetric:
        return f"lambda cotangent: along(lambda {packed}: {call}, ({at},), (cotangent,))"
    return f"lambda cotangent: vjp(lambda {packed}: {call}, {at})[1](cotangent)[0]"


def _damped(adjoint: Implicit, product: str) -> str:
    """The product with the damping that was asked for; Nystroem's belongs to its own formula."""
    damping = adjoint.damping if adjoint.method != "nystrom" else 0.0
    return f"damped({product}, {damping!r})" if damping else product


def _stopped(coder: Coder, level: ir.Level, packed: str) -> dict[str, str]:
    """Every differentiable name that the slope reads, with its derivative cut."""
    entering = {e.name for e in coder.plan.facts[level.name].enters}
    names = [coder.writer.name(n) for n in sorted(entering)]
    found = {n: f"stop({n})" for n in names if n in coder.known[_system(coder, level)]}
    return {**found, packed: f"stop({packed})"}


def solver_call(adjoint: Implicit, product: str, right: str, depth: int) -> str:
    """The linear solver as text."""
    head = f"{product}, {right}, {depth}"
    match adjoint.method:
        case "cg" | "gmres":
            return f"{adjoint.method}({head}, {adjoint.tol!r}, {adjoint.steps})"
        case "neumann":
            return f"neumann({head}, {adjoint.tol!r}, {adjoint.steps}, {adjoint.scale!r})"
        case "nystrom":
            return f"nystrom({head}, {adjoint.rank}, {adjoint.damping!r})"
    return f"exact({head})"


def _attach(coder: Coder, level: ir.Level) -> Function:
    """The solution with the derivative of the implicit function (right to first order)."""
    adjoint = _adjoint(coder, level)
    assert adjoint is not None
    packed = stopping.packed(coder, level)
    # The Newton correction -(slope') ^-1 slope has the derivative of the implicit function; its value is taken off.
    stopped = _stopped(coder, level, packed)
    slope = coder.call(f"{level.name}_slope", **{packed: "fixed"})
    straight = _straight(coder, level, adjoint, packed, stopped)
    body: list[Statement] = [
        Assign("fixed", f"stop({packed})"),
        Assign("product", straight),
        Assign("correction", f"newton(product, {slope}, {len(level.batched)})"),
        Return("subtract(fixed, subtract(correction, stop(correction)))"),
    ]
    parameters = [p for p in coder.known[f"{level.name}_slope"] if p != packed]
    doc = f"The solution of {level.name} as a function of what the level reads."
    return coder.function(f"{level.name}_attach", [packed, *parameters], doc, body, None, 1)


def _straight(coder: Coder, level: ir.Level, adjoint: Implicit, packed: str, stopped: dict[str, str]) -> str:
    """The product that is not transposed."""
    call = coder.call(f"{level.name}_slope", **{k: v for k, v in stopped.items() if k != packed})
    return _damped(adjoint, f"lambda cotangent: along(lambda {packed}: {call}, (fixed,), (cotangent,))")
