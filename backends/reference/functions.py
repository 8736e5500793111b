"""The functions of the language for one copy, each by its formula (`dsl/functions.py` says what they are)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.reference.matrices import eigenvalues, form, identity_gap
from bilevel.backends.reference.trees import Tree, detached, leafwise, leaves, number

Function = Callable[..., Any]


def elementwise(function: Callable[..., Tensor]) -> Function:
    """A function of tensors as one of numbers and trees, leaf by leaf."""
    return lambda *values: leafwise(lambda *parts: function(*map(number, parts)), *values)


def entries(value: Tree) -> Tensor:
    """All entries of a number, array or tree in one row."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves(value)])


def dot(left: Tree, right: Tree) -> Any:
    """Inner product of vectors or trees; matrix product where one side is a matrix."""
    if not isinstance(left, dict) and max(number(left).dim(), number(right).dim()) > 1:
        return torch.matmul(left, right)
    return entries(leafwise(lambda a, b: a * b, left, right)).sum()


def logsumexp(value: Tensor) -> Tensor:
    """Logarithm of the summed exponentials of the last axis, from the largest entry on."""
    largest = value.detach().max(-1, keepdim=True).values
    return torch.log(torch.exp(value - largest).sum(-1)) + largest[..., 0]


def logsoftmax(value: Tensor) -> Tensor:
    """Logarithm of the softmax: x - logsumexp(x)."""
    return value - logsumexp(value)[..., None]


def ce(logits: Tensor, target: Tensor) -> Tensor:
    """Minus the log probability of the label, or its mean under given probabilities."""
    weights = target if target.is_floating_point() else onehot(target, logits.shape[-1])
    return -(weights * logsoftmax(logits)).sum(-1)


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """-t log s(z) - (1 - t) log(1 - s(z)), mean of the last axis."""
    zero = torch.zeros_like(logits)
    return (target * torch.logaddexp(-logits, zero) + (1 - target) * torch.logaddexp(logits, zero)).mean(-1)


def cw(logits: Tensor, labels: Tensor) -> Tensor:
    """max(0, logit of the label - largest other logit) (Carlini and Wagner 2017, confidence 0)."""
    own = onehot(labels, logits.shape[-1]).bool()
    others = logits.masked_fill(own, -torch.inf).amax(-1)
    return torch.relu((logits * own).sum(-1) - others)


def onehot(labels: Tensor, classes: int) -> Tensor:
    """One in the place of the label, zero elsewhere."""
    return torch.eye(classes, dtype=torch.float64)[labels]


def det(matrix: Tensor) -> Tensor:
    """Determinant by Laplace's expansion along the first row."""
    if len(matrix) == 1:
        return matrix[0, 0]
    rest = [torch.cat([matrix[1:, :j], matrix[1:, j + 1 :]], 1) for j in range(len(matrix))]
    return torch.stack([(-1) ** j * matrix[0, j] * det(minor) for j, minor in enumerate(rest)]).sum()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label."""
    return (logits.argmax(-1) == labels).to(torch.float64).mean()


def same(left: Any, right: Any) -> Any:
    """Squared difference, for arrays."""
    return (left - right) ** 2


def without(items: list[Any], left_out: Any) -> Any:
    """The samples of all sources of a list but one, field by field one after the other."""
    kept = [item for item in items if item is not left_out]
    return type(kept[0])(*(torch.cat(fields) for fields in zip(*kept, strict=True)))


FUNCTIONS: dict[str, Function] = {
    "mean": lambda v: entries(v).mean(),
    "sum": lambda v: entries(v).sum(),
    "max": lambda v: entries(v).amax(),
    "min": lambda v: entries(v).amin(),
    "sqnorm": lambda v: (entries(v) ** 2).sum(),
    "norm1": lambda v: entries(v).abs().sum(),
    "exp": elementwise(torch.exp),
    "log": elementwise(torch.log),
    "sqrt": elementwise(lambda v: v**0.5),
    "abs": elementwise(lambda v: v * torch.sign(v.detach())),
    "tanh": elementwise(lambda v: torch.sinh(v) / torch.cosh(v)),
    "cos": elementwise(torch.cos),
    "relu": elementwise(lambda v: torch.where(v > 0, v, torch.zeros_like(v))),
    "softplus": elementwise(lambda v: torch.logaddexp(v, torch.zeros_like(v))),
    "sigmoid": elementwise(lambda v: 1 / (1 + torch.exp(-v))),
    "sign": elementwise(lambda v: torch.sign(v.detach())),
    "clip": elementwise(lambda v, low, high: torch.minimum(torch.maximum(v, low), high)),
    "stop": lambda v: detached(leafwise(number, v)),
    "softmax": lambda v: torch.exp(logsoftmax(v)),
    "logsoftmax": logsoftmax,
    "logsumexp": logsumexp,
    "onehot": onehot,
    "ce": ce,
    "bce": bce,
    "mse": lambda a, b: same(a, b).mean(-1),
    "l1": lambda a, b: FUNCTIONS["abs"](a - b).mean(-1),
    "kl": lambda p, q: (p * torch.log(p / q)).sum(-1),
    "cw": cw,
    "accuracy": accuracy,
    "dot": dot,
    "outer": lambda a, b: a[:, None] * b[None, :],
    "quad": form,
    "min_eig": lambda m: eigenvalues(m).amin(),
    "max_eig": lambda m: eigenvalues(m).amax(),
    "identity_gap": identity_gap,
    "without": without,
    "inv": lambda m: torch.linalg.solve(m, torch.eye(len(m), dtype=torch.float64)),
    "trace": lambda m: torch.stack([m[i, i] for i in range(len(m))]).sum(),
    "det": det,
    "eig": lambda m: torch.linalg.eigh((m + m.swapaxes(0, 1)) / 2).eigenvalues,
    "eye": lambda n: torch.eye(n, dtype=torch.float64),
    "arange": torch.arange,
    "concat": lambda *parts: torch.cat(parts),
    "transpose": lambda m: m.swapaxes(-2, -1),
    "sqdist": lambda a, b: torch.stack([same(row, b).sum(-1) for row in a]),
    "outer_sum": lambda a, b: a[:, None] + b[None, :],
    "reshape": lambda v, *shape: v.reshape(shape),
}
