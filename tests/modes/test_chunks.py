"""Copies a few at a time: the same numbers whatever the size of the chunk, less memory, and what it cannot be used for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.live_bytes import peak_bytes
from bilevel.backends.torch_func.tree import leaves
from bilevel.errors import RecipeError
from tests.zoo.compiled import Compiled, compile_text, hypergradient, plan_text

TEXT = """recipe tiny
use net = mlp(1, 4, 1)
use tasks = sine(shots = 3, queries = 3)
level meta {
  theta : params(net)
  each task ~ tasks.train[5]
  level adapt {
    w : params(net) from START
    b ~ task.support[2]
    minimize mean(mse(net[w](b.x), b.y)) + 0.3 * sqnorm(w - theta)
    by sgd(lr = 0.05) DURATION
  }
  minimize 0.5 * mean[task] mean(mse(net[w](task.query.x), task.query.y)) + 0.1 * sqnorm(theta)
  by adam(lr = 1e-3) for 3 steps
  report test = mean[task] mean(mse(net[w](task.query.x), task.query.y))
}
schedule { adapt : MODE
LINE }
"""
LINES = ("task : vmap(chunk = 2)", "task : vmap(chunk = 3)", "task : loop")
MODES = {
    "rmd": "for 4 steps",
    "rmd(store = residuals)": "for 4 steps",
    "rmd(checkpoint = 2)": "for 4 steps",
    "fmd": "for 4 steps",
    "ift": "until stationary(1e-9) within 900 steps",
    "leap(teacher = 1, keep = 3, hull = mean, gamma = 0.9)": "for 4 steps",
}


def text(mode: str, line: str, start: str = "theta") -> str:
    made = TEXT.replace("MODE", mode).replace("LINE", line).replace("DURATION", MODES.get(mode, "for 4 steps"))
    made = made.replace("START", start)
    made = made.replace("0.3 *", "3 *") if mode == "ift" else made
    # A stationary point needs an objective that stays the same, and here a convex one.
    return (
        made.replace("    b ~ task.support[2]\n", "").replace("(b.x), b.y", "(task.support.x), task.support.y")
        if (mode == "ift")
        else made
    )


def flat(compiled: Compiled) -> Tensor:
    value, gradient = hypergradient(compiled)
    return torch.cat([torch.as_tensor(value).reshape(1), *(leaf.flatten() for leaf in leaves(gradient))])


CASES = [(mode, "theta", "") for mode in MODES] + [("rmd", "init(net)", ""), ("rmd", "theta", ", dropout = 0.3")]


@pytest.mark.parametrize(("mode", "start", "more"), CASES)
def test_hypergradients_do_not_depend_on_the_chunks(mode: str, start: str, more: str) -> None:
    """Starts, batches and noise are drawn for every copy by its number among all."""

    def found(line: str) -> Tensor:
        return flat(compile_text(text(mode, line, start).replace("mlp(1, 4, 1", f"mlp(1, 4, 1{more}")))

    whole = found("")
    assert whole[1:].abs().max() > 1e-3
    for line in LINES:
        torch.testing.assert_close(found(line), whole, rtol=1e-9, atol=1e-12)


def test_steps_and_reports_do_not_depend_on_the_chunks() -> None:
    found = []
    for line in ("", *LINES[:1]):
        compiled = compile_text(text("rmd", line))
        state = compiled.phase.begin(compiled.key())
        for _ in range(2):
            state, _ = compiled.phase.step(state, compiled.key())
        report = compiled.phase.reports["test"][1](state, compiled.key())
        found.append(torch.cat([report.reshape(1), *(leaf.flatten() for leaf in leaves(state.x))]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["rmd", "rmd(store = residuals)", "fmd"])
def test_memory_is_that_of_a_chunk(mode: str) -> None:
    peaks = {}
    for line in ("", "task : vmap(chunk = 2)", "task : loop"):
        made = text(mode, line).replace("train[5]", "train[16]")
        compiled = compile_text(made)
        state = compiled.phase.begin(compiled.key())
        peaks[line] = peak_bytes(lambda c=compiled, s=state: c.phase.hypergradient(s, c.key()))  # type: ignore[misc]
    assert peaks["task : loop"] < peaks["task : vmap(chunk = 2)"] < 0.4 * peaks[""]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("0.5 * mean[task]", "0.5 * sum[task]", "is not a mean over `task`"),
        ("0.5 * mean[task]", "max[task]", "is not a mean over `task`"),
        ("adapt : rmd", "adapt : rmd(window = 2, update = each)", "carries on from step to step"),
        ("adam(lr = 1e-3) for 3 steps", "cmaes(sigma = 0.1, population = 4) for 2 generations", "a search compares"),
    ],
)
def test_what_chunks_cannot_be_used_for_is_said(old: str, new: str, why: str) -> None:
    made = text("rmd", "task : vmap(chunk = 2)")
    assert old in made
    made = made.replace("adapt : rmd\n", "") if "cmaes" in new else made
    with pytest.raises(RecipeError) as caught:
        plan_text(made.replace(old, new))
    found = caught.value.diagnostics[0]
    assert found.code == "B507"
    assert why in found.why


def test_a_chunk_is_a_whole_number() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_text(text("rmd", "task : vmap(chunk = 0)"))
    assert caught.value.diagnostics[0].code == "B506"
