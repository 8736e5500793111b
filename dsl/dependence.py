"""Dependence: what reaches what, by which derivatives flow. Reports B401, B402, B403.

Takes a well-typed program. The planner asks `reaches` again when it decides who is differentiated, so there is one
answer to the question.
"""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl.context import joined_smoothness
from bilevel.dsl.passing import flat_part, passing
from bilevel.dsl.solvers import SOLVERS
from bilevel.errors import Diagnostic, Related, Span
from bilevel.ir import Smoothness


def sources(level: ir.Level) -> Iterator[ir.Expr]:
    """The expressions of a level through which anything outside can influence its solution."""
    yield from (v.start for v in level.variables if v.start is not None)
    if level.objective is not None:
        yield level.objective.value
    for solver in (s for p in level.phases for s in p.solvers):
        yield from solver.arguments.values()
        if solver.learned is not None:
            yield solver.learned


def influences(level: ir.Level) -> frozenset[str]:
    """The names outside a level that its solution depends on, by a derivative; levels inside are followed."""
    own = frozenset(level.names)
    direct = frozenset[str]().union(*(e.depends for e in sources(level)))
    return follow(level, direct) - own


def follow(level: ir.Level, names: frozenset[str]) -> frozenset[str]:
    """`names` with every solution of a level inside replaced by what that solution depends on, itself kept."""
    found = set(names)
    for inner in reversed(level.levels):
        if found & set(inner.names):
            found |= influences(inner)
    return frozenset(found)


def reached(level: ir.Level) -> frozenset[str]:
    """All names whose derivative reaches the objective of a level, through the levels inside it."""
    if level.objective is not None:
        return follow(level, level.objective.value.depends)
    moved = [e for p in level.phases for s in p.solvers if s.name == "next" for e in s.arguments.values()]
    return follow(level, frozenset[str]().union(*(e.depends for e in moved)))


def check_dependence(program: ir.Program) -> Iterator[Diagnostic]:
    """The messages for variables without influence and objectives without a derivative."""
    for level in program.walk_levels():
        if level.objective is None:
            continue
        found = reached(level)
        for variable in level.variables:
            if variable.name not in found:
                yield _no_influence(level, variable)
        flat = _flat(level)
        yield from _flat_variables(level, found) if flat is None else (flat,)


def _no_influence(level: ir.Level, variable: ir.Variable) -> Diagnostic:
    """B403 for a level without levels inside, where the objective itself lacks the variable; B401 else."""
    assert level.objective is not None
    if (not level.levels and level.parent is not None) or (len(level.variables) == 1 and not level.levels):
        return _objective_lacks(level, variable, level.objective)
    used = _where_mentioned(level, variable.name)
    related = (Related(used, "only where no derivative passes"),) if used is not None else _constants(level, variable)
    return Diagnostic(
        "B401",
        f"`{variable.name}` has no influence on the objective of `{level.name}`",
        Span(variable.span.source, variable.span.start, variable.span.start + len(variable.name)),
        "declared, optimised, " + ("but cut off by `stop` or a draw" if used is not None else "never used"),
        related,
        why=f"{level.name} would compute a gradient that is always zero",
        fix=_influence_fix(level, variable),
    )


def _constants(level: ir.Level, variable: ir.Variable) -> tuple[Related, ...]:
    """Solver arguments inside that have the variable's name but hold a constant."""
    for inner in level.levels:
        for solver in (s for p in inner.phases for s in p.solvers):
            given = solver.arguments.get(variable.name)
            if isinstance(given, ir.Constant):
                whole = _argument_span(given.span, variable.name)
                return (Related(whole, "a constant is used here instead"),)
    return ()


def _argument_span(value: Span, name: str) -> Span:
    """The span of `name = value`, given that of the value."""
    before = value.source.text[: value.start].rstrip().removesuffix("=").rstrip()
    return Span(value.source, len(before) - len(name), value.end) if before.endswith(name) else value


def _influence_fix(level: ir.Level, variable: ir.Variable) -> str:
    for inner in level.levels:
        for solver in (s for p in inner.phases for s in p.solvers):
            given = solver.arguments.get(variable.name)
            if isinstance(given, ir.Constant):
                whole = _argument_span(given.span, variable.name)
                spelled = solver.span.text.replace(whole.text, f"{variable.name} = {variable.name}")
                return f"by {spelled}, or remove `{variable.name}`"
    if _where_mentioned(level, variable.name) is not None:
        return f"use `{variable.name}` outside of `stop` as well, or remove it"
    return f"use `{variable.name}` in the objective or in a level inside, or remove it"


