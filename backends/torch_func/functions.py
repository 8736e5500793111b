"""The functions of the language on tensors: what `dsl/functions.py` lists, under the names emitted code uses.

Our own losses instead of torch's where torch's cannot be taken: `mse_loss` fails under vmap(jvp(grad)) ("ZeroTensors
are immutable"). All are written with operations that have first and second derivatives in both modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.torch_func.tree import Tree, combine, leaves, multiply, tree_map

# ---- whole values to one number ------------------------------------------------------------------------------


def total(value: Tree) -> Tensor:
    """Sum of all entries of an array or tree, real[]."""
    parts = [leaf.sum() for leaf in leaves(value)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def mean(value: Tree) -> Tensor:
    """Mean of all entries of an array or tree, real[]."""
    found = leaves(value)
    return found[0].mean() if len(found) == 1 else total(value) / sum(leaf.numel() for leaf in found)


def largest(value: Tree) -> Tensor:
    """Largest entry, real[]; ties share the derivative."""
    return torch.stack([leaf.amax() for leaf in leaves(value)]).amax()


def smallest(value: Tree) -> Tensor:
    """Smallest entry, real[]; ties share the derivative."""
    return torch.stack([leaf.amin() for leaf in leaves(value)]).amin()


def gathered(values: list[Tensor]) -> Tensor:
    """The values of a counted reducer side by side; a single zero where the count is empty."""
    return torch.stack(values) if values else torch.zeros(1)


def sqnorm(value: Tree) -> Tensor:
    """Sum of squares over all entries, real[]."""
    return total(tree_map(lambda a: a * a, value))


def norm1(value: Tree) -> Tensor:
    """Sum of absolute values over all entries, real[]."""
    return total(tree_map(torch.abs, value))


def dot(left: Tree, right: Tree) -> Tensor:
    """Inner product of two vectors or trees; of a matrix with a vector or matrix, their product."""
    if isinstance(left, Tensor) and isinstance(right, Tensor) and (left.dim() > 1 or right.dim() > 1):
        common = torch.promote_types(left.dtype, right.dtype)  # positions are whole numbers
        return left.to(common) @ right.to(common)
    return total(multiply(left, right))


def quad(matrix: Tree, vector: Tree) -> Tensor:
    """x' M x, real[]; M is n by n, or a vector or tree that stands for a diagonal."""
    if not isinstance(matrix, Tensor) or not isinstance(vector, Tensor):
        return total(combine(lambda m, u: m * u * u, matrix, vector))
    image = matrix @ vector if matrix.dim() == 2 and vector.dim() == 1 else matrix * vector
    return (vector * image).sum()


def trace(matrix: Tensor) -> Tensor:
    """Sum of the diagonal."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def det(matrix: Tensor) -> Tensor:
    """Determinant."""
    return torch.linalg.det(matrix)


# ---- elementwise ---------------------------------------------------------------------------------------------


def entrywise(function: Callable[[Tensor], Tensor], value: Tree) -> Tree:
    """`function` of every entry; a plain number is taken as a float64 tensor, which raises no other dtype."""
    return tree_map(lambda a: function(a if isinstance(a, Tensor) else torch.tensor(a, dtype=torch.float64)), value)


def softplus_of(value: Tensor) -> Tensor:
    """log(1 + e^x) without torch's threshold, beyond which its second derivative is 0.

    Not by logaddexp: the second derivative of that is inf / inf from x = -709 (-88 in float32) on.
    """
    return torch.logsumexp(torch.stack([value, torch.zeros_like(value)]), 0)


def exp(value: Tree) -> Tree:
    """e to the power, elementwise."""
    return entrywise(torch.exp, value)


def log(value: Tree) -> Tree:
    """Natural logarithm, elementwise."""
    return entrywise(torch.log, value)


def sqrt(value: Tree) -> Tree:
    """Square root, elementwise."""
    return entrywise(torch.sqrt, value)


def absolute(value: Tree) -> Tree:
    """Absolute value, elementwise."""
    return entrywise(torch.abs, value)


def tanh(value: Tree) -> Tree:
    """Hyperbolic tangent, elementwise."""
    return entrywise(torch.tanh, value)


def cos(value: Tree) -> Tree:
    """Cosine, elementwise."""
    return entrywise(torch.cos, value)


def relu(value: Tree) -> Tree:
    """Positive part, elementwise."""
    return entrywise(torch.relu, value)


def softplus(value: Tree) -> Tree:
    """log(1 + e^x), elementwise."""
    return entrywise(softplus_of, value)


def sigmoid(value: Tree) -> Tree:
    """1 / (1 + e^-x), elementwise."""
    return entrywise(torch.sigmoid, value)


def sign(value: Tree) -> Tree:
    """-1, 0 or 1, elementwise."""
    return entrywise(torch.sign, value)


def clip(value: Tree, low: Tree, high: Tree) -> Tree:
    """Entries limited to [low, high]."""
    above = combine(lambda a, b: torch.maximum(a, torch.as_tensor(b, dtype=a.dtype)), value, low)
    return combine(lambda a, b: torch.minimum(a, torch.as_tensor(b, dtype=a.dtype)), above, high)


def stop(value: Tree) -> Tree:
    """The value; no derivative passes."""
    return tree_map(lambda a: a.detach(), value)


# ---- last axis -----------------------------------------------------------------------------------------------


def softmax(value: Tensor) -> Tensor:
    """Softmax over the last axis."""
    return torch.softmax(value, -1)


def logsoftmax(value: Tensor) -> Tensor:
    """Logarithm of softmax over the last axis."""
    return torch.log_softmax(value, -1)


def logsumexp(value: Tensor) -> Tensor:
    """Logarithm of the summed exponentials of the last axis."""
    return torch.logsumexp(value, -1)


def onehot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels int64[...] as indicator vectors real[..., classes]."""
    return (labels[..., None] == torch.arange(classes, device=labels.device)).to(dtype)


