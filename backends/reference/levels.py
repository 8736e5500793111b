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

from torch import Tensor

from bilevel import ir
from bilevel.backends.reference.domains import to_free, to_value
from bilevel.backends.reference.drawing import batches, start, step_scope
from bilevel.backends.reference.expressions import evaluate
from bilevel.backends.reference.implicit import newton, zeros_of
from bilevel.backends.reference.rules import Rule, rule_of
from bilevel.backends.reference.scope import Scope, every_copy
from bilevel.backends.reference.solvers import STEPS, clipped, first_state
from bilevel.backends.reference.stopping import holds
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import (
    Tree,
    derivative,
    detached,
    each_copy,
    leafwise,
    leaves,
    node,
    number,
    of_copy,
    plain,
)
from bilevel.backends.torch_func.keyed import fold
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
    value = _objective(level, seen)
    return Gradient(derivative(value, own), value, {n: end for n, end in found.items() if isinstance(end, State)})


def _with_solution(
    full: Scope, seen: Scope, inner: ir.Level, key: Tensor, begin: State | None
) -> tuple[Scope, Scope, Any]:
    """Both scopes with the solution of a level inside: as it is, and as its rule sees it."""
    rule = rule_of(full.plan, inner.name)
    if full is seen:
        walks = every_copy(seen, inner.copies, lambda s: solve(s, inner, key, rule, begin))
        scope = seen.having(_solution(inner, walks))
        return scope, scope, _end(walks)
    walks = every_copy(full, inner.copies, lambda s: solve(s, inner, key, rule, begin))
    through = every_copy(seen, inner.copies, lambda s: seen_by(rule, s, inner, key, of_copy(walks, s.at), begin))
    return full.having(_solution(inner, walks)), seen.having(_solution(inner, through)), _end(walks)


def _end(walks: Any) -> State | None:
    """The last state of a level that is not copied."""
    return walks.states[-1] if isinstance(walks, Walk) else None


def _solution(level: ir.Level, walks: Any) -> dict[str, Any]:
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


def _objective(level: ir.Level, scope: Scope) -> Tensor:
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
    state = begin if begin is not None and _is_warm(level) else _first(scope, level, key)
    states: list[State] = [state]
    gradients: list[Iterate] = []
    met: list[float] = []
    for step in range(count_steps(level, scope)):
        inside = step_scope(scope, level, key, step)
        found, after = one_step(inside, level, state, fold(key, step))
        if _has_arrived(scope, inside, level, key, state, found, met):
            break
        state = after if rule.kind == "steps" else _cut(after)
        states, gradients = [*states, state], [*gradients, found]
    if rule.kind == "implicit":
        states[-1] = State(_implicit(scope, level, key, states[-1].x), states[-1].solvers, states[-1].count)
    if rule.kind == "none":
        states[0] = _cut(states[0])
    return Walk(tuple(states), tuple(gradients))


def one_step(scope: Scope, level: ir.Level, state: State, key: Tensor) -> tuple[Iterate, State]:
    """What vanishes where the level has arrived, and the next state: the gradient, or the way to `next`."""
    if level.phases[0].solvers[0].name != "next":
        found = gradient(scope, level, state.x, key).by_name
        return found, moved(scope, level, state, found)
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


def _first(scope: Scope, level: ir.Level, key: Tensor) -> State:
    x = start(level, key, scope)
    if level.phases[0].solvers[0].name == "next":
        return State(x, ())
    solvers = level.phases[0].solvers
    return State(x, tuple({n: first_state(s.name, x[n]) for n in s.variables} for s in solvers))


def _is_warm(level: ir.Level) -> bool:
    return any(isinstance(v.start, ir.Builtin) and v.start.function == "warm" for v in level.variables)


def _cut(state: State) -> State:
    """The state without a graph."""
    solvers = tuple({n: _cut_any(value) for n, value in one.items()} for one in state.solvers)
    return State(detached(state.x), solvers, state.count)


def _cut_any(value: Any) -> Any:
    return tuple(map(detached, value)) if isinstance(value, tuple) else detached(value)


