"""Dropout from keys: one noise for a step, a copy and a draw, whoever looks at it and however often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from bilevel import ir, pipeline
from bilevel.backends.torch_func.dropout import KeyedDropout, NoisyNetwork
from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.backends.torch_func.tree import leaves
from bilevel.errors import RecipeError
from bilevel.explain import plan_text as plan_page
from bilevel.registry import collect, model
from tests.modes.tools import STORES, TOLERANCE, codes, gradients, plan_of, scheduled, worst
from tests.zoo.compiled import Compiled, build, compile_text, run

HEAD = """recipe noisy
use net = mlp(1, 6, 5, 1, dropout = 0.4)
use tasks = sine()
let L(w, d) = mean(mse(net[w](d.x), d.y))
"""
LEARN = (
    HEAD
    + """level train {
  theta : params(net)
  rate : real from -3
  each task ~ tasks.train[2]
  level adapt {
    phi : params(net) from theta
    minimize L(phi, task.support) + exp(rate) * sqnorm(phi)
    by sgd(lr = 0.05, momentum = 0.5) for 7 steps
  }
  minimize mean[task] L(phi, task.query)
  by adam(lr = 0.01) for 4 steps
  report adapted = mean[task] L(phi, task.query) with task ~ tasks.test[3]
  report begun = mean[task] L(theta, task.query)
}
"""
)
TWO = (
    HEAD
    + """use b : real[4, 1]
level train {
  theta : params(net)
  level adapt {
    phi : params(net) from theta
    minimize mean(net[phi](b) * net[phi](b))
    by adam(lr = 0.05) for 3 steps
  }
  minimize mean(net[phi](b)) + sum[k in 1..3] mean(net[phi@k](b))
  by sgd(lr = 0.01) for 2 steps
}
"""
)


def differences(compiled: Compiled, step: float = 1e-6) -> tuple[list[float], list[float]]:
    """Products of the hypergradient at the start with three directions, and difference quotients along these."""
    key, phase = compiled.key(), compiled.phase
    state = phase.begin(key)
    gradient, _ = phase.hypergradient(state, key)
    found, expected = [], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in leaves(state.x)]
        values = [
            float(phase.hypergradient(state._replace(x=shifted(state.x, direction, s)), key)[1]) for s in (step, -step)
        ]
        found.append(float(sum((g * d).sum() for g, d in zip(leaves(gradient), direction, strict=True))))
        expected.append((values[0] - values[1]) / (2 * step))
    return found, expected


def shifted(x: Any, direction: list[Tensor], step: float) -> Any:
    parts = iter(direction)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(leaf) for name, leaf in value.items()}
        return tuple(map(moved, value)) if isinstance(value, tuple) else value + step * next(parts)

    return moved(x)


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(checkpoint = 2)", "rmd(store = residuals)"])
def test_the_hypergradient_is_that_of_the_value_with_its_noise(mode: str) -> None:
    found, expected = differences(compile_text(scheduled(LEARN, adapt=mode)))
    assert found == pytest.approx(expected, rel=1e-6)


def test_all_exact_modes_see_the_same_noise() -> None:
    expected = flat(gradients(scheduled(LEARN, adapt="rmd")))
    for mode in STORES:
        assert worst(flat(gradients(scheduled(LEARN, adapt=mode))), expected) < TOLERANCE, mode


def flat(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every variable as one row of numbers."""
    return {name: torch.cat([leaf.reshape(-1) for leaf in leaves(value)]) for name, value in found.items()}


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(store = residuals)"])
def test_iterates_and_several_applications(mode: str) -> None:
    given = {"b": torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]}
    found, expected = differences(compile_text(scheduled(TWO, adapt=mode), given))
    assert found == pytest.approx(expected, rel=1e-6)


def test_three_levels() -> None:
    text = """recipe deep
use net = mlp(1, 4, 1, dropout = 0.3)
use b : real[5, 1]
level a {
  x : params(net)
  level m {
    y : params(net) from x
    level c {
      z : params(net) from y
      minimize mean(mse(net[z](b), b))
      by sgd(lr = 0.1) for 3 steps
    }
    minimize mean(mse(net[z](b), 1 - b)) + mean(mse(net[y](b), b))
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean(mse(net[y](b), b))
  by sgd(lr = 0.1) for 2 steps
}
"""
    given = {"b": torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]}
    found, expected = differences(compile_text(text, given))
    assert found == pytest.approx(expected, rel=1e-6)


