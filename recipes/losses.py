"""Hand-made losses for classification, most of them robust to wrong labels (papers/002, section 3.4, table 3.2).

Every one is registered as a constructor and called with brackets (`use loss = gce(q = 0.7)`), and gives a function
f(logits, labels): logits real[..., classes], labels int64[...] or probabilities real[..., classes], one number for
each example, real[...]. All are written in logarithms of probabilities, so that value, first and second derivative
are finite at any logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bilevel.backends.torch_func.functions import ce
from bilevel.dsl.datatypes import Array
from bilevel.recipes.records import bad_argument
from bilevel.registry import func

Loss = Callable[[Tensor, Tensor], Tensor]
NUMBERS = Array((), ranked=False)


def distribution(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels as probabilities real[..., classes]; probabilities stay as they are."""
    if labels.is_floating_point():
        return labels
    return (labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)).to(logits.dtype)


def _require(part: str, argument: str, value: float, low: float, high: float, expected: str) -> None:
    if not low <= value <= high:
        raise bad_argument(part, argument, expected, value)


# ---- probabilities -------------------------------------------------------------------------------------------


@func(smooth=True, result=NUMBERS)
def gce(q: float = 0.7) -> Loss:
    """Generalised cross entropy (1 - p^q) / q of the label's probability p: MAE / 2 at q = 1, cross entropy at 0.

    Source: Zhang and Sabuncu 2018, eq. 6 (q = 0.7 there).
    """
    _require("gce", "q", q, 1e-6, 1.0, "a power above 0, at most 1")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logs = torch.log_softmax(logits, -1)
        return -(distribution(logits, labels) * torch.expm1(q * logs)).sum(-1) / q

    return loss


