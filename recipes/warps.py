"""Images moved, turned and scaled, each by its own amount."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, uniform


def turned(images: Tensor, degrees: float) -> Tensor:
    """Images real[n, c, h, w] turned counter-clockwise about their middle; 0 comes in from outside."""
    angle = torch.full((len(images),), math.radians(degrees), dtype=images.dtype)
    zero = torch.zeros_like(angle)
    return placed(images, angle, zero + 1.0, zero, zero)


def placed(images: Tensor, angle: Tensor, scale: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Each image turned by `angle` radians, made `scale` times as large, then moved, in half sizes of the image."""
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = (
        torch.stack([cosine, -sine, sine * down - cosine * right], -1),
        torch.stack([sine, cosine, -sine * right - cosine * down], -1),
    )
    grid = functional.affine_grid(torch.stack(rows, -2), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def shaken(images: Tensor, keys: Tensor, angle: float, scale: float, shift: float) -> Tensor:
    """Each image turned up to `angle` degrees, scaled within `scale` and moved within `shift`, by a key of its own."""

    def around(name: str, width: float) -> Tensor:
        return uniform(fold(keys, name), low=-width, high=width, dtype=images.dtype)

    moved = (around("right", shift), around("down", shift))
    return placed(images, around("angle", math.radians(angle)), 1.0 + around("scale", scale), *moved)
