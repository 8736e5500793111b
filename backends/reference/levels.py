"""Solving one copy of a level, and the gradient of a level through those inside it.

The central idea: a level that is differentiated by a biased rule is walked through twice. Once *as it is*: the
solution as a function of everything it reads, every derivative in place. And once *as its rule sees it*: the same
numbers, but connected to the variables of the level around only as far as the rule allows. The gradient of the level
around is one `autograd.grad` through the second walk; what multiplies there comes from the first walk, so that levels
further out differentiate the biased direction exactly. For exact rules the two walks are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends.reference.domains import to_free, to_value
from bilevel.backends.reference.drawing import batches, equation_scope, listed_key, own_key, start, step_scope
from bilevel.backends.reference.estimates import direction, without_conflicts, zeroth
from bilevel.backends.reference.expressions import evaluate
from bilevel.backends.reference.leaps import Leap, landed
from bilevel.backends.reference.newton import minimum, newton
from bilevel.backends.reference.rules import Rule, rule_of
from bilevel.backends.reference.scope import Scope, every_copy
from bilevel.backends.reference.solvers import RATES, STEPS, clipped, first_state
from bilevel.backends.reference.stopping import holds
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import (
    Copies,
    Tree,
    derivative,
    detached,
    each_copy,
    flat,
    leafwise,
    leaves,
    node,
    number,
    of_copy,
    plain,
    unflat,
)
from bilevel.backends.torch_func.keyed import fold
from bilevel.dsl.datatypes import Array, Type
from bilevel.modes.closed_form import formula

Iterate = dict[str, Tree]
"""the variables of one copy in free coordinates, by name"""


@dataclass(frozen=True, slots=True)
class State:
    """An iterate with the states of the solvers, in the order of the recipe, and the steps taken to get there."""

    x: Iterate
    solvers: tuple[dict[str, Any], ...]
    count: int = 0


@dataclass(frozen=True, slots=True)
class Walk:
    """The states of a solve, the first one first, and the gradient between each and the next."""

    states: tuple[State, ...]
    gradients: tuple[Iterate, ...] = ()


@dataclass(frozen=True, slots=True)
class Gradient:
    """The gradient of a level in its free coordinates, its objective, and where warm levels inside ended."""

    by_name: Iterate
    value: Tensor
    ends: dict[str, State] = field(default_factory=dict)


# ---- gradient of a level -------------------------------------------------------------------------------------


def gradient(
    scope: Scope, level: ir.Level, x: Iterate, key: Tensor, ends: Mapping[str, State | None] | None = None
) -> Gradient:
    """The gradient of the level's objective at `x`, through the levels inside by their rules.

    `scope` has the draws of this step; `key` is that of the step. All results are differentiable.
    """
    if level.phases[0].estimator is not None:
        return _estimated(scope, level, x, key)
    own = {name: node(tree) for name, tree in x.items()}
    seen = scope.having(natural(level, own))
    inside = [i for i in level.levels if not scope.plan.facts[i.name].unread]
    full = seen
    if not all(rule_of(scope.plan, i.name).exact for i in inside):
        full = scope.having(natural(level, x))
    found = {}
    for inner in inside:
        begin = (ends or {}).get(inner.name)
        full, seen, found[inner.name] = _with_solution(full, seen, inner, fold(key, inner.name), begin)
    ended = {n: end for n, end in found.items() if isinstance(end, State)}
    return Gradient(*slope(seen, level, own, key), ended)


def slope(seen: Scope, level: ir.Level, own: Iterate, key: Tensor) -> tuple[Iterate, Tensor]:
    """The derivative of the objective in the nodes `own`, and its value; of `pcgrad` the projected gradients' mean."""
    value = objective_of(level, seen)
    expr = level.objective.value if level.objective is not None else None
    if not isinstance(expr, ir.Reduced) or expr.kind != "pcgrad":
        return derivative(value, own), value
    index, sign = expr.binders[0].name, 1 if level.objective is not None and level.objective.sense == "minimize" else -1
    values = [sign * number(evaluate(expr.body, seen.in_copy(index, i))) for i in range(seen.size(index))]
    rows = [flat(derivative(one, own)) for one in values]
    return unflat(own, without_conflicts(rows, fold(key, "pcgrad"))), value


