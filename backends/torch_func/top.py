"""The outermost levels: one step of training as a pure function of the state, reports, and how a run begins."""

from __future__ import annotations

from dataclasses import replace

from bilevel import ir
from bilevel.backends.source import Assign, Function, Return, Statement
from bilevel.backends.torch_func import draws, populations, windows
from bilevel.backends.torch_func.coder import (
    Coder,
    counter,
    drawn,
    is_warm,
    own,
    pack,
    steps_text,
    used_levels,
)
from bilevel.backends.torch_func.expressions import Axes, free_reads, mapped, write
from bilevel.backends.torch_func.levels import cold_begin, end_text, numbered, solve, solver_state
from bilevel.backends.torch_func.steps import step_body
from bilevel.dsl import nodes
from bilevel.facts import expressions
from bilevel.kinds import is_searched
from bilevel.plan import Plan, Step


def begin_function(coder: Coder, level: ir.Level) -> Function:
    """The state before the first step."""
    x = pack(own(coder, level))
    warm = [i for i in used_levels(coder, level) if is_warm(i)]
    ends = f", {{{', '.join(f'{i.name!r}: {cold_begin(coder, i)}' for i in warm)}}}"
    body: list[Statement] = [
        Assign("key", f'fold(key, "{level.name}")'),
        Assign(x, coder.call(f"{level.name}_start")),
        *([Assign("solver", populations.first_search(coder, level))] if is_searched(level) else []),
        Return(f"State(0, {_first(coder, level, x)}{ends}, {{}})"),
    ]
    parameters = ["key", *outside(coder, level)]
    doc = f"The state of {level.name} before its first step."
    return coder.function(f"{level.name}_begin", parameters, doc, body, None, len(parameters))


def _first(coder: Coder, level: ir.Level, x: str) -> str:
    """Point and solver's state before the first step."""
    if is_searched(level):
        return f"{populations.first_point(coder, level)}, solver"
    return f"{x}, {solver_state(coder, level, x)}"


def step_function(coder: Coder, step: Step) -> Function:
    """One step of an outermost level: draws, (hyper)gradient, torch.optim."""
    level = coder.program.level(step.level)
    if is_searched(level):
        return _generation(coder, level, step)
    body: list[Statement] = [
        Assign("level_key", f'fold(key, "{level.name}")'),
        Assign("key", "fold(level_key, state.step)"),
        *_settings(coder, level),
        *_own_values(coder, level),
        *_ends(coder, level),
        *_draws(coder, level),
    ]
    x = pack(own(coder, level))
    body += _moved(coder, level, x)
    value = "-value" if _maximised(level) else "value"
    body.append(Return(f"State(state.step + 1, {x}, solver, ends, notes), {value}"))
    parameters = ["state", "key", *outside(coder, level)]
    doc = f"One step of {level.name}: the next state, and the objective before the step."
    return coder.function(f"{level.name}_step", parameters, doc, body, step.span, len(parameters))


def _generation(coder: Coder, level: ir.Level, step: Step) -> Function:
    """One generation of a population search."""
    body: list[Statement] = [
        Assign("level_key", f'fold(key, "{level.name}")'),
        Assign("key", "fold(level_key, state.step)"),
        *_settings(coder, level),
        *_ends(coder, level),
        *populations.step_body(coder, level, _draws(coder, level)),
    ]
    parameters = ["state", "key", *outside(coder, level)]
    doc = f"One generation of {level.name}: the next state, and the best value of the population."
    return coder.function(f"{level.name}_step", parameters, doc, body, step.span, len(parameters))


