"""What the tests of modes share: a recipe under some schedule, its hypergradient, and the error of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import RecipeError
from bilevel.plan import Plan
from tests.zoo.compiled import Compiled, compile_text, hypergradient, plan_text

TOLERANCE = 1e-9
STORES = (
    "rmd",
    "rmd(store = iterates)",
    "rmd(checkpoint = 3)",
    "rmd(checkpoint = sqrt)",
    "rmd(checkpoint = binomial)",
    "rmd(checkpoint = auto)",
    "rmd(store = residuals)",
    "rmd(checkpoint = 3, store = residuals)",
    "rmd(checkpoint = sqrt, store = residuals)",
    "fmd",
)


def scheduled(text: str, **modes: str) -> str:
    """A recipe with a schedule: one mode for each level named."""
    lines = "\n".join(f"  {level} : {mode}" for level, mode in modes.items())
    return f"{text.rstrip()}\nschedule {{\n{lines}\n}}\n"


def gradients(text: str, given: Mapping[str, Any] | None = None, seed: int = 0) -> dict[str, Tensor]:
    """The hypergradient of the last outermost level at its start, by name."""
    return hypergradient(compile_text(text, given), seed)[1]


def notes(compiled: Compiled) -> dict[str, float]:
    """The residuals that one step reports."""
    key = compiled.key()
    state, _ = compiled.phase.step(compiled.phase.begin(key), key)
    return {name: float(value) for name, value in state.notes.items()}


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest entry expected (or to 1e-6 where that is smaller)."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert bool(torch.isfinite(found).all())
    return float((found - expected).abs().max() / max(float(expected.abs().max()), 1e-6))


def worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest error over all variables."""
    assert found.keys() == expected.keys()
    return max(error(found[name], expected[name]) for name in expected)


def codes(text: str) -> list[str]:
    """The codes of the errors that planning a recipe raises."""
    try:
        plan_text(text)
    except RecipeError as refused:
        return [d.code for d in refused.diagnostics]
    return []


def plan_of(text: str) -> Plan:
    return plan_text(text)