def _estimated(scope: Scope, level: ir.Level, x: Iterate, key: Tensor) -> Gradient:
    """An estimate of the gradient from values; the levels inside are not differentiated."""
    estimator = level.phases[0].estimator
    if estimator is None or level.levels:
        raise Unsupported("estimates through levels inside")
    given = {name: evaluate(argument, scope) for name, argument in estimator.arguments.items()}

    def value(at: Iterate) -> Tensor:
        return objective_of(level, scope.having(natural(level, at)))

    return Gradient(*zeroth(value, x, own_key(key, level, scope), int(given["samples"]), given["radius"]))


def _with_solution(
    full: Scope, seen: Scope, inner: ir.Level, key: Tensor, begin: State | None
) -> tuple[Scope, Scope, Any]:
    """Both scopes with the solution of a level inside: as it is, and as its rule sees it."""
    rule = rule_of(full.plan, inner.name)
    if rule.update:
        raise Unsupported("windows with an update each, other than by `windowed`")

    def keyed(inside: Scope) -> Tensor:
        return listed_key(key, inner, inside)

    if full is seen:
        walks = every_copy(seen, inner.copies, lambda s: solve(s, inner, keyed(s), rule, begin))
        scope = seen.having(solution(inner, walks))
        return scope, scope, _end(walks)
    walks = every_copy(full, inner.copies, lambda s: solve(s, inner, keyed(s), rule, begin))
    through = every_copy(
        seen, inner.copies, lambda s: seen_by(rule, s, full, inner, keyed(s), of_copy(walks, s.at), begin)
    )
    return full.having(solution(inner, walks)), seen.having(solution(inner, through)), _end(walks)


def _end(walks: Any) -> State | None:
    """The last state of a level that is not copied."""
    return walks.states[-1] if isinstance(walks, Walk) else None


def solution(level: ir.Level, walks: Any) -> dict[str, Any]:
    """Solution and iterates of a level by name, in their own coordinates, for all copies."""
    found: dict[str, Any] = {}
    for v in level.variables:
        path = each_copy(walks, partial(_path, v))
        found |= {v.name: each_copy(path, lambda iterates: iterates[-1]), f"@{v.name}": path}
    return found


def _path(variable: ir.Variable, walk: Walk) -> list[Tree]:
    """The iterates of one variable of one copy."""
    return [_value(variable, state) for state in walk.states]


def _value(variable: ir.Variable, state: State) -> Tree:
    return to_value(state.x[variable.name], variable.domain, variable.domain_arguments)


def natural(level: ir.Level, x: Iterate) -> dict[str, Tree]:
    """The values that free coordinates stand for."""
    return {v.name: to_value(x[v.name], v.domain, v.domain_arguments) for v in level.variables}


def objective_of(level: ir.Level, scope: Scope) -> Tensor:
    """What the level minimises; the negative of what it maximises."""
    if level.objective is None:
        raise Unsupported("levels without an objective")
    if level.objective.sense == "minimize":
        return number(evaluate(level.objective.value, scope))
    return -number(evaluate(level.objective.value, Scope(scope.plan, scope.values, scope.at, True)))


# ---- a solve as it is ----------------------------------------------------------------------------------------


def solve(scope: Scope, level: ir.Level, key: Tensor, rule: Rule, begin: State | None = None) -> Walk:
    """One copy of a level, solved; differentiable as a function of all it reads, for `none` of nothing."""
    if rule.kind == "closed":
        return _closed(scope, level, key)
    if level.phases[0].solvers[0].name == "lbfgs":
        return _searched(scope, level, key)
    state = begin if begin is not None and _is_warm(level) else first_of(scope, level, key)
    states: list[State] = [state]
    gradients: list[Iterate] = []
    met: list[float] = []
    for step in range(count_steps(level, scope)):
        inside = step_scope(scope, level, key, step)
        found, after = one_step(inside, level, state, fold(key, step))
        if _has_arrived(scope, inside, level, key, rule, state, found, met, step):
            break
        state = after if rule.kind not in ("implicit", "none") else cut(after)
        states, gradients = [*states, state], [*gradients, found]
    if rule.kind == "implicit" and rule.through is None:
        states[-1] = _with(states[-1], _implicit(scope, level, key, states[-1].x, rule))
    if rule.leap is not None:
        states[-1] = _with(states[-1], _leapt(scope, level, rule.leap, [s.x for s in states]))
    if rule.kind == "none":
        states[0] = cut(states[0])
    return Walk(tuple(states), tuple(gradients))


