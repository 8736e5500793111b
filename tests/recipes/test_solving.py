"""Solving a level of a finished run on data of the user's own."""

from __future__ import annotations

import pytest
import torch

import bilevel
from bilevel.backends.torch_func.tree import tree_map
from bilevel.errors import RecipeError

RECIPE = bilevel.load("maml_sine").with_({"meta.steps": 2, "task.count": 3, "val.every": 2})


@pytest.fixture(scope="module")
def run() -> bilevel.Run:
    return bilevel.compile(RECIPE, dtype=torch.float64).run()


def tasks(run: bilevel.Run, count: int) -> object:
    keys = torch.arange(count) + 7
    return run.program.parts.objects["tasks"].test.sample(keys)


def adapted_by_hand(run: bilevel.Run, task: object, steps: int) -> dict[str, torch.Tensor]:
    """Plain gradient descent with autograd."""
    network = run.program.parts.objects["net"]
    weights = {n: v.clone() for n, v in run.state["theta"].items()}
    for _ in range(steps):
        live = {n: v.requires_grad_() for n, v in weights.items()}
        out = torch.func.functional_call(network, live, (task.support.x,))  # type: ignore[attr-defined]
        loss = ((out - task.support.y) ** 2).mean()  # type: ignore[attr-defined]
        slopes = torch.autograd.grad(loss, list(live.values()))
        weights = {n: (v - 0.01 * g).detach() for (n, v), g in zip(live.items(), slopes, strict=True)}
    return weights


@pytest.mark.parametrize("steps", [5, 11])
def test_adapting_to_a_task_is_gradient_descent(run: bilevel.Run, steps: int) -> None:
    task = tree_map(lambda leaf: leaf[1], tasks(run, 3))
    found = run.solve("adapt", task=task, steps=steps)
    expected = adapted_by_hand(run, task, steps)
    assert all(torch.allclose(found[n], expected[n], rtol=1e-12, atol=1e-12) for n in expected)


def test_many_tasks_at_once_are_those_one_by_one(run: bilevel.Run) -> None:
    many = tasks(run, 3)
    found = run.solve("adapt", task=many, copies=True)
    for place in range(3):
        alone = run.solve("adapt", task=tree_map(lambda leaf, place=place: leaf[place], many))
        assert all(torch.allclose(found[n][place], alone[n], rtol=1e-12, atol=1e-14) for n in alone)


@pytest.mark.parametrize(("level", "given"), [("adapts", {}), ("meta", {}), ("adapt", {}), ("adapt", {"tsk": 1})])
def test_what_is_not_there_is_refused(run: bilevel.Run, level: str, given: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as error:
        run.solve(level, **given)
    assert error.value.diagnostics[0].code == "B614"


def test_a_plan_says_why() -> None:
    plan = bilevel.compile(RECIPE).plan
    assert "chosen" in plan.why("adapt", plan.choices["adapt"].mode)
    assert "more time" in plan.why("adapt", "rmd")
    assert "start" in plan.why("adapt", "ift")
    with pytest.raises(RecipeError):
        plan.why("adapt", "magic")


def test_two_settings_of_the_same_value_are_two_settings() -> None:
    """A report that replaces `adapt.steps` leaves `meta.steps` alone, though both were set to 2."""
    recipe = bilevel.load("maml_sine").with_({"meta.steps": 2, "adapt.steps": 2, "val.every": 2, "after5.every": 2})
    program = bilevel.compile(recipe)
    assert program.phases[0].steps == 2
    done = program.run()
    assert len(done.losses) == 2
    assert done.reports["after5"][-1][1] != done.reports["after10"][-1][1]
