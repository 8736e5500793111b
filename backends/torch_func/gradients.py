"""The gradient of a level's objective; for a level with levels inside it is the hypergradient.

Values flow down the text: levels inside are solved, then the objective. Cotangents flow up: the objective's own
derivative first, then the pullback of each differentiated level inside, the last one first.
"""

from __future__ import annotations

from dataclasses import replace

from bilevel import ir
from bilevel.backends.source import Assign, Function, Loop, Return, Statement
from bilevel.backends.torch_func.coder import (
    Coder,
    active_levels,
    carried,
    domain_call,
    is_warm,
    own,
    pack,
    solutions,
    used_levels,
)
from bilevel.backends.torch_func.expressions import first_name, list_key
from bilevel.backends.torch_func.levels import end_text, inner_names, own_lists, per_element, solve, started, value_axes
from bilevel.chunks import chunked
from bilevel.kinds import kind
from bilevel.modes import Implicit
from bilevel.plan import Step


def gradient_functions(coder: Coder, step: Step) -> list[Function]:
    """The gradient of the objective in the variables; for a level with levels inside, the hypergradient.

    Its own derivative of the objective comes first, as a function that can become a kernel where the whole cannot.
    """
    level = coder.program.level(step.level)
    chunk = chunked(coder.program, level)
    if chunk is None:
        return _whole_gradient(coder, level, f"{level.name}_gradient", step)
    functions = _whole_gradient(coder, level, f"{level.name}_portion", step)
    return [*functions, _in_portions(coder, level, chunk, step)]


def _in_portions(coder: Coder, level: ir.Level, chunk: tuple[str, int], step: Step) -> Function:
    """The gradient as the mean over some copies at a time: nothing of one portion is held when the next begins."""
    index, size = chunk
    portion, first = f"{level.name}_portion", first_name(coder.writer, index)
    axes = value_axes(coder, level)
    cut = [p for p in coder.known[portion] if axes.get(p, ())[:1] == (index,)]
    names = f"{', '.join(cut)}{',' * (len(cut) == 1)}"
    loop: tuple[Statement, ...] = (Assign("found", f"with_portion(found, share, {coder.call(portion)})"),)
    body: list[Statement] = [
        Assign("found", "None"),
        Loop(f"{first}, share, ({names})", f"portions({size}, ({names}))", loop),
        Return("found"),
    ]
    parameters = [p for p in coder.known[portion] if p != first]
    doc = f"The same, {size} of the copies of {index} at a time."
    made = coder.function(f"{level.name}_gradient", parameters, doc, body, step.span)
    kept = tuple(p for p in made.parameters if p != first)
    coder.known[made.name] = kept
    return replace(made, parameters=kept)


def _whole_gradient(coder: Coder, level: ir.Level, name: str, step: Step) -> list[Function]:
    """The gradient of all copies at once, or of those that are given."""
    restricted = any(v.domain for v in level.variables)
    if not used_levels(coder, level) and not restricted and len(level.variables) == 1 and conflicting(level) is None:
        return [_plain_gradient(coder, level, name, step)]
    return [_slopes_function(coder, level), _gradient_function(coder, level, name, step)]


def _gradient_function(coder: Coder, level: ir.Level, name: str, step: Step) -> Function:
    body: list[Statement] = [*values_with_pulls(coder, level)]
    for inner in used_levels(coder, level):
        body += solve(coder, inner)
    sweep = [*_objective_gradient(coder, level)]
    have = _cotangents_known(coder, level)
    for inner in reversed(active_levels(coder, level)):
        sweep += _pull(coder, inner, have)
        sweep += _pull_started(coder, inner, have)
    sweep += back_to_free(coder, level)
    conflict = conflicting(level)
    body += sweep if conflict is None else _projected(coder, level, conflict, sweep)
    body.append(Return(_returned(coder, level, "gradient" if conflict else "")))
    parameters = _gradient_parameters(coder, level)
    doc = f"Gradient of the objective of {level.name} in {' and '.join(level.names)}{_through(coder, level)}."
    warm = any(is_warm(inner) for inner in used_levels(coder, level))  # which hands on numbers of steps
    return coder.function(name, parameters, doc, body, step.span, kernel=not warm)


def conflicting(level: ir.Level) -> str | None:
    """The index whose gradients are projected by `pcgrad`, None where the objective is not one."""
    value = level.objective.value if level.objective is not None else None
    return value.binders[0].name if isinstance(value, ir.Reduced) and value.kind == "pcgrad" else None


