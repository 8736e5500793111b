"""Victims: trained once and well, tasks with the labels that they know, gradients that are gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional

from bilevel import pipeline
from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.binding import bind
from bilevel.errors import RecipeError
from bilevel.recipes import victims, zoo
from bilevel.recipes.digits import digits
from bilevel.recipes.records import Samples
from bilevel.recipes.victims import loss_gradients, trained_network, victim, victim_gradients
from bilevel.registry import collect

SIZE = 14


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(victims, "EPOCHS", 8)
        yield


@pytest.mark.parametrize(("name", "least"), [("net1", 0.85), ("net3", 0.85), ("lenet", 0.6)])
def test_a_victim_is_trained_once_and_knows_its_source(
    name: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits(SIZE)
    network = trained_network(name, data)
    accuracy = (network(data.test.x).argmax(1) == data.test.y).double().mean()
    assert float(accuracy) > least
    assert not any(p.requires_grad for p in network.parameters())

    def train(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(victims, "_train", train)
    again = trained_network(name, data)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_other_data_are_another_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits(SIZE)
    trained_network("net3", data)
    trained: list[int] = []
    monkeypatch.setattr(
        victims, "_train", lambda module, *_: trained.append(1) or [p.detach() for p in module.parameters()]
    )
    trained_network("net3", data._replace(train=Samples(1.0 - data.train.x, data.train.y)))
    assert trained == [1]


def test_attack_tasks_have_the_labels_that_the_victim_knows() -> None:
    made = victim(digits(SIZE), ways=2, shots=3, queries=4, network="net1")
    assert made.shape == (1, SIZE, SIZE)
    task = made.tasks.test.sample(fold(make_key(0), torch.arange(50)))
    assert task.support.x.shape == (50, 6, 1, SIZE, SIZE)
    assert task.query.y.shape == (50, 8)
    logits = made.net(task.query.x.flatten(0, 1))
    assert float((logits.argmax(1) == task.query.y.flatten()).double().mean()) > 0.85
    moved = made.net.to("cpu", torch.float64)
    assert moved(task.query.x[0].double()).dtype == torch.float64
    assert made.net(task.query.x[0]).dtype == torch.float32

    def objective(delta: Tensor) -> Tensor:
        return functional.cross_entropy(made.net(task.support.x[0] + delta), task.support.y[0])

    deltas = torch.zeros(2, *made.shape)
    assert float(vmap(grad(objective))(deltas).abs().max()) > 0


def test_gradients_are_those_of_the_loss_scaled_to_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4)).double()
    samples = Samples(torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0]))
    found = loss_gradients(network, samples)
    assert torch.allclose(found.square().mean((1, 2, 3)), torch.ones(5, dtype=torch.float64))
    for place in range(5):
        x = samples.x[place : place + 1]
        steps = 1e-6 * torch.eye(9, dtype=torch.float64).reshape(9, 1, 3, 3)
        label = samples.y[place].expand(9)
        up, down = (functional.cross_entropy(network(x + s), label, reduction="none") for s in (steps, -steps))
        slope = ((up - down) / 2e-6).reshape(1, 3, 3)
        assert torch.allclose(found[place], slope / slope.square().mean().sqrt(), atol=1e-5)


def test_targeted_gradients_point_towards_the_next_class() -> None:
    """A small step along them raises the logarithm of its probability by the slope times the length."""
    data = digits(SIZE)
    network, samples = (
        deepcopy(trained_network("net3", data)).double(),
        Samples(data.val.x[:8].double(), data.val.y[:8].clone()),
    )
    samples.y[0] = 9  # whose next class is 0
    way = loss_gradients(network, samples, targeted=True)
    wanted = (samples.y + 1) % 10
    up, down = (functional.cross_entropy(network(samples.x + s * way), wanted, reduction="none") for s in (1e-6, -1e-6))
    leaf = samples.x.clone().requires_grad_()
    (found,) = torch.autograd.grad(functional.cross_entropy(network(leaf), wanted, reduction="sum"), leaf)
    slope = (found * way).sum((1, 2, 3))
    assert torch.allclose((up - down) / 2e-6, slope, rtol=1e-5) and bool((slope < 0).all())
    assert torch.allclose(slope, -found.flatten(1).norm(dim=1) * SIZE)
    tasks = victim_gradients(["net3"], samples=6, size=SIZE, target="next").val
    assert torch.allclose(tasks.gradients[0, 1:8], way[1:].float(), atol=1e-3)


def test_gradient_tasks_pair_images_with_gradients_of_one_victim() -> None:
    data = digits(SIZE)
    splits = victim_gradients(["net1", "net3"], samples=6, size=SIZE)
    known = [loss_gradients(trained_network(name, data), data.val) for name in ("net1", "net3")]
    task = splits.val.sample(fold(make_key(0), torch.arange(20)))
    assert task.support.x.shape == task.support.y.shape == (20, 6, 1, SIZE, SIZE)
    seen = set()
    for x, y in zip(
        torch.cat([task.support.x, task.query.x], 1), torch.cat([task.support.y, task.query.y], 1), strict=True
    ):
        places = [int((data.val.x == image).all((1, 2, 3)).nonzero()[0]) for image in x]
        assert len(set(places)) == 12
        (who,) = [w for w in range(2) if torch.allclose(known[w][places], y, atol=1e-4)]
        seen.add(who)
    assert seen == {0, 1}
    alone = splits.val.sample(fold(make_key(0), torch.arange(20))[7])
    assert torch.equal(alone.query.y, task.query.y[7])


@pytest.mark.parametrize(
    "build",
    [
        lambda: victim_gradients([]),
        lambda: victim_gradients(["net9"]),
        lambda: victim_gradients(["net3"], samples=500, size=SIZE),
        lambda: victim_gradients(["net3"], size=SIZE, target="previous"),  # type: ignore[arg-type]
        lambda: victim(digits(SIZE), ways=11, shots=1),
        lambda: victim(digits(SIZE), ways=2, shots=1, network="net9"),
        lambda: victim(digits(8), ways=2, shots=1),
    ],
)
def test_bad_arguments_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"


def test_a_program_in_float64_has_its_victim_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = """recipe attack
use src = victim(digits(size = 14), ways = 2, shots = 2, network = "net3")
level perturb {
    delta : real[1, 14, 14] from 0
    b ~ src.tasks.train[1]
    minimize sqnorm(delta)
    by sgd(lr = 0.1) for 1 step
}
"""
    checked = pipeline.check_text(recipe, "attack.bl", [pipeline.zoo_manifest()])
    made = bind(checked, collect([zoo]), {}, torch.device("cpu"), torch.float64).objects["src"]
    assert made.net(made.tasks.train.sample(make_key(0)).support.x).dtype == torch.float64