def _with(state: State, x: Iterate) -> State:
    return State(x, state.solvers, state.count)


def _leapt(scope: Scope, level: ir.Level, leap: Leap, path: list[Iterate]) -> Iterate:
    """Where a leap lands: the schedule's measure decides, then the outer objective of this copy, then gamma."""
    around = scope.program.level(level.parent or "").objective
    quiet = scope.having({ir.NOISE: None})
    closed = around.value if around is not None else None
    if (
        isinstance(closed, ir.Reduced)
        and closed.kind in ("mean", "sum")
        and all(b.source is None for b in closed.binders)
    ):
        closed = closed.body

    def score(x: Iterate) -> Tensor:
        found = number(evaluate(leap.choose, quiet.having(natural(level, x)))) if leap.choose is not None else number(0)
        return found if leap.sense == "min" else -found

    def tie(x: Iterate) -> Tensor:
        if around is None or closed is None or set(closed.axes) != set(level.batched):
            return number(0)
        found = number(evaluate(closed, quiet.having(natural(level, x))))
        return found if around.sense == "minimize" else -found

    return landed(leap, path, score, tie)  # type: ignore[no-any-return]


def _searched(scope: Scope, level: ir.Level, key: Tensor) -> Walk:
    """The stationary point downhill from the start, whatever path leads there, with its derivatives."""
    inside = step_scope(scope, level, key, 0)

    def both(x: Iterate) -> tuple[Tensor, Iterate]:
        found = gradient(inside, level, x, key)
        return found.value, found.by_name

    first = first_of(scope, level, key)
    end = _implicit(scope, level, key, minimum(both, first.x), Rule("implicit"))
    return Walk((first, State(end, first.solvers)))


def one_step(scope: Scope, level: ir.Level, state: State, key: Tensor, moves: bool = True) -> tuple[Iterate, State]:
    """What vanishes where the level has arrived, and the next state: the gradient, or the way to `next`."""
    if level.phases[0].solvers[0].name != "next":
        found = gradient(scope, level, state.x, key).by_name
        return found, moved(scope, level, state, found) if moves else state
    new = following(scope, level, state.x, key)
    return leafwise(lambda a, b: a - b, state.x, new), State(new, state.solvers, state.count + 1)


def following(scope: Scope, level: ir.Level, x: Iterate, key: Tensor) -> Iterate:
    """The expressions after `next`, all from the values before: x@(t+1) = e(x@t)."""
    scope = scope.having(natural(level, x))
    for inner in (i for i in level.levels if not scope.plan.facts[i.name].unread):
        scope, _, _ = _with_solution(scope, scope, inner, fold(key, inner.name), None)
    given = level.phases[0].solvers[0].arguments
    values = {v.name: evaluate(given[v.name if v.name in given else "value"], scope) for v in level.variables}
    return {v.name: to_free(values[v.name], v.domain, v.domain_arguments) for v in level.variables}


def first_of(scope: Scope, level: ir.Level, key: Tensor) -> State:
    """The state before the first step."""
    x = detached(start(level, key, scope)) if _is_warm(level) else start(level, key, scope)
    if level.phases[0].solvers[0].name == "next":
        return State(x, ())
    solvers = level.phases[0].solvers
    return State(x, tuple({n: first_state(s.name, x[n]) for n in s.variables} for s in solvers))


def _is_warm(level: ir.Level) -> bool:
    return any(isinstance(v.start, ir.Builtin) and v.start.function == "warm" for v in level.variables)


def cut(state: State) -> State:
    """The state without a graph."""
    solvers = tuple({n: _cut_any(value) for n, value in one.items()} for one in state.solvers)
    return State(detached(state.x), solvers, state.count)


def _cut_any(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_cut_any, value))
    return None if value is None else detached(value)