def _projected(coder: Coder, level: ir.Level, index: str, sweep: list[Statement]) -> list[Statement]:
    """One gradient for each value of the index, then the mean of their projections; levels inside are solved once."""
    name = coder.writer.name(index)
    count = f"len({name})" if index in coder.writer.lists else f"length({name})"
    gradient = pack([f"d_{n}" for n in solutions(coder, level)])
    loop: tuple[Statement, ...] = (
        Assign("weight", f"torch.zeros({count}, device=device, dtype=dtype)"),
        Assign("weight[place]", "1.0"),
        *sweep,
        Assign("", f"found.append(({gradient}, value))"),
    )
    return [
        Assign("found", "[]"),
        Loop("place", f"range({count})", loop),
        Assign("value", "torch.stack([value for _, value in found]).mean()"),
        Assign("gradient", 'project_conflicts([gradient for gradient, _ in found], fold(key, "pcgrad"))'),
    ]


def _plain_gradient(coder: Coder, level: ir.Level, name: str, step: Step) -> Function:
    objective = f"{level.name}_objective"
    operator = "grad_and_value" if level.parent is None else "grad"
    call = coder.call(objective).replace(objective, f"{operator}({objective})", 1)
    body = [Return(f"(*{call}, {{}}, {{}})" if level.parent is None else call)]
    doc = f"Gradient of the objective of {level.name}{' and its value' * (level.parent is None)}."
    return coder.function(name, list(coder.known[objective]), doc, list(body), step.span, kernel=True)


def _through(coder: Coder, level: ir.Level) -> str:
    active = [i.name for i in active_levels(coder, level)]
    return f", through {' and '.join(active)}" if active else ""


def _gradient_parameters(coder: Coder, level: ir.Level) -> list[str]:
    """Own variables, then draws and names from outside, `key` where a level inside needs one."""
    inside = used_levels(coder, level)
    local = [*own(coder, level), *solutions(coder, level), *inner_names(coder, level)]
    local += [f"{i.name}_states" for i in inside] + [f"d_{n}" for n in local] + ["keep", "states"]
    functions = [f"{level.name}_objective", *(f"{i.name}_{o}" for i in inside for o in ("forward", "pullback"))]
    local += ["weight"]
    axis = conflicting(level)
    extra = [coder.writer.name(axis), "key"] if axis is not None else []
    needed = coder.needs(*functions, without=local)
    return [*own(coder, level), *(n for n in needed if n not in extra), *extra]


def values_with_pulls(coder: Coder, level: ir.Level) -> list[Statement]:
    """The values of restricted variables, and how a cotangent gets back to their free coordinates."""
    lines: list[Statement] = []
    for variable in level.variables:
        if variable.domain is not None:
            name = coder.writer.name(variable.name)
            call = domain_call(variable, "free")
            lines.append(Assign(f"{name}, {name}_back", f"vjp(lambda free: {call}, {name}_free)"))
    return lines


def _wanted(coder: Coder, level: ir.Level) -> list[int]:
    """The parameters of the objective that are variables, solutions or iterates."""
    wanted = [*solutions(coder, level), *_differentiated_names(coder, level)]
    return [i for i, p in enumerate(coder.known[f"{level.name}_objective"]) if p in wanted]


def _slopes_function(coder: Coder, level: ir.Level) -> Function:
    """The direct derivative of the objective in variables, solutions and iterates."""
    objective = f"{level.name}_objective"
    parameters, places = coder.known[objective], _wanted(coder, level)
    operator = "grad_and_value" if level.parent is None else "grad"
    given = coder.call(objective).removeprefix(objective)
    argnums = f"({', '.join(map(str, places))}{',' * (len(places) == 1)})"
    body: list[Statement] = [Return(f"{operator}({objective}, argnums={argnums}){given}")]
    names = [parameters[i] for i in places]
    doc = f"The derivative of the objective of {level.name} in {', '.join(names)} alone."
    return coder.function(f"{level.name}_slopes", list(parameters), doc, body, None, kernel=True)


def _objective_gradient(coder: Coder, level: ir.Level) -> list[Statement]:
    """The direct derivative of the objective, and zeros for what the objective does not read."""
    parameters = coder.known[f"{level.name}_objective"]
    targets = [f"d_{parameters[i]}" for i in _wanted(coder, level)]
    top = level.parent is None
    left = f"({', '.join(targets)}{',' * (len(targets) == 1)})"
    lines: list[Statement] = [Assign(f"{left}, value" if top else left, coder.call(f"{level.name}_slopes"))]
    for name in solutions(coder, level):
        if f"d_{name}" not in targets and not _pulled(coder, level, name):
            lines.append(Assign(f"d_{name}", f"zeros({name})"))
    for inner in active_levels(coder, level):
        lines += _missing_cotangents(coder, inner, targets)
    return lines


def _differentiated_names(coder: Coder, level: ir.Level) -> list[str]:
    names = [n for inner in active_levels(coder, level) for n in inner.names]
    return [coder.writer.name(n) for n in names] + [coder.writer.name(f"@{n}") for n in names]


