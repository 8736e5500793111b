"""The functions of one level: start, draw, objective, gradient, update, forward, pullback, step, report.

One function here for each operation of a plan; it takes the plan and a level and gives a `Function`. All functions
of a copied level work on all copies at once: values have the copies as leading axes, objectives are summed over
them, and since copies do not read each other the gradient of the sum is the gradient of each.
"""

from __future__ import annotations

from dataclasses import replace

from bilevel import ir
from bilevel.backends.source import Assign, Function, Return, Statement
from bilevel.backends.torch_func import draws, solver_text
from bilevel.backends.torch_func.coder import (
    Coder,
    counts_each,
    domain_call,
    drawn,
    is_pulled,
    is_warm,
    is_windowed,
    own,
    pack,
    per,
    solutions,
    step_settings,
    steps_text,
    to_values,
    used_levels,
)
from bilevel.backends.torch_func.expressions import (
    free_reads,
    list_key,
    mapped,
    over_lists,
    parameters_of,
    write,
)
from bilevel.errors import Span
from bilevel.kinds import is_searched, kind, stops
from bilevel.modes import Leaping
from bilevel.plan import Step

# ---- start and draw ------------------------------------------------------------------------------------------


def start_function(coder: Coder, step: Step) -> Function:
    """The first iterate, in free coordinates."""
    level = coder.program.level(step.level)
    texts = [draws.start(coder.writer, coder.program, level, v) for v in level.variables]
    free = [domain_call(v, t, "_free") if v.domain else t for v, t in zip(level.variables, texts, strict=True)]
    exprs = [v.start for v in level.variables if v.start is not None]
    needed = [
        *parameters_of(coder.writer, *exprs),
        *(coder.writer.name(a) for a in draws.axis_values(coder.program, level.batched)),
    ]
    needed += [coder.writer.name(a) for a in level.lists]  # the network that `from 0.3` fills
    parameters = [p for p in dict.fromkeys(needed) if any(_mentions(t, p) for t in texts)]
    doc = f"Where {' and '.join(level.names)} start{'s' * (len(free) == 1)}{per(level)}."
    name, body = step.name.replace(".", "_"), [Return(pack(free))]
    return coder.function(name, [*parameters, "key"], doc, list(body), step.span, kernel=level.parent is not None)


def _mentions(text: str, name: str) -> bool:
    import re

    return re.search(rf"(?<![\w.]){re.escape(name)}\b", text) is not None


def draw_function(coder: Coder, step: Step) -> Function:
    """What a level draws afresh in each of its steps."""
    level = coder.program.level(step.level)
    lines: list[Statement] = []
    exprs: list[ir.Expr] = []
    axes: set[str] = {a for a in level.batched if not a.startswith("@")}
    for index in level.indices:
        lines.append(
            _assign(coder, index.name, draws.index_draw(coder.writer, coder.program, level, index), index.span)
        )
        lines += numbered(coder, index)
        exprs.append(index.source)
    for draw in level.draws:
        lines.append(_assign(coder, draw.name, _draw_text(coder, level, draw), draw.span))
        exprs.append(draw.source)
        axes |= set(draw.source.axes)
    outside = [coder.writer.name(a) for a in sorted(axes) if a not in {i.name for i in level.indices}]
    names = drawn(coder, level)
    parameters = [p for p in dict.fromkeys([*parameters_of(coder.writer, *exprs), *outside]) if p not in names]
    if _epochs(level):
        parameters += ["step", "level_key"]
    doc = f"The draws of one step of {level.name}."
    lines.append(Return(", ".join(names)))
    return coder.function(f"{level.name}_draw", [*parameters, "key"], doc, lines, step.span)


def numbered(coder: Coder, index: ir.Index) -> list[Statement]:
    """Where the elements of a list stand in it, for an index that is a subscript."""
    if not index.numbered:
        return []
    return [_assign(coder, ir.place_of(index.name), f"list(range(len({coder.writer.name(index.name)})))", index.span)]


def _draw_text(coder: Coder, level: ir.Level, draw: ir.Draw) -> str:
    if _epochs(level) and draws.finite_source(draw) is not None:
        return draws.epoch_draw(coder.writer, coder.program, level, draw)
    return draws.batch_draw(coder.writer, coder.program, level, draw)


def _epochs(level: ir.Level) -> bool:
    duration = level.phases[0].duration
    return isinstance(duration, ir.Steps) and duration.unit == "epochs"


def _assign(coder: Coder, name: str, text: str, span: Span) -> Assign:
    return Assign(coder.writer.name(name), text, f"{span.source.name.rpartition('/')[2]}:{span.line}")


# ---- objective ----------------------------------------------------------------------------------


