"""Characters in colour on photographs: small scenes, in place of CIFAR-10 as a second source of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key, uniform
from bilevel.dsl.datatypes import Records, integer, real, record, records
from bilevel.recipes import photographs, warps
from bilevel.recipes.glyph_store import images_of, some_classes
from bilevel.recipes.photographs import patches
from bilevel.recipes.records import Samples, SampleSplits, bad_argument, require_positive
from bilevel.recipes.store import Advance, Kept, kept
from bilevel.recipes.warps import shaken
from bilevel.registry import data

SPLITS = ("train", "val", "test")
SHARES = (0.6, 0.2, 0.2)
CONTRAST = 0.35  # least difference of brightness between a character and the patch behind it
BRIGHTNESS = (0.299, 0.587, 0.114)


def _scenes(length: str) -> Records:
    return records(length, x=real("channels", "size", "size"), y=integer())


@data(yields=record(train=_scenes("?"), val=_scenes("?"), test=_scenes("?")))
def glyph_scenes(size: int = 32, channels: int = 3, classes: int = 10, per_class: int = 300) -> SampleSplits:
    """Characters in colour on patches of two photographs, x real[n, channels, size, size] in 0..1, y int64[n].

    `classes` characters at even distances among those of `glyphs`' training alphabets, each written `per_class`
    times; 60 % of them are train, 20 % val, 20 % test, by writers of their own and in front of parts of the
    photographs of their own. `channels = 1` is the brightness. Cost: made once, a few seconds, and kept.
    """
    require_positive("glyph_scenes", {"size": size, "classes": classes})
    if channels not in (1, 3):
        raise bad_argument("glyph_scenes", "channels", "1 or 3", channels)
    if per_class < 5:
        raise bad_argument("glyph_scenes", "per_class", "5 or more, for three splits", per_class)
    codes = some_classes(classes)["train"]
    if len(codes) < classes:
        raise bad_argument("glyph_scenes", "classes", f"at most {len(codes)}", classes)
    scenes = _kept_scenes(tuple(codes), per_class, size)
    return SampleSplits(*(_samples(some, channels) for some in scenes))


def _samples(scenes: Tensor, channels: int) -> Samples:
    """Samples of uint8[classes, n, 3, size, size]."""
    x = scenes.flatten(0, 1).to(torch.get_default_dtype()) / 255.0
    labels = torch.arange(len(scenes)).repeat_interleave(scenes.shape[1])
    return Samples(x if channels == 3 else brightness(x), labels)


def brightness(images: Tensor) -> Tensor:
    """Grey of colour, real[..., 1, h, w] of real[..., 3, h, w]."""
    weights = torch.tensor(BRIGHTNESS, dtype=images.dtype)[:, None, None]
    return (images * weights).sum(-3, keepdim=True)


def _kept_scenes(codes: tuple[int, ...], per_class: int, size: int) -> tuple[Tensor, ...]:
    """uint8[classes, n, 3, size, size] of each split."""
    from bilevel.recipes import glyph_classes, glyph_writers  # they import what draws

    sources = [glyph_classes.__file__, glyph_writers.__file__, photographs.__file__, warps.__file__, __file__]
    depends = f"{codes} {per_class} {size}"
    entry = Kept("glyph_scenes", "scenes", "painting", depends, sources, SPLITS, len(codes) * per_class)
    first, second = (round(sum(SHARES[: i + 1]) * per_class) for i in range(2))
    glyphs = images_of("glyph_scenes_characters", codes, per_class)

    def paint(advance: Advance) -> list[Tensor]:
        parts = glyphs.tensor_split([first, second], dim=1)
        return [_paint(split, part, size, advance) for split, part in zip(SPLITS, parts, strict=True)]

    return kept(entry, paint)


def _paint(split: str, glyphs: Tensor, size: int, advance: Advance) -> Tensor:
    """Scenes of the characters uint8[classes, n, 28, 28] of one split, class by class."""
    made = []
    for label, images in enumerate(glyphs):
        keys = fold(fold(make_key(0), "scenes", split, label), torch.arange(len(images)))
        ink = functional.interpolate(images[:, None].double() / 255.0, size=(size, size), mode="bilinear")
        ink = shaken(ink, fold(keys, "place"), angle=10.0, scale=0.15, shift=0.15).clamp(0.0, 1.0)
        behind = patches(split, size, fold(keys, "patch")).double()
        scene = behind + ink * (_colours(keys, behind)[..., None, None] - behind)
        made.append((scene.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8))
        advance(len(images))
    return torch.stack(made)


def _colours(keys: Tensor, behind: Tensor) -> Tensor:
    """A colour for each patch, real[n, 3], brighter or darker than its mean by `CONTRAST` or more."""
    colour = uniform(fold(keys, "colour"), 3, dtype=torch.float64)
    weights = torch.tensor(BRIGHTNESS, dtype=torch.float64)
    ground, own = behind.mean((-1, -2)) @ weights, colour @ weights
    wanted = torch.where(ground < 0.5, torch.maximum(own, ground + CONTRAST), torch.minimum(own, ground - CONTRAST))
    # Towards white or black as far as is needed, which keeps the hue.
    towards = (wanted > own).double()
    far = ((wanted - own) / (towards - own + 1e-9)).clamp(0.0, 1.0)
    return colour + far[:, None] * (towards[:, None] - colour)
