"""States that kernels write over: the same bits as without, and never a tensor that somebody else has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.live_bytes import peak_bytes
from bilevel.backends.torch_func.plainly import Plain, as_it_is
from bilevel.backends.torch_func.trace import carries, compilers, reuse
from bilevel.backends.torch_func.trace.compilers import Kind, why_not
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.backends.torch_func.tree import leaves, tree_map
from tests.kernels.tools import with_kernels
from tests.zoo.compiled import Compiled, compile_text

FLOAT = torch.float64
HERE = torch.device("cpu")
SIZE = 50


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays are written over as large ones are."""
    monkeypatch.setattr(compilers, "LARGE", 0)
    monkeypatch.setattr(reuse, "LEAST", 8)
    monkeypatch.setattr(carries, "LEAST", 8)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (SIZE,)), dtype=FLOAT, generator=torch.Generator().manual_seed(seed))


def made(function: Callable[..., Any], kind: Kind = "fx") -> tuple[Any, Kernels]:
    kernels = Kernels(kind, FLOAT, HERE)
    return kernels.kernel(function), kernels


def moved(state: tuple[Tensor, Tensor], data: Tensor) -> tuple[Tensor, Tensor]:
    """A step of gradient descent with momentum."""
    x, velocity = state
    velocity = 0.5 * velocity + torch.sin(x * data) * data
    return x - 0.1 * velocity, velocity


def close(found: Any, right: Any) -> bool:
    """Whether numbers are those of the function, which a kernel rounds in another order."""
    return all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(leaves(found), leaves(right), strict=True))


def kinds() -> list[Kind]:
    found: list[Kind] = ["fx"]
    return found + ["inductor"] * (why_not("inductor", HERE) is None)


@pytest.mark.parametrize("kind", kinds())
def test_a_loop_of_its_own_states_goes_on_in_the_memory_of_its_second_one(kind: Kind) -> None:
    step, kernels = made(moved, kind)
    start, data = (random(0), random(1)), random(2)
    before = tree_map(torch.clone, start)
    state, expected, places = start, start, list[tuple[int, ...]]()
    carry = kernels.carry()
    for _ in range(6):
        state = step(carry(state), data)
        expected = moved(expected, data)
        places.append(tuple(leaf.data_ptr() for leaf in state))
        assert close(state, expected)
    assert len(set(places)) == 1
    assert all(map(torch.equal, start, before)) and torch.equal(data, random(2))
    assert not {leaf.data_ptr() for leaf in start} & set(places[0])


def test_without_a_mark_nothing_is_written_over() -> None:
    step, _ = made(moved)
    state = (random(0), random(1))
    for _ in range(3):
        held = tree_map(torch.clone, state)
        new = step(state, random(2))
        assert all(map(torch.equal, state, held))
        state = new


def test_a_state_that_is_not_dead_stays_as_it_is() -> None:
    step, kernels = made(moved)
    carry, data, state = kernels.carry(), random(2), (random(0), random(1))
    kept = [state]
    for _ in range(5):
        state = step(carry(state, False), data)
        kept.append(state)
    right = kept[0]
    for state in kept[1:]:
        right = moved(right, data)
        assert close(state, right)


def test_what_the_loop_has_made_itself_is_written_over_at_once() -> None:
    step, kernels = made(moved)
    zeros = torch.zeros(SIZE, dtype=FLOAT)
    carry = kernels.carry(zeros)
    _, velocity = step(carry((random(0), zeros)), random(2))
    assert velocity is zeros and bool(zeros.any())


def test_the_states_of_another_loop_are_not_written_over() -> None:
    """The start of a loop inside may be the iterate of the loop around, which kernels have made too."""
    step, kernels = made(moved)
    around, data = kernels.carry(), random(2)
    outer = step(around((random(0), random(1))), data)
    held = tree_map(torch.clone, outer)
    inside, state = kernels.carry(), outer
    for _ in range(3):
        state = step(inside(state), data)
    assert all(map(torch.equal, outer, held))


