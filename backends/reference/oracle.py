"""The oracle's door: objective and hypergradient of one step of an outermost level, from a state and a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends.reference.drawing import start, step_scope
from bilevel.backends.reference.levels import State as Inner
from bilevel.backends.reference.levels import gradient
from bilevel.backends.reference.scope import Scope, outermost
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import Tree, detached, leafwise
from bilevel.backends.reference.windows import Move, outer_step, windowed
from bilevel.backends.torch_func.keyed import fold
from bilevel.plan import Plan


@dataclass(frozen=True, slots=True)
class State:
    """Where an outermost level stands.

    `step`: steps taken. `variables`: in free coordinates, by name. `known`: solutions of outermost levels before this
    one, in their own coordinates. `ends`: where warm levels inside ended; absent before the first step.
    """

    step: int
    variables: Mapping[str, Tree]
    known: Mapping[str, Tree] = field(default_factory=dict)
    ends: Mapping[str, Inner | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What one step sees: the objective as the recipe writes it, its hypergradient, and the ends of warm levels."""

    value: Tensor
    hypergradient: dict[str, Tree]
    ends: dict[str, Inner]


def hypergradient(
    program: ir.Program, plan: Plan, parts: Mapping[str, Any], state_values: State, key: Tensor, phase: str
) -> dict[str, Tree]:
    """The hypergradient of an outermost level at a state, by variable, in free coordinates; see `step_values`."""
    return step_values(program, plan, parts, state_values, key, phase).hypergradient


def step_values(
    program: ir.Program, plan: Plan, parts: Mapping[str, Any], state_values: State, key: Tensor, phase: str
) -> Found:
    """Objective and hypergradient of the next step of an outermost level, for the draws of the emitted module.

    `parts` are the bound parts in float64, `key` the key of the run. Of a step with a window for each update these
    are those of its first window. Cost: one interpreted walk for each copy of each step of each level, twice for
    biased modes. Fails when: the plan has what `SUPPORTED` denies (`Unsupported`).
    """
    level = program.level(phase)
    inside, step_key, x = _at(plan, parts, state_values, key, level)
    cut_up, sign = windowed(plan, level), _sign(level)
    if cut_up is not None:
        _, gradients, values = outer_step(inside, level, cut_up, x, step_key, lambda x, _: x, 1)
        return Found(sign * values[0], leafwise(lambda leaf: sign * leaf, gradients[0]), {})
    found = gradient(inside, level, x, step_key, state_values.ends)
    own = leafwise(lambda leaf: sign * leaf.detach(), found.by_name)
    return Found(sign * found.value.detach(), own, found.ends)


def _sign(level: ir.Level) -> int:
    """What turns the number that is minimised into the objective as the recipe writes it."""
    return -1 if level.objective is not None and level.objective.sense == "maximize" else 1


def windowed_step(
    plan: Plan, parts: Mapping[str, Any], state_values: State, key: Tensor, phase: str, move: Move
) -> tuple[dict[str, Tree], Tensor]:
    """The variables after one step with an update for each window, and its objective: the mean over the windows.

    `move` is the outer solver: the next variables from the variables, in free coordinates, and the gradient of what is
    minimised.
    """
    level = plan.program.level(phase)
    inside, step_key, x = _at(plan, parts, state_values, key, level)
    cut_up = windowed(plan, level)
    if cut_up is None:
        raise Unsupported("windows in a level that has none")
    moved, _, values = outer_step(inside, level, cut_up, x, step_key, move)
    return moved, _sign(level) * torch.stack(values).mean()


def _at(
    plan: Plan, parts: Mapping[str, Any], state: State, key: Tensor, level: ir.Level
) -> tuple[Scope, Tensor, dict[str, Tree]]:
    """The scope of a step with its draws, the key of the step, and the variables to differentiate in."""
    scope, level_key = outermost(plan, parts, state.known), fold(key, level.name)
    x = {name: _as_variable(tree) for name, tree in state.variables.items()}
    return step_scope(scope, level, level_key, state.step), fold(level_key, state.step), x


def begin(plan: Plan, parts: Mapping[str, Any], key: Tensor, phase: str, known: Mapping[str, Tree]) -> State:
    """The state before the first step of an outermost level."""
    level = plan.program.level(phase)
    scope = outermost(plan, parts, known)
    return State(0, detached(start(level, fold(key, level.name), scope)), known)


def _as_variable(tree: Tree) -> Tree:
    return leafwise(lambda leaf: leaf.detach().to(torch.float64).requires_grad_(), tree)