def objective_function(coder: Coder, step: Step) -> Function:
    """What a level minimises, summed over its copies; the negative of what it maximises."""
    level = coder.program.level(step.level)
    assert level.objective is not None
    value = level.objective.value
    coder.writer.maximised = level.objective.sense == "maximize"
    coder.writer.windowed = frozenset(n for i in level.levels if is_windowed(coder.plan, i) for n in i.names)
    searched = is_searched(level)
    if searched and isinstance(value, ir.Reduced) and value.kind == "pcgrad":
        value = replace(value, kind="mean")  # a search compares values, and has no gradients to project
    text = write(coder.writer, value)
    reads = free_reads(value) | draws.axis_values(coder.program, level.batched)
    text = mapped(coder.writer, text, (f"@{level.name}", *level.batched) if searched else level.batched, reads)
    coder.writer.maximised, coder.writer.windowed = False, frozenset()
    text = f"{text}.sum()" if level.batched and not searched else text
    text = f"-({text})" if level.objective.sense == "maximize" else text
    names = parameters_of(coder.writer, value)
    first = [n for n in (*solutions(coder, level), *inner_names(coder, level)) if n in names]
    indices = [coder.writer.name(a) for a in draws.axis_values(coder.program, level.batched)]
    rest = [n for n in dict.fromkeys([*names, *indices, "weight"]) if n not in first]
    doc = f"What {level.name} {level.objective.sense}s" + (
        f", summed over {' and '.join(level.batched)}" if level.batched and not searched else ""
    )
    negative = ", as a negative number" if level.objective.sense == "maximize" else ""
    return coder.function(f"{level.name}_objective", [*first, *rest], f"{doc}{negative}.", [Return(text)], step.span)


def inner_names(coder: Coder, level: ir.Level) -> list[str]:
    """Solutions and iterates of the levels inside."""
    names = [n for inner in level.levels for n in inner.names]
    return [coder.writer.name(n) for n in names] + [coder.writer.name(f"@{n}") for n in names]


def solve(coder: Coder, inner: ir.Level, keep: bool | None = None) -> list[Statement]:
    """Run a level inside, and give its solution (and iterates) the names the recipe has for them.

    What the way back needs is kept where there is one, unless `keep` says otherwise.
    """
    states = f"{inner.name}_states"
    leaps = isinstance(coder.plan.choices[inner.name].adjoint, Leaping)
    differentiated = is_pulled(coder, inner) or coder.plan.facts[inner.name].iterates or leaps if keep is None else keep
    lists = own_lists(coder, inner)
    key = list_key(f'fold(key, "{inner.name}")', lists)
    call = coder.call(f"{inner.name}_forward", key=key, keep=str(differentiated))
    lines: list[Statement] = [Assign(states, per_element(coder, inner, call, f"{inner.name}_forward"))]
    if lists:
        return [*lines, *_listed_values(coder, inner, states, len(lists)), *_listed_starts(coder, inner, len(lists))]
    lines += to_values(coder, inner, f"{states}[-1][0]")
    if coder.plan.facts[inner.name].start_alone:
        lines += [Assign(f"{inner.name}_begun_at", started(coder, inner)), *_start_values(coder, inner)]
    if coder.plan.facts[inner.name].iterates:
        lines += _iterates(coder, inner, states)
    return lines


def started(coder: Coder, inner: ir.Level) -> str:
    """The start of a level in its values, computed once more from the same key."""
    start = coder.call(f"{inner.name}_start", key=list_key(f'fold(key, "{inner.name}")', own_lists(coder, inner)))
    names = own(coder, inner)
    values = [domain_call(v, n) if v.domain else n for v, n in zip(inner.variables, names, strict=True)]
    if all(v.domain is None for v in inner.variables):
        return start
    return f"(lambda {', '.join(names)}: {pack(values)})({'*' if len(names) > 1 else ''}{start})"


def _start_values(coder: Coder, inner: ir.Level) -> list[Statement]:
    """The start as the only iterate that is read."""
    begun = f"{inner.name}_begun_at"
    several = len(inner.variables) > 1
    return [
        Assign(coder.writer.name(f"@{v.name}"), f"[{begun}[{place}]]" if several else f"[{begun}]")
        for place, v in enumerate(inner.variables)
    ]


def own_lists(coder: Coder, inner: ir.Level) -> list[str]:
    """The lists that a level inside runs over and the level around it opens."""
    around = coder.program.level(inner.parent or "")
    return [a for a in inner.lists if a not in around.copies]


def cold_begin(coder: Coder, inner: ir.Level) -> str:
    """Where a warm level begins that has not been solved yet, for each element of the lists it runs over."""
    text, around = "()", coder.program.level(inner.parent or "")
    for axis in reversed(own_lists(coder, inner)):
        source = next(i.source for i in around.indices if i.name == axis)
        text = f"[{text} for _ in {write(coder.writer, source)}]"
    return text


