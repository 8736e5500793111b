"""Kernels in place of the marked functions of an emitted module, made when a function is first called.

A function is called once as it is, for what it gives and for the steps that it takes inside. Where these are few it
becomes a kernel, which is accepted if it gives the same; where not, the function itself runs, and the functions that
it calls become kernels. Kernels are kept by the form of their arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.plainly import Carried, as_it_is
from bilevel.backends.torch_func.trace import parity
from bilevel.backends.torch_func.trace.carries import (
    Carry,
    Given,
    is_marked,
    made_inside,
    spendable,
    unmarked,
    writable,
)
from bilevel.backends.torch_func.trace.compilers import (
    LARGEST,
    LARGEST_WHOLE,
    LONGEST,
    MOST_KEPT,
    WHOLE,
    Compiled,
    Kind,
    begin,
    compiled_over,
)
from bilevel.backends.torch_func.trace.graph import Traced, constants, reason_of, trace
from bilevel.backends.torch_func.trace.replays import Replays
from bilevel.backends.torch_func.trace.signature import Key, as_tensor, filled, flatten, mapped
from bilevel.errors import fail, pass_on

MOST = 16
"""Forms of arguments that one function gets kernels for; data of ever new sizes would make one in every step."""

MOST_MADE = 8 << 20
"""The most bytes that one step of a run makes: beyond them every step is a kernel of its own."""

CALLS = 24
"""The most functions called inside one that becomes a kernel as a whole: its graph has all of theirs."""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a function for one form of arguments: a kernel, or the reason why there is none."""

    name: str
    operators: int
    run: Compiled | None = None
    traced: Traced | None = None
    reason: str = ""
    unrecorded: str = ""
    """why a kernel is no graph of the device where graphs were asked for"""
    over: frozenset[int] = frozenset()
    """the leaves of the arguments that it writes over"""
    fresh: tuple[int, ...] = ()
    """of what `run` gives, the arrays that it makes itself; known where a loop gives its state"""