def _missing_cotangents(coder: Coder, inner: ir.Level, targets: list[str]) -> list[Statement]:
    """Zeros for solutions that the objective does not read; iterates and solution joined into one list."""
    lines: list[Statement] = []
    for name in inner.names:
        solution, iterates = coder.writer.name(name), coder.writer.name(f"@{name}")
        if coder.plan.facts[inner.name].iterates:
            if f"d_{iterates}" not in targets:
                lines.append(Assign(f"d_{iterates}", f"zeros({iterates})"))
            if f"d_{solution}" in targets:
                lines.append(joined(coder, inner, iterates, "-1", f"d_{solution}"))
        elif f"d_{solution}" not in targets:
            lines.append(Assign(f"d_{solution}", f"zeros({solution})"))
    return lines


def joined(coder: Coder, inner: ir.Level, iterates: str, place: str, more: str) -> Statement:
    """More for the cotangent of one iterate; over lists, for that of every element."""
    depth = len(own_lists(coder, inner))
    if depth:
        return Assign(f"d_{iterates}", f"joined(d_{iterates}, {place}, {more}, {depth})")
    return Assign(f"d_{iterates}[{place}]", f"add(d_{iterates}[{place}], {more})")


def _cotangents_known(coder: Coder, level: ir.Level) -> set[str]:
    """The cotangents that exist once the objective itself has been differentiated."""
    direct = [n for n in solutions(coder, level) if n in coder.known[f"{level.name}_objective"]]
    unread = [n for n in solutions(coder, level) if not _pulled(coder, level, n)]
    return {f"d_{n}" for n in (*direct, *unread, *_differentiated_names(coder, level))}


def _pulled(coder: Coder, level: ir.Level, name: str) -> bool:
    """Whether a level inside gives a cotangent for a variable."""
    inside = active_levels(coder, level)
    return any(name == coder.writer.name(t) for i in inside for t in coder.plan.facts[i.name].targets)


def _pull(coder: Coder, inner: ir.Level, have: set[str]) -> list[Statement]:
    """Add what a level inside contributes to the cotangents of what it reads; `have` names those known so far."""
    targets = [coder.writer.name(t) for t in coder.plan.facts[inner.name].targets]
    more = [f"more_{t}" if f"d_{t}" in have else f"d_{t}" for t in targets]
    if own_lists(coder, inner):
        return _pull_listed(coder, inner, have, targets)
    call = coder.call(f"{inner.name}_pullback", key=f'fold(key, "{inner.name}")', states=_states(coder, inner))
    implicit = isinstance(coder.plan.choices[inner.name].adjoint, Implicit)
    lines: list[Statement] = [Assign(", ".join([*more, *([f"{inner.name}_residual"] * implicit)]), call)]
    for target, extra in zip(targets, more, strict=True):
        if extra != f"d_{target}":
            lines += _added_cotangent(coder, inner, target, extra)
        have.add(f"d_{target}")
    return lines


def _pull_started(coder: Coder, inner: ir.Level, have: set[str]) -> list[Statement]:
    """What the objective adds through the start of a level that it reads itself (`phi@0`)."""
    facts = coder.plan.facts[inner.name]
    if not facts.start_alone:
        return []
    names = [coder.writer.name(t) for t in facts.entering("start")]
    through = [n for n in names if n in coder.known[f"{inner.name}_start"]]
    iterates = [coder.writer.name(f"@{n}") for n in inner.names]
    read = [n for n in iterates if n in coder.known[f"{inner.parent}_objective"]]
    if not through or not read:
        return []
    unread = f"{inner.name}_begun_at"
    given = [f"d_{n}[0]" if n in read else f"zeros({unread}[{place}])" for place, n in enumerate(iterates)]
    lines: list[Statement] = [
        Assign("_, pull", f"vjp(lambda {', '.join(through)}: {started(coder, inner)}, {', '.join(through)})"),
        Assign(f"({', '.join(f'more_{t}' for t in through)},)", f"pull({pack(given)})"),
    ]
    lines += [Assign(f"d_{t}", f"add(d_{t}, more_{t})" if f"d_{t}" in have else f"more_{t}") for t in through]
    have.update(f"d_{t}" for t in through)
    return lines


def _states(coder: Coder, inner: ir.Level) -> str:
    """The states of a level inside, as text; where it is pulled back more than once, a list that may be used up."""
    states = f"{inner.name}_states"
    again = conflicting(coder.program.level(inner.parent or "")) is not None
    return f"list({states})" if again else states


