"""What a meta-attacker is worth: attacks on a victim that it was not trained on, and how many queries they take.

Algorithm 4 of papers/001 from the learned and from a random start, beside coordinate-wise finite differences, on the
same test images of one victim. Runs at the end and trains nothing but, once, the victim.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from bilevel import ir
from bilevel.backends.torch_func.keyed import make_key
from bilevel.dsl.datatypes import Tree
from bilevel.outcome import Table
from bilevel.recipes.attacks import (
    Attack,
    BlackBox,
    Goal,
    Settings,
    correct,
    finite_differences,
    meta_attack,
    summary_of,
)
from bilevel.recipes.records import Samples, SampleSplits
from bilevel.recipes.summaries import Summary
from bilevel.recipes.victims import NETWORKS, GradientTasks, next_class, trained_network
from bilevel.run import Run

IMAGES = 20
"""Test images that are attacked, all of which the victim labels as they are."""


def attack_summary(run: Run) -> Summary | None:
    """Success rate, distance and queries of each attack; None where the recipe keeps no victim back."""
    phase = run.program.phases[-1]
    variable = next((v for v in run.program.plan.program.level(phase.name).variables if isinstance(v.type, Tree)), None)
    tasks = _tasks(run)
    victim = next((name for name in reversed(list(NETWORKS)) if name not in tasks[0].victims), None)
    if variable is None or victim is None or phase.reads:
        return None
    splits = SampleSplits(*(Samples(split.images, split.labels) for split in tasks))
    network = trained_network(victim, splits).to(splits.test.x)
    assert isinstance(variable.type, Tree)
    net = run.program.parts.objects[variable.type.net]
    begun = phase.values(phase.begin(make_key(run.seed, run.program.parts.device)))
    attack = partial(meta_attack, attacker=net, settings=Settings())
    shown, targeted = correct(network, splits.test, IMAGES), tasks[0].targeted
    rows = {
        "meta-attack, learned": partial(attack, weights=run.state[variable.name]),
        "meta-attack, random start": partial(attack, weights=begun[variable.name]),
        "finite differences": partial(finite_differences, settings=Settings()),
    }
    table = tuple(
        (name, *_spelled([one(*asked) for asked in _asked(network, shown, targeted)])) for name, one in rows.items()
    )
    kind = "towards the next class" if targeted else "untargeted"
    title = f"attacks, {kind}, on {victim}, which no task shows, at {len(shown.y)} test images"
    return Summary(Table(title, ("attack", "success", "distance", "queries"), table))


def _tasks(run: Run) -> list[GradientTasks]:
    """The streams of train, val and test."""
    uses = (u for u in run.program.plan.program.uses if u.description is not None)
    use: ir.Use = next(u for u in uses if u.description is not None and u.description.name == "victim_gradients")
    return [split for split in run.program.parts.objects[use.name] if isinstance(split, GradientTasks)]


def _asked(network: nn.Module, shown: Samples, targeted: bool) -> list[tuple[BlackBox, Tensor, Goal]]:
    """Every image with a counter of its own and what its attack is after."""
    classes = network(shown.x[:1]).shape[-1]
    labels = next_class(shown.y, classes) if targeted else shown.y
    return [(BlackBox(network), x, Goal(int(y), targeted)) for x, y in zip(shown.x, labels, strict=True)]


def _spelled(attacks: list[Attack]) -> tuple[str, str, str]:
    success, distance, queries = summary_of(attacks)
    return f"{success:.0%}", f"{distance:.2f}", f"{queries:.0f}"
