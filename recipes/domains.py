"""Domains: one data set seen in several ways, between which a method has to generalise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key, permutation, uniform
from bilevel.dsl.datatypes import ListType, Records, integer, real, record, records
from bilevel.recipes import photographs
from bilevel.recipes.digits import digits
from bilevel.recipes.glyph_store import images_of
from bilevel.recipes.photographs import patches
from bilevel.recipes.records import Samples, SampleSplits, bad_argument, require_positive
from bilevel.recipes.store import Advance, Kept, kept
from bilevel.recipes.warps import turned
from bilevel.registry import data, tasks

DOMAIN = records("?", x=real("?", "?", "?"), y=integer())
SPLITS = ("train", "val", "test")


def split_of(part: str, data: SampleSplits, split: str) -> Samples:
    """One split of a data set by its name."""
    if split not in SPLITS:
        raise bad_argument(part, "split", '"train", "val" or "test"', split)
    chosen: Samples = getattr(data, split)
    return chosen


@data(yields=ListType((DOMAIN,), "?"))
def rotated(data: SampleSplits, angles: Sequence[float], split: str = "train") -> list[Samples]:
    """A data set once for every angle, in degrees counter-clockwise; bilinear, 0 from outside.

    All domains have the same images of one `split`, as in Ghifary et al. 2015 (in DomainBed each image is in one
    domain only; 1,083 digits are too few for that). Source: papers/002, section 4.4.1. Cost: the data again for
    every angle.
    """
    if not angles:
        raise bad_argument("rotated", "angles", "a list of degrees", list(angles))
    samples = split_of("rotated", data, split)
    return [Samples(turned(samples.x, float(angle)).clamp(0.0, 1.0), samples.y) for angle in angles]


COLOURED = records("?", x=real(2, "?", "?"), y=integer())


@data(yields=ListType((COLOURED,), "?"))
def coloured(
    data: SampleSplits, correlations: Sequence[float], noise: float = 0.25, split: str = "train"
) -> list[Samples]:
    """Two classes whose colour agrees with the label more or less often: a domain for every correlation.

    The label is 1 for the upper half of the classes, wrong for a share `noise` of the images; the colour is the
    label for a share `correlation` of them, else the other one. x real[n, 2, h, w], red where the colour is 0, green
    where it is 1. The images of the split are dealt out to the domains, so that none is in two. Source: Arjovsky et
    al. 2019 (there 0.9, 0.8, 0.1), papers/002, table 4.1. Cost: twice the data.
    """
    samples = split_of("coloured", data, split)
    for name, shares in (("correlations", list(correlations)), ("noise", [noise])):
        if not shares or not all(0.0 <= share <= 1.0 for share in shares):
            raise bad_argument("coloured", name, "between 0 and 1", shares)
    if samples.x.shape[1] != 1:
        raise bad_argument("coloured", "data", "grey images", f"{samples.x.shape[1]} channels")
    order = permutation(fold(make_key(0), "coloured", split), len(samples.y))
    key = fold(make_key(0), "coloured", split, "domain")
    half = (int(samples.y.max()) + 1) // 2
    return [
        _colour(Samples(samples.x[chosen], (samples.y[chosen] >= half).long()), share, noise, fold(key, place))
        for place, (chosen, share) in enumerate(zip(order.chunk(len(correlations)), correlations, strict=True))
    ]


def _colour(samples: Samples, correlation: float, noise: float, key: Tensor) -> Samples:
    """Labels wrong for exactly a share `noise`, colours unlike the label for exactly a share 1 - `correlation`."""
    label = samples.y ^ _marked(fold(key, "label"), len(samples.y), noise)
    colour = label ^ _marked(fold(key, "colour"), len(label), 1.0 - correlation)
    return Samples(samples.x * functional.one_hot(colour, 2)[..., None, None].to(samples.x), label)


def _marked(key: Tensor, count: int, share: float) -> Tensor:
    """1 for round(share * count) positions, 0 for the others."""
    marks = torch.zeros(count, dtype=torch.int64)
    marks[permutation(key, count)[: round(share * count)]] = 1
    return marks


# ---- sources of digits ---------------------------------------------------------------------------------------

PRINTED = 180  # writers of each printed digit: 1,800 images, as many as are written by hand


def _splits(size: str) -> Records:
    return records("?", x=real(1, size, size), y=integer())


SOURCE = record(train=_splits("size"), val=_splits("size"), test=_splits("size"))


@tasks(yields=ListType((SOURCE,), "?"))
def digit_sources(
    size: int = 28, sources: Sequence[str] = ("handwritten", "printed", "handwritten_on_photos", "printed_on_photos")
) -> list[SampleSplits]:
    """Sources of grey digits of one size that look unlike each other, in place of MNIST, USPS, SVHN and the like.

    "handwritten" is `digits`; "printed" are the characters 0-9 in sixteen fonts, distorted as `glyphs` are; "..._on_photos"
    blends these with patches of two photographs, other ones in each split, by the absolute difference as in MNIST-M.
    Name some to hold one out. Source: papers/002, section 5.6.2 (DiverseDigits). Cost: printed digits and patches are made once,
    in seconds, and kept.
    """
    require_positive("digit_sources", {"size": size})
    makers = _makers(size)
    unknown = [name for name in sources if name not in makers]
    if unknown or not sources:
        raise bad_argument("digit_sources", "sources", f"some of {', '.join(makers)}", unknown)
    return [makers[name]() for name in sources]


def _makers(size: int) -> dict[str, Callable[[], SampleSplits]]:
    return {
        "handwritten": lambda: digits(size),
        "printed": lambda: printed_digits(size),
        "handwritten_on_photos": lambda: _on_photos(digits(size)),
        "printed_on_photos": lambda: _on_photos(printed_digits(size)),
    }


def printed_digits(size: int) -> SampleSplits:
    """The characters 0-9 by 180 writers: 108 of each in train, 36 in val and in test; x real[n, 1, size, size]."""
    images = images_of("digit_sources", [ord("0") + label for label in range(10)], PRINTED)
    grey = images.reshape(-1, 1, *images.shape[-2:]).float() / 255.0
    resized = functional.interpolate(grey, size=(size, size), mode="bilinear", antialias=True).clamp(0.0, 1.0)
    labels, writer = torch.arange(10).repeat_interleave(PRINTED), torch.arange(PRINTED).repeat(10)
    fifth = 5 * writer // PRINTED
    return SampleSplits(*(Samples(resized[some], labels[some]) for some in (fifth < 3, fifth == 3, fifth == 4)))


def _on_photos(splits: SampleSplits) -> SampleSplits:
    return SampleSplits(*(_blended(samples, name) for name, samples in splits._asdict().items()))


def _blended(samples: Samples, split: str) -> Samples:
    size = samples.x.shape[-1]
    keys = fold(make_key(0), "on photos", split, torch.arange(len(samples.y)))
    grey = _grey_patches(split, size, keys).to(samples.x) / 255.0
    strength = uniform(fold(keys, "strength"), 1, 1, 1, low=0.7, high=1.0)
    return Samples((grey - strength * samples.x).abs(), samples.y)


def _grey_patches(split: str, size: int, keys: Tensor) -> Tensor:
    """A patch of a photograph for every key, uint8[n, 1, size, size]; cut once and kept."""
    depends = f"{split} {size} {keys.tolist()}"
    entry = Kept("photo_patches", "patches", "cutting", depends, (photographs.__file__, __file__), ("grey",), len(keys))

    def cut(advance: Advance) -> list[Tensor]:
        grey = (patches(split, size, keys).mean(1, keepdim=True) * 255.0).round().to(torch.uint8)
        advance(len(keys))
        return [grey]

    (grey,) = kept(entry, cut)
    return grey
