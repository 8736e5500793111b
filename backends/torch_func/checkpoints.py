"""Walking back through steps of which only some states were kept: the others are computed again.

`advance(state, first, last)` gives the states of steps first..last, the given one first; `back(states, first, last)`
pulls the cotangents back through steps first..last-1, given the state before each. Every function here goes back
through each step once, from the last to the first; a run may also keep its residuals when it is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.tree import leaves, tree_map

State = Any
Advance = Callable[[Any, int, int], list[Any]]
Back = Callable[[list[Any], int, int], None]
Again = Callable[[Any, int, int], list[Any]]
Pulls = Callable[[list[Any]], None]

LARGE_STATE = 1 << 20
"""bytes of a state from which its memory is given back"""


def segments(steps: int, count: int) -> list[tuple[int, int]]:
    """0..steps in `count` runs of nearly equal length (at most one each step), as (first, last)."""
    count = max(1, min(count, steps))
    ends = [steps * i // count for i in range(count + 1)]
    return list(pairwise(ends)) if steps else []


def falling(steps: int) -> list[tuple[int, int]]:
    """0..steps in runs that grow shorter, as (first, last): about r, r, r - 1, r - 1, ..., 1 steps, r the root of them.

    Walked back from the last, with the state before each run given up when it is done, run number i holds i + 1 states
    and the residuals of its own steps. Where those of a step are twice a state, no other runs hold less at the worst.
    """
    allowed = 1
    while sum(_lengths(allowed)) < steps:
        allowed += 1
    ends = [0]
    for length in _lengths(allowed):
        ends.append(min(steps, ends[-1] + length))
    return [run for run in pairwise(ends) if run[0] < run[1]]


def _lengths(allowed: int) -> list[int]:
    """The longest runs, first to last, of which each holds at most so many states, two for each of its steps."""
    return [(allowed - number) // 2 for number in range(allowed)]


def together(state: State) -> State:
    """A copy of a state whose tensors of one dtype are one block of memory.

    What is kept for long, array by array among what is soon freed, leaves gaps that larger arrays do not fit into.
    """
    flat: dict[torch.dtype, list[Tensor]] = {}
    for leaf in leaves(state):
        flat.setdefault(leaf.dtype, []).append(leaf.reshape(-1))
    blocks = {kind: iter(torch.split(torch.cat(some), [t.numel() for t in some])) for kind, some in flat.items()}

    def block(leaf: Any) -> Any:
        return next(blocks[leaf.dtype]).reshape(leaf.shape) if isinstance(leaf, Tensor) else leaf

    return tree_map(block, state)


def root(steps: int) -> int:
    """The number of checkpoints for which those kept and those recomputed are about as many: sqrt(steps)."""
    return max(1, math.isqrt(steps))


def most(taken: Any) -> int:
    """The steps of the copy that took most of them."""
    return int(taken.max()) if isinstance(taken, Tensor) else int(taken)


def walk_back(
    back: Back, advance: Advance, kept: list[State], steps: int, count: int, taken: int | None = None
) -> None:
    """From `count` evenly spread states: each run is computed once more. Memory count + steps / count states.

    `taken`: a test ended the steps after so many of `steps`; states past it were never kept.
    """
    for number, (first, end) in reversed(list(enumerate(segments(steps, count)))):
        last = end if taken is None else min(end, taken)
        if last <= first:
            continue
        back(advance(kept[number], first, last)[:-1], first, last)  # no name: its states go before the next are made


def bytes_kept(state: State) -> int:
    """Bytes of the tensors of a state."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(state))


def give_back() -> None:
    """Return freed memory to the system, where the C library can.

    States that are kept leave gaps between them that glibc does not use again for arrays of the same size: without this
    100 steps of 2.7 MB hold 92 MB where 69 are in use, with it 80. It takes as long as the system needs to give the
    memory out again, about a quarter more of those steps; so for large states only, and after every second run.
    """
    import ctypes
    import sys

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def walk_back_pulled(
    back: Pulls, again: Again, states: list[State], runs: list[tuple[int, int]], taken: int | None = None
) -> None:
    """From the states before each run, which are given up with it; the last entry of `states` stays.

    `again(state, first, last)` gives the vjp of each step of a run, which is computed once more, and `back` uses them
    up from the last. Memory: the states before the run, and the residuals of its steps. `taken` as `walk_back`.
    """
    kept = states[:-1]
    del states[:-1]
    for first, end in reversed(runs[: len(kept)]):
        last = end if taken is None else min(end, taken)
        state = kept.pop()
        if len(kept) % 2 and bytes_kept(state) >= LARGE_STATE:
            give_back()
        if first < last:
            pulls = again(state, first, last)
            del state
            back(pulls)


def reach(snapshots: int, repeats: int) -> int:
    """The most steps that can be walked back with so many snapshots, none computed more than `repeats` times."""
    return math.comb(snapshots + repeats, snapshots) if repeats >= 0 and snapshots >= 0 else 0


def middle(steps: int, snapshots: int) -> int:
    """Where the next snapshot goes so that least is computed again (Griewank and Walther 2000, algorithm 799)."""
    repeats = 1
    while reach(snapshots, repeats) < steps:
        repeats += 1
    low = max(reach(snapshots, repeats - 2), steps - reach(snapshots - 1, repeats), 1)
    high = min(reach(snapshots, repeats - 1), steps - reach(snapshots - 1, repeats - 1), steps - 1)
    return max(1, min(low, high)) if high >= 1 else 1


def spots(steps: int, snapshots: int) -> list[int]:
    """The steps whose states the forward pass keeps: each snapshot at the middle of what is left."""
    found, first = [0], 0
    while snapshots > 1 and steps - first > 1:
        first += middle(steps - first, snapshots)
        snapshots -= 1
        found.append(first)
    return found


def walk_back_binomial(
    back: Back, advance: Advance, kept: list[State], steps: int, snapshots: int, taken: int | None = None
) -> None:
    """From states at `spots`: the fewest steps computed again that `snapshots` states allow; `taken` as `walk_back`."""
    places = spots(steps, snapshots)
    ends = [*places[1:], steps]
    for number in reversed(range(len(places))):
        last = ends[number] if taken is None else min(ends[number], taken)
        if places[number] < last:
            revolve(back, advance, kept[number], places[number], last, snapshots - number)


def revolve(back: Back, advance: Advance, state: State, first: int, last: int, snapshots: int) -> None:
    """Steps first..last-1 from the state before them, which is the first of the `snapshots` that may be held."""
    if last <= first:
        return
    if last - first == 1:
        back([state], first, last)
    elif snapshots <= 1:
        for step in reversed(range(first, last)):
            back([advance(state, first, step)[-1]], step, step + 1)
    else:
        split = first + middle(last - first, snapshots)
        revolve(back, advance, advance(state, first, split)[-1], split, last, snapshots - 1)
        revolve(back, advance, state, first, split, snapshots)


def binomial_segments(steps: int, snapshots: int) -> list[tuple[int, int]]:
    """The runs of steps between the states that the forward pass keeps for `walk_back_binomial`."""
    places = spots(steps, snapshots)
    return list(zip(places, [*places[1:], steps], strict=True))
