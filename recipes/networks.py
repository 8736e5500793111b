"""Networks that recipes name: plain torch modules without buffers, safe under vmap, grad and jvp.

No module here keeps state besides its parameters, works in place, or branches on values: all derivatives of all
orders and any batching of parameters are those of an ordinary function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.functions import softplus_of
from bilevel.recipes.conditional import PART, conditional_layers
from bilevel.recipes.records import bad_argument, require_positive
from bilevel.registry import model

Norm = Literal["none", "batch_stats", "layer", "group"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "softplus": softplus_of,
}


class MultiLayer(nn.Module):
    """Linear layers with an activation, scale and shift, and dropout between them; inputs are flattened."""

    def __init__(
        self, widths: tuple[int, ...], dropout: float = 0.0, activation: str = "relu", cn: str = "none"
    ) -> None:
        super().__init__()
        *hidden, output = (nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.hidden = nn.ModuleList(hidden)
        self.output = output
        self.cn = conditional_layers("mlp", cn, list(widths[1:-1]))
        self.activation = ACTIVATIONS[activation]
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """What the last layer reads, real[n, widths[-2]], of samples real[n, ...]."""
        x = x.flatten(1)
        for layer, cn in zip(self.hidden, self.cn, strict=True):
            x = self.drop(cn(self.activation(layer(x))))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Scores real[n, widths[-1]] of samples real[n, ...]."""
        return self.output(self.features(x))  # type: ignore[no-any-return]


class BatchStatistics(nn.Module):
    """Normalisation by the statistics of the batch alone, with a learned scale and shift per channel.

    torch's own layer updates running averages in place, which makes it no function of its inputs (B603). Without them
    (`track_running_stats = False`) it is one, and can be used: where its derivatives are wrong, in levels two deep,
    its formula takes its place in compiled recipes.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def initialise(self, key: Tensor) -> dict[str, Tensor]:
        """Scale one and shift zero for every key."""
        shape = (*key.shape, *self.weight.shape)
        return {"weight": torch.ones(shape, device=key.device), "bias": torch.zeros(shape, device=key.device)}

    def identity(self) -> dict[str, Tensor]:
        """Scale one and shift zero: no more than normalisation."""
        return {"weight": torch.ones_like(self.weight), "bias": torch.zeros_like(self.bias)}

    def forward(self, x: Tensor) -> Tensor:
        """Normalised samples, real[n, channels, ...] as given."""
        axes = (0, *range(2, x.dim()))
        mean = x.mean(axes, keepdim=True)
        variance = (x - mean).square().mean(axes, keepdim=True)
        shape = (1, -1, *(1,) * (x.dim() - 2))
        scaled = (x - mean) * torch.rsqrt(variance + self.epsilon)
        return scaled * self.weight.reshape(shape) + self.bias.reshape(shape)


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """What follows a convolution: nothing, or normalisation over the batch, each sample, or each quarter of it."""
    if norm == "batch_stats":
        return BatchStatistics(channels)
    groups = {"layer": 1, "group": 4}.get(norm)
    return nn.Identity() if groups is None else nn.GroupNorm(groups, channels)


def checked_norm(part: str, norm: str, width: int) -> Norm:
    """The name of a normalisation, refused where there is none or the groups do not divide the channels."""
    if norm not in get_args(Norm):
        raise bad_argument(part, "norm", '"none", "batch_stats", "layer" or "group"', norm)
    if norm == "group" and width % 4:
        raise bad_argument(part, "number of channels", 'a multiple of 4 with norm = "group"', width)
    return cast(Norm, norm)


class Convolution(nn.Module):
    """3 x 3 convolution of stride 2, normalisation, ReLU, scale and shift: halves the image, rounding up."""

    def __init__(self, channels: int, filters: int, norm: Norm, cn: nn.Module) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(channels, filters, kernel_size=3, stride=2, padding=1)
        self.norm = normalisation(norm, filters)
        self.cn = cn

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps real[n, filters, size / 2, size / 2] of images."""
        return self.cn(torch.relu(self.norm(self.convolve(x))))  # type: ignore[no-any-return]


