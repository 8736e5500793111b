"""A learned recurrent solver: forward mode through its state is reverse mode (papers/004, statement 1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from tests.modes.loops import slope
from tests.modes.tools import STORES, TOLERANCE, error, scheduled
from tests.zoo.compiled import Compiled, compile_text, hypergradient
from tests.zoo.problem import points

TEXT = """recipe recurrent
use opt = coordinate_lstm(hidden = 3)
use d = points(count = 3)
level learn {
  psi : params(opt)
  each t ~ d.all[3]
  level fit {
    w : real[3] from 0.5
    minimize 0.5 * (dot(w, t.x) - t.y)^2 + 0.1 * sum(w^4)
    by opt[psi] for 6 steps
  }
  minimize mean[t] (OBJECTIVE)
  by adam(lr = 0.01) for 2 steps
}"""
LAST = "sqnorm(w - 1)"
WEIGHTED = "sum[k in 1..6] k * sqnorm(w@k - 1)"


def unrolled(compiled: Compiled, weighted: bool) -> dict[str, Tensor]:
    """The loop in plain torch, with the same module: the gradient is fed to it as data, with its derivative."""
    module = compiled.parts["opt"]
    psi = compiled.phase.begin(compiled.key()).x
    free = {n: p.detach().clone().requires_grad_() for n, p in psi.items()}
    total = torch.zeros((), dtype=torch.float64)
    for c, y in zip(*map(torch.tensor, points(3)), strict=True):
        w = torch.full((3,), 0.5, dtype=torch.float64)
        state = module.begin(w)
        for k in range(1, 7):
            g = slope(lambda z, c=c, y=y: 0.5 * (z @ c - y) ** 2 + 0.1 * (z**4).sum(), w)  # type: ignore[misc]
            step, state = functional_call(module, free, (g, state))
            w = w - step
            total = total + k * ((w - 1) ** 2).sum() / 3 if weighted else total
        total = total if weighted else total + ((w - 1) ** 2).sum() / 3
    found = torch.autograd.grad(total, list(free.values()))
    return dict(zip(free, found, strict=True))


@pytest.mark.parametrize("mode", STORES)
def test_forward_mode_through_the_recurrent_solver_is_reverse_mode(mode: str) -> None:
    compiled = compile_text(scheduled(TEXT.replace("OBJECTIVE", LAST), fit=mode))
    found, expected = hypergradient(compiled)[1]["psi"], unrolled(compiled, weighted=False)
    assert max(error(found[n], expected[n]) for n in expected) < TOLERANCE


@pytest.mark.parametrize("mode", ("rmd", "rmd(store = residuals)"))
def test_a_weighted_sum_of_all_iterates(mode: str) -> None:
    compiled = compile_text(scheduled(TEXT.replace("OBJECTIVE", WEIGHTED), fit=mode))
    found, expected = hypergradient(compiled)[1]["psi"], unrolled(compiled, weighted=True)
    assert max(error(found[n], expected[n]) for n in expected) < TOLERANCE
