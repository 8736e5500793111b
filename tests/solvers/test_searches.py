"""Random search and population-based training: by hand, with their draws, and the same bits after being cut in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel.backends.torch_func.keyed import fold, normal, uniform
from bilevel.backends.torch_func.searches import exploited, explored, keep_best, one_end, ranked, trained
from bilevel.run import advance, restore
from tests.modes.tools import codes
from tests.zoo.compiled import compile_text, run

RANDOM = """recipe choose
level tune {
  a : real[2] in positive from uniform(0.1, 3)
  t ~ normal(0, 1)[2]
  level fit {
    w : real[2] from 0
    e ~ normal(0, 1)[2]
    minimize sqnorm(w - a * t) + 0.1 * dot(e, w)
    by sgd(lr = 0.1) for 3 steps
  }
  SENSE sqnorm(w - t)
  by random(population = 5) for 4 generations
  report here = sqnorm(w)
}
"""
TRAINED = """recipe train
level tune {
  r : real in positive from uniform(0.01, 0.2)
  b : real from 0.5
  level fit {
    w : real[2] from warm(b * [1, 2])
    e ~ normal(0, 1)[2]
    minimize sqnorm(w - b) + 0.1 * dot(e, w)
    by adam(lr = r) for 3 steps
  }
  minimize sqnorm(w - [1, 0.3])
  by pbt(population = 5, sigma = 0.3, share = 0.4) for 6 generations
  report here = sqnorm(w - [1, 0.3])
}
"""

TARGET = torch.tensor([1.0, 0.3], dtype=torch.float64)


def adam(x: Tensor, state: tuple[Tensor, Tensor], g: Tensor, count: int, lr: Tensor) -> Any:
    first, second = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g * g
    step = first / (1 - 0.9 ** (count + 1)) / torch.sqrt(second / (1 - 0.999 ** (count + 1)) + 1e-16)
    return x - lr * step, (first, second)


# ---- random search -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sense", ["minimize", "maximize"])
def test_random_search_keeps_the_best_of_fresh_starts(sense: str) -> None:
    compiled = compile_text(RANDOM.replace("SENSE", sense))
    root = compiled.key()
    state = compiled.phase.begin(root)
    sign = 1 if sense == "minimize" else -1
    best, x = float("inf"), state.x
    for generation in range(4):
        key = fold(fold(root, "tune"), generation)
        t = normal(fold(key, "t"), 2, dtype=torch.float64)
        scores = []
        for member in range(5):
            a = uniform(fold(fold(key, "random"), member, "a"), 2, low=0.1, high=3, dtype=torch.float64)
            w = torch.zeros(2, dtype=torch.float64)
            for step in range(3):
                e = normal(fold(fold(key, "fit"), step, "e"), 2, dtype=torch.float64)
                w = w - 0.1 * (2 * (w - a * t) + 0.1 * e)
            score = sign * float(((w - t) ** 2).sum())
            scores.append(score)
            if score < best:
                best, x = score, torch.log(a)
        state, value = compiled.phase.step(state, root)
        assert float(value) == pytest.approx(sign * min(scores))
        assert float(state.notes["tune.best"]) == pytest.approx(sign * best)
        assert torch.allclose(state.x, x, atol=1e-14)
    assert torch.allclose(compiled.phase.values(state)["a"], x.exp())


def test_a_value_that_is_no_number_is_never_the_best() -> None:
    scores = torch.tensor([float("nan"), 2.0, float("inf"), 1.0, 1.0])
    assert ranked(scores).tolist()[:3] == [3, 4, 1]
    x, best = keep_best(torch.tensor(0.0), torch.tensor(torch.inf), torch.arange(5.0), scores)
    assert (float(x), float(best)) == (3.0, 1.0)
    x, best = keep_best(x, best, torch.arange(5.0) + 10, torch.full((5,), float("nan")))
    assert (float(x), float(best)) == (3.0, 1.0)


# ---- population-based training -------------------------------------------------------------------------------


def test_the_last_copy_the_first() -> None:
    """Two of five: each of the two worst becomes a copy of one of the two best, and all of these get their turn."""
    scores = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0])
    found = set()
    for number in range(40):
        parents = exploited(scores, 0.4, fold(torch.tensor(7), number))
        assert parents[[0, 1, 3]].tolist() == [0, 1, 3]
        found.add((int(parents[2]), int(parents[4])))
    assert found == {(1, 1), (1, 3), (3, 1), (3, 3)}
    assert exploited(scores, 0.01, torch.tensor(7)).tolist() == [0, 1, 1, 3, 4]


def test_only_copies_are_explored() -> None:
    members = {"a": torch.zeros(4, 1000), "b": torch.zeros(4)}
    moved = explored(members, torch.tensor([True, False, True, False]), 0.3, torch.tensor(3))
    assert float(moved["a"][[1, 3]].abs().max()) == 0 and float(moved["b"][[1, 3]].abs().max()) == 0
    assert float(moved["a"][[0, 2]].std()) == pytest.approx(0.3, rel=0.1)
    assert not torch.equal(moved["a"][0], moved["a"][2])


def test_a_copy_goes_on_from_the_state_of_its_parent() -> None:
    members, scores = torch.arange(3.0), torch.tensor([0.0, 5.0, 1.0])
    ends = {"fit": (10 * members, (20 * members,), 4)}
    x, (following, place), moved = trained(members, scores, ends, 0.2, 0.1, torch.tensor(1))
    assert (float(x), int(place)) == (0.0, 0)
    assert following[[0, 2]].tolist() == [0.0, 2.0] and 0 < abs(float(following[1])) < 1
    assert moved["fit"][0].tolist() == [0.0, 0.0, 20.0]
    assert moved["fit"][1][0].tolist() == [0.0, 0.0, 40.0] and moved["fit"][2] == 4
    assert one_end(None, place) is None


def by_hand(root: Tensor, generations: int) -> tuple[list[float], Tensor]:
    """Values of the generations and the last best point, one member after the other."""
    begun = fold(fold(root, "tune"), "pbt")
    draws = [fold(fold(begun, "members"), i) for i in range(5)]
    free = [
        [torch.log(uniform(fold(k, "r"), low=0.01, high=0.2, dtype=torch.float64)) for k in draws],
        [torch.tensor(0.5, dtype=torch.float64)] * 5,
    ]
    noise = [0.3 * normal(fold(begun, "explore", n), 5, dtype=torch.float64) for n in range(2)]
    members = [torch.stack(f) + n for f, n in zip(free, noise, strict=True)]
    ends: list[Any] = [None] * 5
    values = []
    for generation in range(generations):
        key = fold(fold(root, "tune"), generation)
        scores = []
        for i in range(5):
            r, b = members[0][i].exp(), members[1][i]
            w, state = ends[i] or (
                b * torch.tensor([1.0, 2.0], dtype=torch.float64),
                (torch.zeros(2, dtype=torch.float64),) * 2,
            )
            for step in range(3):
                e = normal(fold(fold(key, "fit"), step, "e"), 2, dtype=torch.float64)
                w, state = adam(w, state, 2 * (w - b) + 0.1 * e, 3 * generation + step, r)
            ends[i] = (w, state)
            scores.append(float(((w - TARGET) ** 2).sum()))
        values.append(min(scores))
        order = sorted(range(5), key=scores.__getitem__)
        best = torch.stack([m[order[0]] for m in members])
        chosen = (2 * uniform(fold(key, "exploit"), 2, dtype=torch.float64)).long()
        noise = [0.3 * normal(fold(key, "explore", n), 5, dtype=torch.float64) for n in range(2)]
        for worst, pick in zip(order[-2:], chosen.tolist(), strict=True):
            ends[worst] = ends[order[pick]]
            for m, n in zip(members, noise, strict=True):
                m[worst] = m[order[pick]] + n[worst]
    return values, best


def test_a_population_is_trained_as_one_member_after_the_other() -> None:
    compiled = compile_text(TRAINED)
    root = compiled.key()
    state, values = compiled.phase.begin(root), []
    for _ in range(6):
        state, value = compiled.phase.step(state, root)
        values.append(float(value))
    expected, best = by_hand(root, 6)
    assert values == pytest.approx(expected, rel=1e-12)
    assert torch.allclose(torch.stack(list(state.x)), best, atol=1e-13)


def test_a_report_goes_on_from_the_best_member() -> None:
    compiled = compile_text(TRAINED)
    root = compiled.key()
    state = run(compiled.phase, root, steps=3)
    place = int(state.solver[1])
    w, (first, second), count = state.ends["fit"]
    assert count == 9
    w, solver, (r, b) = w[place], (first[place], second[place]), (state.x[0].exp(), state.x[1])
    key = fold(fold(fold(root, "tune"), "report"), "fit")
    for step in range(3):
        e = normal(fold(key, step, "e"), 2, dtype=torch.float64)
        w, solver = adam(w, solver, 2 * (w - b) + 0.1 * e, 9 + step, r)
    found = compiled.phase.reports["here"][1](state, root)
    assert float(found) == pytest.approx(float(((w - TARGET) ** 2).sum()), rel=1e-12)


@pytest.mark.parametrize("text", [RANDOM.replace("SENSE", "minimize"), TRAINED], ids=["random", "pbt"])
def test_a_search_goes_on_to_the_same_bits(text: str, tmp_path: Path) -> None:
    def program(generations: int) -> bilevel.Program:
        recipe = bilevel.parse(text).with_({"tune.generations": generations})
        return bilevel.compile(recipe)  # in single precision, as by default

    whole = program(4).run(out=tmp_path / "whole")
    program(2).run(out=tmp_path / "part")
    rest = advance(restore(program(4), tmp_path / "part", 0), ())
    assert whole.exactness == "values"
    assert all(torch.equal(rest.state[name], value) for name, value in whole.state.items())
    assert rest.reports["here"][-1] == whole.reports["here"][-1]


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "code"),
    [
        ("random()", "B309"),
        ("pbt()", "B309"),
        ("pbt(population = 1)", "B414"),
        ("pbt(population = 2.5)", "B414"),
        ("pbt(population = 5, share = 0.7)", "B414"),
        ("pbt(population = 5, sigma = 0)", "B414"),
        ("random(population = 4)", "B414"),  # from 0.5: nothing to choose from
    ],
)
def test_populations_that_cannot_be_made(solver: str, code: str) -> None:
    text = f"recipe odd\nlevel tune {{ a : real from 0.5  minimize (a - 1)^2  by {solver} for 3 generations }}"
    assert codes(text) == [code]


# ---- warm starts count steps, not states ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rmd(checkpoint = 2)", "rmd(window = 2)", "fmd", "rmd(store = residuals)"])
def test_the_count_of_a_warm_solver_does_not_depend_on_the_mode(mode: str) -> None:
    """Adam corrects its bias by the number of steps taken, of which some modes keep few states."""
    text = """recipe online
level meta {
  c : real[2] from 1
  level fit {
    w : real[2] from warm(0)
    minimize sqnorm(w - c) + 0.1 * sum(w^4)
    by adam(lr = 0.1) for 5 steps
  }
  minimize sqnorm(w - [1, 2])
  by sgd(lr = 0) for 3 steps
}
schedule { fit : MODE }
"""
    found, expected = (compile_text(text.replace("MODE", m)) for m in (mode, "rmd"))
    states = [run(c.phase, c.key()) for c in (found, expected)]
    assert [s.ends["fit"][2] for s in states] == [15, 15]
    assert torch.allclose(states[0].ends["fit"][0], states[1].ends["fit"][0], atol=1e-14)
