"""What tailoring is worth to a planner: the return of random shooting in each learned model of the pendulum.

The tailored predictions are those of the emitted module. Runs at the end, and trains nothing. For papers/000, section 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn, vmap
from torch.func import functional_call

from bilevel.outcome import Table
from bilevel.recipes.pendulum import Policy, Transitions
from bilevel.recipes.planning import Model, Settings, planned, random_policy, returns
from bilevel.recipes.summaries import Summary
from bilevel.run import Run

Leaves = dict[str, Tensor]


def control_summary(run: Run) -> Summary | None:
    """Test errors and returns; None for a recipe without the levels and variables of `control`."""
    net = run.program.parts.objects.get("net")
    if net is None or "tailor" not in run.program.phases[-1].solves or not {"v", "w"} <= set(run.state):
        return None
    members, settings = len(next(iter(run.state["v"].values()))), Settings()
    models = {"plain": plain_model(net, run.state["v"]), "tailored": tailored_model(run, net)}
    policies = {name: partial(_planned, model, members, settings) for name, model in models.items()}
    asked: dict[str, Callable[[int], Policy]] = {"random torques": random_policy, **policies}
    found = {name: returns(policy, settings) for name, policy in asked.items()}
    errors = {"plain": _last(run, "plain"), "tailored": _last(run, "test")}
    rows = tuple((name, errors.get(name, ""), *_spelled(value)) for name, value in found.items())
    title = f"random shooting on {settings.episodes} episodes of {settings.steps} steps"
    return Summary(Table(title, ("model", "test error", "mean return", "each episode"), rows))


def plain_model(net: nn.Module, weights: Leaves) -> Model:
    """The members as they were learned; leaves real[members, ...]."""

    def model(states: Tensor, torques: Tensor) -> Tensor:
        x = torch.cat([states, torques], -1).to(next(iter(weights.values())))
        with torch.no_grad():
            changes: Tensor = vmap(partial(functional_call, net))(weights, (x,))
        return states + changes.to(states)

    return model


def tailored_model(run: Run, net: nn.Module) -> Model:
    """Every member tailored to each of its predictions by the level `tailor` of the run.

    The level tailors all members to a sample; of those only the one whose prediction it is is kept.
    """
    weights = run.state["w"]

    def model(states: Tensor, torques: Tensor) -> Tensor:
        x = torch.cat([states, torques], -1).to(next(iter(weights.values())))
        scales = _own(_tailored(run, x.flatten(0, 1)), len(x))
        with torch.no_grad():
            changes: Tensor = vmap(vmap(partial(_predicted, net), (None, 0, 0)))(weights, scales, x)
        return states + changes.to(states)

    return model


def _tailored(run: Run, x: Tensor) -> Leaves:
    """Scales and shifts, real[n, members, ...], for states and torques real[n, 4]."""
    unused = torch.zeros_like(x[:, :3])
    found: Leaves = run.solve("tailor", copies=True, s=Transitions(x, unused, x[:, :3], unused[:, 0]))
    return found


def _own(found: Leaves, members: int) -> Leaves:
    """From real[members * n, members, ...] to each member's own, real[members, n, ...]."""
    apart = {name: leaf.reshape(members, -1, *leaf.shape[1:]) for name, leaf in found.items()}
    return {name: torch.stack([leaf[k, :, k] for k in range(members)]) for name, leaf in apart.items()}


def _predicted(net: nn.Module, weights: Leaves, scales: Leaves, x: Tensor) -> Tensor:
    """The change of one state, real[3]."""
    return functional_call(net, {**weights, **scales}, (x[None],))[0]  # type: ignore[no-any-return]


def _planned(model: Model, members: int, settings: Settings, seed: int) -> Policy:
    return planned(model, members, seed, settings)


def _spelled(found: Tensor) -> tuple[str, str]:
    return f"{float(found.mean()):.1f}", ", ".join(f"{float(value):.1f}" for value in found)


def _last(run: Run, report: str) -> str:
    return f"{run.reports[report][-1][1]:.4g}" if run.reports.get(report) else ""
