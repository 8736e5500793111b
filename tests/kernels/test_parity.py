"""Hypergradients by kernels are those of the emitted functions, for every mode and solver, to 1e-12 in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

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
