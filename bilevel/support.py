"""What this version cannot run yet: refused before anything is built, never half-run. Reports B507.

One function for each kind of thing, so that the issue that adds it has one place to delete.
"""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl.datatypes import Array, ListType, Records, Tree
from bilevel.dsl.noises import is_noisy
from bilevel.dsl.solvers import RATES
from bilevel.errors import Diagnostic, Span
from bilevel.facts import Facts
from bilevel.kinds import is_searched, kind, moves_by_next, stops

SOLVERS = (
    "sgd",
    "adam",
    "adamw",
    "rmsprop",
    "next",
    "closed_form",
    "mirror",
    "learned",
    "lbfgs",
    "pgd",
    "exponentiated",
    "frank_wolfe",
    "cmaes",
    "random",
    "pbt",
)
MODES = ("auto", "rmd", "fmd", "ift", "leap", "es", "evolve", "closed_form", "none", "vmap", "loop")
STARTS = ("init", "identity", "normal", "uniform")
"""stand alone after `from`, or are what a draw takes from"""
DOMAINS = ("positive", "nonnegative", "unit", "between", "simplex", "psd", "orthogonal")


def unsupported(program: ir.Program, facts: Facts) -> Iterator[Diagnostic]:
    """A message for every part of a checked program that this version has no code for."""
    for level in program.walk_levels():
        yield from _variables(level)
        yield from _sizes(program, level)
        yield from _indices(level)
        yield from _draws(level)
        yield from _solvers(level)
        yield from _reports(level)
        yield from _samples(program, level)
        for expr in _expressions(level):
            yield from _expression(expr)
        yield from _values_of_starts(level)
        yield from _conflicts(level)
        yield from _continued(program, level)
        yield from _starts_read(level, facts)
        yield from _lists_read(level, facts)
    for entry in program.schedule:
        yield from _schedule(entry)


def _missing(what: str, span: Span, instead: str = "") -> Diagnostic:
    why = "the recipe is well formed; this version has no code for it"
    return Diagnostic("B507", f"{what} cannot be run by this version", span, why=why, fix=instead)


def _variables(level: ir.Level) -> Iterator[Diagnostic]:
    for variable in level.variables:
        if isinstance(variable.type, Tree) and not all(isinstance(count, int) for count in variable.type.count):
            yield _missing(f"`{variable.name}`, which is as many trees as the data say,", variable.span)
        if variable.domain is not None and variable.domain not in DOMAINS:
            yield _missing(f"the domain `{variable.domain}`", variable.span, f"one of {', '.join(DOMAINS)}")
        warm = isinstance(variable.start, ir.Builtin) and variable.start.function == "warm"
        if variable.start is not None and not warm:
            if any(isinstance(e, ir.Builtin) and e.function == "warm" for e in ir.walk(variable.start)):
                yield _missing("`warm` inside another expression", variable.start.span)
    warmed = [v for v in level.variables if isinstance(v.start, ir.Builtin) and v.start.function == "warm"]
    if warmed and (len(warmed) != len(level.variables) or level.parent is None):
        fix = "warm for every variable of the level" if level.parent is not None else "a start without warm"
        yield _missing("`warm` in this place", warmed[0].span, fix)


def _continued(program: ir.Program, level: ir.Level) -> Iterator[Diagnostic]:
    """Warm levels whose step has no place for where they ended."""
    warm = next(
        (v.start for v in level.variables if isinstance(v.start, ir.Builtin) and v.start.function == "warm"), None
    )
    if warm is None or level.parent is None:
        return
    around = program.level(level.parent)
    if moves_by_next(around):
        yield _missing("`warm` inside a level that moves by `next`", warm.span, "a level that minimizes")
    scheduled = (s for p in level.phases for s in p.solvers if any(map(_scheduled, s.arguments.values())))
    if stops(level) and next(scheduled, None) is not None:
        yield _missing("a rate that is scheduled in a warm level solved `until` a test", warm.span, "for N steps")


