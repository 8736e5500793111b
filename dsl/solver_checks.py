"""Solvers against the levels they stand in: which go together, and which change what the level promises.

Takes a checked program. Reports B407, B410-B412 and B414.
"""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.dsl import shapes
from bilevel.dsl.datatypes import Array, Tree, Unknown
from bilevel.dsl.solvers import KEEPERS, SOLVERS
from bilevel.errors import Diagnostic, Related, Span


def check_solvers(program: ir.Program) -> Iterator[Diagnostic]:
    """The messages for solvers that cannot do what their level asks."""
    for level in program.walk_levels():
        yield from _drawn_afresh(program, level)
        yield from _recombined(program, level)
        for phase in level.phases:
            yield from _mixed(phase)
            for solver in phase.solvers:
                yield from _moved_point(level, phase, solver)
                yield from _searching(level, phase, solver)
                yield from _populated(program, level, solver)
                yield from _keeping(level, phase, solver)
                yield from _matrix(level, solver)
            yield from _estimated(level, phase)
        for variable in level.variables:
            yield from _square(variable)
            yield from _outside(program, variable)


def _unfit(message: str, span: Span, why: str, fix: str, related: tuple[Related, ...] = ()) -> Diagnostic:
    return Diagnostic("B414", message, span, related=related, why=why, fix=fix)


# ---- B407, B410, B411, B412 ----------------------------------------------------------------------------------------


def _drawn_afresh(program: ir.Program, level: ir.Level) -> Iterator[Diagnostic]:
    """B407: a warm level with one copy for each thing that the level around draws anew in every step."""
    around = program.level(level.parent) if level.parent is not None else None
    index = (
        next((i for i in around.indices if i.drawn and i.name in level.copies), None) if around is not None else None
    )
    warm = next((v.start for v in level.variables if v.start is not None and _is_warm(v.start)), None)
    if index is None or warm is None:
        return
    source = index.source.source if isinstance(index.source, ir.Sample) else index.source
    inner = warm.arguments[0].span.text if isinstance(warm, ir.Builtin) and warm.arguments else "init(net)"
    yield Diagnostic(
        "B407",
        f"`warm` needs to know which copy to continue: `{index.span.text}` draws others in each step",
        warm.span,
        related=(Related(index.span, f"drawn anew in every step of {level.parent}"),),
        why=f"a copy of `{level.name}` goes on where the same copy ended in the step before, and there is none",
        fix=f"each {index.name} in {source.span.text}, or from {inner}",
    )


def _recombined(program: ir.Program, level: ir.Level) -> Iterator[Diagnostic]:
    """B410: a warm level under a solver whose candidates have no single parent."""
    if level.parent is None:
        return
    warm = next((v.start for v in level.variables if v.start is not None and _is_warm(v.start)), None)
    around = program.level(level.parent)
    solver = next((s for p in around.phases for s in p.solvers if s.name in ("cmaes", "random")), None)
    if warm is None or solver is None:
        return
    assert isinstance(warm, ir.Builtin)
    inner = warm.arguments[0].span.text if warm.arguments else "init(net)"
    does = "recombines" if solver.name == "cmaes" else "draws every candidate anew"
    yield Diagnostic(
        "B410",
        f"`{solver.name}` {does}, so no candidate has a parent for `warm`",
        warm.span,
        related=(Related(solver.span, "its candidates"),),
        why="`warm` goes on where the same copy ended in the step before",
        fix=f"from {inner}, or by pbt(...)",
    )


def _is_warm(start: ir.Expr) -> bool:
    return isinstance(start, ir.Builtin) and start.function == "warm"


def _mixed(phase: ir.Phase) -> Iterator[Diagnostic]:
    """B411: solvers that need a gradient beside solvers that need values only."""
    kinds = [(s, "gradient" if _follows(s) else SOLVERS[s.name].needs) for s in phase.solvers if _known(s)]
    by_values = next((s for s, needs in kinds if needs == "values"), None)
    other = next((s for s, needs in kinds if needs != "values"), None)
    if by_values is None or other is None:
        return
    yield Diagnostic(
        "B411",
        f"{by_values.name} and {other.name} cannot share a step",
        phase.span,
        why=f"a generation of {by_values.name} has many candidates, and {other.name} moves one point",
        fix=f"one level inside the other, or `{by_values.name} ... then {other.name} ...`",
    )


