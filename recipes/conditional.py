"""Conditional normalisation: scale and shift of every channel after hidden layers, the part `cn` of a network.

It starts as the identity, so it can be put into a trained network without changing one bit of its predictions, and
is small enough to be adapted for every sample by itself (papers/000, section 4 and appendix D).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from bilevel.errors import fail
from bilevel.recipes.records import bad_argument
from bilevel.registry import model

PART = {"cn": "*cn.*"}
"""for registrations: the parameters of every `ConditionalAffine` that stands under the name `cn`"""
PLACES = ("none", "all", "last")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class ConditionalAffine(nn.Module):
    """gamma * h + beta for every channel, gamma = 1 and beta = 0 at the start.

    Multiplying by one and adding zero keeps every bit of a number (a zero may lose its sign).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def initialise(self, key: Tensor) -> dict[str, Tensor]:
        """The identity for every key."""
        return {name: p.to(key.device).repeat(*key.shape, 1) for name, p in self.identity().items()}

    def identity(self) -> dict[str, Tensor]:
        """The values with which the input comes back."""
        return {"gamma": torch.ones_like(self.gamma), "beta": torch.zeros_like(self.beta)}

    def forward(self, h: Tensor) -> Tensor:
        """Features real[n, channels, ...] as given."""
        shape = (-1, *(1,) * (h.dim() - 2))
        return self.gamma.reshape(shape) * h + self.beta.reshape(shape)


def conditional_layers(part: str, place: str, channels: list[int]) -> nn.ModuleList:
    """What follows each hidden layer of these numbers of channels: `place` is "none", "all" or "last"."""
    if place not in PLACES:
        raise bad_argument(part, "cn", '"none", "all" or "last"', place)
    first = {"none": len(channels), "all": 0, "last": max(0, len(channels) - 1)}[place]
    return nn.ModuleList(
        ConditionalAffine(count) if position >= first else nn.Identity() for position, count in enumerate(channels)
    )


@model(parts=PART, like="net")
def conditional(net: nn.Module) -> nn.Module:
    """A copy of any network with conditional normalisation after every linear or convolutional layer but the last.

    `net` keeps its parameters and their names; each such layer has two more, `LAYER.cn.gamma` and `LAYER.cn.beta`,
    real[channels]. At their start predictions are those of `net`, bit for bit. Of its named parts only "cn" is left;
    patterns on names do for others. Networks of this registry have an argument `cn` as well, which scales after the
    activation as in the paper; here it is before, since an activation need not be a module.
    """
    changed = deepcopy(net)
    layers = [(name, layer) for name, layer in changed.named_modules() if isinstance(layer, LAYERS)]
    if len(layers) < 2:
        raise fail(
            "B606",
            f"`{type(net).__name__}` has no hidden layer that conditional normalisation could follow",
            why=f"it has {len(layers)} linear or convolutional layers, and the last is the output",
            fix="a network with two such layers or more",
        )
    for _, layer in layers[:-1]:
        layer.cn = ConditionalAffine(_channels(layer))
        layer.register_forward_hook(_apply_cn)
    return changed


def _channels(layer: nn.Module) -> int:
    count = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(count, int)
    return count


def _apply_cn(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return layer.cn(output)  # type: ignore[no-any-return, operator]