def end_text(coder: Coder, inner: ir.Level, last: str = "") -> str:
    """Where the next solve of a warm level goes on, for each element of the lists it runs over, as text.

    `last`: the name of its last state, where that is not the last of its states. How many states are kept depends on
    the mode; how many steps were taken does not.
    """
    states, begin = f"{inner.name}_states", f"{inner.name}_begin"
    state = last or f"{states}[-1]"
    steps = f"{states}[-1][-1]" if stops(inner) else steps_text(coder, inner)
    text = f"ended({state}, {begin}, {steps})"
    if counts_each(coder, inner):
        text = f"ended_each({state}, {begin}, {steps}, {len(inner.batched)})"
    lists = own_lists(coder, inner)
    return over_lists(text, lists, {last or states: tuple(lists), begin: tuple(lists)}) if lists else text


def per_element(
    coder: Coder, inner: ir.Level, call: str, *functions: str, more: dict[str, tuple[str, ...]] | None = None
) -> str:
    """A call made once for each element of the lists of a level, as lists in lists; else the call itself."""
    lists = own_lists(coder, inner)
    if not lists:
        return call
    around = coder.program.level(inner.parent or "")
    known = value_axes(coder, around) | (more or {})
    used = {p: known[p] for f in functions for p in coder.known[f] if p in known}
    return over_lists(call, lists, used | (more or {}) | {coder.writer.name(a): (a,) for a in lists})


def value_axes(coder: Coder, level: ir.Level) -> dict[str, tuple[str, ...]]:
    """The Python names of a level's indices, draws and solutions, with the lists they are copied over."""
    found = {coder.writer.name(i.name): (*i.source.axes, i.name) for i in level.indices}
    found |= {coder.writer.name(ir.place_of(i.name)): (*i.source.axes, i.name) for i in level.indices if i.numbered}
    found |= {coder.writer.name(d.name): d.source.axes for d in level.draws}
    for inner in level.levels:
        found |= {coder.writer.name(n): inner.copies for n in inner.names}
        found |= {coder.writer.name(f"@{n}"): inner.copies for n in inner.names}
    found |= {f"{i.name}_begin": i.copies for i in level.levels if is_warm(i)}
    return found


def _listed_values(coder: Coder, inner: ir.Level, states: str, depth: int) -> list[Statement]:
    """The solution and iterates of a level that was solved once for each element of some lists."""
    lines: list[Statement] = []
    for place, variable in enumerate(inner.variables):
        spot = "" if len(inner.variables) == 1 else f"[{place}]"
        last = domain_call(variable, f"states[-1][0]{spot}") if variable.domain else f"states[-1][0]{spot}"
        lines.append(Assign(coder.writer.name(variable.name), f"each_listed(lambda states: {last}, {states}, {depth})"))
        if coder.plan.facts[inner.name].iterates:
            one = domain_call(variable, f"state[0]{spot}") if variable.domain else f"state[0]{spot}"
            text = f"each_listed(lambda states: [{one} for state in states], {states}, {depth})"
            lines.append(Assign(coder.writer.name(f"@{variable.name}"), text))
    return lines


def _listed_starts(coder: Coder, inner: ir.Level, depth: int) -> list[Statement]:
    """The start as the only iterate that is read, for each element of some lists."""
    if not coder.plan.facts[inner.name].start_alone:
        return []
    begun = f"{inner.name}_begun_at"
    lines: list[Statement] = [Assign(begun, per_element(coder, inner, started(coder, inner), f"{inner.name}_start"))]
    for place, variable in enumerate(inner.variables):
        spot = "" if len(inner.variables) == 1 else f"[{place}]"
        text = f"each_listed(lambda begun: [begun{spot}], {begun}, {depth})"
        lines.append(Assign(coder.writer.name(f"@{variable.name}"), text))
    return lines


def _iterates(coder: Coder, inner: ir.Level, states: str) -> list[Statement]:
    lines: list[Statement] = []
    for place, variable in enumerate(inner.variables):
        value = "state[0]" if len(inner.variables) == 1 else f"state[0][{place}]"
        value = domain_call(variable, value) if variable.domain else value
        lines.append(Assign(coder.writer.name(f"@{variable.name}"), f"[{value} for state in {states}]"))
    return lines


# ---- update --------------------------------------------------------------------------------------------------


