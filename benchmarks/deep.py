"""Networks that all sides of a workload share, module for module, with starts drawn by numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bilevel.recipes.networks import BatchStatistics

__all__ = ["Block", "Convolutions", "Embedding", "Head", "start_of"]


def start_of(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameters by name: matrices uniform within 1 / sqrt(inputs), vectors as the layer has them (one or zero)."""
    random = np.random.default_rng(seed)
    found = {}
    for name, value in net.named_parameters():
        bound = math.prod(value.shape[1:]) ** -0.5
        drawn = random.uniform(-bound, bound, tuple(value.shape)).astype("float32")
        flat = 1.0 if name.endswith("weight") else 0.0
        found[name] = torch.full(value.shape, flat, device="cpu") if value.dim() == 1 else torch.from_numpy(drawn)
    return found


class Given(nn.Module):
    """A network whose fresh parameters are always the same."""

    seed = 0

    def begin(self) -> None:
        """Take the start; the last line of a constructor."""
        self.load_state_dict(start_of(self, self.seed))

    def initialise(self, key: Tensor) -> Mapping[str, Tensor]:
        """The given parameters, whatever the key."""
        return {
            name: value.to(key.device).expand(*key.shape, *value.shape)
            for name, value in start_of(self, self.seed).items()
        }


class Convolutions(Given):
    """Three times convolution 3 x 3 of 64 filters, statistics of the batch, ReLU and pooling; then a linear layer.

    The network that `higher` and TorchOpt take for Omniglot; running averages are off, since a function has none.
    `native`: by torch's own layer, whose derivative around a vmap around a derivative is wrong (torch 2.13: by 3 %
    here, in float64 as well); else written out.
    """

    def __init__(self, ways: int, filters: int = 64, native: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1, filters, filters):
            norm = nn.BatchNorm2d(filters, track_running_stats=False) if native else BatchStatistics(filters)
            layers += [nn.Conv2d(channels, filters, 3), norm, nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(filters, ways)
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        """Scores real[n, ways] of images real[n, 1, 28, 28]."""
        scores: Tensor = self.head(self.body(x).flatten(1))
        return scores


class Embedding(Given):
    """Tokens and their places as vectors."""

    seed = 1

    def __init__(self, words: int, length: int, width: int) -> None:
        super().__init__()
        self.word = nn.Parameter(torch.empty(words, width))
        self.place = nn.Parameter(torch.empty(length, width))
        self.begin()

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors real[n, length, width] of tokens integer[n, length]."""
        return nn.functional.embedding(tokens, self.word) + self.place


class Block(Given):
    """Attention and two linear layers, each after a normalisation and added to what they read.

    Attention is written out: torch's fused kernels have no second derivative.
    """

    def __init__(self, width: int, heads: int, seed: int) -> None:
        super().__init__()
        self.seed, self.heads = seed, heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        """Vectors real[n, length, width], as given."""
        count, length, width = x.shape
        asked = self.ask(self.before(x)).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = asked.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        x = x + self.join((weights @ value).transpose(1, 2).reshape(count, length, width))
        added: Tensor = x + self.narrow(torch.nn.functional.gelu(self.widen(self.between(x))))
        return added


class Head(Given):
    """Scores of classes from the mean over the places."""

    seed = 9

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, classes)
        self.begin()

    def forward(self, x: Tensor) -> Tensor:
        """Scores real[n, classes] of vectors real[n, length, width]."""
        scores: Tensor = self.out(self.norm(x).mean(-2))
        return scores
