"""How the functions of a module run: as they are, step after step; and what is a number in a call rather than part of it.

The emitted functions marked `@kernels.kernel` take trees of tensors to trees of tensors without control flow that
depends on values; those marked `@kernels.pulled` give their results with a vjp of them. A compiler of kernels has the
same methods as `Plain` and takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Plainly: TypeAlias = Callable[..., Any]
Carried: TypeAlias = Callable[..., Any]


class Plain:
    """Runs every function as it is, one step in each run."""

    def kernel(self, function: Plainly) -> Plainly:
        """The function itself."""
        return function

    def pulled(self, function: Plainly) -> Plainly:
        """The function itself."""
        return function

    def carry(self, *made: Any) -> Carried:
        """What a loop gives its state to a step with: `carry(state, dead)`, `dead` if nothing reads it after the step.

        A kernel may write the next state over a dead one: over what kernels have made of states that came this way, and
        over `made`, which the loop made itself and nobody else has. Never over a start, which may be somebody else's.
        """
        return as_it_is

    def runs(self, level: str, first: int, last: int) -> list[range]:
        """The steps first..last-1 of a level, as runs of steps that are computed together."""
        return [range(step, step + 1) for step in range(first, last)]


def as_it_is(state: Any, dead: bool = True) -> Any:
    """The state: functions as they are write over nothing."""
    return state


class Count(int):
    """A number of steps: it changes from call to call, so that a kernel takes it as an input."""


def counted(number: Any) -> Any:
    """A whole number as a `Count`; inside a kernel it is a tensor already."""
    return Count(number) if isinstance(number, int) else number


def within(sequence: Sequence[Any], steps: range, first: int = 0) -> Any:
    """The entries for some steps of a sequence that begins with step `first`."""
    return sequence[steps.start - first : steps.stop - first]
