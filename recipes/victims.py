"""Networks to be attacked: small classifiers, trained once, and the tasks of attacking them.

Each is trained from a fixed start on a fixed order of batches, its weights kept in the cache folder. Attacks
themselves are recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import bits, choose, fold, make_key, permutation
from bilevel.dsl.datatypes import Unknown, real, record, records, stream
from bilevel.recipes.digits import digits
from bilevel.recipes.few_shot import TASK as CLASSES_TASK
from bilevel.recipes.few_shot import task_splits
from bilevel.recipes.records import Samples, SampleSplits, Task, TaskSplits, bad_argument, require_positive
from bilevel.recipes.store import Advance, Kept, kept, tensor_hash
from bilevel.registry import data, tasks

EPOCHS, BATCH, RATE = 30, 64, 2e-3


# ---- networks ------------------------------------------------------------------------------------------------


def _half(size: int, times: int) -> int:
    for _ in range(times):
        size = (size + 1) // 2
    return size


def _convolutions(channels: int, size: int, classes: int, widths: Sequence[int], kernel: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * _half(size, len(widths)) ** 2, classes))


def _layers(channels: int, size: int, classes: int) -> nn.Module:
    first = nn.Linear(channels * size * size, 100)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, classes))


def _lenet(channels: int, size: int, classes: int) -> nn.Module:
    left = (size // 2 - 4) // 2  # LeCun et al. 1998, with the border that 28 x 28 needs, and rectifiers
    body = [
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    head = [nn.Linear(16 * left * left, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)]
    return nn.Sequential(*body, nn.Flatten(), *head)


NETWORKS: Mapping[str, Callable[[int, int, int], nn.Module]] = {
    "lenet": _lenet,
    "net1": lambda channels, size, classes: _convolutions(channels, size, classes, (16, 32), 5),
    "net2": lambda channels, size, classes: _convolutions(channels, size, classes, (8, 16, 32), 3),
    "net3": _layers,
    "net4": lambda channels, size, classes: _convolutions(channels, size, classes, (24, 24), 3),
}


def trained_network(name: str, splits: SampleSplits, part: str = "victim") -> nn.Module:
    """The network `name` trained on the training split, in evaluation mode, without gradients of its weights.

    Weights depend on the name and the bytes of the training samples. Cost: seconds, once; then read from the cache.
    """
    if name not in NETWORKS:
        raise bad_argument(part, "victims", f"one of {', '.join(NETWORKS)}", name)
    train = Samples(splits.train.x.to("cpu", torch.float32), splits.train.y.cpu())
    channels, size = train.x.shape[1], train.x.shape[2]
    if name == "lenet" and size < 12:
        raise bad_argument(part, "data", "images of 12 pixels or more", f"{size} pixels")
    module = NETWORKS[name](channels, size, int(train.y.max()) + 1)
    names = [n for n, _ in module.named_parameters()]
    depends = f"{name} {tensor_hash(train.x)} {tensor_hash(train.y)} {EPOCHS} {BATCH} {RATE}"
    entry = Kept(f"victim-{name}", "weights", "training", depends, (__file__,), names, EPOCHS, "epochs")
    weights = kept(entry, lambda advance: _train(module, train, name, advance))
    module.load_state_dict(dict(zip(names, weights, strict=True)))
    return module.eval().requires_grad_(False)


def _train(module: nn.Module, train: Samples, name: str, advance: Advance) -> list[Tensor]:
    """Adam on cross entropy; the start and the order of every epoch are functions of the name."""
    key = fold(make_key(0), "victim", name)
    module.load_state_dict(initial_parameters(module, key, torch.float32))
    adam = torch.optim.Adam(module.parameters(), lr=RATE)
    for epoch in range(EPOCHS):
        order = permutation(fold(key, "epoch", epoch), len(train.y))
        for chosen in torch.split(order, BATCH):
            adam.zero_grad()
            torch.autograd.backward(functional.cross_entropy(module(train.x[chosen]), train.y[chosen]))
            adam.step()
        advance(1)
    return [p.detach() for p in module.parameters()]


# ---- universal perturbations ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frozen:
    """A trained network as a function of images alone."""

    module: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Logits real[n, classes] of images real[n, channels, height, width]."""
        logits: Tensor = self.module(x)
        return logits

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Frozen:
        """The same network on `device`, in `dtype`."""
        return Frozen(deepcopy(self.module).to(device=device, dtype=dtype))


class Victim(NamedTuple):
    """Few-shot attack tasks on the images of one source, the network to be fooled, and the shape of an image."""

    tasks: TaskSplits
    net: Frozen
    shape: tuple[int, ...]