def ce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy real[...] of logits real[..., classes] with labels int64[...] or probabilities real[..., classes]."""
    logs = torch.log_softmax(logits, -1)
    if target.is_floating_point():
        return -(target * logs).sum(-1)
    return -logs.gather(-1, target[..., None])[..., 0]


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of logits with targets in [0, 1], mean of the last axis."""
    return (softplus_of(logits) - logits * target).mean(-1)


def mse(left: Tensor, right: Tensor) -> Tensor:
    """Squared error, mean of the last axis."""
    difference = left - right
    return (difference * difference).mean(-1)


def l1(left: Tensor, right: Tensor) -> Tensor:
    """Absolute error, mean of the last axis."""
    return (left - right).abs().mean(-1)


def kl(left: Tensor, right: Tensor) -> Tensor:
    """Sum of p log(p / q) over the last axis."""
    return (left * (torch.log(left) - torch.log(right))).sum(-1)


def cw(logits: Tensor, labels: Tensor) -> Tensor:
    """max(0, logit of the label - largest other logit), real[...] (Carlini and Wagner 2017, confidence 0)."""
    own = torch.arange(logits.shape[-1], device=logits.device) == labels[..., None]
    labelled = torch.where(own, logits, torch.zeros_like(logits)).sum(-1)
    others = torch.where(own, torch.full_like(logits, -math.inf), logits).amax(-1)
    return torch.relu(labelled - others)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label, real[]."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean()


# ---- matrices ------------------------------------------------------------------------------------------------


def inv(matrix: Tensor) -> Tensor:
    """Inverse of a matrix."""
    return torch.linalg.inv(matrix)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of matrix u = right, real[..., n, k].

    By the inverse: in torch 2.13 the derivative of the jvp of `torch.linalg.solve` is wrong, without a word.
    """
    return torch.linalg.inv(matrix) @ right


def outer(left: Tensor, right: Tensor) -> Tensor:
    """All products of entries, real[n, m]."""
    return left[:, None] * right[None, :]


def transpose(value: Tensor) -> Tensor:
    """The last two axes exchanged."""
    return value.transpose(-2, -1)


def concat(*values: Tensor) -> Tensor:
    """Arrays joined along their first axis."""
    return torch.cat(values)


def sqdist(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances between the rows of real[n, d] and real[m, d], real[n, m]."""
    difference = left[:, None, :] - right[None, :, :]
    return (difference * difference).sum(-1)


def outer_sum(left: Tensor, right: Tensor) -> Tensor:
    """All sums of entries of two vectors, real[n, m]."""
    return left[:, None] + right[None, :]


def reshape(value: Tensor, *shape: int) -> Tensor:
    """The same entries in another shape."""
    return value.reshape(shape)