def _moved(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """The gradient and the outer solver's step, or one of each for every window of the level inside."""
    cut = windows.windowed(coder.plan, level)
    if cut is not None:
        ends = f"{cut[0].name!r}: {end_text(coder, cut[0], 'carried')}" if is_warm(cut[0]) else ""
        return [*windows.windows_body(coder, level, *cut), Assign("ends, notes", f"{{{ends}}}, {{}}")]
    update = coder.call(f"{level.name}_update", variables=x, solver="state.solver", count="state.step")
    return [
        Assign("gradient, value, ends, notes", coder.call(f"{level.name}_gradient")),
        Assign(f"{x}, solver", update),
    ]


def _first_window(coder: Coder, level: ir.Level) -> list[Statement]:
    """What the gradient of the first window needs besides."""
    cut = windows.windowed(coder.plan, level)
    if cut is None:
        return []
    return [Assign("carried, first", "None, 0"), Assign("inner_key", f'fold(key, "{cut[0].name}")')]


def hypergradient_function(coder: Coder, step: Step) -> Function:
    """The gradient of one step without taking it: what gradient checks compare."""
    level = coder.program.level(step.level)
    if is_searched(level):
        parameters = ["state", "key", *outside(coder, level)]
        body = populations.no_gradient(level)
        return coder.function(f"{level.name}_hypergradient", parameters, "", body, step.span, len(parameters))
    body = [
        Assign("level_key", f'fold(key, "{level.name}")'),
        Assign("key", "fold(level_key, state.step)"),
        *_settings(coder, level),
        *_own_values(coder, level),
        *_ends(coder, level),
        *_draws(coder, level),
        *_first_window(coder, level),
        *_hypergradient(coder, level),
    ]
    parameters = ["state", "key", *outside(coder, level)]
    follows = "climb" if _maximised(level) else "follow"
    doc = f"The gradient that the next step of {level.name} would {follows}, and the objective; no step is taken."
    return coder.function(f"{level.name}_hypergradient", parameters, doc, body, step.span, len(parameters))


def _maximised(level: ir.Level) -> bool:
    return level.objective is not None and level.objective.sense == "maximize"


def _hypergradient(coder: Coder, level: ir.Level) -> list[Statement]:
    """Gradient and value of the objective as the recipe writes it, whether it is minimised or maximised."""
    found = f"{coder.call(f'{level.name}_gradient')}[:2]"
    if not _maximised(level):
        return [Return(found)]
    return [Assign("gradient, value", found), Return("negative(gradient), -value")]


def outside(coder: Coder, level: ir.Level) -> list[str]:
    """Solutions of earlier outermost levels that a level reads anywhere, as Python names."""
    earlier = [n for other in coder.program.levels if other.name != level.name for n in other.names]
    reads = {n for e in (*expressions(level), *(r.value for r in level.reports)) for n in e.reads}
    return [coder.writer.name(n) for n in earlier if n in reads]


def _settings(coder: Coder, level: ir.Level, changed: dict[str, str] | None = None) -> list[Statement]:
    """Replaceable literals at their value in the recipe, or at the value that a report gives them."""
    lines: list[Statement] = []
    for name in sorted(set(coder.plan.settings.values())):
        value = (changed or {}).get(name) or _spelled(coder.written[name].value)
        lines.append(Assign(name, value))
    return [*lines, *(Assign(first, "0") for first in coder.firsts)]


def _spelled(value: nodes.Expr) -> str:
    return str(value.value) if isinstance(value, nodes.Number) else value.span.text


def _own_values(coder: Coder, level: ir.Level) -> list[Statement]:
    return [Assign(pack(own(coder, level)).strip("()"), "state.x")]


def _ends(coder: Coder, level: ir.Level) -> list[Statement]:
    """Where warm levels begin."""
    return [Assign(f"{i.name}_begin", f"state.ends[{i.name!r}]") for i in used_levels(coder, level) if is_warm(i)]


def _solved_from(coder: Coder, level: ir.Level, inner: ir.Level) -> list[Statement]:
    """Where a level goes on that is solved on what the user gives: copies of the user's own begin anew."""
    if is_warm(inner) and inner.batched:
        return [Assign(f"{inner.name}_begin", "()")]
    return _ends(coder, level)


def _draws(coder: Coder, level: ir.Level) -> list[Statement]:
    lines = step_body(coder, level)
    call = f"{level.name}_draw"
    if call in coder.known:
        lines[-1] = Assign(", ".join(drawn(coder, level)), coder.call(call, step="state.step"))
    if lines and counter(coder, level) is not None and isinstance(lines[0], Assign):
        lines[0] = Assign(lines[0].target, lines[0].value.replace("+ step", "+ state.step"))
    return lines


# ---- reports -------------------------------------------------------------------------------------------------


def report_function(coder: Coder, step: Step) -> Function:
    """One number to log: levels inside are solved as written, on the report's own draws."""
    level, report = coder.program.level(step.level), step.report
    assert report is not None
    changed = {"_".join(s.path): s.value.span.text.replace("_", "") for s in report.settings}
    reads = free_reads(report.value)
    body: list[Statement] = [
        Assign("level_key", f'fold(key, "{level.name}")'),
        # Reports have a stream of their own, the same in every step: their numbers can be compared over the steps.
        Assign("key", 'fold(level_key, "report")'),
        *_settings(coder, level, changed),
        *_own_values(coder, level),
        *_one_member(coder, level),
        *populations.values(coder, level),
        *_ends(coder, level),
        *_one_end(coder, level),
    ]
    body += _report_draws(coder, level, report)
    for inner in level.levels:
        if _is_needed(level, inner, reads):
            body += solve(coder, inner, coder.plan.facts[inner.name].iterates)
    members = _members(level, reads)
    text = mapped(coder.writer, write(coder.writer, report.value), members or level.batched, reads) + "[0]" * len(
        members
    )
    body.append(Return(text))
    name = f"{level.name}_report_{report.name}"
    parameters = ["state", "key", *outside(coder, level)]
    return coder.function(name, parameters, f"The report {report.name}.", body, report.span, len(parameters))


def _one_member(coder: Coder, level: ir.Level) -> list[Statement]:
    """The centre of the distribution as a population of one."""
    if not is_searched(level):
        return []
    return [Assign(n, f"spread({n}, 1)") for n in own(coder, level)]


def _members(level: ir.Level, reads: Axes) -> tuple[str, ...]:
    """The axis of members of a searched level; none where all of them report alike, such as a control."""
    axis = populations.member_axis(level)
    return (axis,) if is_searched(level) and any(axis in own for own in reads.values()) else ()


def _one_end(coder: Coder, level: ir.Level) -> list[Statement]:
    """Where the warm levels inside begin for that member: at the ends of the best one."""
    if not is_searched(level):
        return []
    warm = [i.name for i in used_levels(coder, level) if is_warm(i)]
    return [Assign(f"{n}_begin", f"one_end({n}_begin, state.solver[1])") for n in warm]


def _is_needed(level: ir.Level, inner: ir.Level, reads: dict[str, tuple[str, ...]]) -> bool:
    """Whether a report reads the solution of a level, directly or through a later one."""
    names = {n.removeprefix("@") for n in reads}
    later = level.levels[level.levels.index(inner) + 1 :]
    through = [i for i in later if _is_needed(level, i, reads)]
    return bool(names & set(inner.names)) or any(e.reads & set(inner.names) for i in through for e in expressions(i))


def _report_draws(coder: Coder, level: ir.Level, report: ir.Report) -> list[Statement]:
    """The draws of a level from the report's stream, with the sources that the report names instead."""
    replaced = {i.name: i for i in report.indices}
    lines: list[Statement] = []
    for index in level.indices:
        chosen = replaced.get(index.name, index)
        text = draws.index_draw(coder.writer, coder.program, level, chosen)
        lines += [
            Assign(coder.writer.name(index.name), text),
            *numbered(coder, replace(chosen, numbered=index.numbered)),
        ]
    for draw in (d for d in level.draws if d.name != ir.NOISE):
        lines.append(Assign(coder.writer.name(draw.name), draws.batch_draw(coder.writer, coder.program, level, draw)))
    return lines


def phases(coder: Coder, plan: Plan) -> list[Statement]:
    """The outermost levels in order, as the module's result."""
    texts = []
    for level in plan.program.levels:
        reports = [f'"{r.name}": ({r.every}, {level.name}_report_{r.name})' for r in level.reports]
        names = "".join(f'"{n}", ' for n in level.names).rstrip()
        reads = "".join(f'"{n}", ' for n in outside(coder, level)).rstrip()
        texts.append(
            f'Phase("{level.name}", ({names}), {steps_text(coder, level)}, {level.name}_begin, {level.name}_step, '
            f"{level.name}_hypergradient, {level.name}_values, ({reads}), {{{', '.join(reports)}}}, "
            f"{{{', '.join(_solve_entry(coder, level, i) for i in solvable(coder, level))}}})"
        )
    return [Return(f"({', '.join(texts)},)")]


def solvable(coder: Coder, level: ir.Level) -> list[ir.Level]:
    """The levels inside that can be solved by themselves, on indices and draws that the user gives."""
    searched = is_searched(level)
    return [i for i in level.levels if f"{i.name}_forward" in coder.known and not searched and not i.lists]


def _given(coder: Coder, level: ir.Level, inner: ir.Level) -> list[str]:
    """What a solve of a level needs besides the variables of the level around it."""
    here = [*own(coder, level), *(coder.writer.name(n) for n in level.names), *outside(coder, level)]
    settings = {*coder.plan.settings.values(), *coder.firsts}
    needed = coder.known[f"{inner.name}_forward"]
    return [p for p in needed if p not in (*here, "key", "keep", f"{inner.name}_begin") and p not in settings]


def _solve_entry(coder: Coder, level: ir.Level, inner: ir.Level) -> str:
    names = "".join(f'"{n}", ' for n in _given(coder, level, inner)).rstrip()
    return f'"{inner.name}": ({level.name}_solve_{inner.name}, ({names}))'


def solve_functions(coder: Coder, level: ir.Level) -> list[Function]:
    """One function for each level inside that solves it from a state, on what the user gives."""
    return [_solve_function(coder, level, inner) for inner in solvable(coder, level)]


def _solve_function(coder: Coder, level: ir.Level, inner: ir.Level) -> Function:
    found = [f'"{n}": {coder.writer.name(n)}' for n in inner.names]
    body: list[Statement] = [
        Assign("key", f'fold(fold(key, "{level.name}"), "solve")'),
        *_settings(coder, level),
        *_own_values(coder, level),
        *populations.values(coder, level),
        *_solved_from(coder, level, inner),
        *solve(coder, inner, False),
        Return("{" + ", ".join(found) + "}"),
    ]
    parameters = ["state", "key", *_given(coder, level, inner), *outside(coder, level)]
    doc = f"The solution of {inner.name} at a state of {level.name}, as the recipe writes it."
    return coder.function(f"{level.name}_solve_{inner.name}", parameters, doc, body, inner.span, len(parameters))


def values_function(coder: Coder, level: ir.Level) -> Function:
    """The values of the variables by name, from the state."""
    items = ", ".join(f'"{v.name}": {coder.writer.name(v.name)}' for v in level.variables)
    body: list[Statement] = [
        *_own_values(coder, level),
        *populations.values(coder, level),
        Return(f"{{{items}}}"),
    ]
    return coder.function(f"{level.name}_values", ["state"], f"The variables of {level.name} by name.", body, None, 1)
