"""The `by` of a level: solvers with their arguments, estimators, and how long.

Takes syntax and the level it stands in; gives `ir.Phase`. Reports B217 (an unknown solver), B309 (its arguments).
"""

from __future__ import annotations

from collections.abc import Sequence

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.datatypes import Model, Unknown
from bilevel.dsl.expressions import check_expr
from bilevel.dsl.nearest import nearest
from bilevel.dsl.objectives import check_tested
from bilevel.dsl.parts import constant
from bilevel.dsl.rates import check_rate
from bilevel.dsl.registered import find, form_of, names, part_of
from bilevel.dsl.solvers import ESTIMATORS, SOLVERS, SolverForm
from bilevel.dsl.walk import name_span
from bilevel.errors import Diagnostic, Edit

TESTS: dict[str, tuple[str, ...]] = {
    "stationary": ("tol", "batch", "every"),
    "plateau": ("value", "patience"),
    "below": ("value", "bound"),
}
"""Tests after `until`, with their arguments in order."""


def check_phase(checker: Checker, place: Place, phase: nodes.Phase, level: nodes.Level) -> ir.Phase:
    """One phase of a `by`: every variable of the level gets exactly one solver."""
    declared = [n for s in level.body if isinstance(s, nodes.Variable) for n in s.names]
    named = [m.name for m in phase.moves if m.name is not None]
    rest = tuple(n for n in declared if n not in named)
    solvers = tuple(
        _shared(checker, m, phase, declared) or _solver(checker, place, m, (m.name,) if m.name is not None else rest)
        for m in phase.moves
    )
    for move in phase.moves:
        if move.name is not None and move.name not in declared:
            guess = nearest(move.name, declared)
            label = f"did you mean `{guess}`?" if guess else ""
            fix = f"{guess} : {move.solver.span.text}" if guess else ""
            note = f"variables of {level.name}: {', '.join(declared) or 'none'}"
            message = f"`{move.name}` is no variable of `{level.name}`"
            checker.report(Diagnostic("B201", message, name_span(move, move.name), label, fix=fix, note=note))
    unmoved = len(named) == len(phase.moves) and all(n in declared for n in named)
    if rest and unmoved:
        why = "one solver without a name would move all variables that have none of their own"
        fix = f"{rest[0]} : sgd(lr = 0.01)"
        checker.report(Diagnostic("B215", f"no solver moves `{rest[0]}`", phase.span, why=why, fix=fix))
    estimator = None if phase.estimator is None else _estimator(checker, place, phase.estimator)
    return ir.Phase(solvers, estimator, _duration(checker, place, phase.duration), phase.span)


def _shared(checker: Checker, move: nodes.Move, phase: nodes.Phase, declared: list[str]) -> ir.Solver | None:
    """`by a, b : pgd(lr = 0.1)`: a variable's name where a solver is expected, meant to share the one that follows."""
    alone = move.name is None and isinstance(move.solver, nodes.Name) and move.solver.identifier in declared
    other = next((m for m in phase.moves if m.name is not None), None)
    if not alone or other is None:
        return None
    name, solver = move.solver.span.text, other.solver.span.text
    why = "every variable is named with a solver of its own; a solver without a name moves all that have none"
    fix = f"{name} : {solver}, {other.name} : {solver}"
    message = f"`{name}` stands without a solver"
    checker.report(Diagnostic("B215", message, move.solver.span, why=why, fix=fix))
    return ir.Solver("", (name,), {}, None, move.solver.span)


def _solver(checker: Checker, place: Place, move: nodes.Move, variables: tuple[str, ...]) -> ir.Solver:
    node = move.solver
    match node:
        case nodes.Subscript():
            learned = check_expr(checker, place, node)
            if not isinstance(learned, ir.Item) or not isinstance(learned.type, Model | Unknown):
                checker.report(_no_solver(node, node.base.span.text))
            return ir.Solver("learned", variables, {}, learned, node.span)
        case nodes.Name(identifier):
            return _named(checker, place, node, identifier, (), variables)
        case nodes.Call(nodes.Name(identifier), arguments):
            return _named(checker, place, node, identifier, arguments, variables)
    checker.report(_no_solver(node, node.span.text))
    return ir.Solver("", variables, {}, None, node.span)


def _named(
    checker: Checker,
    place: Place,
    node: nodes.Expr,
    name: str,
    arguments: tuple[nodes.Argument, ...],
    variables: tuple[str, ...],
) -> ir.Solver:
    """A solver of the language, or a registered one."""
    if name in SOLVERS:
        checked = _arguments(checker, place, node, SOLVERS[name], arguments)
        return ir.Solver(name, variables, checked, None, node.span)
    description = find(checker, place, name, "solver")
    if description is None:
        checker.report(_no_solver(node, name, names(checker, "solver")))
        return ir.Solver("", variables, {}, None, node.span)
    checked = _arguments(checker, place, node, form_of(description), arguments)
    part = part_of(checker, place, name, description, node.span)
    return ir.Solver(name, variables, checked, None, node.span, part)


