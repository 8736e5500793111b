"""What names stand for while one copy of a level is worked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bilevel import ir
from bilevel.backends.reference.masks import with_masks
from bilevel.backends.reference.trees import Copies
from bilevel.backends.torch_func.keyed import fold
from bilevel.dsl.datatypes import ListType, Size
from bilevel.plan import Plan


@dataclass(frozen=True, slots=True)
class Delayed:
    """An argument of a let that is copied over an index which the let closes: evaluated where it is read."""

    expr: ir.Expr
    scope: Scope


@dataclass(frozen=True, slots=True)
class Scope:
    """`values` by name, nested in `Copies` where they are copied; `at`: the copy that is worked on."""

    plan: Plan
    values: Mapping[str, Any]
    at: Mapping[str, int]
    maximised: bool = False

    @property
    def program(self) -> ir.Program:
        return self.plan.program

    def having(self, values: Mapping[str, Any]) -> Scope:
        """The scope with more names, or other values for known ones."""
        return replace(self, values={**self.values, **values})

    def at_copy(self, axis: str, place: int) -> Scope:
        """The scope of one copy along an index."""
        return replace(self, at={**self.at, axis: place})

    def in_copy(self, axis: str, place: int) -> Scope:
        """The scope of one copy that a reducer closes, with noise of its own."""
        return self.at_copy(axis, place).with_noise_of(axis, place)

    def counted(self, name: str, number: int) -> Scope:
        """The scope of one number of a counter, with noise of its own."""
        return self.having({name: number}).with_noise_of(name, number)

    def folded(self, noise: ir.Noise | None) -> Scope:
        """The scope with the part of the noise that an application, or the call of a let, has."""
        return self if noise is None else self.with_noise_of(noise.place)

    def with_noise_of(self, *words: str | int) -> Scope:
        """The scope with another key of its noise, where there is any."""
        key = self.values[ir.NOISE]
        return self if key is None else self.having({ir.NOISE: fold(key, *words)})

    def read(self, name: str) -> Any:
        """The value of a name in this copy."""
        value = self.values[name]
        while isinstance(value, Copies):
            value = value.items[self.at[value.axis]]
        return value

    def size(self, axis: str) -> int:
        """The number of copies along an index."""
        value = self.values[axis]
        while isinstance(value, Copies) and value.axis != axis:
            value = value.items[self.at[value.axis]]
        return len(value.items)

    def whole(self, size: Size) -> int:
        """The number that a size stands for."""
        if isinstance(size, int):
            return size
        product = 1
        for factor in size.split("*"):
            product *= int(factor) if factor.isdigit() else int(self.values[factor])
        return product


def outermost(plan: Plan, parts: Mapping[str, Any], known: Mapping[str, Any]) -> Scope:
    """The scope of a whole recipe: its parts, its params, and solutions of levels that have ended."""
    numbers = {p.name: p.value for p in plan.program.params}
    objects = {name: _in_float64(part) for name, part in parts.items()}
    return Scope(plan, {**numbers, **objects, **known, ir.NOISE: None}, {})


def _in_float64(part: Any) -> Any:
    """A copy of a network with masks in place of its dropout; of a list of parts one of each."""
    if isinstance(part, list):
        return [_in_float64(item) for item in part]
    return with_masks(part).to(torch.float64) if isinstance(part, nn.Module) else part


def lists_of(level: ir.Level) -> tuple[str, ...]:
    """The indices of a level that run over a list of parts."""
    return tuple(i.name for i in level.indices if isinstance(i.source.type, ListType))


def every_copy(scope: Scope, axes: tuple[str, ...], function: Callable[[Scope], Any]) -> Any:
    """`function` of the scope of every copy, outermost index first; axes that are open already stay as they are."""
    missing = [a for a in axes if a not in scope.at]
    if not missing:
        return function(scope)
    count = range(scope.size(missing[0]))
    return Copies(missing[0], tuple(every_copy(scope.at_copy(missing[0], i), axes, function) for i in count))
