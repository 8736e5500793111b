"""From a flattened recipe to a checked program: levels, variables, draws, objectives, solvers, reports, schedule.

Takes syntax and a manifest; gives `ir.Program` or raises one RecipeError with every problem found. Runs no Python
that a recipe names. Reports B208, B213, B215 and, through the modules it calls, all of B2, B3, B401-B403 and B602.
"""

from __future__ import annotations

from dataclasses import replace

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.datatypes import Type
from bilevel.dsl.declarations import check_source, check_variable, declare_types, index_type
from bilevel.dsl.dependence import check_dependence
from bilevel.dsl.drawn import check_draws
from bilevel.dsl.expressions import check_expr
from bilevel.dsl.iterates import check_iterates
from bilevel.dsl.moves import check_phase
from bilevel.dsl.noises import with_noise
from bilevel.dsl.objectives import check_number
from bilevel.dsl.parts import check_params, check_uses, constant
from bilevel.dsl.paths import solver_name
from bilevel.dsl.replaced import check_setting, is_index
from bilevel.dsl.schedules import check_schedule
from bilevel.dsl.scope import build_scope
from bilevel.dsl.solver_checks import check_solvers
from bilevel.dsl.solvers import KEEPERS
from bilevel.dsl.tokens import words
from bilevel.dsl.unnamed import check_unnamed
from bilevel.dsl.unused import unused
from bilevel.dsl.walk import header_span
from bilevel.errors import Diagnostic, RecipeError, Span
from bilevel.registry import Manifest


def check_program(recipe: nodes.Recipe, manifest: Manifest, schedule: str | None = None) -> ir.Program:
    """The checked program of a flattened recipe; `schedule` picks a named schedule block.

    Raises RecipeError with every error of the recipe. Warnings are left to `lint`.
    """
    program, problems = examine(recipe, manifest, schedule)
    errors = [d for d in problems if d.severity == "error"]
    if errors or program is None:
        raise RecipeError(_sorted(errors))
    return program


def lint(recipe: nodes.Recipe, manifest: Manifest, schedule: str | None = None) -> list[Diagnostic]:
    """Errors and warnings of a flattened recipe, in the order of the text."""
    return _sorted(examine(recipe, manifest, schedule)[1])


def _sorted(problems: list[Diagnostic]) -> list[Diagnostic]:
    return sorted(problems, key=lambda d: (d.span.source.name, d.span.start) if d.span else ("", 0))


def examine(
    recipe: nodes.Recipe, manifest: Manifest, schedule: str | None
) -> tuple[ir.Program | None, list[Diagnostic]]:
    """The program, and every problem found on the way to it; dependence is asked only of well-typed programs."""
    scope, problems = build_scope(recipe)
    checker = Checker(scope, problems=problems, manifest=manifest)
    params = check_params(checker)
    uses = check_uses(checker, manifest)
    for block in scope.blocks.values():
        if block.node is not None:
            declare_types(checker, block.node)
    levels = tuple(_level(checker, item, None) for item in recipe.items if isinstance(item, nodes.Level))
    entries = check_schedule(checker, recipe, schedule)
    if not levels:
        why = "a recipe is made of levels, one for each optimisation problem"
        fix = "level train { ... }"
        checker.report(Diagnostic("B213", f"`{recipe.name}` has no level", _header(recipe), why=why, fix=fix))
    uses = (*uses, *checker.parts.values())
    levels = tuple(_numbered(checker, level) for level in levels)
    program = with_noise(ir.Program(recipe.name, recipe, uses, params, levels, entries))
    if not any(d.severity == "error" for d in checker.problems):
        for problem in check_dependence(program):
            checker.report(problem)
        for problem in (*check_draws(program), *check_solvers(program)):
            checker.report(problem)
        for warning in unused(checker, program):
            checker.report(warning)
    return program, checker.problems


# ---- levels --------------------------------------------------------------------------------------------------


def _header(recipe: nodes.Recipe) -> Span:
    """`recipe NAME`."""
    name = words(recipe.span.source.text, recipe.span.start, recipe.span.end)[:2]
    return Span(recipe.span.source, recipe.span.start, name[-1].end if name else recipe.span.end)


def _level(checker: Checker, node: nodes.Level, parent: str | None) -> ir.Level:
    place = Place(node.name)
    objectives = [s for s in node.body if isinstance(s, nodes.Objective)]
    bys = [s for s in node.body if isinstance(s, nodes.By)]
    _check_complete(checker, node, objectives, bys)
    variables = tuple(v for s in node.body if isinstance(s, nodes.Variable) for v in check_variable(checker, place, s))
    phases = tuple(check_phase(checker, place, p, node) for by in bys[:1] for p in by.phases)
    variables = tuple(in_own_coordinates(v, phases) for v in variables)
    level = ir.Level(
        name=node.name,
        parent=parent,
        copies=tuple(a for a in checker.scope.copies.get(node.name, ()) if not a.startswith("@")),
        members=tuple(a for a in checker.scope.copies.get(node.name, ()) if a.startswith("@")),
        lists=tuple(a for a in checker.scope.copies.get(node.name, ()) if a in checker.lists),
        variables=variables,
        indices=tuple(_index(checker, place, s.index) for s in node.body if isinstance(s, nodes.Each)),
        draws=tuple(_draw(checker, place, s) for s in node.body if isinstance(s, nodes.Draw)),
        levels=tuple(_level(checker, s, node.name) for s in node.body if isinstance(s, nodes.Level)),
        objective=_objective(checker, place, objectives[0]) if objectives else None,
        phases=phases,
        reports=tuple(_report(checker, place, s) for s in node.body if isinstance(s, nodes.Report)),
        span=node.span,
    )
    _check_lets(checker, place, node)
    _check_units(checker, node, level)
    check_unnamed(checker, level)
    check_iterates(checker, level)
    return level


