"""Steps computed again: exactly as many as the best schedule needs, and no more states held than were allowed."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from bilevel.backends.torch_func.checkpoints import (
    binomial_segments,
    falling,
    root,
    segments,
    spots,
    together,
    walk_back,
    walk_back_binomial,
    walk_back_pulled,
)
from bilevel.backends.torch_func.tree import leaves
from bilevel.estimates import held_in_runs
from bilevel.modes import Unroll


class Walk:
    """Plays the part of a level: counts the steps computed again and the states that are held."""

    def __init__(self) -> None:
        self.again, self.order = 0, list[int]()

    def advance(self, state: int, first: int, last: int) -> list[int]:
        assert state == first
        self.again += last - first
        return list(range(first, last + 1))

    def back(self, states: list[int], first: int, last: int) -> None:
        assert states == list(range(first, last))
        self.order += reversed(states)


@cache
def fewest(steps: int, snapshots: int) -> int:
    """The fewest steps computed in all by dynamic programming, the first snapshot being the start."""
    if steps <= 1:
        return 0
    if snapshots == 1:
        return steps * (steps - 1) // 2
    return min(m + fewest(steps - m, snapshots - 1) + fewest(m, snapshots) for m in range(1, steps))


@pytest.mark.parametrize("snapshots", range(1, 9))
def test_the_binomial_rule_is_optimal(snapshots: int) -> None:
    for steps in range(1, 61):
        walk, kept = Walk(), spots(steps, snapshots)
        walk_back_binomial(walk.back, walk.advance, kept, steps, snapshots)
        assert walk.order == list(reversed(range(steps)))
        first_sweep = kept[-1]  # the forward pass leaves the snapshots: no step of it is computed again
        assert walk.again + first_sweep == fewest(steps, snapshots), steps
        assert len(kept) <= snapshots


@pytest.mark.parametrize("count", range(1, 9))
def test_even_runs_are_computed_once_more_each(count: int) -> None:
    for steps in range(1, 61):
        walk, runs = Walk(), segments(steps, count)
        walk_back(walk.back, walk.advance, [first for first, _ in runs], steps, count)
        assert walk.order == list(reversed(range(steps)))
        assert walk.again == steps
        assert max(last - first for first, last in runs) - min(last - first for first, last in runs) <= 1


def test_runs_cover_all_steps() -> None:
    for steps in range(1, 61):
        for runs in (segments(steps, 5), binomial_segments(steps, 5)):
            assert [step for first, last in runs for step in range(first, last)] == list(range(steps))


def test_the_root_holds_about_two_roots_of_states() -> None:
    """Checkpoints and one run: at most 2 sqrt(T) + 2 states where storing all takes T."""
    for steps in range(1, 5_000, 7):
        runs = segments(steps, root(steps))
        held = len(runs) + max(last - first for first, last in runs)
        assert held <= 2 * steps**0.5 + 2


def compositions(steps: int) -> list[tuple[int, ...]]:
    """All ways to cut steps into runs."""
    if steps == 0:
        return [()]
    return [(first, *rest) for first in range(1, steps + 1) for rest in compositions(steps - first)]


def test_falling_runs_hold_least_where_residuals_are_two_states() -> None:
    for steps in range(1, 13):
        lengths = [last - first for first, last in falling(steps)]
        assert sum(lengths) == steps and lengths == sorted(lengths, reverse=True)
        best = min(max(i + 1 + 2 * n for i, n in enumerate(cut)) for cut in compositions(steps))
        assert max(i + 1 + 2 * n for i, n in enumerate(lengths)) == best
    assert falling(0) == []


def test_falling_runs_hold_twice_the_root() -> None:
    for steps in range(1, 3_000, 7):
        runs = falling(steps)
        assert [first for first, _ in runs[1:]] == [last for _, last in runs[:-1]]
        assert max(i + 1 + 2 * (last - first) for i, (first, last) in enumerate(runs)) <= 2 * steps**0.5 + 2


class Held:
    """Alive as long as somebody holds it; `alive` counts states and residuals."""

    def __init__(self, alive: dict[str, int], kind: str, step: int) -> None:
        self.alive, self.kind, self.step = alive, kind, step
        alive[kind] = alive.get(kind, 0) + 1

    def __del__(self) -> None:
        self.alive[self.kind] -= 1


@pytest.mark.parametrize("count", [1, 3, 8, None])
@pytest.mark.parametrize("steps", [1, 2, 7, 12, 40])
@pytest.mark.parametrize("fewer", [0, 3])
def test_runs_with_residuals_are_computed_once_more_each(count: int | None, steps: int, fewer: int) -> None:
    """`fewer`: a test ended the steps before the last of them."""
    taken = max(1, steps - fewer)
    runs = falling(steps) if count is None else segments(steps, count)
    alive, order, seen = dict[str, int](), list[int](), list[tuple[int, int]]()
    states = [Held(alive, "state", first) for first, _ in runs if first < taken] + [Held(alive, "state", taken)]

    def again(state: Held, first: int, last: int) -> list[Held]:
        assert state.step == first
        return [Held(alive, "residuals", step) for step in range(first, last)]

    def back(pulls: list[Held]) -> None:
        seen.append((alive["state"], alive["residuals"]))
        while pulls:
            order.append(pulls.pop().step)

    walk_back_pulled(back, again, states, runs, taken if fewer else None)
    assert order == list(reversed(range(taken)))  # once each: as many steps again as were taken
    assert len(states) == 1 and states[0].step == taken and alive == {"state": 1, "residuals": 0}
    if not fewer:  # what the plan counts: the last state, the states before this run, and its residuals
        wanted = held_in_runs(Unroll("mixed", "unused", "even", count, pulled=True), steps)
        assert seen == [(held + 1, steps_of_run) for held, steps_of_run in reversed(wanted)]


def test_a_state_in_one_block_is_the_same_state() -> None:
    one, two = torch.arange(6.0).reshape(2, 3), torch.arange(4, dtype=torch.float64)
    state = ({"a": one.t(), "b": two}, (torch.tensor(5), one[0], 3.0))
    found = together(state)
    for a, b in zip(leaves(state), leaves(found), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert found[1][2] == 3.0 and together(()) == ()
    assert found[0]["a"].untyped_storage().data_ptr() == found[1][1].untyped_storage().data_ptr()
    assert found[0]["a"].untyped_storage().data_ptr() != one.untyped_storage().data_ptr()
