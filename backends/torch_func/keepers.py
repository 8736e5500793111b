"""Solvers that step in the variable's own coordinates and keep its domain themselves.

A simplex is the last axis of an array; leading axes, copies among them, are so many simplices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.backends.torch_func.solvers import clipped
from bilevel.backends.torch_func.tree import Tree, tree_map

Bounds = tuple[float, ...]


def pgd(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    sign: float = 0.0,
    clip: Tree = 0.0,
    domain: str = "",
    bounds: Bounds = (),
) -> tuple[Tree, Tree]:
    """The point of the domain closest to x - lr g, or with `sign` to x - lr sign(g) (Madry et al. 2018, section 2.1).

    Invariant: the result is in the (closed) domain. The derivative is that of the projection, which is 0 across an
    edge; that of the sign is 0.
    """
    gradient = clipped(gradient, clip)
    along = tree_map(torch.sign, gradient) if sign else gradient
    return tree_map(lambda a, d, r: projected(a - r * d, domain, bounds), x, along, lr), state


def projected(value: Tensor, domain: str, bounds: Bounds) -> Tensor:
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


def exponentiated(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    clip: Tree = 0.0,
    domain: str = "simplex",
    bounds: Bounds = (),
) -> tuple[Tree, Tree]:
    """Next is x exp(-lr g), scaled to sum to one in a simplex (Kivinen and Warmuth 1997, eq. 3.2)."""
    return tree_map(lambda a, d, r: reweighed(a, -r * d, domain), x, clipped(gradient, clip), lr), state


def reweighed(value: Tensor, exponent: Tensor, domain: str) -> Tensor:
    """Entries times exp(exponent), in a simplex by a softmax, so that nothing overflows."""
    if domain != "simplex":
        return value * torch.exp(exponent)
    weighed = value * torch.exp(exponent - exponent.detach().amax(-1, keepdim=True))
    return weighed / weighed.sum(-1, keepdim=True)


def frank_wolfe(
    x: Tree, state: Tree, gradient: Tree, count: int, domain: str = "simplex", bounds: Bounds = ()
) -> tuple[Tree, Tree]:
    """Next is x + 2 / (t + 2) (s - x) with s the corner where <g, s> is least (Frank and Wolfe 1956; Jaggi 2013, algorithm 1).

    The corner jumps and is flat in between, so that derivatives pass through x alone.
    """
    share = 2.0 / (count + 2.0)
    return tree_map(lambda a, d: a + share * (corner(d, domain, bounds) - a), x, gradient), state


def corner(gradient: Tensor, domain: str, bounds: Bounds) -> Tensor:
    """The corner of a domain along which the gradient is least."""
    if domain == "simplex":
        least = gradient.argmin(-1, keepdim=True)
        places = torch.arange(gradient.shape[-1], device=gradient.device)
        return (places == least).to(gradient.dtype)
    low, high = bounds if domain == "between" else (0.0, 1.0)
    return torch.where(gradient > 0, torch.full_like(gradient, low), torch.full_like(gradient, high))
