"""Kernels of a step with its vjp: the step runs once and keeps its residuals, the way back runs from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.trace.carries import Given
from bilevel.backends.torch_func.trace.compilers import Compiled
from bilevel.backends.torch_func.trace.graph import reason_of, trace
from bilevel.backends.torch_func.trace.halves import Half, halves, random_like
from bilevel.backends.torch_func.trace.kernels import MOST, Kernel, Kernels, Made
from bilevel.backends.torch_func.trace.signature import Key, filled, flatten
from bilevel.errors import pass_on


@dataclass(frozen=True, slots=True)
class Pair:
    """Both halves, and the form of the cotangents that the second takes."""

    ahead: Half
    back: Half
    run_ahead: Compiled
    run_back: Compiled
    cotangent: Key
    unrecorded: str
    read: tuple[int, ...]
    """the arguments that the second reads, or passes on"""
    places: tuple[int, ...]
    """what it takes beside residuals, among those arguments and the leaves of the cotangent behind them"""
    sources: tuple[tuple[bool, int], ...]
    """where each of its results comes from: (True, a place like those) or (False, output of the graph)"""


class Pulled(Kernel):
    """A function that gives (results, pull), `pull` taking a cotangent of the results: two kernels for each form."""

    def __init__(self, kernels: Kernels, function: Callable[..., Any]) -> None:
        super().__init__(kernels, function)
        self.pairs: dict[int, Pair] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function gives, by kernels unless somebody differentiates or batches the call."""
        leaves: list[Any] = []
        made = self._found(arguments, leaves)
        if made is None or made.traced is None:
            return self.function(*arguments)
        return self._both(self.pairs[id(made.traced)], arguments, self._inputs(leaves))

    def _count(self, arguments: tuple[Any, ...]) -> None:
        """Nothing: its gradient and its update are counted, by themselves."""
        self.kernels.calls -= 1

    def _both(self, pair: Pair, arguments: tuple[Any, ...], inputs: list[Tensor]) -> tuple[Any, Any]:
        """The results and the pull, which holds what the way back reads."""
        found = pair.run_ahead(*[inputs[place] for place in pair.ahead.traced.inputs])
        kept = found[len(found) - pair.ahead.kept :]
        read = [inputs[place] for place in pair.read]

        def pull(cotangent: Any) -> Any:
            leaves: list[Any] = []
            if flatten(cotangent, leaves) != pair.cotangent:  # of another form: as the function itself has it
                return self.function(*arguments)[1](cotangent)
            given = read + self._inputs(leaves)
            pulled = pair.run_back(*kept, *[given[place] for place in pair.places])
            return filled(pair.back.traced.form, [given[i] if is_given else pulled[i] for is_given, i in pair.sources])

        return pair.ahead.result(inputs, found), pull

    def _make(self, arguments: tuple[Any, ...], leaves: list[Any], form: Key, given: Given | None = None) -> Made:
        """Both kernels for arguments of this form, or the reason why there are none."""
        if len(self.made) >= MOST:
            return Made(self.name, 0, reason=f"more than {MOST} forms of arguments")
        with self.kernels.off(), torch.no_grad():
            results, pull = self.function(*arguments)
            cotangent = random_like(results)
            expected = (results, pull(cotangent))
        taken, both = (*arguments, cotangent), list(leaves)
        pulled = flatten(cotangent, both)
        try:
            traced = trace(self._whole, taken, both, self.kernels.dtype)
            ahead, back = halves(traced, len(leaves))
        except Exception as error:  # noqa: BLE001 - whatever tracing raises is the reason
            pass_on(error)
            return Made(self.name, 0, reason=reason_of(error))
        pair = self._compiled(ahead, back, self._inputs(both), len(leaves), pulled)
        found, pull = self._both(pair, arguments, self._inputs(leaves))
        whole = Kernel(self.kernels, self._whole)
        whole.name = self.name
        whole.check(taken, both, expected, (found, pull(cotangent)))
        self.pairs[id(traced)] = pair
        return Made(self.name, traced.size, pair.run_ahead, traced, unrecorded=pair.unrecorded)

    def _compiled(self, ahead: Half, back: Half, inputs: list[Tensor], first: int, form: Key) -> Pair:
        """Both halves compiled, the second for such residuals as the first one gives; leaves of the cotangent from `first`."""
        given = [inputs[place] for place in ahead.traced.inputs]
        run, why, _ = self.kernels.compiled(ahead.traced, given)
        found = run(*given)
        kept = list(found[len(found) - ahead.kept :])
        given = [*kept, *[inputs[p] for p in back.traced.inputs]]
        run_back, why_back, _ = self.kernels.compiled(back.traced, given)
        taken, sources = back.traced.inputs, back.traced.sources
        read = tuple(sorted({p for p in (*taken, *[p for is_given, p in sources if is_given]) if p < first}))
        at = {place: number for number, place in enumerate((*read, *range(first, len(inputs))))}
        passed = tuple((is_given, at[place] if is_given else place) for is_given, place in sources)
        return Pair(ahead, back, run, run_back, form, why or why_back, read, tuple(at[p] for p in taken), passed)

    def _whole(self, *given: Any) -> Any:
        """Results and cotangents at once."""
        results, pull = self.function(*given[:-1])
        return results, pull(given[-1])