def _no_solver(node: nodes.Expr, name: str, registered: Sequence[str] | None = None) -> Diagnostic:
    span = node.function.span if isinstance(node, nodes.Call) else node.span
    known = (*SOLVERS, *(registered or ()))
    guess = nearest(name, known)
    define = f"register it:  @bilevel.solver()  def {name}(x, state, gradient, count, ...)   and run with  --with that_module"
    return Diagnostic(
        "B217",
        f"`{name}` is not a solver",
        span,
        f"did you mean `{guess}`?" if guess else "",
        fix=node.span.text.replace(name, guess, 1) if guess else define if registered is not None else "",
        note=f"solvers: {', '.join(known)}",
        edit=Edit(span, guess) if guess else None,
    )


def _arguments(
    checker: Checker, place: Place, node: nodes.Expr, form: SolverForm, arguments: tuple[nodes.Argument, ...]
) -> dict[str, ir.Expr]:
    checked: dict[str, ir.Expr] = {}
    positional = list(form.positional)
    for argument in arguments:
        name = argument.name if argument.name is not None else (positional.pop(0) if positional else None)
        if name is None and form.name == "closed_form":
            name = argument.value.span.text
        if name is None:
            checker.report(_unnamed(form, argument))
            continue
        if form.name != "next" and name not in form.defaults:
            checker.report(_no_argument(form, name, argument))
            continue
        checked[name] = _argument(checker, place, name, argument.value)
    missing = [n for n, d in form.defaults.items() if d is None and n not in checked]
    unnamed = len(checked) < len(arguments)
    if missing and not unnamed and not _optional(form, missing[0], checked):
        wanted = f"{missing[0]} = {'0.01' if missing[0] == 'lr' else '...'}"
        given = [a.span.text for a in arguments]
        example = f"{form.name}({', '.join([wanted, *given])})"
        checker.report(Diagnostic("B309", f"`{form.name}` needs `{missing[0]}`", node.span, fix=example))
    return checked


def _argument(checker: Checker, place: Place, name: str, value: nodes.Expr) -> ir.Expr:
    """The value of an argument; `lr` may be a schedule of a rate."""
    rate = check_rate(checker, place, value) if name == "lr" else None
    return check_expr(checker, place, value) if rate is None else rate


def _estimator(checker: Checker, place: Place, node: nodes.Call) -> ir.Estimator | None:
    """`with zeroth(samples, radius)`: a whole number and a positive one, known before the run."""
    name = node.function.span.text
    description = find(checker, place, name, "estimator")
    if description is not None:
        checked = _arguments(checker, place, node, form_of(description, ()), node.arguments)
        _check_fixed(checker, node)
        return ir.Estimator(name, checked, node.span, part_of(checker, place, name, description, node.span))
    if name not in ESTIMATORS:
        note = ", ".join(["estimators: zeroth(samples = 20, radius = 1e-3)", *names(checker, "estimator")])
        checker.report(Diagnostic("B217", f"`{name}` is not an estimator", node.function.span, note=note))
        return None
    order = list(ESTIMATORS[name])
    given: dict[str, ir.Expr] = {}
    for argument in node.arguments:
        key = argument.name if argument.name is not None else (order.pop(0) if order else argument.value.span.text)
        given[key] = check_expr(checker, place, argument.value)
        value = constant(argument.value, checker.constants)
        fits = key in ESTIMATORS[name] and value is not None and value > 0
        if not fits or (key == "samples" and not isinstance(value, int)):
            message = f"`{argument.span.text}` does not fit `{name}`"
            checker.report(Diagnostic("B309", message, argument.span, fix="zeroth(samples = 20, radius = 1e-3)"))
    missing = [n for n in ESTIMATORS[name] if n not in given]
    if missing:
        fix = "zeroth(samples = 20, radius = 1e-3)"
        checker.report(Diagnostic("B309", f"`{name}` needs `{missing[0]}`", node.span, fix=fix))
    return ir.Estimator(name, given, node.span)


def _check_fixed(checker: Checker, node: nodes.Call) -> None:
    """Arguments of an estimator are known before the run."""
    for argument in node.arguments:
        if constant(argument.value, checker.constants) is None:
            message = f"`{argument.span.text}` is not known before the run"
            checker.report(Diagnostic("B309", message, argument.value.span, fix=f"{argument.name} = 10"))