def doubled(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return state[0] * 2.0, state[1] * 3.0


def test_an_argument_that_a_step_passes_on_as_its_state_stays_as_it_is() -> None:
    pass_on, kernels = made(lambda state, data: (state[0] + 1.0, data))
    double = kernels.kernel(doubled)
    carry, data = kernels.carry(), random(2)
    state = pass_on(carry((random(0), random(1))), data)
    assert state[1] is data
    for _ in range(3):
        state = double(carry(state))
    assert torch.equal(data, random(2)) and torch.equal(state[1], random(2) * 3 * 3 * 3)


def test_a_view_of_an_argument_that_is_the_state_stays_as_it_is() -> None:
    pass_on, kernels = made(lambda state, data: (state[0] + 1.0, data.reshape(-1)))
    double = kernels.kernel(doubled)
    carry, data = kernels.carry(), random(2, 5, SIZE // 5)
    state = double(carry(pass_on(carry((random(0), random(1))), data)))
    assert torch.equal(data, random(2, 5, SIZE // 5)) and torch.equal(state[1], 3 * data.reshape(-1))


def test_a_constant_of_a_function_that_is_its_state_stays_as_it_is() -> None:
    constant = random(5)
    begin, kernels = made(lambda state: (state[0] + 1.0, constant))
    double = kernels.kernel(doubled)
    carry = kernels.carry()
    state = begin(carry((random(0), random(1))))
    for _ in range(2):
        state = double(carry(state))
    assert torch.equal(constant, random(5)) and torch.equal(state[1], constant * 3 * 3)


def test_a_note_that_is_the_state_s_own_memory_stays_as_it_is() -> None:
    """A report, or what a test compares later, may be a view of the state that it was made from."""

    def noting(state: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        new = state * data
        return new, new.reshape(5, -1)

    step, kernels = made(noting)
    carry, data, state, right = kernels.carry(), random(2), random(0), random(0)
    notes = []
    for _ in range(3):
        state, note = step(carry(state), data)
        notes.append(note)
    for note in notes:
        right = right * data
        assert torch.equal(note.reshape(-1), right)


@pytest.mark.parametrize("kind", kinds())
def test_two_leaves_that_are_one_tensor_are_two_values(kind: Kind) -> None:
    step, kernels = made(moved, kind)
    carry, data = kernels.carry(), random(2)
    step(carry((random(0), random(1))), data)
    one = kernels.kernel(lambda state: (state * 2.0, state * 2.0))
    state = one(carry(random(3)))
    assert state[0] is state[1]
    found = step(carry(state), data)
    right = moved((random(3) * 2, random(3) * 2), data)
    assert close(found, right)


def test_a_state_that_is_also_another_argument_is_read_before_it_is_written_over() -> None:
    step, kernels = made(moved)
    carry = kernels.carry()
    state = step(carry((random(0), random(1))), random(2))
    right = moved(state, state[0])
    held, copy = state[0], state[0].clone()
    found = step(carry(state), held)
    assert close(found, right) and torch.equal(held, copy)


def test_parts_of_larger_arrays_and_repeated_numbers_are_not_written_over() -> None:
    step, kernels = made(moved)
    whole = random(0, 2, SIZE)
    carry = kernels.carry(*(parts := (whole[0], whole[1])))
    step(carry(parts), random(2))
    assert torch.equal(whole, random(0, 2, SIZE))
    spread = torch.ones(1, dtype=FLOAT).expand(SIZE)
    carry = kernels.carry(spread)
    found = step(carry((spread, spread)), random(2))
    assert close(found, moved((spread, spread), random(2))) and float(spread.sum()) == SIZE


def test_a_function_that_is_no_kernel_gets_states_without_marks() -> None:
    def looking(state: Tensor) -> Tensor:
        return state + 1.0 if float(state.sum()) > 0 else state

    step, kernels = made(looking)
    carry, state = kernels.carry(), torch.ones(SIZE, dtype=FLOAT)
    for number in range(3):
        state = step(carry(state))
        assert torch.equal(state, torch.full((SIZE,), number + 2.0, dtype=FLOAT))
    assert kernels.made[0].run is None


def test_where_functions_run_as_they_are_there_are_no_marks() -> None:
    _, kernels = made(moved)
    state = (random(0), random(1))
    with kernels.resting():
        assert kernels.carry() is as_it_is
    carry = kernels.carry()
    with kernels.off():
        assert carry(state) is state
    assert Plain().carry(state)(state, False) is state


def test_the_first_call_compares_a_kernel_with_its_function_on_the_caller_s_own_tensors() -> None:
    step, kernels = made(moved)
    mine = (random(0), random(1))
    carry = kernels.carry(*mine)
    found = step(carry(mine), random(2))
    assert close(found, moved((random(0), random(1)), random(2)))


# ---- recipes -------------------------------------------------------------------------------------------------

RECIPE = """recipe carries
level top {
  x : real[6] from [0.7, -0.2, 0.4, 0.1, -0.5, 0.3]
  level fit {
    w : real[6] from START
    b ~ normal(0, 1)[6]
    minimize 0.25 * sum(w^4) + 0.5 * sqnorm(w - x) + 0.1 * dot(w, b)
    by SOLVER DURATION
  }
  minimize sqnorm(w - 1) + 0.01 * sqnorm(x)
  by sgd(lr = 0.1) for 4 steps
  report far = sqnorm(w)
}
schedule { fit : MODE }"""
ADAM, MOMENTUM = "adam(lr = 0.05, beta1 = 0.8)", "sgd(lr = 0.05, momentum = 0.5)"
COPIED = """recipe copied
level top {
  x : real[6] from 0.5
  each t ~ normal(0, 1)[3]
  level fit {
    w : real[6] from START
    minimize 0.25 * sum(w^4) + 0.5 * sqnorm(w - x * t)
    by SOLVER DURATION
  }
  minimize mean[t] sqnorm(w - 1)
  by OUTER
  report far = mean[t] sqnorm(w)
}
SCHEDULE"""
DEEP = """recipe deep
level top {
  x : real[6] from 0.5
  level middle {
    u : real[6] from x
    level low {
      w : real[6] from u
      minimize 0.5 * sqnorm(w - x) + 0.5 * sqnorm(w - u) + 0.1 * sum(w^4)
      by adam(lr = 0.05) for 3 steps
    }
    minimize sqnorm(w - 0.3) + sqnorm(u)
    by adam(lr = 0.05) for 4 steps
  }
  minimize sqnorm(u - 1)
  by sgd(lr = 0.1) for 3 steps
  report far = sqnorm(u)
}
SCHEDULE"""
MODES = (
    "rmd",
    "rmd(store = residuals)",
    "rmd(store = residuals, window = 3)",
    "rmd(window = 3)",
    "rmd(order = 1)",
    "rmd(checkpoint = sqrt)",
    "rmd(checkpoint = binomial)",
    "rmd(checkpoint = 2, store = residuals)",
    "fmd",
    "ift(linear = exact)",
    "leap(gamma = 0.9)",
    "leap(teacher = 2, keep = 3, hull = mean, gamma = 0.9)",
)
SEARCH = "cmaes(sigma = 0.3, population = 4) for 3 generations"


def text(start: str = "x", solver: str = ADAM, mode: str = "rmd", duration: str = "for 9 steps") -> str:
    made = RECIPE.replace("START", start).replace("SOLVER", solver).replace("MODE", mode)
    return made.replace("DURATION", duration)


def copied(start: str, outer: str, mode: str, duration: str = "for 9 steps") -> str:
    made = COPIED.replace("START", start).replace("SOLVER", ADAM).replace("OUTER", outer)
    schedule = f"schedule {{ fit : {mode} }}" if mode else ""
    return made.replace("DURATION", duration).replace("SCHEDULE", schedule)


RECIPES = {
    **{f"{mode}, {solver.partition('(')[0]}": text(solver=solver, mode=mode) for mode in MODES for solver in (ADAM, MOMENTUM)},
    "kept gradients": text(mode="rmd(store = gradients)"),
    "ift until": text(mode="ift(linear = exact)", duration="until stationary(1e-3, every = 2) within 9 steps"),
    "ift until, new": text("0", mode="ift(linear = exact)", duration="until stationary(1e-3) within 9 steps"),
    "warm": text("warm(x)", mode="rmd(order = 1)"),
    "copies": copied("x", "sgd(lr = 0.1) for 4 steps", "rmd(checkpoint = sqrt)"),
    "copies until": copied("x", "sgd(lr = 0.1) for 4 steps", "ift(linear = exact)", "until stationary(1e-3) within 9 steps"),
    "population": copied("0.1 * x", SEARCH, ""),
    "deep": DEEP.replace("SCHEDULE", "schedule { middle : rmd  low : ift(linear = exact) }"),
    "deep, first order": DEEP.replace("SCHEDULE", "schedule { middle : rmd(order = 1)  low : rmd(order = 1) }"),
}  # fmt: skip


def run_of(compiled: Compiled, carried: bool, kind: Kind = "fx") -> tuple[list[Tensor], Kernels]:
    """Two steps, each taken twice, and a report after each; fails where a state that was given is not as it was."""
    ((phase,), kernels) = with_kernels(compiled, kind)
    if not carried:
        kernels.carry = lambda *made: as_it_is  # type: ignore[method-assign]
    key, found = compiled.key(), list[Tensor]()
    state = phase.begin(key)
    with torch.no_grad():
        for _ in range(2):
            held = [leaf.clone() for leaf in leaves(tuple(state))]
            for report in (True, False):
                new, value = phase.step(state, key)
                found += [leaf.clone() for leaf in (*leaves(tuple(new)), torch.as_tensor(value))]
                found += [phase.reports["far"][1](new, key).clone()] * report
            assert all(map(torch.equal, leaves(tuple(state)), held))
            state = new
    return found, kernels


@pytest.mark.parametrize("name", RECIPES)
def test_every_mode_gives_the_same_bits_with_states_written_over_as_without(name: str) -> None:
    compiled = compile_text(RECIPES[name])
    found, kernels = run_of(compiled, True)
    expected, plain = run_of(compiled, False)
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))
    assert not any(one.over for one in plain.made)
    whole = name.startswith(("fmd", "deep", "copies until", "warm"))
    assert whole or any(one.over for one in kernels.made), [(one.name, one.reason) for one in kernels.made]


@pytest.mark.skipif(why_not("inductor", HERE) is not None, reason="no C++ compiler")
@pytest.mark.parametrize("name", ["ift(linear = exact), adam"])
def test_inductor_gives_the_same_as_functions_with_states_written_over(name: str) -> None:
    compiled = compile_text(RECIPES[name])
    found, kernels = run_of(compiled, True, "inductor")
    expected, _ = run_of(compiled, False, "none")
    assert any(one.over for one in kernels.made)
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-14) for a, b in zip(found, expected, strict=True))


# ---- bytes ---------------------------------------------------------------------------------------------------

LARGE = """recipe large
level top {
  x : real[20_000] from 0.5
  level fit {
    w : real[20_000] from x
    minimize 0.25 * sum(w^4) + 0.5 * sqnorm(w - x)
    by adam(lr = 0.05) for STEPS steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 4 steps
}
schedule { fit : ift(linear = cg(steps = 2)) }"""
ARRAY = 20_000 * 8


def solved(steps: int, carried: bool) -> int:
    """The most bytes alive while the level inside is solved."""
    compiled = compile_text(LARGE.replace("STEPS", str(steps)))
    ((phase,), kernels) = with_kernels(compiled)
    if not carried:
        kernels.carry = lambda *made: as_it_is  # type: ignore[method-assign]
    key = compiled.key()
    state = phase.begin(key)
    solve = phase.solves["fit"][0]
    solve(state, key)
    return peak_bytes(lambda: solve(state, key))


def test_a_solve_holds_one_state_however_many_steps_it_takes() -> None:
    few, many = solved(5, True), solved(40, True)
    assert many <= few + 1000
    assert many <= 5 * ARRAY + 1000  # iterate and moments of Adam, the gradient and what it is made of
    assert solved(40, False) >= many + 2 * ARRAY


def test_a_loop_holds_no_state_that_is_over() -> None:
    """What is not written in place is let go as soon as the next state has taken its place."""
    step, kernels = made(lambda state: (state[0] * 2.0, torch.cumsum(state[1], 0)))
    carry, state = kernels.carry(), (random(0), random(1))
    state = step(carry(step(carry(state))))
    assert {id(one) for one in carry.own.values()} == {id(leaf) for leaf in state}