def _scheduled(argument: ir.Expr) -> bool:
    return isinstance(argument, ir.Builtin) and argument.function in RATES


def _sizes(program: ir.Program, level: ir.Level) -> Iterator[Diagnostic]:
    """What parts say of a shape is known before the run; what a draw says is not."""
    known = {u.name for u in program.uses} | {p.name for p in program.params} | set(level.lists)
    for size in (s for variable in level.variables for s in variable.sizes):
        if not size.reads <= known:
            yield _missing(f"a shape that `{size.span.text}` gives", size.span, "a field of a part")


def _indices(level: ir.Level) -> Iterator[Diagnostic]:
    lists = {i.name for i in level.indices if isinstance(i.source.type, ListType)}
    for index in level.indices:
        if index.name not in lists and not index.drawn and not isinstance(index.source.type, Records):
            yield _missing(f"an index over `{index.source.span.text}`", index.span, f"each {index.name} ~ source[n]")
        elif set(index.source.axes) - lists:
            yield _missing("an index drawn from another drawn index", index.span)
        if index.numbered and index.source.axes:
            yield _missing(f"`{index.name}`, which runs over another list in each copy, as a subscript", index.span)


def _draws(level: ir.Level) -> Iterator[Diagnostic]:
    inside = {n for inner in level.levels for n in inner.names}
    for draw in level.draws:
        given = draw.source.source if isinstance(draw.source, ir.Sample) else draw.source
        if isinstance(given, ir.Builtin) and given.function != "without" and any(a.axes for a in given.arguments):
            yield _missing(
                "a distribution whose arguments differ by copy", draw.span, "mean + deviation * e with e ~ normal(0, 1)"
            )
        if draw.source.reads & inside:
            yield _missing("a draw that uses the solution of a level inside", draw.span)
        if not isinstance(draw.source, ir.Sample | ir.Builtin | ir.NoiseKeys):
            yield _missing(
                f"`{draw.source.span.text}` as a draw", draw.span, "a source with a number, as data.train[128]"
            )


def _solvers(level: ir.Level) -> Iterator[Diagnostic]:
    if len(level.phases) > 1:
        yield _missing("`then` in an inner level", level.phases[1].span)
    for phase in level.phases[:1]:
        yield from _phase(level, phase)


def _phase(level: ir.Level, phase: ir.Phase) -> Iterator[Diagnostic]:
    for solver in phase.solvers:
        if not _is_known(solver):
            yield _missing(f"the solver `{solver.name}`", solver.span, f"one of {', '.join(SOLVERS)}")
        elif solver.learned is not None and any(is_noisy(e.type) for e in ir.walk(solver.learned)):
            yield _missing("a learned solver with dropout", solver.span, "dropout = 0")
        elif level.parent is None and not all(map(_simple, solver.arguments.values())):
            yield _missing("a computed argument of an outermost solver", solver.span, "a number or a param")
    if level.parent is None and kind(level) != "steps":
        yield _missing(f"an outermost level solved by `{phase.span.text}`", phase.span, "a gradient solver for N steps")
    if level.parent is not None and is_searched(level) and (level.lists or phase.solvers[0].name == "pbt"):
        what = "over a list" if level.lists else "with states of its own"
        yield _missing(f"a search {what} inside another level", phase.span, "by cmaes or random, over drawn indices")
    if level.parent is not None and is_searched(level) and isinstance(phase.duration, ir.Until):
        yield _missing(
            "a search inside another level with a test of its end", phase.duration.span, "for 20 generations"
        )
    elif isinstance(phase.duration, ir.Until):
        yield from _until(level, phase.duration)
    elif phase.duration is None and all(map(_is_known, phase.solvers)) and kind(level) != "closed form":
        yield Diagnostic("B103", f"`{level.name}` does not say for how long", phase.span, fix="for 100 steps")
    elif isinstance(phase.duration, ir.Steps) and phase.duration.unit == "epochs" and not _one_finite(level):
        if any(d.source.axes for d in level.draws):
            yield _missing("epochs of a data set that an index gives", phase.span, "for N steps")
            return
        message = f"epochs of `{level.name}` need exactly one draw from a finite data set in it"
        yield Diagnostic("B219", message, phase.span, fix="for N steps")
    elif isinstance(phase.duration, ir.Steps) and phase.duration.unit == "generations":
        if all(map(_is_known, phase.solvers)) and not is_searched(level):
            message = f"`{phase.solvers[0].name}` counts steps, not generations"
            yield Diagnostic("B219", message, phase.span, fix=f"for {phase.duration.count.span.text} steps")


