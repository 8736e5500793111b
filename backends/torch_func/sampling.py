"""Draws: samples, tasks, random starts, each a pure function of a key.

A *record* is a named tuple of tensors (or of records). A *finite source* is a record whose tensors share a leading
axis of samples. A *stream* has `sample(keys)`, one item per key. Keys of copies carry the copies as leading axes.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bilevel.backends.torch_func.attention import attends, unfused
from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import choose, fold, normal, permutation, uniform
from bilevel.backends.torch_func.norms import normalises_natively, written_norms
from bilevel.backends.torch_func.tree import Tree, leaves, tree_map
from bilevel.errors import fail


def numbers(count: int, like: Tensor) -> Tensor:
    """0, 1, ..., count - 1, to fold into a key: one key for each copy, step or draw."""
    return torch.arange(count, device=like.device)


def sizes(given: Any) -> tuple[int, ...]:
    """What a part says of a shape, one whole number or several, as a tuple."""
    return (int(given),) if isinstance(given, int) else tuple(int(size) for size in given)


def length(source: Tree, axis: int = 0) -> int:
    """The number of samples of a finite source, or of copies along an axis."""
    return int(leaves(source)[0].shape[axis])


def draw(source: Any, count: int, keys: Tensor, depth: int = 0) -> Tree:
    """`count` samples without replacement for every key, or `count` new items of a stream.

    Shapes: fields have the leading axes keys.shape + [count]. `depth`: how many leading axes of the source are
    copies; then they are those of the keys, and every copy draws from its own samples.
    """
    if not isinstance(source, tuple):
        return source.sample(fold(keys, numbers(count, keys)))
    return take(source, choose(keys, count, enough(source, count, depth)), depth)


def enough(source: Any, count: int, depth: int = 0) -> int:
    """The number of samples of a finite source, which a draw of `count` does not exceed; raises B312.

    What a stream gives shows its length only here, where its registration does not say it.
    """
    available = length(source, depth)
    if count > available:
        raise fail(
            "B312",
            f"{count} samples are drawn from data that has {available}",
            why="one draw takes different samples: it draws without replacement",
            fix=f"a draw of {available} or fewer, or larger data" if available else "data with one sample or more",
        )
    return available


def draw_epoch(source: Any, count: int, key: Tensor, step: int, word: str) -> Tree:
    """The samples of step `step` when passes over a finite source are shuffled anew; a short last batch is dropped."""
    available = enough(source, count)
    batches = available // count
    order = permutation(fold(key, word, step // batches), available)
    begin = step % batches * count
    return take(source, order[..., begin : begin + count], 0)


def take(source: Any, positions: Tensor, depth: int) -> Tree:
    """The samples at `positions` int64[..., n] with one more field, `index`, that holds them."""

    def at(record: Any, place: Tensor) -> Any:
        return tree_map(lambda field: field[place], record)

    pick: Callable[..., Any] = at
    for _ in range(depth):
        pick = vmap(pick)
    return placed(pick(source, positions), positions)


def placed(record: Any, positions: Tensor) -> Tree:
    """The record with one more field, `index`, that holds positions."""
    names = [n for n in record._fields if n != "index"]
    return drawn_type(*names, "index")(*(getattr(record, n) for n in names), positions)


@cache
def drawn_type(*names: str) -> Any:
    """The type of draws with these fields; made once, since to make it takes longer than to draw."""
    return namedtuple("Drawn", names)


def source_positions(source: Any) -> Tensor:
    """Where samples stand in their source, int64[n]: 0, 1, ... for a source itself."""
    if "index" in source._fields:
        found: Tensor = source.index
        return found
    return numbers(length(source), leaves(source)[0])


def everything(source: Any) -> Tree:
    """All samples of a finite source, one or more (B312), with their positions."""
    return placed(source, numbers(enough(source, 1), leaves(source)[0]))


def without(items: list[Any], left_out: Any) -> Any:
    """The samples of all finite sources of a list but one."""
    kept = [item for item in items if item is not left_out]
    return tree_map(lambda *fields: torch.cat(fields), kept[0], *kept[1:])


def draw_normal(keys: Tensor, mean: float, deviation: float, like: Tree, shape: tuple[int, ...] = ()) -> Tree:
    """Normal numbers for every key: one array of `shape`, or a tree like `like` (a tensor gives the dtype)."""
    return _random(lambda k, s, t: normal(k, *s, mean=mean, deviation=deviation, dtype=t), keys, like, shape)


def draw_uniform(keys: Tensor, low: float, high: float, like: Tree, shape: tuple[int, ...] = ()) -> Tree:
    """Uniform numbers for every key: one array of `shape`, or a tree like `like` (a tensor gives the dtype)."""
    return _random(lambda k, s, t: uniform(k, *s, low=low, high=high, dtype=t), keys, like, shape)


def _random(make: Callable[..., Tensor], keys: Tensor, like: Tree, shape: tuple[int, ...]) -> Tree:
    if isinstance(like, dict):
        return {name: make(fold(keys, name), tuple(leaf.shape), leaf.dtype) for name, leaf in like.items()}
    return make(keys, shape, like.dtype)


class Network:
    """A torch module as a function of its parameters: `net(w, x)` is f_w(x)."""

    def __init__(
        self, module: nn.Module, parts: dict[str, str], dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.module = module.to(device=device, dtype=dtype)
        self.parts, self.dtype = parts, dtype
        self.attends, self.natively = attends(module), normalises_natively(module)

    def __call__(self, parameters: dict[str, Tensor], x: Tensor | list[Any]) -> Any:
        """Outputs for a batch of samples with a leading axis; a list holds the inputs of a network that takes several."""
        inputs = tuple(x) if isinstance(x, list) else (x,)
        with unfused() if self.attends else nullcontext(), written_norms(self.natively):
            return functional_call(self.module, parameters, inputs)

    def single(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """The output for one sample without a leading axis."""
        return self(parameters, x[None])[0]

    def select(self, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
        """The module's own parameters: all, one part, or all but one part."""
        own = {name: p.detach() for name, p in self.module.named_parameters()}
        pattern = only if only is not None else without
        if pattern is None:
            return own
        chosen = matching(own, self.parts.get(pattern, pattern))
        if not chosen:
            raise ValueError(f"no parameter of the network belongs to its part `{pattern}`")
        return {n: p for n, p in own.items() if (n in chosen) == (only is not None)}

    def like(self, kind: str, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
        """Zeros shaped like `layers(net)`, `factors(net)` or `kron(net)`."""
        return zeros_like_kind(self.module, self.select(only, without), kind)

    def initial(self, keys: Tensor, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
        """Fresh parameters for every key."""
        drawn = initial_parameters(self.module, keys, self.dtype)
        return {name: drawn[name] for name in self.select(only, without)}


def zeros_like_kind(module: nn.Module, chosen: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """One number for each parameter tensor (`layers`), or the vectors a, b of each layer (`factors`, `kron`).

    A layer is a linear or convolutional one whose weight is chosen: a has one entry for each input of an output
    (and one for the bias), b one for each output.
    """
    if kind == "layers":
        return {name: p.new_zeros(()) for name, p in chosen.items()}
    found: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        weight = chosen.get(f"{prefix}weight")
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and weight is not None:
            found[f"{prefix}a"] = weight.new_zeros(weight[0].numel() + (f"{prefix}bias" in chosen))
            found[f"{prefix}b"] = weight.new_zeros(len(weight))
    return found


def matching(names: Any, pattern: str) -> set[str]:
    """The names that a pattern with `*` matches."""
    from fnmatch import fnmatchcase

    return {n for n in names if fnmatchcase(n, pattern)}


def network(part: Any, parts: dict[str, str], dtype: torch.dtype, device: torch.device | str) -> Any:
    """A module as a `Network`; anything else as it is."""
    return Network(part, parts, dtype, device) if isinstance(part, nn.Module) else part


# ---- warm levels ---------------------------------------------------------------------------------------------
#
# Where a solve ended is (variables, solver's state, number of steps); () before the first one.


def begun(begin: Any) -> Any:
    """The number of solver steps that a warm level has taken before this solve, for each copy where they may differ."""
    return begin[2] if begin else 0


def begun_each(begin: Any, x: Tree, depth: int) -> Tensor:
    """The same as a tensor, real[*copies]."""
    first = leaves(x)[0]
    return torch.zeros(first.shape[:depth], dtype=first.dtype, device=first.device) + begun(begin)


def ended(state: tuple[Any, ...], begin: Any, steps: Any) -> tuple[Any, ...]:
    """Where the next solve goes on: variables and solver's state without a derivative, and the steps taken so far."""
    return (*tree_map(lambda leaf: leaf.detach(), state[:2]), begun(begin) + steps)


def ended_each(state: tuple[Any, ...], begin: Any, steps: Any, depth: int) -> tuple[Any, ...]:
    """The same with a number of steps for each copy, real[*copies]."""
    return (*ended(state, (), 0)[:2], begun_each(begin, state[0], depth) + steps)


def held_each(active: Tensor, end: Any, begin: Any) -> Any:
    """Where a level ended, for copies of the level around it that moved; where it began, for those that have stopped."""
    if not leaves(begin):
        return end
    return tree_map(
        lambda a, b: torch.where(active.reshape(active.shape + (1,) * (a.dim() - active.dim())), a, b), end, begin
    )