def _check_units(checker: Checker, node: nodes.Level, level: ir.Level) -> None:
    """A report is due after numbers of the level's own steps; only a search may call these generations."""
    units = {phase.duration.unit for phase in level.phases if phase.duration is not None}
    for every in (s.every for s in node.body if isinstance(s, nodes.Report) and s.every is not None):
        if every.unit != "steps" and (every.unit == "epochs" or every.unit not in units):
            message = f"reports count the steps of `{level.name}`, not its {every.unit}"
            fix = f"every {every.count.span.text} steps"
            checker.report(Diagnostic("B309", message, every.span, fix=fix))


def _numbered(checker: Checker, level: ir.Level) -> ir.Level:
    """A level, and those inside, whose indices say whether they stand in a subscript anywhere."""
    indices = tuple(replace(i, numbered=i.name in checker.numbered) for i in level.indices)
    return replace(level, indices=indices, levels=tuple(_numbered(checker, inner) for inner in level.levels))


def in_own_coordinates(variable: ir.Variable, phases: tuple[ir.Phase, ...]) -> ir.Variable:
    """A variable whose solver keeps its domain by itself has no free coordinates."""
    movers = [s.name for p in phases for s in p.solvers if variable.name in s.variables]
    if variable.domain is None or not any(name in KEEPERS for name in movers):
        return variable
    return replace(variable, domain=None, domain_arguments=(), kept=(variable.domain, variable.domain_arguments))


def _check_complete(
    checker: Checker, node: nodes.Level, objectives: list[nodes.Objective], bys: list[nodes.By]
) -> None:
    """A level has a variable, a `by`, and an objective unless `next` says how it moves."""
    moved = any(solver_name(m.solver) == "next" for b in bys for p in b.phases for m in p.moves)
    if not any(isinstance(s, nodes.Variable) for s in node.body):
        why = "a level finds the value of its variables, and this one has none"
        checker.report(_incomplete(node, "variable", why, "w : params(net), or x : real from 0"))
    if not objectives and not moved:
        checker.report(_incomplete(node, "objective", "nothing says what this level optimises", "minimize ..."))
    if not bys:
        why = "nothing says how this level is solved, or for how long"
        checker.report(_incomplete(node, "`by`", why, "by sgd(lr = 0.01) for 5 steps"))


def _incomplete(node: nodes.Level, what: str, why: str, fix: str) -> Diagnostic:
    return Diagnostic("B215", f"level `{node.name}` has no {what}", header_span(node), why=why, fix=fix)


def _index(checker: Checker, place: Place, node: nodes.Index) -> ir.Index:
    source = check_source(checker, place, node)
    return ir.Index(node.name, source, node.drawn, checker.types[(place.level, node.name)], node.span)


def _draw(checker: Checker, place: Place, node: nodes.Draw) -> ir.Draw:
    source = check_expr(checker, place, node.source)
    return ir.Draw(node.name, source, checker.types[(place.level, node.name)], node.span)


def _objective(checker: Checker, place: Place, node: nodes.Objective) -> ir.Objective:
    value = check_expr(checker, place, node.value)
    check_number(checker, place, value, node)
    return ir.Objective(node.sense, value, node.span)


def _report(checker: Checker, place: Place, node: nodes.Report) -> ir.Report:
    replaced: dict[str, Type] = {}
    indices: list[ir.Index] = []
    for change in node.changes:
        if isinstance(change, nodes.Index):
            if not is_index(checker, place, change):
                continue
            replaced[change.name] = index_type(checker, place, change)
            source = check_source(checker, place, change)
            indices.append(ir.Index(change.name, source, change.drawn, replaced[change.name], change.span))
    value = check_expr(checker, Place(place.level, replaced=replaced), node.value)
    check_number(checker, place, value, node)
    every = 1 if node.every is None else constant(node.every.count, checker.constants)
    if not isinstance(every, int) or every < 1:
        assert node.every is not None
        message = "`every` needs a whole number of steps, 1 or more"
        checker.report(Diagnostic("B309", message, node.every.count.span, fix="every 100 steps"))
        every = 1
    settings = tuple(c for c in node.changes if isinstance(c, nodes.Override))
    for setting in settings:
        check_setting(checker, setting)
    return ir.Report(node.name, value, tuple(indices), settings, every, node.span)


def _check_lets(checker: Checker, place: Place, node: nodes.Level) -> None:
    """A let without parameters is checked where it stands, so that an unused one cannot hide an error."""
    for statement in node.body:
        if isinstance(statement, nodes.Let) and statement.parameters is None:
            check_expr(checker, place, statement.body)
