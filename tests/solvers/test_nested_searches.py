"""A search inside another level: one for each copy, as if each were made by itself; refused where it is differentiated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.evolution import Evolution
from bilevel.backends.torch_func.keyed import fold, normal
from bilevel.errors import RecipeError
from tests.modes.tools import codes
from tests.zoo.compiled import compile_text, plan_text, run

NESTED = """recipe nested
level tune {
  a : real[2] from [0.5, -0.3]
  each t ~ normal(0, 1)[3]
  level fit {
    w : real[2] from START
    e ~ normal(0, 1)[2]
    level deep {
      z : real[2] from 0
      minimize sqnorm(z - w)
      by sgd(lr = 0.2) for 3 steps
    }
    minimize sqnorm(z - a * t) + 0.01 * dot(e, w) + 0.1 * sqnorm(w)
    by INNER for 6 generations
  }
  minimize OBJECTIVE
  by OUTER
}
"""
SEARCHED = ("mean[t] sqnorm(w - t * [1, 2])", "cmaes(sigma = 0.4, population = 4) for 2 generations")
FOLLOWED = ("sqnorm(a - 1) + mean[t] dot(stop(w), a)", "sgd(lr = 0.1) for 2 steps")
INNER = {"cmaes": ("0.1", "cmaes(sigma = 0.3, population = 5)"), "random": ("normal(0, 1)", "random(population = 5)")}


def text(inner: str, outer: tuple[str, str]) -> str:
    start, solver = INNER[inner]
    objective, by = outer
    return NESTED.replace("START", start).replace("INNER", solver).replace("OBJECTIVE", objective).replace("OUTER", by)


def value(w: Tensor, a: Tensor, t: Tensor, e: Tensor) -> Tensor:
    """The inner objective of one member: three steps of the level inside shrink the distance to w by 0.6 each."""
    z = (1 - 0.6**3) * w
    return ((z - a * t) ** 2).sum() + 0.01 * e @ w + 0.1 * (w**2).sum()


def searched(inner: str, a: Tensor, t: Tensor, copy: int, key: Tensor) -> Tensor:
    """One search for one copy."""
    each = [normal(fold(fold(key, step, "e"), torch.arange(3)), 2, dtype=torch.float64)[copy] for step in range(6)]
    if inner == "cmaes":
        start = torch.full((2,), 0.1, dtype=torch.float64)
        search = Evolution(start, 0.3, 5, fold(fold(key, "cmaes"), copy))
        for e in each:
            search = search.tell(torch.stack([value(w, a, t, e) for w in search.ask()]))
        mean: Tensor = search.mean()
        return mean
    best, found = float("inf"), torch.zeros(2)
    for step, e in enumerate(each):
        for member in range(5):
            w = normal(fold(fold(key, step), "random", member, "w", copy), 2, dtype=torch.float64)
            if float(value(w, a, t, e)) < best:
                best, found = float(value(w, a, t, e)), w
    return found


@pytest.mark.parametrize("inner", INNER)
def test_every_copy_of_every_member_is_searched_by_itself(inner: str) -> None:
    compiled = compile_text(text(inner, SEARCHED))
    root = compiled.key()
    outer = Evolution(torch.tensor([0.5, -0.3], dtype=torch.float64), 0.4, 4, fold(fold(root, "tune"), "cmaes"))
    state = compiled.phase.begin(root)
    wanted = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for generation in range(2):
        key = fold(fold(root, "tune"), generation)
        t = normal(fold(key, "t"), 3, dtype=torch.float64)
        scores = []
        for a in outer.ask():
            found = [searched(inner, a, t[c], c, fold(key, "fit")) for c in range(3)]
            scores.append(((torch.stack(found) - t[:, None] * wanted) ** 2).sum(-1).mean())
        outer = outer.tell(torch.stack(scores))
        state, least = compiled.phase.step(state, root)
        assert float(least) == pytest.approx(float(min(scores)), rel=1e-9)
    assert torch.allclose(state.x, outer.mean(), atol=1e-9)


@pytest.mark.parametrize("inner", INNER)
def test_a_level_that_nobody_differentiates_may_search(inner: str) -> None:
    compiled = compile_text(text(inner, FOLLOWED))
    assert compiled.plan.exactness == "exact"
    root = compiled.key()
    state = compiled.phase.begin(root)
    key = fold(fold(root, "tune"), 0)
    t = normal(fold(key, "t"), 3, dtype=torch.float64)
    a = state.x
    w = torch.stack([searched(inner, a, t[c], c, fold(key, "fit")) for c in range(3)])
    gradient, _ = compiled.phase.hypergradient(state, root)
    assert torch.allclose(gradient, 2 * (a - 1) + w.mean(0), atol=1e-9)
    assert run(compiled.phase, root).step == 2


@pytest.mark.parametrize("inner", INNER)
def test_a_search_has_no_derivative_to_give(inner: str) -> None:
    wanted = text(inner, (FOLLOWED[0].replace("stop(w)", "w"), FOLLOWED[1]))
    with pytest.raises(RecipeError) as caught:
        plan_text(wanted)
    (found,) = caught.value.diagnostics
    assert found.code == "B509" and "where a derivative is wanted" in found.message
    for mode in ("rmd", "es(samples = 4, sigma = 0.1)"):
        assert codes(f"{wanted}\nschedule {{ fit : {mode} }}\n") == ["B509"]


def test_inside_a_differentiated_level_there_is_no_search() -> None:
    deep = """recipe deep
