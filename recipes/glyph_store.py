"""The images of `glyphs`, drawn once and kept in the cache folder.

Output: uint8 images of the three splits, or of some characters. The kept file's name holds all that the images depend
on, so a new FreeType draws a new file. What draws, with Pillow and matplotlib, is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.recipes.store import Advance, Kept, kept


class GlyphImages(NamedTuple):
    """Images uint8[classes, writers, 28, 28] of each split, ink 255 on 0; no class is in two splits."""

    train: Tensor
    val: Tensor
    test: Tensor


def glyph_images(writers: int = 20, classes: int | None = None) -> GlyphImages:
    """The images, from the cache folder, or drawn and kept there; `classes` takes that many of each split.

    Cost: drawing about 20 s for the full set on one core, reading 0.3 s; 9 MB on disk, 30 MB in memory.
    Fails when: the cache folder cannot be written to (B608).
    """
    from bilevel.recipes import glyph_writers

    codes = some_classes(classes)

    def draw(advance: Advance) -> Sequence[Tensor]:
        return [glyph_writers.draw_classes(some, writers, advance) for some in codes.values()]

    count = sum(len(some) for some in codes.values()) * writers
    return GlyphImages(*kept(_entry("glyphs", f"{sorted(codes.items())} {writers}", GlyphImages._fields, count), draw))


def images_of(name: str, codes: Sequence[int], writers: int) -> Tensor:
    """Images uint8[codes, writers, 28, 28] of some characters, for the data set `name`; kept as `glyph_images` are."""
    from bilevel.recipes import glyph_writers

    entry = _entry(name, f"{list(codes)} {writers}", ("images",), len(codes) * writers)

    def draw(advance: Advance) -> list[Tensor]:
        # One class at a time: hundreds of writers of twenty classes at once would take gigabytes.
        return [torch.cat([glyph_writers.draw_classes([code], writers, advance) for code in codes])]

    (images,) = kept(entry, draw)
    return images


def some_classes(classes: int | None) -> dict[str, Sequence[int]]:
    """Code points of each split: all, or `classes` of them at even distances, so that alphabets stay mixed."""
    from bilevel.recipes import glyph_classes

    every = glyph_classes.read_classes()
    if classes is None:
        return dict(every)
    return {
        split: [codes[i * len(codes) // classes] for i in range(classes)] if classes < len(codes) else codes
        for split, codes in every.items()
    }


def _entry(name: str, depends: str, fields: Sequence[str], count: int) -> Kept:
    """Classes and writers, the code that draws, fonts, FreeType."""
    from PIL import features

    from bilevel.recipes import glyph_classes, glyph_writers

    fonts = [glyph_classes.font_path(font) for font in glyph_classes.FONTS]
    sources: list[Path | str] = [glyph_classes.__file__, glyph_writers.__file__, *fonts]
    text = f"{depends} {features.version('freetype2')}"
    return Kept(name, "images", "drawing", text, sources, fields, count)
