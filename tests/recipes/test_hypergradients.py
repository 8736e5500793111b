"""Hypergradients of the packaged recipes in float64: against finite differences, and against their definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from bilevel.plan import Plan
from bilevel.recipes.records import Samples, Task, TaskSplits
from tests.zoo.compiled import Compiled, build, hypergradient, packaged, plan_text

SMALL = "use net = conv4(ways = 3, filters = 4)\nuse tasks = glyphs(ways = 3, shots = 2, queries = 2, classes = 6)\n"
TINY = "level meta { each task ~ tasks.train[3] }\n"


def small(parent: str, more: str = "") -> str:
    """A recipe of the package on three tasks of three glyphs, with a network of four filters."""
    return f"recipe small_{parent} extends {parent}\n{SMALL}{TINY}{more}"


def difference(compiled: Compiled, seed: int, directions: int = 3, radius: float = 1e-6) -> float:
    """The largest error of the slope along random directions of length 1, relative to the slope to be expected.

    The networks are piecewise smooth, and across a kink of an inner gradient even the objective jumps: a central
    difference is right where no kink is near, hence the short radius.
    """
    phase, key = compiled.phase, compiled.key(seed)
    state = phase.begin(key)
    gradient, _ = phase.hypergradient(state, key)
    generator, worst = torch.Generator().manual_seed(seed), 0.0
    expected = (product(gradient, gradient) / sum(leaf.numel() for leaf in flat(gradient))) ** 0.5
    for _ in range(directions):
        way = like(state.x, lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
        length = product(way, way) ** 0.5
        up, down = (phase.hypergradient(moved(state, way, sign * radius / length), key)[1] for sign in (1, -1))
        slope = product(gradient, way) / length
        worst = max(worst, abs((up - down).item() / (2 * radius) - slope) / max(abs(slope), expected))
    return worst


def like(tree: Any, function: Any) -> Any:
    """`function` of every tensor of a tree."""
    if isinstance(tree, dict):
        return {name: like(branch, function) for name, branch in tree.items()}
    return tuple(like(branch, function) for branch in tree) if isinstance(tree, tuple) else function(tree)


def flat(tree: Any) -> list[Tensor]:
    """The tensors of a tree."""
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else None
    return [tree] if branches is None else [leaf for branch in branches for leaf in flat(branch)]


def product(left: Any, right: Any) -> float:
    return sum((a * b).sum().item() for a, b in zip(flat(left), flat(right), strict=True))


def moved(state: Any, way: Any, length: float) -> Any:
    shifts = iter(flat(way))
    return state._replace(x=like(state.x, lambda leaf: leaf + length * next(shifts)))


HPO = "recipe small_hpo extends hpo\nuse net = mlp(64, 8, 10)\nuse data = digits(size = 8)\ntrain.steps = 5\n"
EXACT: dict[str, Callable[[], Plan]] = {
    "maml_sine": lambda: packaged("maml_sine", ["task.count=4"]),
    "maml": lambda: plan_text(small("maml")),
    "meta_sgd": lambda: plan_text(small("meta_sgd")),
    "hpo": lambda: plan_text(HPO),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_hypergradient_is_the_slope_of_the_objective(name: str) -> None:
    plan = EXACT[name]()
    assert plan.exactness == "exact"
    assert difference(build(plan), seed=2) < 1e-6


# ---- methods that are defined by another direction than the slope -------------------------------------------


class Replay:
    """A stream that has one set of tasks, whatever the keys."""

    def __init__(self, tasks: Task) -> None:
        self.tasks = tasks

    def sample(self, keys: Tensor) -> Task:
        assert keys.shape == self.tasks.support.x.shape[:1]
        return self.tasks

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Replay:
        return Replay(like_task(self.tasks, lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype)))


def like_task(task: Task, function: Any) -> Task:
    return Task(*(Samples(*(function(field) for field in samples)) for samples in task))


def glyph_tasks(seed: int, count: int, support: int, query: int) -> Task:
    """Pictures that are nobody's: three classes, each a noisy pattern of its own."""
    generator = torch.Generator().manual_seed(seed)

    def samples(n: int) -> Samples:
        y = torch.arange(3).repeat(n).expand(count, -1).clone()
        noise = torch.rand(count, 3 * n, 1, 28, 28, generator=generator, dtype=torch.float64)
        pattern = torch.rand(count, 3, 1, 28, 28, generator=generator, dtype=torch.float64)
        return Samples(0.5 * noise + pattern.repeat(1, n, 1, 1, 1), y)

    return Task(samples(support), samples(query))


