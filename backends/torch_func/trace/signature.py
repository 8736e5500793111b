"""Trees of arguments and results as flat lists of tensors, with the rest of them as a key that can be compared.

Tensors are inputs by shape and dtype; so are numbers of steps (`range`, `Count`), which change from call to call.
Everything else (other numbers, words, None, the form of the tree) is part of the key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Key = Any


class Slot:
    """Where a tensor stood in a tree."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place


def flatten(tree: Any, leaves: list[Any]) -> Key:
    """The key of a tree; its tensors and numbers of steps are put behind `leaves`, in the order of its branches."""
    kind = type(tree)
    if kind is dict:
        return (dict, *[(name, flatten(value, leaves)) for name, value in tree.items()])
    if kind is tuple or kind is list:
        return (kind, *[flatten(value, leaves) for value in tree])
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return (tree.shape, tree.dtype)
    if kind is range:
        leaves.append(tree)
        return (range, len(tree))
    if is_count(tree):
        leaves.append(tree)
        return "count"
    if isinstance(tree, tuple):  # a record: what it is called and its fields' names tell its form
        return (kind.__name__, kind._fields, *[flatten(value, leaves) for value in tree])
    return (kind, tree)


def is_count(value: Any) -> bool:
    """Whether a number is a `Count`; the emitted file has a class of that name of its own."""
    return isinstance(value, int) and type(value) not in (int, bool)


def as_tensor(leaf: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A leaf as an input of a kernel: numbers of steps become real numbers, in which they are exact.

    They are filled in on the device: to bring a number there, a GPU would first finish all that it was asked for.
    """
    if isinstance(leaf, Tensor):
        return leaf if leaf.is_contiguous() else leaf.contiguous()
    if isinstance(leaf, range):
        return torch.arange(leaf.start, leaf.stop, dtype=dtype, device=device)
    return torch.full((), float(leaf), dtype=dtype, device=device)


def mapped(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same tree with `leaf` of every tensor and number of steps, in the order of `flatten`."""
    kind = type(tree)
    if kind is dict:
        return {name: mapped(value, leaf) for name, value in tree.items()}
    if kind is tuple or kind is list:
        return kind([mapped(value, leaf) for value in tree])
    if isinstance(tree, Tensor | range) or is_count(tree):
        return leaf(tree)
    if isinstance(tree, tuple):
        return kind(*[mapped(value, leaf) for value in tree])
    return tree


def template(tree: Any) -> Any:
    """The tree with `Slot`s in place of its tensors."""
    places = iter(range(1_000_000))
    return mapped(tree, lambda leaf: Slot(next(places)) if isinstance(leaf, Tensor) else leaf)


def filled(form: Any, values: list[Tensor]) -> Any:
    """A template with values in its slots."""
    kind = type(form)
    if kind is Slot:
        return values[form.place]
    if kind is dict:
        return {name: filled(value, values) for name, value in form.items()}
    if kind is tuple or kind is list:
        return kind([filled(value, values) for value in form])
    if isinstance(form, tuple):
        return kind(*[filled(value, values) for value in form])
    return form
