"""Messages of the planner: why a mode cannot be used for a level, and which ones can.

Takes the verdict of a mode; decides nothing. Reports B404, B405, B408, B413, B415, B502, B503, B505, B507-B510, B513.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from bilevel import ir
from bilevel.chunks import chunk_of
from bilevel.costs import Cost, flop_text, size_text
from bilevel.dsl import nodes
from bilevel.dsl.degree import POLYNOMIAL, degree
from bilevel.dsl.passing import flat_part
from bilevel.dsl.walk import name_span, walk
from bilevel.errors import Diagnostic, RecipeError, Related, Span
from bilevel.facts import LevelFacts, expressions, readers
from bilevel.kinds import stops
from bilevel.limits import Limit, limit_text
from bilevel.modes import MODES, Mode, Verdict
from bilevel.modes.leap import Leap
from bilevel.modes.rmd import Reverse, steps_of
from bilevel.plan import Choice


def refused(
    program: ir.Program, level: ir.Level, facts: LevelFacts, mode: Mode, verdict: Verdict, legal: Iterable[Mode]
) -> RecipeError:
    """The error for a mode that is named, or needed, and cannot be used."""
    entry = next((e for e in program.schedule if e.target == level.name), None)
    name = next((t for t in facts.targets if f"`{t}`" in verdict.why), None)
    legal = tuple(legal)
    found = Diagnostic(
        verdict.code,
        f"`{level.name}` cannot be differentiated by `{mode.title}`",
        entry.span if entry is not None else level.span,
        related=tuple(_entrances(program, facts, (name,) if name else facts.targets))[:2],
        why=verdict.why,
        fix=_instead(level, legal),
    )
    if verdict.code not in ("B404", "B405", "B413"):
        found = replace(found, related=found.related[-1:])
    if verdict.code == "B505" and level.parent is not None:
        found = replace(found, related=_iterates(level, program.level(level.parent)))
    if verdict.reason == "smooth":
        return RecipeError([_underived(found, level, facts, mode, legal)])
    if isinstance(mode, Leap) and verdict.code == "B503":
        return RecipeError([_too_many_kept(found, level, mode, entry)])
    if verdict.code == "B408":
        return RecipeError([_unsolved(found, level) if verdict.reason == "formula" else _not_quadratic(found, level)])
    if isinstance(mode, Leap) and verdict.code == "B405" and name is not None:
        return RecipeError([_cut_off(found, level, mode, entry, name)])
    if verdict.code == "B404" and name is not None:
        return RecipeError([_zero(found, level, facts, mode, name)])
    return RecipeError([_worded(found, level, mode.title, name)])


def _worded(found: Diagnostic, level: ir.Level, title: str, name: str | None) -> Diagnostic:
    """The message of a code that has one of its own."""
    word = title.partition("(")[0]
    match found.code:
        case "B413" if name is not None:
            message = f"`{name}` reaches the objective only through the inner gradient, which order = 1 holds constant"
            return replace(found, message=message, why=f"{level.parent} would compute a gradient that is always zero")
        case "B505":
            read = found.related[0].span.text if found.related else level.name
            if stops(level) and word != "ift":
                return replace(
                    found,
                    message=f"`{read}` is an iterate, and `{level.name}` is solved `until` a test holds",
                    fix="for N steps",
                )
            why = f"`{word}` differentiates the stationary point, whatever the steps on the way"
            return replace(found, message=f"`{read}` is an iterate, and `{word}` knows only the solution", why=why)
    return found


def _underived(found: Diagnostic, level: ir.Level, facts: LevelFacts, mode: Mode, legal: Iterable[Mode]) -> Diagnostic:
    """B415 and B513: what a mode would differentiate has no derivative of that kind."""
    every = [m.title for m in legal]
    titles = [title for title in every if "(" not in title] or every
    fix = "\nor ".join(f"{level.name} : {title}" for title in titles)
    if found.code == "B415":
        name = facts.flat[0]
        entry = next(e for e in facts.enters if e.name == name)
        part = next((p for e in expressions(level) if (p := flat_part(e, name)) is not None), None)
        held = facts.held if part is None else None
        at = held if held is not None else entry.span if part is None else part.span
        related = (Related(at, "flat: derivative 0 wherever it exists"),)
        fix = (
            f"something smooth in its place (tanh(20 * x) for sign(x)), or {level.name} : es(samples = 16), or a search"
        )
        message = (
            f"`{mode.title}` gives `{name}` a gradient of exactly zero: it enters `{level.name}` "
            f"{'through flat steps' if held is not None else 'by flat parts'} alone"
        )
        return replace(found, message=message, related=related, why=found.why.partition(": ")[2], fix=fix)
    every_lack = (facts.second, facts.forward, *facts.steps)
    missing = next((m for m in every_lack if m is not None and str(m) == found.why), None)
    head = f"`{mode.title}` cannot differentiate `{level.name}`"
    if missing is None:
        message, _, why = found.why.partition(": ")
        straight = () if level.objective is None else (Related(level.objective.value.span, "has no curvature"),)
        return replace(found, message=f"{head}: {message}", related=straight, why=why, fix=fix)
    return replace(
        found,
        message=f"{head}: {missing.lack}",
        related=(Related(missing.span, "in here"),),
        why=missing.lack.why,
        fix=fix,
    )


def _zero(found: Diagnostic, level: ir.Level, facts: LevelFacts, mode: Mode, name: str) -> Diagnostic:
    """B404: at a stationary point the answer does not depend on what enters through the start or the solver alone.

    Nor does a window of the last steps reach the start.
    """
    word = mode.title.partition("(")[0]
    declared, *entered = found.related or (Related(found.span or level.span, ""),)
    entered = [Related(_argument(r.span), "" if _argument(r.span) != r.span else r.label) for r in entered]
    rest = [t for t in facts.targets if t in facts.entering("objective", "inner")]
    drop = f"\nor drop `{name}` from {level.parent} and keep {word} for `{'`, `'.join(rest)}`" if rest else ""
    through = "the step size" if any(e.name == name and e.through == "solver" for e in facts.enters) else "the start"
    found = replace(
        found,
        message=f"`{word}` gives `{name}` a gradient of exactly zero",
        label="differentiates the solution, not the path to it",
    )
    if "enters only" not in found.why:
        return found  # `through` names an expression that lacks it
    if isinstance(mode, Reverse):
        label = f"carries derivatives through the last {mode.window} of {steps_of(level):g} steps"
        return replace(found, message=f"`{mode.title}` gives `{name}` a gradient of exactly zero", label=label)
    return replace(
        found,
        related=(declared, *entered),
        why=f"at a stationary point the answer does not depend on {through}, so d{level.names[0]}*/d{name} = 0",
        fix=f"{found.fix}{drop}",
    )


def _argument(value: Span) -> Span:
    """`lr = lr` for the value after the sign, where it is a named argument."""
    text = value.source.text[: value.start]
    before = re.search(r"[^\W\d]\w*\s*=\s*$", text)
    return value if before is None else Span(value.source, before.start(), value.end)


def _cut_off(found: Diagnostic, level: ir.Level, mode: Leap, entry: ir.Entry | None, name: str) -> Diagnostic:
    """B405: a leap without a step of the teacher, and a name that acts through the steps alone."""
    option = next((o for o in entry.options if o.name == "teacher"), None) if entry is not None else None
    declared, *entered = found.related or (Related(found.span or level.span, ""),)
    starts = [f"{v.name} is {v.start.span.text if v.start is not None else 'init'}" for v in level.variables]
    acts = tuple(Related(r.span, f"{name} acts only through the steps of `{level.name}`") for r in entered)
    return replace(
        found,
        message=f"`leap(teacher = {mode.teacher})` cuts `{name}` off from the objective of `{level.parent}`",
        span=found.span if option is None else option.span,
        label="no differentiable step is left",
        related=acts or (declared,),
        why="a leap lets gradients through the start value and the first `teacher` steps only;\n"
        f"the start value of {', '.join(starts)}, which does not contain {name}",
        fix=f"leap(teacher = 1, keep = {mode.keep}, ...)",
    )


def _too_many_kept(found: Diagnostic, level: ir.Level, mode: Leap, entry: ir.Entry | None) -> Diagnostic:
    option = next((o for o in entry.options if o.name == "keep"), None) if entry is not None else None
    most = int(steps_of(level)) - mode.teacher
    fix = f"keep = {most}, or " if most > 0 else ""
    return replace(
        found,
        message=f"`keep = {mode.keep}` asks for more checkpoints than `{level.name}` makes",
        span=found.span if option is None else option.span,
        related=(Related(_count_span(level), _checkpoints(level, mode)),),
        why="",
        fix=f"{fix}{level.name}.steps = {mode.keep + mode.teacher} or more",
    )


def _checkpoints(level: ir.Level, mode: Leap) -> str:
    steps = int(steps_of(level))
    if mode.teacher == 0:
        return f"{steps} steps, so {steps} checkpoints after the start"
    return f"{steps} steps, {mode.teacher} of them the teacher's, so {max(0, steps - mode.teacher)} checkpoints"


def _count_span(level: ir.Level) -> Span:
    """Where the number of steps is written: the line that overrides it, or the duration."""
    duration = level.phases[-1].duration
    if not isinstance(duration, ir.Steps):
        return level.phases[-1].span
    value = duration.count.span
    before = re.search(r"[\w.]+\.\w+\s*=\s*$", value.source.text[: value.start])
    return value if before is None else Span(value.source, before.start(), value.end)


def _not_quadratic(found: Diagnostic, level: ir.Level) -> Diagnostic:
    related = () if level.objective is None else (Related(level.objective.value.span, "not quadratic"),)
    names = ", ".join(level.names)
    return replace(
        found,
        message=f"`closed_form` needs an objective quadratic in `{names}`{_guilty(level)}",
        span=level.phases[-1].span,
        related=related,
        fix="by lbfgs() until stationary(1e-6) within 200 steps",
    )


def _guilty(level: ir.Level) -> str:
    """`; ce(...) is not`, where one function is to blame."""
    value = level.objective.value if level.objective is not None else None
    names = frozenset(level.names)
    for part in ir.walk(value) if value is not None else ():
        if isinstance(part, ir.Builtin) and degree(part, names) > 2 and part.function not in POLYNOMIAL:
            return f"; `{part.function}(...)` is not"
    return ""


def _unsolved(found: Diagnostic, level: ir.Level) -> Diagnostic:
    """B408 for a formula in which sympy finds no minimum, or several."""
    found = _not_quadratic(found, level)
    related = tuple(replace(r, label="not solved") for r in found.related)
    return replace(found, message=f"`closed_form` finds no single minimum in `{level.names[0]}`", related=related)


def _iterates(level: ir.Level, around: ir.Level) -> tuple[Related, ...]:
    """Where the level around reads iterates of a level."""
    parts = (p for e in readers(around) for p in ir.walk(e))
    found = (p for p in parts if isinstance(p, ir.IterateOf) and p.name in level.names)
    return tuple(Related(p.span, "read here") for p in found)[:1]


def _entrances(program: ir.Program, facts: LevelFacts, names: Sequence[str]) -> Iterator[Related]:
    """The declaration of the first name, and where it enters the level."""
    declared = next(
        (n for n in walk(program.recipe) if isinstance(n, nodes.Variable) and n.names[:1] == names[:1]), None
    )
    for entry in facts.enters:
        if entry.name in names:
            if declared is not None:
                yield Related(
                    name_span(declared, entry.name), f"enters only through the {_place(entry.through)}, below"
                )
            yield Related(_mention(entry.span, entry.name), f"{entry.name} enters here")
            return


def _place(through: str) -> str:
    return {"inner": "levels inside", "objective": "inner objective"}.get(through, through)


def _mention(span: Span, name: str) -> Span:
    """The first time that a name stands in a text, or all of the text."""
    return name_span(nodes.Name(name, span=span), name)


def _instead(level: ir.Level, legal: Iterable[Mode]) -> str:
    """The modes that could be used, without their variants."""
    words = list(dict.fromkeys(mode.title.partition("(")[0] for mode in legal))
    return f"{level.name} : {' or '.join(words)}" if words else ""


def no_effect(level: ir.Level, entry: ir.Entry) -> RecipeError:
    """B508: a mode for a level that nobody differentiates."""
    why = f"the solution of `{level.name}` reaches no objective un-stopped, so nothing is differentiated"
    message = f"nothing differentiates `{level.name}`, so this line has no effect"
    return RecipeError([Diagnostic("B508", message, entry.span, why=why, fix="remove the line")])


def outermost_line(entry: ir.Entry) -> Diagnostic:
    """B508: a mode for a level that no level is around."""
    why = f"`{entry.target}` is an outermost level: its own solver follows its hypergradient, and nobody differentiates it"
    message = f"nothing differentiates `{entry.target}`, so this line has no effect"
    return Diagnostic("B508", message, entry.span, why=why, fix="remove the line, or name a level inside")


def leap_not_allowed(entry: ir.Entry) -> RecipeError:
    """B508: a leap for the planner to weigh, of a class that it may not take."""
    message = f"the leap beside `auto` of `{entry.target}` is never weighed, so it has no effect"
    why = "a leap is a surrogate, and only exact or biased modes are allowed"
    fix = f"{entry.target} : auto(allow = surrogate, leap = ...)"
    return RecipeError([Diagnostic("B508", message, entry.span, why=why, fix=fix)])


def too_deep(level: ir.Level, around: list[ir.Level]) -> RecipeError:
    """B511: implicit differentiation under two differentiated levels."""
    names = " and ".join(f"`{a.name}`" for a in around)
    return RecipeError(
        [
            Diagnostic(
                "B511",
                f"`{level.name}` cannot be differentiated by `ift` inside {names}",
                level.phases[-1].span,
                why="the levels around it need second derivatives of its solution, and `ift` gives first ones only",
                fix=f"by ... for N steps in `{level.name}` (rmd has derivatives of every order), or by closed_form",
            )
        ]
    )


def inside_next(level: ir.Level, around: ir.Level, choice: Choice) -> RecipeError:
    """B512: a mode that is not exact for a level whose derivative is taken with the step around it."""
    return RecipeError(
        [
            Diagnostic(
                "B512",
                f"`{choice.mode}` cannot be used inside `{around.name}`, which moves by `next`",
                choice.at if choice.at is not None else level.span,
                why=f"`{level.name}` is differentiated together with the step around it, exactly",
                fix=f"remove the line, or name a mode for `{around.name}`",
            )
        ]
    )


def beside_windows(level: ir.Level, other: ir.Level, choice: Choice) -> RecipeError:
    """B507 for a level beside one whose windows each end in a step of the outer solver: it is not solved again there."""
    return RecipeError(
        [
            Diagnostic(
                "B507",
                f"`{choice.mode}` with `{other.name}` beside `{level.name}` is not in this version",
                choice.at if choice.at is not None else level.span,
                why=f"after every window the solution of `{other.name}` would have to be found anew",
                fix=f"a mode of `{level.name}` without `update = each`",
            )
        ]
    )


def searched_inside(level: ir.Level, around: Sequence[ir.Level]) -> RecipeError:
    """B509 for a search whose solution, or the step around it, is differentiated."""
    solver = level.phases[0].solvers[0]
    related = tuple(Related(a.span, "is differentiated") for a in around[:1])
    why = f"`{solver.name}` compares values; its solution has no derivative in what it reads"
    fix = f"stop({level.names[0]}) where it is read, a search around it, or a solver that follows a gradient"
    if around:
        fix = "a search in a level that nobody differentiates, or a solver that follows a gradient"
    message = f"`{level.name}` is searched by `{solver.name}` where a derivative is wanted"
    return RecipeError([Diagnostic("B509", message, solver.span, related=related, why=why, fix=fix)])


# ---- limits --------------------------------------------------------------------------------------------------


def does_not_fit(
    program: ir.Program,
    level: ir.Level,
    facts: LevelFacts,
    mode: Mode,
    entry: ir.Entry | None,
    costs: Mapping[str, Cost],
    limit: Limit | None,
) -> RecipeError:
    """B502: a mode that is named and needs more memory than there is."""
    assert limit is not None
    need = costs[mode.title].needs or 0.0
    why = f"one step of the outermost level holds {costs[mode.title].formula.memory.replace('*', ' * ')} bytes at its peak"
    if mode.title == "fmd":
        why = f"fmd keeps one copy of the state of `{level.name}` for each number of {', '.join(facts.targets)}"
    return RecipeError(
        [
            Diagnostic(
                "B502",
                f"`{mode.title}` does not fit: {size_text(need)} needed, limit {size_text(limit.memory)}",
                entry.span if entry is not None else level.span,
                related=tuple(_declared(program, facts.targets))[:1],
                why=why,
                fix="\n".join(_fitting(level, facts, costs, limit)) or f"--limit memory={limit_text(need)}",
            )
        ]
    )


def _declared(program: ir.Program, names: Sequence[str]) -> Iterator[Related]:
    """The variables of the level around whose derivative is wanted."""
    for level in program.walk_levels():
        for variable in level.variables:
            if variable.name in names:
                yield Related(variable.span, f"one tangent for each number of `{variable.name}`")


def _fitting(level: ir.Level, facts: LevelFacts, costs: Mapping[str, Cost], limit: Limit) -> Iterator[str]:
    """Lines of a schedule that fit, exact ones first, with what they need."""
    rows = [(m, c) for m in MODES if (c := costs.get(m.title)) and c.needs is not None and c.needs <= limit.memory]
    rows.sort(key=lambda row: row[0].exactness(level, facts) != "exact")
    width = max((len(m.title) for m, _ in rows), default=0)
    for mode, cost in rows:
        needs = f"{size_text(cost.needs or 0.0):>8}, {flop_text(cost.work.flop if cost.work else 0.0):>10}"
        yield f"{level.name} : {mode.title:<{width}}  {needs}  {mode.exactness(level, facts)}"


def nothing_fits(
    program: ir.Program,
    level: ir.Level,
    facts: LevelFacts,
    known: Sequence[Mode],
    costs: Mapping[str, Cost],
    limit: Limit | None,
) -> RecipeError:
    """B510: every mode that may be taken needs more memory than there is."""
    assert limit is not None
    least = min(known, key=lambda m: costs[m.title].needs or 0.0)
    need = costs[least.title].needs or 0.0
    whose = "" if limit.asked else " (free memory)"
    return RecipeError(
        [
            Diagnostic(
                "B510",
                f"no {'exact ' if _all_exact(level, facts, known) else ''}plan fits {size_text(limit.memory)}{whose}: "
                f"the smallest needs {size_text(need)}{_at_a_time(program, level)}",
                level.span,
                related=tuple(
                    Related(i.span, f"{i.source.span.text}: one copy each") for i in _indices(program, level)
                ),
                why=f"`{level.name}` by `{least.title}` holds that much at its peak; no other mode is taken in silence",
                fix="\n".join(_ways_out(program, level, facts, need, costs, limit)),
            )
        ]
    )


def _at_a_time(program: ir.Program, level: ir.Level) -> str:
    """How many copies that is for, where these are taken in chunks."""
    sizes = [(i.name, size) for i in _indices(program, level) if (size := chunk_of(program, i.name)) is not None]
    return "".join(f", with {size} of the copies of `{name}` at a time" for name, size in sizes)


def _all_exact(level: ir.Level, facts: LevelFacts, modes: Sequence[Mode]) -> bool:
    return all(mode.exactness(level, facts) == "exact" for mode in modes)


def _ways_out(
    program: ir.Program, level: ir.Level, facts: LevelFacts, need: float, costs: Mapping[str, Cost], limit: Limit
) -> Iterator[str]:
    """A larger limit, fewer copies, another class."""
    yield f"--limit memory={limit_text(need)}"
    for index in _indices(program, level):
        count = index.source.count if isinstance(index.source, ir.Sample) else None
        whole = chunk_of(program, index.name) is None
        if whole and isinstance(count, ir.Constant) and isinstance(count.value, int):
            fewer = int(count.value * limit.memory / need)
            if fewer >= 1:
                yield f"{index.name}.count={fewer}     in place of {count.value}: memory grows with the copies"
    for mode in MODES:
        cost, exactness = costs.get(mode.title), mode.exactness(level, facts)
        if exactness != "exact" and cost and cost.needs is not None and cost.needs <= limit.memory:
            yield f"--allow {exactness}     {mode.title} needs {size_text(cost.needs)}"


def _indices(program: ir.Program, level: ir.Level) -> list[ir.Index]:
    """The drawn indices over whose copies a level is solved."""
    return [i for lv in program.walk_levels() for i in lv.indices if i.name in level.copies and i.drawn]
