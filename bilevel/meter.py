"""A dispatch mode that counts what operators do: the work of whatever runs while it is active, on any device.

Tensors without numbers are looked up by shape instead of being made by torch, which works shapes out in Python.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import add
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bilevel.costs import Work, values
from bilevel.graphs import LARGE, Array, Asked

aten = torch.ops.aten
CONVOLUTIONS = (aten.convolution, aten.convolution_backward, aten._convolution)
BATCHED = (aten.bmm, aten.baddbmm)
FILLING = ("zeros_like", "ones_like", "full_like", "empty_like", "new_", "_new_", "_efficientzerotensor")
"""beginnings of the names of operators that read nothing of what they are given"""
TRANSFORMS = ("vmap", "grad", "grad_and_value", "jvp", "vjp")


@dataclass(frozen=True, slots=True)
class _Made:
    """What an operator makes of inputs of some shapes: its outputs as (shape, strides), dtype; and its counts.

    `over`: whether it writes over its first operand, which is then what it gives.
    """

    outputs: tuple[tuple[tuple[Any, Any], torch.dtype], ...]
    single: bool
    work: Work = field(default_factory=Work)
    over: bool = False

    def result(self, args: Any) -> Any:
        """What the operator gives for arguments of these shapes."""
        if self.over:
            return args[0]
        outputs = [torch.empty_strided(*shape, dtype=dtype, device="meta") for shape, dtype in self.outputs]
        return outputs[0] if self.single else tuple(outputs)


SEEN: dict[Any, _Made] = {}
"""by operator and shapes"""


def _signature(func: Any, args: Any, kwargs: Any) -> Any:
    """What decides the shapes that an operator makes; None where that cannot be told."""
    if func._schema.is_mutable and not _writes_over(func):
        return None
    key = [func]
    for value in (*args, *kwargs, *kwargs.values()):  # operators take lists, but no lists of lists
        leaves = value if isinstance(value, list | tuple) else (value,)
        key.append(len(leaves))
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                key.append((type(leaf), leaf))
            elif _is_plain(leaf):
                key.append((leaf.shape, leaf.stride(), leaf.dtype))
            else:
                return None
    return tuple(key)


def _writes_over(func: Any) -> bool:
    """Whether all that an operator changes is its first operand, which it gives back, as `add_` does."""
    return func._schema.is_mutable and func._opname.endswith("_") and torch.Tag.pointwise in func.tags


def _is_plain(leaf: Tensor) -> bool:
    """No numbers, and not one of the zeros that forward mode keeps as a flag."""
    return leaf.is_meta and not leaf._is_zerotensor()


def _made(func: Any, args: Any, kwargs: Any, result: Any, single: bool) -> _Made:
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return _Made(
        tuple(((tuple(leaf.shape), leaf.stride()), leaf.dtype) for leaf in outputs),
        single,
        _work(func, args, kwargs, result, outputs),
    )


def _work(func: Any, args: Any, kwargs: Any, result: Any, outputs: list[Tensor]) -> Work:
    """The counts of one operator, without the bytes that stay alive."""
    packet, name = func._overloadpacket, func._opname
    reads = not name.startswith(FILLING)
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)] if reads and outputs else []
    touched = float(sum(map(_extent, (*inputs, *outputs))))
    if packet not in flop_registry:
        return Work(moved=touched, operators=1.0)
    flop = float(flop_registry[packet](*args, **kwargs, out_val=result))
    if packet in CONVOLUTIONS:
        return Work(convolutions=flop, packed=touched, setups=float(len(outputs)), operators=1.0)
    matrices = float(outputs[0].shape[0]) if packet in BATCHED else 0.0
    return Work(products=flop, packed=touched, matrices=matrices, operators=1.0)


def _extent(leaf: Tensor) -> int:
    """Bytes of the different numbers of a tensor: those that are repeated without being stored count once."""
    if leaf._is_zerotensor():
        return 0
    stored = (size for size, stride in zip(leaf.shape, leaf.stride(), strict=True) if stride != 0 or size == 0)
    return math.prod(stored) * leaf.element_size()


def _places(tree: Any) -> set[int]:
    """Where the numbers of tensors are stored."""
    return {leaf.untyped_storage()._cdata for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


class Memory:
    """Bytes alive, the most of them, and those that the system had to give, as they are told."""

    def __init__(self) -> None:
        self.now = self.peak = self.reused = self.highest = self.fresh = 0.0

    def rise(self, size: float) -> None:
        """So many bytes more are alive, as one array."""
        self.now += size
        self.peak = max(self.peak, self.now)
        if size >= LARGE:
            self.fresh += size
            return
        self.reused += size
        if self.reused > self.highest:
            self.fresh += self.reused - self.highest
            self.highest = self.reused

    def fall(self, size: float) -> None:
        """So many bytes, of one array, are no longer alive."""
        self.now -= size
        self.reused -= size if size < LARGE else 0

    def shift(self, size: float) -> None:
        """So many bytes more are alive, or fewer, which were so before."""
        self.now += size
        self.reused += size


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators and what they do, and bytes alive of what is made inside; `depth`: transforms around, now.

    `told`: who hears of bytes as well. `asked`: the operators, noted one by one where it is a list.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done = values(Work())
        """the numbers of a `Work`, which takes longer to make than all else that is done for an operator"""
        self.views = self.layers = self.transforms = self.depth = 0
        self.memory = Memory()
        self.told: list[Memory] = [self.memory]
        self.known: dict[int, int] = {}
        """the numbers of storages, by their places"""
        self.count = 0
        self.asked: list[Asked] | None = None

    @property
    def work(self) -> Work:
        """All that was counted so far."""
        counts = {name: float(getattr(self, name)) for name in ("views", "layers", "transforms")}
        return Work(*self.done) + Work(**counts, fresh=self.memory.fresh, peak=self.memory.peak)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.layers += self.depth
        if func.is_view or func._overloadpacket is aten._unsafe_view:
            self.views += 1
            return func(*args, **(kwargs or {}))
        key = _signature(func, args, kwargs or {})
        if key is None or key not in SEEN:
            result, made = self._first(func, args, kwargs or {})
            if key is not None and made is not None:
                SEEN[key] = made
        else:
            made = SEEN[key]
            result = made.result(args)
        found = made if made is not None else _made(func, args, kwargs or {}, result, single=True)
        self.done = tuple(map(add, self.done, values(found.work)))
        given = () if self.asked is None else self._given(args, kwargs)
        leaves = (result,) if isinstance(result, Tensor) else tree_leaves(result)
        results = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for leaf in results:
            self._meet(leaf.untyped_storage(), func._schema.is_mutable)
        if self.asked is not None:
            self.asked.append(Asked(func, given, tuple(map(self.array, results)), found.work))
        return result

    def _given(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The arguments of an operator, arrays by their storages."""
        return tuple(
            self.array(leaf) if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves((args, kwargs or {}))
        )

    def array(self, leaf: Tensor) -> Array:
        """A tensor by its storage."""
        storage = leaf.untyped_storage()
        number = self.known.get(storage._cdata, -storage._cdata)
        return Array(number, (tuple(leaf.shape), leaf.stride(), int(leaf.storage_offset())), storage.nbytes())

    def _first(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, _Made | None]:
        """An operator met for the first time; what is known of it afterwards where its outputs are fresh tensors."""
        result = func(*args, **kwargs)
        if _writes_over(func) and result is args[0]:
            return result, replace(_made(func, args, kwargs, result, single=True), over=True)
        single = isinstance(result, Tensor)
        plain = single or (isinstance(result, tuple) and all(isinstance(leaf, Tensor) for leaf in result))
        if not plain or func._schema.is_mutable or not all(map(_is_plain, tree_leaves(result))):
            return result, None
        if _places(result) & _places((args, kwargs)):  # a view in all but name
            return result, None
        return result, _made(func, args, kwargs, result, single)

    def _meet(self, storage: Any, changed: bool = False) -> None:
        """A storage that an operator gives; one that it wrote to counts as another from then on."""
        place, size = storage._cdata, storage.nbytes()
        if place in self.known and not changed:
            return
        self.count += 1
        new = place not in self.known
        self.known[place] = self.count
        if new:
            weakref.finalize(storage, self._gone, place, size)
            for memory in self.told if size else ():
                memory.rise(size)

    def _gone(self, place: int, size: int) -> None:
        self.known.pop(place, None)
        for memory in self.told if size else ():
            memory.fall(size)


# ---- transforms around operators -----------------------------------------------------------------------------


@contextmanager
def layers(function: Callable[..., Any], meter: Meter) -> Iterator[None]:
    """While it lasts, the transforms that the module of a function calls tell the meter when they are entered and left.

    Operators of a way back that is called after its `vjp` has ended count as outside of it.
    """
    namespace = function.__globals__
    held = {name: namespace[name] for name in TRANSFORMS if name in namespace}
    namespace.update({name: _told(name, transform, meter) for name, transform in held.items()})
    try:
        yield
    finally:
        namespace.update(held)


def _told(name: str, transform: Callable[..., Any], meter: Meter) -> Callable[..., Any]:
    """A transform that counts itself: those that return a function while that one runs."""

    def deeper(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*given: Any, **named: Any) -> Any:
            meter.depth += 1
            meter.transforms += 1
            try:
                return function(*given, **named)
            finally:
                meter.depth -= 1

        return run

    if name in ("jvp", "vjp"):
        return deeper(transform)
    return lambda *given, **named: deeper(transform(*given, **named))