# ---- masks ---------------------------------------------------------------------------------------------------


def network(*layers: nn.Module) -> NoisyNetwork:
    return NoisyNetwork(nn.Sequential(*layers), {}, torch.float64, "cpu")


def test_the_same_key_gives_the_same_bits_and_no_key_no_noise() -> None:
    net, x = network(nn.Linear(5, 50), nn.Dropout(0.5)), torch.randn(4, 5, dtype=torch.float64)
    w, key = net.select(), make_key(1)
    assert torch.equal(net(w, x, key), net(w, x, key))
    assert not torch.equal(net(w, x, key), net(w, x, make_key(2)))
    assert torch.equal(net(w, x), nn.functional.linear(x, w["0.weight"], w["0.bias"]))
    assert torch.equal(net.single(w, x[0], key), net(w, x[:1], key)[0])


def test_copies_under_vmap_have_their_own_noise() -> None:
    net, x = network(nn.Dropout(0.5)), torch.ones(2, 20, dtype=torch.float64)
    keys = fold(make_key(0), torch.arange(3))
    together = vmap(lambda key: net({}, x, key))(keys)
    assert all(torch.equal(together[i], net({}, x, keys[i])) for i in range(3))
    assert len({tuple(row.reshape(-1).tolist()) for row in together}) == 3


def test_layers_and_repeated_calls_of_one_layer_differ() -> None:
    drop = nn.Dropout(0.5)
    x = torch.ones(1, 64, dtype=torch.float64)
    once, twice = network(drop)({}, x, make_key(0)), network(drop, drop)({}, x, make_key(0))
    other = network(nn.Identity(), nn.Dropout(0.5))({}, x, make_key(0))
    assert 0 < int((twice != 0).sum()) < int((once != 0).sum())
    assert not torch.equal(once, other)
    assert set(twice.unique().tolist()) == {0.0, 4.0}


def test_the_mask_has_the_right_mean() -> None:
    x = torch.ones(1, 200_000, dtype=torch.float64)
    for p in (0.1, 0.5, 0.9):
        found = network(nn.Dropout(p))({}, x, make_key(3))
        deviation = (p / (1 - p) / x.numel()) ** 0.5
        assert abs(float(found.mean()) - 1) < 4 * deviation
        assert sorted(found.unique().tolist()) == pytest.approx([0.0, 1 / (1 - p)])
    assert not network(nn.Dropout(1.0))({}, x, make_key(3)).any()


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (nn.Dropout1d(0.5), (8, 9, 5), 2),
        (nn.Dropout1d(0.5), (8, 5), 1),
        (nn.Dropout2d(0.5), (8, 9, 3, 3), 2),
        (nn.Dropout3d(0.5), (8, 9, 2, 2, 2), 2),
    ],
)
def test_whole_channels_fall_together(layer: nn.Module, shape: tuple[int, ...], axes: int) -> None:
    found = network(layer)({}, torch.ones(shape, dtype=torch.float64), make_key(0)).flatten(axes)
    assert bool((found == found[..., :1]).all())
    assert set(found.unique().tolist()) == {0.0, 2.0}


def test_the_module_that_was_given_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    net = NoisyNetwork(module, {}, torch.float64, "cpu")
    assert isinstance(module[1], nn.Dropout) and isinstance(net.module[1], KeyedDropout)  # type: ignore[index]
    assert list(net.select()) == ["0.weight", "0.bias"] == list(net.module.state_dict())


def test_layers_in_evaluation_mode_stay_off() -> None:
    x = torch.ones(1, 20)
    assert torch.equal(network(nn.Dropout(0.5).eval())({}, x, make_key(0)), x)


# ---- steps, copies, reports ----------------------------------------------------------------------------------


def drawn_keys(compiled: Compiled, steps: int) -> list[list[int]]:
    """The keys of the noise of `adapt`, one row for each time they are drawn."""
    found: list[list[int]] = []
    compiled.module.__dict__["seen"] = lambda noise: found.append(noise.tolist()) or noise
    run(compiled.phase, compiled.key(), steps=steps)
    return found


