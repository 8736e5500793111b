"""Dropout as multiplication by masks that are drawn from a key, layer by layer and call by call."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bilevel.backends.torch_func.attention import unfused
from bilevel.backends.torch_func.keyed import fold, uniform
from bilevel.backends.torch_func.norms import WrittenNorms

WHOLE_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Masked(nn.Module):
    """An entry (or a channel of a sample) is 0 where its number is below p, else divided by 1 - p; no key, no mask."""

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.key: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """The input under the mask of this call."""
        if self.key is None:
            return x
        self.calls += 1
        shape = x.shape[:2] if self.channels else x.shape
        numbers = uniform(fold(self.key, self.calls), *shape, dtype=torch.float64)
        mask = torch.where(numbers < self.p, torch.zeros_like(numbers), torch.ones_like(numbers) / (1 - self.p))
        return x * mask.reshape(*shape, *(1,) * (x.dim() - len(shape)))


def with_masks(module: nn.Module) -> nn.Module:
    """A copy of a network whose dropout takes its mask from a key."""
    made: dict[int, nn.Module] = {}
    for layer in module.modules():
        if isinstance(layer, (nn.Dropout, *WHOLE_CHANNELS)) and layer.training and layer.p > 0:
            made[id(layer)] = Masked(layer.p, isinstance(layer, WHOLE_CHANNELS))
    return deepcopy(module, dict(made))


def applied(network: nn.Module, parameters: Mapping[str, Tensor], x: Any, noise: Tensor | None) -> Any:
    """A network at parameters, under the masks of a key, which is folded with a layer's name; a list is its inputs."""
    for name, layer in network.named_modules():
        if isinstance(layer, Masked):
            layer.key, layer.calls = None if noise is None else fold(noise, name), 0
    with unfused(), WrittenNorms():
        return functional_call(network, dict(parameters), tuple(x) if isinstance(x, list) else (x,))