def moved(scope: Scope, level: ir.Level, state: State, along: Iterate) -> State:
    """The state after one step of the solvers, all from the same gradient."""
    if len(level.phases) > 1:
        raise Unsupported("then")
    x, after = dict(state.x), []
    for solver, known in zip(level.phases[0].solvers, state.solvers, strict=True):
        if solver.name not in STEPS:
            raise Unsupported(solver.name)
        given = _given(solver, level, scope, state.count)
        kept = {v.name: v.kept for v in level.variables}
        directions = clipped({n: along[n] for n in solver.variables}, given.get("clip", 0.0))
        step, count = STEPS[solver.name], state.count + 1
        new = {n: step(state.x[n], known[n], directions[n], count, {**given, "kept": kept[n]}) for n in known}
        x |= {n: pair[0] for n, pair in new.items()}
        after.append({n: pair[1] for n, pair in new.items()})
    return State(x, tuple(after), state.count + 1)


def _given(solver: ir.Solver, level: ir.Level, scope: Scope, count: int) -> dict[str, Any]:
    """The arguments of a solver in one step, rates by their schedule; of a learned one its network and parameters."""
    given = {}
    for name, argument in solver.arguments.items():
        if isinstance(argument, ir.Builtin) and argument.function in RATES:
            total = count_steps(level, scope)
            rate, *rest = (evaluate(a, scope) for a in argument.arguments)
            given[name] = RATES[argument.function](rate, count % total, total, *rest)
        else:
            given[name] = evaluate(argument, scope)
    if isinstance(solver.learned, ir.Item):
        groups = [evaluate(group, scope) for group in solver.learned.items]
        given["parameters"] = {name: leaf for group in groups for name, leaf in group.items()}
        given["network"] = evaluate(solver.learned.base, scope)
    return given


def count_steps(level: ir.Level, scope: Scope) -> int:
    """The number of steps, or the most there may be."""
    duration = level.phases[0].duration
    if isinstance(duration, ir.Until):
        return int(evaluate(duration.cap, scope))
    if duration is None:
        raise Unsupported("levels without a duration")
    count = int(evaluate(duration.count, scope))
    if duration.first is not None:
        count = count - int(evaluate(duration.first, scope)) + 1
    return count * batches(level, scope) if duration.unit == "epochs" else count


def _has_arrived(
    scope: Scope,
    inside: Scope,
    level: ir.Level,
    key: Tensor,
    rule: Rule,
    state: State,
    found: Iterate,
    met: list[float],
    step: int,
) -> bool:
    """Whether the test after `until` holds before a step, whose draws `inside` has; `met`: what it compared so far.

    Where something is drawn, what should vanish is that of one draw made for the whole solve.
    """
    test = level.phases[0].duration
    if not isinstance(test, ir.Until):
        return False
    if test.test != "stationary":
        return holds(inside.having(natural(level, state.x)), test, met)
    if "every" in test.arguments and step % int(evaluate(test.arguments["every"], scope)):
        return False
    if level.draws or level.indices:
        found = one_step(equation_scope(scope, level, key, rule.batch), level, state, key)[0]
    bound = plain(evaluate(test.arguments["tol"], scope))
    return all(float(leaf.detach().abs().max()) <= bound for leaf in leaves(found))


# ---- solutions of equations ----------------------------------------------------------------------------------


def _implicit(scope: Scope, level: ir.Level, key: Tensor, x: Iterate, rule: Rule) -> Iterate:
    """The last iterate, with the derivatives of the point where the gradient stays as it is there."""

    def residual(at: Iterate) -> Iterate:
        return one_step(equation_scope(scope, level, key, rule.batch), level, State(at, zeros), key, False)[0]

    zeros = first_of(scope, level, key).solvers
    at = {name: node(tree) for name, tree in detached(x).items()}
    offset = detached(residual(at))
    for _ in range(2):
        at = newton(lambda y: leafwise(lambda g, o: g - o, residual(y), offset), at)
    return at


def _closed(scope: Scope, level: ir.Level, key: Tensor) -> Walk:
    """The stationary point of an objective of degree two: one step of Newton's method from zero.

    Of a formula: two steps from the point that the formula gives, whose own derivatives are not used.
    """
    at = {v.name: _zeros(v.type, scope) for v in level.variables}
    inside, solution = step_scope(scope, level, key, 0), formula(level)
    if solution is not None:
        at = {name: zero + detached(number(evaluate(solution, inside))) for name, zero in at.items()}
    found = at
    for _ in range(1 if solution is None else 2):
        found = newton(lambda y: gradient(inside, level, y, fold(key, 0)).by_name, found)
    return Walk((State(at, ()), State(found, ())))


