"""Attacks on a classifier that may only be asked: every image shown to it counts as one query.

Source: papers/001, appendix B, algorithm 4 (Du et al. 2020), and coordinate-wise finite differences as the control.
Untargeted (table 3) or towards a class (table 7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from bilevel.recipes.records import Samples


class BlackBox:
    """A classifier that gives logits and counts the images it was asked about."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.queries = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Logits real[n, classes] of images real[n, channels, height, width]; n queries."""
        self.queries += len(x)
        with torch.no_grad():
            return self.network(x)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Goal:
    """Away from the class `label`, or `targeted`, towards it."""

    label: int
    targeted: bool = False

    def value(self, logits: Tensor) -> Tensor:
        """What an attack raises, real[n] of logits real[n, classes]: the cross entropy, or its negative."""
        wanted = torch.full((len(logits),), self.label, dtype=torch.int64, device=logits.device)
        loss = functional.cross_entropy(logits, wanted, reduction="none")
        return -loss if self.targeted else loss

    def met(self, logits: Tensor) -> bool:
        """Whether the largest of logits real[1, classes] is elsewhere, or there."""
        return (int(logits.argmax()) == self.label) == self.targeted


@dataclass(frozen=True, slots=True)
class Settings:
    """Of algorithm 4: interval j, coordinates q and rate lambda; what the paper leaves open is ours.

    `radius` is that of the difference quotients, `tuning` and `tuning_rate` the steps of line 4, `limit` the
    iterations after which an attack has failed.
    """

    interval: int = 3
    coordinates: int = 32
    rate: float = 0.1
    radius: float = 0.05
    tuning: int = 5
    tuning_rate: float = 0.01
    limit: int = 60


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: whether it succeeded, the Euclidean distance it moved the image, and the queries it took."""

    success: bool
    distance: float
    queries: int


Estimate = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""From the iteration and the image real[1, ...]: a gradient, flat, and the coordinates along which to move."""


def difference_quotients(box: BlackBox, x: Tensor, goal: Goal, places: Tensor, radius: float) -> Tensor:
    """Two-sided differences of the value of `goal` at real[1, ...] `x` along `places`, real[len(places)].

    Cost: two queries for each coordinate.
    """
    moves = torch.zeros(len(places), x.numel(), dtype=x.dtype, device=x.device)
    moves[torch.arange(len(places)), places] = radius
    around = torch.cat([x.flatten(1) + moves, x.flatten(1) - moves]).reshape(-1, *x.shape[1:])
    above, below = goal.value(box(around)).chunk(2)
    return (above - below) / (2.0 * radius)


def meta_attack(
    box: BlackBox, x: Tensor, goal: Goal, attacker: nn.Module, weights: Mapping[str, Tensor], settings: Settings
) -> Attack:
    """Algorithm 4 on the image real[channels, height, width]: predicted gradients, checked in every j-th iteration.

    The estimates are scaled to the size of the prediction at the same coordinates, since those are of mean square 1
    (ours; line 4 compares the two). Weights of the attacker are tuned for this image alone.
    """
    tuned = {name: leaf.detach().clone() for name, leaf in weights.items()}

    def estimate(iteration: int, image: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal tuned
        with torch.no_grad():
            gradient = functional_call(attacker, tuned, (image,)).flatten()
        places = gradient.abs().topk(min(settings.coordinates, gradient.numel())).indices
        if (iteration + 1) % settings.interval:
            return gradient, places
        found = difference_quotients(box, image, goal, places, settings.radius)
        found = found * gradient[places].norm() / found.norm().clamp(min=1e-30)
        tuned = _tuned(attacker, tuned, image, places, found, settings)
        return gradient.index_copy(0, places, found), places

    return _attack(box, x, goal, estimate, settings)


def finite_differences(box: BlackBox, x: Tensor, goal: Goal, settings: Settings) -> Attack:
    """The control: all coordinates by difference quotients in every iteration, a step along the largest."""

    def estimate(_: int, image: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(image.numel(), device=image.device)
        gradient = difference_quotients(box, image, goal, places, settings.radius)
        return gradient, gradient.abs().topk(min(settings.coordinates, gradient.numel())).indices

    return _attack(box, x, goal, estimate, settings)


def _attack(box: BlackBox, x: Tensor, goal: Goal, estimate: Estimate, settings: Settings) -> Attack:
    """Steps of the rate, in root mean square over the chosen coordinates, until the goal is met; one query each."""
    before, image = box.queries, x[None]
    for iteration in range(settings.limit):
        gradient, places = estimate(iteration, image)
        step = torch.zeros_like(gradient)
        step[places] = gradient[places] / gradient[places].square().mean().sqrt().clamp(min=1e-30)
        image = (image + settings.rate * step.reshape(image.shape)).clamp(0.0, 1.0)
        if goal.met(box(image)):
            return Attack(True, float((image[0] - x).norm()), box.queries - before)
    return Attack(False, float((image[0] - x).norm()), box.queries - before)


def _tuned(
    attacker: nn.Module,
    weights: Mapping[str, Tensor],
    image: Tensor,
    places: Tensor,
    found: Tensor,
    settings: Settings,
) -> dict[str, Tensor]:
    """Line 4: gradient steps on the mean squared error at the coordinates that were estimated."""
    module = deepcopy(attacker)
    module.load_state_dict(dict(weights))
    descent = torch.optim.SGD(module.parameters(), lr=settings.tuning_rate)
    for _ in range(settings.tuning):
        descent.zero_grad()
        torch.autograd.backward(functional.mse_loss(module(image).flatten()[places], found))
        descent.step()
    return {name: leaf.detach() for name, leaf in module.named_parameters()}


def correct(network: nn.Module, samples: Samples, count: int) -> Samples:
    """The first `count` samples, or fewer, that the network labels as they are."""
    with torch.no_grad():
        right = torch.nonzero(network(samples.x).argmax(-1) == samples.y)[:count, 0]
    return Samples(samples.x[right], samples.y[right])


def summary_of(attacks: Sequence[Attack]) -> tuple[float, float, float]:
    """Share of successes, mean distance of the successes (nan without one), mean queries of all attacks."""
    moved = [one.distance for one in attacks if one.success]
    share = len(moved) / len(attacks)
    return share, fmean(moved) if moved else float("nan"), fmean(one.queries for one in attacks)
