"""A pendulum to be swung up: transitions of a random policy, and rollouts of any other.

The dynamics are gymnasium's `Pendulum-v1`, an optional dependency. Planning and learning are recipes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, uniform
from bilevel.dsl.datatypes import real, record, records
from bilevel.errors import fail
from bilevel.recipes.records import require_positive
from bilevel.registry import data

if TYPE_CHECKING:
    import gymnasium

STEPS = 200  # of an episode, as registered in gymnasium
TORQUE = 2.0  # the largest
FASTEST = 8.0


class Transitions(NamedTuple):
    """State and action `x`, next state `y`, the state alone, and the reward; one row for each step."""

    x: Tensor
    y: Tensor
    state: Tensor
    reward: Tensor


class TransitionSplits(NamedTuple):
    """Episodes of three disjoint sets of starts."""

    train: Transitions
    val: Transitions
    test: Transitions


class Rollout(NamedTuple):
    """One episode: states real[steps + 1, 3], actions real[steps, 1], rewards real[steps]."""

    states: Tensor
    actions: Tensor
    rewards: Tensor


Policy = Callable[[Tensor, int], Tensor]
"""From a state real[3] and the number of the step to a torque real[1] in [-2, 2]."""


STATES = records("?", x=real(4), y=real(3), state=real(3), reward=real())


@data(yields=record(train=STATES, val=STATES, test=STATES))
def pendulum(episodes: int = 10, held: int = 10) -> TransitionSplits:
    """Transitions of gymnasium's Pendulum-v1 under uniform torques, 200 a whole episode.

    A state is (cos, sin, angular velocity), the action a torque in [-2, 2]: x real[4] holds both, y real[3] is the
    next state, `reward` real[]. `episodes` for train, `held` for val and for test; start and torques of an episode
    follow from its split and number, so that fewer are the first of more. For papers/000, section 5.3. Cost: 20 ms
    an episode. Fails when: gymnasium is not installed (B608).
    """
    require_positive("pendulum", {"episodes": episodes, "held": held})
    counts = {"train": episodes, "val": held, "test": held}
    return TransitionSplits(*(_transitions(name, count) for name, count in counts.items()))


def _transitions(split: str, episodes: int) -> Transitions:
    rollouts = [random_rollout(split, number) for number in range(episodes)]
    states = torch.cat([r.states[:-1] for r in rollouts])
    following = torch.cat([r.states[1:] for r in rollouts])
    actions, rewards = torch.cat([r.actions for r in rollouts]), torch.cat([r.rewards for r in rollouts])
    return Transitions(torch.cat([states, actions], 1), following, states, rewards)


def random_rollout(split: str, number: int) -> Rollout:
    """The episode `number` of a split, under uniform torques."""
    key = fold(make_key(0), "pendulum", split, number)
    torques = uniform(key, STEPS, 1, low=-TORQUE, high=TORQUE)
    return rollout(lambda _, step: torques[step], _seed(key))


def rollout(policy: Policy, seed: int, steps: int = STEPS) -> Rollout:
    """One episode of a policy from the start that gymnasium draws for `seed`; float in torch's default dtype."""
    environment = _environment()
    observed, _ = environment.reset(seed=seed)
    dtype = torch.get_default_dtype()
    states, actions, rewards = [torch.as_tensor(observed, dtype=dtype)], [], []
    for step in range(steps):
        action = policy(states[-1], step).detach().to(dtype).reshape(1).clamp(-TORQUE, TORQUE)
        observed, reward, *_ = environment.step(action.numpy().astype(np.float32))
        states.append(torch.as_tensor(observed, dtype=dtype))
        actions.append(action)
        rewards.append(float(reward))
    environment.close()
    return Rollout(torch.stack(states), torch.stack(actions), torch.tensor(rewards, dtype=dtype))


def reward_of(states: Tensor, actions: Tensor) -> Tensor:
    """The reward of torques real[..., 1] in states real[..., 3]: -(angle^2 + 0.1 velocity^2 + 0.001 torque^2)."""
    angle = torch.atan2(states[..., 1], states[..., 0])
    return -(angle.square() + 0.1 * states[..., 2].square() + 0.001 * actions[..., 0].square())


def _seed(key: Tensor) -> int:
    return int(key) % 2**31


def _environment() -> gymnasium.Env[Any, Any]:
    """The bare pendulum, without gymnasium's limits on the number of steps."""
    try:
        from gymnasium.envs.classic_control.pendulum import PendulumEnv
    except ImportError as error:
        raise fail(
            "B608",
            "`pendulum` needs gymnasium, which is not installed",
            why=str(error),
            fix='pip install "bilevel[control]"',
        ) from error
    return PendulumEnv()