def _zeros(type_: Type, scope: Scope) -> Tensor:
    """Zeros in the shape of an array type."""
    if not isinstance(type_, Array):
        raise Unsupported("closed forms of trees")
    return torch.zeros(tuple(scope.whole(s) for s in type_.shape), dtype=torch.float64)


# ---- a solve as its rule sees it -----------------------------------------------------------------------------


def seen_by(
    rule: Rule, scope: Scope, full: Scope, level: ir.Level, key: Tensor, walk: Walk, begin: State | None
) -> Walk:
    """The numbers of `walk`, which was made in `full`, connected to what `scope` holds as the rule says.

    Invariant: every state has the values that `walk` has. Steps before the window are those of `walk` itself.
    """
    if rule.kind == "none":
        return walk
    if rule.through is not None:
        return _with_end(walk, _through(rule.through, rule.printed, scope, level, walk))
    if rule.kind == "perturbed":
        return _with_end(walk, _perturbed(rule, scope, full, level, key, walk, begin))
    if rule.exact:
        return solve(scope, level, key, rule, begin)
    steps = len(walk.gradients)
    first = 0 if rule.window is None else max(0, steps - rule.window)
    whole = first == 0 and not (_is_warm(level) and begin is not None)
    # A window that leaves out no step is no cut: then the start counts too.
    state = first_of(scope, level, key) if whole else walk.states[first]
    states = [*walk.states[:first], state]
    for step in range(first, steps):
        inside = step_scope(scope, level, key, step)
        along = walk.gradients[step]
        if not rule.held:
            along = gradient(inside, level, state.x, fold(key, step)).by_name
        state = moved(inside, level, state, along)
        states.append(state)
    return Walk(tuple(states), walk.gradients)


def _with_end(walk: Walk, x: Iterate) -> Walk:
    return Walk((*walk.states[:-1], _with(walk.states[-1], x)), walk.gradients)


def _through(expr: ir.Expr, printed: bool, scope: Scope, level: ir.Level, walk: Walk) -> Iterate:
    """The end, with the derivative of the point where the gradient of `expr` stays as it is (papers/002, section 5.4.4).

    With the sign of eq. 5.28 as printed the derivative is the negative of that.
    """
    if scope.program.level(level.parent or "").parent is not None:
        raise Unsupported("ift.through inside a level that is differentiated itself")
    begun = {f"@{v.name}": [detached(_value(v, walk.states[0]))] for v in level.variables}

    def residual(at: Iterate) -> Iterate:
        own = {name: node(tree) for name, tree in at.items()}
        value = number(evaluate(expr, scope.having({**natural(level, own), **begun})))
        return derivative(value, own)  # type: ignore[no-any-return]

    end = detached(walk.states[-1].x)
    offset = detached(residual(end))
    root = newton(lambda y: leafwise(lambda g, o: g - o, residual(y), offset), end)
    return leafwise(lambda e, r: 2 * e - r, end, root) if printed else root  # type: ignore[no-any-return]


def _perturbed(
    rule: Rule, scope: Scope, full: Scope, level: ir.Level, key: Tensor, walk: Walk, begin: State | None
) -> Iterate:
    """The end as a linear function of what the level reads, its slopes from antithetic pairs (Salimans et al. 2017).

    The slopes are solves as they are (`full`), and functions of all that those read.
    """
    read = {name: scope.values[name] for name in scope.plan.facts[level.name].targets}
    if any(isinstance(value, Copies) for value in read.values()):
        raise Unsupported("es in what is copied")
    still = leafwise(number, {name: full.values[name] for name in read})
    found, full = walk.states[-1].x, Scope(full.plan, full.values, scope.at)
    for pair in range(rule.samples):
        u = direction(still, fold(fold(key, "es"), pair))
        ends = []
        for sign in (1, -1):
            moved_by = leafwise(lambda t, d, s=sign: t + s * rule.sigma * d, still, u)
            ends.append(solve(full.having(moved_by), level, key, Rule("steps"), begin).states[-1].x)
        along = (flat(u) * (flat(read) - flat(still))).sum() / (2 * rule.sigma * rule.samples)
        found = leafwise(lambda x, up, down, a=along: x + a * (up - down), found, *ends)
    return found
