"""Our own side of a workload: a recipe compiled, its hypergradient with and without kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import deep_parts, parts
from benchmarks.workload import Numbers, Work

if TYPE_CHECKING:
    from bilevel.compiling import Asked


def own(text: str, kernels: Asked, dtype: str = "float32") -> Work:
    """One hypergradient at the start of the last level of a recipe given as text.

    `before`: seconds until the recipe is compiled; the first hypergradient makes the kernels.
    """
    from bilevel.backends.torch_func.tree import leaves

    def once(phase: Any, state: Any, key: Any) -> Any:
        gradient, _ = phase.hypergradient(state, key)
        return [leaf.detach().cpu().numpy() for leaf in leaves(gradient)]

    return _work(text, kernels, dtype, once)


def searched(text: str, kernels: Asked) -> Work:
    """One generation of the last level of a recipe given as text; its numbers are the values of the population."""

    def once(phase: Any, state: Any, key: Any) -> Any:
        after, _ = phase.step(state, key)
        return [after.solver.told[-1].cpu().numpy()]

    return _work(text, kernels, "float32", once)


def _work(text: str, kernels: Asked, dtype: str, once: Callable[[Any, Any, Any], list[Numbers]]) -> Work:
    import bilevel
    from bilevel.backends.torch_func.keyed import make_key
    from bilevel.recipe import parse

    device = torch.get_default_device()
    torch.set_default_device(None)  # what is emitted names its device everywhere
    began = time.perf_counter()
    recipe, typed = parse(text, "benchmark.bl"), getattr(torch, dtype)
    program = bilevel.compile(recipe, registry=[parts, deep_parts], compile=kernels, dtype=typed, device=device)
    ready = time.perf_counter()
    phase, key = program.phases[-1], make_key(0, program.parts.device)
    state = phase.begin(key)

    def run() -> list[Numbers]:
        with torch.no_grad():
            return once(phase, state, key)

    return Work(run, lambda found: found, {"compile": ready - began})
