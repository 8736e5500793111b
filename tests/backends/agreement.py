"""One recipe on both backends: the emitted module and the reference, compared state by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends import reference
from bilevel.backends.reference.levels import State as Inner
from bilevel.backends.reference.trees import flat, leafwise
from bilevel.plan import Plan
from tests.zoo.compiled import Compiled


@dataclass(frozen=True)
class Both:
    """What both backends say about one step."""

    step: int
    values: tuple[float, float]
    gradients: dict[str, tuple[Tensor, Tensor]]

    @property
    def error(self) -> float:
        """The largest difference, each relative to the largest number it belongs to."""
        pairs = [(torch.tensor(a), torch.tensor(b)) for a, b in (self.values,)] + list(self.gradients.values())
        return max(relative(a, b) for a, b in pairs)


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest entry; of what is smaller than 1e-12 the difference itself."""
    assert a.shape == b.shape
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    size = b.abs().max().item()
    return (a - b).abs().max().item() / (size if size > 1e-12 else 1.0)


def compared(compiled: Compiled, steps: int = 1, seed: int = 0) -> list[Both]:
    """Both backends at the first states that the emitted module goes through, of one outermost level after the other."""
    key, known, found = compiled.key(seed), dict[str, Any](), list[Both]()
    for phase in compiled.phases:
        given = [known[n] for n in phase.reads]
        state = phase.begin(key, *given)
        for number in range(max(steps, phase.steps if len(compiled.phases) > 1 else 0)):
            if number < steps:
                found.append(_both(compiled, phase, state, key, known))
            state, _ = phase.step(state, key, *given)
        known |= phase.values(state)
    return found


def windows_error(compiled: Compiled, steps: int, rate: float) -> float:
    """The largest error of state and objective after outer steps with an update for each window, by sgd at `rate`."""
    key, phase, plan = compiled.key(), compiled.phase, compiled.plan
    state, worst = phase.begin(key), 0.0
    for number in range(steps):
        held = reference.State(number, by_name(phase.variables, state.x))
        move = partial(leafwise, lambda x, g: x - rate * g)
        expected, mean = reference.windowed_step(plan, compiled.parts, held, key, phase.name, move)
        state, value = phase.step(state, key)
        found = by_name(phase.variables, state.x)
        errors = [relative(flat(found[n]), flat(expected[n])) for n in phase.variables]
        worst = max(worst, relative(value[None], mean[None]), *errors)
    return worst


def _both(compiled: Compiled, phase: Any, state: Any, key: Tensor, known: Mapping[str, Any]) -> Both:
    gradient, value = phase.hypergradient(state, key, *(known[n] for n in phase.reads))
    plan = compiled.plan
    names = phase.variables
    held = reference.State(int(state.step), by_name(names, state.x), known, ends(plan, state.ends))
    oracle = reference.step_values(plan.program, plan, compiled.parts, held, key, phase.name)
    emitted = by_name(names, gradient)
    gradients = {n: (flat(emitted[n]), flat(oracle.hypergradient[n])) for n in names}
    return Both(int(state.step), (value.item(), oracle.value.item()), gradients)


def by_name(names: tuple[str, ...], packed: Any) -> dict[str, Any]:
    """One value for one name, a tuple for several."""
    return dict(zip(names, (packed,) if len(names) == 1 else packed, strict=True))


def ends(plan: Plan, given: Mapping[str, Any]) -> dict[str, Inner | None]:
    """The ends of warm levels, from the emitted module's form to the reference's."""
    return {name: None if not end else _end(plan.program.level(name), end) for name, end in given.items()}


def _end(level: ir.Level, end: Any) -> Inner:
    x, solver, count = end
    x = by_name(level.names, x)
    solvers = level.phases[0].solvers
    states = []
    for number, one in enumerate(solvers):
        own = solver if len(solvers) == 1 else solver[number]
        packed_alone = len(solvers) == 1 and len(level.names) == 1
        states.append(
            {n: _solver_state(one, own, None if packed_alone else i, x[n]) for i, n in enumerate(one.variables)}
        )
    return Inner(x, tuple(states), int(count))


def _solver_state(solver: ir.Solver, state: Any, place: int | None, x: Tensor) -> Any:
    """One variable's share of a solver's state; no velocity is a velocity of zero."""
    if isinstance(state, tuple) and not state:
        return torch.zeros_like(x)
    if solver.name in ("adam", "adamw"):
        return tuple(_share(moment, place) for moment in state)
    return _share(state, place)


def _share(kept: Any, place: int | None) -> Any:
    """What is kept for one of several variables; for one variable it may stand alone."""
    return kept[place] if place is not None and isinstance(kept, tuple | list) else kept
