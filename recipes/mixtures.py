"""A mixture-density network: a distribution of the next state as a mixture of Gaussians, and its likelihood.

Source: papers/000, section 5.3 and appendix I (an action-free prior for model-based control; Bishop 1994).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.functions import softplus_of
from bilevel.dsl.datatypes import Array
from bilevel.recipes.networks import MultiLayer
from bilevel.recipes.records import bad_argument, require_positive
from bilevel.registry import func, model


class MixtureDensity(nn.Module):
    """A fully connected network whose outputs are a weight, means and deviations of every component."""

    def __init__(self, widths: tuple[int, ...], components: int) -> None:
        super().__init__()
        *hidden, outputs = widths
        self.components = components
        self.body = MultiLayer((*hidden, components * (2 * outputs + 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Components real[n, components, 2 outputs + 1]: logit of the weight, means, deviations before softplus."""
        return self.body(x).unflatten(-1, (self.components, -1))  # type: ignore[no-any-return]


@model(input=("widths:0",), output=("components", "?"), parts={"hidden": "body.hidden.*", "output": "body.output.*"})
def mixture_density(*widths: int, components: int = 5) -> nn.Module:
    """Network whose output is a mixture of Gaussians, `mixture_density(4, 64, 3)`: from 4 numbers to 3.

    Takes real[n, widths[0]], gives real[n, components, 2 widths[-1] + 1], to be read by `mixture_likelihood`:
    logit of the weight, means, and deviations before softplus of every component. Five components as in papers/000,
    appendix I.
    """
    if len(widths) < 2:
        raise bad_argument("mixture_density", "widths", "two or more sizes, input first and output last", list(widths))
    require_positive("mixture_density", {"components": components})
    require_positive("mixture_density", {f"widths[{place}]": width for place, width in enumerate(widths)})
    return MixtureDensity(widths, components)


@func(smooth=True, result=Array((), ranked=False))
def mixture_likelihood(least: float = 1e-2) -> Callable[[Tensor, Tensor], Tensor]:
    """Log-likelihood f(mixture, y), real[...], of y real[..., d] under what `mixture_density` gives.

    The mixture is real[..., components, 2 d + 1]. Deviations are at least `least` (papers/000, appendix I: 1e-2,
    against degenerate Gaussians); coordinates are independent within a component. Its negative is the loss of the
    prior, and the tailoring loss of section 5.3 at a prediction y.
    """
    if least <= 0:
        raise bad_argument("mixture_likelihood", "least", "a positive deviation", least)

    def likelihood(mixture: Tensor, y: Tensor) -> Tensor:
        size = y.shape[-1]
        logit, mean, raw = mixture[..., 0], mixture[..., 1 : size + 1], mixture[..., size + 1 :]
        deviation = least + softplus_of(raw)
        distance = (y[..., None, :] - mean) / deviation
        density = -0.5 * distance.square() - torch.log(deviation) - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(torch.log_softmax(logit, -1) + density.sum(-1), -1)

    return likelihood
