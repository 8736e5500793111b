"""Which operators of a traced module a run does in kernels, as `Kernels` decides, and what is left of them there.

A marked function becomes a kernel as a whole unless more than a few steps, or functions, are inside; inside of
transforms (forward mode, say) it runs as it is. Left out: runs of steps that Inductor compiles as one.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from bilevel.backends.torch_func.plainly import Plain
from bilevel.backends.torch_func.trace.compilers import LARGEST, LONGEST, WHOLE
from bilevel.backends.torch_func.trace.kernels import CALLS, transformed
from bilevel.backends.torch_func.trace.signature import flatten, mapped
from bilevel.costs import IN_KERNELS, Work
from bilevel.errors import pass_on
from bilevel.graphs import Graph, Halves, graph, halved
from bilevel.meter import Memory, Meter

ENDS = ("_start", "_start_pullback", "_slopes")
"""ends of the names of functions that no step calls"""


@dataclass(frozen=True, slots=True)
class Before:
    """How things stood when a marked function was called."""

    done: Work
    kernels: Work
    named: dict[str, float]
    memory: Memory
    first: int
    """operators that were noted before"""
    count: int
    """storages that were made before"""
    steps: int
    calls: Counter[str]
    outermost: bool


class Marks(Plain):
    """In the place of a compiler of kernels: functions run as they are, and what kernels would do is counted beside it.

    `longer`: how many times the steps that are traced the levels inside of a level really take, by level.
    """

    def __init__(self, meter: Meter, longer: Mapping[str, float]) -> None:
        self.meter, self.longer = meter, longer
        self.steps = 0
        self.calls: Counter[str] = Counter()
        """the marked functions that were called, by name"""
        self.pairs: dict[Any, Halves | None] = {}
        self.reset()

    def reset(self) -> None:
        """Count from here on."""
        self.kernels = Work()
        """what kernels do more than their functions: less than nothing, mostly"""
        self.named: dict[str, float] = {}
        """the operators of every kernel, by its name"""
        self.runs_of: set[str] = set()
        """the kernels that take steps in runs"""
        self.memory = Memory()
        self.meter.told = [self.meter.memory, self.memory]

    @property
    def work(self) -> Work:
        """All that was counted, with kernels in the place of functions."""
        whole = self.meter.work + self.kernels
        in_runs = sum(size * (_steps_together(size) - 1) for name, size in self.named.items() if name in self.runs_of)
        nodes = sum(self.named.values())
        return replace(whole, peak=self.memory.peak, fresh=self.memory.fresh, nodes=nodes, in_runs=in_runs)

    def kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched."""

        @functools.wraps(function)
        def run(*given: Any) -> Any:
            if transformed():
                self.calls[function.__name__] += 1
                return function(*given)
            steps = sum(len(one) for one in given if isinstance(one, range))
            before = self._begin()
            result = function(*given)
            if self._is_kernel(self._longer(function.__name__)):
                found = graph(self._asked(before), self._numbers(result))
                self._replaced(before, function.__name__, found)
                self.runs_of |= {function.__name__} if steps else set()
            self._end(before, steps)
            self.calls[function.__name__] += 1
            return result

        return run

    def pulled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function and its vjp, both watched; what they call counts, and not they themselves."""

        @functools.wraps(function)
        def run(*given: Any) -> Any:
            if transformed():
                return function(*given)
            pair, before = self._pair(function, given), self._begin()
            results, pull = function(*given)
            more = 0.0
            if pair is not None and self._is_kernel(1.0):
                self._replaced(before, f"{function.__name__} ahead", pair.ahead)
                more = self._surplus(before, results, pair.kept)
            self._end(before)

            def back(cotangent: Any) -> Any:
                before = self._begin()
                found = pull(cotangent)
                if pair is not None and self._is_kernel(1.0):
                    self._replaced(before, f"{function.__name__} back", pair.back)
                self._end(before)
                return found

            weakref.finalize(back, self.memory.shift, more)
            return results, back

        return run

    def _longer(self, name: str) -> float:
        """For the function of a level."""
        levels = [level for level in self.longer if name.startswith(f"{level}_")]
        return self.longer[max(levels, key=len)] if levels else 1.0

    def _begin(self) -> Before:
        """All that happens from here on may be one kernel's."""
        outermost = self.meter.asked is None
        self.meter.asked = [] if self.meter.asked is None else self.meter.asked
        first, count = len(self.meter.asked), self.meter.count
        held = copy.copy(self.memory)
        before = Before(
            self.meter.work, self.kernels, self.named, held, first, count, self.steps, self.calls, outermost
        )
        self.steps, self.calls = 0, Counter()
        return before

    def _end(self, before: Before, steps: int = 0) -> None:
        self.steps, self.calls = before.steps + self.steps + steps, before.calls + self.calls
        if before.outermost:
            self.meter.asked = None

    def _is_kernel(self, longer: float) -> bool:
        """Whether so little happened since a function was called that all of it is one kernel.

        What was called once, and what begins or ends a level, is called as often however many steps there are.
        """
        often = (count == 1 or name.endswith(ENDS) for name, count in self.calls.items())
        calls = sum(n if is_end else longer * n for n, is_end in zip(self.calls.values(), often, strict=True))
        return longer * self.steps <= WHOLE["fx"] and calls <= CALLS

    def _asked(self, before: Before) -> list[Any]:
        return (self.meter.asked or [])[before.first :]

    def _numbers(self, result: Any) -> set[int]:
        """The storages of a result."""
        return {self.meter.array(leaf).number for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}

    def _replaced(self, before: Before, name: str, found: Graph) -> None:
        """Count a kernel in the place of what happened since."""
        work, held, memory = found.work, found.memory, self.memory
        happened = replace(self.meter.work - before.done, peak=0.0, fresh=0.0)
        self.kernels = before.kernels + in_kernel(work) + work - happened
        self.named = {**before.named, name: work.operators + work.views}
        level = before.memory.reused + held.small
        memory.fresh = before.memory.fresh + held.large + max(0.0, level - before.memory.highest)
        memory.highest = max(before.memory.highest, level)
        memory.peak = max(before.memory.peak, before.memory.now + held.peak)

    def _surplus(self, before: Before, results: Any, kept: float) -> float:
        """Bytes that a function keeps for its way back beyond those that a kernel keeps; they count as gone."""
        made = {
            leaf.untyped_storage()._cdata: leaf.untyped_storage()
            for leaf in tree_leaves(results)
            if isinstance(leaf, Tensor)
        }
        fresh = [one.nbytes() for place, one in made.items() if self.meter.known.get(place, 0) > before.count]
        more = self.memory.now - (before.memory.now + sum(fresh) + kept)
        self.memory.shift(-more)
        return more

    def _pair(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Halves | None:
        """What the kernels of a function and its vjp have, None where that cannot be told."""
        key = (function.__name__, flatten(given, []))
        if key not in self.pairs:
            self.pairs[key] = None
            around = self.calls, self.meter.transforms
            try:
                with _disable_current_modes():
                    self.pairs[key] = _halves(function, given)
            except Exception as error:  # noqa: BLE001 - what cannot be called back by itself is no pair of kernels
                pass_on(error)
            self.calls, self.meter.transforms = around
        return self.pairs[key]


def _halves(function: Callable[..., Any], given: tuple[Any, ...]) -> Halves:
    """Both kernels of a function that gives its results and their vjp: it is called for it, and called back."""
    meter = Meter()
    meter.asked = []

    def numbers(tree: Any) -> set[int]:
        return {meter.array(leaf).number for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}

    with meter:
        results, pull = function(*given)
    ahead, wanted = list(meter.asked), numbers(results)
    cotangent = mapped(results, lambda leaf: torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf)
    with meter:
        found = pull(cotangent)
    return halved(ahead, meter.asked[len(ahead) :], wanted, numbers(found), numbers(cotangent))


def _steps_together(size: float) -> float:
    """The steps of one run of a compiled kernel, by the operators of one step, as `Kernels.note_size` has it."""
    return max(1.0, min(LARGEST["inductor"] // max(1.0, size), LONGEST["inductor"]))


def in_kernel(done: Work) -> Work:
    """What one kernel does, as the counts of kernels."""
    return Work(kernels=1.0, **{f"kernel_{name}": getattr(done, name) for name in IN_KERNELS})