level tune {
  a : real from 0.5
  level middle {
    y : real from a
    level fit {
      w : real from 0
      minimize (w - y)^2
      by cmaes(sigma = 0.3) for 3 generations
    }
    minimize (y - a)^2 + stop(w) * y
    by sgd(lr = 0.1) for 2 steps
  }
  minimize y^2
  by sgd(lr = 0.1) for 2 steps
}
"""
    assert codes(deep) == ["B509"]
    assert codes(deep.replace("minimize y^2", "minimize (a - stop(y))^2")) == []


def test_a_population_with_states_of_its_own_is_not_run_inside() -> None:
    trained = NESTED.replace("START", "0").replace("INNER", "pbt(population = 4)").replace("OBJECTIVE", SEARCHED[0])
    assert codes(trained.replace("OUTER", SEARCHED[1])) == ["B507"]
    tested = text("cmaes", SEARCHED).replace("for 6 generations", "until stationary(1e-3) within 6 generations")
    assert set(codes(tested)) == {"B507"}


def test_two_searches_around_a_level_keep_their_members_apart() -> None:
    """Three searches in each other: every level is solved for all members of those around, innermost first."""
    text = """recipe three
level top {
  a : real from 0.5
  level middle {
    b : real from 0.1
    level low {
      c : real from 0.2
      minimize (c - a * b)^2
      by sgd(lr = 0.5) for 1 steps
    }
    minimize (c - 2 * a)^2 + (b - 1)^2
    by cmaes(sigma = 0.2, population = 6) for 3 generations
  }
  minimize (b - a)^2
  by cmaes(sigma = 0.2, population = 4) for 2 generations
}
"""
    level = plan_text(text).program.level("low")
    assert level.members == ("@middle", "@top")
    compiled = compile_text(text)
    root = compiled.key()
    judge: Callable[[Tensor, Tensor], Tensor] = lambda a, b: (a * b - 2 * a) ** 2 + (b - 1) ** 2  # noqa: E731
    outer = Evolution(torch.tensor(0.5, dtype=torch.float64), 0.2, 4, fold(fold(root, "top"), "cmaes"))
    state = compiled.phase.begin(root)
    for generation in range(2):
        key = fold(fold(fold(root, "top"), generation), "middle")
        scores = []
        for a in outer.ask():
            inner = Evolution(torch.tensor(0.1, dtype=torch.float64), 0.2, 6, fold(fold(key, "cmaes"), 0))
            for _ in range(3):
                inner = inner.tell(judge(a, inner.ask()))
            scores.append((inner.mean() - a) ** 2)
        outer = outer.tell(torch.stack(scores))
        state, least = compiled.phase.step(state, root)
        assert float(least) == pytest.approx(float(min(scores)), rel=1e-9)