def moved(scope: Scope, level: ir.Level, state: State, along: Iterate) -> State:
    """The state after one step of the solvers, all from the same gradient."""
    if len(level.phases) > 1:
        raise Unsupported("then")
    x, after = dict(state.x), []
    for solver, known in zip(level.phases[0].solvers, state.solvers, strict=True):
        if solver.name not in STEPS:
            raise Unsupported(solver.name)
        given = {name: evaluate(argument, scope) for name, argument in solver.arguments.items()}
        directions = clipped({n: along[n] for n in solver.variables}, given.get("clip", 0.0))
        new = {n: STEPS[solver.name](state.x[n], known[n], directions[n], state.count + 1, given) for n in known}
        x |= {n: pair[0] for n, pair in new.items()}
        after.append({n: pair[1] for n, pair in new.items()})
    return State(x, tuple(after), state.count + 1)


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
    scope: Scope, inside: Scope, level: ir.Level, key: Tensor, state: State, found: Iterate, met: list[float]
) -> bool:
    """Whether the test after `until` holds before a step, whose draws `inside` has; `met`: what it compared so far."""
    test = level.phases[0].duration
    if not isinstance(test, ir.Until):
        return False
    if test.test != "stationary":
        return holds(inside.having(natural(level, state.x)), test, met)
    if set(test.arguments) != {"tol"}:
        raise Unsupported("a test of a batch of its own, or not before every step")
    if level.draws or level.indices:  # one draw for all tests of a solve
        found, _ = one_step(step_scope(scope, level, key, 0, "implicit"), level, state, key)
    bound = plain(evaluate(test.arguments["tol"], scope))
    return all(float(leaf.detach().abs().max()) <= bound for leaf in leaves(found))


# ---- solutions of equations ----------------------------------------------------------------------------------


def _implicit(scope: Scope, level: ir.Level, key: Tensor, x: Iterate) -> Iterate:
    """The last iterate, with the derivatives of the point where the gradient stays as it is there."""

    def residual(at: Iterate) -> Iterate:
        return one_step(step_scope(scope, level, key, 0, "implicit"), level, State(at, zeros), key)[0]

    zeros = _first(scope, level, key).solvers
    at = {name: node(tree) for name, tree in detached(x).items()}
    offset = detached(residual(at))
    for _ in range(2):
        at = newton(lambda y: leafwise(lambda g, o: g - o, residual(y), offset), at)
    return at


def _closed(scope: Scope, level: ir.Level, key: Tensor) -> Walk:
    """The stationary point of an objective of degree two: one step of Newton's method from zero.

    Of a formula: two steps from the point that the formula gives, whose own derivatives are not used.
    """
    at = {v.name: zeros_of(v.type, scope) for v in level.variables}
    inside, solution = step_scope(scope, level, key, 0), formula(level)
    if solution is not None:
        at = {name: zero + detached(number(evaluate(solution, inside))) for name, zero in at.items()}
    found = at
    for _ in range(1 if solution is None else 2):
        found = newton(lambda y: gradient(inside, level, y, fold(key, 0)).by_name, found)
    return Walk((State(at, ()), State(found, ())))


# ---- a solve as its rule sees it -----------------------------------------------------------------------------


def seen_by(rule: Rule, scope: Scope, level: ir.Level, key: Tensor, walk: Walk, begin: State | None) -> Walk:
    """The numbers of `walk`, connected to what `scope` holds as the rule says.

    Invariant: every state has the values that `walk` has. Steps before the window are those of `walk` itself.
    """
    if rule.kind == "none":
        return walk
    if rule.exact:
        return solve(scope, level, key, rule, begin)
    steps = len(walk.gradients)
    first = 0 if rule.window is None else max(0, steps - rule.window)
    whole = first == 0 and not (_is_warm(level) and begin is not None)
    # A window that leaves out no step is no cut: then the start counts too.
    state = _first(scope, level, key) if whole else walk.states[first]
    states = [*walk.states[:first], state]
    for step in range(first, steps):
        inside = step_scope(scope, level, key, step)
        along = walk.gradients[step]
        if not rule.held:
            along = gradient(inside, level, state.x, fold(key, step)).by_name
        state = moved(inside, level, state, along)
        states.append(state)
    return Walk(tuple(states), walk.gradients)
