"""`rmd(window, update = each)`: the level around moves after every window of steps of the level inside.

Written from papers/000, algorithm 1: run a window, evaluate the outer objective at its end, differentiate through this
window alone, move, and go on from the same inner state without its graph. Draws of the outer step stay.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from bilevel import ir
from bilevel.backends.reference.drawing import listed_key, step_scope
from bilevel.backends.reference.levels import (
    Iterate,
    State,
    Walk,
    count_steps,
    cut,
    first_of,
    gradient,
    moved,
    natural,
    slope,
    solution,
)
from bilevel.backends.reference.rules import Rule, rule_of
from bilevel.backends.reference.scope import Scope, every_copy
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import detached, each_copy, node, of_copy
from bilevel.backends.torch_func.keyed import fold
from bilevel.plan import Plan

Move = Callable[[Iterate, Iterate], Iterate]
"""the next variables from the variables and a gradient"""


def windowed(plan: Plan, level: ir.Level) -> ir.Level | None:
    """The level inside that is cut into windows, None where there is none."""
    found = [i for i in level.levels if plan.choices[i.name].adjoint is not None and rule_of(plan, i.name).update]
    if found and len(level.levels) > 1:
        raise Unsupported("windows beside other levels")
    return found[0] if found else None


def outer_step(
    scope: Scope, level: ir.Level, inner: ir.Level, x: Iterate, key: Tensor, move: Move, most: int | None = None
) -> tuple[Iterate, list[Iterate], list[Tensor]]:
    """The variables after one step of the level around, with the gradient and the objective of every window.

    `scope` has the draws of the step, `key` is that of the step; `most`: no more than so many windows.
    """
    rule, carried = rule_of(scope.plan, inner.name), None
    gradients: list[Iterate] = []
    values: list[Tensor] = []
    for first in range(0, count_steps(inner, scope), rule.window or 1)[:most]:
        found, value, carried = _window(scope, level, inner, x, key, rule, carried, first)
        gradients, values = [*gradients, found], [*values, value]
        x = detached(move(x, found))
    return x, gradients, values


def _window(
    scope: Scope, level: ir.Level, inner: ir.Level, x: Iterate, key: Tensor, rule: Rule, carried: Any, first: int
) -> tuple[Iterate, Tensor, Any]:
    """Gradient and objective of one window, and the states at its end."""
    own = {name: node(tree) for name, tree in x.items()}
    seen = scope.having(natural(level, own))
    inner_key = fold(key, inner.name)

    def of_one(inside: Scope) -> Walk:
        state = None if carried is None else of_copy(carried, inside.at)
        return _steps(inside, inner, listed_key(inner_key, inner, inside), rule, state, first)

    walks = every_copy(seen, inner.copies, of_one)
    seen = seen.having(solution(inner, walks))
    seen = seen.having({f"@{n}": each_copy(seen.values[f"@{n}"], partial(_numbered, first)) for n in inner.names})
    found, value = slope(seen, level, own, key)
    return detached(found), value.detach(), each_copy(walks, lambda walk: cut(walk.states[-1]))


def _steps(scope: Scope, level: ir.Level, key: Tensor, rule: Rule, state: State | None, first: int) -> Walk:
    """The states of one window of one copy; the start belongs to the first."""
    state = first_of(scope, level, key) if state is None else state
    states = [state]
    for step in range(first, first + (rule.window or 1)):
        inside = step_scope(scope, level, key, step)
        along = gradient(inside, level, state.x, fold(key, step)).by_name
        state = moved(inside, level, state, detached(along) if rule.held else along)
        states.append(state)
    return Walk(tuple(states))


def _numbered(first: int, path: list[Any]) -> dict[int, Any]:
    """Iterates by their number in the whole solve; what was carried into a window is not one of its own."""
    return {first + i: value for i, value in enumerate(path) if i > 0 or first == 0}
