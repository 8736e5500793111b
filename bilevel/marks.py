"""Which operators of a traced module a run does in kernels: what a function does that becomes one, as `Kernels` decides.

A marked function becomes a kernel as a whole unless more than a few steps, or functions, are inside; inside of
transforms (forward mode, say) it runs as it is. Left out: runs of steps that Inductor compiles as one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bilevel.backends.torch_func.plainly import Plain
from bilevel.backends.torch_func.trace.compilers import WHOLE
from bilevel.backends.torch_func.trace.kernels import CALLS, transformed
from bilevel.costs import Work
from bilevel.meter import Meter

ONCE = 3
"""Functions that a level calls once, whatever its number of steps: its start, its slopes, the way back to the start."""


class Marks(Plain):
    """In the place of a compiler of kernels: functions run as they are, and a meter is told what kernels would do.

    `longer`: how many times the steps that are traced the levels inside of a level really take, by level.
    """

    def __init__(self, meter: Meter, longer: Mapping[str, float]) -> None:
        self.meter, self.longer = meter, longer
        self.steps = self.calls = 0

    def kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        @functools.wraps(function)
        def run(*given: Any) -> Any:
            if transformed():
                self.calls += 1
                return function(*given)
            steps = sum(len(one) for one in given if isinstance(one, range))
            with self._inside(steps, self._longer(function.__name__)):
                return function(*given)

        return run

    def pulled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function and its vjp, both watched; what they call counts, and not they themselves."""

        def watched(called: Callable[..., Any], *given: Any) -> Any:
            with self._inside(0, 1.0):
                found = called(*given)
            self.calls -= 1
            return found

        @functools.wraps(function)
        def run(*given: Any) -> Any:
            results, pull = watched(function, *given)
            return results, functools.partial(watched, pull)

        return run

    def _longer(self, name: str) -> float:
        """For the function of a level."""
        levels = [level for level in self.longer if name.startswith(f"{level}_")]
        return self.longer[max(levels, key=len)] if levels else 1.0

    @contextmanager
    def _inside(self, steps: int, longer: float) -> Iterator[None]:
        """All that happens meanwhile is one kernel's, unless too much does; then what marked functions inside did."""
        before, known = self.meter.work, self.meter.kernels
        around = self.steps, self.calls
        self.steps = self.calls = 0
        yield
        once = min(ONCE, self.calls)
        if longer * self.steps <= WHOLE["fx"] and once + longer * (self.calls - once) <= CALLS:
            self.meter.kernels = known + in_kernel(self.meter.work - before)
        self.steps, self.calls = around[0] + self.steps + steps, around[1] + self.calls + 1


def in_kernel(done: Work) -> Work:
    """What one kernel does, as the counts of kernels."""
    return Work(
        kernels=1.0,
        kernel_operators=done.operators,
        kernel_views=done.views,
        kernel_layers=done.layers,
        kernel_transforms=done.transforms,
        kernel_moved=done.moved,
        kernel_packed=done.packed,
    )