@data(
    yields=record(
        tasks=record(train=stream(CLASSES_TASK), val=stream(CLASSES_TASK), test=stream(CLASSES_TASK)),
        net=Unknown(),
        shape=Unknown(),
    )
)
def victim(data: SampleSplits, ways: int, shots: int, queries: int | None = None, network: str = "lenet") -> Victim:
    """Tasks of attacking a trained network: a few images of a few classes, with the labels that it knows.

    A task has `ways` classes with `shots` support and `queries` query images each (as many as `shots` if not given);
    `net` gives logits, `shape` is that of one image. Each split's tasks are made of its own images; the network is
    trained on the training split. Source: papers/004, section 4 (LeNet-5; 2 classes, 2 images each). Cost: the
    network is trained once, seconds, and kept.
    """
    splits = task_splits("victim", data, ways, shots, shots if queries is None else queries, true_labels=True)
    return Victim(splits, Frozen(trained_network(network, data)), tuple(data.train.x.shape[1:]))


# ---- gradients of victims ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class GradientTasks:
    """Tasks out of the images of one split and the gradients of every victim at them."""

    images: Tensor  # real[n, channels, size, size]
    labels: Tensor  # int64[n]
    gradients: Tensor  # real[victims, n, channels, size, size]
    victims: tuple[str, ...]
    split: str
    samples: int
    targeted: bool = False

    def sample(self, keys: Tensor) -> Task:
        """One task per key: images x and gradients y of one victim, real[..., samples, channels, size, size] each."""
        keys = fold(keys.to(self.images.device), "victims", self.split)
        who = bits(fold(keys, "victim")).remainder(len(self.gradients))
        chosen = choose(fold(keys, "images"), 2 * self.samples, len(self.images))
        x, y = self.images[chosen], self.gradients[who[..., None], chosen]
        support, query = (
            Samples(x[..., part, :, :, :], y[..., part, :, :, :])
            for part in (slice(None, self.samples), slice(self.samples, None))
        )
        return Task(support, query)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> GradientTasks:
        """The same tasks on `device`, in `dtype`."""
        images, gradients = self.images.to(device, dtype), self.gradients.to(device, dtype)
        return replace(self, images=images, labels=self.labels.to(device), gradients=gradients)


IMAGES = records("samples", x=real(1, "size", "size"), y=real(1, "size", "size"))
GRADIENTS_TASK = record(support=IMAGES, query=IMAGES)


@tasks(yields=record(train=stream(GRADIENTS_TASK), val=stream(GRADIENTS_TASK), test=stream(GRADIENTS_TASK)))
def victim_gradients(
    victims: Sequence[str],
    samples: int = 25,
    size: int = 28,
    source: SampleSplits | None = None,
    target: Literal["none", "next"] = "none",
) -> TaskSplits:
    """Images and the gradients of a victim's loss at them: what a meta-attacker learns to predict.

    A task takes one of the `victims` ("net1" to "net4", "lenet") and gives `samples` support and query pairs; x are
    images of `digits(size)` or of a grey `source` of that size, y is the gradient of the cross entropy at the true
    label, scaled to mean square 1 for each image (ours: only its direction is used); with `target` "next" that of minus
    the cross entropy at the class after the true one, towards which the attack is to go (ours: papers/001 does not say
    how table 7 chooses targets). Keep one victim back for the attack. Source: papers/001, appendix B, algorithm 3. Cost:
    each victim is trained once, seconds, and kept.
    """
    require_positive("victim_gradients", {"samples": samples, "size": size})
    if not victims:
        raise bad_argument("victim_gradients", "victims", f"some of {', '.join(NETWORKS)}", list(victims))
    if target not in ("none", "next"):
        raise bad_argument("victim_gradients", "target", "none or next", target)
    targeted = target == "next"
    splits = digits(size) if source is None else source
    networks = [trained_network(name, splits, "victim_gradients") for name in victims]
    made = []
    for name, images in splits._asdict().items():
        if 2 * samples > len(images.y):
            raise bad_argument("victim_gradients", "samples", f"at most {len(images.y) // 2}, half of {name}", samples)
        gradients = torch.stack([loss_gradients(network, images, targeted) for network in networks])
        made.append(GradientTasks(images.x, images.y, gradients, tuple(victims), name, samples, targeted))
    return TaskSplits(*made)


def next_class(labels: Tensor, classes: int) -> Tensor:
    """The target of a targeted attack, int64 like the labels: the class after the true one."""
    return (labels + 1).remainder(classes)


def loss_gradients(network: nn.Module, samples: Samples, targeted: bool = False) -> Tensor:
    """Gradient of the cross entropy of each sample in its image, scaled to mean square 1; shaped like the images.

    `targeted`: of minus the cross entropy at the next class. Either way an attack goes along it.
    """
    parts: list[Tensor] = []
    for x, y in zip(torch.split(samples.x, 256), torch.split(samples.y, 256), strict=True):
        leaf = x.detach().requires_grad_()
        logits = network(leaf)
        wanted = next_class(y, logits.shape[-1]) if targeted else y
        loss = functional.cross_entropy(logits, wanted, reduction="sum")
        parts += torch.autograd.grad(-loss if targeted else loss, leaf)
    gradients = torch.cat(parts)
    size = gradients.double().square().mean((1, 2, 3), keepdim=True).sqrt()
    return (gradients.double() / size.clamp(min=1e-30)).to(gradients.dtype)