def test_every_step_and_copy_has_its_own_noise_and_the_way_back_the_same() -> None:
    spied = 'noise = seen(fold(fold(key, "dropout noise"), numbers(length(task), key)))'
    plain = 'noise = fold(fold(key, "dropout noise"), numbers(length(task), key))'
    rows = drawn_keys(compile_text(scheduled(LEARN, adapt="rmd"), edit=lambda text: text.replace(plain, spied)), 2)
    assert len(rows) == 2 * 7 * 2  # outer steps, inner steps, there and back
    for first in (0, 14):
        there, back = rows[first : first + 7], rows[first + 7 : first + 14]
        assert back == there[::-1]
    keys = [key for row in rows for key in row]
    assert len(set(keys)) == len(keys) / 2 == 2 * 7 * 2


def test_each_copy_that_an_objective_closes_has_its_own_noise() -> None:
    text = """recipe closed
use net = mlp(1, 30, 1, dropout = 0.5)
use x : real[1, 1]
level train {
  w : params(net)
  each s ~ normal(0, 1)[3]
  minimize max[s] (mean(net[w](x)) + 0 * s) - min[s] (mean(net[w](x)) + 0 * s)
  by sgd(lr = 0.1) for 2 steps
  report plain = max[s] (mean(net[w](x)) + 0 * s) - min[s] (mean(net[w](x)) + 0 * s)
}
"""
    compiled = compile_text(text, {"x": torch.ones(1, 1, dtype=torch.float64)})
    key = compiled.key()
    state = compiled.phase.begin(key)
    assert float(compiled.phase.hypergradient(state, key)[1]) > 1e-3
    assert float(compiled.phase.reports["plain"][1](state, key)) == 0.0


def test_reports_are_evaluated_without_dropout() -> None:
    without = LEARN.replace(", dropout = 0.4", "")
    noisy, plain = compile_text(LEARN), compile_text(without)
    key = noisy.key()
    state = noisy.phase.begin(key)
    assert float(noisy.phase.reports["begun"][1](state, key)) == float(plain.phase.reports["begun"][1](state, key))
    assert float(noisy.phase.hypergradient(state, key)[1]) != float(plain.phase.hypergradient(state, key)[1])
    # The level inside learns as it is written, with dropout.
    assert float(noisy.phase.reports["adapted"][1](state, key)) != float(plain.phase.reports["adapted"][1](state, key))


def test_a_rate_of_zero_is_no_dropout_at_all() -> None:
    zero, without = LEARN.replace("0.4", "0"), LEARN.replace(", dropout = 0.4", "")
    texts = [compile_text(text).text.partition("import torch\n")[2] for text in (zero, without)]
    assert texts[0] == texts[1] and "NoisyNetwork" not in texts[0]


def test_a_run_in_two_halves_is_one_run() -> None:
    compiled, again = compile_text(LEARN), compile_text(LEARN)
    key = compiled.key()
    whole = run(compiled.phase, key)
    state = run(compiled.phase, key, steps=2)
    for _ in range(2):
        state, _ = again.phase.step(state, key)
    assert all(torch.equal(a, b) for a, b in zip(leaves(state.x), leaves(whole.x), strict=True))


def test_members_of_a_population_share_the_noise() -> None:
    text = """recipe population
use net = mlp(1, 30, 1, dropout = 0.5)
use b : real[4, 1]
level search {
  a : real[2] from 0
  level fit {
    w : params(net) from 0.1
    minimize mean(mse(net[w](b), b)) + 0 * sum(a)
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean(mse(net[w](b), b)) + 0 * sum(a)
  by cmaes(population = 6) for 2 generations
}
"""
    compiled = compile_text(text, {"b": torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]})
    values: list[Tensor] = []
    objective = "def search_objective("
    edited = compiled.text.replace(objective, "@seen\n    " + objective)
    assert edited != compiled.text

    def seen(function: Any) -> Any:
        def called(*given: Any) -> Any:
            values.append(function(*given))
            return values[-1]

        return called

    module: dict[str, Any] = {"seen": seen, "__name__": "emitted"}
    exec(compile(edited, "population.py", "exec"), module)
    (phase,) = module["build"](*compiled.parts.values(), dtype=torch.float64)
    run(phase, compiled.key())
    assert len(values) == 2
    assert all(bool((v == v[0]).all()) for v in values) and float(values[0][0]) != float(values[1][0])


