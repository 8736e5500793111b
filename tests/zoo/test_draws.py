"""Draws are pure functions of seed, name, counters and copy: nothing that is asked for besides changes a number.

What was drawn is read off from outside: in an objective that is linear in a variable `c`, the hypergradient in `c`
is what stands beside it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.sampling import draw_epoch
from bilevel.errors import RecipeError
from tests.zoo.compiled import Compiled, compile_text, hypergradient, run
from tests.zoo.recursions import adam_step

NOISY = """recipe noisy
use net = mlp(1, 4, 1)
use tasks = sine(shots = 4, queries = 3)
use d = points(count = 7)
let L(w, s) = mean(mse(net[w](s.x), s.y))
level meta {
  theta : params(net)
  alpha : params(net) from uniform(0.005, 0.1)
  each task ~ tasks.train[3]
  level adapt {
    phi : params(net) from theta
    b ~ task.support[2]
    n ~ normal(0, 1)[2]
    minimize L(phi, b) + n[0] * sqnorm(phi)
    by sgd(lr = alpha, momentum = 0.5) for 3 steps
  }
  v ~ d.all[2]
  minimize mean[task] L(phi, task.query) + 0.01 * mean(v.y) * sqnorm(theta)
  by adam(lr = 1e-2) for 6 steps
  report val = mean[task] L(phi, task.query) with task ~ tasks.val[4], adapt.steps = 5 every 2 steps
}"""


def bits(tree: Any) -> list[bytes]:
    """Every tensor of a state as bytes."""
    if isinstance(tree, Tensor):
        return [tree.numpy().tobytes()]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [b for item in items for b in bits(item)]


@pytest.fixture(scope="module")
def noisy() -> Compiled:
    return compile_text(NOISY)


@pytest.fixture(scope="module")
def reference(noisy: Compiled) -> Any:
    return run(noisy.phase, noisy.key(3))


def test_the_same_seed_gives_the_same_bits(reference: Any) -> None:
    again = compile_text(NOISY)
    assert bits(run(again.phase, again.key(3))) == bits(reference)


def test_another_seed_gives_others(noisy: Compiled, reference: Any) -> None:
    assert bits(run(noisy.phase, noisy.key(4))) != bits(reference)


def test_reports_and_checks_in_between_change_nothing(noisy: Compiled, reference: Any) -> None:
    phase, key = noisy.phase, noisy.key(3)
    state = phase.begin(key)
    for _ in range(phase.steps):
        torch.manual_seed(state.step)  # torch's own generator is not ours
        before = bits(state)
        phase.reports["val"][1](state, key)
        phase.hypergradient(state, key)
        phase.values(state)
        assert bits(state) == before
        state, _ = phase.step(state, key)
    assert bits(state) == bits(reference)


def test_reports_have_a_stream_of_their_own_and_repeat(noisy: Compiled, reference: Any) -> None:
    _, report = noisy.phase.reports["val"]
    first, again = report(reference, noisy.key(3)), report(reference, noisy.key(3))
    later = report(reference._replace(step=reference.step + 1), noisy.key(3))
    assert torch.equal(first, again) and torch.equal(first, later)
    assert not torch.equal(first, report(reference, noisy.key(4)))


def test_two_halves_are_one_run(noisy: Compiled, reference: Any, tmp_path: Path) -> None:
    phase, key = noisy.phase, noisy.key(3)
    half = run(phase, key, steps=3)
    torch.save(tuple(half), tmp_path / "state.pt")
    again = compile_text(NOISY)
    state = again.module.State(*torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(3):
        state, _ = again.phase.step(state, key)
    assert bits(state) == bits(reference)


def test_two_processes_are_one(reference: Any) -> None:
    program = (
        "import hashlib; from tests.zoo.compiled import compile_text, run; from tests.zoo.test_draws import NOISY, bits; "
        "c = compile_text(NOISY); print(hashlib.sha256(b''.join(bits(run(c.phase, c.key(3))))).hexdigest())"
    )
    import hashlib

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.split()[-1] == hashlib.sha256(b"".join(bits(reference))).hexdigest()


# ---- copies --------------------------------------------------------------------------------------------------

COPIES = """recipe copies
use d = points(count = 6)
level top {
  c : real[6, 2] from 0
  s : real[6, 6] from 0
  each t ~ d.all[COUNT]
  level fit {
    y : real[2] from normal(0, 1)
    u : real[6] from 0
    e ~ normal(0, 1)[2]
    b ~ d.all[4]
    minimize dot(e, y) + sum(u[b.index]) + 0 * t.y * sum(y)
    by sgd(lr = 1) for 2 steps
  }
  minimize sum[t] (dot(c[t.index], y) + dot(s[t.index], u))
  by sgd(lr = 0.1) for 2 steps
}"""


def copies(count: int) -> tuple[list[list[float]], list[list[float]]]:
    """By sample: start and noise of its copy, and how often its copy met each sample (negative)."""
    _, found = hypergradient(compile_text(COPIES.replace("COUNT", str(count))))
    return found["c"].tolist(), found["s"].tolist()


def test_copies_draw_each_for_itself() -> None:
    noise, met = copies(6)
    assert len({number for row in noise for number in row}) == 12
    assert len({tuple(row) for row in met}) > 1


def test_draws_are_without_replacement_within_a_call() -> None:
    for row in copies(6)[1]:
        assert sum(row) == -8 and min(row) >= -2  # four different ones in each of two steps


def test_more_copies_leave_the_first_ones_alone() -> None:
    few, many = copies(2), copies(5)
    chosen = [i for i, row in enumerate(few[0]) if any(row)]
    assert len(chosen) == 2
    for i in chosen:
        assert few[0][i] == many[0][i] and few[1][i] == many[1][i]


def test_steps_draw_anew() -> None:
    phase = compile_text(
        """recipe anew
