"""Every exact way to differentiate steps x every solver x every structure: one number, that of a plain loop."""

from __future__ import annotations

import pytest
import torch

from tests.modes.loops import derivative
from tests.modes.products import SOLVERS, STRUCTURES, THREE, Structure, text_of
from tests.modes.tools import STORES, TOLERANCE, gradients, scheduled, worst
from tests.zoo.compiled import compile_text, hypergradient, plan_text
from tests.zoo.problem import Problem
from tests.zoo.problems import PROBLEMS
from tests.zoo.test_problems import error


def parts(structure: Structure) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(part) for name, part in structure.parts.items()}


def pairings(structure: Structure) -> list[dict[str, str]]:
    """One mode for all levels; for two levels also each mode beside another one."""
    alone = [dict.fromkeys(structure.levels, mode) for mode in STORES]
    if len(structure.levels) == 1:
        return alone
    shifted = zip(STORES, STORES[3:] + STORES[:3], strict=True)
    return alone + [dict(zip(structure.levels, pair, strict=True)) for pair in shifted]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.name)
@pytest.mark.parametrize("solver", SOLVERS)
def test_all_modes_are_the_plain_loop(solver: str, structure: Structure) -> None:
    text = text_of(structure, solver)
    expected = derivative(structure.reference(solver), **structure.start)
    for modes in pairings(structure):
        found = gradients(scheduled(text, **modes), parts(structure))
        assert worst(found, expected) < TOLERANCE, modes


def test_the_structures_tell_solvers_apart() -> None:
    """As many derivatives as solvers: a structure that made them alike would prove nothing."""
    for structure in STRUCTURES:
        found = [derivative(structure.reference(s), **structure.start)["r"] for s in SOLVERS]
        assert len({round(float(f.sum()), 9) for f in found}) == len(SOLVERS), structure.name


def test_all_windows_of_full_length_are_exact() -> None:
    for structure in STRUCTURES:
        if structure is THREE:
            continue
        text = scheduled(text_of(structure, "adam"), **dict.fromkeys(structure.levels, "rmd(window = 7)"))
        assert plan_text(text).exactness == "exact"
        expected = derivative(structure.reference("adam"), **structure.start)
        assert worst(gradients(text, parts(structure)), expected) < TOLERANCE, structure.name


# ---- the problems with closed forms --------------------------------------------------------------------------

EXACT = [p for p in PROBLEMS if "schedule" not in p.text]


def accepted(problem: Problem, mode: str) -> dict[str, str]:
    """The inner levels of a problem that a mode can be used for; it refuses where iterates are read."""
    plan = plan_text(problem.text)
    reads = {name for name in plan.choices if plan.facts[name].iterates}
    sparse = mode == "fmd" or "checkpoint" in mode
    return {name: mode for name in plan.choices if not (sparse and name in reads)}


@pytest.mark.parametrize("problem", EXACT, ids=lambda problem: problem.name)
def test_all_modes_have_the_closed_form(problem: Problem) -> None:
    expected = problem.gradient(**problem.start) if problem.gradient is not None else problem.complex_step()
    given = {name: torch.tensor(part) for name, part in problem.parts.items()}
    for mode in STORES:
        modes = accepted(problem, mode)
        if modes:
            _, found = hypergradient(compile_text(scheduled(problem.text, **modes), given))
            assert max(error(found[n].numpy(), expected[n]) for n in expected) < TOLERANCE, mode