def _pull_listed(coder: Coder, inner: ir.Level, have: set[str], targets: list[str]) -> list[Statement]:
    """The same for a level solved once for each element of some lists: contributions are summed.

    Solutions over the same lists are not shared by the elements: each gets the contribution of its own.
    """
    pullback, states = f"{inner.name}_pullback", f"{inner.name}_states"
    lists = own_lists(coder, inner)
    key = list_key(f'fold(key, "{inner.name}")', lists)
    call = coder.call(pullback, key=key, states=_states(coder, inner))
    names = [coder.writer.name(f"@{n}" if coder.plan.facts[inner.name].iterates else n) for n in inner.names]
    more = {states: inner.copies} | {f"d_{n}": inner.copies for n in names}
    text = per_element(coder, inner, call, pullback, more=more)
    listed = [t for t in targets if (earlier := _solved_by(coder, inner, t)) and own_lists(coder, earlier)]
    shared = [t for t in targets if t not in listed]
    lines: list[Statement] = [Assign(f"d_{t}", f"zeros({t})") for t in shared if f"d_{t}" not in have]
    have.update(f"d_{t}" for t in targets)
    implicit = isinstance(coder.plan.choices[inner.name].adjoint, Implicit)
    if listed or implicit:
        lines.append(Assign(f"{inner.name}_pulled", text))
        text = f"{inner.name}_pulled"
    if implicit:
        worst = f"[more[-1].amax() for more in all_listed({text}, {len(lists)})]"
        lines.append(Assign(f"{inner.name}_residual", f"torch.stack({worst})"))
    added: tuple[Statement, ...] = tuple(Assign(f"d_{t}", f"add(d_{t}, more_{t})") for t in shared)
    left = ", ".join([*(f"more_{t}" if t in shared else "_" for t in targets), *["_"] * implicit])
    lines += [Loop(left, f"all_listed({text}, {len(lists)})", added)] if shared else []
    for place, target in enumerate(targets):
        if target in listed:
            one = (
                f"each_listed(lambda more: more[{place}], {text}, {len(lists)})"
                if len(targets) + implicit > 1
                else text
            )
            lines += _added_cotangent(coder, inner, target, one)
    return lines


def _solved_by(coder: Coder, inner: ir.Level, target: str) -> ir.Level | None:
    """The level beside this one that solves for a name, None for a variable of the level around."""
    around = coder.program.level(inner.parent or "")
    found = (e for e in active_levels(coder, around) if target in [coder.writer.name(n) for n in e.names])
    return next(found, None)


def _added_cotangent(coder: Coder, inner: ir.Level, target: str, extra: str) -> list[Statement]:
    """The cotangent of a variable, or of the solution of an earlier level, with one more contribution."""
    earlier = _solved_by(coder, inner, target)
    if earlier is not None and coder.plan.facts[earlier.name].iterates:
        return [joined(coder, earlier, f"{target}_at", "-1", extra)]
    return [Assign(f"d_{target}", f"add(d_{target}, {extra})")]


def back_to_free(coder: Coder, level: ir.Level) -> list[Statement]:
    """Cotangents of values as cotangents of free coordinates."""
    lines: list[Statement] = []
    for variable in level.variables:
        if variable.domain is not None:
            name = coder.writer.name(variable.name)
            lines.append(Assign(f"(d_{name},)", f"{name}_back(d_{name})"))
    return lines


def _returned(coder: Coder, level: ir.Level, found: str) -> str:
    gradient = found or pack([f"d_{n}" for n in solutions(coder, level)])
    if level.parent is not None:
        ends = "".join(f"{end_text(coder, i)}, " for i in carried(coder, level)).rstrip()
        return f"{gradient}, ({ends})" if ends else gradient
    warm = [i for i in used_levels(coder, level) if is_warm(i)]
    ends = f"{{{', '.join(f'{i.name!r}: {end_text(coder, i)}' for i in warm)}}}"
    return f"{gradient}, value, {ends}, {{{', '.join(_notes(coder, level))}}}"


def _unsolved(coder: Coder, inner: ir.Level) -> str:
    """The largest gradient that a level inside ended with, over its copies and the elements of its lists."""
    states, depth = f"{inner.name}_states", len(own_lists(coder, inner))
    if depth == 0:
        return f"{states}[-1][-2].amax()"
    return f"torch.stack([states[-1][-2].amax() for states in all_listed({states}, {depth})]).amax()"


def _notes(coder: Coder, level: ir.Level) -> list[str]:
    """Residuals of levels inside, the worst over their copies: they decide the class of the hypergradient."""
    found: list[str] = []
    for inner in used_levels(coder, level):
        if kind(inner) in ("until", "fixed point"):
            found.append(f'"{inner.name}.stationarity": {_unsolved(coder, inner)}')
        if isinstance(coder.plan.choices[inner.name].adjoint, Implicit):
            found.append(f'"{inner.name}.residual": {inner.name}_residual.amax()')
    return found
