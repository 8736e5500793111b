"""What randomised smoothing certifies: the class that most noisy copies of an input get, and how far that class holds.

Source: Cohen, Rosenfeld, Kolter 2019, used by papers/000, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.dsl.datatypes import Array, real
from bilevel.recipes.records import bad_argument, require_positive
from bilevel.registry import func


@func(smooth=False, result=real("?"))
def vote() -> Callable[[Tensor], Tensor]:
    """The class of the largest logit as an indicator, f(logits real[..., classes]) real[..., classes]."""

    def indicator(logits: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)

    return indicator


@func(smooth=False, result=Array((), ranked=False))
def certified_radius(
    sigma: float, samples: int, classes: int = 10, alpha: float = 1e-3, beyond: float | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Certified radius f(votes real[..., classes], labels int[...]), real[...]; 0 where it abstains or the class is wrong.

    `votes` counts the classes of `samples` copies of an input with normal noise of deviation `sigma`; what is not
    that many votes gives no number. The radius is sigma * Phi^-1(p) in the L2 norm, with p the lower Clopper-Pearson
    bound of the class with most votes, where p is above one half; a certificate fails with probability `alpha` at
    most. `beyond`: gives 1 where the radius is larger, else 0, so that the mean is the certified accuracy there.
    Ours: one set of votes with alpha / classes for each class (a union bound), where Cohen et al. choose the class by
    votes of its own. Cost: a table of `samples` + 1 radii, made once.
    """
    require_positive("certified_radius", {"samples": samples, "classes": classes})
    if sigma <= 0:
        raise bad_argument("certified_radius", "sigma", "a positive deviation", sigma)
    if not 0 < alpha < 1:
        raise bad_argument("certified_radius", "alpha", "between 0 and 1", alpha)
    radii = _radii(sigma, samples, alpha / classes)

    def certify(votes: Tensor, labels: Tensor) -> Tensor:
        most, chosen = votes.max(-1)
        radius = radii.to(votes)[most.round().long().clamp(0, samples)] * (chosen == labels)
        result = radius if beyond is None else (radius > beyond).to(votes)
        return torch.where(votes.sum(-1) == samples, result, torch.nan)

    return certify


def _radii(sigma: float, samples: int, alpha: float) -> Tensor:
    """The radius for 0, 1, ..., `samples` votes, real[samples + 1], float64."""
    from scipy.stats import beta, norm  # a third of a second, which only this part needs

    counts = torch.arange(1, samples + 1).numpy()
    lower = beta.ppf(alpha, counts, samples - counts + 1)
    radius = torch.as_tensor(sigma * norm.ppf(lower)).clamp(min=0.0)
    return torch.cat([radius.new_zeros(1), radius])
