"""In float32 all is float32: hypergradients, variables and solvers' states, whatever numbers the recipe writes.

Of a scalar times a Python number torch makes a tangent of float64, in which tests in float64 see nothing.
"""

from __future__ import annotations

import pytest
import torch

import bilevel
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.trace.compilers import Kind
from bilevel.backends.torch_func.tree import leaves

TEXT = """recipe numbers
level tune {
  a : real from 0.7
  b : real in positive from 0.3
  s : real from 0.2
  each t ~ normal(0, 1)[3]
  level fit {
    w : real from 0.5 * s
    v : real[2] from 1
    minimize 0.5 * a * w^2 + 0.3 * (w - 2 * s * t)^2 + 0.25 * sum(b * 0.4 * v^2) + 0.5 * sqnorm(v - 0.1 * w)
    by SOLVER for 4 steps
  }
  minimize mean[t] (0.5 * (w - 0.3)^2 + 0.2 * sum(v^2) * b + 0.1 * a^2)
  by OUTER for 3 steps
}
schedule { fit : MODE }"""
MODES = (
    "rmd", "rmd(store = residuals)", "rmd(store = gradients)", "rmd(checkpoint = 2)",
    "rmd(checkpoint = 2, store = residuals)", "rmd(checkpoint = binomial)", "rmd(window = 2)", "rmd(order = 1)",
    "rmd(window = 2, update = each)", "rmd(window = 2, order = 1, update = each)", "fmd", "ift(linear = cg(steps = 5))",
    "ift(linear = neumann(terms = 5, scale = 0.3))", "ift(linear = gmres(steps = 5))", "ift(linear = exact)",
    "ift(linear = nystrom(rank = 2))", "leap(teacher = 1, gamma = 0.6)",
)  # fmt: skip
SOLVERS = ("sgd(lr = 0.05 * b, momentum = 0.5)", "adam(lr = 0.1)")


def kinds(tree: object) -> set[torch.dtype]:
    return {leaf.dtype for leaf in leaves(tree)}


def stepped(text: str, dtype: torch.dtype, kernels: Kind) -> tuple[list[torch.Tensor], set[torch.dtype]]:
    """The hypergradient at the start, and the types of it, of the objective, and of the state after two steps."""
    program = bilevel.compile(bilevel.parse(text), dtype=dtype, compile=kernels)
    phase, key = program.phases[-1], make_key(0)
    state = phase.begin(key)
    with torch.no_grad():
        gradient, _ = phase.hypergradient(state, key)
        for _ in range(2):
            state, value = phase.step(state, key)
    return leaves(gradient), kinds(gradient) | kinds((state.x, state.solver, state.ends)) | {value.dtype}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mode", MODES)
def test_everything_is_of_the_type_that_was_asked_for(mode: str, solver: str) -> None:
    text = TEXT.replace("MODE", mode).replace("SOLVER", solver)
    if mode.startswith("ift"):  # a start and a rate have no gradient there
        text = text.replace("* b, mom", ", mom")
    text = text.replace("OUTER", "adam(lr = 0.05)" if "adam" in solver else "sgd(lr = 0.1)")
    exact, _ = stepped(text, torch.float64, "none")
    both: tuple[Kind, ...] = ("none", "fx") if mode in ("rmd", "ift(linear = cg(steps = 5))") else ("none",)
    for kernels in both:
        found, seen = stepped(text, torch.float32, kernels)
        assert seen == {torch.float32}
        for one, other in zip(found, exact, strict=True):
            assert float((one.double() - other).abs().max()) < 1e-4 * max(1.0, float(other.abs().max()))
