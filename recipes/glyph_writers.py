"""Draws the images of `glyphs`: each class by writers who differ in font, slant, size, place, tremor and pen.

Input: code points; output: uint8 images. An image depends on its code point and its writer's number only, so that
more classes or more writers leave the others as they are. Keeps nothing: see `glyph_store`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key, uniform
from bilevel.recipes.glyph_classes import Pen, fit, fonts_of

SIZE = 28
FINE = 2 * SIZE  # drawn at twice the size, then averaged: grey edges without jagged steps
INK = 40  # the larger side of the ink, in fine pixels
PEN_PIXELS = 64  # size of a font when drawn, in pixels per em

ROTATION = math.radians(12.0)
SHEAR = 0.15
SCALE = 0.12
SHIFT = 0.06  # in half sizes of the image, as torch counts places: -1 is one edge and 1 the other
ELASTIC = 0.10  # largest displacement at the knots, in half sizes
KNOTS = 4  # per axis
THINNEST, BOLDEST = 0.55, 0.25  # threshold on the blurred ink: a high one leaves the middle of the strokes
EDGE = 0.25  # grey levels around the threshold that stay grey
BLUR = 1.0  # deviation, in fine pixels

CLASSES_AT_ONCE = 20


def draw_classes(codes: Sequence[int], writers: int, advance: Callable[[int], None]) -> Tensor:
    """Images of all classes by all writers, uint8[classes, writers, 28, 28], ink 255 on 0.

    `advance` is told how many more images are ready. Cost: about 0.5 ms an image on one core.
    """
    fonts = fonts_of(codes)
    pens = {name: Pen(name, PEN_PIXELS) for name in sorted({name for names in fonts.values() for name in names})}
    drawn = []
    for start in range(0, len(codes), CLASSES_AT_ONCE):
        some = codes[start : start + CLASSES_AT_ONCE]
        inks = torch.stack([_inks(code, [pens[name] for name in fonts[code]], writers) for code in some])
        drawn.append(write(inks, writer_keys(some, writers)))
        advance(len(some) * writers)
    return torch.cat(drawn)


def writer_keys(codes: Sequence[int], writers: int) -> Tensor:
    """The key of every image, int64[classes, writers]; part of the data set, not of a run."""
    return fold(fold(fold(make_key(0), "glyphs"), torch.tensor(codes)), torch.arange(writers))


def _inks(code: int, pens: Sequence[Pen], writers: int) -> Tensor:
    """What each writer sees: the character in one font after the other, uint8[writers, FINE, FINE]."""
    inks = [ink for ink in (pen.draw(code) for pen in pens) if ink.size]
    fitted = torch.from_numpy(np.stack([fit(ink, INK, FINE) for ink in inks]))
    return fitted[torch.arange(writers) % len(inks)]


def write(inks: Tensor, keys: Tensor) -> Tensor:
    """Distorted images of `inks`, uint8[..., 28, 28] of uint8[..., FINE, FINE]; one key for each.

    In float64: sums that depend on the number of threads or of images at once then round to the same bytes.
    """
    flat, key = inks.reshape(-1, 1, FINE, FINE).double() / 255.0, keys.reshape(-1)
    places = _affine(key) + _elastic(key)
    warped = functional.grid_sample(_blur(flat), places, mode="bilinear", align_corners=False)
    threshold = uniform(fold(key, "pen"), 1, 1, 1, low=BOLDEST, high=THINNEST, dtype=torch.float64)
    sharp = ((warped - threshold) / EDGE + 0.5).clamp(0.0, 1.0)
    return (functional.avg_pool2d(sharp, 2) * 255.0).round().to(torch.uint8).reshape(*keys.shape, SIZE, SIZE)


def _affine(key: Tensor) -> Tensor:
    """Where each fine pixel looks, by rotation, shear, scale and shift: real[n, FINE, FINE, 2] in -1..1."""

    def around(name: str, width: float) -> Tensor:
        return uniform(fold(key, name), low=-width, high=width, dtype=torch.float64)

    angle, shear = around("rotation", ROTATION), around("shear", SHEAR)
    wide, high = 1.0 + around("width", SCALE), 1.0 + around("height", SCALE)
    right, down = around("right", SHIFT), around("down", SHIFT)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack([cosine / wide, (shear * cosine - sine) / wide, right], -1),
        torch.stack([sine / high, (shear * sine + cosine) / high, down], -1),
    )
    return functional.affine_grid(torch.stack(rows, -2), [len(key), 1, FINE, FINE], align_corners=False)


def _elastic(key: Tensor) -> Tensor:
    """A smooth random displacement, real[n, FINE, FINE, 2]: drawn at the knots, cubic between them."""
    knots = uniform(fold(key, "elastic"), 2, KNOTS, KNOTS, low=-ELASTIC, high=ELASTIC, dtype=torch.float64)
    smooth = functional.interpolate(knots, size=(FINE, FINE), mode="bicubic", align_corners=True)
    return smooth.permute(0, 2, 3, 1)


def _blur(images: Tensor) -> Tensor:
    """Gaussian blur, one axis after the other."""
    offsets = torch.arange(-3, 4, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / BLUR).square())
    weights = weights / weights.sum()
    across = functional.conv2d(images, weights.reshape(1, 1, 1, -1), padding=(0, 3))
    return functional.conv2d(across, weights.reshape(1, 1, -1, 1), padding=(3, 0))
