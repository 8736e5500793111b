"""Memory grows with the number of steps as each mode says: linearly, as a root, or not at all."""

from __future__ import annotations

import pytest
import torch

from benchmarks.live_bytes import peak_bytes
from benchmarks.memory_growth import adaptations, measure

STEPS = (9, 36, 144)
LINEAR = ("rmd", "rmd(store = residuals)")
FLAT = ("fmd, one number", "leap(gamma = 0.9)", "leap(teacher = 1, keep = 3)", "rmd(window = 4)", "forward only")


def test_the_counter_counts_what_is_alive() -> None:
    def passing() -> torch.Tensor:
        x = torch.ones(1000, dtype=torch.float64)
        for _ in range(10):
            x = x * 2
        return x

    def holding() -> list[torch.Tensor]:
        found = [torch.ones(1000, dtype=torch.float64)]
        for _ in range(10):
            found.append(found[-1] * 2)
        return [f.view(10, 100) for f in found]  # views hold no storage of their own

    assert peak_bytes(passing) == 2 * 8000
    assert peak_bytes(holding) == 11 * 8000


@pytest.mark.parametrize("mode", LINEAR)
def test_storing_all_is_linear(mode: str) -> None:
    assert 0.95 < measure(mode, STEPS, width=8).exponent < 1.05


def test_root_many_checkpoints_grow_as_a_root() -> None:
    assert 0.4 < measure("rmd(checkpoint = sqrt)", (16, 64, 256), width=8).exponent < 0.6


@pytest.mark.parametrize("mode", FLAT)
def test_these_do_not_grow(mode: str) -> None:
    peak = measure(mode, STEPS, width=8).peak
    assert max(peak) <= 1.01 * min(peak)


def test_a_long_leap_costs_what_a_short_one_does() -> None:
    one, twenty = measure("leap(gamma = 0.9)", (1, 20), width=8).peak
    assert twenty == pytest.approx(one, rel=0.2)


def test_adaptations_leave_nothing_behind() -> None:
    assert adaptations(30, 4, 8) == pytest.approx(adaptations(2, 4, 8), rel=0.02)
