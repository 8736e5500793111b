"""Random shooting on the pendulum: a function of its seed, and on a perfect model better than random torques."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import bilevel
from bilevel.recipes.control_summary import plain_model, tailored_model
from bilevel.recipes.planning import Settings, best_torque, planned, random_policy, returns

SETTINGS = Settings(horizon=12, candidates=32, hold=4, episodes=3, steps=60)


def perfect(states: Tensor, torques: Tensor) -> Tensor:
    """The equations of gymnasium's Pendulum-v1."""
    angle = torch.atan2(states[..., 1], states[..., 0])
    velocity = (states[..., 2] + 0.05 * (15 * torch.sin(angle) + 3 * torques[..., 0])).clamp(-8, 8)
    after = angle + 0.05 * velocity
    return torch.stack([torch.cos(after), torch.sin(after), velocity], -1)


def test_shooting_in_a_perfect_model_beats_random_torques_in_every_episode() -> None:
    pytest.importorskip("gymnasium")
    shooting = returns(lambda seed: planned(perfect, 1, seed, SETTINGS), SETTINGS)
    assert bool((shooting > returns(random_policy, SETTINGS)).all())
    assert torch.equal(shooting, returns(lambda seed: planned(perfect, 1, seed, SETTINGS), SETTINGS))


def test_the_torque_depends_on_seed_and_step_alone() -> None:
    state = torch.tensor([-1.0, 0.0, 0.5])
    first, again, other = (planned(perfect, 2, seed, SETTINGS) for seed in (1, 1, 2))
    assert torch.equal(first(state, 3), again(state, 3))
    assert not torch.equal(first(state, 3), first(state, 4))
    assert not torch.equal(first(state, 3), other(state, 3))


def test_the_members_are_averaged_in_any_order() -> None:
    state, key = torch.tensor([-1.0, 0.0, 0.5]), torch.tensor(7)
    signs = torch.tensor([1.0, 0.5])[:, None, None]
    both, turned = (lambda s, a, by=by: perfect(s, by * a) for by in (signs, signs.flip(0)))
    assert torch.equal(best_torque(both, 2, state, key, SETTINGS), best_torque(turned, 2, state, key, SETTINGS))
    alone = best_torque(perfect, 1, state, key, SETTINGS)
    assert torch.equal(best_torque(perfect, 3, state, key, SETTINGS), alone)
    assert not torch.equal(best_torque(lambda s, a: perfect(s, -a), 1, state, key, SETTINGS), alone)


def test_the_models_predict_as_the_recipe_says() -> None:
    """Against autograd, sample by sample, with a step that is long enough to be seen."""
    pytest.importorskip("gymnasium")
    short = {"before.steps": 5, "plain.steps": 5, "learn.steps": 5, "tailor.by.lr": 0.01}
    run = bilevel.compile(bilevel.load("control_quick").with_(short), dtype=torch.float64).run()
    parts = run.program.parts.objects
    net, test = parts["net"], parts["data"].test
    states, torques = (v[:20].expand(2, -1, -1).double() for v in (test.state, test.x[:, 3:]))
    expected = torch.stack([by_hand(run, k, states[0], test.x[:20].double()) for k in range(2)])
    assert torch.allclose(tailored_model(run, net)(states, torques), expected, rtol=0, atol=1e-10)
    plain = torch.stack([functional_call(net, member(run, "v", k), (test.x[:20].double(),)) for k in range(2)])
    assert torch.allclose(plain_model(net, run.state["v"])(states, torques), states + plain, rtol=0, atol=1e-10)


def member(run: bilevel.Run, name: str, place: int) -> dict[str, Tensor]:
    return {n: leaf[place] for n, leaf in run.state[name].items()}


def by_hand(run: bilevel.Run, place: int, states: Tensor, x: Tensor) -> Tensor:
    """One gradient step for each sample from the identity, with autograd."""
    parts, found = run.program.parts.objects, []
    cn = {n: p for n, p in parts["net"].named_parameters() if "cn" in n}
    for state, one in zip(states, x, strict=True):
        z = {n: (torch.ones_like if "gamma" in n else torch.zeros_like)(p).double() for n, p in cn.items()}
        live = {n: v.requires_grad_() for n, v in z.items()}
        mixture = functional_call(parts["prior"], run.state["m"], (state[None],))
        change = functional_call(parts["net"], {**member(run, "w", place), **live}, (one[None],))
        slopes = torch.autograd.grad(-parts["loglik"](mixture, change).sum(), list(live.values()))
        z = {n: (v - 0.01 * g).clamp(-10, 10).detach() for (n, v), g in zip(live.items(), slopes, strict=True)}
        moved = functional_call(parts["net"], {**member(run, "w", place), **z}, (one[None],))[0]
        found.append((state + moved).detach())
    return torch.stack(found)
