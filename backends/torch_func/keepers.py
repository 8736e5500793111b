"""Solvers that step in the variable's own coordinates and keep its domain themselves.

A simplex is the last axis of an array; leading axes, copies among them, are so many simplices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bilevel.backends.torch_func.solvers import clipped
from bilevel.backends.torch_func.tree import Tree, part, tree_map

Domain = str | tuple[str, ...]
"""a domain, or one for each of several variables"""

Bounds = tuple[float, ...] | tuple[tuple[float, ...], ...]
"""the numbers of the domain, or those of each"""


def kept_map(function: Callable[..., Tensor], domain: Domain, bounds: Bounds, x: Tree, *others: Tree) -> Tree:
    """`function(leaf, *others, domain, bounds)` of all leaves, every variable with its own domain."""
    if isinstance(domain, tuple):
        items = enumerate(zip(domain, bounds, strict=True))
        return tuple(kept_map(function, d, b, x[i], *(part(o, i) for o in others)) for i, (d, b) in items)  # type: ignore[arg-type]
    return tree_map(lambda leaf, *rest: function(leaf, *rest, domain, bounds), x, *others)


def pgd(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    sign: float = 0.0,
    clip: Tree = 0.0,
    domain: Domain = "",
    bounds: Bounds = (),
) -> tuple[Tree, Tree]:
    """The point of the domain closest to x - lr g, or with `sign` to x - lr sign(g) (Madry et al. 2018, section 2.1).

    Invariant: the result is in the (closed) domain. The derivative is that of the projection, which is 0 across an
    edge; that of the sign is 0.
    """
    gradient = clipped(gradient, clip)
    along = tree_map(torch.sign, gradient) if sign else gradient
    return kept_map(lambda a, d, r, *kept: projected(a - r * d, *kept), domain, bounds, x, along, lr), state


def projected(value: Tensor, domain: str, bounds: tuple[float, ...]) -> Tensor:
    """The closest point of a domain."""
    match domain:
        case "positive" | "nonnegative":
            return torch.clamp(value, min=0.0)
        case "unit":
            return torch.clamp(value, min=0.0, max=1.0)
        case "between":
            return torch.clamp(value, min=bounds[0], max=bounds[1])
        case "simplex":
            return onto_simplex(value)
        case "psd":
            return onto_psd(value)
        case "orthogonal":
            return onto_orthogonal(value)
    return value


def onto_simplex(value: Tensor) -> Tensor:
    """The closest point of the simplex along the last axis (Held, Wolfe and Crowder 1974); cost n log n.

    The entries that stay positive are found by sorting; given them, the result is linear in `value`.
    """
    ordered = torch.sort(value.detach(), dim=-1, descending=True).values
    ranks = torch.arange(1, value.shape[-1] + 1, dtype=value.dtype, device=value.device)
    excess = (ordered.cumsum(-1) - 1.0) / ranks
    size = (ordered > excess).to(value.dtype).sum(-1, keepdim=True)
    last = torch.where(ranks == size, excess, torch.zeros_like(excess)).sum(-1, keepdim=True)
    stays = (value.detach() > last).to(value.dtype)
    shift = ((value * stays).sum(-1, keepdim=True) - 1.0) / stays.sum(-1, keepdim=True)
    return stays * (value - shift)


REFINEMENTS = 4
"""the order up to which derivatives of the projection onto matrices without negative eigenvalues are exact"""


def onto_psd(value: Tensor) -> Tensor:
    """The closest symmetric matrix without negative eigenvalues, real[..., n, n]: those of the symmetric part are cut at 0.

    Source: Higham 1988, theorem 2.1. Cost: one decomposition and some products of n x n matrices.
    Derivatives: those of eigenvectors do not exist where eigenvalues meet, that of the projection does wherever
    no eigenvalue is 0. So the eigenvectors are held, and what turns with the matrix is the space of the positive
    ones alone: [I; X] spans it in their basis, where X = 0 solves a Riccati equation. Every step of Newton's method
    from that solution leaves its value and makes one more order of derivatives exact; `REFINEMENTS` are taken, one
    for each differentiated level around and some more.
    """
    symmetric = 0.5 * (value + value.transpose(-2, -1))
    eigenvalues, basis = torch.linalg.eigh(symmetric.detach())
    least = torch.finfo(value.dtype).eps * eigenvalues.abs().amax(-1, keepdim=True)
    kept = (eigenvalues > least).to(value.dtype)
    inside = basis.transpose(-2, -1) @ symmetric @ basis
    # The eigenvalues' own matrix is diagonal but for rounding, which would be divided by small gaps.
    inside = inside - inside.detach() + torch.diag_embed(eigenvalues)
    turn = turned_space(inside, eigenvalues, kept)
    unit_matrix = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
    tilted = torch.diag_embed(kept) + turn
    space = tilted @ torch.linalg.inv(unit_matrix + turn.transpose(-2, -1) @ turn) @ tilted.transpose(-2, -1)
    closest: Tensor = basis @ (space @ inside @ space) @ basis.transpose(-2, -1)
    return closest


def turned_space(inside: Tensor, eigenvalues: Tensor, kept: Tensor) -> Tensor:
    """X with [I; X] the space that belongs to the `kept` eigenvalues of a matrix that is diagonal in value; 0 in value."""
    rows, columns = (1 - kept)[..., :, None], kept[..., None, :]
    gaps = eigenvalues[..., None, :] - eigenvalues[..., :, None]
    gaps = torch.where(rows * columns > 0, gaps, torch.ones_like(gaps))
    turn = torch.zeros_like(inside)
    for _ in range(REFINEMENTS):
        missed = inside + inside @ turn - turn @ inside - turn @ inside @ turn
        turn = turn + rows * columns * missed / gaps
    return turn


def onto_orthogonal(value: Tensor, iterations: int = 24) -> Tensor:
    """The closest orthogonal matrix, the polar factor, real[..., n, n], by Newton's iteration X <- (X + inv(X)') / 2.

    Source: Higham 1986, eq. 3.1. Singular values halve their distance from 1 until the convergence is quadratic;
    between 1e-5 and 1e5 they reach it, and the derivatives of the iterates those of the factor. The determinant
    keeps its sign. A singular matrix has no closest one: the result is then not finite.
    """
    found = value
    for _ in range(iterations):
        found = 0.5 * (found + torch.linalg.inv_ex(found).inverse.transpose(-2, -1))
    return found


def exponentiated(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    clip: Tree = 0.0,
    domain: Domain = "simplex",
    bounds: Bounds = (),
) -> tuple[Tree, Tree]:
    """Next is x exp(-lr g), scaled to sum to one in a simplex (Kivinen and Warmuth 1997, eq. 3.2)."""
    gradient = clipped(gradient, clip)
    return kept_map(lambda a, d, r, kept, _: reweighed(a, -r * d, kept), domain, bounds, x, gradient, lr), state


def reweighed(value: Tensor, exponent: Tensor, domain: str) -> Tensor:
    """Entries times exp(exponent), in a simplex by a softmax, so that nothing overflows."""
    if domain != "simplex":
        return value * torch.exp(exponent)
    weighed = value * torch.exp(exponent - exponent.detach().amax(-1, keepdim=True))
    return weighed / weighed.sum(-1, keepdim=True)


def frank_wolfe(
    x: Tree, state: Tree, gradient: Tree, count: int, domain: Domain = "simplex", bounds: Bounds = ()
) -> tuple[Tree, Tree]:
    """Next is x + 2 / (t + 2) (s - x) with s the corner where <g, s> is least (Frank and Wolfe 1956; Jaggi 2013, algorithm 1).

    The corner jumps and is flat in between, so that derivatives pass through x alone.
    """
    share = 2.0 / (count + 2.0)
    return kept_map(lambda a, d, *kept: a + share * (corner(d, *kept) - a), domain, bounds, x, gradient), state


def corner(gradient: Tensor, domain: str, bounds: tuple[float, ...]) -> Tensor:
    """The corner of a domain along which the gradient is least."""
    if domain == "simplex":
        least = gradient.argmin(-1, keepdim=True)
        places = torch.arange(gradient.shape[-1], device=gradient.device)
        return (places == least).to(gradient.dtype)
    low, high = bounds if domain == "between" else (0.0, 1.0)
    return torch.where(gradient > 0, torch.full_like(gradient, low), torch.full_like(gradient, high))
