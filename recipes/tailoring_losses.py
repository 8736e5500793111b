"""Losses that need no label: what a network is tailored by at prediction time (papers/000).

Smoothness: `let tailor(z) = distance(net.features[w, z](x), net.features[w, z](x + nu * e))` with `e ~ normal(0, 1)`,
one draw, is equation 1 there. Both take features, so any network with that output serves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.torch_func.functions import softplus_of
from bilevel.dsl.datatypes import Array
from bilevel.recipes.records import bad_argument
from bilevel.registry import func


@func(smooth=True, result=Array((), ranked=False))
def cosine_distance(epsilon: float = 1e-8) -> Callable[[Tensor, Tensor], Tensor]:
    """Cosine distance f(u, v) = 1 - u'v / (|u| |v|), real[...], of vectors real[..., d], between 0 and 2.

    The smoothness loss of papers/000, eq. 1, at features of an input and of the same input with noise. `epsilon` is
    added to each squared length, so that a vector of zeros (all units off) is at distance 1 and has derivatives.
    """
    if epsilon <= 0:
        raise bad_argument("cosine_distance", "epsilon", "a positive number", epsilon)

    def distance(u: Tensor, v: Tensor) -> Tensor:
        lengths = torch.rsqrt(u.square().sum(-1) + epsilon) * torch.rsqrt(v.square().sum(-1) + epsilon)
        return 1 - (u * v).sum(-1) * lengths

    return distance


@func(smooth=True, result=Array((), ranked=False))
def contrastive(kind: str = "logistic") -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Contrastive tailoring loss f(h, positive, negative) = l(h'(positive - negative)), real[...], of features.

    All are real[..., d]: of the input, of a positive example (the input transformed) and of a negative one (any other
    input). `kind` "logistic" is l(z) = log2(1 + e^-z), "hinge" is max(0, 1 - z); l(0) = 1 for both. Source:
    papers/000, appendix B, first pre-meta-tailoring loss; its text prints log2(1 + e^z), which would draw the input
    towards the negative example and contradicts the hinge beside it.
    """
    if kind not in ("logistic", "hinge"):
        raise bad_argument("contrastive", "kind", '"logistic" or "hinge"', kind)

    def loss(h: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        margin = (h * (positive - negative)).sum(-1)
        return softplus_of(-margin) / math.log(2) if kind == "logistic" else torch.relu(1 - margin)

    return loss
