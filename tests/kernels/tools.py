"""Emitted modules built with kernels in place of their marked functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bilevel.backends.torch_func.trace import graph
from bilevel.backends.torch_func.trace.compilers import Kind
from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.backends.torch_func.trace.signature import flatten
from tests.zoo.compiled import Compiled


def with_kernels(
    compiled: Compiled, kind: Kind = "fx", dtype: torch.dtype = torch.float64
) -> tuple[tuple[Any, ...], Kernels]:
    """The outermost levels of a compiled recipe, with kernels."""
    kernels = Kernels(kind, dtype, torch.device("cpu"))
    return compiled.module.build(*compiled.parts.values(), dtype=dtype, kernels=kernels), kernels


def graph_of(function: Callable[..., Any], *arguments: Any, least: float = 1e-300) -> Traced:
    """The graph of a function in float64, after a check: its results are those of the function, and contiguous.

    `least`: the norm below which differences count as those of a result of this norm.
    """
    given = list[Any]()
    flatten(arguments, given)
    made = graph.trace(function, arguments, given, torch.float64)
    results = made.module(*[given[place] for place in made.inputs])
    found = [given[place] if is_given else results[place] for is_given, place in made.sources]
    expected = list[Any]()
    flatten(function(*arguments), expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.is_contiguous()
        assert float((a - b).norm()) <= 1e-12 * max(float(b.norm()), least)
    return made