def _optional(form: SolverForm, name: str, given: dict[str, ir.Expr]) -> bool:
    """`next` takes one value or one per variable; populations have defaults that depend on the dimension."""
    return (form.name == "cmaes" and name == "population") or (form.name == "next" and bool(given))


def _unnamed(form: SolverForm, argument: nodes.Argument) -> Diagnostic:
    name, first = form.name, next(iter(form.defaults), "lr")
    return Diagnostic(
        "B309",
        f"arguments of `{name}` have names",
        argument.span,
        fix=f"{name}({first} = {argument.value.span.text})",
    )


def _no_argument(form: SolverForm, name: str, argument: nodes.Argument) -> Diagnostic:
    guess = nearest(name, form.defaults)
    return Diagnostic(
        "B309",
        f"`{form.name}` has no argument `{name}`",
        argument.span,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"{guess} = {argument.value.span.text}" if guess else "",
        note=f"its arguments: {', '.join(form.defaults) or 'none'}",
    )


def _duration(
    checker: Checker, place: Place, node: nodes.For | nodes.ForEach | nodes.Until | None
) -> ir.Steps | ir.Until | None:
    match node:
        case nodes.For(count, unit):
            return ir.Steps(_whole(checker, place, count), unit)
        case nodes.ForEach(name, span, unit):
            low, high = check_expr(checker, place, span.low), _whole(checker, place, span.high)
            return ir.Steps(high, unit, name, low)
        case nodes.Until(test, cap, unit):
            return _until(checker, place, node, test, cap, unit)
    return None


def _whole(checker: Checker, place: Place, node: nodes.Expr) -> ir.Expr:
    """A count of steps: a whole number, 0 or more."""
    value = constant(node, checker.constants)
    checked = check_expr(checker, place, node)
    if not isinstance(value, int) or value < 0:
        message = f"`{node.span.text}` is not a number of steps"
        why = "time and memory follow from it, so it is a literal or a param"
        checker.report(Diagnostic("B218", message, node.span, "a whole number, known before the run", why=why))
        return ir.Constant(span=node.span, type=checked.type, value=1)
    return ir.Constant(span=node.span, type=checked.type, value=value, reads=checked.reads)


def _test_arguments(checker: Checker, place: Place, name: str, test: nodes.Call) -> dict[str, ir.Expr]:
    """What a test is given, by name: all that it needs, nothing that it has not, each one number."""
    order, found = list(TESTS[name]), dict[str, ir.Expr]()
    for argument in test.arguments:
        key = argument.name if argument.name is not None else (order.pop(0) if order else argument.value.span.text)
        value = check_expr(checker, place, argument.value)
        if key not in TESTS[name]:
            message = f"`{name}` has no argument `{key}`"
            checker.report(Diagnostic("B309", message, argument.span, note=f"its arguments: {', '.join(TESTS[name])}"))
        elif key in ("value", "bound"):
            check_tested(checker, place, value)
        elif not _fits(key, constant(argument.value, checker.constants)):
            message = f"`{argument.span.text}` does not fit `{name}`"
            wanted = "a whole number from 1" if key in COUNTS else "a number from 0"
            checker.report(Diagnostic("B309", message, argument.span, f"{wanted}, known before the run"))
        found[key] = value
    needed = TESTS[name][:1] if name == "stationary" else TESTS[name]
    missing = [key for key in needed if key not in found]
    if missing:
        message = f"`until {name}` needs `{missing[0]}`"
        checker.report(Diagnostic("B309", message, test.span, fix=f"until {EXAMPLES[name]} within 100 steps"))
    return found


COUNTS = ("batch", "every", "patience")
EXAMPLES = {
    "stationary": "stationary(1e-6)",
    "plateau": "plateau(L(w, d), patience = 5)",
    "below": "below(L(w, d), 0.1)",
}


def _fits(key: str, value: int | float | None) -> bool:
    """Whether a number can be what an argument of a test stands for."""
    if value is None:
        return False
    if key in COUNTS:
        return isinstance(value, int) and value >= 1
    return value >= 0


def _until(checker: Checker, place: Place, node: nodes.Until, test: nodes.Call, cap: nodes.Expr, unit: str) -> ir.Until:
    name = test.function.span.text
    if name not in TESTS:
        guess = nearest(name, TESTS)
        label = f"did you mean `{guess}`?" if guess else ""
        span, note = test.function.span, f"tests: {', '.join(TESTS)}"
        fix = test.span.text.replace(name, guess, 1) if guess else ""
        checker.report(Diagnostic("B217", f"`{name}` is not a test", span, label, fix=fix, note=note))
    arguments = _test_arguments(checker, place, name, test) if name in TESTS else {}
    return ir.Until(name, arguments, _whole(checker, place, cap), node.unit, node.span)
