"""Planets: the laws of motion, trajectories that stay sound, and samples that are states and next states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import RecipeError
from bilevel.recipes import planet_motion as motion
from bilevel.recipes.planet_motion import Bodies, acceleration, advance, lifetimes, sound, stable_starts, starts
from bilevel.recipes.planets import planet_trajectories, planets

BODIES, SYSTEMS, ROUNDS = 3, 80, 3  # three bodies collide less often than five


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        planet_trajectories(BODIES, SYSTEMS, ROUNDS)  # searched once for all tests
        yield folder


def some(count: int) -> Bodies:
    return starts(fold(make_key(1), torch.arange(count)), 5)


def energy(bodies: Bodies) -> Tensor:
    """Kinetic and softened potential energy of each system."""
    apart = (bodies.place[:, :, None] - bodies.place[:, None]).square().sum(-1)
    pairs = (bodies.mass[:, :, None] * bodies.mass[:, None] * (apart + motion.SOFTENING**2).rsqrt()).triu(1)
    kinetic = 0.5 * bodies.mass * bodies.velocity.square().sum(-1)
    return kinetic.sum(-1) - motion.GRAVITY * pairs.sum((-1, -2))


def test_acceleration_is_the_gradient_of_the_potential() -> None:
    bodies = some(4)
    place = bodies.place.clone().requires_grad_()
    potential = energy(Bodies(place, torch.zeros_like(place), bodies.mass)).sum()
    (slope,) = torch.autograd.grad(potential, place)
    assert torch.allclose(acceleration(bodies.place, bodies.mass), -slope / bodies.mass[..., None], atol=1e-12)


def test_two_bodies_circle_each_other() -> None:
    """With no softening to speak of at this distance, the angular velocity follows from the force."""
    radius, mass = 50.0, torch.full((1, 2), 0.2, dtype=torch.float64)
    place = torch.tensor([[[300.0 - radius, 150.0], [300.0 + radius, 150.0]]], dtype=torch.float64)
    pull = float(acceleration(place, mass)[0, 0, 0])
    speed = (pull * radius) ** 0.5
    velocity = torch.tensor([[[0.0, -speed], [0.0, speed]]], dtype=torch.float64)
    bodies = Bodies(place, velocity, mass)
    for _ in range(50):
        bodies = advance(bodies)
    turned = torch.tensor(50 * motion.STEP * speed / radius, dtype=torch.float64)
    expected = torch.stack([300.0 + radius * torch.cos(turned), 150.0 + radius * torch.sin(turned)])
    assert torch.allclose(bodies.place[0, 1], expected, atol=1e-6)


def test_energy_and_momentum_are_kept_and_the_method_is_of_order_four(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = some(50)
    exact = bodies
    monkeypatch.setattr(motion, "SUBSTEPS", 64)
    exact = advance(exact)
    errors = []
    for substeps in (2, 4):
        monkeypatch.setattr(motion, "SUBSTEPS", substeps)
        errors.append(float((advance(bodies).place - exact.place).abs().sum()))
    assert errors[0] / errors[1] > 12
    momentum = [(b.velocity * b.mass[..., None]).sum(1) for b in (bodies, exact)]
    assert torch.allclose(*momentum, atol=1e-12)
    assert float((energy(exact) - energy(bodies)).abs().max()) < 1e-9


def test_kept_trajectories_last_twice_as_long_as_they_are_kept() -> None:
    states = planet_trajectories(BODIES, SYSTEMS, ROUNDS)
    assert states.shape[1:] == (101, BODIES, 5)
    first = Bodies(states[:, 0, :, :2], states[:, 0, :, 2:4], states[:, 0, :, 4])
    assert lifetimes(first).tolist() == [200] * len(states)
    moving = first
    for step in range(1, 101):
        moving = advance(moving)
        assert sound(moving).all()
        assert torch.equal(states[:, step, :, :2], moving.place)
    assert 0.15 <= float(first.mass.min()) <= float(first.mass.max()) <= 0.25
    assert torch.equal(states[:, :, :, 4], first.mass[:, None].expand(-1, 101, -1))


def test_a_start_depends_on_its_key_alone() -> None:
    """Fewer systems are the first ones of more: the search of one does not see the others."""
    fewer = planet_trajectories(BODIES, SYSTEMS // 2, ROUNDS)
    many = planet_trajectories(BODIES, SYSTEMS, ROUNDS)
    assert 0 < len(fewer) < len(many)
    assert torch.equal(fewer, many[: len(fewer)])


def test_a_longer_search_finds_more_and_never_less() -> None:
    keys = fold(make_key(0), "planets", torch.arange(SYSTEMS))
    few = stable_starts(keys, BODIES, 1, lambda _: None)
    many = planet_trajectories(BODIES, SYSTEMS, ROUNDS)
    assert len(few.mass) < len(many)
    kept = {tuple(place.flatten().tolist()) for place in many[:, 0, :, :2]}
    assert {tuple(place.flatten().tolist()) for place in few.place} <= kept


def test_samples_are_standardised_states_and_the_states_after() -> None:
    states = planet_trajectories(BODIES, SYSTEMS, ROUNDS).flatten(-2)
    data = planets(BODIES, SYSTEMS, ROUNDS)
    assert torch.allclose(data.train.x.mean(0), torch.zeros(5 * BODIES), atol=1e-5)
    assert torch.allclose(data.train.x.std(0, correction=0), torch.ones(5 * BODIES), atol=1e-5)
    count = [len(split.y) for split in (data.train, data.val, data.test)]
    assert sum(count) == 100 * len(states)
    assert all(number % 100 == 0 and number > 0 for number in count)
    undone = torch.cat([data.train.x, data.val.x, data.test.x]) * data.deviation + data.mean
    assert torch.allclose(undone, states[:, :100].flatten(0, 1).float(), atol=1e-3)
    after = torch.cat([data.train.y, data.val.y, data.test.y]) * data.deviation + data.mean
    assert torch.allclose(after, states[:, 1:].flatten(0, 1).float(), atol=1e-3)


@pytest.mark.parametrize("arguments", [{"systems": 0}, {"rounds": 0}, {"bodies": 1}, {"systems": 1, "rounds": 1}])
def test_bad_arguments_are_told(arguments: dict[str, int]) -> None:
    with pytest.raises(RecipeError) as caught:
        planets(**arguments)
    assert caught.value.diagnostics[0].code == "B606"
