"""Losses that are Taylor polynomials: the family that is learned, and the published members of it (papers/002)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.dsl.datatypes import Array
from bilevel.recipes.losses import Loss, distribution
from bilevel.recipes.records import bad_argument, require_positive
from bilevel.registry import func, model

Factorials = Literal["taylor", "none"]
Polynomial = Callable[..., Tensor]
PUBLISHED = ((1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (2, 2))
"""powers of the mixed terms in the order of papers/002, eq. 3.5 and B.1; no rule gives it"""
SAMPLES = 512  # points at which the range of a loss is taken


def powers(order: int) -> list[tuple[int, int]]:
    """Powers (i, j) of prediction and label in every term, in the order of the coefficients.

    Powers of the prediction alone, then mixed ones by their degree: up to 4 as published, beyond with falling i.
    Terms without the prediction are left out: they have no gradient (papers/002, below eq. 3.5).
    """
    mixed = [term for term in PUBLISHED if sum(term) <= order]
    mixed += [(degree - j, j) for degree in range(5, order + 1) for j in range(1, degree)]
    return [(i, 0) for i in range(1, order + 1)] + mixed


@cache
def polynomial(order: int, factorials: Factorials) -> Polynomial:
    """f(u, v, *coefficients) for u = prediction - theta_0, v = label - theta_1, in Horner's form.

    Derived by sympy: sum of c u^i v^j, over i! j! with "taylor" (eq. 3.5) and without with "none" (eq. B.1).
    Cost: sympy's import and about 10 ms, once.
    """
    import sympy

    u, v = sympy.symbols("u v")
    terms = powers(order)
    coefficients = sympy.symbols(f"c0:{len(terms)}")
    scale = {(i, j): sympy.factorial(i) * sympy.factorial(j) if factorials == "taylor" else 1 for i, j in terms}
    total = sum(c * u**i * v**j / scale[i, j] for c, (i, j) in zip(coefficients, terms, strict=True))
    return cast(Polynomial, sympy.lambdify([u, v, *coefficients], sympy.horner(total, wrt=(u, v)), modules=[]))


class TaylorLoss(nn.Module):
    """A loss of two arguments whose parameters are its centre real[2] and its coefficients."""

    def __init__(self, order: int, factorials: Factorials, normalise: float) -> None:
        super().__init__()
        self.polynomial = polynomial(order, factorials)
        self.centre = nn.Parameter(torch.zeros(2))
        self.coefficients = nn.Parameter(torch.zeros(len(powers(order))))
        self.normalise = normalise

    def initialise(self, key: Tensor) -> dict[str, Tensor]:
        """Normal with deviation 0.5 (ours): at zero coefficients the loss is constant."""
        sizes = {"centre": 2, "coefficients": len(self.coefficients)}
        return {name: normal(fold(key, name), size, deviation=0.5) for name, size in sizes.items()}

    def forward(self, prediction: Tensor, label: Tensor) -> Tensor:
        """One number per example, real[...], of probabilities and labels real[..., classes] each."""
        value = self._raw(prediction, label)
        if not self.normalise:
            return value
        seen = self._raw(*(p.to(prediction) for p in simplex_points(prediction.shape[-1])))
        low, high = seen.amin(), seen.amax()
        return self.normalise * (value - low) / torch.clamp(high - low, min=torch.finfo(value.dtype).tiny)

    def _raw(self, prediction: Tensor, label: Tensor) -> Tensor:
        """Mean over the classes (eq. 3.4)."""
        u, v = prediction - self.centre[0], label - self.centre[1]
        return self.polynomial(u, v, *self.coefficients.unbind()).mean(-1)


def simplex_points(classes: int) -> tuple[Tensor, Tensor]:
    """Fixed predictions and labels, float64[n, classes] each, that reach from the centre of the simplex to its corners.

    The loss is the same under any exchange of classes, so the label is the first. Corners (right and wrong) and centre
    are among the points; the others are softmax of normal numbers times 0.1 to 30. Not kept from call to call: a tensor
    that is made while something is differentiated cannot be used outside of that.
    """
    key = make_key(0)
    factor = torch.logspace(-1, 1.5, SAMPLES, dtype=torch.float64)[:, None]
    drawn = torch.softmax(factor * normal(key, SAMPLES, classes, dtype=torch.float64), -1)
    corners = torch.eye(classes, dtype=torch.float64)[:2]
    centre = torch.full((1, classes), 1.0 / classes, dtype=torch.float64)
    points = torch.cat([drawn, corners, centre])
    return points, torch.eye(classes, dtype=torch.float64)[:1].expand_as(points)


def _checked(part: str, factorials: str, normalise: float) -> Factorials:
    if factorials not in get_args(Factorials):
        raise bad_argument(part, "factorials", '"taylor" or "none"', factorials)
    if normalise < 0:
        raise bad_argument(part, "normalise", "a range, or 0 for none", normalise)
    return cast(Factorials, factorials)


@model(parts={"centre": "centre", "coefficients": "coefficients"})
def taylor_loss(order: int = 4, factorials: str = "taylor", normalise: float = 0.0) -> nn.Module:
    """Learned loss `ell[c](softmax(f), onehot(y, classes))`: a polynomial of prediction and label, mean over classes.

    Takes two real[..., classes], gives real[...]. Parameters: centre real[2] and one coefficient for each term, 10 at
    order 4, in the order of papers/002, eq. 3.5. `factorials`: "taylor" divides by i! j! (eq. 3.5), "none" does not
    (eq. B.1). `normalise`: range to which values over the simplex are scaled (eq. A.2), 0 for none; at constant loss
    the value is 0. Source: papers/002, sections 3.3 and 4.3.
    """
    require_positive("taylor_loss", {"order": order})
    return TaylorLoss(order, _checked("taylor_loss", factorials, normalise), normalise)


# ---- published -----------------------------------------------------------------------------------------------

ARL = {
    "AR-A40": (
        (0.4397, 0.9187),
        (-0.4554, 6.0881, -0.5869, 1.6765, -2.8526, 0.5748, -4.2756, 1.3126, -0.3326, 1.7649),
    ),
    "DR-A40": (
        (1.3754, 25.9954),
        (8.7507, 3.6501, 9.1560, -2.8144, -5.4006, -7.9342, -8.3143, 6.5751, 3.6237, -2.3279),
    ),
    "AR-S80": (
        (0.7043, -0.4858),
        (-0.0541, -1.8132, 2.2370, 2.4009, 1.4415, 6.4514, -2.7152, -2.6928, -3.2049, -0.5511),
    ),
    "DR-S80": (
        (2.7187, 25.0616),
        (-23.2701, 17.0804, -21.4348, 44.8821, -13.6956, 27.6005, -17.3943, 43.7386, 7.2981, -17.5286),
    ),
}
"""papers/002, table A.2: centre theta_0, theta_1, then theta_2 to theta_11"""
ITL = (
    (-2.0193, -1.2234),
    (0.1363, 0.1269, -0.4566, -0.1016, -0.2545, 1.0971, -0.9203, 0.2368, 0.4795, 0.9975),
)
"""papers/002, table B.1, whose heading leaves out omega_1 but which lists twelve numbers"""


@func(smooth=True, result=Array((), ranked=False))
def arl_loss(name: str, normalise: float = 0.0) -> Loss:
    """Published robust loss f(logits, labels): "AR-A40", "DR-A40", "AR-S80" or "DR-S80", one number per example.

    Logits real[..., classes], labels int64[...] or probabilities. AR and DR: learned over architectures or data sets;
    A40 and S80: with 40 % asymmetric or 80 % symmetric label noise. `normalise` as in `taylor_loss`. Source:
    papers/002, table A.2 with eq. 3.5; the range with which they were trained is not given.
    """
    if name not in ARL:
        raise bad_argument("arl_loss", "name", ", ".join(f'"{known}"' for known in ARL), name)
    return _fixed("arl_loss", ARL[name], "taylor", normalise)


@func(smooth=True, result=Array((), ranked=False))
def itl_loss(normalise: float = 0.0) -> Loss:
    """Published loss for domain generalisation f(logits, labels), one number per example.

    Logits real[..., classes], labels int64[...] or probabilities. `normalise` as in `taylor_loss`. Source: papers/002,
    table B.1 with eq. B.1, which has no factorials.
    """
    return _fixed("itl_loss", ITL, "none", normalise)


def _fixed(
    part: str, numbers: tuple[tuple[float, ...], tuple[float, ...]], factorials: Factorials, normalise: float
) -> Loss:
    """A fourth-order loss with these numbers, of logits and labels."""
    module = TaylorLoss(4, _checked(part, factorials, normalise), normalise).double()
    given = {n: torch.tensor(v, dtype=torch.float64) for n, v in zip(("centre", "coefficients"), numbers, strict=True)}

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        parameters = {name: value.to(logits) for name, value in given.items()}
        inputs = (torch.softmax(logits, -1), distribution(logits, labels))
        return torch.func.functional_call(module, parameters, inputs)  # type: ignore[no-any-return]

    return loss