def _known(solver: ir.Solver) -> bool:
    return _follows(solver) or solver.name in SOLVERS


def _promises_a_point(phase: ir.Phase) -> bool:
    """Whether the steps are to end at a stationary point; `plateau` and `below` promise none."""
    return isinstance(phase.duration, ir.Until) and phase.duration.test == "stationary"


def _follows(solver: ir.Solver) -> bool:
    """Whether it is a learned or a registered solver: both follow a gradient."""
    return solver.learned is not None or solver.part is not None


def _moved_point(level: ir.Level, phase: ir.Phase, solver: ir.Solver) -> Iterator[Diagnostic]:
    """B412: weight decay inside the step of a level that promises a stationary point."""
    until = phase.duration if isinstance(phase.duration, ir.Until) and _promises_a_point(phase) else None
    decay = solver.arguments.get("weight_decay")
    none = isinstance(decay, ir.Constant) and decay.value == 0
    by_default = solver.name == "adamw" or (solver.part is not None and decay is not None)
    if until is None or not by_default or none:
        return
    name = solver.variables[0] if solver.variables else level.names[0]
    spelled = decay.span.text if decay is not None else "0.01"
    default = "" if decay is not None else "adamw has weight_decay = 0.01 where nothing else is said"
    yield Diagnostic(
        "B412",
        "weight_decay in the solver moves the point that `until` promises",
        decay.span if decay is not None else solver.span,
        default,
        (Related(until.span, "a zero gradient is promised here"),),
        why="the steps would end where the gradient balances the decay, not where it is zero",
        fix=f"adam, and write it into the objective: + 0.5 * {spelled} * sqnorm({name})",
    )


# ---- B414 ----------------------------------------------------------------------------------------------------


def _searching(level: ir.Level, phase: ir.Phase, solver: ir.Solver) -> Iterator[Diagnostic]:
    """L-BFGS takes steps as long as they help, on an objective that stays the same."""
    if solver.name != "lbfgs":
        return
    message = f"`lbfgs` cannot solve `{level.name}`"
    fix = "by lbfgs() until stationary(1e-6) within 200 steps"
    if not isinstance(phase.duration, ir.Until) or phase.duration.test != "stationary":
        why = "its step lengths are searched for and have no derivative; only the point it ends at has one"
        yield _unfit(message, phase.span, why, fix)
    elif len(phase.solvers) > 1:
        yield _unfit(message, phase.span, "one line search moves all variables of a level together", fix)
    elif level.draws or level.indices:
        drawn: ir.Draw | ir.Index = level.draws[0] if level.draws else level.indices[0]
        why = "a line search compares values, which must be those of one objective"
        fix = f"draw `{drawn.name}` one level up, or by sgd(lr = 0.01)"
        fix = "dropout = 0, or by sgd(lr = 0.01)" if drawn.name == ir.NOISE else fix
        yield _unfit(message, solver.span, why, fix, (Related(drawn.span, "another objective in every step"),))
    elif level.levels:
        why = "every value it compares would be a whole solve of the level inside"
        yield _unfit(message, solver.span, why, "by sgd(lr = 0.01)", (Related(level.levels[0].span, "solved inside"),))


LEAST = {"random": 1, "pbt": 2}
"""the smallest populations"""

SPREADING = ("init", "normal", "uniform")
"""starts that are drawn"""