use d = points(count = 50)
level top {
  c : real[3] from 0
  s : real[50] from 0
  n ~ normal(0, 1)[3]
  v ~ d.all[5]
  minimize dot(c, n) + sum(s[v.index])
  by sgd(lr = 0.1) for 4 steps
}"""
    ).phase
    key, state, noise, met = torch.tensor(5), phase.begin(torch.tensor(5)), [], []
    for _ in range(4):
        (n, v), _ = phase.hypergradient(state, key)
        assert v.sum() == 5 and v.max() == 1
        noise.append(tuple(n.tolist()))
        met.append(tuple(v.tolist()))
        state, _ = phase.step(state, key)
    assert len(set(noise)) == 4 and len(set(met)) == 4


# ---- epochs --------------------------------------------------------------------------------------------------

EPOCHS = """recipe passes
use d = points(count = 7)
level top {
  c : real[9, 7] from 0
  INDEX
  level fit {
    w : real[7] from 0
    b ~ d.all[2]
    minimize sum(w[b.index]) + PER_COPY
    by sgd(lr = 1) for DURATION
  }
  minimize REDUCER (sum[k in 1..9] dot(c[k - 1], w@k - w@(k - 1)))
  by sgd(lr = 0.1) for 2 steps
}"""


def passes(index: str = "", reducer: str = "", duration: str = "3 epochs") -> np.ndarray[Any, Any]:
    """Which of seven samples were met in each of nine steps, counts."""
    text = EPOCHS.replace("INDEX", index).replace("REDUCER", reducer).replace("DURATION", duration)
    text = text.replace("PER_COPY", "0 * t.y * sum(w)" if index else "0")
    return -hypergradient(compile_text(text))[1]["c"].numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("duration", ["3 epochs", "e in 1..3 epochs"])
def test_an_epoch_meets_every_sample_at_most_once_and_drops_the_short_batch(duration: str) -> None:
    met = passes(duration=duration)
    assert (met.sum(1) == 2).all()
    epochs = met.reshape(3, 3, 7)
    assert (epochs.sum(1).max(1) == 1).all() and (epochs.sum((1, 2)) == 6).all()


def test_epochs_are_shuffled_anew() -> None:
    first, second, third = passes().reshape(3, 3, 7)
    assert not (first == second).all() and not (second == third).all()


def test_copies_shuffle_each_for_itself() -> None:
    met = passes("each t ~ d.all[7]", "sum[t]")
    assert (met.sum(1) == 14).all()
    assert met.max() > 1 and (met != 2).any()  # all seven in step would give sevens and zeros
    assert not set(met.flatten()) <= {0.0, 7.0}


def test_an_epoch_of_the_outermost_level_counts_steps() -> None:
    phase = compile_text(
        """recipe outermost_epochs
