"""Steps computed again: exactly as many as the best schedule needs, and no more states held than were allowed."""

from __future__ import annotations

from functools import cache

import pytest

from bilevel.backends.torch_func.checkpoints import (
    binomial_segments,
    root,
    segments,
    spots,
    walk_back,
    walk_back_binomial,
)


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