def update_function(coder: Coder, step: Step) -> Function:
    """One step of the solver along a gradient."""
    level = coder.program.level(step.level)
    if kind(level) in ("next", "fixed point"):
        return _next_function(coder, level, step)
    names = own(coder, level)
    parameters = [names[0] if len(names) == 1 else "variables", "solver", "gradient", "count"]
    solvers = level.phases[0].solvers
    exprs = [e for s in solvers for e in solver_text.exprs(s)]
    scheduled = step_settings(coder, level) if any(map(solver_text.is_scheduled, solvers)) else []
    more = [p for p in [*parameters_of(coder.writer, *exprs), *scheduled] if p not in parameters]
    x = parameters[0]
    if len(solvers) == 1:
        body: list[Statement] = [Return(_solver_call(coder, level, solvers[0], x, "solver", "gradient"))]
    else:
        body = _several_solvers(coder, level, x)
    spelled = ", ".join(s.span.text for s in solvers)
    doc = f"One step of {spelled}: the next {' and '.join(level.names)} and the solver's state."
    inner = level.parent is not None  # torch.optim moves the outermost levels
    return coder.function(f"{level.name}_update", [*parameters, *more], doc, body, step.span, kernel=inner)


def _next_function(coder: Coder, level: ir.Level, step: Step) -> Function:
    """One step of `next(e)`: levels inside are solved, then the expressions, all from the old values."""
    names = own(coder, level)
    x = names[0] if len(names) == 1 else "variables"
    given = level.phases[0].solvers[0].arguments
    ordered = [given[v.name if v.name in given else "value"] for v in level.variables]
    body: list[Statement] = [
        *([Assign(", ".join(names), x)] if len(names) > 1 else []),
        *to_values(coder, level, pack(names)),
    ]
    for inner in used_levels(coder, level):
        body += solve(coder, inner)
    texts = []
    for variable, expr in zip(level.variables, ordered, strict=True):
        reads = free_reads(expr) | draws.axis_values(coder.program, level.batched)
        text = mapped(coder.writer, write(coder.writer, expr), level.batched, reads)
        texts.append(domain_call(variable, text, "_free") if variable.domain else text)
    body.append(Return(pack(texts)))
    inside = used_levels(coder, level)
    local = [*names, *solutions(coder, level), *inner_names(coder, level), *(f"{i.name}_states" for i in inside)]
    indices = [coder.writer.name(a) for a in draws.axis_values(coder.program, level.batched)]
    more = [*parameters_of(coder.writer, *ordered), *indices, *coder.needs(*(f"{i.name}_forward" for i in inside))]
    needed = [p for p in dict.fromkeys(more) if p not in (*local, "keep", "key")]
    doc = f"The next {' and '.join(level.names)}."
    return coder.function(f"{level.name}_update", [x, *needed, "key"], doc, body, step.span, 1, kernel=True)


def _several_solvers(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """Each solver moves its own variables, all from the same gradient."""
    places = {v.name: i for i, v in enumerate(level.variables)}
    lines: list[Statement] = []
    for number, solver in enumerate(level.phases[0].solvers):
        mine = [places[n] for n in solver.variables]
        args = [_picked(source, mine) for source in (x, "gradient")]
        call = _solver_call(coder, level, solver, args[0], f"solver[{number}]", args[1])
        lines.append(Assign(f"{pack([f'moved_{i}' for i in mine])}, solver_{number}", call))
    states = ", ".join(f"solver_{n}" for n in range(len(level.phases[0].solvers)))
    moved = ", ".join(f"moved_{i}" for i in range(len(level.variables)))
    return [*lines, Return(f"({moved}), ({states})")]


def _picked(source: str, places: list[int]) -> str:
    """Some of several packed variables: one by itself, or a tuple."""
    return pack([f"{source}[{i}]" for i in places])


def _solver_call(coder: Coder, level: ir.Level, solver: ir.Solver, x: str, state: str, gradient: str) -> str:
    total = _total(coder, level) if solver_text.is_scheduled(solver) else ""
    if level.parent is None and solver.name in solver_text.OPTIMIZERS:
        return solver_text.optimizer_call(
            solver, solver_text.arguments(coder.writer, solver, total), x, state, gradient
        )
    return solver_text.call(coder.writer, level, solver, total, x, state, gradient, counts_each(coder, level))


def _total(coder: Coder, level: ir.Level) -> str:
    """The steps over which a rate is scheduled: all, or the most that `until` allows."""
    return f"({steps_text(coder, level)})"


def solver_state(coder: Coder, level: ir.Level, x: str) -> str:
    """The solver's state before the first step."""
    solvers = level.phases[0].solvers
    places = {v.name: i for i, v in enumerate(level.variables)}
    texts = []
    for solver in solvers:
        mine = x if len(solvers) == 1 else _picked(x, [places[n] for n in solver.variables])
        optimizer = level.parent is None and solver.name in solver_text.OPTIMIZERS
        texts.append("()" if optimizer else solver_text.state(coder.writer, level, solver, mine))
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
