"""Steps preconditioned by a matrix M, and its quadratic form and eigenvalues: M diagonal, dense or factored.

A factored matrix is a dictionary with two vectors `LAYER.a`, `LAYER.b` for every linear or convolutional layer; it
stands for the block-diagonal matrix of (a a' + I) (x) (b b' + I), one block for each layer, where a goes with the
inputs of the layer (and one more entry with its bias), b with its outputs (papers/002, section 5.4.2). Parameters of
other layers have the block I.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.backends.torch_func.functions import largest, smallest, solved, sqnorm, total
from bilevel.backends.torch_func.solvers import clipped
from bilevel.backends.torch_func.tree import Tree, tree_map


def mirror_diagonal(
    x: Tree, state: Tree, gradient: Tree, count: int, M: Tree, lr: Tree, clip: Tree = 0.0
) -> tuple[Tree, Tree]:
    """Next is x - lr g / M, entry by entry (papers/002, eq. 5.1 with B / eta, solved for theta)."""
    return tree_map(lambda a, d, m, r: a - r * d / m, x, clipped(gradient, clip), M, lr), state


def mirror_dense(
    x: Tensor, state: Tree, gradient: Tensor, count: int, M: Tensor, lr: Tree, clip: Tree = 0.0
) -> tuple[Tensor, Tree]:
    """Next is x - lr inv(M) g, x real[n], M real[n, n]. Cost: one factorisation, n^3 / 3."""
    return x - lr * solved(M, clipped(gradient, clip)[:, None])[:, 0], state


def mirror_kron(
    x: Tree, state: Tree, gradient: Tree, count: int, M: dict[str, Tensor], lr: Tree, clip: Tree = 0.0
) -> tuple[Tree, Tree]:
    """Next is x - lr inv(M) g with inv(M) g = inv(B) G inv(A) for every layer (papers/002, section 5.4.2).

    The inverse of a a' + I is I - a a' / (1 + a'a) (Sherman and Morrison), so no matrix is decomposed; the thesis
    takes a singular value decomposition. Cost: that of the gradient's entries.
    """
    gradient = clipped(gradient, clip)
    scaled = dict(gradient)
    for layer in kron_layers(M):
        a, b = M[f"{layer}a"], M[f"{layer}b"]
        block = layer_block(gradient, layer)
        block = block - (block @ a)[:, None] * a / (1 + a @ a)
        block = block - b[:, None] * (b @ block) / (1 + b @ b)
        scaled |= from_block(block, gradient, layer)
    return tree_map(lambda v, d, r: v - r * d, x, scaled, lr), state


def kron_layers(factors: dict[str, Tensor]) -> list[str]:
    """The layers that have factors, as prefixes of names."""
    return [name[:-1] for name in factors if name.endswith(".a") or name == "a"]


def layer_block(tree: dict[str, Tensor], layer: str) -> Tensor:
    """Weight and bias of a layer as one matrix real[outputs, inputs (+ 1)]."""
    weight = tree[f"{layer}weight"].flatten(1)
    bias = tree.get(f"{layer}bias")
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


def from_block(block: Tensor, like: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    """The inverse of `layer_block`."""
    weight = like[f"{layer}weight"]
    found = {f"{layer}weight": block[:, : weight[0].numel()].reshape(weight.shape)}
    return found | ({f"{layer}bias": block[:, -1]} if f"{layer}bias" in like else {})


# ---- the matrix itself ---------------------------------------------------------------------------------------


def min_eig(matrix: Tree) -> Tensor:
    """Smallest eigenvalue, real[]; of a matrix (its symmetric part), or of a diagonal given as a vector or tree."""
    if isinstance(matrix, Tensor) and matrix.dim() == 2:
        return spectrum(matrix)[0]
    return smallest(matrix)


def spectrum(matrix: Tensor) -> Tensor:
    """Eigenvalues of the symmetric part, from the smallest, real[n]."""
    found: Tensor = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T))
    return found


def max_eig(matrix: Tree) -> Tensor:
    """Largest eigenvalue, real[]."""
    if isinstance(matrix, Tensor) and matrix.dim() == 2:
        return spectrum(matrix)[-1]
    return largest(matrix)


def identity_gap(matrix: Tree) -> Tensor:
    """Squared Frobenius distance from the identity, real[] (papers/002, eq. 5.29)."""
    if isinstance(matrix, Tensor) and matrix.dim() == 2:
        return sqnorm(matrix - torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))
    return total(tree_map(lambda m: (m - 1) * (m - 1), matrix))


def quad_kron(factors: dict[str, Tensor], vector: dict[str, Tensor]) -> Tensor:
    """The form u' M u, real[]: the sum of <U, B U A> over the layers, and |u|^2 over parameters without factors."""
    parts = [sqnorm(vector)]
    for layer in kron_layers(factors):
        a, b = factors[f"{layer}a"], factors[f"{layer}b"]
        block = layer_block(vector, layer)
        image = block + (block @ a)[:, None] * a
        image = image + b[:, None] * (b @ image)
        parts.append(((image - block) * block).sum())
    return torch.stack(parts).sum()


def kron_extremes(factors: dict[str, Tensor], least: bool) -> list[Tensor]:
    """The least or largest eigenvalue of every block: those of v v' + I are 1 + |v|^2 and, beside it, 1."""
    found = []
    for layer in kron_layers(factors):
        both = [v * v for v in (factors[f"{layer}a"], factors[f"{layer}b"])]
        sides = [torch.ones_like(v[0]) if least and len(v) > 1 else 1 + v.sum() for v in both]
        found.append(sides[0] * sides[1])
    return found


def min_eig_kron(factors: dict[str, Tensor]) -> Tensor:
    """Smallest eigenvalue over all blocks, real[]: 1 wherever a layer has two inputs and outputs or more."""
    return torch.stack(kron_extremes(factors, True)).amin()


def max_eig_kron(factors: dict[str, Tensor]) -> Tensor:
    """Largest eigenvalue over all blocks, real[]."""
    return torch.stack(kron_extremes(factors, False)).amax()


def identity_gap_kron(factors: dict[str, Tensor]) -> Tensor:
    """|M - I|^2 over all blocks, real[].

    Source: papers/002, eq. 5.29-5.32 with the squares that 5.32 lacks; written out in p = a'a, q = b'b for blocks
    with n inputs and m outputs, so that nothing cancels: p^2 q^2 + m p^2 + n q^2 + 2 p^2 q + 2 p q^2 + 2 p q.
    """
    parts = []
    for layer in kron_layers(factors):
        a, b = factors[f"{layer}a"], factors[f"{layer}b"]
        p, q = a @ a, b @ b
        parts.append(p * p * q * q + len(b) * p * p + len(a) * q * q + 2 * p * q * (p + q + 1))
    return torch.stack(parts).sum()