def _is_known(solver: ir.Solver) -> bool:
    return solver.name in SOLVERS or solver.part is not None


def _simple(argument: ir.Expr) -> bool:
    """A number, a name, or a rate that is scheduled between such."""
    scheduled = isinstance(argument, ir.Builtin) and argument.function in RATES
    given = argument.arguments if scheduled and isinstance(argument, ir.Builtin) else (argument,)
    return all(isinstance(inner, ir.Constant | ir.Read) for inner in given)


def _until(level: ir.Level, duration: ir.Until) -> Iterator[Diagnostic]:
    inside = {n for inner in level.levels for n in inner.names}
    for tested in duration.arguments.values():
        if tested.reads & inside:
            fix = f"an expression of {', '.join(level.names)}"
            yield _missing("a test that reads the solution of a level inside", tested.span, fix)
    if duration.unit != "steps":
        yield _missing(f"`until` counted in {duration.unit}", duration.span, "within N steps")


def _samples(program: ir.Program, level: ir.Level) -> Iterator[Diagnostic]:
    """A number of samples for the test and the linear system, where what is drawn has none that it could replace."""
    duration = level.phases[-1].duration if level.phases else None
    tested = duration.arguments.get("batch") if isinstance(duration, ir.Until) else None
    options = (o for e in program.schedule if e.target == level.name for o in e.options if o.name == "batch")
    at = tested.span if tested is not None else next((o.span for o in options), None)
    drawn = [d for d in level.draws if d.name != ir.NOISE]
    if at is None or (drawn and not level.indices and all(map(_has_samples, drawn))):
        return
    if level.indices:
        what = f"`{level.name}` opens an index over what it draws"
    elif not drawn:
        what = f"`{level.name}` draws nothing"
    else:
        what = f"`{drawn[0].span.text}` is no sample of a data set"
    why = f"{what}: there is no number of samples that `batch` could replace"
    yield Diagnostic("B507", f"`batch` has no meaning in `{level.name}`", at, why=why, fix="remove it")


def _has_samples(draw: ir.Draw) -> bool:
    """Whether the number in a draw counts samples of a source; that of a distribution is the length of an array."""
    return isinstance(draw.source, ir.Sample) and not isinstance(draw.type, Array)


def _one_finite(level: ir.Level) -> bool:
    from bilevel.dsl.datatypes import Records

    finite = [d for d in level.draws if isinstance(d.source, ir.Sample) and isinstance(d.source.source.type, Records)]
    return len(finite) == 1 and not finite[0].source.axes


def _reports(level: ir.Level) -> Iterator[Diagnostic]:
    for report in level.reports:
        if level.parent is not None:
            yield _missing("a report of an inner level", report.span, "the report in the outermost level")
        known = _replaceable(level)
        for setting in report.settings:
            if setting.path[0] not in known:
                yield _missing(f"a report that replaces `{'.'.join(setting.path)}`", setting.span, "two runs")


def _replaceable(level: ir.Level) -> set[str]:
    """What a report may change for itself: settings of levels inside, and sizes of draws."""
    found = {i.name for i in level.indices} | {d.name for d in level.draws}
    for inner in level.levels:
        found |= {inner.name} | _replaceable(inner)
    return found


