"""The pendulum: transitions that follow its equations, episodes of their own in each split, and the missing package."""

from __future__ import annotations

import sys

import pytest
import torch

from bilevel.errors import RecipeError
from bilevel.recipes.pendulum import pendulum, reward_of, rollout


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium.envs.classic_control.pendulum", None)
    with pytest.raises(RecipeError) as caught:
        pendulum(episodes=1, held=1)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "B608"
    assert diagnostic.fix == 'pip install "bilevel[control]"'


def test_transitions_follow_the_equations() -> None:
    """Gymnasium's: v' = v + (15 sin(angle) + 3 torque) 0.05, clipped to 8; angle' = angle + 0.05 v'."""
    pytest.importorskip("gymnasium")
    train = pendulum(episodes=3, held=1).train
    assert train.x.shape == (600, 4)
    angle = torch.atan2(train.x[:, 1], train.x[:, 0])
    velocity = (train.x[:, 2] + 0.05 * (15 * torch.sin(angle) + 3 * train.x[:, 3])).clamp(-8, 8)
    after = angle + 0.05 * velocity
    expected = torch.stack([torch.cos(after), torch.sin(after), velocity], 1)
    assert torch.allclose(train.y, expected, atol=1e-4)
    assert torch.equal(train.state, train.x[:, :3])
    assert torch.allclose(train.reward, reward_of(train.state, train.x[:, 3:]), atol=1e-3)
    assert -2 <= float(train.x[:, 3].min()) < -1.9
    assert 1.9 < float(train.x[:, 3].max()) <= 2


def test_fewer_episodes_are_the_first_of_more_and_splits_differ() -> None:
    pytest.importorskip("gymnasium")
    more, fewer = pendulum(episodes=3, held=1), pendulum(episodes=2, held=1)
    assert torch.equal(more.train.x[:400], fewer.train.x)
    assert not torch.isin(more.train.x[:, 3], more.test.x[:, 3]).any()
    assert not torch.isin(more.val.x[:, 3], more.test.x[:, 3]).any()


def test_a_rollout_is_a_function_of_policy_and_seed() -> None:
    pytest.importorskip("gymnasium")

    def brake(state: torch.Tensor, step: int) -> torch.Tensor:
        return -5.0 * state[2]  # beyond the limit: clipped

    first, again, other = rollout(brake, 3, 40), rollout(brake, 3, 40), rollout(brake, 4, 40)
    assert first.states.shape == (41, 3)
    assert torch.equal(first.states, again.states)
    assert not torch.equal(first.states, other.states)
    assert float(first.actions.abs().max()) <= 2.0
    assert torch.allclose(first.rewards, reward_of(first.states[:-1], first.actions), atol=1e-3)


@pytest.mark.parametrize("arguments", [{"episodes": 0}, {"held": 0}])
def test_bad_arguments_are_told(arguments: dict[str, int]) -> None:
    with pytest.raises(RecipeError) as caught:
        pendulum(**arguments)
    assert caught.value.diagnostics[0].code == "B606"
