"""Our own side of a workload: a recipe compiled, its hypergradient with and without kernels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import parts
from benchmarks.workload import Numbers, Work

if TYPE_CHECKING:
    from bilevel.compiling import Asked


def own(text: str, kernels: Asked, dtype: str = "float32") -> Work:
    """One hypergradient at the start of the last level of a recipe given as text.

    `before`: seconds until the recipe is compiled, and of the first hypergradient, which makes the kernels.
    """
    import bilevel
    from bilevel.backends.torch_func.keyed import make_key
    from bilevel.recipe import parse

    began = time.perf_counter()
    program = bilevel.compile(
        parse(text, "benchmark.bl"), registry=[parts], compile=kernels, dtype=getattr(torch, dtype)
    )
    ready = time.perf_counter()
    phase, key = program.phases[-1], make_key(0)
    state = phase.begin(key)

    def run() -> Any:
        with torch.no_grad():
            gradient, _ = phase.hypergradient(state, key)
        return gradient

    run()
    return Work(run, _numbers, {"compile": ready - began, "first": time.perf_counter() - ready})


def _numbers(gradient: Any) -> list[Numbers]:
    from bilevel.backends.torch_func.tree import leaves

    return [leaf.detach().cpu().numpy() for leaf in leaves(gradient)]