def _expressions(level: ir.Level) -> Iterator[ir.Expr]:
    starts = [v.start for v in level.variables if v.start is not None]
    values = [level.objective.value] if level.objective is not None else []
    values += [a for p in level.phases for s in p.solvers for a in s.arguments.values()]
    values += [r.value for r in level.reports]
    for expr in (*starts, *values):
        yield from ir.walk(expr)


def _values_of_starts(level: ir.Level) -> Iterator[Diagnostic]:
    """What draws a start, inside another expression."""
    starts = [v.start for v in level.variables]
    starts += [s.arguments[0] for s in starts if isinstance(s, ir.Builtin) and s.function == "warm"]
    for expr in _expressions(level):
        if isinstance(expr, ir.Builtin) and expr.function in STARTS and all(expr is not s for s in starts):
            yield _missing(
                f"`{expr.span.text}` inside an expression", expr.span, "e ~ normal(0, 1)[n], or a start alone"
            )


def _expression(expr: ir.Expr) -> Iterator[Diagnostic]:
    match expr:
        case ir.Builtin(function="onehot", arguments=(_,)):
            yield _missing("`onehot` without a number of classes", expr.span, "onehot(labels, 10)")
        case ir.Reduced(binders=binders):
            for binder in binders:
                counted = isinstance(binder.source, ir.Counting)
                if binder.source is not None and not counted and not isinstance(binder.source.type, ListType):
                    yield _missing(f"a reducer over `{binder.source.span.text}`", binder.span, "each i in ..., mean[i]")
        case ir.CallPart(arguments=arguments) if any(is_noisy(a.type) for a in arguments):
            yield _missing("a network with dropout as an argument", expr.span, "dropout = 0")


def _conflicts(level: ir.Level) -> Iterator[Diagnostic]:
    """`pcgrad` stands at the top of the objective of an outermost level, over one index."""
    value = level.objective.value if level.objective is not None else None
    for expr in ir.walk(value) if value is not None else ():
        if isinstance(expr, ir.Reduced) and expr.kind == "pcgrad":
            if expr is not value or level.parent is not None or len(expr.binders) != 1 or expr.binders[0].source:
                yield _missing("`pcgrad` in this place", expr.span, "the whole objective of an outermost level")


def _starts_read(level: ir.Level, facts: Facts) -> Iterator[Diagnostic]:
    """`phi@0` where the start is no plain expression of what is at hand."""
    warm = any(isinstance(v.start, ir.Builtin) and v.start.function == "warm" for v in level.variables)
    if is_searched(level) and facts[level.name].iterates:
        yield _missing(f"an iterate of `{level.name}`, which is searched,", level.span, f"{level.names[0]}")
    if facts[level.name].start_alone and (warm or (level.lists and facts[level.name].entering("start"))):
        yield _missing(f"`{level.names[0]}@0` of this level", level.span, "rmd and an iterate besides the start")


def _lists_read(level: ir.Level, facts: Facts) -> Iterator[Diagnostic]:
    """A level over some lists through which the solution of a level beside it, over others, has a derivative."""
    lists = {i.name: tuple(a for a in i.lists if a not in level.copies) for i in level.levels}
    for inner in level.levels:
        for other in level.levels:
            read = next((n for n in other.names if n in facts[inner.name].targets), None)
            if read is not None and lists[inner.name] and lists[other.name] not in ((), lists[inner.name]):
                over = " and ".join(lists[inner.name])
                yield _missing(f"a level over {over} that reads `{read}`, a solution over other lists,", inner.span)


def _schedule(entry: ir.Entry) -> Iterator[Diagnostic]:
    if entry.mode not in MODES:
        yield _missing(f"the mode `{entry.mode}`", entry.span, f"one of {', '.join(MODES)}")
