"""The network for planets, and what a system of bodies keeps: against plain loops, and along an exact motion."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.errors import RecipeError
from bilevel.recipes.planet_parts import energy_and_momentum, planet_mlp
from bilevel.recipes.records import Samples, SampleSplits
from tests.parts.derivatives import check_derivatives

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


class Scale(NamedTuple):
    mean: Tensor
    deviation: Tensor


def some_states(*shape: int, bodies: int = 3) -> Tensor:
    states = normal(make_key(2), *shape, bodies, 5, dtype=torch.float64)
    mass = states[..., 4:].abs() + 0.1
    return torch.cat([states[..., :2] * 100, states[..., 2:4], mass], -1).flatten(-2)


def by_hand(state: Tensor, gravity: float, softening: float, weight: float) -> list[float]:
    bodies = state.reshape(-1, 5).tolist()
    energy = sum(0.5 * m * (vx * vx + vy * vy) for _, _, vx, vy, m in bodies)
    for i, (x, y, _, _, m) in enumerate(bodies):
        for u, v, _, _, other in bodies[:i]:
            energy -= gravity * m * other / math.sqrt((x - u) ** 2 + (y - v) ** 2 + softening**2)
    return [energy, *(weight * sum(b[4] * b[2 + axis] for b in bodies) for axis in (0, 1))]


def test_values_are_those_of_plain_loops() -> None:
    states = some_states(2, 4)
    found = energy_and_momentum(momentum_weight=7.0, gravity=3.0, softening=2.0)(states)
    assert found.shape == (2, 4, 3)
    for i in range(2):
        for j in range(4):
            assert found[i, j].tolist() == pytest.approx(by_hand(states[i, j], 3.0, 2.0, 7.0), rel=1e-10)


def test_standardisation_is_undone() -> None:
    states = some_states(5)
    scale = Scale(states.mean(0), states.std(0))
    standard = (states - scale.mean) / scale.deviation
    torch.testing.assert_close(energy_and_momentum(scale)(standard), energy_and_momentum()(states))


def accelerations(place: Tensor, mass: Tensor, gravity: float, softening: float) -> Tensor:
    gap = place[None] - place[:, None]
    return gravity * (mass[None, :, None] * gap / (gap.square().sum(-1, keepdim=True) + softening**2) ** 1.5).sum(1)


def test_motion_keeps_it() -> None:
    """Energy and momentum along 400 small leapfrog steps of the motion whose potential it is."""
    state = some_states(bodies=4).reshape(4, 5)
    place, velocity, mass = state[:, :2], state[:, 2:4], state[:, 4]
    invariant, kept, step = energy_and_momentum(), [], 0.02
    for _ in range(400):
        kept.append(invariant(torch.cat([place, velocity, mass[:, None]], -1).flatten()))
        half = velocity + 0.5 * step * accelerations(place, mass, 100.0, 20.0)
        place = place + step * half
        velocity = half + 0.5 * step * accelerations(place, mass, 100.0, 20.0)
    drift = (torch.stack(kept) - kept[0]).abs().amax(0)
    moved = (place - state[:, :2]).norm()
    assert float(moved) > 1
    assert float(drift.max()) < 1e-6 * float(kept[0].abs().max())


def test_derivatives_are_those_of_finite_differences() -> None:
    check_derivatives(lambda s: energy_and_momentum()(s).square().sum(), some_states(), step=1e-5)


def test_bodies_that_meet_have_an_energy() -> None:
    states = some_states().reshape(3, 5)
    states[1, :2] = states[0, :2]
    assert bool(torch.isfinite(energy_and_momentum()(states.flatten())).all())


def test_every_copy_may_have_its_own() -> None:
    states, invariant = some_states(6), energy_and_momentum()
    torch.testing.assert_close(vmap(invariant)(states), invariant(states))


# ---- network -------------------------------------------------------------------------------------------------


def a_data_set() -> SampleSplits:
    x = normal(make_key(0), 50, 10, dtype=torch.float32)
    change = normal(make_key(1), 50, 10, dtype=torch.float32) * torch.arange(10) * 0.1
    samples = Samples(x, x + change)
    return SampleSplits(samples, samples, samples)


def test_the_output_is_a_change_in_units_of_the_data() -> None:
    data = a_data_set()
    network = planet_mlp(6, bodies=2, data=data).double()
    weights = initial_parameters(network, make_key(4), torch.float64)
    x = data.train.x.double()
    hidden = x
    for layer in range(3):
        hidden = torch.tanh(hidden @ weights[f"hidden.{layer}.weight"].T + weights[f"hidden.{layer}.bias"])
    change = hidden @ weights["output.weight"].T + weights["output.bias"]
    deviation = (data.train.y - data.train.x).double().std(0, correction=0)
    torch.testing.assert_close(functional_call(network, weights, (x,)), x + deviation * change, rtol=1e-6, atol=1e-6)
    assert float(deviation[0]) == 0  # what never changes is kept exactly, as masses are
    assert torch.equal(functional_call(network, weights, (x,))[:, 0], x[:, 0])


@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
def test_without_data_the_change_is_the_output(activation: str) -> None:
    network = planet_mlp(6, bodies=2, activation=activation).double()
    weights = initial_parameters(network, fold(make_key(4), 1), torch.float64)
    zero = {n: torch.zeros_like(v) if n.startswith("output") else v for n, v in weights.items()}
    x = normal(make_key(1), 3, 10, dtype=torch.float64)
    assert torch.equal(functional_call(network, zero, (x,)), x)
    assert not torch.equal(functional_call(network, weights, (x,)), x)


def test_bad_arguments_are_told() -> None:
    for build in (
        lambda: planet_mlp(0),
        lambda: planet_mlp(6, activation="gelu"),
        lambda: planet_mlp(6, bodies=3, data=a_data_set()),
        lambda: energy_and_momentum(softening=-1.0),
    ):
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
