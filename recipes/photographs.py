"""Patches of the two photographs that come with scikit-learn, as backgrounds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import bits, fold, uniform

PARTS = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}
"""Of the width of each photograph: no pixel is behind images of two splits."""

SMALLEST, LARGEST = 24, 80  # sides of a patch before it is scaled, in pixels of the photograph


def patches(split: str, size: int, keys: Tensor) -> Tensor:
    """A patch for every key, real[n, 3, size, size] in 0..1: of a random photograph, place and extent."""
    photographs = _photographs()
    low, high = PARTS[split]
    return torch.stack([_patch(photographs, low, high, size, key) for key in keys])


def _patch(photographs: list[Tensor], low: float, high: float, size: int, key: Tensor) -> Tensor:
    photograph = photographs[int(bits(fold(key, "photograph"))) % len(photographs)]
    _, height, width = photograph.shape
    extent = int(uniform(fold(key, "extent"), low=SMALLEST, high=LARGEST))
    left = int(uniform(fold(key, "left"), low=low * width, high=high * width - extent))
    top = int(uniform(fold(key, "top"), high=height - extent))
    piece = photograph[None, :, top : top + extent, left : left + extent]
    scaled = functional.interpolate(piece, size=(size, size), mode="bilinear", antialias=True)
    return scaled[0].clamp(0.0, 1.0)


def _photographs() -> list[Tensor]:
    """china.jpg and flower.jpg, real[3, 427, 640] in 0..1."""
    from sklearn.datasets import load_sample_images  # imports scipy

    return [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255.0 for image in load_sample_images().images]
