"""Section 10 of the design, sentence by sentence: each recipe runs, and what it says is what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bilevel.errors import RecipeError
from tests.language.quotients import quotient_error
from tests.zoo.compiled import Compiled, compile_text, hypergradient, plan_text
from tests.zoo.problem import points

A = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def top(compiled: Compiled) -> Tensor:
    gradient = compiled.phase.hypergradient(compiled.phase.begin(compiled.key()), compiled.key())[0]
    assert isinstance(gradient, Tensor)
    return gradient


# ---- arrays of trees -----------------------------------------------------------------------------------------

TREES = """recipe trees
use net = mlp(3, 4, 1)
use d = points(count = 4)
param n = 2
level top {
    lam : real from 0.1
    each t ~ d.all[2]
    level fit {
        z : params(net)[n] from START
        minimize mean[k in 0..1] mean((net[z[k]](d.all.x) - k * t.y)^2) + lam * sqnorm(z)
        by adam(lr = 0.05) for 3 steps
    }
    minimize mean[t] (mean((net[z[0]](t.x) - 1)^2) + sqnorm(z[1]))
    by sgd(lr = 0.1) for 2 steps
}
"""


@pytest.mark.parametrize("start", ["init(net)", "normal(0, 0.5)", "0.2 + lam"])
def test_an_array_of_trees_is_so_many_trees(start: str) -> None:
    assert quotient_error(compile_text(TREES.replace("START", start))) < 1e-6


def test_the_trees_of_an_array_start_apart() -> None:
    text = """recipe apart
