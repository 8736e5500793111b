"""Planning in a learned model of the pendulum by random shooting, with the first torque executed and planned again.

Source: papers/000, section 5.3. The paper's planner is that of PDDM (Nagabandi et al. 2020), which weighs its candidates
by their rewards; this one takes the best of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, uniform
from bilevel.recipes.pendulum import TORQUE, Policy, reward_of, rollout

Model = Callable[[Tensor, Tensor], Tensor]
"""From states real[members, n, 3] and torques real[members, n, 1] to the next states, each member by itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of random shooting; all ours. A torque is held for `hold` steps, since white noise hardly moves a pendulum."""

    horizon: int = 12
    candidates: int = 32
    hold: int = 4
    episodes: int = 2
    steps: int = 60


def best_torque(model: Model, members: int, state: Tensor, key: Tensor, settings: Settings) -> Tensor:
    """The first torque, real[1], of the candidate whose reward over the horizon, the mean of the members, is largest.

    `state` is real[3]. Cost: `horizon` calls of the model with `candidates` states for each member.
    """
    blocks = -(-settings.horizon // settings.hold)
    held = uniform(key, settings.candidates, blocks, 1, low=-TORQUE, high=TORQUE).to(state)
    torques = held.repeat_interleave(settings.hold, 1)
    states = state.expand(members, settings.candidates, 3)
    total = state.new_zeros(members, settings.candidates)
    for step in range(settings.horizon):
        torque = torques[:, step].expand(members, -1, -1)
        states = model(states, torque)
        total = total + reward_of(states, torque)
    return torques[total.mean(0).argmax(), 0]


def planned(model: Model, members: int, seed: int, settings: Settings) -> Policy:
    """The policy that plans anew in every step; a function of `seed`."""
    key = fold(make_key(seed), "shooting")
    return lambda state, step: best_torque(model, members, state, fold(key, step), settings)


def random_policy(seed: int) -> Policy:
    """Uniform torques, a function of `seed`."""
    key = fold(make_key(seed), "random")
    return lambda _, step: uniform(fold(key, step), 1, low=-TORQUE, high=TORQUE)


def returns(policy: Callable[[int], Policy], settings: Settings) -> Tensor:
    """The return of each episode, real[episodes]; the same starts for every policy. Raises B608 without gymnasium."""
    seeds = range(settings.episodes)
    return torch.stack([rollout(policy(seed), seed, settings.steps).rewards.sum() for seed in seeds])
