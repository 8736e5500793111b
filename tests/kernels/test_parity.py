"""Hypergradients by kernels are those of the emitted functions, for every mode and solver, to 1e-12 in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.trace import parity
from bilevel.backends.torch_func.tree import leaves
from tests.kernels.tools import with_kernels
from tests.modes.products import SOLVERS, STRUCTURES, Structure, text_of
from tests.modes.tools import STORES, scheduled
from tests.zoo.compiled import Compiled, compile_text, hypergradient
from tests.zoo.problem import Problem
from tests.zoo.problems import PROBLEMS


def off(compiled: Compiled) -> tuple[float, list[str]]:
    """The largest relative difference of a hypergradient by kernels, and the kernels that were made."""
    phases, kernels = with_kernels(compiled)
    with torch.no_grad():
        plain, traced = hypergradient(compiled), hypergradient(replace(compiled, phases=phases))
        again = hypergradient(replace(compiled, phases=phases))
    assert all(torch.equal(a, b) for a, b in zip(leaves(traced[1]), leaves(again[1]), strict=True))
    pairs = zip(leaves(plain[1]), leaves(traced[1]), strict=True)
    found = max(float((a - b).norm() / a.norm()) if a.norm() > 0 else float(b.norm()) for a, b in pairs)
    return max(found, abs(plain[0] - traced[0]) / abs(plain[0])), [m.name for m in kernels.made if m.run is not None]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_problems_with_closed_forms(problem: Problem) -> None:
    difference, names = off(compile_text(problem.text, {n: torch.tensor(part) for n, part in problem.parts.items()}))
    assert difference < 1e-12
    assert names


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.name)
@pytest.mark.parametrize("place", range(len(STORES)), ids=lambda place: STORES[place])
def test_every_mode_with_some_solver(place: int, structure: Structure) -> None:
    """Each mode and each structure, with the solvers in turn: together every pairing of a mode and a solver."""
    solver = list(SOLVERS)[(place + STRUCTURES.index(structure)) % len(SOLVERS)]
    text = scheduled(text_of(structure, solver), **dict.fromkeys(structure.levels, STORES[place]))
    difference, names = off(compile_text(text, {name: torch.tensor(part) for name, part in structure.parts.items()}))
    assert difference < 1e-12
    assert names


def counted(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Sums with a jump where a product of many numbers is 0, as the derivative of a rectifier has."""
    x, weight = inputs
    return [(x @ weight > 0).to(x.dtype) @ x]


def jumping(near: float) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Inputs of `counted` with one product as near to 0 as this, what it gives, and that with this product across 0."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(200, 30, generator=generator), torch.randn(30, generator=generator)
    x[7] -= (x[7] @ weight - near) / (weight @ weight) * weight
    across = (x @ weight > 0).to(x.dtype)
    across[7] = 1 - across[7]
    return [x, weight], counted([x, weight]), [across @ x]


def test_what_is_within_rounding_of_a_jump_may_be_across_it() -> None:
    inputs, expected, found = jumping(2e-6)
    assert parity.differences(expected, found)[0] > 1e-3
    assert parity.worst(counted, inputs, expected, found) is None


def test_what_is_away_from_a_jump_may_not() -> None:
    inputs, expected, found = jumping(1e-3)
    off = parity.worst(counted, inputs, expected, found)
    assert off is not None and off > 1e-3