use net = mlp(3, 4, 1)
level top {
    z : params(net)[2, 3]
    minimize sqnorm(z) + sqnorm(z[1, 2])
    by sgd(lr = 0.1) for 1 steps
}
"""
    compiled = compile_text(text)
    state = compiled.phase.begin(compiled.key())
    weight = state.x["hidden.0.weight"]
    assert weight.shape == (2, 3, 4, 3)
    assert len({tuple(one.flatten().tolist()) for pair in weight for one in pair}) == 6
    gradient, _ = compiled.phase.hypergradient(state, compiled.key())
    expected = 2 * weight
    expected[1, 2] *= 2
    assert torch.allclose(gradient["hidden.0.weight"], expected, rtol=1e-14)


def test_one_tree_is_no_start_of_several() -> None:
    text = TREES.replace("lam : real from 0.1", "lam : real from 0.1\n    w : params(net)").replace("START", "w")
    with pytest.raises(RecipeError, match=r"B303\]: `z` is params\(net\)\[2\] and cannot start from params\(net\)"):
        plan_text(text.replace("sqnorm(z[1])", "sqnorm(z[1]) + sqnorm(w)"))


# ---- index ---------------------------------------------------------------------------------------------------

WEIGHTS = """recipe weights
use d = points(count = 6)
let L(s, w, b) = mean(s[b.index] * (dot(b.x, w) - b.y)^2)
level top {
    s : real[6] from 0.5
    level fit {
        w : real[3] from 0.1
        b ~ d.all[3]
        minimize L(s, w, SOURCE)
        by sgd(lr = 0.1) for 3 steps
    }
    minimize mean((dot(d.all.x, w) - d.all.y)^2)
    by sgd(lr = 0.1) for 2 steps
}
"""


@pytest.mark.parametrize("source", ["b", "d.all"])
def test_the_position_in_a_source_is_a_field(source: str) -> None:
    assert quotient_error(compile_text(WEIGHTS.replace("SOURCE", source))) < 1e-6


def test_the_positions_of_a_source_are_in_order() -> None:
    text = "recipe all\nuse d = points(count = 6)\nuse A : real[6]\nlevel top {\n    s : real[6] from A\n"
    text += "    minimize sum(s[d.all.index]^2 * d.all.y)\n    by sgd(lr = 0.1) for 1 steps\n}\n"
    given = torch.arange(6, dtype=torch.float64)
    gradient = top(compile_text(text, {"A": given}))
    assert torch.allclose(gradient, 2 * given * torch.tensor(points(6)[1]), rtol=1e-14)


# ---- unions --------------------------------------------------------------------------------------------------

UNION = """recipe union
use net = mlp(3, 4, 1)
use d = points(count = 4)
let L(w, d) = mean((net[w](d.x) - 1)^2)
level top {
    theta : params(net, only = "hidden")
    level fit {
        phi : params(net, only = "output")
        minimize GROUPS
        by sgd(lr = 0.1) for 2 steps
    }
    minimize GROUPS
    by sgd(lr = 0.1) for 2 steps
}
"""


def test_a_list_of_groups_is_their_union() -> None:
    joined = compile_text(UNION.replace("GROUPS", "L([theta, phi], d.all)"))
    apart = compile_text(UNION.replace("GROUPS", "mean((net[theta, phi](d.all.x) - 1)^2)"))
    assert quotient_error(joined) < 1e-6
    (value, found), (expected, slopes) = hypergradient(joined), hypergradient(apart)
    assert value == expected
    assert all(torch.equal(found["theta"][n], slopes["theta"][n]) for n in slopes["theta"])


# ---- reducers ------------------------------------------------------------------------------------------------

REDUCED = """recipe reduced
use d = points(count = 4)
level top {
    x : real[3] from 0.3
    each t in d.all
    SENSE REDUCER[t] (dot(t.x, x) - t.y)^2 + 2 * sum(x)
    by sgd(lr = 0.1) for 2 steps
}
"""
KINDS = {
    ("minimize", "mean"): np.mean,
    ("minimize", "sum"): np.sum,
    ("minimize", "max"): np.max,
    ("minimize", "min"): np.min,
    ("minimize", "worst"): np.max,
    ("maximize", "worst"): np.min,
}


@pytest.mark.parametrize(("sense", "reducer"), KINDS)
def test_a_reducer_stops_at_a_sum_and_worst_depends_on_the_sense(sense: str, reducer: str) -> None:
    compiled = compile_text(REDUCED.replace("SENSE", sense).replace("REDUCER", reducer))
    x, y = points(4)
    losses = (x @ np.full(3, 0.3) - y) ** 2
    expected = KINDS[sense, reducer](losses) + 2 * 0.9
    value, _ = hypergradient(compiled)
    assert abs(value - expected) < 1e-14
    assert quotient_error(compiled) < 1e-6


ITERATES = """recipe iterates
use A : real[3]
level top {
    x : real[3] from 0.3
    level fit {
        w : real[3] from x
        minimize sqnorm(w - A) + sum(w^3)
        by sgd(lr = 0.05) for 4 steps
    }
    minimize sum[k in 1..4] k * sqnorm(w@k) + mean[k in 0..3] sum(w@(k+1) * w@k) - max[k in 0..4] sum(w@k)
    by sgd(lr = 0.1) for 2 steps
}
"""


def test_reducers_count_iterates() -> None:
    compiled = compile_text(ITERATES, {"A": A})
    a, w = A.numpy(), [np.full(3, 0.3)]
    for _ in range(4):
        w.append(w[-1] - 0.05 * (2 * (w[-1] - a) + 3 * w[-1] ** 2))
    expected = sum(k * (w[k] ** 2).sum() for k in range(1, 5))
    expected += np.mean([(w[k + 1] * w[k]).sum() for k in range(4)]) - max(v.sum() for v in w)
    assert abs(hypergradient(compiled)[0] - expected) < 1e-12
    assert quotient_error(compiled) < 1e-6


# ---- counters ------------------------------------------------------------------------------------------------

COUNTER = """recipe counter
use A : real[3]
level top {
    x : real[3] from 0.3
    level fit {
        w : real[3] from x
        let c = k^2
        e ~ normal(k, 0)[3]
        level deep {
            u : real[3] from 0.1 * k
            minimize sqnorm(u - w * k)
            by sgd(lr = 0.1) for 1 steps
        }
        minimize sqnorm(w - A - e) / c + dot(u, w)
        by sgd(lr = 0.05 / k) for k in 2..4 steps
    }
    minimize sqnorm(w)
    by sgd(lr = 0.1) for 2 steps
}
"""


def test_a_counter_is_in_sight_of_all_that_its_level_does() -> None:
    """Steps 2, 3, 4: lets, draws, inner levels (their start and objective), objective and rate see the number."""
    compiled = compile_text(COUNTER, {"A": A})
    a, w = A.numpy(), np.full(3, 0.3)
    for k in (2, 3, 4):
        u = 0.1 * k - 0.1 * 2 * (0.1 * k - w * k)
        gradient = 2 * (w - a - k) / k**2 + u + 0.2 * k * w
        w = w - 0.05 / k * gradient
    assert abs(hypergradient(compiled)[0] - (w**2).sum()) < 1e-12
    assert quotient_error(compiled) < 1e-6


def test_a_counter_is_not_in_sight_of_the_start() -> None:
    with pytest.raises(RecipeError, match=r"B202\]: `k` is out of sight in a start of level `fit`"):
        plan_text(COUNTER.replace("w : real[3] from x", "w : real[3] from x * k"))


# ---- lists as sizes ------------------------------------------------------------------------------------------

GROUPS = """recipe groups
use groups = [points(count = 2), points(count = 3), points(count = 4)]
use net = mlp(3, 2, 1)
let loss(g, x) = mean((dot(g.all.x, x) - g.all.y)^2)
level top {
    q : real[groups] in positive from 0.5
    x : real[3] from 0.2
    z : params(net)[groups]
    EACH
    level fit {
        w : real[3] from x
        minimize OPEN q[g]^2 * loss(g, w) + sqnorm(w - x)
        by sgd(lr = 0.1) for 2 steps
    }
    minimize CLOSE (q[g] * loss(g, w) + mean((net[z[g]](g.all.x))^2))
    by sgd(lr = 0.1) for 2 steps
}
"""


def test_an_index_over_a_list_subscripts_the_axis_of_its_length() -> None:
    compiled = compile_text(GROUPS.replace("EACH", "each g in groups").replace("OPEN", "").replace("CLOSE", "mean[g]"))
    assert quotient_error(compiled) < 1e-6
    values, net = [], compiled.parts["net"]
    state = compiled.phase.begin(compiled.key())
    for place, count in enumerate((2, 3, 4)):
        x, y = points(count)
        w = np.full(3, 0.2)
        for _ in range(2):
            w = w - 0.1 * (0.25 * 2 * (x.T @ (x @ w - y)) / count + 2 * (w - 0.2))
        own = {name: leaf[place] for name, leaf in state.x[2].items()}
        scores = torch.func.functional_call(net, own, (torch.tensor(x),))
        values.append(0.5 * ((x @ w - y) ** 2).mean() + (scores**2).mean().item())
    assert abs(hypergradient(compiled)[0] - np.mean(values)) < 1e-12


def test_a_reducer_may_open_a_list_itself() -> None:
    text = GROUPS.replace("EACH", "").replace("OPEN", "mean[g in groups]").replace("CLOSE", "sum[g in groups]")
    compiled = compile_text(text)
    assert quotient_error(compiled) < 1e-6
    w = np.full(3, 0.2)
    data = [points(count) for count in (2, 3, 4)]
    for _ in range(2):
        slopes = [0.25 * 2 * (x.T @ (x @ w - y)) / len(y) for x, y in data]
        w = w - 0.1 * (np.mean(slopes, 0) + 2 * (w - 0.2))
    gradient = compiled.phase.hypergradient(compiled.phase.begin(compiled.key()), compiled.key())[0][0]
    assert gradient.shape == (3,)
    without_nets = compile_text(text.replace(" + mean((net[z[g]](g.all.x))^2)", " + 0 * sqnorm(z[g])"))
    expected = sum(0.5 * ((x @ w - y) ** 2).mean() for x, y in data)
    assert abs(hypergradient(without_nets)[0] - expected) < 1e-12


def test_an_element_is_no_position_in_another_axis() -> None:
    text = GROUPS.replace("EACH", "each g in groups").replace("OPEN", "").replace("CLOSE", "mean[g]")
    with pytest.raises(RecipeError, match=r"B303\]: `i` is record"):
        plan_text(
            text.replace("let loss(g, x) =", "let part(a, i) = a[i]\nlet loss(g, x) =").replace(
                "q[g] *", "part(q, g) *"
            )
        )


def test_the_size_of_an_array_of_trees_is_all_its_numbers() -> None:
    from bilevel.binding import bind
    from bilevel.explain import plan_text as explained
    from tests.zoo.compiled import REGISTRY

    plan = plan_text(TREES.replace("START", "init(net)"))
    parts = bind(plan.program, REGISTRY, {}, torch.device("cpu"), torch.float64)
    assert "z: 42 numbers" in explained(plan, parts)


def test_an_outermost_level_may_run_over_a_list_by_itself() -> None:
    """Nothing inside is copied over it; the elements are taken one after the other."""
    text = """recipe alone
use sets = [points(count = 4), points(count = 6)]
level top {
    w : real[3] from 0.5
    each s in sets
    minimize mean[s] mean((dot(s.all.x, w) - s.all.y)^2)
    by sgd(lr = 0.1) for 1 steps
}
"""
    compiled = compile_text(text)
    assert quotient_error(compiled) < 1e-6
