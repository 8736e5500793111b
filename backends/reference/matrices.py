"""Matrices of mirror descent as dense arrays: a diagonal, a matrix, or the blocks that factors stand for.

Factors `LAYER.a`, `LAYER.b` stand for the block (b b' + I) (x) (a a' + I) on the layer's weights row by row, its bias
as one more input (papers/002, section 5.4.2); parameters of other layers have the identity. Here every block is
written out and handed to dense linear algebra.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.backends.reference.trees import Tree, leafwise, leaves


def is_factored(matrix: Tree) -> bool:
    """Whether a tree holds factors of layers, and no number for each entry."""
    return isinstance(matrix, dict) and all(name.rpartition(".")[2] in ("a", "b") for name in matrix)


def is_dense(matrix: Tree, vector: Tree) -> bool:
    """Whether a matrix multiplies a vector as a matrix."""
    return isinstance(matrix, Tensor) and isinstance(vector, Tensor) and matrix.dim() == 2 and vector.dim() == 1


def solved(matrix: Tree, vector: Tree) -> Tree:
    """The solution of M u = v; cost n^3 for a dense matrix or block."""
    if is_factored(matrix):
        found = dict(vector)
        for layer, block in blocks(matrix).items():
            found |= _unrow(torch.linalg.solve(block, _row(vector, layer)), vector, layer)
        return found
    if is_dense(matrix, vector):
        return torch.linalg.solve(matrix, vector)
    return leafwise(lambda m, v: v / m, matrix, vector)


def form(matrix: Tree, vector: Tree) -> Tensor:
    """The form v' M v."""
    if is_factored(matrix):
        inside = {f"{layer}{name}" for layer in blocks(matrix) for name in ("weight", "bias")}
        rows = {layer: _row(vector, layer) for layer in blocks(matrix)}
        parts = [(rows[layer] * (block @ rows[layer])).sum() for layer, block in blocks(matrix).items()]
        parts += [(leaf**2).sum() for name, leaf in vector.items() if name not in inside]
        return torch.stack(parts).sum()
    if is_dense(matrix, vector):
        products: Tensor = vector[:, None] * matrix * vector[None, :]
        return products.sum()
    return torch.stack([leaf.sum() for leaf in leaves(leafwise(lambda m, v: v * m * v, matrix, vector))]).sum()


def eigenvalues(matrix: Tree) -> Tensor:
    """All eigenvalues, in no order; of a matrix those of its symmetric part."""
    if is_factored(matrix):
        return torch.cat([torch.linalg.eigvalsh(block) for block in blocks(matrix).values()])
    if isinstance(matrix, Tensor) and matrix.dim() == 2:
        values: Tensor = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
        return values
    return torch.cat([leaf.reshape(-1) for leaf in leaves(matrix)])


def identity_gap(matrix: Tree) -> Tensor:
    """The squared Frobenius norm of M - I (papers/002, eq. 5.29)."""
    if is_factored(matrix):
        return torch.stack([((block - _eye(len(block))) ** 2).sum() for block in blocks(matrix).values()]).sum()
    if isinstance(matrix, Tensor) and matrix.dim() == 2:
        return ((matrix - _eye(len(matrix))) ** 2).sum()
    return ((eigenvalues(matrix) - 1) ** 2).sum()


def blocks(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The dense block of every layer, by the beginning of its names."""
    layers = [name[:-1] for name in factors if name.rpartition(".")[2] == "a"]
    return {layer: torch.kron(_side(factors[f"{layer}b"]), _side(factors[f"{layer}a"])) for layer in layers}


def _side(vector: Tensor) -> Tensor:
    return vector[:, None] * vector[None, :] + _eye(len(vector))


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _row(tree: dict[str, Tensor], layer: str) -> Tensor:
    """Weights and bias of a layer, output by output."""
    weight = tree[f"{layer}weight"]
    rows = [weight.reshape(len(weight), -1)]
    rows += [tree[f"{layer}bias"].reshape(-1, 1)] if f"{layer}bias" in tree else []
    return torch.cat(rows, 1).reshape(-1)


def _unrow(row: Tensor, like: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    """The inverse of `_row`."""
    weight = like[f"{layer}weight"]
    rows, inputs = row.reshape(len(weight), -1), weight[0].numel()
    found = {f"{layer}weight": rows[:, :inputs].reshape(weight.shape)}
    return found | ({f"{layer}bias": rows[:, inputs]} if f"{layer}bias" in like else {})