@func(smooth=True, result=NUMBERS)
def sce(alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> Loss:
    """Symmetric cross entropy: alpha * cross entropy + beta * reverse cross entropy.

    Reverse: - sum of p_k log y_k, where the logarithm of zero is `log_zero`. Source: Wang et al. 2019, eq. 4-7
    (alpha = 0.1, beta = 1 for CIFAR-10).
    """
    if log_zero >= 0:
        raise bad_argument("sce", "log_zero", "a negative number", log_zero)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logs = torch.log(torch.clamp(distribution(logits, labels), min=math.exp(log_zero)))
        return alpha * ce(logits, labels) - beta * (torch.softmax(logits, -1) * logs).sum(-1)

    return loss


@func(smooth=True, result=NUMBERS)
def mae() -> Loss:
    """Mean absolute error, sum of |p_k - y_k| over the classes: 2 - 2 p of the label's probability p.

    Source: Ghosh, Kumar and Sastry 2017, eq. 7. Between 0 and 2.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return (torch.softmax(logits, -1) - distribution(logits, labels)).abs().sum(-1)

    return loss


@func(smooth=True, result=NUMBERS)
def huber(delta: float = 0.5) -> Loss:
    """Huber's loss of p_k - y_k summed over the classes: quadratic up to `delta`, linear beyond.

    r^2 / 2 up to delta, delta (|r| - delta / 2) beyond. Source: Hastie, Tibshirani and Friedman 2009, section 10.6;
    papers/002 does not give its delta (0.5 is ours; differences of probabilities never exceed 1).
    """
    if delta <= 0:
        raise bad_argument("huber", "delta", "a positive number", delta)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        size = (torch.softmax(logits, -1) - distribution(logits, labels)).abs()
        near = torch.clamp(size, max=delta)
        return (near * (size - 0.5 * near)).sum(-1)

    return loss


# ---- other targets -------------------------------------------------------------------------------------------


@func(smooth=True, result=NUMBERS)
def label_smoothing(epsilon: float = 0.1) -> Loss:
    """Cross entropy with (1 - epsilon) y + epsilon / classes in place of y.

    Source: Szegedy et al. 2016, section 7.
    """
    _require("label_smoothing", "epsilon", epsilon, 0.0, 1.0, "a share from 0 to 1")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        target = (1 - epsilon) * distribution(logits, labels) + epsilon / logits.shape[-1]
        return ce(logits, target)

    return loss


@func(smooth=True, result=NUMBERS)
def bootstrap(beta: float = 0.95, kind: str = "soft") -> Loss:
    """Cross entropy with beta y + (1 - beta) z in place of y: z is the prediction ("soft") or its largest ("hard").

    Source: Reed et al. 2015, eq. 6 and 7 (beta 0.95 soft, 0.8 hard). The soft prediction is differentiated too, which
    adds an entropy; the hard one is a constant.
    """
    _require("bootstrap", "beta", beta, 0.0, 1.0, "a share from 0 to 1")
    if kind not in ("soft", "hard"):
        raise bad_argument("bootstrap", "kind", '"soft" or "hard"', kind)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        own = torch.softmax(logits, -1) if kind == "soft" else distribution(logits, logits.argmax(-1))
        return ce(logits, beta * distribution(logits, labels) + (1 - beta) * own)

    return loss


@func(smooth=True, result=NUMBERS)
def forward_correction(noise: Sequence[Sequence[float]]) -> Loss:
    """Cross entropy of noisy labels: - log of sum over k of p_k T[k, label].

    `noise` is T, rows of probabilities of each noisy label given the clean one, real[classes, classes].
    Source: Patrini et al. 2017, theorem 2.
    """
    matrix = _noise_matrix(noise)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logs = torch.log_softmax(logits, -1)[..., :, None] + torch.log(matrix.to(logits))
        return -(distribution(logits, labels) * torch.logsumexp(logs, -2)).sum(-1)

    return loss


def _noise_matrix(noise: Sequence[Sequence[float]]) -> Tensor:
    """A square matrix of probabilities in float64: rows sum to one, every label is possible."""
    matrix = torch.as_tensor(noise, dtype=torch.float64)
    square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or bool((matrix < 0).any()) or bool(((matrix.sum(1) - 1).abs() > 1e-6).any()):
        raise bad_argument("forward_correction", "noise", "as many rows as classes, of probabilities", noise)
    if bool((matrix.amax(0) == 0).any()):
        raise bad_argument("forward_correction", "noise", "a matrix in which every label is possible", noise)
    return matrix


# ---- active and passive --------------------------------------------------------------------------------------


@func(smooth=True, result=NUMBERS)
def nce_mae(alpha: float = 1.0, beta: float = 1.0) -> Loss:
    """alpha * normalised cross entropy + beta * MAE; normalised: divided by the sum over all labels it could have.

    Source: Ma et al. 2020, eq. 6 and 8 (alpha = beta = 1 for CIFAR-10), with `mae` as here.
    """
    passive = mae()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        active = normalised(-torch.log_softmax(logits, -1), distribution(logits, labels))
        return alpha * active + beta * passive(logits, labels)

    return loss


@func(smooth=True, result=NUMBERS)
def nfl_mae(alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.5) -> Loss:
    """alpha * normalised focal loss + beta * MAE; focal: - (1 - p)^gamma log p.

    Source: Ma et al. 2020, eq. 7 and 8 (gamma = 0.5); focal loss: Lin et al. 2017. Cost: classes^2 for each example,
    since 1 - p is the sum of the others (one minus p would be zero, and its root without derivative, where p is
    rounded to one).
    """
    if gamma < 0:
        raise bad_argument("nfl_mae", "gamma", "0 or more", gamma)
    passive = mae()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logs = torch.log_softmax(logits, -1)
        focal = -torch.exp(gamma * log_of_others(logs)) * logs
        return alpha * normalised(focal, distribution(logits, labels)) + beta * passive(logits, labels)

    return loss


def normalised(losses: Tensor, target: Tensor) -> Tensor:
    """The label's share of the sum over all labels, real[...], of losses real[..., classes] of each label."""
    return (target * losses).sum(-1) / losses.sum(-1)


def log_of_others(logs: Tensor) -> Tensor:
    """log(1 - p_k) from log p, real[..., classes], with full precision as p_k goes to one."""
    own = torch.eye(logs.shape[-1], dtype=torch.bool, device=logs.device)
    others = torch.where(own, torch.full_like(logs[..., None, :], -math.inf), logs[..., None, :])
    return torch.logsumexp(others, -1)


# ---- heavy tails ---------------------------------------------------------------------------------------------


@func(smooth=True, result=NUMBERS)
def bi_tempered(t1: float = 0.8, t2: float = 1.2) -> Loss:
    """Bi-tempered logistic loss: bounded by temperature t1 <= 1, with the heavy-tailed softmax of t2 >= 1.

    Sum over classes of y (log_t1 y - log_t1 p) - (y^(2 - t1) - p^(2 - t1)) / (2 - t1), p the tempered softmax.
    Cross entropy at t1 = t2 = 1. Source: Amid et al. 2019, eq. 5-8. Cost: 40 Newton steps for the normaliser.
    """
    _require("bi_tempered", "t1", t1, 0.0, 1.0, "from 0 to 1")
    _require("bi_tempered", "t2", t2, 1.0, 1.99, "from 1 to below 2")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        y, logs = distribution(logits, labels), log_tempered(logits, t2)
        known = tempered_entropy(y, t1) - y.pow(2 - t1) / (2 - t1)
        log_t1 = logs if t1 == 1 else torch.expm1((1 - t1) * logs) / (1 - t1)
        return (known - y * log_t1 + torch.exp((2 - t1) * logs) / (2 - t1)).sum(-1)

    return loss


def tempered_entropy(y: Tensor, t: float) -> Tensor:
    """y log_t y, which is zero at zero."""
    return torch.xlogy(y, y) if t == 1 else (y.pow(2 - t) - y) / (1 - t)


def log_tempered(logits: Tensor, t: float) -> Tensor:
    """Logarithm of the softmax of temperature t >= 1: log exp_t(a - normaliser), real[..., classes].

    The normaliser is found by Newton's steps from below, where the sum is convex and decreasing, without derivative.
    Two more steps with one then have the derivatives of the solution up to the third: each doubles the order.
    """
    if t == 1:
        return torch.log_softmax(logits, -1)
    centred = logits - logits.amax(-1, keepdim=True).detach()
    normaliser = torch.zeros_like(centred[..., :1])
    for _ in range(40):
        normaliser = _newton(centred.detach(), normaliser, t)
    for _ in range(2):
        normaliser = _newton(centred, normaliser, t)
    return _log_exp(centred - normaliser, t)


def _newton(logits: Tensor, normaliser: Tensor, t: float) -> Tensor:
    """One step towards sum of exp_t(a - normaliser) = 1; the derivative of exp_t is its power t."""
    logs = _log_exp(logits - normaliser, t)
    return normaliser + (torch.exp(logs).sum(-1, keepdim=True) - 1) / torch.exp(t * logs).sum(-1, keepdim=True)


def _log_exp(x: Tensor, t: float) -> Tensor:
    """log of exp_t(x) = (1 + (1 - t) x)^(1 / (1 - t)) for t > 1 and x at most 0 (a step below: 1 / (t - 1))."""
    return -torch.log1p((1 - t) * x) / (t - 1)


# ---- others --------------------------------------------------------------------------------------------------


@func(smooth=True, result=NUMBERS)
def baikal(floor: float = 1e-3) -> Loss:
    """Mean over classes of y_k / p_k - log p_k, a loss found by genetic programming.

    Source: Gonzalez and Miikkulainen 2020, eq. 5. `floor`: the share of the uniform distribution that is mixed into p
    (ours: the published loss is infinite at p = 0).
    """
    _require("baikal", "floor", floor, 1e-12, 0.5, "a share above 0, at most 0.5")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        p = (1 - floor) * torch.softmax(logits, -1) + floor / logits.shape[-1]
        return (distribution(logits, labels) / p - torch.log(p)).mean(-1)

    return loss


@func(smooth=True, result=NUMBERS)
def carlini_wagner(confidence: float = 0.0, kind: str = "untargeted") -> Loss:
    """Attack loss max(-confidence, margin): the label's logit less the largest other, or that reversed if "targeted".

    Zero margin is the edge of the class; minimising moves an example out of its label, or into it with `kind`
    "targeted". Of probabilities the largest is the label. The language's `cw` is this without arguments. Source:
    Carlini and Wagner 2017, section V, f6 (papers/001 and 004 attack with it).
    """
    if kind not in ("untargeted", "targeted"):
        raise bad_argument("carlini_wagner", "kind", '"untargeted" or "targeted"', kind)
    if confidence < 0:
        raise bad_argument("carlini_wagner", "confidence", "0 or more", confidence)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        label = labels.argmax(-1) if labels.is_floating_point() else labels
        own = distribution(logits, label) > 0.5
        labelled = torch.where(own, logits, torch.zeros_like(logits)).sum(-1)
        others = torch.where(own, torch.full_like(logits, -math.inf), logits).amax(-1)
        margin = others - labelled if kind == "targeted" else labelled - others
        return torch.relu(margin + confidence) - confidence

    return loss