def _populated(program: ir.Program, level: ir.Level, solver: ir.Solver) -> Iterator[Diagnostic]:
    """Populations have enough members, and random search has something to choose from."""
    if solver.name not in LEAST:
        return
    allowed = {"population": (LEAST[solver.name], INFINITE), "share": (0.0, 0.5), "sigma": (0.0, INFINITE)}
    for name, argument in solver.arguments.items():
        low, high = allowed[name]
        value = _number(program, argument)
        whole = name != "population" or (value is not None and value == int(value))
        if value is None or not whole or not low <= value <= high or value == 0:
            what = (
                f"a whole number from {low}"
                if name == "population"
                else f"a number above 0{', up to 0.5' * (high < 1)}"
            )
            why = "the population is made before anything is compared"
            yield _unfit(f"`{name}` of `{solver.name}` is {what}", argument.span, why, f"{name} = {_example(name)}")
    for variable in level.variables if solver.name == "random" else ():
        drawn = variable.start is None or (
            isinstance(variable.start, ir.Builtin) and variable.start.function in SPREADING
        )
        if not drawn:
            why = "its candidates are fresh draws of the start, and this start is always the same"
            message = f"`random` has nothing to choose from for `{variable.name}`"
            related = (Related(solver.span, "draws its candidates anew in every generation"),)
            span = variable.start.span if variable.start is not None else variable.span
            yield _unfit(message, span, why, "from uniform(0, 1), or from normal(0, 1)", related)


def _example(name: str) -> str:
    return {"population": "20"}.get(name, "0.2")


def _keeping(level: ir.Level, phase: ir.Phase, solver: ir.Solver) -> Iterator[Diagnostic]:
    """Solvers that step in the variable's own coordinates, and domains that they can keep."""
    if solver.name not in KEEPERS:
        return
    able = KEEPERS[solver.name]
    for variable in (v for v in level.variables if v.name in solver.variables):
        domain = variable.kept[0] if variable.kept is not None else variable.domain
        if domain is None and solver.name in ("exponentiated", "frank_wolfe"):
            why = f"`{variable.name}` has no domain, and this solver moves inside one"
            fix = f"{variable.name} : {variable.type} in {able[0]}"
            yield _unfit(f"`{solver.name}` needs a domain to keep", solver.span, why, fix)
        elif domain is not None and domain not in able:
            kept = f"it keeps {', '.join(able)}" if able else "it keeps none"
            why = f"it steps in the variable's own coordinates, and {kept}"
            fix = "sgd or adam, which step in free coordinates"
            message = f"`{solver.name}` would leave the domain `{domain}` of `{variable.name}`"
            yield _unfit(message, solver.span, why, fix, (Related(variable.span, "the domain"),))
        elif domain is not None and _promises_a_point(phase):
            why = "on the edge of a domain the gradient is not zero, so nothing is stationary there"
            yield _unfit(f"`{solver.name}` does not end at a stationary point", phase.span, why, "for 100 steps")


def _matrix(level: ir.Level, solver: ir.Solver) -> Iterator[Diagnostic]:
    """`mirror` moves one variable, and its matrix fits that variable."""
    matrix = solver.arguments.get("M") if solver.name == "mirror" else None
    if matrix is None:
        return
    if len(solver.variables) > 1:
        fix = ", ".join(f"{n} : {solver.span.text}" for n in solver.variables)
        why = "a matrix belongs to one variable"
        yield _unfit(f"`mirror` moves one variable, not {len(solver.variables)}", solver.span, why, fix)
        return
    moved = next((v for v in level.variables if v.name in solver.variables), None)
    if moved is None or _fits(matrix.type, moved.type):
        return
    why = "a diagonal has the variable's shape, a matrix one row and column for each of its numbers"
    related = (Related(moved.span, str(moved.type)),)
    fix = f"M : {moved.type} in positive from 1"
    yield _unfit(
        f"`{matrix.span.text}` is {matrix.type}, and `{moved.name}` is {moved.type}", matrix.span, why, fix, related
    )


def _fits(matrix: object, moved: object) -> bool:
    """Whether the type of a matrix goes with that of a variable."""
    if isinstance(matrix, Unknown) or isinstance(moved, Unknown):
        return True
    if isinstance(matrix, Tree) and isinstance(moved, Tree):
        return matrix.net == moved.net and not matrix.count
    if not isinstance(matrix, Array):
        return False
    if not isinstance(moved, Array) or not moved.ranked or not matrix.ranked or not matrix.shape:
        return shapes.is_number(matrix) or isinstance(moved, Array)
    return matrix.shape == moved.shape or (len(moved.shape) == 1 and matrix.shape == (*moved.shape, *moved.shape))