use d = points(count = 7)
level top {
  s : real[7] from 0
  b ~ d.all[2]
  minimize k * sum(s[b.index])
  by sgd(lr = 0.1) for k in 1..2 epochs
}"""
    ).phase
    assert phase.steps == 6
    key = torch.tensor(5)
    state, met = phase.begin(key), []
    for _ in range(6):
        met.append(phase.hypergradient(state, key)[0])
        state, _ = phase.step(state, key)
    one, two = torch.stack(met).reshape(2, 3, 7).sum(1)
    assert one.max() == 1 and one.sum() == 6 and two.max() == 2 and two.sum() == 12


def test_an_epoch_of_fewer_samples_than_a_batch_is_b312() -> None:
    data = compile_text(
        EPOCHS.replace("INDEX", "").replace("REDUCER", "").replace("DURATION", "3 epochs").replace("PER_COPY", "0")
    ).parts["d"]
    few = type(data.all)(*(field[:2] for field in data.all))
    assert sorted(draw_epoch(few, 2, make_key(0), 5, "b").index.tolist()) == [0, 1]
    with pytest.raises(RecipeError) as caught:
        draw_epoch(few, 3, make_key(0), 0, "b")
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("B312", "3 samples are drawn from data that has 2")


def all_steps(compiled: Compiled, data: Any) -> None:
    (phase,) = compiled.module.build(data, dtype=torch.float64)
    state = phase.begin(compiled.key())
    for _ in range(phase.steps):
        state, _ = phase.step(state, compiled.key())


def test_an_emitted_file_refuses_data_of_less_than_a_batch_in_an_epoch() -> None:
    """No batch is no step: without a word the start would be handed over as the solution."""
    inner = EPOCHS.replace("INDEX", "").replace("REDUCER", "").replace("DURATION", "3 epochs").replace("PER_COPY", "0")
    outer = """recipe outermost_epochs
use d = points(count = 7)
level top {
  s : real[7] from 0
  b ~ d.all[2]
  minimize sum(s[b.index])
  by sgd(lr = 0.1) for 2 epochs
}"""
    for text in (inner, outer):
        compiled = compile_text(text)
        one = type(compiled.parts["d"])(*(type(part)(*(f[:1] for f in part)) for part in compiled.parts["d"]))
        with pytest.raises(ValueError, match=r"\[B312\] 2 samples are drawn from data that has 1"):
            all_steps(compiled, one)


# ---- warm starts ---------------------------------------------------------------------------------------------

WARM = """recipe warmed
level top {
  x : real from 0.7
  level fit {
    w : real from warm(x + 1)
    minimize 0.5 * (w - x^2)^2 + 0.1 * w^3
    by SOLVER for 3 steps
  }
  minimize (w - 2)^2 + x
  by sgd(lr = 0.05) for 5 steps
}"""


def warm_loop(solver: str) -> list[float]:
    """x before every step and at the end; a solve goes on where the last one ended, and no derivative passes there."""
    x, w, v, state, t, seen = 0.7 + 0j, 1.7, 0.0, (0.0, 0.0), 0, []
    for _ in range(5):
        seen.append(x.real)
        moving = x + 1e-30j
        end, u, moments = w + 0j, v, state
        for _ in range(3):
            gradient = end - moving**2 + 0.3 * end**2
            t += 1
            if solver == "adam":
                direction, moments = adam_step(t, moments, gradient)
                end = end - 0.1 * direction
            else:
                u = 0.6 * u + gradient
                end = end - 0.1 * u
        gradient = ((end - 2) ** 2 + moving).imag / 1e-30
        w, v, state = end.real, np.real(u), (np.real(moments[0]), np.real(moments[1]))
        x = x - 0.05 * gradient
    return [*seen, x.real]


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_warm_continues_the_variable_and_the_solver(solver: str) -> None:
    spelled = {"adam": "adam(lr = 0.1)", "sgd": "sgd(lr = 0.1, momentum = 0.6)"}[solver]
    phase = compile_text(WARM.replace("SOLVER", spelled)).phase
    key = torch.tensor(5)
    state = phase.begin(key)
    seen = [state.x.item()]
    for _ in range(5):
        state, _ = phase.step(state, key)
        seen.append(state.x.item())
    assert np.allclose(seen, warm_loop(solver), rtol=1e-12, atol=0)


# ---- outermost levels one after the other --------------------------------------------------------------------


def test_a_later_level_may_read_an_earlier_one_anywhere() -> None:
    text = """recipe in_turn
level first {
  base : real from 1
  minimize 0.5 * (base - 3)^2
  by sgd(lr = 0.1) for 2 steps
}
level second {
  x : real from 0.3
  level fit {
    w : real from base
    minimize 0.5 * (w - x)^2
    by sgd(lr = 0.2) for 2 steps
  }
  minimize 0.5 * w^2 + base * x
  by sgd(lr = 0.1) for 3 steps
}"""
    value, found = hypergradient(compile_text(text))
    base, q = 3 - 2 * 0.9**2, 0.8**2
    w = q * base + (1 - q) * 0.3
    assert np.isclose(value, 0.5 * w * w + base * 0.3, rtol=1e-12)
    assert np.isclose(found["x"].item(), w * (1 - q) + base, rtol=1e-12)
