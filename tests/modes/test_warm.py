"""`warm`: every copy goes on from where it ended itself, its solver too, and no derivative passes."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modes.tools import codes, error, scheduled
from tests.zoo.compiled import Compiled, compile_text
from tests.zoo.sources import points

COPIES = """recipe copied
use d = points(count = 4)
level top {
  x : real from 0.7
  each t in d.all
  level fit {
    w : real from warm(x^2)
    minimize 0.5 * (w - x * t.y)^2 + 0.1 * w^4
    by SOLVER DURATION
  }
  minimize mean[t] (w - 1)^2 + x
  by sgd(lr = 0.2) for 4 steps
}"""
Y = points(count=4).all.y


def seen(compiled: Compiled, steps: int = 4) -> Tensor:
    """The hypergradients of the steps of an outermost level, one after the other."""
    key, found = compiled.key(), []
    state = compiled.phase.begin(key)
    for _ in range(steps):
        found.append(compiled.phase.hypergradient(state, key)[0])
        state, _ = compiled.phase.step(state, key)
    return torch.stack(found)


def moved(w: Tensor, state: tuple[Any, ...], slope: Tensor, rate: float, adam: bool) -> tuple[Tensor, tuple[Any, ...]]:
    """One step of sgd with momentum 0.5 or of adam; the state is (velocity or moments, steps taken)."""
    first, second, count = state
    if not adam:
        first = 0.5 * first + slope
        return w - rate * first, (first, second, count + 1)
    first, second, count = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2, count + 1
    up, down = first / (1 - 0.9**count), torch.sqrt(second / (1 - 0.999**count) + 1e-16)
    return w - rate * up / down, (first, second, count)


def cut(value: Any) -> Any:
    return (
        tuple(map(cut, value)) if isinstance(value, tuple) else value.detach() if isinstance(value, Tensor) else value
    )


SPELLED = {False: "sgd(lr = 0.1, momentum = 0.5)", True: "adam(lr = 0.1)"}
NEW = (torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64), 0)


def copies_by_hand(adam: bool, bound: float | None) -> tuple[Tensor, set[int]]:
    """The same numbers by a loop over copies, and all numbers of steps that a solve took."""
    at, ends, found, counts = 0.7, {}, [], set()
    for _ in range(4):
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        total = x
        for place, y in enumerate(Y):
            w, state = ends.get(place, (cut(x**2), NEW))
            steps = 0
            while steps < (3 if bound is None else 9):
                if bound is not None and float((w - x * y).detach() ** 2) < bound:
                    break
                w, state = moved(w, state, w - x * y + 0.4 * w**3, 0.1, adam)
                steps += 1
            counts.add(steps)
            ends[place] = cut((w, state))
            total = total + (w - 1) ** 2 / 4
        (slope,) = torch.autograd.grad(total, x)
        found.append(slope)
        at = at - 0.2 * float(slope)
    return torch.stack(found), counts


@pytest.mark.parametrize("mode", ("rmd", "rmd(checkpoint = 2)", "rmd(store = residuals)", "fmd"))
@pytest.mark.parametrize("bound", (None, 0.02))
@pytest.mark.parametrize("adam", (False, True))
def test_every_copy_continues_its_own(adam: bool, bound: float | None, mode: str) -> None:
    duration = "for 3 steps" if bound is None else f"until below((w - x * t.y)^2, {bound}) within 9 steps"
    made = COPIES.replace("SOLVER", SPELLED[adam]).replace("DURATION", duration)
    expected, counts = copies_by_hand(adam, bound)
    assert bound is None or len(counts) > 3
    assert error(seen(compile_text(scheduled(made, fit=mode))), expected) < 1e-11


def test_elements_of_a_list_continue_their_own() -> None:
    """Two data sets of different sizes, one after the other, against two recipes of one set each."""
    one = """recipe listed