def _estimated(level: ir.Level, phase: ir.Phase) -> Iterator[Diagnostic]:
    """An estimate stands in for the gradient of an objective that is a plain expression."""
    estimator = phase.estimator
    if estimator is None:
        return
    message = f"`with {estimator.name}` cannot stand in `{level.name}`"
    wanted = next(
        (s for s in phase.solvers if _known(s) and not _follows(s) and SOLVERS[s.name].needs != "gradient"), None
    )
    if wanted is not None:
        why = f"`{wanted.name}` takes no gradient, so there is none to estimate"
        yield _unfit(message, estimator.span, why, f"remove `with {estimator.span.text}`")
    elif _promises_a_point(phase):
        why = "an estimate does not vanish at a stationary point"
        yield _unfit(message, estimator.span, why, "for 100 steps")
    elif level.levels:
        why = "every value along every direction would be a whole solve of the level inside"
        related = (Related(level.levels[0].span, "solved inside"),)
        yield _unfit(message, estimator.span, why, f"remove `with {estimator.span.text}`", related)


INFINITE = float("inf")
INTERVALS = {
    "positive": (0.0, INFINITE),
    "nonnegative": (0.0, INFINITE),
    "simplex": (0.0, INFINITE),
    "unit": (0.0, 1.0),
}
"""the ends of domains of numbers"""


def _outside(program: ir.Program, variable: ir.Variable) -> Iterator[Diagnostic]:
    """A start that is one number, and not inside the domain; a solver that keeps the domain may start on its edge."""
    domain, bounds = variable.kept or (variable.domain, variable.domain_arguments)
    ends = bounds if domain == "between" else INTERVALS.get(domain or "")
    value = _number(program, variable.start)
    if ends is None or value is None or ends[0] < value < ends[1] or (variable.kept and value in ends):
        return
    assert variable.start is not None
    on_edge = value in ends
    why = f"that is {'on the edge of' if on_edge else 'outside'} the domain"
    why += ", where its free coordinates are infinite" if on_edge else ""
    middle = f"{(ends[0] + ends[1]) / 2:g}" if ends[1] < INFINITE else "1"
    message = f"`{variable.name}` in {domain} cannot start from {variable.start.span.text}"
    yield _unfit(message, variable.start.span, why, f"from {middle}")


def _number(program: ir.Program, start: ir.Expr | None) -> float | None:
    """The value of a start that is a number or a param."""
    match start:
        case ir.Constant(value=int() | float() as value):
            return float(value)
        case ir.Operate(operator="neg", operands=(inner,)):
            number = _number(program, inner)
            return None if number is None else -number
        case ir.Read(name=name):
            found = next((p.value for p in program.params if p.name == name), None)
            return float(found) if isinstance(found, int | float) else None
        case ir.Builtin(function="warm", arguments=(inner,)):
            return _number(program, inner)
    return None


def _square(variable: ir.Variable) -> Iterator[Diagnostic]:
    """Domains of matrices and of axes."""
    domain = variable.kept[0] if variable.kept is not None else variable.domain
    type_ = variable.type
    if domain in ("psd", "orthogonal"):
        square = isinstance(type_, Array) and len(type_.shape) == 2 and type_.shape[0] == type_.shape[1]
        if not square and not isinstance(type_, Unknown):
            why = f"`{domain}` is a domain of square matrices"
            fix = f"{variable.name} : real[n, n] in {domain} from eye(n)"
            yield _unfit(f"`{variable.name}` is {type_}, which cannot be {domain}", variable.span, why, fix)
    elif domain == "simplex" and isinstance(type_, Array) and type_.ranked and not type_.shape:
        why = "the entries along the last axis of a simplex sum to one"
        fix = f"{variable.name} : real[3] in simplex from 1 / 3"
        yield _unfit(f"`{variable.name}` is one number, which cannot be a simplex", variable.span, why, fix)
