"""The leap: points between the teacher's end and the student's last iterates, and the choice among them."""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.backends.torch_func.tree import Tree, add, multiply, tree_map


def leap_points(
    teacher: Tree, student: list[Tree], gammas: tuple[float, ...], weights: tuple[tuple[float, ...], ...]
) -> list[tuple[float, Tree]]:
    """gamma * teacher + (1 - gamma) * hull, for all weights and gammas, smaller gammas first.

    The hull point is a weighted sum of the student's last iterates, which carry no derivative.
    """
    points: list[tuple[float, Tree]] = []
    for gamma in gammas:
        for weight in weights:
            hull = multiply(weight[0], student[0])
            for share, iterate in zip(weight[1:], student[1:], strict=True):
                hull = add(hull, multiply(share, iterate))
            still = tree_map(lambda a: a.detach(), hull)
            points.append((gamma, add(multiply(gamma, teacher), multiply(1.0 - gamma, still))))
    return points


def leap_choice(points: list[tuple[float, Tree]], scores: Tensor, ties: Tensor, depth: int) -> tuple[Tree, Tensor]:
    """For every copy the point with the smallest score; then the smallest tie; then the first, of smallest gamma.

    Shapes: scores and ties real[points, *copies]; the result is shaped like a point, with gamma real[*copies].
    """
    best = scores.amin(0, keepdim=True)
    level = torch.where(scores <= best, ties, torch.full_like(ties, torch.inf))
    place = torch.argmin(level, 0)  # the first of several smallest
    gammas = torch.as_tensor([gamma for gamma, _ in points], dtype=scores.dtype, device=scores.device)

    def pick(*values: Tensor) -> Tensor:
        stacked = torch.stack(values)
        index = place.reshape(1, *place.shape, *(1,) * (stacked.dim() - 1 - depth)).expand(1, *stacked.shape[1:])
        return stacked.gather(0, index)[0]

    return tree_map(pick, points[0][1], *(point for _, point in points[1:])), gammas[place]


def scaled_each(factor: Tensor, tree: Tree) -> Tree:
    """Every copy of a tree times its own factor, real[*copies]."""
    return tree_map(lambda a: factor.reshape(factor.shape + (1,) * (a.dim() - factor.dim())) * a, tree)