def _where_mentioned(level: ir.Level, name: str) -> Span | None:
    """Where a level or one inside it reads a name, in whatever way."""
    for inner in (level, *level.levels):
        for expr in sources(inner):
            for part in ir.walk(expr):
                if isinstance(part, ir.Read) and part.name == name:
                    return part.span
    return None


def _objective_lacks(level: ir.Level, variable: ir.Variable, objective: ir.Objective) -> Diagnostic:
    on = sorted(objective.value.depends) or sorted(objective.value.reads)
    declared = Span(variable.span.source, variable.span.start, variable.span.start + len(variable.name))
    steps = _steps(level)
    read = next((p for p in ir.walk(objective.value) if isinstance(p, ir.Read) and p.type == variable.type), None)
    fix = f"use `{variable.name}` in the objective"
    if read is not None and read.name in on:
        fix = objective.span.text.replace(read.name, variable.name, 1)
    return Diagnostic(
        "B403",
        f"the objective of `{level.name}` does not depend on `{variable.name}`",
        objective.value.span,
        f"depends on {', '.join(on)} only" if on else "depends on nothing that is optimised",
        (Related(declared, "the variable of this level"),),
        why=f"{steps} would leave {variable.name} where it starts",
        fix=fix,
    )


def _steps(level: ir.Level) -> str:
    phase = level.phases[0]
    if isinstance(phase.duration, ir.Steps):
        return f"{phase.duration.count.span.text} {phase.duration.unit} of {phase.solvers[0].name}"
    return phase.solvers[0].name


# ---- smoothness ----------------------------------------------------------------------------------------------


def _flat(level: ir.Level) -> Diagnostic | None:
    """B402: a gradient-based solver and an objective that is piecewise constant."""
    assert level.objective is not None
    value = level.objective.value
    solver = next((s for p in level.phases for s in p.solvers), None)
    form = SOLVERS.get(solver.name) if solver is not None else None
    if any(phase.estimator is not None for phase in level.phases):
        return None  # differences of values see the jumps
    follows = solver is not None and (solver.part is not None or (form is not None and form.needs == "gradient"))
    if solver is None or not follows or value.smooth is not Smoothness.FLAT:
        return None
    guilty = _guilty(value)
    name = guilty.function if isinstance(guilty, ir.Builtin) else guilty.span.text.partition("(")[0]
    steps = _steps(level).partition(" of ")[0]
    generations = steps.replace("steps", "generations").replace("epochs", "generations")
    before, found, _ = value.span.text.partition(guilty.span.text)
    return Diagnostic(
        "B402",
        f"`{solver.name}` needs a gradient, and this objective has none",
        Span(solver.span.source, solver.span.start, solver.span.end),
        "gradient-based solver",
        (Related(_called(guilty, name), "piecewise constant: derivative 0 almost everywhere"),),
        why=f"{name} jumps when a prediction flips and is flat in between"
        if name == "accuracy"
        else f"`{name}` is registered as not smooth"
        if isinstance(guilty, ir.CallPart)
        else f"`{name}` is constant between its jumps",
        fix=f"by cmaes(sigma = 0.3, population = 12) for {generations}\n"
        f"or a smooth surrogate: minimize {before if found else ''}mean(ce(...))",
    )


def _flat_variables(level: ir.Level, found: frozenset[str]) -> Iterator[Diagnostic]:
    """B402 for variables that enter by flat parts alone, beside others that a gradient moves."""
    assert level.objective is not None
    value, live = level.objective.value, follow(level, passing(level.objective.value))
    if any(phase.estimator is not None for phase in level.phases):
        return
    for solver in (s for p in level.phases for s in p.solvers):
        form = SOLVERS.get(solver.name)
        follows = solver.part is not None or (form is not None and form.needs == "gradient")
        for name in (n for n in solver.variables if follows and n in found and n not in live):
            part = flat_part(value, name)
            if part is not None:
                yield Diagnostic(
                    "B402",
                    f"`{solver.name}` needs a gradient, and the objective has none in `{name}`",
                    solver.span,
                    "gradient-based solver",
                    (Related(part.span, "piecewise constant: derivative 0 almost everywhere"),),
                    why=f"`{name}` enters only by what is constant between its jumps, and would stay where it starts",
                    fix="something smooth in its place, or a solver that compares values, such as cmaes",
                )


def _called(guilty: ir.Expr, name: str) -> Span:
    """The name of the function in a call, or the whole expression."""
    span = guilty.span
    return Span(span.source, span.start, span.start + len(name)) if span.text.startswith(f"{name}(") else span


def _guilty(value: ir.Expr) -> ir.Expr:
    """The innermost part that is flat although its arguments are not."""
    for part in ir.walk(value):
        inner = list(ir.children(part))
        if part.smooth is Smoothness.FLAT and joined_smoothness(inner) is not Smoothness.FLAT:
            return part
    return value