class FourConvolutions(nn.Module):
    """Four `Convolution` blocks and a linear layer on their flattened result."""

    def __init__(self, ways: int, filters: int, channels: int, size: int, norm: Norm, cn: nn.ModuleList) -> None:
        super().__init__()
        inputs = [channels, filters, filters, filters]
        self.body = nn.Sequential(*(Convolution(n, filters, norm, layer) for n, layer in zip(inputs, cn, strict=True)))
        self.head = nn.Linear(filters * (-(-size // 16)) ** 2, ways)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer reads, real[n, filters * ceil(size / 16)^2], of images."""
        return self.body(x).flatten(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Scores real[n, ways] of images real[n, channels, size, size]."""
        return self.head(self.features(x))  # type: ignore[no-any-return]


class CoordinateLstm(nn.Module):
    """A learned solver: one LSTM cell and a linear layer, the same for every coordinate.

    The cell is written out because torch's fused one has no forward-mode derivative on every device.
    """

    def __init__(self, hidden: int, scale: float) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2, hidden)
        self.output = nn.Linear(hidden, 1)
        self.scale = scale

    def begin(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden state and memory of coordinates real[n], zero, real[n, hidden] each."""
        zero = gradient.new_zeros(*gradient.shape, self.cell.hidden_size)
        return zero, zero

    def forward(self, gradient: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Steps real[n] and the next state, from gradients real[n] and the state.

        Inside, units are rows and coordinates columns: there are few of the one and many of the other, and a loop over
        the last axis is as fast as it is long. One product makes all gates, of what they read side by side.
        """
        hidden, memory = state
        units = self.cell.hidden_size
        given = torch.cat([torch.stack(size_and_sign(gradient)), hidden.mT, memory.mT])
        memory = given[-units:]
        gates = torch.cat([self.cell.weight_ih, self.cell.weight_hh], 1) @ given[:-units]
        gates = gates + (self.cell.bias_ih + self.cell.bias_hh)[:, None]
        enter, forget, new, leave = gates.chunk(4)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(memory)
        step = (self.output.weight @ hidden)[0] + self.output.bias
        return self.scale * step, (hidden.mT, memory.mT)


def gradient_features(gradient: Tensor) -> Tensor:
    """log|g| / 10, at least -1, and the sign of g: real[..., 2].

    Size and direction apart, so that gradients of any order of magnitude are inputs between -1 and about 1
    (Andrychowicz et al. 2016, appendix A, with p = 10; below e^-10 they give the network e^10 g instead of the sign).
    """
    return torch.stack(size_and_sign(gradient), -1)


def size_and_sign(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The two of `gradient_features`, shaped as the gradient."""
    return torch.log(torch.clamp(gradient.abs(), min=math.exp(-10.0))) / 10.0, torch.sign(gradient)


@model(parts={"cell": "cell.*", "output": "output.*"})
def coordinate_lstm(hidden: int = 10, scale: float = 0.1) -> nn.Module:
    """Learned solver `by opt[psi]`: (gradient, state) -> (step, state), one LSTM shared by all coordinates.

    Takes gradients real[n] of any n. One layer of `hidden` units and a linear layer on it, as in papers/004,
    appendix C; inputs are log|g| / 10 and the sign of g, and the step is `scale` times the output (ours).
    """
    require_positive("coordinate_lstm", {"hidden": hidden})
    return CoordinateLstm(hidden, scale)


@model(
    input=("widths:0",),
    output=("widths:-1",),
    parts={"hidden": "hidden.*", "output": "output.*", **PART},
    outputs={"features": ("widths:-2",)},
    noisy="dropout",
)
def mlp(*widths: int, dropout: float = 0.0, activation: str = "relu", cn: str = "none") -> nn.Module:
    """Fully connected network, `mlp(784, 256, 10)`; `activation` is "relu", "tanh" or "softplus"; images are flattened.

    Takes real[n, ...] with widths[0] numbers per sample, gives real[n, widths[-1]]. `dropout`: the share of hidden
    numbers that are zero in an objective, drawn anew in every step of every copy. `cn`: conditional normalisation
    (part "cn") after "all" hidden layers, the "last" or "none".
    """
    if len(widths) < 2:
        raise bad_argument("mlp", "widths", "two or more sizes, input first and output last", list(widths))
    if not 0 <= dropout < 1:
        raise bad_argument("mlp", "dropout", "a share from 0 to below 1", dropout)
    if activation not in ACTIVATIONS:
        raise bad_argument("mlp", "activation", '"relu", "tanh" or "softplus"', activation)
    require_positive("mlp", {f"widths[{position}]": width for position, width in enumerate(widths)})
    return MultiLayer(widths, dropout, activation, cn)


@model(
    input=("channels", "size", "size"),
    output=("ways",),
    parts={"body": "body.*", "head": "head.*", "norm": "*.norm.*", **PART},
    outputs={"features": ("?",)},
)
def conv4(
    ways: int, filters: int = 64, channels: int = 1, size: int = 28, norm: str = "none", cn: str = "none"
) -> nn.Module:
    """Four 3 x 3 convolutions of stride 2 with ReLU and a linear layer; `norm` is "none", "batch_stats", "layer", "group".

    Takes real[n, channels, size, size], gives real[n, ways]. `cn`: conditional normalisation (part "cn") after "all"
    convolutions, the "last" or "none". Source: Finn, Abbeel and Levine 2017, section 5.2 (strides as there for
    Omniglot; the linear layer reads all positions, 2 x 2 at size 28, where they average); `cn`: papers/000,
    algorithm 2. Cost: stride 2 is two to four times faster on a CPU than pooling.
    """
    require_positive("conv4", {"ways": ways, "filters": filters, "channels": channels, "size": size})
    layers = conditional_layers("conv4", cn, [filters] * 4)
    return FourConvolutions(ways, filters, channels, size, checked_norm("conv4", norm, filters), layers)