use sets = [SETS]
level top {
  x : real[3] from 0.4
  each s in sets
  level fit {
    w : real[3] from warm(0.1)
    minimize mean((dot(s.all.x, w) - s.all.y)^2) + 0.3 * sqnorm(w - x)
    by adam(lr = 0.1) for 3 steps
  }
  minimize mean[s] sqnorm(w - 1)
  by sgd(lr = 0) for 4 steps
}"""
    sets = ("points(count = 2)", "points(count = 5)")
    both = seen(compile_text(one.replace("SETS", ", ".join(sets))))
    single = [seen(compile_text(one.replace("SETS", s))) for s in sets]
    assert error(both, (single[0] + single[1]) / 2) < 1e-12
    assert error(both[1], both[0]) > 1e-3


NESTED = """recipe nested
use d = points(count = 4)
level top {
  x : real from 0.7
  each t in d.all
  level middle {
    y : real from START
    level low {
      w : real from warm(x * t.y)
      minimize 0.5 * (w - x * y * t.y)^2 + 0.1 * w^4
      by adam(lr = 0.1) LOW
    }
    minimize (w - 1)^2 + (y - x)^2
    by SOLVER MIDDLE
  }
  minimize mean[t] (y - 2)^2
  by sgd(lr = 0.1) for 4 steps
}"""


def nested_text(start: str, middle: str = "for 4 steps", low: str = "for 2 steps") -> str:
    made = NESTED.replace("START", start).replace("SOLVER", SPELLED[False])
    return made.replace("MIDDLE", middle).replace("LOW", low)


def nested_by_hand(warm: bool) -> Tensor:
    """Four steps of `middle`, each with two of `low` that go on from the last; both go on where `middle` is warm."""
    at, ends, found = 0.7, {}, []
    for _ in range(4):
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        total = 0 * x
        for place, t in enumerate(Y):
            y, state, low = ends[place] if warm and place in ends else (x**2, NEW, None)
            y = y.detach() if warm else y
            for _ in range(4):
                y = y if y.requires_grad else y.requires_grad_()
                w, inner = low or (cut(x * t), NEW)
                for _ in range(2):
                    w, inner = moved(w, inner, w - x * y * t + 0.4 * w**3, 0.1, True)
                (slope,) = torch.autograd.grad((w - 1) ** 2 + (y - x) ** 2, y, create_graph=True)
                low = cut((w, inner))
                y, state = moved(y, state, slope, 0.1, False)
            ends[place] = cut((y, state, low))
            total = total + (y - 2) ** 2 / 4
        (slope,) = torch.autograd.grad(total, x)
        found.append(slope)
        at = at - 0.1 * float(slope)
    return torch.stack(found)


@pytest.mark.parametrize("warm", (False, True))
def test_a_level_two_deep_goes_on_between_the_steps_around_it(warm: bool) -> None:
    made = nested_text("warm(x^2)" if warm else "x^2")
    expected = nested_by_hand(warm)
    for low, middle in (
        ("rmd", "rmd"),
        ("fmd", "rmd(checkpoint = 2)"),
        ("rmd", "rmd(store = residuals)"),
        ("rmd", "fmd"),
    ):
        assert error(seen(compile_text(scheduled(made, low=low, middle=middle))), expected) < 1e-11, (low, middle)


@pytest.mark.parametrize("warm", (False, True))
def test_copies_that_stop_hold_what_is_inside_them(warm: bool) -> None:
    stopping = "until plateau((y - 1)^2, patience = 1) within 5 steps"
    made = nested_text("warm(x^2)" if warm else "x^2", stopping, "until stationary(0.1) within 6 steps")
    expected = seen(compile_text(scheduled(made, low="rmd", middle="rmd")))
    for low, middle in (
        ("rmd(checkpoint = 1)", "rmd(checkpoint = binomial)"),
        ("rmd", "rmd(store = residuals)"),
        ("rmd", "fmd"),
    ):
        assert error(seen(compile_text(scheduled(made, low=low, middle=middle))), expected) < 1e-10, (low, middle)


def test_a_state_that_was_written_and_read_goes_on_to_the_same_bits() -> None:
    phase = compile_text(
        nested_text("warm(x^2)", low="until stationary(0.1) within 6 steps").replace("schedule", "")
    ).phase
    key = torch.tensor(3)
    state = phase.begin(key)
    for _ in range(2):
        state, _ = phase.step(state, key)
    file = io.BytesIO()
    torch.save(state._asdict(), file)
    read = type(state)(**torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for _ in range(2):
        (state, one), (read, two) = phase.step(state, key), phase.step(read, key)
        assert torch.equal(one, two) and torch.equal(state.x, read.x)


def test_where_warm_has_no_place() -> None:
    drawn = COPIES.replace("each t in d.all", "each t ~ d.all[2]").replace("SOLVER", "sgd(lr = 0.1)")
    assert codes(drawn.replace("DURATION", "for 3 steps")) == ["B407"]
    made = nested_text("x^2").replace("each t in d.all", "each t ~ d.all[2]")
    assert codes(made) == []
    assert codes(made.replace("from x^2", "from warm(x^2)")) == ["B407"]
    rate = COPIES.replace("SOLVER", "sgd(lr = linear(0.1))").replace("DURATION", "until stationary(0.1) within 6 steps")
    assert codes(rate) == ["B507"]
