"""Attacks that may only ask: what they estimate, and that every query is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel.recipes.attacks import (
    Attack,
    BlackBox,
    Goal,
    Settings,
    difference_quotients,
    finite_differences,
    meta_attack,
    summary_of,
)

SIDE, CLASSES = 4, 3
SETTINGS = Settings(interval=3, coordinates=5, rate=0.02, radius=1e-4, limit=40)


class Watched(nn.Module):
    """A linear classifier that notes how many images it was given."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(CLASSES, SIDE * SIDE, generator=generator, dtype=torch.float64)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.flatten(1) @ self.matrix.T


class Noting(nn.Module):
    """The identity; keeps what passes."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x


class Knowing(nn.Module):
    """An attacker that knows the victim: the gradient itself, times a weight that starts at one."""

    def __init__(self, victim: Watched, label: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.victim, self.label = [victim], label

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.victim[0].matrix
        others = torch.softmax(x.flatten(1) @ matrix.T, -1)
        others = others - functional.one_hot(torch.tensor([self.label]), CLASSES)
        return self.scale * (others @ matrix).reshape(x.shape)


def example() -> tuple[Watched, Tensor, int]:
    victim = Watched()
    x = 0.4 + 0.2 * torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = int(victim(x[None]).argmax())
    victim.seen = 0
    return victim, x, label


def test_difference_quotients_are_the_gradient_and_cost_two_queries_each() -> None:
    victim, x, label = example()
    box, places = BlackBox(victim), torch.tensor([3, 0, 7])
    found = difference_quotients(box, x[None], Goal(label), places, 1e-4)
    leaf = x[None].clone().requires_grad_()
    functional.cross_entropy(victim(leaf), torch.tensor([label])).backward()
    assert leaf.grad is not None
    assert torch.allclose(found, leaf.grad.flatten()[places], rtol=1e-6, atol=1e-9)
    assert box.queries == 6 == victim.seen - 1


def test_finite_differences_pay_for_every_coordinate_in_every_iteration() -> None:
    victim, x, label = example()
    attack = finite_differences(BlackBox(victim), x, Goal(label), SETTINGS)
    assert attack.success and attack.distance > 0
    assert attack.queries == victim.seen and attack.queries % (2 * SIDE * SIDE + 1) == 0


def test_a_meta_attack_pays_for_some_coordinates_in_every_third_iteration() -> None:
    victim, x, label = example()
    attacker = Knowing(victim, label)
    weights = dict(attacker.named_parameters())
    attack = meta_attack(BlackBox(victim), x, Goal(label), attacker, weights, SETTINGS)
    assert attack.success and attack.queries == victim.seen
    assert attack.queries in {n + 2 * SETTINGS.coordinates * (n // 3) for n in range(1, SETTINGS.limit + 1)}
    assert attack.queries < finite_differences(BlackBox(victim), x, Goal(label), SETTINGS).queries / 4
    assert float(attacker.scale.detach()) == 1.0, "what is tuned for one image stays with it"


def test_a_targeted_attack_ends_at_its_class() -> None:
    victim, x, label = example()
    for target in {0, 1, 2} - {label}:
        ends: list[Tensor] = []
        box = BlackBox(nn.Sequential(Noting(ends), victim))
        attack = finite_differences(box, x, Goal(target, targeted=True), replace(SETTINGS, limit=400))
        assert attack.success and int(victim(ends[-1]).argmax()) == target
    assert not Goal(label, targeted=True).met(victim(ends[-1]))


def test_an_attack_that_does_not_get_there_says_so() -> None:
    victim, x, label = example()
    attack = finite_differences(BlackBox(victim), x, Goal(label), Settings(rate=1e-9, limit=2))
    assert not attack.success and attack.queries == 2 * (2 * SIDE * SIDE + 1)


def test_distances_are_of_the_attacks_that_succeed() -> None:
    share, distance, queries = summary_of([Attack(True, 2.0, 10), Attack(False, 9.0, 30)])
    assert (share, distance, queries) == pytest.approx((0.5, 2.0, 20.0))