def loss(net: torch.nn.Module, w: Mapping[str, Tensor], data: Samples) -> Tensor:
    return torch.nn.functional.cross_entropy(functional_call(net, dict(w), (data.x,)), data.y)


def one(tasks: Task, number: int) -> Task:
    return like_task(tasks, lambda field: field[number])


def gradient_of(net: torch.nn.Module, w: Mapping[str, Tensor], data: Samples) -> dict[str, Tensor]:
    """By autograd, as anyone would write it."""
    leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
    found = torch.autograd.grad(loss(net, leaves, data), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def replayed(text: str, tasks: Task) -> tuple[Compiled, dict[str, Tensor]]:
    compiled = build(plan_text(text), {"tasks": TaskSplits(Replay(tasks), Replay(tasks), Replay(tasks))})
    return compiled, compiled.phase.values(compiled.phase.begin(compiled.key()))["theta"]


def mean_of(trees: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([tree[name] for tree in trees]).mean(0) for name in trees[0]}


def close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    scale = max(value.abs().max() for value in expected.values())
    return (
        all((found[n] - expected[n]).abs().max() <= 1e-9 * scale for n in expected) and found.keys() == expected.keys()
    )


def test_fomaml_is_the_mean_gradient_at_the_adapted_parameters() -> None:
    tasks = glyph_tasks(1, 3, 2, 2)
    compiled, theta = replayed(small("fomaml"), tasks)
    assert compiled.plan.exactness == "biased"
    net, ends = compiled.parts["net"], []
    for task in (one(tasks, i) for i in range(3)):
        phi = theta
        for _ in range(5):
            slope = gradient_of(net, phi, task.support)
            phi = {name: phi[name] - 0.01 * slope[name] for name in phi}
        ends.append(gradient_of(net, phi, task.query))
    assert close(hypergradient(compiled)[1]["theta"], mean_of(ends))


def test_maml_is_autograd_through_the_steps() -> None:
    tasks = glyph_tasks(1, 3, 2, 2)
    compiled, theta = replayed(small("maml"), tasks)
    start = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total = torch.zeros((), dtype=torch.float64)
    for task in (one(tasks, i) for i in range(3)):
        phi = dict(start)
        for _ in range(5):
            slope = torch.autograd.grad(
                loss(compiled.parts["net"], phi, task.support), list(phi.values()), create_graph=True
            )
            phi = {name: value - 0.01 * s for (name, value), s in zip(phi.items(), slope, strict=True)}
        total = total + loss(compiled.parts["net"], phi, task.query) / 3
    expected = dict(zip(start, torch.autograd.grad(total, list(start.values())), strict=True))
    assert close(hypergradient(compiled)[1]["theta"], expected)


def test_reptile_moves_towards_the_mean_of_the_adapted_parameters() -> None:
    """The gradient is theta - mean phi, and one step at rate 1 lands on the mean."""
    tasks = glyph_tasks(2, 3, 2, 2)
    compiled, theta = replayed(small("reptile", "b.count = 6\n"), tasks)  # all six, so that the order alone is drawn
    assert compiled.plan.choices["adapt"].mode == "none"
    ends = [adapted_by_adam(compiled.parts["net"], theta, one(tasks, i).support, 5) for i in range(3)]
    mean = mean_of(ends)
    found = hypergradient(compiled)[1]["theta"]
    assert close(found, {name: theta[name] - mean[name] for name in theta})
    phase, key = compiled.phase, compiled.key()
    state, _ = phase.step(phase.begin(key), key)
    assert close(phase.values(state)["theta"], mean)


def adapted_by_adam(net: torch.nn.Module, theta: Mapping[str, Tensor], data: Samples, steps: int) -> dict[str, Tensor]:
    """Adam at rate 1e-3 with beta1 = 0, epsilon inside the root."""
    phi = dict(theta)
    second = {name: torch.zeros_like(value) for name, value in theta.items()}
    for t in range(1, steps + 1):
        slope = gradient_of(net, phi, data)
        second = {name: 0.999 * v + 0.001 * slope[name] ** 2 for name, v in second.items()}
        scale = {name: torch.sqrt(v / (1 - 0.999**t) + 1e-16) for name, v in second.items()}
        phi = {name: phi[name] - 1e-3 * slope[name] / scale[name] for name in phi}
    return phi
