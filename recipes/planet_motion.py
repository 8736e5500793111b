"""Bodies that attract each other in the plane: motion, and the search for starts from which nothing collides.

Takes keys, gives trajectories in float64. Knows no samples, splits or units of a network: see `planets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, normal, uniform

WIDTH, HEIGHT = 600.0, 300.0
GRAVITY = 100.0
SOFTENING = 20.0  # Plummer's; not in the paper: without it close passes decide the error and no network learns them
CRITICAL = 5.0  # closer than this is a collision
STEP, SUBSTEPS = 4.0, 4  # time of one step, and Runge-Kutta steps in it
STABLE_STEPS = 200
KEPT_STEPS = 100
VELOCITY = 0.45  # deviation of each component at the start
MASSES = (0.15, 0.25)
SMALLEST, LARGEST = 1.0, 30.0  # deviation of a perturbation of the places: any size between, log-uniform
TURNED = 0.01  # deviation of that of the velocities, for each unit of the places'


@dataclass(frozen=True, slots=True)
class Bodies:
    """Systems of bodies: place and velocity real[n, bodies, 2], mass real[n, bodies]."""

    place: Tensor
    velocity: Tensor
    mass: Tensor

    def rows(self, chosen: Tensor) -> Bodies:
        """Some of the systems."""
        return Bodies(self.place[chosen], self.velocity[chosen], self.mass[chosen])


def acceleration(place: Tensor, mass: Tensor) -> Tensor:
    """G sum_j m_j (r_j - r_i) / (|r_j - r_i|^2 + softening^2)^1.5, real[..., bodies, 2] of real[..., bodies, 2]."""
    x, y = place.unbind(-1)  # one coordinate at a time: half the time of doing both along a last axis of two
    right, up = x[..., None, :] - x[..., :, None], y[..., None, :] - y[..., :, None]
    root = (right * right + up * up + SOFTENING**2).rsqrt()
    pull = root * root * root * (GRAVITY * mass)[..., None, :]
    return torch.stack([(pull * right).sum(-1), (pull * up).sum(-1)], -1)


def advance(bodies: Bodies) -> Bodies:
    """The systems one step of `STEP` later, by the classical Runge-Kutta method of order 4."""
    place, velocity, mass, h = bodies.place, bodies.velocity, bodies.mass, STEP / SUBSTEPS
    for _ in range(SUBSTEPS):
        a1 = acceleration(place, mass)
        v2 = velocity + 0.5 * h * a1
        a2 = acceleration(place + 0.5 * h * velocity, mass)
        v3 = velocity + 0.5 * h * a2
        a3 = acceleration(place + 0.5 * h * v2, mass)
        v4 = velocity + h * a3
        a4 = acceleration(place + h * v3, mass)
        place = place + h / 6.0 * (velocity + 2.0 * v2 + 2.0 * v3 + v4)
        velocity = velocity + h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4)
    return Bodies(place, velocity, mass)


def sound(bodies: Bodies) -> Tensor:
    """Whether no body is outside the grid and no two are closer than the critical distance, bool[n]."""
    x, y = bodies.place.unbind(-1)
    inside = ((x >= 0.0) & (x <= WIDTH) & (y >= 0.0) & (y <= HEIGHT)).all(-1)
    count = bodies.place.shape[-2]
    first, second = torch.triu_indices(count, count, 1)
    apart = (bodies.place[..., first, :] - bodies.place[..., second, :]).square().sum(-1)
    return inside & (apart >= CRITICAL**2).all(-1)


def lifetimes(bodies: Bodies, steps: int = STABLE_STEPS) -> Tensor:
    """For how many steps each system stays sound, int64[n], at most `steps`."""
    lived = torch.zeros(len(bodies.mass), dtype=torch.int64)
    alive = torch.nonzero(sound(bodies))[:, 0]
    moving = bodies.rows(alive)
    for step in range(1, steps + 1):
        moving = advance(moving)
        lasting = sound(moving)
        alive, moving = alive[lasting], moving.rows(lasting)
        lived[alive] = step
    return lived


def starts(keys: Tensor, bodies: int) -> Bodies:
    """A start for every key: uniform in the central half of the grid, normal velocities, uniform masses."""
    unit = uniform(fold(keys, "place"), bodies, 2, low=0.25, high=0.75, dtype=torch.float64)
    velocity = normal(fold(keys, "velocity"), bodies, 2, deviation=VELOCITY, dtype=torch.float64)
    mass = uniform(fold(keys, "mass"), bodies, low=MASSES[0], high=MASSES[1], dtype=torch.float64)
    return Bodies(unit * torch.tensor([WIDTH, HEIGHT], dtype=torch.float64), velocity, mass)


def perturbed(bodies: Bodies, keys: Tensor) -> Bodies:
    """The starts moved a little; masses stay."""
    shape, ends = bodies.place.shape[1:], (math.log(SMALLEST), math.log(LARGEST))
    size = torch.exp(uniform(fold(keys, "size"), 1, 1, low=ends[0], high=ends[1], dtype=torch.float64))
    moved = size * normal(fold(keys, "moved"), *shape, dtype=torch.float64)
    turned = TURNED * size * normal(fold(keys, "turned"), *shape, dtype=torch.float64)
    return Bodies(bodies.place + moved, bodies.velocity + turned, bodies.mass)


def stable_starts(keys: Tensor, bodies: int, rounds: int, ready: Callable[[int], None]) -> Bodies:
    """The starts, one for each key at most, that stay sound for `STABLE_STEPS` steps.

    Where a start does not last, it is moved at random, and the new one kept if it lasts longer; `rounds` times. What
    becomes of a key depends on that key alone. `ready` is told after every round. Cost: one motion of all systems
    that do not last yet in each round. Source: papers/000, appendix E.
    """
    best = starts(keys, bodies)
    lived = lifetimes(best)
    ready(1)
    for number in range(1, rounds):
        lasting = torch.nonzero(lived < STABLE_STEPS)[:, 0]
        tried = perturbed(best.rows(lasting), fold(keys[lasting], "round", number))
        new = lifetimes(tried)
        better = new > lived[lasting]
        changed = lasting[better]
        lived[changed] = new[better]
        for kept, found in ((best.place, tried.place), (best.velocity, tried.velocity)):
            kept[changed] = found[better]
        ready(1)
    return best.rows(lived >= STABLE_STEPS)


def trajectories(bodies: Bodies, steps: int = KEPT_STEPS) -> Tensor:
    """x, y, vx, vy, m of every body at every step, real[n, steps + 1, bodies, 5]."""
    states = []
    for step in range(steps + 1):
        bodies = advance(bodies) if step else bodies
        states.append(torch.cat([bodies.place, bodies.velocity, bodies.mass[..., None]], -1))
    return torch.stack(states, 1)