def test_networks_of_a_list() -> None:
    text = """recipe listed
use nets = [mlp(1, 4, 1, dropout = 0.3), mlp(1, 5, 1)]
use b : real[4, 1]
level train {
  a : real from 0.3
  each net in nets
  level fit {
    w : params(net) from 0.4
    minimize mean(mse(net[w](b), a * b))
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean[net] mean(mse(net[w](b), b)) + a^2
  by sgd(lr = 0.1) for 2 steps
}
"""
    given = {"b": torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]}
    found, expected = differences(compile_text(text, given))
    assert found == pytest.approx(expected, rel=1e-6)


# ---- levels that end at a point ------------------------------------------------------------------------------


@model(input=(3,), output=(1,), noisy=True)
def dropping() -> nn.Module:
    """A linear function of inputs under dropout."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1))


SETTLED = """recipe settled
use net = dropping()
use A : real[6, 3]
use y : real[6, 1]
level train {
  a : real from 0.3
  level fit {
    w : params(net) from 0.5
    minimize mean(mse(net[w](A), a * y)) + exp(a) * sqnorm(w)
    by sgd(lr = 0.1) until stationary(1e-12) within 3_000 steps
  }
  minimize mean(mse(net[w](A), y))
  by sgd(lr = 0.1) for 2 steps
}
"""


def test_ift_solves_its_system_with_one_noise_and_is_biased() -> None:
    """With steps that follow that very noise the level ends where it promises, and the hypergradient is exact."""
    generator = torch.Generator().manual_seed(0)
    given: dict[str, Any] = {"A": torch.randn(6, 3, generator=generator, dtype=torch.float64), "net": dropping()}
    every, once = "fit_draw(step_key)", 'fit_draw(fold(key, "implicit"))'
    given["y"] = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    plan = pipeline.plan(pipeline.check_text(SETTLED, "settled.bl", [collect([dropping]).manifest]))
    compiled = build(plan, given, edit=lambda emitted: emitted.replace(every, once))
    assert every not in compiled.text and compiled.text.count(once) == 2
    found, expected = differences(compiled, 1e-4)
    assert found == pytest.approx(expected, rel=1e-5) and abs(found[0]) > 1e-3
    assert compiled.plan.exactness == "biased"  # as each step follows a noise of its own


def test_a_line_search_refuses_dropout() -> None:
    text = SETTLED.replace("dropping()", "mlp(3, 2, 1, dropout = 0.3)").replace("sgd(lr = 0.1) until", "lbfgs() until")
    assert codes(text) == ["B414"]


def test_windows_with_an_update_each() -> None:
    text = LEARN.replace("for 7 steps", "for 6 steps")
    compiled = compile_text(scheduled(text, adapt="rmd(window = 3, update = each)"))
    a, b = (run(compiled.phase, compiled.key(), steps=2) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(leaves(a.x), leaves(b.x), strict=True))


def test_the_plan_says_where_noise_is_drawn() -> None:
    page = " ".join(plan_page(plan_of(LEARN)).split())
    assert "draw dropout noise of net[w](d.x) one key for each task; none in reports" in page
    assert "draw dropout noise of net[w](d.x) one key; none in reports" in page


def test_what_has_no_key_to_give_refuses_dropout() -> None:
    learned = """recipe learned
use opt = dropping()
level train {
  psi : params(opt)
  level fit {
    w : real[2] from 1
    minimize sqnorm(w)
    by opt[psi] for 3 steps
  }
  minimize sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}
"""
    manifest = collect([dropping]).manifest
    with pytest.raises(RecipeError) as caught:
        pipeline.plan(pipeline.check_text(learned, "learned.bl", [manifest]))
    assert "[B507]: a learned solver with dropout cannot be run by this version" in str(caught.value)


def test_a_registration_may_say_that_a_network_is_noisy() -> None:
    program = pipeline.check_text(
        HEAD.replace("mlp(1, 6, 5, 1, dropout = 0.4)", "dropping()") + LEARN[len(HEAD) :],
        "a.bl",
        [collect([dropping]).manifest],
    )
    assert [d.name for level in program.walk_levels() for d in level.draws] == [ir.NOISE, ir.NOISE]
