"""A processor in the place of a GPU that records: it computes, and keeps to what a CUDA graph does to memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bilevel.backends.torch_func.trace.replays import Run


class Tapes:
    """A recorder all of whose recordings share their memory."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.tapes: list[Tape] = []
        self.warmed = self.followed = 0

    def warm(self, run: Run) -> None:
        run()
        self.warmed += 1

    def recording(self) -> Tape:
        return Tape(self)

    def follow(self) -> None:
        self.followed += 1


class Tape:
    """A recording: results have fixed places, which hold nothing before a replay and nothing after one of another.

    Results that are constants, or views of inputs, stand where those do.
    """

    def __init__(self, shared: Tapes) -> None:
        self.shared, self.replays = shared, 0
        self.run: Callable[[], Sequence[Tensor]] = list
        self.left: list[Tensor] = []
        self.own: list[bool] = []

    def record(self, run: Run) -> list[Tensor]:
        if self.shared.refuses:
            raise RuntimeError(self.shared.refuses)
        self.run, self.left = run, list(run())
        self.own = [a.data_ptr() != b.data_ptr() for a, b in zip(self.left, run(), strict=True)]
        self.shared.tapes.append(self)
        self.spoil()
        return self.left

    def replay(self) -> None:
        assert self.shared.followed, "a replay that waits for none before it"
        found = [value.clone() for value in self.run()]
        for tape in self.shared.tapes:
            tape.spoil()
        for place, value in zip(self.left, found, strict=True):
            place.copy_(value)
        self.replays += 1

    def spoil(self) -> None:
        """Nobody may read what was left any more."""
        for place, own in zip(self.left, self.own, strict=True):
            if own:
                place.fill_(torch.nan if place.is_floating_point() else 77)