@dataclass
class Kernels:
    """A compiler of kernels, in the place of `Plain`; `kind` may be changed until the first kernel is made."""

    kind: Kind
    dtype: torch.dtype
    device: torch.device
    reason: str = ""
    """why this kind"""
    replays: Replays | None = None
    """what records kernels of a kind with graphs"""
    idle: bool = False
    """whether functions run as they are because nothing is worth a kernel"""
    made: list[Made] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """by level, how many of its steps go into one kernel"""
    plain: bool = False
    """whether functions run as they are just now"""
    steps: int = 0
    """the steps of levels inside that were taken since functions run as they are"""
    calls: int = 0
    """the marked functions that were called since then"""
    operators: int = 0
    """the operators of these steps"""
    bytes: int = 0
    """the bytes that these operators make"""

    def kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, or a kernel in its place where one can be used."""
        return Kernel(self, function)

    def pulled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which gives its results and their vjp, or a pair of kernels in its place."""
        from bilevel.backends.torch_func.trace.pulled import Pulled  # it is made of what is defined here

        return Pulled(self, function)

    def carry(self, *made: Any) -> Carried:
        """The mark of a loop's own states, for which `Plain.carry` says what it means."""
        return Carry(self._makes, made) if self._makes() else as_it_is

    def _makes(self) -> bool:
        """Whether a function that is called now may be a kernel."""
        return not (self.plain or self.idle or self.kind == "none" or transformed())

    def runs(self, level: str, first: int, last: int) -> list[range]:
        """The steps first..last-1 in runs as long as a kernel, then one by one."""
        size = 1 if self.plain or self.idle or self.kind == "none" else self.sizes.get(level, 1)
        whole = first + (last - first) // size * size
        runs = [range(start, start + size) for start in range(first, whole, size)]
        return runs + [range(start, start + 1) for start in range(whole, last)]

    @contextmanager
    def off(self) -> Iterator[None]:
        """While it lasts, functions run as they are."""
        before, self.plain = self.plain, True
        self.steps = self.calls = self.operators = self.bytes = 0
        try:
            yield
        finally:
            self.plain = before

    @contextmanager
    def running(self) -> Iterator[None]:
        """While it lasts, kernels are made and used, also where that waits for a run."""
        before, self.idle = self.idle, False
        try:
            yield
        finally:
            self.idle = before

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While it lasts, functions run as they are: for what is computed now and then, on data of another size."""
        before, self.idle = self.idle, True
        try:
            yield
        finally:
            self.idle = before

    def compiled(
        self, traced: Traced, inputs: list[Tensor], dead: Collection[int] = ()
    ) -> tuple[Compiled, str, tuple[int, ...]]:
        """A graph as a function of its inputs, of this kind; why it is not recorded where it should be.

        Last, which of the `dead` inputs it writes results over; a recording has buffers of its own, and writes over none.
        """
        run, over = compiled_over(traced, inputs, self.kind, () if self.replays is not None else dead)
        if self.replays is None or not traced.size:
            return run, "", over
        found = self.replays.replayed(traced, run, inputs)
        return (run, found, ()) if isinstance(found, str) else (found, "", ())

    def note_size(self, name: str, one: Traced) -> None:
        """How many steps of a level a kernel may have, from the operators in one step of one of its functions.

        One where a step makes many bytes: a longer run would hold more, and what it saves in a call is nothing to them.
        """
        level = name.rpartition("_")[0]
        size = max(1, min(LARGEST[self.kind] // max(1, one.size), LONGEST[self.kind]))
        size = 1 if one.bytes > MOST_MADE else size
        self.sizes[level] = min(size, self.sizes.get(level, size))

    def is_short(self) -> bool:
        """Whether the steps that were taken since functions run as they are may become one graph with what is around.

        In one graph the way back finds what the way forth has computed, and keeps it: few steps of small arrays.
        """
        return 0 < self.operators <= LARGEST_WHOLE[self.kind] and self.bytes <= MOST_KEPT


class Kernel:
    """One function of an emitted module and the kernels made of it."""

    def __init__(self, kernels: Kernels, function: Callable[..., Any]) -> None:
        self.kernels, self.function = kernels, function
        self.name: str = function.__name__
        self.made: dict[Key, Made] = {}
        self.traces: dict[Key, Traced] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function gives, by a kernel unless somebody differentiates or batches the call."""
        if is_marked(arguments):
            return self._carried(unmarked(arguments))
        leaves: list[Any] = []
        made = self._found(arguments, leaves)
        if made is None or made.run is None or made.traced is None:
            return self.function(*arguments)
        inputs = self._inputs(leaves)
        return _result(made.traced, made.run(*_read(made.traced, inputs)), inputs)

    def _carried(self, given: Given) -> Any:
        """What the function gives for a loop's state, written over it where nothing reads it any more."""
        self.kernels.calls += 1
        made = self._known(given.arguments, given.leaves, (given.form, given.marked), given)
        if made is None or made.run is None or made.traced is None:
            given.carry.keep((), ())
            return self.function(*given.arguments)
        inputs = writable(self._inputs(given.leaves), made.over, given)
        found = made.run(*_read(made.traced, inputs))
        results = _results(made.traced, found, inputs)
        given.carry.keep(results if made.over else (), [found[place] for place in made.fresh])
        return filled(made.traced.form, results)

    def _found(self, arguments: tuple[Any, ...], leaves: list[Any]) -> Made | None:
        """What became of the function for arguments of this form, which fill `leaves`; None where it runs as it is."""
        kernels = self.kernels
        kernels.calls += 1
        if kernels.idle or kernels.kind == "none" or transformed():
            return None
        if kernels.plain:
            self._count(arguments)
            return None
        return self._known(arguments, leaves, flatten(arguments, leaves))

    def _known(
        self, arguments: tuple[Any, ...], leaves: list[Any], key: Key, given: Given | None = None
    ) -> Made | None:
        """What became of the function for these arguments; `given` where a loop gives its state."""
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in leaves):
            return None
        made = self.made.get(key)
        if made is None:
            own = (key,) if given is None else (given.form, given)
            made = self._make(arguments, leaves, *own)
            self.made[key] = made
            self.kernels.made.append(made)
        return made

    def _inputs(self, leaves: list[Any]) -> list[Tensor]:
        return [as_tensor(leaf, self.kernels.dtype, self.kernels.device) for leaf in leaves]

    def _count(self, arguments: tuple[Any, ...]) -> None:
        """Steps that are taken as they are: how many, and how many of them would make a kernel."""
        steps = next((len(a) for a in arguments if isinstance(a, range)), 0)
        if not steps:
            return
        self.kernels.steps += steps
        if LONGEST[self.kernels.kind] == 1:
            return
        if not self.traces:
            leaves: list[Any] = []
            key = flatten(arguments, leaves)
            try:
                self.traces[key] = trace(self.function, arguments, leaves, self.kernels.dtype)
                self.kernels.note_size(self.name, self.traces[key])
            except Exception as error:  # noqa: BLE001 - found again, and said, when the function is called for itself
                pass_on(error)
        one = next(iter(self.traces.values()), None)
        self.kernels.operators += steps * (one.size if one is not None else LARGEST_WHOLE[self.kernels.kind] + 1)
        self.kernels.bytes += steps * (one.bytes if one is not None else 0)

    def _make(self, arguments: tuple[Any, ...], leaves: list[Any], form: Key, given: Given | None = None) -> Made:
        """A kernel for arguments of this form, or the reason why there is none; `given` where a loop gives its state."""
        if len(self.made) >= MOST:
            return Made(self.name, 0, reason=f"more than {MOST} forms of arguments")
        begin(self.kernels.kind, self.kernels.device, self.kernels.dtype)
        with self.kernels.off(), torch.no_grad():
            expected = self.function(*arguments)
            steps, calls, short = self.kernels.steps, self.kernels.calls, self.kernels.is_short()
        if steps > WHOLE[self.kernels.kind] and not short:
            return Made(self.name, 0, reason=f"{steps} steps inside")
        if calls > CALLS and not short:
            return Made(self.name, 0, reason=f"{calls} functions inside")
        try:
            traced = self.traces.get(form) or trace(self.function, arguments, leaves, self.kernels.dtype)
        except Exception as error:  # noqa: BLE001 - whatever tracing raises is the reason
            pass_on(error)
            return Made(self.name, 0, reason=reason_of(error))
        inputs = self._inputs(leaves)
        dead = [] if given is None else spendable(traced, inputs, given.marked)
        run, unrecorded, over = self.kernels.compiled(traced, _read(traced, inputs), dead)
        places = frozenset(traced.inputs[number] for number in over)
        inputs = [one.clone() if place in places else one for place, one in enumerate(inputs)]
        found = run(*_read(traced, inputs))
        try:
            self.check(arguments, leaves, expected, _result(traced, found, inputs))
        except parity.Unlike:
            return Made(self.name, 0, reason="equal arguments do not always give the same")
        others = (*(one for place, one in enumerate(inputs) if place not in places), *constants(traced.module))
        fresh = () if given is None else made_inside(found, others)
        return Made(self.name, traced.size, run, traced, unrecorded=unrecorded, over=places, fresh=fresh)

    def check(self, arguments: tuple[Any, ...], leaves: list[Any], expected: Any, found: Any) -> None:
        """B711: a kernel that gives something else than its function is not used, and the run ends."""
        left, right = list[Any](), list[Any]()
        form_left, form_right = flatten(expected, left), flatten(found, right)
        if form_left != form_right:
            raise self._mismatch("its result has another form")
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def again(values: Any) -> list[Tensor]:
            given = iter(values)
            moved = mapped(arguments, lambda leaf: next(given) if isinstance(leaf, Tensor) else leaf)
            with self.kernels.off(), torch.no_grad():
                result = list[Any]()
                flatten(self.function(*moved), result)
            return result

        off = parity.worst(again, tensors, left, right)
        if off is not None:
            raise self._mismatch(f"its result is off by {off:.1e} (relative)")

    def _mismatch(self, what: str) -> Exception:
        return fail(
            "B711",
            f"the {self.kernels.kind} kernel of `{self.name}` does not agree with the function it was made from",
            why=f"{what}; a wrong kernel would train on wrong numbers without a sign",
            fix="--compile none runs the functions as they are (step.py in the folder of the run has them);\n"
            "please report the recipe and the versions of bilevel and torch",
        )


def transformed() -> bool:
    """Whether this call is inside grad, jvp, vjp or vmap, or inside a trace."""
    inside: bool = torch._C._functorch.peek_interpreter_stack() is not None
    return inside


def _read(traced: Traced, inputs: list[Tensor]) -> list[Tensor]:
    """The inputs that the graph reads."""
    return [inputs[place] for place in traced.inputs]


def _result(traced: Traced, found: Sequence[Tensor], inputs: list[Tensor]) -> Any:
    """The result of a kernel as a tree."""
    return filled(traced.form, _results(traced, found, inputs))


def _results(traced: Traced, found: Sequence[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The tensors of the result of a kernel."""
    return [inputs[place] if given else found[place] for given, place in traced.sources]
