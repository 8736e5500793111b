"""Pairs, `each p in pairs`: networks and data that differ together, under one outer level."""

from __future__ import annotations

import pytest
import torch

from bilevel.errors import RecipeError
from tests.language.quotients import quotient_error
from tests.zoo.compiled import build, compile_text, hypergradient, plan_text

HALVES = ["net = mlp(3, 1), data = points(count = 4)", "net = mlp(3, 2, 1), data = points(count = 6)"]
BODY = """
level learn {
    a : real from 0.5
    OPEN
    level fit {
        w : params(P.net) from 0.1
        minimize mean((P.net[w](P.data.all.x) - 1)^2) + a^2 * sqnorm(w)
        by sgd(lr = 0.1, momentum = a) for 3 steps
    }
    minimize REDUCE mean((P.net[w](P.data.all.x))^2) + a^3
    by sgd(lr = 0.1) for 2 steps
}
"""
PAIRS = (
    "recipe pairs\nuse pairs = ["
    + ", ".join(f"pair({half})" for half in HALVES)
    + "]"
    + BODY.replace("OPEN", "each p in pairs").replace("REDUCE", "mean[p]").replace("P.", "p.")
)


def alone(half: str) -> str:
    """The recipe of one of the two pairs."""
    net, data = half.split(", data")
    uses = f"recipe alone\nuse {net}\nuse data{data}\n"
    return uses + BODY.replace("OPEN", "").replace("REDUCE", "").replace("P.", "")


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(checkpoint = sqrt)", "rmd(store = residuals)"])
def test_pairs_are_the_mean_of_the_recipes_of_each(mode: str) -> None:
    value, gradient = hypergradient(compile_text(f"{PAIRS}schedule {{ fit : {mode} }}"))
    singles = [hypergradient(compile_text(alone(half))) for half in HALVES]
    assert abs(value - sum(v for v, _ in singles) / 2) < 1e-14
    expected = sum(g["a"] for _, g in singles) / 2
    assert torch.allclose(gradient["a"], expected, rtol=1e-12)


FINE_TUNER = """recipe fine_tuner
use opt   = coordinate_lstm(hidden = 3)
use pairs = [
    pair(net = mlp(1, 4, 1), tasks = sine(amplitude = [0.1, 5.0], phase = [0, 3.1416], shots = 4, queries = 3)),
    pair(net = mlp(1, 3, 2, 1, dropout = 0.2), tasks = sine(amplitude = [0.5, 1.0], phase = [0, 1], shots = 5, queries = 6))
]
level learn {
    psi : params(opt)
    each p in pairs
    each task ~ p.tasks.train[2]
    let L(w, d) = mean(mse(p.net[w](d.x), d.y))
    level fit {
        w : params(p.net)
        minimize L(w, task.support)
        by opt[psi] for 2 steps
    }
    minimize mean[p, task] sum[k in 1..2] L(w@k, task.query)
    by adam(lr = 1e-3) for 3 steps
    report val = mean[p, task] L(w, task.query) with task ~ p.tasks.val[5] every 1 steps
}
"""
WINDOWS = "schedule { fit : rmd(window = 1, update = each) }\n"


def test_a_learned_solver_fine_tunes_networks_on_their_own_tasks() -> None:
    """Table 2 of papers/004: networks and data sets differ, the learned solver is one."""
    assert quotient_error(compile_text(FINE_TUNER), directions=1) < 1e-6


def test_windows_and_reports_run_over_pairs() -> None:
    compiled = compile_text(FINE_TUNER + WINDOWS)
    phase, key = compiled.phase, compiled.key()
    state = phase.begin(key)
    assert 0 < phase.reports["val"][1](state, key).item() < 100
    for _ in range(2):
        state, value = phase.step(state, key)
        assert torch.isfinite(value)
    assert state.step == 2


def test_a_pair_alone_needs_no_list() -> None:
    text = (
        PAIRS.replace("[pair(", "pair(", 1).split(", pair(")[0]
        + "\n"
        + BODY.replace("OPEN", "").replace("REDUCE", "").replace("P.", "pairs.")
    )
    value, gradient = hypergradient(compile_text(text))
    expected, slope = hypergradient(compile_text(alone(HALVES[0])))
    assert abs(value - expected) < 1e-14
    assert torch.allclose(gradient["a"], slope["a"], rtol=1e-12)


def test_the_caller_may_give_other_pairs() -> None:
    plan = plan_text(PAIRS)
    own = build(plan).parts["pairs"]
    value, _ = hypergradient(build(plan, {"pairs": [own[1], own[1]]}))
    expected, _ = hypergradient(compile_text(alone(HALVES[1])))
    assert abs(value - expected) < 1e-14


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("p.nett[w]", "p.net[w]", r"B206\]: `p` has no field `nett`"),
        ("p.data.al.x", "p.data.all.x", r"B206\]: `p.data` has no field `al`"),
        ("params(p.nett)", "params(p.net)", r"B206\]: `p` has no field `nett`"),
        ("params(p.data)", "params(p.net)", r"B310\]: `p.data` is record"),
        ("pair(mlp(3, 1), data", "pair(net = mlp(3, 1), data", r"B309\]: a part of `pair` has no name"),
        ("pair(data = mlp(3, 1), data", "pair(net = mlp(3, 1), data", r"B117\]: `data =` is given twice"),
        ("[pair()", "[pair(net = mlp(3, 1), data = points(count = 4))", r"B309\]: `pair` has no parts"),
        ("net = mlq(3, 2, 1)", "net = mlp(3, 2, 1)", r"B602\]: nothing called `mlq` is registered"),
    ],
)
def test_what_is_wrong_with_a_pair_is_said(wrong: str, right: str, message: str) -> None:
    assert right in PAIRS
    with pytest.raises(RecipeError, match=message):
        plan_text(PAIRS.replace(right, wrong))


def test_a_field_that_only_one_pair_has_is_no_field_of_the_list() -> None:
    with pytest.raises(RecipeError, match=r"B206\]: `p` has no field `data`"):
        plan_text(PAIRS.replace("data = points(count = 6)", "more = points(count = 6)"))
