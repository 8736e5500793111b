"""What the planets need beside their data: a network for the next state, and what a system of bodies keeps.

A state is real[..., 5 * bodies]: x, y, vx, vy and mass of every body in turn, each standardised over the data set
(papers/000, appendix E).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from bilevel.dsl.datatypes import Array
from bilevel.recipes.conditional import PART, conditional_layers
from bilevel.recipes.networks import ACTIVATIONS
from bilevel.recipes.records import Samples, bad_argument, require_positive
from bilevel.registry import func, model

FIELDS = 5  # of one body


class Trained(Protocol):
    """A data set whose training samples hold states and next states."""

    @property
    def train(self) -> Samples: ...


class Standardised(Protocol):
    """A data set that says how its states were standardised, real[5 * bodies] each."""

    @property
    def mean(self) -> Tensor: ...
    @property
    def deviation(self) -> Tensor: ...


# ---- network -------------------------------------------------------------------------------------------------


class PlanetNetwork(nn.Module):
    """Hidden layers with scale and shift after each; the output, times a fixed number per entry, is a change."""

    scale: Tensor

    def __init__(self, width: int, scale: Tensor, activation: str, cn: nn.ModuleList) -> None:
        super().__init__()
        sizes = [len(scale), width, width, width]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(width, len(scale))
        self.cn = cn
        self.activation = ACTIVATIONS[activation]
        self.register_buffer("scale", scale, persistent=False)  # a constant of the data, which moves with the module

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, real[n, width]."""
        for layer, cn in zip(self.hidden, self.cn, strict=True):
            x = cn(self.activation(layer(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Next states real[n, 5 * bodies] of states."""
        return x + self.scale * self.output(self.features(x))  # type: ignore[no-any-return]


@model(
    input=("bodies*5",),
    output=("bodies*5",),
    parts={"hidden": "hidden.*", "output": "output.*", **PART},
    outputs={"features": ("width",)},
)
def planet_mlp(
    width: int = 256, bodies: int = 5, activation: str = "tanh", data: Trained | None = None, cn: str = "all"
) -> nn.Module:
    """Next state of `bodies` planets: three hidden layers with scale and shift (part "cn"), added to the input.

    Takes and gives real[n, 5 * bodies]; `activation` is "tanh", "relu" or "softplus". `data`: a data set of states x
    and next states y; the output is then multiplied by the deviation of y - x over its training samples, entry by
    entry (ours: without it, at a short time step, predicting no change is hard to beat). Source: papers/000,
    appendix E (width 512 there).
    """
    require_positive("planet_mlp", {"width": width, "bodies": bodies})
    if activation not in ACTIVATIONS:
        raise bad_argument("planet_mlp", "activation", '"tanh", "relu" or "softplus"', activation)
    layers = conditional_layers("planet_mlp", cn, [width] * 3)
    return PlanetNetwork(width, change_scale(bodies, data), activation, layers)


def change_scale(bodies: int, data: Trained | None) -> Tensor:
    """Deviation of the change over the training samples, real[5 * bodies]; one without data."""
    if data is None:
        return torch.ones(FIELDS * bodies)
    change = data.train.y - data.train.x
    if change.shape[-1] != FIELDS * bodies:
        expected = f"{change.shape[-1] // FIELDS}, as its data set has"
        raise bad_argument("planet_mlp", "bodies", expected, bodies)
    return change.std(0, correction=0)


# ---- invariants ----------------------------------------------------------------------------------------------


@func(smooth=True, result=Array((), ranked=False))
def energy_and_momentum(
    data: Standardised | None = None, momentum_weight: float = 10.0, gravity: float = 100.0, softening: float = 20.0
) -> Callable[[Tensor], Tensor]:
    """What a system of bodies keeps: f(states real[..., 5 * bodies]) is energy and weighted momentum, real[..., 3].

    Energy sum m v^2 / 2 - sum over pairs of gravity m m' / sqrt(d^2 + softening^2), and momentum sum m v in x and y,
    times `momentum_weight`. `data`: its `mean` and `deviation` undo the standardisation of states first. The physics
    loss of papers/000, section 5.1, is norm1(f(prediction) - f(state)); weight 10: appendix E; gravity and Plummer's
    softening are those of the data. Invariant: energy is finite wherever bodies meet, if softening is positive.
    """
    if softening < 0:
        raise bad_argument("energy_and_momentum", "softening", "0 or more", softening)

    def invariant(states: Tensor) -> Tensor:
        if data is not None:
            states = states * data.deviation.to(states) + data.mean.to(states)
        bodies = states.reshape(*states.shape[:-1], -1, FIELDS)
        place, velocity, mass = bodies[..., :2], bodies[..., 2:4], bodies[..., 4]
        energy = kinetic(velocity, mass) - gravity * attraction(place, mass, softening)
        momentum = momentum_weight * (mass[..., None] * velocity).sum(-2)
        return torch.cat([energy[..., None], momentum], -1)

    return invariant


def kinetic(velocity: Tensor, mass: Tensor) -> Tensor:
    """Sum of m v^2 / 2, real[...], of velocities real[..., n, 2] and masses real[..., n]."""
    return 0.5 * (mass * velocity.square().sum(-1)).sum(-1)


def attraction(place: Tensor, mass: Tensor, softening: float) -> Tensor:
    """Sum over pairs of m m' / sqrt(d^2 + softening^2), real[...], of places real[..., n, 2]."""
    first, second = torch.triu_indices(mass.shape[-1], mass.shape[-1], 1)
    gap = place[..., first, :] - place[..., second, :]
    return (mass[..., first] * mass[..., second] * torch.rsqrt(gap.square().sum(-1) + softening**2)).sum(-1)
