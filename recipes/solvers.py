"""Registered solvers and estimators of the package: sign-based steps (Bello et al. 2017; baselines of papers/002, chapter 5).

Written as a user's own would be: one function of one tensor, pure and in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

import bilevel
from bilevel.backends.torch_func.tree import Tree, add, multiply, tree_map
from bilevel.backends.torch_func.zeroth import directions_like


def no_momentum(x: Tensor) -> Tensor:
    """The running mean of gradients before the first step."""
    return torch.zeros_like(x)


@bilevel.solver(begin=no_momentum)
def powersign(
    x: Tensor,
    state: Tensor,
    gradient: Tensor,
    count: int,
    lr: Tensor,
    beta: Tensor | float = 0.9,
    alpha: Tensor | float = 2.718281828459045,
) -> tuple[Tensor, Tensor]:
    """x - lr alpha^(sign(g) sign(m)) g, m the running mean of gradients (Bello et al. 2017, with f(t) = 1).

    Steps are long where a gradient agrees with its mean, short where not. The derivative of a sign is 0.
    """
    mean = beta * state + (1 - beta) * gradient
    agreement = torch.sign(gradient) * torch.sign(mean)
    return x - lr * alpha**agreement * gradient, mean


@bilevel.solver(begin=no_momentum)
def addsign(
    x: Tensor,
    state: Tensor,
    gradient: Tensor,
    count: int,
    lr: Tensor,
    beta: Tensor | float = 0.9,
    alpha: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """x - lr (alpha + sign(g) sign(m)) g, m the running mean of gradients (Bello et al. 2017, with f(t) = 1)."""
    mean = beta * state + (1 - beta) * gradient
    agreement = torch.sign(gradient) * torch.sign(mean)
    return x - lr * (alpha + agreement) * gradient, mean


@bilevel.estimator
def two_sided(
    losses: Callable[[Tree], Tensor], x: Tree, key: Tensor, samples: int, radius: float
) -> tuple[Tree, Tensor]:
    """The mean over directions u of u (f(x + r u) - f(x - r u)) / 2r (Nesterov and Spokoiny 2017).

    Against `zeroth` it takes twice the values, and its error in the radius is of the second order.
    """
    directions = directions_like(x, key, samples)

    def slope(u: Tree) -> Tensor:
        ahead, behind = losses(add(x, multiply(radius, u))), losses(add(x, multiply(-radius, u)))
        return (ahead - behind) / (2 * radius * samples)

    slopes = vmap(slope)(directions)

    def weighed(u: Tensor) -> Tensor:
        return (slopes.reshape(slopes.shape + (1,) * (u.dim() - slopes.dim())) * u).sum(0)

    return tree_map(weighed, directions), losses(x)
